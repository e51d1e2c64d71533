package alerting

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
)

// planted is a secret, of which no error and no line of the log may have a piece.
const planted = "hunter2"

// slips are web configurations in which somebody has put a password in the wrong way.
var slips = []string{
	"hunter2: x", "tls_server_config: {hunter2: x}", "basic_auth_users: hunter2", "basic_auth_users: [hunter2]", "basic_auth_users: {a: hunter2}", "basic_auth_users: {a: [hunter2]}", "basic_auth_users: {a: {hunter2: x}}",
	"basic_auth_users: {hunter2}", "basic_auth_users: {{hunter2}}", "basic_auth_users: {? {hunter2: x} : y}", "basic_auth_users: {? [hunter2] : y}",
	"basic_auth_users: {hunter2: x, hunter2: y}", "basic_auth_users: *hunter2", "basic_auth_users: !!int hunter2", "basic_auth_users: {a: 'hunter2}", "basic_auth_users: {a: \"hunter2\\q\"}",
	"basic_auth_users: {a: `hunter2}", "basic_auth_users: {a: \"hun`ter2\", b: [hunter2]}", "basic_auth_users:\n  a: b\n hunter2", "hunter2", "- hunter2", "tls_server_config: hunter2", "http_server_config: {headers: hunter2}",
	"tls_server_config: {key_file: \"-----BEGIN hunter2\", cert_file: \"-----BEGIN hunter2\"}", "tls_server_config: {key_file: [hunter2]}", "tls_server_config: {cert: hunter2, key: hunter2}",
}

func TestNoErrorOfAWebConfigurationShowsASecret(t *testing.T) {
	for _, text := range slips {
		for _, token := range []bool{true, false} {
			opts, _ := options(t, &sink{})
			if !token {
				opts.TokenFile = ""
			}
			opts.WebConfigFile = webConfig(t, text)
			if _, err := NewServer(opts); err == nil || strings.Contains(err.Error(), planted) {
				t.Errorf("%s: %v; want an error without the secret", text, err)
			}
		}
		if _, err := ReadWebNeeds(webConfig(t, text)); err != nil && strings.Contains(err.Error(), planted) {
			t.Errorf("%s: shown in %v", text, err)
		}
	}
}

func TestAWebConfigurationThatGoesWrongIsLoggedWithoutSecrets(t *testing.T) {
	var log logged
	opts, _ := options(t, &sink{})
	opts.TokenFile, opts.WebConfigFile = "", webConfig(t, basicUsers)
	opts.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server := run(t, opts)
	send(t, server, &http.Transport{}, withNothing) // once it answers, it has read the first one
	for _, text := range slips {
		if err := os.WriteFile(opts.WebConfigFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status := send(t, server, &http.Transport{}, withBasic("correct-horse")); status < http.StatusUnauthorized {
			t.Errorf("%s: got %d", text, status)
		}
	}
	if said := log.String(); strings.Count(said, "Unable to parse configuration") < len(slips)/2 || strings.Contains(said, planted) {
		t.Errorf("want %d refusals without the secret, got:\n%s", len(slips)/2, said)
	}
}

func TestNoErrorOfAnAlertmanagersConfigurationShowsASecret(t *testing.T) {
	for _, text := range []string{"route: hunter2", "route: {routes: [hunter2]}", "receivers: hunter2", "receivers: [{webhook_configs: hunter2}]", "receivers: [{webhook_configs: [{send_resolved: hunter2}]}]", "{{hunter2}}", "a: *hunter2"} {
		if _, err := ParseRouting(text); err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v; want an error without the secret", text, err)
		}
	}
}

func TestAnErrorWithoutValuesStillSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"line 3: cannot unmarshal !!str `hunter2` into map":                                       "line 3: cannot unmarshal !!str … into map",
		"field tls not found in type web.Config":                                                  "field tls not found in type web.Config",
		"open /nowhere: no such file or directory":                                                "open /nowhere: no such file or directory",
		"crypto/bcrypt: bcrypt hashes must start with '$', but hashedSecret started with 'h'":     "bcrypt hashes, such as `htpasswd",
		fmt.Sprintf("key %q already set in map", planted):                                         "key … already set in map",
		"failed to read key_file (/etc/-----BEGIN PRIVATE KEY-----\nhunter2): file name too long": "where the path of its file belongs",
		`invalid map key: map[interface {}]interface {}{"a":"hunter2"}`:                           "…",
	} {
		if got := withoutValues(text); !strings.Contains(got, want) || strings.Contains(got, planted) {
			t.Errorf("%s\n%s, want %s", text, got, want)
		}
	}
}
