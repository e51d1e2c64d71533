package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

// durationVar is a flag for a duration as the configuration has them, with days.
func durationVar(f *pflag.FlagSet, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	f.Var((*durationFlag)(to), name, usage)
}

type durationFlag time.Duration

// String is "0" for none, of which pflag prints no default.
func (d *durationFlag) String() string {
	const day = 24 * time.Hour
	if *d == 0 {
		return "0"
	}
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

// checkNamespace refuses what is the name of no namespace; empty: none was given.
func checkNamespace(name string) error {
	if name != "" && len(validation.IsDNS1123Label(name)) > 0 {
		return fmt.Errorf("--namespace %q: want the name of a namespace, such as microservices", name)
	}
	return nil
}

// emptyWord refuses a word of the command line that is there and empty. It is a variable
// of a script that is not set, and the command would do something else than was meant.
func emptyWord(cmd *cobra.Command, args []string) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && isEmpty(f.Value) {
			err = fmt.Errorf("--%s is empty: want a value, or the flag left out; is a variable not set?", f.Name)
		}
	})
	if err == nil && slices.Contains(args, "") {
		err = errors.New("an argument is empty: want " + cmd.UseLine())
	}
	return err
}

func isEmpty(value pflag.Value) bool {
	if list, ok := value.(pflag.SliceValue); ok {
		all := list.GetSlice()
		return len(all) == 0 || slices.Contains(all, "")
	}
	return value.String() == ""
}

// wantArgs takes so many arguments. Else the error says which there are.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case most == 0 && len(args) > 0:
			return fmt.Errorf("%q: want flags alone: %s", args[0], cmd.UseLine())
		case len(args) > most:
			return fmt.Errorf("%q: one too many: want %s", args[most], cmd.UseLine())
		case len(args) < least:
			return errors.New("too little: want " + cmd.UseLine())
		}
		return nil
	}
}
