package engine_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// keyLines collects a key log.
type keyLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *keyLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *keyLines) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(l.text.String(), "\n")
}

// A peer that asks for key updates and takes none of the answers makes a Read
// wait with them: until its own deadline, not for good. The connection goes on
// when the peer takes them.
func TestReadDeadlineBehindUnsentAnswers(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		wire, serverWire := tlstest.Pipe()
		server, err := f.provider.Server(serverWire, &f.server)
		require.NoError(t, err)
		defer server.Close()
		var log keyLines
		roots, err := f.client.RootCAs.Certificates()
		require.NoError(t, err)
		reference := &tls.Config{ServerName: host, RootCAs: x509Pool(roots), MinVersion: tls.VersionTLS13, KeyLogWriter: &log}
		client := tls.Client(wire, reference)
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-done)
		keys, err := records.FromKeyLog(tls.VersionTLS13, client.ConnectionState().CipherSuite, log.lines(), nil, true)
		require.NoError(t, err)

		const messages = 400
		serverWire.SetCapacity(64)
		wire.SetCapacity(1 << 20)
		// BoringSSL fails at 32 of them in a row, and answers many at once.
		for range messages {
			var out []byte
			for range 30 {
				out = append(out, keys.KeyUpdate(true)...)
			}
			_, err = wire.Write(append(out, keys.Record(records.ApplicationData, []byte("x"))...))
			require.NoError(t, err)
		}
		read := 0
		for read < messages {
			require.NoError(t, server.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			_, err := server.Read(make([]byte, 1))

			if err != nil {
				require.ErrorIs(t, err, tlsapi.KindTimeout)
				break
			}
			read++
		}
		t.Logf("%d of %d messages were read before the peer took anything", read, messages)
		go func() { _, _ = io.Copy(io.Discard, wire) }()
		require.NoError(t, server.SetReadDeadline(time.Time{}))
		_, err = io.ReadFull(server, make([]byte, messages-read))
		require.NoError(t, err)
	})
}

func x509Pool(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool
}
