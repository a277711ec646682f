//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// isolate gives a command that is yet to start a process group of its own, so that a signal reaches all that it starts,
// and the terminal's Ctrl-C does not reach it.
func isolate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// terminate asks the process group of a command to end.
func terminate(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }

// kill ends what there is of the process group of a command. Call it as soon as the command was waited for: when
// nothing is left of the group, its number is free for another one.
func kill(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
