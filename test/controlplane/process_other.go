//go:build unix && !linux

package controlplane

import (
	"errors"
	"syscall"
)

// childAttributes put a child into a group of its own. The keeper kills the group when this process ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func confine(*syscall.SysProcAttr, string, int) error {
	return errors.New("a root folder of its own needs Linux")
}
