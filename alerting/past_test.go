package alerting

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestWhatMakesAQueryTooMuch has the answers of a Prometheus and of proxies before it.
func TestWhatMakesAQueryTooMuch(t *testing.T) {
	const failed = `{"status":"error","errorType":%q,"error":"why"}`
	for name, c := range map[string]struct {
		code int
		body string
		want error
	}{
		"too many samples":       {422, fmt.Sprintf(failed, "execution"), ErrTooMuch},
		"Prometheus's time":      {503, fmt.Sprintf(failed, "timeout"), ErrTooMuch},
		"another's time":         {422, fmt.Sprintf(failed, "timeout"), ErrTooMuch},
		"a proxy's time":         {504, "<html>", ErrTooMuch},
		"it starts":              {503, "Service Unavailable", nil},
		"it stops":               {503, fmt.Sprintf(failed, "canceled"), nil},
		"too often":              {429, "slow down", nil},
		"a wrong query":          {400, fmt.Sprintf(failed, "bad_data"), ErrRefused},
		"not a Prometheus's 400": {400, "no tenant", ErrRefused},
		"no credentials":         {401, "who?", ErrRefused},
		"no permission":          {403, "no", ErrRefused},
	} {
		var timeouts []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			timeouts = append(timeouts, r.FormValue("timeout"))
			w.WriteHeader(c.code)
			fmt.Fprint(w, c.body)
		}))
		p, err := NewPrometheus(ClientOptions{URL: server.URL, Timeout: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, ranged := p.Range(t.Context(), "up", time.Unix(0, 0), time.Unix(60, 0), time.Minute)
		_, sampled := p.Samples(t.Context(), "up[1m]", time.Unix(60, 0))
		p.Close()
		server.Close()
		for _, err := range []error{ranged, sampled} {
			if err == nil || errors.Is(err, ErrTooMuch) != (c.want == ErrTooMuch) || errors.Is(err, ErrRefused) != (c.want == ErrRefused) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		for _, timeout := range timeouts {
			if timeout != "1m48s" {
				t.Errorf("%s: told to give up after %q, want before the client does", name, timeout)
			}
		}
	}
}
