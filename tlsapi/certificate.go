package tlsapi

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// LoadCertificate reads a certificate chain, leaf first, and its private key
// from files, each PEM or DER. The key may be PKCS #8, PKCS #1 or SEC 1. Errors
// are of KindConfig, name the file and say what is wrong with it: missing,
// empty, truncated, encrypted, or not belonging together.
func LoadCertificate(certFile, keyFile string) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) {
		return tls.Certificate{}, &Error{Op: "config", Kind: KindConfig, Option: "Certificates", Err: err}
	}
	chain, err := readChain(certFile)
	if err != nil {
		return fail(err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return fail(err)
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	if err := checkKeyPair(chain[0], key); err != nil {
		return fail(fmt.Errorf("%s and %s: %w", certFile, keyFile, err))
	}
	return cert, nil
}

// ServerConfigFromFiles returns the configuration of a server from its
// certificate and key file, with PolicyIntermediate.
func ServerConfigFromFiles(certFile, keyFile string) (*ServerConfig, error) {
	cert, err := LoadCertificate(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &ServerConfig{
		Settings:     Settings{SecurityPolicy: PolicyIntermediate},
		Certificates: []tls.Certificate{cert},
	}, nil
}

// MutualTLSClientConfig returns the configuration of a client that
// authenticates itself with a certificate. An empty caFile means the system's
// roots.
func MutualTLSClientConfig(serverName, certFile, keyFile, caFile string) (*ClientConfig, error) {
	cert, err := LoadCertificate(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	cfg := &ClientConfig{ServerName: serverName, Certificate: &cert}
	if caFile != "" {
		if cfg.RootCAs, err = CertPoolFromFiles(caFile); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// readChain reads a chain; a private key in the same file is passed over, as
// combined files are usual.
func readChain(path string) ([]*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return readCertificates(path)
	}
	var certificates []byte
	rest := text
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certificates = append(certificates, pem.EncodeToMemory(block)...)
		}
	}
	if len(certificates) == 0 && !bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, fmt.Errorf("%s: there is no PEM certificate in it", path)
	}
	// What pem.Decode could not read is still in rest.
	chain, err := parsePEMCertificates(append(certificates, rest...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}

func readKey(path string) (crypto.PrivateKey, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		key, err := parseKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: neither PEM nor a DER private key", path)
		}
		return key, nil
	}
	rest := text
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, fmt.Errorf("%s: the private key is encrypted; decrypt it first (openssl pkey -in %s -out plain.pem)", path, path)
		}
		key, err := parseKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: the private key does not parse: it is damaged or of an unknown type", path)
		}
		return key, nil
	}
	if bytes.Contains(rest, []byte("PRIVATE KEY-----")) {
		return nil, fmt.Errorf("%s: the PEM block of the private key is damaged or truncated", path)
	}
	return nil, fmt.Errorf("%s: there is no private key in it", path)
}

// parseKey leaves the parser's own error out: it must never quote key bytes.
func parseKey(der []byte) (crypto.PrivateKey, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("not a private key")
}

func checkKeyPair(leaf *x509.Certificate, key crypto.PrivateKey) error {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a private key of type %T cannot sign", key)
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the private key does not belong to the certificate")
	}
	return nil
}

func checkCertificate(option string, cert *tls.Certificate) error {
	if len(cert.Certificate) == 0 {
		return ConfigError(option, "it holds no certificate")
	}
	if cert.PrivateKey == nil {
		return ConfigError(option, "the private key is missing")
	}
	var leaf *x509.Certificate
	for i, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return ConfigError(option, "certificate %d of the chain does not parse: %w", i+1, err)
		}
		if i == 0 {
			leaf = c
		}
	}
	if err := checkKeyPair(leaf, cert.PrivateKey); err != nil {
		return ConfigError(option, "%w", err)
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return ConfigError(option, "the RSA key has %d bits; the least is 2048", key.N.BitLen())
	}
	return nil
}

// externalSigner reports whether a private key lives outside of the process's
// memory, such as in a hardware module: it can sign but not be exported.
func externalSigner(key crypto.PrivateKey) bool {
	switch key.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return false
	}
	return true
}
