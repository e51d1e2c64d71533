package remediate

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// errConflict says that somebody else wrote first: read again and decide
// again.
var errConflict = errors.New("object has changed meanwhile")

// absent turns "not found" into nil.
func absent[T any](obj *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj, nil
}

func conflictOr(err error, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && !lacksNamespace(err):
		return fmt.Errorf(format+": %w: %w", append(args, errConflict, err)...)
	case apierrors.IsInvalid(err) && !hasCauses(err): // a JSON patch's test has failed
		return fmt.Errorf(format+": %w: %w", append(args, errConflict, err)...)
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// hasCauses tells a refused object from a patch that does not apply.
func hasCauses(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && len(details.Causes) > 0
}

// definitely says that the API server has refused an object for what is in it,
// and would refuse the same again.
func definitely(err error) bool {
	var status apierrors.APIStatus
	if errors.Is(err, errConflict) || !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && !apierrors.IsTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsUnauthorized(err)
}

// definitelyAll says that definitely is so of each of the joined errors.
func definitelyAll(err error) bool {
	if wrapped := errors.Unwrap(err); wrapped != nil {
		return definitelyAll(wrapped)
	}
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // it is unwrapped step by step
	if !ok {
		return definitely(err)
	}
	return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !definitelyAll(e) })
}

// unreadable says why something cannot be read for as long as nobody changes
// guardian's rights, or what the API server serves. It is empty for all that may
// pass by itself.
func unreadable(err error) string {
	if _, none := errors.AsType[*NotServedError](err); none || apierrors.IsForbidden(err) {
		return err.Error()
	}
	return ""
}

// answerOf is the kind of an answer of the API server.
func answerOf(err error) string {
	if _, none := errors.AsType[*NotServedError](err); none {
		return "not served"
	}
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return string(reason)
	}
	return "no answer"
}

// namespaceError says of an error that it is the namespace's: that is being deleted, or
// is gone. Where guardian's rights have gone with it, the API server says no more than
// that guardian may not.
func namespaceError(namespace string, err error) error {
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("namespace %s is being deleted: %w", namespace, err)
	case lacksNamespace(err):
		return fmt.Errorf("namespace %s does not exist: %w", namespace, err)
	}
	return err
}

// lacksNamespace says that what is not found is the namespace of what was to be written.
func lacksNamespace(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == "namespaces"
}
