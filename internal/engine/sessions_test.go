package engine

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"hash/crc32"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func exampleSession(authenticated time.Time, verified ...[]byte) *session {
	return &session{
		version:       tls.VersionTLS13,
		authenticated: authenticated,
		peerChain:     [][]byte{[]byte("leaf"), []byte("intermediate")},
		verifiedChain: verified,
		from:          1_600_000_000,
		until:         4_000_000_000,
		ocspResponse:  []byte("response"),
		library:       []byte("the library's session"),
	}
}

const exampleKey = "provider:key"

// sealed ends a body, right or wrong, as marshal does.
func sealed(body []byte) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(body), sessionChecksum(body))
}

func TestSessionForm(t *testing.T) {
	want := exampleSession(time.Unix(1_700_000_000, 0), []byte("leaf"), []byte("root"))
	raw := want.marshal(exampleKey)
	assert.Equal(t, len(raw), cap(raw), "one allocation, of the right size")
	got, ok := parseSession(exampleKey, raw)
	require.True(t, ok)
	assert.Equal(t, want, got)
	_, ok = parseSession("another key", raw)
	assert.False(t, ok)

	body := raw[:len(raw)-crc32.Size]
	require.Equal(t, raw, sealed(body))
	for n := range raw {
		_, ok := parseSession(exampleKey, raw[:n])
		assert.False(t, ok, "cut after %d bytes", n)
		changed := bytes.Clone(raw)
		changed[n] ^= 1
		_, ok = parseSession(exampleKey, changed)
		assert.False(t, ok, "byte %d changed", n)
	}
	for n := range body {
		_, ok := parseSession(exampleKey, sealed(body[:n]))
		assert.False(t, ok, "cut after %d bytes", n)
	}
	_, ok = parseSession(exampleKey, sealed(append(bytes.Clone(body), 0)))
	assert.False(t, ok, "a byte too many")
}

func TestSessionBounds(t *testing.T) {
	s := exampleSession(time.Now())
	s.library = make([]byte, maxSession)
	assert.Nil(t, s.marshal(exampleKey), "too large to be kept")
	s = exampleSession(time.Now())
	for range maxSessionChain + 1 {
		s.peerChain = append(s.peerChain, []byte("certificate"))
	}
	assert.Nil(t, s.marshal(exampleKey), "too many certificates")
	_, ok := parseSession(exampleKey, make([]byte, maxSession+1))
	assert.False(t, ok)
	s = exampleSession(time.Now())
	s.library = nil
	_, ok = parseSession(exampleKey, s.marshal(exampleKey))
	assert.False(t, ok, "without the library's session")
	s = exampleSession(time.Now())
	s.version = tls.VersionTLS11
	_, ok = parseSession(exampleKey, s.marshal(exampleKey))
	assert.False(t, ok, "of a version that is never negotiated")
}

func FuzzParseSession(f *testing.F) {
	raw := exampleSession(time.Unix(1_700_000_000, 0), []byte("leaf")).marshal(exampleKey)
	f.Add(raw[:len(raw)-crc32.Size])
	f.Add([]byte{sessionFormat})
	f.Fuzz(func(t *testing.T, body []byte) {
		raw := sealed(body)
		if s, ok := parseSession(exampleKey, raw); ok {
			assert.Equal(t, raw, s.marshal(exampleKey), "one form for one session")
		}
	})
}

func TestSessionUse(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	now := time.Unix(time.Now().Unix(), 0)
	certificate := func(from, to time.Duration) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(from), NotAfter: now.Add(to)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		require.NoError(t, err)
		return der
	}
	valid := certificate(-time.Hour, time.Hour)
	inPeriod := func(chain ...[]byte) *session {
		s := exampleSession(now, chain...)
		var ok bool
		s.from, s.until, ok = chainPeriod(chain)
		require.True(t, ok)
		return s
	}
	verifies := &Sessions{Verifies: true}
	for _, x := range []struct {
		name     string
		sessions *Sessions
		session  *session
		usable   bool
	}{
		{"fresh", verifies, inPeriod(valid, valid), true},
		{"six days old", verifies, exampleSession(now.Add(-6*24*time.Hour), valid), true},
		{"a week old", verifies, exampleSession(now.Add(-sessionLifetime), valid), false},
		{"from the future", verifies, exampleSession(now.Add(time.Minute), valid), false},
		{"expired leaf", verifies, inPeriod(certificate(-2*time.Hour, -time.Hour), valid), false},
		{"expired anchor", verifies, inPeriod(valid, certificate(-2*time.Hour, -time.Hour)), false},
		{"expires in this second", verifies, inPeriod(certificate(-2*time.Hour, 0), valid), true},
		{"expired a second ago", verifies, inPeriod(certificate(-2*time.Hour, -time.Second), valid), false},
		{"not yet valid", verifies, inPeriod(certificate(time.Hour, 2*time.Hour)), false},
		{"valid from this second on", verifies, inPeriod(certificate(0, time.Hour)), true},
		{"never verified", verifies, exampleSession(now), false},
		{"never verified, and nobody asks", &Sessions{}, exampleSession(now), true},
		{"current revocation list", &Sessions{Verifies: true, RevocationLists: []*x509.RevocationList{{NextUpdate: now.Add(time.Hour)}}},
			inPeriod(valid), true},
		{"revocation list without an end", &Sessions{Verifies: true, RevocationLists: []*x509.RevocationList{{}}},
			inPeriod(valid), true},
		{"outdated revocation list", &Sessions{Verifies: true, RevocationLists: []*x509.RevocationList{{NextUpdate: now.Add(-time.Hour)}}},
			inPeriod(valid), false},
	} {
		t.Run(x.name, func(t *testing.T) { assert.Equal(t, x.usable, x.sessions.usable(x.session, now)) })
	}
}

// What does not tell its period is not kept.
func TestPeriodOfNoCertificate(t *testing.T) {
	_, _, ok := chainPeriod([][]byte{[]byte("garbage")})
	assert.False(t, ok)
}
