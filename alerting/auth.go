package alerting

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"
)

// proof is a way to tell friend from foe: the label proof.
type proof string

const (
	proofBearer      proof = "bearer"
	proofBasic       proof = "basic"
	proofCertificate proof = "certificate"
)

// unauthorized is a call without the right proof. Its text has nothing of what the
// caller sent.
type unauthorized struct {
	proof proof
	why   string
}

// errUnauthorized is what all of them are.
var errUnauthorized = errors.New("missing or wrong credentials")

func (e *unauthorized) Error() string        { return errUnauthorized.Error() + ": " + e.why }
func (e *unauthorized) Is(target error) bool { return target == errUnauthorized }

// errCredentials marks that there is nothing to compare credentials with.
var errCredentials = errors.New("cannot check credentials")

// maxTokenFile bounds how much of a token file is read.
const maxTokenFile = 64 << 10

// authenticator says nil, errUnauthorized or errCredentials about a request.
type authenticator func(*http.Request) error

// newAuthenticator chooses how the alerts port tells friend from foe, and
// checks that it can: one of the bearer tokens of a file, or what the web
// configuration demands. One of the two is needed, unless anonymous callers are
// wanted: nil is returned then.
func newAuthenticator(tokenFile, webConfigFile string, anonymous bool) (authenticator, error) {
	checks, err := webChecks(webConfigFile)
	if err != nil {
		return nil, err
	}
	open := tokenFile == "" && !checks.basic && !checks.certificate
	switch {
	case open && anonymous:
		return nil, nil
	case open:
		return nil, errors.New("alerts port: nobody would be kept out: want a token file, or basic_auth_users or client_auth_type RequireAndVerifyClientCert with client_ca_file in the web configuration")
	case tokenFile != "" && checks.basic:
		return nil, fmt.Errorf("token file %s and basic_auth_users of %s: a request carries only one of the two: want one", tokenFile, webConfigFile)
	case tokenFile == "":
		return webAuthenticator(webConfigFile), nil
	}
	if _, err := readTokens(tokenFile); err != nil {
		return nil, err
	}
	return bearerAuthenticator(tokenFile), nil
}

// bearerAuthenticator reads the file for each request, so that a new token
// holds from its first use and there is no cache to be wrong.
func bearerAuthenticator(file string) authenticator {
	return func(r *http.Request) error {
		tokens, err := readTokens(file)
		if err != nil {
			return fmt.Errorf("%w: %w", errCredentials, err)
		}
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return &unauthorized{proofBearer, "no bearer token"}
		}
		// Hashes have one length, and every token is compared: the time says
		// nothing about the token.
		hash, right := sha256.Sum256([]byte(strings.TrimSpace(given))), 0
		for _, token := range tokens {
			want := sha256.Sum256(token)
			right |= subtle.ConstantTimeCompare(hash[:], want[:])
		}
		if right == 0 {
			return &unauthorized{proofBearer, "wrong bearer token"}
		}
		return nil
	}
}

// readTokens reads the tokens of a file, one on a line. Several are right at
// the same time, so that a token can be changed without a gap.
func readTokens(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	if len(content) > maxTokenFile {
		return nil, fmt.Errorf("token file %s: over %d bytes: want one token on a line", file, maxTokenFile)
	}
	var tokens [][]byte
	for line := range bytes.Lines(content) {
		if token := bytes.TrimSpace(line); len(token) > 0 {
			tokens = append(tokens, token)
		}
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("token file %s: empty: want one token on a line", file)
	}
	return tokens, nil
}

// webAuth is which of the two proofs a web configuration demands of everybody.
// A certificate is one only with an authority of the user's own: without, the
// whole world's authorities count.
type webAuth struct {
	basic, certificate bool
}

// webAuthenticator trusts exporter-toolkit, which has checked the request, as
// long as its configuration still demands a proof: it is read anew for each
// request there, and could have been emptied meanwhile. Whether there is TLS at
// all is chosen at the start: who has come in over plain HTTP, or over a
// connection of before, has shown no certificate.
func webAuthenticator(file string) authenticator {
	return func(r *http.Request) error {
		checks, err := webChecks(file)
		if err != nil {
			return fmt.Errorf("%w: %w", errCredentials, err)
		}
		if !checks.basic && !checks.certificate {
			return fmt.Errorf("%w: %s demands none any more", errCredentials, file)
		}
		switch {
		case checks.basic:
		case r.TLS == nil:
			return fmt.Errorf("%w: %s demands certificates, but guardian has served plain HTTP since its start: restart it", errCredentials, file)
		case len(r.TLS.VerifiedChains) == 0:
			return &unauthorized{proofCertificate, "no verified client certificate"}
		}
		return nil
	}
}

// webChecks checks a web configuration and says what it demands. No file
// demands nothing.
func webChecks(file string) (webAuth, error) {
	if file == "" {
		return webAuth{}, nil
	}
	if err := web.Validate(file); err != nil {
		return webAuth{}, webError(file, err)
	}
	config, err := readWebConfig(file)
	if err != nil {
		return webAuth{}, err
	}
	if config.RateLimiterConfig.Interval != 0 {
		return webAuth{}, fmt.Errorf("web configuration %s: rate_limit.interval: %q: want none: it answers 429, which Alertmanager takes as final",
			file, config.RateLimiterConfig.Interval)
	}
	return proofOf(config), nil
}

func readWebConfig(file string) (web.Config, error) {
	var config web.Config
	content, err := os.ReadFile(file)
	if err != nil {
		return config, fmt.Errorf("web configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(content, &config); err != nil {
		return config, webError(file, err)
	}
	return config, nil
}

func proofOf(config web.Config) webAuth {
	return webAuth{
		basic:       len(config.Users) > 0,
		certificate: config.TLSConfig.ClientAuth == "RequireAndVerifyClientCert" && config.TLSConfig.ClientCAs+config.TLSConfig.ClientCAsText != "",
	}
}

// WebNeeds is what a web configuration asks of those who call.
type WebNeeds struct {
	TLS         bool // https
	BasicAuth   bool // one of basic_auth_users
	Certificate bool // of an authority of the user's own
}

// ReadWebNeeds reads a web configuration as far as callers are concerned: the
// certificates that it names need not be on this machine.
func ReadWebNeeds(file string) (WebNeeds, error) {
	config, err := readWebConfig(file)
	if err != nil {
		return WebNeeds{}, err
	}
	proof := proofOf(config)
	return WebNeeds{TLS: config.TLSConfig.IsEnabled(), BasicAuth: proof.basic, Certificate: proof.certificate}, nil
}
