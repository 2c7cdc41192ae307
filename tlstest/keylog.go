package tlstest

import (
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testKeyLog(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		s.need(t, r.feature("key-log"))
		t.Run("like the peer's", func(t *testing.T) { s.testKeyLogLines(t, r, version) })
		t.Run("write fails", func(t *testing.T) { s.testKeyLogFails(t, r, version) })
	})
}

// keyLogged makes a session in which the provider's end logs to one writer and
// crypto/tls's to another.
func (s *suite) keyLogged(t *testing.T, r role, version uint16, own, peer interface{ Write([]byte) (int, error) }) *duo {
	if r == client {
		return s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.KeyLogWriter = own }),
			s.referenceServer(only(version), func(c *tls.Config) { c.KeyLogWriter = peer }))
	}
	return s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.KeyLogWriter = own }),
		s.referenceClient(only(version), func(c *tls.Config) { c.KeyLogWriter = peer }))
}

// testKeyLogLines compares the log with that of crypto/tls, which leaves out
// secrets that serve no decryption.
func (s *suite) testKeyLogLines(t *testing.T, r role, version uint16) {
	var own, peer keyLog
	d := s.keyLogged(t, r, version, &own, &peer)
	d.mustHandshake(t)
	d.mustEcho(t)
	random := hex.EncodeToString(d.hello(t).Random)
	want, got := peer.known(), own.known()
	if version == tls.VersionTLS13 {
		require.Len(t, want, 4)
	} else {
		require.Len(t, want, 1)
	}
	assert.ElementsMatch(t, want, got)
	for _, line := range own.all() {
		assert.Regexp(t, fmt.Sprintf("^[A-Z0-9_]+ %s [0-9a-f]+\n$", random), line, "one Write is one line of the NSS format")
	}
}

func (s *suite) testKeyLogFails(t *testing.T, r role, version uint16) {
	d := s.keyLogged(t, r, version, brokenLog{}, &keyLog{})
	err, peerErr := d.handshakes()
	s.requireKind(t, err, tlsapi.KindInternal)
	// crypto/tls keeps only the text of the writer's error in TLS 1.2.
	assert.ErrorContains(t, err, errBrokenLog.Error())
	assert.ErrorContains(t, err, "KeyLogWriter")
	if r == server || version == tls.VersionTLS13 {
		assert.Error(t, peerErr)
	}
}

// keyLog keeps what each Write was given.
type keyLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *keyLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *keyLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// known returns the lines that crypto/tls writes as well.
func (l *keyLog) known() []string {
	return slices.DeleteFunc(l.all(), func(line string) bool {
		label, _, _ := strings.Cut(line, " ")
		return label != "CLIENT_RANDOM" && !strings.HasSuffix(label, "_TRAFFIC_SECRET") && !strings.HasSuffix(label, "_TRAFFIC_SECRET_0")
	})
}

var errBrokenLog = errors.New("the disk is full")

type brokenLog struct{}

func (brokenLog) Write([]byte) (int, error) { return 0, errBrokenLog }
