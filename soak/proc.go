package main

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// The proxies run in this process, and their goroutines and sockets linger
// after a cut. Neither says anything of pgpooled, so both are left out.

// goroutines counts those of the pools and of the callers: all but the proxies'.
func goroutines(buf []runtime.StackRecord) (int, []runtime.StackRecord) {
	n, ok := runtime.GoroutineProfile(buf)
	for !ok {
		buf = make([]runtime.StackRecord, 2*n)
		n, ok = runtime.GoroutineProfile(buf)
	}
	count := 0
	for i := range n {
		if !isProxy(buf[i].Stack()) {
			count++
		}
	}
	return count, buf
}

func isProxy(stack []uintptr) bool {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/internal/faultnet.") {
			return true
		}
		if !more {
			return false
		}
	}
}

var errNoProc = errors.New("no /proc: file descriptors are not counted on this system")

// openFDs counts this process's file descriptors but for the sockets of the
// proxies: those with a proxy's port at their own end, and those that lead to
// the server.
func openFDs(proxies []int, server int) (int, error) {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, errNoProc
	}
	theirs, err := proxySockets(proxies, server)
	if err != nil {
		return 0, err
	}
	count := 0
	for _, e := range dir {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil { // the one of ReadDir itself
			continue
		}
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		if isSocket && theirs[strings.TrimSuffix(inode, "]")] {
			continue
		}
		count++
	}
	return count, nil
}

func proxySockets(proxies []int, server int) (map[string]bool, error) {
	f, err := os.Open("/proc/self/net/tcp")
	if err != nil {
		return nil, errNoProc
	}
	defer f.Close()
	theirs := make(map[string]bool)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local rem st queues tr retrnsmt uid timeout inode ...
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		local, remote := port(fields[1]), port(fields[2])
		for _, p := range proxies {
			if local == p {
				theirs[fields[9]] = true
			}
		}
		if remote == server {
			theirs[fields[9]] = true
		}
	}
	return theirs, lines.Err()
}

// port reads 0100007F:1F90.
func port(address string) int {
	_, hex, _ := strings.Cut(address, ":")
	n, err := strconv.ParseInt(hex, 16, 32)
	if err != nil {
		return -1
	}
	return int(n)
}

// heapMB is the heap in use after a collection.
func heapMB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
