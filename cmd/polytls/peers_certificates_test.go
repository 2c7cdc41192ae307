package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// A server with two certificates for one name gives a client that we did not
// write the one whose key it says it can verify.
func TestServeOpenSSLClientWithOneKeyType(t *testing.T) {
	program := peer(t, "openssl")
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, c := range []struct{ name, version, schemes, signed string }{
			{"TLS 1.2 RSA", "-tls1_2", "rsa_pss_rsae_sha256:RSA+SHA256", "Peer signature type: RSA"},
			{"TLS 1.2 ECDSA", "-tls1_2", "ECDSA+SHA256", "Peer signature type: ECDSA"},
			{"TLS 1.3 RSA", "-tls1_3", "rsa_pss_rsae_sha256:RSA+SHA256", "Peer signature type: RSA-PSS"},
			{"TLS 1.3 ECDSA", "-tls1_3", "ECDSA+SHA256", "Peer signature type: ECDSA"},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := startServer(t, "--provider", p.Name(),
					"--cert", f.serverRSA, "--key", f.serverRSAKey, "--cert", f.serverECDSA, "--key", f.serverECDSAKey)
				cmd := exec.CommandContext(peerContext(t), program, "s_client", "-connect", s.address, "-servername", "localhost",
					"-CAfile", f.ca, c.version, "-sigalgs", c.schemes)
				output, err := dialogue(t, cmd, "hello over TLS", "\nhello over TLS")
				require.NoError(t, err, output)
				assert.Contains(t, output, c.signed)
				s.stop(t)
			})
		}
	})
}
