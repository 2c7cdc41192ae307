package main

import (
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// pskPeerCase is an external PSK in our words and in those of openssl.
type pskPeerCase struct {
	ours    string
	openssl []string
}

const (
	pskIdentity = "someone"
	pskSecret   = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

// pskPeerCases has both hashes: openssl's -psk is of SHA-256 always, other
// hashes go through a session file.
func pskPeerCases(t *testing.T) map[tlsapi.PSKHash]pskPeerCase {
	secret, err := hex.DecodeString(pskSecret)
	require.NoError(t, err)
	// The fields of OpenSSL's SSL_SESSION that are not optional.
	session, err := asn1.Marshal(struct {
		Format, Version          int
		Suite, SessionID, Secret []byte
	}{1, 0x0304, []byte{0x13, 0x02}, []byte{}, secret})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "session.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "SSL SESSION PARAMETERS", Bytes: session}), 0o600))
	return map[tlsapi.PSKHash]pskPeerCase{
		tlsapi.PSKSHA256: {pskIdentity + ":" + pskSecret, []string{"-psk_identity", pskIdentity, "-psk", pskSecret}},
		tlsapi.PSKSHA384: {pskIdentity + ":" + pskSecret + ":sha384", []string{"-psk_identity", pskIdentity, "-psk_session", path}},
	}
}

func TestServeOpenSSLClientWithPSK(t *testing.T) {
	program := peer(t, "openssl")
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ServerPSKExternal) {
			t.Skip("the provider has no external PSKs")
		}
		for hash, c := range pskPeerCases(t) {
			t.Run(hash.String(), func(t *testing.T) {
				s := startServer(t, "--provider", p.Name(), "--psk", "other:"+strings.Repeat("7f", 32), "--psk", c.ours, "--require-psk")
				cmd := exec.CommandContext(peerContext(t), program, append([]string{"s_client", "-connect", s.address, "-tls1_3"}, c.openssl...)...)
				output, err := dialogue(t, cmd, "hello over TLS", "hello over TLS")
				require.NoError(t, err, output)
				assert.Contains(t, output, "no peer certificate available")
				assert.Contains(t, output, "Reused, TLSv1.3")
				assert.Regexp(t, `Cipher is TLS_\w+_`+strings.ToUpper(hash.String()), output)
				s.stop(t)
				assert.NotContains(t, s.log.String(), "failed")
				assert.NotContains(t, s.log.String(), pskSecret)
			})
		}
	})
}

func TestConnectToOpenSSLServerWithPSK(t *testing.T) {
	program := peer(t, "openssl")
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ClientPSKExternal) {
			t.Skip("the provider has no external PSKs")
		}
		for hash, c := range pskPeerCases(t) {
			t.Run(hash.String(), func(t *testing.T) {
				match, output, _ := startPeer(t, regexp.MustCompile(`ACCEPT (\S+)`), program,
					append([]string{"s_server", "-accept", "127.0.0.1:0", "-rev", "-nocert", "-tls1_3"}, c.openssl...)...)
				require.NotNil(t, match, output)
				received := filepath.Join(t.TempDir(), "received")
				ctx := peerContext(t)
				args := []string{"connect", match[1], "--json", "--output", received, "--provider", p.Name(),
					"--servername", "localhost", "--ca", f.ca, "--psk", c.ours, "--require-psk"}
				if p.Name() == "s2n" && hash == tlsapi.PSKSHA384 {
					// s_server takes the client's first suite, then looks for a
					// PSK of its hash. All other policies of 2023 that may be
					// used begin with one of SHA-256.
					args = append(args, "--security-policy", "rfc9151")
				}
				cmd := polytls(ctx, t, args...)
				r := runProcess(ctx, t, cmd, strings.NewReader("hello over TLS\n"))
				require.Equal(t, 0, r.status, r.stderr)
				var report connectionReport
				require.NoError(t, json.Unmarshal([]byte(r.stdout), &report), r.stdout)
				assert.Equal(t, pskIdentity, report.PSKIdentity)
				assert.Equal(t, hash == tlsapi.PSKSHA384, strings.HasSuffix(report.CipherSuite, "SHA384"))
				assert.False(t, report.Verified)
				assert.False(t, report.Resumed)
				assert.Nil(t, report.Peer)
				assert.Equal(t, "SLT revo olleh\n", textOf(t, received))
			})
		}
	})
}

// tls12PSKPeerCases are the suites of TLS 1.2 with a PSK that both have; the
// list that we send or choose from is our own.
var tls12PSKPeerCases = map[string]string{
	"ECDHE-PSK-CHACHA20-POLY1305": "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
	"ECDHE-PSK-AES128-CBC-SHA":    "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
}

func TestServeOpenSSLClientWithTLS12PSK(t *testing.T) {
	program := peer(t, "openssl")
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ServerPSKTLS12) {
			t.Skip("the provider has no PSKs of TLS 1.2")
		}
		for suite := range tls12PSKPeerCases {
			t.Run(suite, func(t *testing.T) {
				s := startServer(t, "--provider", p.Name(), "--psk-kind", "tls12", "--psk", "other:"+strings.Repeat("7f", 32),
					"--psk", pskIdentity+":"+pskSecret, "--require-psk")
				cmd := exec.CommandContext(peerContext(t), program, "s_client", "-connect", s.address, "-tls1_2", "-cipher", suite,
					"-psk_identity", pskIdentity, "-psk", pskSecret)
				output, err := dialogue(t, cmd, "hello over TLS", "hello over TLS")
				require.NoError(t, err, output)
				assert.Contains(t, output, "no peer certificate available")
				assert.Contains(t, output, "Cipher is "+suite)
				s.stop(t)
				assert.NotContains(t, s.log.String(), "failed")
				assert.NotContains(t, s.log.String(), pskSecret)
			})
		}
	})
}

func TestConnectToOpenSSLServerWithTLS12PSK(t *testing.T) {
	program := peer(t, "openssl")
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ClientPSKTLS12) {
			t.Skip("the provider has no PSKs of TLS 1.2")
		}
		for suite, name := range tls12PSKPeerCases {
			t.Run(suite, func(t *testing.T) {
				match, output, _ := startPeer(t, regexp.MustCompile(`ACCEPT (\S+)`), program, "s_server", "-accept", "127.0.0.1:0",
					"-rev", "-nocert", "-tls1_2", "-cipher", suite, "-psk", pskSecret, "-psk_hint", "a hint")
				require.NotNil(t, match, output)
				received := filepath.Join(t.TempDir(), "received")
				ctx := peerContext(t)
				// Its identity is the one that s_server expects unless told.
				cmd := polytls(ctx, t, "connect", match[1], "--json", "--output", received, "--provider", p.Name(),
					"--servername", "localhost", "--ca", f.ca, "--psk-kind", "tls12", "--psk", "Client_identity:"+pskSecret, "--require-psk")
				r := runProcess(ctx, t, cmd, strings.NewReader("hello over TLS\n"))
				require.Equal(t, 0, r.status, r.stderr)
				var report connectionReport
				require.NoError(t, json.Unmarshal([]byte(r.stdout), &report), r.stdout)
				assert.Equal(t, "Client_identity", report.PSKIdentity)
				assert.Equal(t, name, report.CipherSuite)
				assert.False(t, report.Verified)
				assert.Nil(t, report.Peer)
				assert.Equal(t, "SLT revo olleh\n", textOf(t, received))
			})
		}
	})
}
