package tlstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/require"
)

// KeyType is the type of a certificate's key.
type KeyType int

const (
	// ECDSA is a key on P-256; the zero value.
	ECDSA KeyType = iota
	RSA
	Ed25519
	// RSA1024 is a key that every provider must refuse.
	RSA1024
)

// String returns the type as it appears in test names.
func (k KeyType) String() string {
	switch k {
	case ECDSA:
		return "ECDSA-P256"
	case RSA:
		return "RSA-2048"
	case Ed25519:
		return "Ed25519"
	case RSA1024:
		return "RSA-1024"
	}
	return fmt.Sprintf("key type %d", int(k))
}

// Spec describes a certificate. The zero value of a field means what a valid
// certificate has.
type Spec struct {
	Key          KeyType
	CommonName   string
	Organization string
	// Subject, unless nil, is the subject in DER, in place of both names.
	Subject  []byte
	DNSNames []string
	// IPAddresses are IP literals.
	IPAddresses []string
	// NotBefore and NotAfter are an hour ago and in a day by default.
	NotBefore, NotAfter time.Time
	// KeyUsage is digitalSignature for leaves (and keyEncipherment for RSA),
	// keyCertSign for authorities by default.
	KeyUsage x509.KeyUsage
	// ExtKeyUsage is serverAuth and clientAuth for leaves, none for
	// authorities by default.
	ExtKeyUsage []x509.ExtKeyUsage
	// Serial is random by default.
	Serial *big.Int
	// Signature is that of the issuer's key type with SHA-256 by default.
	Signature x509.SignatureAlgorithm
	// PathLen is the longest chain under an authority, -1 for none at all.
	// Zero means no limit.
	PathLen int
	// PermittedDNSDomains are an authority's name constraints.
	PermittedDNSDomains []string
	// SubjectKeyID is the digest of the key by default. An empty one that is
	// not nil leaves the extension out.
	SubjectKeyID []byte
}

// Authority is a certification authority for tests.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	// intermediates lead from this authority up to the root, both excluded
	// and included respectively: empty for a root.
	intermediates [][]byte
}

// NewAuthority returns a new root.
func NewAuthority(tb testing.TB, spec Spec) *Authority {
	tb.Helper()
	key := newKey(tb, spec.Key)
	template := authorityTemplate(spec)
	return &Authority{Certificate: sign(tb, template, template, key.Public(), key), Key: key}
}

// Intermediate returns a new authority under a.
func (a *Authority) Intermediate(tb testing.TB, spec Spec) *Authority {
	tb.Helper()
	key := newKey(tb, spec.Key)
	cert := sign(tb, authorityTemplate(spec), a.Certificate, key.Public(), a.Key)
	return &Authority{
		Certificate:   cert,
		Key:           key,
		intermediates: append([][]byte{cert.Raw}, a.intermediates...),
	}
}

// Leaf returns a certificate that is not an authority's, with the chain up to
// the root, which is left out.
func (a *Authority) Leaf(tb testing.TB, spec Spec) tls.Certificate {
	tb.Helper()
	key := leafKey(tb, spec.Key)
	cert := sign(tb, leafTemplate(spec), a.Certificate, key.Public(), a.Key)
	return tls.Certificate{
		Certificate: append([][]byte{cert.Raw}, a.intermediates...),
		PrivateKey:  key,
		Leaf:        cert,
	}
}

// RevocationList returns a list of a that is current from thisUpdate to
// nextUpdate and revokes the certificates. Zero times mean one hour ago and in
// a day.
func (a *Authority) RevocationList(tb testing.TB, thisUpdate, nextUpdate time.Time, revoked ...*x509.Certificate) *x509.RevocationList {
	tb.Helper()
	if thisUpdate.IsZero() {
		thisUpdate = time.Now().Add(-time.Hour)
	}
	if nextUpdate.IsZero() {
		nextUpdate = time.Now().Add(24 * time.Hour)
	}
	template := &x509.RevocationList{Number: randomSerial(), ThisUpdate: thisUpdate, NextUpdate: nextUpdate}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: thisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.Certificate, a.Key)
	require.NoError(tb, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(tb, err)
	return list
}

// SelfSigned returns a certificate that is not an authority's and signs
// itself.
func SelfSigned(tb testing.TB, spec Spec) tls.Certificate {
	tb.Helper()
	key := leafKey(tb, spec.Key)
	template := leafTemplate(spec)
	cert := sign(tb, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// LeafOnly returns cert without its intermediates.
func LeafOnly(cert tls.Certificate) tls.Certificate {
	cert.Certificate = cert.Certificate[:1]
	return cert
}

// Issuer returns cert, a leaf, as an authority: what an attacker with an
// ordinary certificate would pose as.
func Issuer(cert tls.Certificate) *Authority {
	return &Authority{
		Certificate:   cert.Leaf,
		Key:           cert.PrivateKey.(crypto.Signer),
		intermediates: cert.Certificate,
	}
}

// Pool returns a pool with the certificates of the authorities.
func Pool(authorities ...*Authority) *tlsapi.CertPool {
	pool := tlsapi.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.Certificate)
	}
	return pool
}

// X509Pool is Pool for crypto/tls.
func X509Pool(authorities ...*Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.Certificate)
	}
	return pool
}

// PEM returns the certificate of the authority.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// CertificatePEM returns the chain of cert.
func CertificatePEM(cert tls.Certificate) []byte {
	var text []byte
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// KeyPEM returns the key of cert in PKCS #8.
func KeyPEM(tb testing.TB, cert tls.Certificate) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// WriteFiles writes chain and key of cert to new files under the test's
// temporary directory.
func WriteFiles(tb testing.TB, cert tls.Certificate) (certFile, keyFile string) {
	tb.Helper()
	dir := tb.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(tb, os.WriteFile(certFile, CertificatePEM(cert), 0o600))
	require.NoError(tb, os.WriteFile(keyFile, KeyPEM(tb, cert), 0o600))
	return certFile, keyFile
}

// Tamper returns cert with a leaf whose signature is wrong.
func Tamper(tb testing.TB, cert tls.Certificate) tls.Certificate {
	tb.Helper()
	der := append([]byte(nil), cert.Certificate[0]...)
	// The last byte belongs to the signature's value with every algorithm.
	der[len(der)-1] ^= 1
	leaf, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	cert.Certificate = append([][]byte{der}, cert.Certificate[1:]...)
	cert.Leaf = leaf
	return cert
}

func authorityTemplate(spec Spec) *x509.Certificate {
	template := spec.template()
	template.IsCA = true
	template.BasicConstraintsValid = true
	if template.KeyUsage == 0 {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	switch {
	case spec.PathLen < 0:
		template.MaxPathLenZero = true
	case spec.PathLen == 0:
		template.MaxPathLen = -1
	default:
		template.MaxPathLen = spec.PathLen
	}
	if len(spec.PermittedDNSDomains) > 0 {
		template.PermittedDNSDomains = spec.PermittedDNSDomains
		template.PermittedDNSDomainsCritical = true
	}
	return template
}

func leafTemplate(spec Spec) *x509.Certificate {
	template := spec.template()
	template.BasicConstraintsValid = true
	if template.KeyUsage == 0 {
		template.KeyUsage = x509.KeyUsageDigitalSignature
		if spec.Key == RSA || spec.Key == RSA1024 {
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		}
	}
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return template
}

func (spec Spec) template() *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber:       spec.Serial,
		Subject:            pkix.Name{CommonName: spec.CommonName},
		RawSubject:         spec.Subject,
		NotBefore:          spec.NotBefore,
		NotAfter:           spec.NotAfter,
		DNSNames:           spec.DNSNames,
		KeyUsage:           spec.KeyUsage,
		ExtKeyUsage:        spec.ExtKeyUsage,
		SignatureAlgorithm: spec.Signature,
		SubjectKeyId:       spec.SubjectKeyID,
	}
	if spec.Organization != "" {
		template.Subject.Organization = []string{spec.Organization}
	}
	for _, ip := range spec.IPAddresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	if template.SerialNumber == nil {
		template.SerialNumber = randomSerial()
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	return template
}

func randomSerial() *big.Int {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return serial.Add(serial, big.NewInt(1))
}

func sign(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	return cert
}

func newKey(tb testing.TB, kind KeyType) crypto.Signer {
	tb.Helper()
	key, err := generateKey(kind)
	require.NoError(tb, err)
	return key
}

// leafKey returns the process's one key of a type: making RSA keys is slow, and
// no test depends on leaves having different keys.
func leafKey(tb testing.TB, kind KeyType) crypto.Signer {
	tb.Helper()
	make, ok := leafKeys[kind]
	require.True(tb, ok, "unknown key type %v", kind)
	key, err := make()
	require.NoError(tb, err)
	return key
}

var leafKeys = map[KeyType]func() (crypto.Signer, error){
	ECDSA:   sync.OnceValues(func() (crypto.Signer, error) { return generateKey(ECDSA) }),
	RSA:     sync.OnceValues(func() (crypto.Signer, error) { return generateKey(RSA) }),
	Ed25519: sync.OnceValues(func() (crypto.Signer, error) { return generateKey(Ed25519) }),
	RSA1024: sync.OnceValues(func() (crypto.Signer, error) { return generateKey(RSA1024) }),
}

func generateKey(kind KeyType) (crypto.Signer, error) {
	switch kind {
	case ECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA:
		return rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA1024:
		return rsa.GenerateKey(rand.Reader, 1024)
	}
	return nil, fmt.Errorf("unknown key type %d", int(kind))
}
