package tlstest

import (
	"crypto/tls"
	"testing"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A peer that sends records which bring no data makes this end work for nothing:
// some are usual, and without an end they must fail the connection.
func (s *suite) testRecordsWithoutData(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		for name, send := range map[string]func(*records.Keys) []byte{
			"empty records": func(w *records.Keys) []byte { return w.Record(RecordApplicationData, nil) },
			"key updates":   func(w *records.Keys) []byte { return w.KeyUpdate(false) },
			"both by turns": func(w *records.Keys) []byte {
				return append(w.KeyUpdate(false), w.Record(RecordApplicationData, nil)...)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Run("some", func(t *testing.T) {
					d, w := s.withRecordWriter(t, r)
					for i := range byte(100) {
						var out []byte
						for range 4 {
							out = append(out, send(w)...)
						}
						writeRecords(t, d, append(out, w.Record(RecordApplicationData, []byte{i})...))
						var got [2]byte
						n, err := d.conn.Read(got[:])
						require.NoError(t, err)
						require.Equal(t, []byte{i}, got[:n])
					}
				})
				t.Run("too many", func(t *testing.T) {
					d, w := s.withRecordWriter(t, r)
					var out []byte
					for range 9000 {
						out = append(out, send(w)...)
					}
					writeRecords(t, d, append(out, w.Record(RecordApplicationData, []byte("late"))...))
					// A Read that goes on finds the end of the transport.
					require.NoError(t, d.peerWire.Close())
					n, err := d.conn.Read(make([]byte, 10))
					e := s.requireKind(t, err, tlsapi.KindProtocol)
					assert.Equal(t, "read", e.Op)
					assert.Zero(t, n)
					_, err = d.conn.Read(make([]byte, 10))
					s.requireKind(t, err, tlsapi.KindProtocol)
					_, err = d.conn.Write([]byte("more"))
					require.Error(t, err)
				})
			})
		}
	})
}

// withRecordWriter makes a connection whose peer says nothing by itself any
// more: the writer does.
func (s *suite) withRecordWriter(t *testing.T, r role) (*duo, *records.Keys) {
	t.Helper()
	d, w, _ := s.withRecordKeys(t, r, s.serverConfig())
	return d, w
}

// withRecordKeys is withRecordWriter with the keys of the provider's end, too.
func (s *suite) withRecordKeys(t *testing.T, r role, serverConfig *tlsapi.ServerConfig) (d *duo, peers, own *records.Keys) {
	t.Helper()
	var log keyLog
	if r == client {
		d = s.clientDuo(t, s.clientConfig(), s.referenceServer(only(tls.VersionTLS13), func(c *tls.Config) {
			c.KeyLogWriter, c.SessionTicketsDisabled = &log, true
		}))
	} else {
		d = s.serverDuo(t, serverConfig, s.referenceClient(only(tls.VersionTLS13), func(c *tls.Config) { c.KeyLogWriter = &log }))
	}
	d.mustHandshake(t)
	return d, recordKeys(t, d, &log, r == server), recordKeys(t, d, &log, r == client)
}

// recordKeys takes the keys of what the client or the server of a connection
// sends from a key log.
func recordKeys(t *testing.T, d *duo, log *keyLog, client bool) *records.Keys {
	t.Helper()
	keys, err := records.FromKeyLog(tls.VersionTLS13, d.peer.ConnectionState().CipherSuite, log.all(), nil, client)
	require.NoError(t, err)
	return keys
}

// writeRecords sends records in the peer's place.
func writeRecords(t *testing.T, d *duo, records []byte) {
	t.Helper()
	d.peerWire.SetCapacity(1 << 20)
	_, err := d.peerWire.Write(records)
	require.NoError(t, err)
}
