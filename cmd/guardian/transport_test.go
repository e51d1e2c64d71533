package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
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

// silentServer is an API server that takes each call and never answers, or begins to and
// does not go on.
type silentServer struct{ begins bool }

func (s silentServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	if s.begins {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: silentBody{r.Context()}, Request: r}, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

type silentBody struct{ ctx context.Context }

func (b silentBody) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (silentBody) Close() error { return nil }

// TestAnAPIServerThatNeverAnswersEndsACall: no command waits for it for ever.
func TestAnAPIServerThatNeverAnswersEndsACall(t *testing.T) {
	for _, args := range []string{"status", "status orders-service", "history orders-service", "gate orders-service", "rollback orders-service --reason r"} {
		for _, begins := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, which begins to be answered: %v", args, begins), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					day, end := context.WithTimeout(t.Context(), 24*time.Hour)
					defer end()
					var out bytes.Buffer
					a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: func(clusterFlags) (*cluster, error) {
						return clusterOf(&rest.Config{Host: "https://api.shop.example:6443", Transport: silentServer{begins}}, "shop")
					}}
					err := a.execute(day, strings.Fields(args))
					if day.Err() != nil {
						t.Fatalf("it waited for a day: %v", err)
					}
					if err != nil {
						out.WriteString(err.Error())
					}
					want(t, exitCode(err), out.String(), exitUnknown, "has not answered within")
				})
			})
		}
	}
}
