package engine_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
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
		server, wire, serverWire, keys := f.servedByKeys(t)
		const messages = 400
		serverWire.SetCapacity(64)
		wire.SetCapacity(1 << 20)
		// BoringSSL fails at 32 of them in a row, and answers many at once.
		for range messages {
			var out []byte
			for range 30 {
				out = append(out, keys.KeyUpdate(true)...)
			}
			_, err := wire.Write(append(out, keys.Record(records.ApplicationData, []byte("x"))...))
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
		_, err := io.ReadFull(server, make([]byte, messages-read))
		require.NoError(t, err)
	})
}

// servedByKeys is a server of TLS 1.3 after the handshake, its transport, and the
// keys with which a test sends records to it.
func (f *fixture) servedByKeys(t *testing.T) (server tlsapi.Conn, wire, serverWire *tlstest.Transport, keys *records.Keys) {
	wire, serverWire = tlstest.Pipe()
	server, err := f.provider.Server(serverWire, &f.server)
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	var log keyLines
	roots, err := f.client.RootCAs.Certificates()
	require.NoError(t, err)
	reference := &tls.Config{ServerName: host, RootCAs: x509Pool(roots), MinVersion: tls.VersionTLS13, KeyLogWriter: &log}
	client := tls.Client(wire, reference)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	keys, err = records.FromKeyLog(tls.VersionTLS13, client.ConnectionState().CipherSuite, log.lines(), nil, true)
	require.NoError(t, err)
	return server, wire, serverWire, keys
}

// A step ends after a number of records without data, and the next one goes on
// where it has ended: what is behind them is read, however they are cut.
func TestManyRecordsWithoutData(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		server, wire, serverWire, keys := f.servedByKeys(t)
		wire.SetCapacity(1 << 20)
		many := 3000
		if f.provider.Name() == "boringssl" {
			many = 30 // of a kind; its own limit is 32
		}
		for _, chunk := range []int{1 << 20, 1000, 17} {
			serverWire.SetChunk(chunk)
			var out []byte
			for range many {
				out = append(out, keys.KeyUpdate(false)...)
			}
			message := []byte("behind all of them")
			out = append(out, keys.Record(records.ApplicationData, message)...)
			_, err := wire.Write(out)
			require.NoError(t, err)
			require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Minute)))
			got := make([]byte, 100)
			n, err := server.Read(got)
			require.NoError(t, err)
			assert.Equal(t, message, got[:n])
		}
	})
}

// What crypto/tls would take is no flood. One that nobody has time for ends the
// connection before what is behind it.
func TestFloodsEnd(t *testing.T) {
	eachOf(t, []tlsapi.Provider{openssl.Provider, s2n.Provider}, func(t *testing.T, f *fixture) {
		engine.PaceFloods(t, time.Hour, 0)
		server, wire, _, keys := f.servedByKeys(t)
		for _, few := range []int{15, 15, 1, 15} {
			var out []byte
			for range few {
				out = append(out, keys.KeyUpdate(false)...)
			}
			_, err := wire.Write(append(out, keys.Record(records.ApplicationData, []byte("data"))...))
			require.NoError(t, err)
			got := make([]byte, 10)
			n, err := server.Read(got)
			require.NoError(t, err)
			require.Equal(t, "data", string(got[:n]))
		}

		var out []byte
		for range 16 {
			out = append(out, keys.KeyUpdate(false)...)
		}
		_, err := wire.Write(append(out, keys.Record(records.ApplicationData, []byte("data"))...))
		require.NoError(t, err)
		_, err = server.Read(make([]byte, 10))
		assert.ErrorIs(t, err, tlsapi.KindProtocol)
	})
}

func x509Pool(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool
}
