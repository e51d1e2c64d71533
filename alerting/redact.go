package alerting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

var (
	// quotedValues is what YAML's parser quotes of a file.
	quotedValues = regexp.MustCompile("(?s)`.*`|'.*'|\"[^\"]*\"|invalid map key: .*")
	// oddKey is an unknown key that is like none of those there are.
	oddKey = regexp.MustCompile(`field [a-z_]*[^a-z_\s]\S* not found`)
)

// withoutValues is an error about a file that has secrets, without the pieces of the
// file that it quotes.
func withoutValues(text string) string {
	switch {
	case strings.Contains(text, "-----BEGIN"):
		return "a key or a certificate stands where the path of its file belongs"
	case strings.Contains(text, "crypto/bcrypt"):
		return "basic_auth_users: want bcrypt hashes, such as `htpasswd -nB NAME` prints"
	}
	return quotedValues.ReplaceAllString(oddKey.ReplaceAllString(text, "field … not found"), "…")
}

// webError is an error about a web configuration.
func webError(file string, err error) error {
	return fmt.Errorf("web configuration %s: %w", file, errors.New(withoutValues(err.Error())))
}

// WebLog is a logger for exporter-toolkit, which logs what is wrong with a web
// configuration together with pieces of it.
func WebLog(log *slog.Logger) *slog.Logger { return slog.New(valueless{log.Handler()}) }

// valueless has no value of a file in an error that it logs.
type valueless struct{ slog.Handler }

func (h valueless) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			a.Value = slog.StringValue(withoutValues(a.Value.String()))
		}
		clean.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, clean)
}

func (h valueless) WithAttrs(attrs []slog.Attr) slog.Handler {
	return valueless{h.Handler.WithAttrs(attrs)}
}

func (h valueless) WithGroup(name string) slog.Handler { return valueless{h.Handler.WithGroup(name)} }
