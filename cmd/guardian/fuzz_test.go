package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// Whatever stands in a record as its receipt, its history and its status, is shown as
// lines of text.
func FuzzReceipt(f *testing.F) {
	data := rolledBackRecord().Data()
	f.Add(data[decision.KeyReceipt], data[decision.KeyStatus], data[decision.KeyHistory], data[decision.KeyLock])
	data = foreignRecord().Data()
	f.Add(data[decision.KeyReceipt], data[decision.KeyStatus], data[decision.KeyHistory], data[decision.KeyLock])
	f.Add(`{"links":[{"name":"x","url":"https://a/\u202e|>"}],"written":"9999-12-31T23:59:59Z","from":-1}`, `{"weight":1e2,"ladder":[3,1],"spread":-5}`, `[{"at":"0001-01-01T00:00:00Z"}]`, `null`)
	f.Fuzz(func(t *testing.T, receipt, status, history, lock string) {
		r, bad := decision.ReadData(map[string]string{decision.KeyReceipt: receipt, decision.KeyStatus: status, decision.KeyHistory: history, decision.KeyLock: lock}, false)
		r.Unreadable = bad
		_ = r.ReadHistory()
		now := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
		named := []records.Named{{Namespace: "shop", Guard: testGuard, Record: r}}
		var out strings.Builder
		a := &app{name: "guardian", out: &out, errOut: io.Discard}
		for _, err := range []error{
			printGuard(&out, named[0], "", now), a.printStatus(named, "", "", statusOptions{}, now), a.history("shop", testGuard, r.History, historyOptions{}, now),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if r.Receipt != nil {
			for output, show := range receiptPrinters {
				to := io.Writer(&out)
				if output == "json" { // for programs, which no text moves
					to = io.Discard
				}
				if err := show(newReceiptView("shop", testGuard, r), to); err != nil {
					if _, broken := errors.AsType[*json.MarshalerError](err); !broken { // a year that JSON has no words for
						t.Fatal(err)
					}
				}
			}
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && r != '\ufffd' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("not printable: %q", out.String()[i:min(i+20, out.Len())])
		}
	})
}

// A command line is taken or refused with a text, whatever it is; nothing is run.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{"status orders-service -n shop -o json", "gate a b --for 60s --prove 1% --min-requests 0", "rollback x --reason y --timeout -1s", "disarm x --for 1h", "plan -f - --stable v1 --canary host:v2 --weight 101",
		"rbac --for ci", "report --since 30d", "mark a --of x --wrong", "--help", "-", "--", "gate --format=github --all", "rules -f x --format prometheus", "history a --last -1 --since 9999999h"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		root := (&app{name: "guardian", in: strings.NewReader(""), out: io.Discard, errOut: io.Discard}).command()
		cmd, args, err := root.Find(strings.Fields(line))
		if err != nil {
			_ = err.Error()
			return
		}
		if err := cmd.ParseFlags(args); err != nil {
			_ = err.Error()
			return
		}
		cmd.Flags().VisitAll(func(flag *pflag.Flag) { _ = flag.Value.String() })
		if cmd.Args != nil {
			_ = cmd.Args(cmd, cmd.Flags().Args())
		}
	})
}
