package controlplane

import (
	"os"
	"syscall"
)

// childAttributes put a child into a group of its own and have the kernel kill it with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// confine gives a child a root folder and a user of its own. Who is not root can do so in a user namespace, in which
// the user that is asked for is this one.
func confine(attributes *syscall.SysProcAttr, root string, user int) error {
	attributes.Chroot = root
	if os.Geteuid() == 0 {
		attributes.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}
		return nil
	}
	attributes.Cloneflags = syscall.CLONE_NEWUSER
	attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Geteuid(), Size: 1}}
	attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getegid(), Size: 1}}
	return nil
}
