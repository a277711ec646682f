//go:build unix && !linux

package pgserver

import "syscall"

// dieWithParent does nothing: this needs Linux.
func dieWithParent(*syscall.SysProcAttr) {}
