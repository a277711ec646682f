package pgserver

import "syscall"

// dieWithParent makes the kernel send the server the signal for an immediate
// shutdown when the thread that started it ends; see startProcess.
func dieWithParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGQUIT
}
