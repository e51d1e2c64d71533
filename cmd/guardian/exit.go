package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Exit codes of every command.
const (
	exitOK      = 0
	exitFailed  = 1 // wrong input, an error, or an unhealthy canary
	exitUnknown = 2 // could not tell, as without an API server that answers or a file that can be read, or the command line is wrong
)

// exitError ends the program with a code of its own. Without an error all has been
// said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// couldNotTell is an error that says so, with its exit code.
func couldNotTell(format string, args ...any) error {
	return &exitError{code: exitUnknown, err: fmt.Errorf("could not tell: "+format, args...)}
}

// orUnknown gives an error the exit code of 'could not tell'.
func orUnknown(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUnknown, err}
}

// silent reports whether somebody else has said what is wrong.
func silent(err error) bool {
	exit, ok := errors.AsType[*exitError](err)
	return ok && exit.err == nil
}

// exitCode is the code that err asks for.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if unanswered(err) || unread(err) {
		return exitUnknown
	}
	return exitFailed
}

// unread says that a file cannot be read: nothing is known of what is in it.
func unread(err error) bool {
	_, yes := errors.AsType[*fs.PathError](err)
	return yes
}

// unanswered says that the API server has not answered, or does not know who asks: that
// is no verdict about a guard.
func unanswered(err error) bool {
	_, unreached := errors.AsType[*url.Error](err)
	_, late := errors.AsType[noAnswerError](err)
	return unreached || late || apierrors.IsUnauthorized(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err)
}
