package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/internal/printable"
)

// calls runs one call of the program that meets no cluster: its exit code, and what it
// says.
func calls(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
	err := a.execute(t.Context(), args)
	if err != nil {
		out.WriteString("Error: " + printable.Error(err) + "\n")
	}
	return exitCode(err), out.String()
}

// outsideAPod has no variable that says where guardian is.
func outsideAPod(t *testing.T) {
	for _, name := range []string{"GUARDIAN_NAMESPACE", "POD_NAMESPACE", "KUBERNETES_SERVICE_HOST", "KUBECONFIG"} {
		t.Setenv(name, "") // put back at the end
		os.Unsetenv(name)
	}
	t.Setenv("HOME", t.TempDir())
}

func TestWhatCannotBeReadIsNoVerdict(t *testing.T) {
	outsideAPod(t)
	unreadable := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(unreadable, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/nonexistent": "no such file", t.TempDir(): "is a directory"}
	if _, err := os.ReadFile(unreadable); err != nil { // root reads all
		files[unreadable] = "permission denied"
	}
	reach := testdataFile("reach.yaml")
	for file, says := range files {
		for _, args := range [][]string{
			{"check", "-f", file}, {"rules", "-f", file}, {"alertmanager", "-f", file}, {"plan", "-f", file}, {"serve", "-f", file}, {"serve", "-f", reach, "--kubeconfig", file},
			{"check", "-f", reach, "--kubeconfig", file}, {"rules", "-f", reach, "--from-cluster", "--kubeconfig", file}, {"status", "--kubeconfig", file},
		} {
			code, text := calls(t, args...)
			want(t, code, text, exitUnknown, says)
			want(t, code, text, exitUnknown, file)
		}
	}
	code, text := calls(t, "serve", "-f", reach)
	want(t, code, text, exitUnknown, "outside a pod: --kubeconfig FILE")
}

// TestWhatWasReadAndIsWrongIsOne: that is a verdict about it.
func TestWhatWasReadAndIsWrongIsOne(t *testing.T) {
	outsideAPod(t)
	bad := testdataFile("bad-keys.yaml")
	for _, args := range []string{"check -f " + bad, "rules -f " + bad, "alertmanager -f " + bad, "serve -f " + bad, "plan -f " + bad} {
		code, text := calls(t, strings.Fields(args)...)
		want(t, code, text, exitFailed, bad)
	}
	t.Setenv("GUARDIAN_NAMESPACE", "A_")
	code, text := calls(t, "rules", "--guard", "a")
	want(t, code, text, exitFailed, `namespace (GUARDIAN_NAMESPACE): "A_": want a DNS label`)
}

// TestAFlagThatIsWrongOrMissingIsNoVerdict, whatever it is found wrong by.
func TestAFlagThatIsWrongOrMissingIsNoVerdict(t *testing.T) {
	outsideAPod(t)
	file := filepath.Join(t.TempDir(), "guardian.yaml") // as the chart's, whose pod has its namespace
	if err := os.WriteFile(file, []byte("guards: [{name: orders-service}]\nprometheus: {url: 'http://prometheus:9090'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"rules --guard a":                              "namespace: not set",
		"rules -f " + file:                             "namespace: not set",
		"check -f " + file:                             "namespace: not set",
		"alertmanager --token-file /t":                 "namespace: not set",
		"rules --guard a -n A_":                        `--namespace "A_": want the name of a namespace`,
		"rules -f " + file + " -n A_":                  `--namespace "A_": want the name of a namespace`,
		"check -f " + file + " -n A_":                  `--namespace "A_": want the name of a namespace`,
		"alertmanager -n A_ --token-file /t":           `--namespace "A_": want the name of a namespace`,
		"rules -n shop --guard A_":                     `--guard: "A_": want a DNS label`,
		"rules -n shop --guard a --guard a":            `--guard: "a": guards[0] has this name already: want another`,
		"rules -n shop --guard a --canary v1":          `--canary: "v1": want another destination than stable`,
		"rules -n shop --guard a --stable v1/2":        `--stable: "v1/2": want a subset of the DestinationRule or {host: name}`,
		"rules -n shop --guard a --format podmonitor":  "--format podmonitor: no fast lane",
		"alertmanager -n shop --token-file /t --url x": "url: want http or https",
		"completion tcsh":                              `unknown command "tcsh"`,
	} {
		code, text := calls(t, strings.Fields(args)...)
		want(t, code, text, exitUnknown, says)
		if strings.Count(text, "want ") > 1 {
			t.Errorf("guardian %s: more than one problem:\n%s", args, text)
		}
	}
}

// TestAWordThatIsEmptyIsRefused: it is a variable of a script that is not set, and
// guardian would act elsewhere, or on something else, than was meant.
func TestAWordThatIsEmptyIsRefused(t *testing.T) {
	outsideAPod(t)
	reach := testdataFile("reach.yaml")
	for says, args := range map[string][]string{
		"--namespace is empty":                            {"rollback", "a", "--reason", "r", "-n", ""},
		"--context is empty":                              {"status", "--context="},
		"--kubeconfig is empty":                           {"check", "-f", reach, "--kubeconfig", ""},
		"--config is empty":                               {"alertmanager", "-n", "shop", "-f", ""},
		"--filename is empty":                             {"plan", "-f", ""},
		"--output is empty":                               {"gate", "a", "-o", ""},
		"--service-account is empty":                      {"check", "-f", reach, "--service-account", ""},
		"--token-key is empty":                            {"alertmanager", "-n", "shop", "--format", "alertmanagerconfig", "--token-secret", "s", "--token-key", ""},
		"--kubernetes is empty":                           {"admission", "--kubernetes", ""},
		"--guard is empty":                                {"rules", "-f", reach, "--guard", ""},
		"--user is empty":                                 {"rbac", "--for", "ci", "--user", ""},
		"--reason is empty":                               {"pause", "a", "--reason", ""},
		"an argument is empty: want guardian gate NAME":   {"gate", ""},
		"an argument is empty: want guardian status":      {"status", ""},
		"an argument is empty: want guardian report":      {"report", "a", ""},
		"an argument is empty: want guardian unlock NAME": {"unlock", "", "--reason", "r"},
	} {
		code, text := calls(t, args...)
		want(t, code, text, exitUnknown, says)
	}
	code, text := calls(t, "status", "-n", "", "-o", "json")
	want(t, code, text, exitUnknown, `"kind": "Error"`)
}

// TestHelpForACommandThatThereIsNotIsAWrongCommandLine, as the command itself is.
func TestHelpForACommandThatThereIsNotIsAWrongCommandLine(t *testing.T) {
	outsideAPod(t)
	for _, args := range []string{"help x", "help gate x"} {
		code, text := calls(t, strings.Fields(args)...)
		want(t, code, text, exitUnknown, `"x"`)
	}
	for _, args := range []string{"help", "help gate", "gate --help"} {
		code, text := calls(t, strings.Fields(args)...)
		want(t, code, text, exitOK, "Usage:")
	}
}
