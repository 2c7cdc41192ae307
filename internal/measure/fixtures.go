package measure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// ServerName is the name in the servers' certificates.
const ServerName = "server.polytls.test"

// Fixtures are the certificates that all subjects of a comparison use.
type Fixtures struct {
	ecdsaRoot, rsaRoot *x509.Certificate
	ecdsa, rsa         tls.Certificate
}

func (f *Fixtures) root(s Settings) *x509.Certificate {
	if s.RSA {
		return f.rsaRoot
	}
	return f.ecdsaRoot
}

func (f *Fixtures) certificate(s Settings) tls.Certificate {
	if s.RSA {
		return f.rsa
	}
	return f.ecdsa
}

// CertificateFiles are the names of the PEM files of certificate, key and root.
func CertificateFiles(dir string, s Settings) (certificate, key, root string) {
	kind := "ecdsa"
	if s.RSA {
		kind = "rsa"
	}
	return filepath.Join(dir, kind+"-cert.pem"), filepath.Join(dir, kind+"-key.pem"), filepath.Join(dir, kind+"-root.pem")
}

// WriteFixtures makes the certificates and writes them to a folder: leaf and
// root, ECDSA P-256 signed by ECDSA P-256 and RSA-2048 signed by RSA-2048. They
// are valid for a day and for nothing but measuring.
func WriteFixtures(dir string) error {
	for _, s := range []Settings{{}, {RSA: true}} {
		newKey := func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
		if s.RSA {
			newKey = func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }
		}
		rootKey, err := newKey()
		if err != nil {
			return err
		}
		leafKey, err := newKey()
		if err != nil {
			return err
		}
		root := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Polytls measuring CA"},
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"},
			DNSNames: []string{ServerName}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, template := range []*x509.Certificate{root, leaf} {
			template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		}
		rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
		if err != nil {
			return err
		}
		leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
		if err != nil {
			return err
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
		if err != nil {
			return err
		}
		certFile, keyFile, rootFile := CertificateFiles(dir, s)
		for _, file := range []struct {
			name, kind string
			der        []byte
		}{{certFile, "CERTIFICATE", leafDER}, {keyFile, "PRIVATE KEY", keyDER}, {rootFile, "CERTIFICATE", rootDER}} {
			text := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der})
			if err := os.WriteFile(file.name, text, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// LoadFixtures reads what WriteFixtures has written.
func LoadFixtures(dir string) (Fixtures, error) {
	load := func(s Settings) (tls.Certificate, *x509.Certificate, error) {
		certFile, keyFile, rootFile := CertificateFiles(dir, s)
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return tls.Certificate{}, nil, err
		}
		text, err := os.ReadFile(rootFile)
		if err != nil {
			return tls.Certificate{}, nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return tls.Certificate{}, nil, fmt.Errorf("%s: there is no PEM certificate in it", rootFile)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		return cert, root, err
	}
	var f Fixtures
	var err error
	if f.ecdsa, f.ecdsaRoot, err = load(Settings{}); err != nil {
		return f, err
	}
	f.rsa, f.rsaRoot, err = load(Settings{RSA: true})
	return f, err
}
