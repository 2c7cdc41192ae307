package tlsapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Other places than the system's are read by the function behind SystemRoots,
// which itself reads them once per process.
func TestLoadSystemRoots(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	root := func(name string) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		require.NoError(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	names := func(file, directories string) []string {
		roots, err := loadSystemRoots(file, directories)
		require.NoError(t, err)
		var names []string
		for _, c := range roots {
			names = append(names, c.Subject.CommonName)
		}
		return names
	}
	dir := t.TempDir()
	write := func(name string, content ...[]byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		var all []byte
		for _, c := range content {
			all = append(all, c...)
		}
		require.NoError(t, os.WriteFile(path, all, 0o600))
		return path
	}
	damaged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not a certificate")})
	file := write("bundle.pem", []byte("# comment\n"), root("one"), damaged, root("two"), root("one"))
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o700))
	write("d1/a", root("three"))
	write("d1/b", []byte("no certificate"))
	write("d1/sub/c", root("not read"))
	write("d2/a", root("four"))

	assert.Equal(t, []string{"one", "two", "one"}, names(file, ""), "one certificate that does not parse takes no other away; signatures make the two of one name differ")
	assert.ElementsMatch(t, []string{"three", "four"}, names(filepath.Join(dir, "missing"), filepath.Join(dir, "d1")+":"+filepath.Join(dir, "d2")))
	assert.ElementsMatch(t, []string{"one", "two", "one", "three"}, names(file, filepath.Join(dir, "d1")), "both are set: both are read")

	_, err = loadSystemRoots(filepath.Join(dir, "missing"), empty)
	require.ErrorIs(t, err, KindConfig)
	assert.ErrorContains(t, err, "SSL_CERT_FILE")
}
