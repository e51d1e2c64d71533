package main

import (
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

// durationVar is a flag for a duration as the configuration has them, with days.
func durationVar(f *pflag.FlagSet, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	f.Var((*durationFlag)(to), name, usage)
}

type durationFlag time.Duration

func (d *durationFlag) String() string {
	const day = 24 * time.Hour
	if whole := time.Duration(*d); whole >= day && whole%day == 0 {
		return strconv.Itoa(int(whole/day)) + "d"
	}
	return time.Duration(*d).String()
}

func (d *durationFlag) Type() string { return "duration" }

func (d *durationFlag) Set(text string) error {
	parsed, err := config.ParseDuration(text)
	if err == nil {
		*d = durationFlag(parsed)
	}
	return err
}
