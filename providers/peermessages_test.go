package providers_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// A peer has the keys: what it sends behind the handshake decrypts, whatever it
// is. The network, which has none, is FuzzAfterHandshake's.

// keyedPeer is an end of a provider after its handshake with crypto/tls, and the
// keys with which that writes.
type keyedPeer struct {
	conn tlsapi.Conn
	wire *tlstest.Transport // the peer's
	peer *tls.Conn
	keys *records.Keys
}

func (x *fuzzFixtures) keyed(t *testing.T, p tlsapi.Provider, client bool, version uint16) *keyedPeer {
	t.Helper()
	clientWire, serverWire := tlstest.Pipe()
	var log bytes.Buffer
	k := &keyedPeer{}
	var err error
	if client {
		c := x.clientConfig(p)
		c.SessionCache = tlsapi.NewLRUSessionCache(0)
		k.conn, err = p.Client(clientWire, c)
		k.wire = serverWire
		// A ticket would be a record of its own.
		config := x.peerServer(version)
		config.KeyLogWriter, config.SessionTicketsDisabled = &log, true
		k.peer = tls.Server(serverWire, config)
	} else {
		c := x.serverConfig(p)
		k.conn, err = p.Server(serverWire, c)
		k.wire = clientWire
		config := x.peerClient(version)
		config.KeyLogWriter = &log
		k.peer = tls.Client(clientWire, config)
	}
	require.NoError(t, err, p.Name())
	done := make(chan error, 1)
	go func() { done <- k.peer.Handshake() }()
	require.NoError(t, errors.Join(k.conn.Handshake(), <-done), p.Name())
	k.keys, err = records.FromKeyLog(version, k.peer.ConnectionState().CipherSuite, strings.Split(log.String(), "\n"), serverWire.Written(), !client)
	require.NoError(t, err)
	return k
}

// FuzzPeerMessages gives both ends of an established connection a record that the
// peer has encrypted, and one with data behind it.
func FuzzPeerMessages(f *testing.F) {
	x := newFuzzFixtures(f)
	message := func(kind byte, body ...byte) []byte {
		return append([]byte{kind, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	ticket := append([]byte{0, 0, 0x1c, 0x20, 1, 2, 3, 4, 8}, make([]byte, 8)...)
	ticket = append(append(ticket, 0, 100), bytes.Repeat([]byte{0x5a}, 100)...)
	for _, client := range []bool{false, true} {
		for _, tls13 := range []bool{false, true} {
			for _, content := range [][]byte{
				message(4, append(ticket, 0, 0)...),              // NewSessionTicket
				message(4, append(ticket, 0, 4, 0, 42, 0, 0)...), // with early_data that lacks its content
				message(4, append(ticket, 0, 8, 0, 42, 0, 4, 0, 0, 1, 0)...),
				slices.Concat(message(4, append(ticket, 0, 0)...), message(24, 0)),
				message(24, 0), message(24, 1), message(24, 2), message(24), // KeyUpdate
				message(0), // HelloRequest
				message(1, append([]byte{3, 3}, make([]byte, 41)...)...), // ClientHello
				message(11, 0, 0, 0, 0),                                  // Certificate
				message(13, 0, 0, 4, 0, 13, 0, 0),                        // CertificateRequest
				message(20, make([]byte, 32)...),                         // Finished
				message(22, 1, 0, 0, 1, 0),                               // CertificateStatus
				{4, 0xff, 0xff, 0xff}, {4, 0}, {},
			} {
				f.Add(client, tls13, records.Handshake, content)
			}
			for _, alert := range [][]byte{{1, 0}, {2, 0}, {1, 90}, {2, 40}, {1, 100}, {3, 7}, {1}, {1, 0, 1, 0}, {}} {
				f.Add(client, tls13, records.Alert, alert)
			}
			f.Add(client, tls13, records.ApplicationData, []byte("data"))
			f.Add(client, tls13, records.ApplicationData, []byte{})
			f.Add(client, tls13, byte(20), []byte{1})
			f.Add(client, tls13, byte(24), []byte{1, 0, 1, 0})
			f.Add(client, tls13, byte(0), []byte{0})
			f.Add(client, tls13, byte(0), []byte{'d', 'a', 't', 'a', records.ApplicationData, 0})
		}
	}
	f.Fuzz(func(t *testing.T, client, tls13 bool, kind byte, content []byte) {
		version := uint16(tls.VersionTLS12)
		if tls13 {
			version = tls.VersionTLS13
		}
		content = content[:min(len(content), 1<<14)]
		if tls13 && kind == 0 {
			// That is padding: the type is the last byte that is not (RFC 8446 section 5.4).
			if content = bytes.TrimRight(content, "\x00"); len(content) > 0 {
				kind, content = content[len(content)-1], content[:len(content)-1]
			}
		}
		for _, p := range x.providers {
			promptly(t, p, func() { x.told(t, p, client, version, kind, content) })
		}
	})
}

// told gives an end the record, and requires that it delivers data as data and
// nothing else, and takes a cut for the end only behind a close_notify.
func (x *fuzzFixtures) told(t *testing.T, p tlsapi.Provider, client bool, version uint16, kind byte, content []byte) {
	k := x.keyed(t, p, client, version)
	defer k.conn.Close()
	const behind = "behind"
	out := append(k.keys.Record(kind, content), k.keys.Record(records.ApplicationData, []byte(behind))...)
	k.wire.SetCapacity(len(out) + 1<<16)
	_, err := k.wire.Write(out)
	require.NoError(t, err)
	k.wire.Close()
	got, err := io.ReadAll(k.conn)
	whole := behind
	if kind == records.ApplicationData {
		whole = string(content) + behind
	}
	if !strings.HasPrefix(whole, string(got)) {
		t.Errorf("%s: %q was delivered of record type %d", p.Name(), got, kind)
	}
	if err == nil && !(kind == records.Alert && len(content) > 1 && content[1] == 0) {
		t.Errorf("%s: a clean end without close_notify, record type %d", p.Name(), kind)
	}
	failUnexpected(t, p, err)
	if _, err = k.conn.Write([]byte("x")); !errors.Is(err, errors.ErrUnsupported) {
		// s2n cannot write behind the peer's close_notify.
		failUnexpected(t, p, err)
	}
}

// Chains and messages that are larger than any can be are refused before they are
// there, whoever sends them and whenever: what TestHugeMessages has of the first
// flights in the clear, for certificates of clients, encrypted ones, and behind the
// handshake.
func TestHugeMessagesOfPeers(t *testing.T) {
	x := newFuzzFixtures(t)
	chain := &tls.Certificate{Certificate: hugeChain(x.cert), PrivateKey: x.cert.PrivateKey}
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			name := tls.VersionName(version)
			for _, mode := range []tls.ClientAuthType{tls.RequestClientCert, tls.RequireAndVerifyClientCert} {
				t.Run(name+" certificate of a client, "+mode.String(), func(t *testing.T) {
					wire, serverWire := tlstest.Pipe()
					c := x.serverConfig(p)
					c.ClientAuth, c.ClientCAs = mode, tlstest.Pool(x.ca)
					conn, err := p.Server(serverWire, c)
					require.NoError(t, err)
					peer := tls.Client(wire, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
						GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return chain, nil }})
					requireRefused(t, conn, wire, conn.Handshake, func() { _ = peer.Handshake() })
				})
			}
			t.Run(name+" certificate of a server", func(t *testing.T) {
				wire, serverWire := tlstest.Pipe()
				c := x.clientConfig(p)
				conn, err := p.Client(wire, c)
				require.NoError(t, err)
				peer := tls.Server(serverWire, &tls.Config{MinVersion: version, MaxVersion: version,
					GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return chain, nil }})
				requireRefused(t, conn, serverWire, conn.Handshake, func() { _ = peer.Handshake() })
			})
			for _, client := range []bool{false, true} {
				role := map[bool]string{false: "server", true: "client"}[client]
				t.Run(name+" behind the handshake, "+role, func(t *testing.T) {
					k := x.keyed(t, p, client, version)
					read := func() error {
						_, err := k.conn.Read(make([]byte, 1))
						return err
					}
					requireRefused(t, k.conn, k.wire, read, func() {
						part := make([]byte, 1<<14)
						copy(part, []byte{4, 0xff, 0xff, 0xff})
						for range 1 << 10 {
							if _, err := k.wire.Write(k.keys.Record(records.Handshake, part)); err != nil {
								return
							}
							clear(part)
						}
					})
				})
			}
		}
	})
}

// requireRefused requires that an end fails, by what it does, before it has taken
// much of what its peer sends.
func requireRefused(t *testing.T, conn tlsapi.Conn, wire *tlstest.Transport, do func() error, send func()) {
	t.Helper()
	var sender sync.WaitGroup
	sender.Go(send)
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	err := do()
	// A transport that is closed takes the rest, as sockets do.
	taken := len(wire.Written())
	require.NoError(t, conn.Close())
	wire.Close()
	sender.Wait()
	t.Logf("refused after %d KiB with %v", taken>>10, err)
	require.Error(t, err)
	assert.NotErrorIs(t, err, tlsapi.KindTimeout)
	assert.Less(t, taken, 2<<20, "bytes that were taken")
}
