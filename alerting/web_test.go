package alerting

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// basicUsers lets in alertmanager with the password correct-horse (bcrypt,
// least cost).
const basicUsers = `basic_auth_users: {alertmanager: "$2a$04$jRxweUt98KtI0PqbL1grie897JtfAswPwlSE3k.kP2/M2.8CS5lv2"}
`

// pki is a certificate authority that has signed one certificate for
// everybody, in files.
type pki struct {
	cert, key, ca string
	pool          *x509.CertPool
	pair          tls.Certificate
}

func newPKI(t *testing.T) pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alertmanager"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	dir := t.TempDir()
	p := pki{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), pool: x509.NewCertPool()}
	p.ca = p.cert
	for file, content := range map[string][]byte{p.cert: certPEM, p.key: keyPEM} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.pool.AppendCertsFromPEM(certPEM)
	if p.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return p
}

func webConfig(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// send posts one alert and gives the status, or 0 when the connection failed.
func send(t *testing.T, server *Server, transport *http.Transport, prepare func(*http.Request)) int {
	t.Helper()
	scheme := "http"
	if transport.TLSClientConfig != nil {
		scheme = "https"
	}
	transport.DisableKeepAlives = true
	url := scheme + "://" + server.AlertsAddr().String() + "/webhook"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(oneAlert))
	if err != nil {
		t.Fatal(err)
	}
	prepare(request)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

func withBearer(r *http.Request) { r.Header.Set("Authorization", bearer) }
func withNothing(*http.Request)  {}
func withBasic(password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth("alertmanager", password) }
}

func TestTLSAndTokenGoTogether(t *testing.T) {
	keys := newPKI(t)
	opts, _ := options(t, &sink{})
	opts.WebConfigFile = webConfig(t, fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\n", keys.cert, keys.key))
	server := run(t, opts)
	trusted := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: keys.pool}}
	if status := send(t, server, trusted, withBearer); status != http.StatusOK {
		t.Errorf("with TLS and token: got %d, want 200", status)
	}
	if status := send(t, server, trusted, withNothing); status != http.StatusUnauthorized {
		t.Errorf("with TLS alone: got %d, want 401", status)
	}
	if status := send(t, server, &http.Transport{}, withBearer); status != http.StatusBadRequest {
		t.Errorf("without TLS: got %d, want 400", status)
	}
}

func TestARequiredClientCertificateIsProofEnough(t *testing.T) {
	keys := newPKI(t)
	opts, _ := options(t, &sink{})
	opts.TokenFile = ""
	opts.WebConfigFile = webConfig(t, fmt.Sprintf(
		"tls_server_config: {cert_file: %s, key_file: %s, client_ca_file: %s, client_auth_type: RequireAndVerifyClientCert}\n",
		keys.cert, keys.key, keys.ca))
	server := run(t, opts)
	known := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: keys.pool, Certificates: []tls.Certificate{keys.pair}}}
	if status := send(t, server, known, withNothing); status != http.StatusOK {
		t.Errorf("with a certificate: got %d, want 200", status)
	}
	if status, _ := get(t, server, "/readyz"); status != http.StatusOK {
		t.Errorf("metrics port: got %d, want 200: a kubelet has no certificate", status)
	}
	stranger := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: keys.pool}}
	if status := send(t, server, stranger, withNothing); status != 0 {
		t.Errorf("without a certificate: got %d, want no connection", status)
	}
}

func TestBasicAuthIsProofAsLongAsItIsDemanded(t *testing.T) {
	opts, _ := options(t, &sink{})
	opts.TokenFile = ""
	opts.WebConfigFile = webConfig(t, basicUsers)
	server := run(t, opts)
	expect := func(prepare func(*http.Request), want int) {
		t.Helper()
		if status := send(t, server, &http.Transport{}, prepare); status != want {
			t.Errorf("got %d, want %d", status, want)
		}
	}
	expect(withBasic("correct-horse"), http.StatusOK)
	expect(withBasic("wrong"), http.StatusUnauthorized)
	expect(withNothing, http.StatusUnauthorized)
	// exporter-toolkit reads the file for each request and would now let
	// everybody in.
	if err := os.WriteFile(opts.WebConfigFile, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(withNothing, http.StatusServiceUnavailable)
}

func TestWhatIsDemandedAfterTheStartIsHeldAgainstEachCall(t *testing.T) {
	keys := newPKI(t)
	certificates := fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s, client_ca_file: %s, client_auth_type: RequireAndVerifyClientCert}\n", keys.cert, keys.key, keys.ca)
	tlsAlone := fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\n", keys.cert, keys.key)
	for name, test := range map[string]struct {
		first, then string
		transport   *http.Transport
		want        int
	}{
		// exporter-toolkit has chosen plain HTTP at the start: nobody is asked
		// for a certificate.
		"basic auth, then certificates": {basicUsers, certificates, &http.Transport{}, http.StatusServiceUnavailable},
		// A connection of before carries no certificate.
		"TLS with basic auth, then certificates": {tlsAlone + basicUsers, certificates, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: keys.pool}}, 0},
		"certificates, then basic auth":          {certificates, basicUsers, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: keys.pool, Certificates: []tls.Certificate{keys.pair}}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			opts.TokenFile = ""
			opts.WebConfigFile = webConfig(t, test.first)
			server := run(t, opts)
			send(t, server, &http.Transport{TLSClientConfig: test.transport.TLSClientConfig.Clone()}, withNothing) // once it answers, it has read the first one
			if err := os.WriteFile(opts.WebConfigFile, []byte(test.then), 0o600); err != nil {
				t.Fatal(err)
			}
			if status := send(t, server, test.transport, withNothing); status != test.want {
				t.Errorf("got %d, want %d", status, test.want)
			}
		})
	}
}

func TestAConnectionIsHeldAgainstWhatIsDemandedNow(t *testing.T) {
	keys := newPKI(t)
	auth := webAuthenticator(webConfig(t, fmt.Sprintf(
		"tls_server_config: {cert_file: %s, key_file: %s, client_ca_file: %s, client_auth_type: RequireAndVerifyClientCert}\n", keys.cert, keys.key, keys.ca)))
	leaf, err := x509.ParseCertificate(keys.pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		tls  *tls.ConnectionState
		want error
	}{
		"plain HTTP":              {nil, errCredentials},
		"TLS without any":         {&tls.ConnectionState{}, errUnauthorized},
		"one that nobody checked": {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, errUnauthorized},
		"a verified one":          {&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}, nil},
	} {
		if err := auth(&http.Request{TLS: test.tls}); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func TestAnybodyIsLetInOnlyWhereThatIsSaid(t *testing.T) {
	var log bytes.Buffer
	opts, _ := options(t, &sink{})
	opts.TokenFile, opts.AllowAnonymous = "", true
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "THE ALERTS PORT IS OPEN") {
		t.Errorf("said %q, want a warning", log.String())
	}
	if err := server.auth(&http.Request{}); err != nil {
		t.Errorf("anonymous: %v", err)
	}
	opts.WebConfigFile = webConfig(t, basicUsers) // what keeps out still does
	if status := send(t, run(t, opts), &http.Transport{}, withNothing); status != http.StatusUnauthorized {
		t.Errorf("with basic auth demanded: got %d, want 401", status)
	}
}

func TestWebConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	keys := newPKI(t)
	for name, test := range map[string]struct {
		content string
		token   bool
		want    string
	}{
		"a rate limit":                    {"rate_limit: {interval: 1s, burst: 2}\n", true, "it answers 429, which Alertmanager takes as final"},
		"an unknown key":                  {"tls: {}\n", true, "field tls not found"},
		"a certificate that is not there": {"tls_server_config: {cert_file: /nowhere, key_file: /nowhere}\n", true, "/nowhere"},
		"token and basic auth":            {basicUsers, true, "a request carries only one of the two"},
		"neither":                         {"http_server_config: {http2: true}\n", false, "nobody would be kept out"},
		"certificates of any authority":   {"tls_server_config: {cert_file: CERT, key_file: KEY, client_auth_type: RequireAndVerifyClientCert}\n", false, "nobody would be kept out"},
		"certificates that are optional":  {"tls_server_config: {client_auth_type: VerifyClientCertIfGiven}\n", false, "web configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			if !test.token {
				opts.TokenFile = ""
			}
			opts.WebConfigFile = webConfig(t, strings.NewReplacer("CERT", keys.cert, "KEY", keys.key).Replace(test.content))
			if _, err := NewServer(opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
