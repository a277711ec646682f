//go:build unix

package pgserver

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the unprivileged user that the server runs as. It is nil when that
// is the user of this program.
type account struct {
	uid, gid int
}

// serverAccount returns the user that takes the place of root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &account{uid: uid, gid: gid}, nil
}

// reaches says whether the account may enter the directory and all above it.
func (a *account) reaches(dir string) bool {
	if a == nil {
		return true
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		fi, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st := fi.Sys().(*syscall.Stat_t)
		search := os.FileMode(0o001)
		switch {
		case int(st.Uid) == a.uid:
			search = 0o100
		case int(st.Gid) == a.gid:
			search = 0o010
		}
		if fi.Mode()&search == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

func sysProcAttr(acct *account) *syscall.SysProcAttr {
	// A process group of its own keeps the terminal's Ctrl-C away from the
	// server until the program is done with it and calls Stop.
	attr := &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(attr)
	if acct != nil {
		attr.Credential = &syscall.Credential{Uid: uint32(acct.uid), Gid: uint32(acct.gid)}
	}
	return attr
}

// Kill kills all processes of the server at once (kill -9), as the end of the machine's power does but for what the
// kernel has not written. Its directory stays, for Resume.
func (s *Server) Kill() error {
	postmaster := s.proc.cmd.Process.Pid
	// Stopped first, or it would start new processes in place of those that end.
	if err := s.proc.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(postmaster)
	for _, pid := range append(children, postmaster) {
		syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	<-s.proc.done
	return err
}

// childrenOf returns the processes that a process has started and that have not ended.
func childrenOf(parent int) (children []int, err error) {
	out, err := exec.Command("ps", "-A", "-o", "ppid=", "-o", "pid=").Output()
	for line := range strings.Lines(string(out)) {
		var ppid, pid int
		if n, _ := fmt.Sscan(line, &ppid, &pid); n == 2 && ppid == parent {
			children = append(children, pid)
		}
	}
	return children, err
}

// killGroup kills the process and those it started, as far as they stayed in
// its process group.
func (p *process) killGroup() {
	select {
	case <-p.done: // the group's number may belong to somebody else by now
	default:
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
}
