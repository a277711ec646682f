//go:build !unix

package pgserver

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// The package compiles everywhere, so that programs that offer a private server
// as an option do too, but it works on Unix only.

type account struct {
	uid, gid int
}

func serverAccount() (*account, error) {
	return nil, fmt.Errorf("a private PostgreSQL server on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (a *account) reaches(string) bool { return true }

func sysProcAttr(*account) *syscall.SysProcAttr { return nil }

func (p *process) killGroup() { p.cmd.Process.Kill() }

// Kill kills all processes of the server at once.
func (s *Server) Kill() error { return errors.ErrUnsupported }
