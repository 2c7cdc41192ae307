package tlstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/chacha20poly1305"
)

// A peer that sends records which bring no data makes this end work for nothing:
// some are usual, and without an end they must fail the connection.
func (s *suite) testRecordsWithoutData(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		for name, send := range map[string]func(*recordWriter) []byte{
			"empty records": func(w *recordWriter) []byte { return w.record(RecordApplicationData, nil) },
			"key updates":   (*recordWriter).keyUpdate,
			"both by turns": func(w *recordWriter) []byte {
				return append(w.keyUpdate(), w.record(RecordApplicationData, nil)...)
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
						w.write(t, d, append(out, w.record(RecordApplicationData, []byte{i})...))
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
					w.write(t, d, append(out, w.record(RecordApplicationData, []byte("late"))...))
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

// recordWriter writes records of TLS 1.3 as crypto/tls's end of a connection
// would, with that end's keys.
type recordWriter struct {
	hash   func() hash.Hash
	suite  uint16
	secret []byte
	seq    uint64
	aead   cipher.AEAD
	iv     []byte
}

// withRecordWriter makes a connection whose peer says nothing by itself any
// more: the writer does.
func (s *suite) withRecordWriter(t *testing.T, r role) (*duo, *recordWriter) {
	t.Helper()
	var log keyLog
	var d *duo
	label := "SERVER_TRAFFIC_SECRET_0"
	if r == client {
		d = s.clientDuo(t, s.clientConfig(), s.referenceServer(only(tls.VersionTLS13), func(c *tls.Config) {
			c.KeyLogWriter, c.SessionTicketsDisabled = &log, true
		}))
	} else {
		label = "CLIENT_TRAFFIC_SECRET_0"
		d = s.serverDuo(t, s.serverConfig(), s.referenceClient(only(tls.VersionTLS13), func(c *tls.Config) { c.KeyLogWriter = &log }))
	}
	d.mustHandshake(t)
	w := &recordWriter{hash: sha256.New, suite: d.peer.ConnectionState().CipherSuite}
	if w.suite == tls.TLS_AES_256_GCM_SHA384 {
		w.hash = sha512.New384
	}
	for _, line := range log.all() {
		if rest, ok := strings.CutPrefix(line, label+" "); ok {
			_, secret, _ := strings.Cut(strings.TrimSpace(rest), " ")
			var err error
			w.secret, err = hex.DecodeString(secret)
			require.NoError(t, err)
		}
	}
	require.NotEmpty(t, w.secret)
	w.setKeys()
	return d, w
}

// write sends records in the peer's place.
func (w *recordWriter) write(t *testing.T, d *duo, records []byte) {
	t.Helper()
	d.peerWire.SetCapacity(1 << 20)
	_, err := d.peerWire.Write(records)
	require.NoError(t, err)
}

// record is one record of the content type.
func (w *recordWriter) record(kind byte, content []byte) []byte {
	inner := append(append([]byte{}, content...), kind)
	header := binary.BigEndian.AppendUint16([]byte{RecordApplicationData, 3, 3}, uint16(len(inner)+w.aead.Overhead()))
	nonce := append([]byte{}, w.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(w.seq >> (56 - 8*i))
	}
	w.seq++
	return w.aead.Seal(header, nonce, inner, header)
}

// keyUpdate is a KeyUpdate that asks for none (RFC 8446 section 4.6.3).
func (w *recordWriter) keyUpdate() []byte {
	const messageKeyUpdate = 24
	out := w.record(RecordHandshake, []byte{messageKeyUpdate, 0, 0, 1, 0})
	w.secret = w.expand("traffic upd", len(w.secret))
	w.setKeys()
	return out
}

func (w *recordWriter) setKeys() {
	size := 32
	if w.suite == tls.TLS_AES_128_GCM_SHA256 {
		size = 16
	}
	key := w.expand("key", size)
	w.iv, w.seq = w.expand("iv", 12), 0
	var err error
	if w.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		w.aead, err = chacha20poly1305.New(key)
	} else {
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			w.aead, err = cipher.NewGCM(block)
		}
	}
	if err != nil {
		panic(fmt.Sprintf("tlstest: keys of suite 0x%04x: %v", w.suite, err))
	}
}

// expand is HKDF-Expand-Label without a context (RFC 8446 section 7.1).
func (w *recordWriter) expand(label string, size int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	label = "tls13 " + label
	info = append(append(append(info, byte(len(label))), label...), 0)
	out, err := hkdf.Expand(w.hash, w.secret, string(info), size)
	if err != nil {
		panic(fmt.Sprintf("tlstest: %v", err))
	}
	return out
}
