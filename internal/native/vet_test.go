package native

import (
	"crypto"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestKeyExamples tests that a certificate which a library may refuse for another
// reason than the first with a key of its type is an example of its own: it must
// be refused before the first byte, not in some handshake.
func TestKeyExamples(t *testing.T) {
	first, err := exampleCertificate()
	require.NoError(t, err)
	external := first
	external.PrivateKey = remoteKey{first.PrivateKey.(crypto.Signer)}
	timestamped := first
	timestamped.SignedCertificateTimestamps = [][]byte{{1}}
	restricted := first
	restricted.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}
	for name, c := range map[string]struct {
		other    tls.Certificate
		examples int
	}{
		"the same":   {first, 1},
		"external":   {external, 2},
		"timestamps": {timestamped, 2},
		"schemes":    {restricted, 2},
	} {
		examples, err := keyExamples([]tls.Certificate{first, c.other})
		require.NoError(t, err)
		assert.Equal(t, c.examples, len(examples), name) // Len would print the keys
	}
	none, err := keyExamples(nil)
	require.NoError(t, err)
	assert.Len(t, none, 1)
}
