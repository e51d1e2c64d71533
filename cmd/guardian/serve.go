package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newServeCommand is the service itself.
func newServeCommand(_ *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the service",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("serve: built without the service")
		},
	}
}
