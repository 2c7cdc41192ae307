package tlsapi_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"math/big"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// files holds contents by name and writes them.
type files struct{ dir string }

func (f files) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(f.dir, name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func TestLoadCertificate(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	f := files{t.TempDir()}
	for _, kind := range []tlstest.KeyType{tlstest.ECDSA, tlstest.RSA, tlstest.Ed25519} {
		cert := ca.Intermediate(t, tlstest.Spec{CommonName: "I"}).Leaf(t, tlstest.Spec{Key: kind, DNSNames: []string{"x"}})
		chain, key := tlstest.CertificatePEM(cert), tlstest.KeyPEM(t, cert)
		keyBlock, _ := pem.Decode(key)
		certFile, keyFile := f.write(t, "cert.pem", chain), f.write(t, "key.pem", key)
		combined := f.write(t, "combined.pem", append(append([]byte("a comment\n"), key...), chain...))
		derCert, derKey := f.write(t, "cert.der", cert.Certificate[0]), f.write(t, "key.der", keyBlock.Bytes)
		for name, pair := range map[string][2]string{
			"PEM": {certFile, keyFile}, "one file": {combined, combined}, "DER": {derCert, derKey},
			"PEM and DER": {certFile, derKey}, "DER and PEM": {derCert, keyFile},
		} {
			t.Run(kind.String()+" "+name, func(t *testing.T) {
				got, err := tlsapi.LoadCertificate(pair[0], pair[1])
				require.NoError(t, err)
				assert.Equal(t, cert.Certificate[0], got.Certificate[0])
				// Package x509 may hold the same key in other forms.
				same := cert.PrivateKey.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got.PrivateKey)
				assert.True(t, same, "another key")
				if !strings.HasPrefix(name, "DER") {
					assert.Len(t, got.Certificate, 2)
				}
			})
		}
	}
	cert := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x"}})
	sec1, err := x509.MarshalECPrivateKey(certKey(t, cert))
	require.NoError(t, err)
	certFile := f.write(t, "cert.pem", tlstest.CertificatePEM(cert))
	// As openssl ecparam writes it: parameters first.
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...)
	_, err = tlsapi.LoadCertificate(certFile, f.write(t, "sec1.pem", text))
	require.NoError(t, err)
	_, err = tlsapi.LoadCertificate(certFile, f.write(t, "sec1.der", sec1))
	require.NoError(t, err)
}

func TestLoadCertificateMistakes(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	good := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x"}})
	other := tlstest.SelfSigned(t, tlstest.Spec{Key: tlstest.RSA, DNSNames: []string{"x"}})
	f := files{t.TempDir()}
	chain, key := tlstest.CertificatePEM(good), tlstest.KeyPEM(t, good)
	certFile, keyFile := f.write(t, "good-cert.pem", chain), f.write(t, "good-key.pem", key)
	certDER, keyDER := good.Certificate[0], mustDecode(t, key).Bytes
	garbage := make([]byte, 10<<20)
	rand.New(rand.NewSource(1)).Read(garbage)

	encryptedPKCS8 := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: keyDER})
	encryptedPKCS1 := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: keyDER,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00112233445566778899AABBCCDDEEFF"},
	})
	for _, c := range []struct {
		name string
		// cert or key is the content of the wrong file; nil is the good one.
		cert, key []byte
		part      string
	}{
		{"empty certificate", []byte{}, nil, "is empty"},
		{"blank certificate", []byte(" \r\n\t\n"), nil, "is empty"},
		{"empty key", nil, []byte{}, "is empty"},
		{"truncated certificate", chain[:len(chain)/2], nil, "damaged or truncated"},
		{"truncated certificate without an end", chain[:len(chain)-10], nil, "damaged or truncated"},
		{"truncated key", nil, key[:len(key)/2], "damaged or truncated"},
		{"truncated DER certificate", certDER[:len(certDER)-1], nil, "neither PEM nor a DER certificate"},
		{"truncated DER key", nil, keyDER[:len(keyDER)-1], "neither PEM nor a DER private key"},
		{"encrypted key", nil, encryptedPKCS8, "encrypted"},
		{"encrypted key of the old form", nil, encryptedPKCS1, "encrypted"},
		{"wrong key", nil, tlstest.KeyPEM(t, other), "does not belong"},
		{"key where a certificate is expected", key, nil, "there is no PEM certificate"},
		{"certificate where a key is expected", nil, chain, "there is no private key"},
		{"garbage certificate", garbage, nil, "neither PEM nor a DER certificate"},
		{"garbage key", nil, garbage, "neither PEM nor a DER private key"},
		{"garbage in a PEM certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: garbage[:300]}), nil, "certificate 1"},
		{"garbage in a PEM key", nil, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: garbage[:300]}), "does not parse"},
		{"second certificate damaged", append(bytes.Clone(chain), chain[:len(chain)/2]...), nil, "damaged or truncated"},
		{"text", []byte("this is a text\n"), nil, "neither PEM nor a DER certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert, key, wrong := certFile, keyFile, "wrong.pem"
			if c.cert != nil {
				cert = f.write(t, wrong, c.cert)
			}
			if c.key != nil {
				key = f.write(t, wrong, c.key)
			}
			begin := time.Now()
			_, err := tlsapi.LoadCertificate(cert, key)
			requireConfigError(t, err, "Certificates")
			assert.Contains(t, err.Error(), c.part)
			assert.Contains(t, err.Error(), filepath.Join(f.dir, wrong), "the file is named")
			assert.Less(t, len(err.Error()), 2000)
			assert.Less(t, time.Since(begin), 10*time.Second)
			requireNoKey(t, err.Error(), keyDER)
		})
	}
	t.Run("missing", func(t *testing.T) {
		missing := filepath.Join(f.dir, "missing.pem")
		for _, pair := range [][2]string{{missing, keyFile}, {certFile, missing}} {
			_, err := tlsapi.LoadCertificate(pair[0], pair[1])
			requireConfigError(t, err, "Certificates")
			assert.ErrorIs(t, err, fs.ErrNotExist)
			assert.Contains(t, err.Error(), missing)
		}
	})
	t.Run("directory", func(t *testing.T) {
		_, err := tlsapi.LoadCertificate(f.dir, keyFile)
		requireConfigError(t, err, "Certificates")
		assert.Contains(t, err.Error(), f.dir)
	})
	t.Run("too large", func(t *testing.T) {
		path := f.write(t, "large.pem", nil)
		require.NoError(t, os.Truncate(path, 65<<20))
		_, err := tlsapi.LoadCertificate(path, keyFile)
		requireConfigError(t, err, "Certificates")
		assert.Contains(t, err.Error(), path)
	})
	t.Run("shortcuts", func(t *testing.T) {
		_, err := tlsapi.ServerConfigFromFiles("missing.pem", keyFile)
		assert.ErrorIs(t, err, fs.ErrNotExist)
		_, err = tlsapi.MutualTLSClientConfig("x", certFile, keyFile, "missing.pem")
		assert.ErrorIs(t, err, fs.ErrNotExist)
		server, err := tlsapi.ServerConfigFromFiles(certFile, keyFile)
		require.NoError(t, err)
		assert.Equal(t, tlsapi.PolicyIntermediate, server.SecurityPolicy)
		require.NoError(t, server.Validate())
		client, err := tlsapi.MutualTLSClientConfig("x", certFile, keyFile, certFile)
		require.NoError(t, err)
		require.NoError(t, client.Validate())
		assert.NotNil(t, client.RootCAs)
		client, err = tlsapi.MutualTLSClientConfig("x", certFile, keyFile, "")
		require.NoError(t, err)
		assert.Nil(t, client.RootCAs, "the system's roots")
	})
}

// requireNoKey tests that a text holds no part of a key.
func requireNoKey(t *testing.T, text string, der []byte) {
	t.Helper()
	for _, form := range forms(der[len(der)-40:]) {
		require.NotContains(t, text, form)
	}
	encoded := string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: der}))
	for line := range strings.Lines(encoded) {
		if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") {
			require.NotContains(t, text, line)
		}
	}
}

func TestCertPool(t *testing.T) {
	serial := big.NewInt(5)
	one := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Same", Serial: serial})
	two := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Same", Serial: serial})
	count := func(p *tlsapi.CertPool) int {
		certs, err := p.Certificates()
		require.NoError(t, err)
		return len(certs)
	}
	t.Run("identity", func(t *testing.T) {
		pool := tlsapi.NewCertPool()
		assert.True(t, pool.Empty())
		pool.AddCert(one.Certificate)
		pool.AddCert(one.Certificate)
		assert.Equal(t, 1, count(pool))
		pool.AddCert(two.Certificate)
		assert.Equal(t, 2, count(pool), "equal names and serials are different certificates")
		assert.False(t, pool.Empty())
		assert.True(t, (*tlsapi.CertPool)(nil).Empty())
		var zero tlsapi.CertPool
		assert.True(t, zero.Empty())
		zero.AddSystemRoots()
		assert.False(t, zero.Empty())
	})
	t.Run("forms", func(t *testing.T) {
		f := files{t.TempDir()}
		pool := tlsapi.NewCertPool()
		require.NoError(t, pool.AddPEM(append(one.PEM(), two.PEM()...)))
		require.NoError(t, pool.AddDER(one.Certificate.Raw))
		assert.Equal(t, 2, count(pool))
		pool, err := tlsapi.CertPoolFromFiles(f.write(t, "a.pem", append([]byte("# comment\n"), one.PEM()...)), f.write(t, "b.der", two.Certificate.Raw))
		require.NoError(t, err)
		assert.Equal(t, 2, count(pool))
	})
	t.Run("mistakes", func(t *testing.T) {
		f := files{t.TempDir()}
		garbage := make([]byte, 10<<20)
		rand.New(rand.NewSource(2)).Read(garbage)
		key := tlstest.KeyPEM(t, tlstest.SelfSigned(t, tlstest.Spec{}))
		whole := one.PEM()
		for name, content := range map[string][]byte{
			"empty":               {},
			"garbage":             garbage,
			"garbage, almost PEM": append([]byte("-----BEGIN CERTIFICATE-----\n"), garbage...),
			"text":                []byte("no certificate here"),
			"truncated":           whole[:len(whole)/2],
			"second truncated":    append(bytes.Clone(whole), two.PEM()[:200]...),
			"key":                 key,
			"certificate and key": append(bytes.Clone(whole), key...),
			"damaged":             pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Certificate.Raw[1:]}),
			"truncated DER":       one.Certificate.Raw[:100],
			"two DER in a row":    append(bytes.Clone(one.Certificate.Raw), two.Certificate.Raw...),
		} {
			t.Run(name, func(t *testing.T) {
				path := f.write(t, "wrong", content)
				pool := tlsapi.NewCertPool()
				begin := time.Now()
				err := pool.AddFile(path)
				requireConfigError(t, err, "RootCAs")
				assert.Contains(t, err.Error(), path)
				assert.Less(t, len(err.Error()), 2000)
				assert.Less(t, time.Since(begin), 10*time.Second)
				requireConfigError(t, pool.AddPEM(content), "RootCAs")
				requireConfigError(t, pool.AddDER(content), "RootCAs")
				assert.True(t, pool.Empty(), "all or nothing")
			})
		}
		_, err := tlsapi.CertPoolFromFiles(filepath.Join(f.dir, "missing"))
		requireConfigError(t, err, "RootCAs")
		assert.ErrorIs(t, err, fs.ErrNotExist)
	})
}

func TestCertificateChecks(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	good := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x"}})
	change := func(f func(*tls.Certificate)) tls.Certificate {
		cert := good
		f(&cert)
		return cert
	}
	for name, cert := range map[string]tls.Certificate{
		"nothing":        {},
		"no key":         change(func(c *tls.Certificate) { c.PrivateKey = nil }),
		"no certificate": change(func(c *tls.Certificate) { c.Certificate = nil }),
		"not a key":      change(func(c *tls.Certificate) { c.PrivateKey = "a string" }),
		"wrong key":      change(func(c *tls.Certificate) { c.PrivateKey = ca.Key }),
		"garbage":        change(func(c *tls.Certificate) { c.Certificate = [][]byte{{1, 2, 3}} }),
		"garbage behind": change(func(c *tls.Certificate) { c.Certificate = [][]byte{c.Certificate[0], {1}} }),
		"another leaf":   change(func(c *tls.Certificate) { c.Certificate = [][]byte{ca.Certificate.Raw} }),
		"RSA 1024":       ca.Leaf(t, tlstest.Spec{Key: tlstest.RSA1024}),
	} {
		t.Run(name, func(t *testing.T) {
			requireConfigError(t, (&tlsapi.ClientConfig{ServerName: "x", Certificate: &cert}).Validate(), "Certificate")
			requireConfigError(t, (&tlsapi.ServerConfig{Certificates: []tls.Certificate{good, cert}}).Validate(), "Certificates")
		})
	}
}
