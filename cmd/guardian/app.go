package main

import (
	"fmt"
	"io"

	"github.com/canary-guardian/guardian/internal/printable"
)

// app is what every command works with.
type app struct {
	name        string // how the user calls it: "guardian" or "kubectl guardian"
	in          io.Reader
	out, errOut io.Writer
	connect     func(clusterFlags) (*cluster, error)
}

// reach is the cluster that the flags name. One that cannot be reached says nothing
// about what was asked, whatever the command.
func (a *app) reach(flags clusterFlags) (*cluster, error) {
	if err := checkNamespace(flags.namespace); err != nil {
		return nil, orUnknown(err)
	}
	c, err := a.connect(flags)
	return c, orUnknown(err)
}

// say prints a line. Much of it others have written: see package printable.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.out, printable.Line(fmt.Sprintf(format, args...)))
}

// warn is the same of what stands in the way of an answer.
func (a *app) warn(err error) {
	fmt.Fprintln(a.errOut, "Warning: "+printable.Error(err))
}
