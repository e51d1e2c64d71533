package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// keys are the API server's certificate and the key that signs service account tokens.
type keys struct {
	// certificate in PEM form; it signs itself, so clients trust exactly it.
	certificate []byte
	// files that kube-apiserver reads.
	certificateFile, keyFile, accountKeyFile string
}

// newKeys writes new keys into a folder. Elliptic curves, because kube-apiserver's own RSA keys take a second.
func newKeys(folder string) (*keys, error) {
	k := &keys{
		certificateFile: filepath.Join(folder, "apiserver.crt"),
		keyFile:         filepath.Join(folder, "apiserver.key"),
		accountKeyFile:  filepath.Join(folder, "service-account.key"),
	}
	if _, err := newKey(k.accountKeyFile); err != nil {
		return nil, err
	}
	key, err := newKey(k.keyFile)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(0, 0, 7),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              []string{"localhost", "kubernetes.default.svc"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the API server's certificate: %w", err)
	}
	k.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return k, os.WriteFile(k.certificateFile, k.certificate, 0o600)
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate %s: %w", file, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("generate %s: %w", file, err)
	}
	return key, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
