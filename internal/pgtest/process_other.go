//go:build !linux && !darwin && !freebsd

package pgtest

import (
	"errors"
	"os"
	"os/exec"
)

const (
	supported = false
	dirPrefix = ""
)

var errUnsupported = errors.New("pgtest: not on this system")

type owner struct{}

func serverOwner() (*owner, error)                   { return nil, errUnsupported }
func (o *owner) String() string                      { return "" }
func (o *owner) chown(string) error                  { return errUnsupported }
func (o *owner) apply(cmd *exec.Cmd)                 {}
func (o *owner) noEntry(err error, dir string) error { return err }
func defaultParent() string                          { return os.TempDir() }
func sweepOnce(string)                               {}
func ownFile(string) bool                            { return false }
func lockDir(string) (*os.File, error)               { return nil, errUnsupported }

type process struct {
	pid  int
	done chan struct{}
	err  error
}

func spawn(*exec.Cmd, *owner) (*process, error) { return nil, errUnsupported }
func (p *process) interrupt()                   {}
func (p *process) quit()                        {}
func (p *process) kill()                        {}
