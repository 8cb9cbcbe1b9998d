//go:build !unix

package pgpooled

import "syscall"

// Elsewhere the liveness of an idle session is probed by a short read.
const canPeek = false

func peek(syscall.RawConn) error { return nil }
