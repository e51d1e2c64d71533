//go:build race

package main

// race says that the race detector makes everything ten times dearer: what one
// goroutine computes is then done in part. make test does all of it without.
const race = true
