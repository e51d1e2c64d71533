package main

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAWatchIsTriedUntilSomebodyAnswers(t *testing.T) {
	refused := errors.New("connection refused")
	for _, c := range []struct {
		name, method, url string
		failures          int
		patience          time.Duration
		tries             int
		want              error
	}{
		{"a watch, soon answered", http.MethodGet, "/api/v1/pods?watch=true", 3, time.Hour, 4, nil},
		{"a watch that is given up", http.MethodGet, "/api/v1/pods?watch=true", 1000, 1200 * time.Millisecond, 3, refused},
		{"a list", http.MethodGet, "/api/v1/pods", 1000, time.Hour, 1, refused},
		{"a write", http.MethodPatch, "/api/v1/pods/x?watch=true", 1000, time.Hour, 1, refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				request, err := http.NewRequestWithContext(ctx, c.method, "http://kubernetes"+c.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				tries := 0
				response, err := persistentWatch{roundTripper(func(*http.Request) (*http.Response, error) {
					if tries++; tries <= c.failures {
						return nil, refused
					}
					return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
				})}.RoundTrip(request)
				if !errors.Is(err, c.want) || (err == nil) != (response != nil) || tries != c.tries {
					t.Errorf("%v, %v after %d tries; want %v after %d", response, err, tries, c.want, c.tries)
				}
				if response != nil {
					_ = response.Body.Close()
				}
			})
		})
	}
}
