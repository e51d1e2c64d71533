//go:build page

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// browser is a Chromium without a window, driven by W3C WebDriver.
type browser struct {
	t       *testing.T
	session string // its URL
}

// newBrowser starts chromedriver, which starts Chromium.
func newBrowser(t *testing.T, scheme string) *browser {
	t.Helper()
	port, err := controlplane.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	profile := t.TempDir()
	driver := exec.Command("chromedriver", fmt.Sprintf("--port=%d", port))
	driver.Env = append(os.Environ(), "HOME="+profile)
	if err := driver.Start(); err != nil {
		t.Fatalf("chromedriver (Debian: apt-get install chromium chromium-driver): %v", err)
	}
	t.Cleanup(func() {
		_ = driver.Process.Kill()
		_ = driver.Wait()
	})
	b := &browser{t: t, session: fmt.Sprintf("http://127.0.0.1:%d/session", port)}
	args := []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1100,1000", "--user-data-dir=" + filepath.Join(profile, "chromium"),
		"--blink-settings=preferredColorScheme=" + map[string]string{"dark": "0", "light": "1"}[scheme]}
	var begun struct{ SessionID string }
	capabilities := map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"args": args}, "goog:loggingPrefs": map[string]string{"browser": "ALL", "performance": "ALL"},
	}}}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // chromedriver tells nobody that it is ready
		if err = b.try(http.MethodPost, "", capabilities, &begun); err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("start Chromium: %v", err)
		}
	}
	b.session += "/" + begun.SessionID
	t.Cleanup(func() { _ = b.try(http.MethodDelete, "", nil, nil) })
	return b
}

// try sends a command; out gets its value.
func (b *browser) try(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, b.session+path, body)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, raw)
	}
	value := struct{ Value json.RawMessage }{}
	if err := json.Unmarshal(raw, &value); err != nil || out == nil {
		return err
	}
	return json.Unmarshal(value.Value, out)
}

func (b *browser) do(method, path string, in, out any) {
	b.t.Helper()
	if err := b.try(method, path, in, out); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
}

// script runs the body of a function, and decodes what it returns, or what the
// promise that it returns comes to.
func (b *browser) script(text string, out any) {
	b.t.Helper()
	b.do(http.MethodPost, "/execute/sync", map[string]any{"script": text, "args": []any{}}, out)
}

// picture writes what is shown into the docs, if it is asked to.
func (b *browser) picture(name string) {
	b.t.Helper()
	var encoded string
	b.do(http.MethodGet, "/screenshot", nil, &encoded)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		b.t.Fatal(err)
	}
	if !bytes.HasPrefix(raw, []byte("\x89PNG")) || len(raw) < 5000 {
		b.t.Errorf("%s: no picture: %d bytes", name, len(raw))
	}
	if *pictures {
		if err := os.WriteFile(filepath.Join("..", "..", "docs", "images", name), raw, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

// messages are errors that Chromium's console shows, and the addresses that it was
// sent to other than own.
func (b *browser) messages(own string) (problems []string) {
	b.t.Helper()
	var entries []struct{ Level, Message string }
	b.do(http.MethodPost, "/se/log", map[string]string{"type": "browser"}, &entries)
	for _, e := range entries {
		if e.Level == "SEVERE" {
			problems = append(problems, e.Message)
		}
	}
	b.do(http.MethodPost, "/se/log", map[string]string{"type": "performance"}, &entries)
	asked := 0
	for _, e := range entries {
		var event struct {
			Message struct {
				Method string
				Params struct{ Request struct{ URL string } }
			}
		}
		if err := json.Unmarshal([]byte(e.Message), &event); err != nil {
			b.t.Fatal(err)
		}
		if event.Message.Method != "Network.requestWillBeSent" {
			continue
		}
		asked++
		// chrome:// is Chromium's own first tab.
		if url := event.Message.Params.Request.URL; !strings.HasPrefix(url, own) && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "chrome://") {
			problems = append(problems, "asked "+url)
		}
	}
	if asked == 0 {
		b.t.Error("Chromium has asked for nothing")
	}
	return problems
}

// axe is the program of that name, which finds what a page has that keeps people
// out.
func axe(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	pack := exec.CommandContext(t.Context(), "npm", "pack", "--silent", "axe-core@4.11.0")
	pack.Dir = folder
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("npm pack axe-core: %v\n%s", err, out)
	}
	unpack := exec.CommandContext(t.Context(), "tar", "-xzf", "axe-core-4.11.0.tgz", "package/axe.min.js")
	unpack.Dir = folder
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(folder, "package", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// accessible fails for what axe finds serious.
func (b *browser) accessible(axe, what string) {
	b.t.Helper()
	b.script(axe+"; window.axe = axe; return 0", nil)
	var result struct {
		Violations []struct {
			ID, Impact, Help string
			Nodes            []struct{ HTML string }
		}
		Passes []struct{ ID string }
	}
	b.script("return window.axe.run(document)", &result)
	if len(result.Passes) < 10 {
		b.t.Errorf("%s: axe has looked at %d rules", what, len(result.Passes))
	}
	for _, v := range result.Violations {
		b.t.Errorf("%s: %s (%s): %s: %v", what, v.ID, v.Impact, v.Help, v.Nodes)
	}
	b.t.Logf("%s: axe: %d rules passed, %d broken", what, len(result.Passes), len(result.Violations))
}

// TestThePageInABrowser has a rollback come while the page is open.
func TestThePageInABrowser(t *testing.T) {
	r := newRig(t)
	app, other := r.app("orders-service", 10), r.app("payments", 30)
	g := r.serve("guardian-0", withPage(r.config("127.0.0.1:0", "", app, other)))
	url := g.pageURL()
	rules := axe(t)
	b := newBrowser(t, "light")
	says := func(b *browser, text string) func(context.Context) error {
		return func(context.Context) error {
			var shown string
			if b.script("return document.body.innerText", &shown); !strings.Contains(shown, text) {
				return errors.New(shown)
			}
			return nil
		}
	}
	b.open(url + "/guards/" + app.Name)
	r.wait("the split is shown", says(b, "10% of the traffic"))
	r.must(app.SetWeights(t.Context(), 70, 30))
	r.wait("a shift is shown without a reload", says(b, "10% → 30%"))
	r.wait("it is live", says(b, "live"))
	b.script("window.reloaded = false; return 0", nil)
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)
	r.wait("the rollback is shown without a reload", says(b, "30% → 0%"))
	r.wait("with its state", says(b, "rolled-back"))
	r.wait("with its receipt", says(b, "Last rollback"))
	var kept any
	if b.script("return window.reloaded", &kept); kept != false {
		t.Error("the page was loaded again")
	}
	b.picture("page-guard.png")
	b.script(`document.getElementById("receipt").scrollIntoView(); return 0`, nil)
	b.picture("page-receipt.png")
	b.accessible(rules, "a guard")
	var copied string
	b.script(`document.querySelector("button[data-copy]").click(); return document.querySelector("button[data-copy]").dataset.copy`, &copied)
	if copied != "guardian unlock orders-service -n "+r.ns+" --reason '…'" {
		t.Errorf("copies %q", copied)
	}
	r.wait("the button says that it has copied or selected", func(context.Context) error {
		var text string
		if b.script(`return document.querySelector("button[data-copy]").textContent`, &text); text != "Copied" && text != "Selected" {
			return errors.New(text)
		}
		return nil
	})
	var held string
	b.script(`document.querySelector("button[data-copy]").focus(); return 0`, nil)
	b.script(`return again().then(() => document.activeElement.id)`, &held)
	if held != "do-let-this-build-have-traffic-again" {
		t.Errorf("the page is brought up to date, and the focus is at %q", held)
	}
	b.open(url)
	r.wait("all guards", says(b, "payments"))
	b.picture("page-all.png")
	b.accessible(rules, "all guards")
	b.do(http.MethodPost, "/window/rect", map[string]int{"width": 500, "height": 900}, nil)
	for _, path := range []string{"/", "/guards/" + app.Name} {
		b.open(url + path)
		var wide, width int
		b.script("return document.documentElement.scrollWidth", &wide)
		if b.script("return window.innerWidth", &width); wide > width {
			t.Errorf("%s is %d wide on a phone of %d", path, wide, width)
		}
	}
	b.picture("page-phone.png")
	b.open(url + "/guards/nobody")
	r.wait("an error", says(b, "no guard of this name"))
	b.accessible(rules, "an error")
	for _, problem := range b.messages(url) {
		if !strings.Contains(problem, "/guards/nobody") { // a 404 is an error of the console
			t.Error(problem)
		}
	}

	dark := newBrowser(t, "dark")
	dark.open(url + "/guards/" + app.Name)
	r.wait("a guard in the dark", says(dark, "30% → 0%"))
	var ground string
	if dark.script("return getComputedStyle(document.body).backgroundColor", &ground); ground != "rgb(13, 17, 23)" {
		t.Errorf("the ground is %s", ground)
	}
	dark.accessible(rules, "a guard in the dark")
	dark.open(url)
	r.wait("all guards in the dark", says(dark, "payments"))
	dark.accessible(rules, "all guards in the dark")
	dark.open(url + "/guards/nobody")
	r.wait("an error in the dark", says(dark, "no guard of this name"))
	dark.accessible(rules, "an error in the dark")
	dark.open(url + "/guards/" + app.Name)
	g.stop() // with two streams open
	r.wait("it says that it is not live", says(dark, "not live"))
}
