package controlplane

import "syscall"

// childAttributes put a child into a group of its own and have the kernel kill it with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
