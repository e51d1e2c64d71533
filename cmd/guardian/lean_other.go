//go:build !linux

package main

// unmapProgram is for Linux, where guardian runs.
func unmapProgram() error { return nil }
