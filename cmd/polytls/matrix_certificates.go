package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

const matrixServerName = "server.polytls.test"

// matrixAuthority is a CA with a certificate for the server and one for the
// client. It lives in memory and ends with the process.
type matrixAuthority struct {
	roots          *tlsapi.CertPool
	server, client tls.Certificate
}

func newMatrixAuthority() (*matrixAuthority, error) {
	root, err := issueECDSA(nil, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Polytls matrix CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	})
	if err != nil {
		return nil, err
	}
	server, err := issueECDSA(&root, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "server"},
		DNSNames:    []string{matrixServerName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, err
	}
	client, err := issueECDSA(&root, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "client"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	authority := &matrixAuthority{roots: tlsapi.NewCertPool(), server: server, client: client}
	authority.roots.AddCert(root.Leaf)
	return authority, nil
}

// issueECDSA makes a key (P-256) and a certificate for it, as issue does.
func issueECDSA(issuer *tls.Certificate, template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	return issue(issuer, key, template)
}

// issue makes a certificate for a key, signed by issuer, or by itself without
// one. It fills in serial number and validity.
func issue(issuer *tls.Certificate, key crypto.Signer, template *x509.Certificate) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template.SerialNumber = serial
	// An hour back: clocks of machines that check it may differ.
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(24 * time.Hour)
	parent, signer := template, crypto.PrivateKey(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
