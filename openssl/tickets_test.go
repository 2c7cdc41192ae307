package openssl_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/tickets"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
)

// A week after its full handshake a client has to show its key again, however
// often its ticket was renewed.
func TestTicketsEndAWeekAfterTheFullHandshake(t *testing.T) {
	config, keys, reference := parties(t, tlsapi.Settings{})
	client := reference.Certificates[0]
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cache, reference := new(oneSession), reference.Clone()
			reference.MinVersion, reference.MaxVersion, reference.ClientSessionCache = version, version, cache
			require.False(t, resumes(t, config, reference))
			first := openTicket(t, &keys[0], cache.session)
			since := first.since(t, client.Certificate[0])
			assert.InDelta(t, time.Now().Unix(), int64(binary.BigEndian.Uint64(since)), 60)

			sixDays := uint64(time.Now().Add(-6 * 24 * time.Hour).Unix())
			binary.BigEndian.PutUint64(since, sixDays)
			cache.session = first.seal(t, &keys[0])
			require.True(t, resumes(t, config, reference))
			if version == tls.VersionTLS13 {
				renewed := openTicket(t, &keys[0], cache.session)
				assert.Equal(t, sixDays, binary.BigEndian.Uint64(renewed.since(t, client.Certificate[0])))
			}

			binary.BigEndian.PutUint64(since, uint64(time.Now().Add(-8*24*time.Hour).Unix()))
			cache.session = first.seal(t, &keys[0])
			require.False(t, resumes(t, config, reference))
		})
	}
}

// Who has seen a ticket can send it a hundred times in one ClientHello. The library
// looks at each until one fits, so the provider stops verifying their chains.
func TestTicketsWhoseChainsAreVerifiedAreFew(t *testing.T) {
	config, keys, reference := parties(t, tlsapi.Settings{
		MinVersion:   tls.VersionTLS13,
		CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384},
	})
	cache := new(oneSession)
	reference.ClientSessionCache = cache
	require.False(t, resumes(t, config, reference))
	hello := firstMessage(t, reference)
	good := openTicket(t, &keys[0], cache.session)

	// changed is the ticket after a change.
	changed := func(change func(x *ticket)) []byte {
		x := &ticket{head: good.head, session: bytes.Clone(good.session), state: good.state}
		change(x)
		identity, _, err := x.seal(t, &keys[0]).ResumptionState()
		require.NoError(t, err)
		return identity
	}
	identity := changed(func(*ticket) {})
	leaf := reference.Certificates[0].Certificate[0]
	for name, c := range map[string]struct {
		other    []byte
		verified bool
	}{
		"a chain that is refused": {changed(func(x *ticket) {
			at := bytes.LastIndex(x.session, leaf)
			require.Greater(t, at, bytes.Index(x.session, leaf), "there is no chain in the ticket")
			x.session[at+len(leaf)-1] ^= 1 // its signature
		}), true},
		"another hash": {changed(func(x *ticket) {
			const octetString = 4
			at := bytes.Index(x.session, binary.BigEndian.AppendUint16([]byte{octetString, 2}, tls.TLS_AES_128_GCM_SHA256))
			require.GreaterOrEqual(t, at, 0, "the suite is not in the session")
			binary.BigEndian.PutUint16(x.session[at+2:], tls.TLS_AES_256_GCM_SHA384)
		}), true},
		"unreadable": {bytes.Repeat([]byte{1}, len(identity)), false},
		"older than a week": {changed(func(x *ticket) {
			binary.BigEndian.PutUint64(x.since(t, leaf), uint64(time.Now().Add(-8*24*time.Hour).Unix()))
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			behind := func(n int) bool {
				return takesTicket(t, config, withIdentities(t, hello, append(slices.Repeat([][]byte{c.other}, n), identity)))
			}
			assert.False(t, takesTicket(t, config, withIdentities(t, hello, [][]byte{c.other})))
			assert.True(t, behind(0))
			assert.True(t, behind(2))
			assert.True(t, behind(3))
			assert.Equal(t, !c.verified, behind(4))
			assert.Equal(t, !c.verified, behind(10))
		})
	}
}

// parties returns a server that asks for certificates, the keys of its tickets, and
// a client. It skips the test where the library is missing.
func parties(t *testing.T, settings tlsapi.Settings) (*tlsapi.ServerConfig, []tickets.Key, *tls.Config) {
	t.Helper()
	if err := openssl.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	config := &tlsapi.ServerConfig{
		Settings:          settings,
		Certificates:      []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.example"}})},
		ClientAuth:        tls.RequireAndVerifyClientCert,
		ClientCAs:         tlstest.Pool(ca),
		SessionTicketKeys: [][32]byte{{1}},
	}
	keys, err := tickets.Keys(config.SessionTicketKeys, openssl.Provider.Name(), config.TicketBinding())
	require.NoError(t, err)
	return config, keys, &tls.Config{
		ServerName: "server.example", RootCAs: tlstest.X509Pool(ca),
		Certificates: []tls.Certificate{ca.Leaf(t, tlstest.Spec{CommonName: "client"})},
	}
}

// firstMessage returns the ClientHello of crypto/tls, which offers a ticket.
func firstMessage(t *testing.T, reference *tls.Config) []byte {
	t.Helper()
	clientWire, serverWire := tlstest.Pipe()
	defer serverWire.Close()
	client := tls.Client(clientWire, reference)
	defer client.Close()
	go client.Handshake()
	head := make([]byte, 5)
	_, err := io.ReadFull(serverWire, head)
	require.NoError(t, err)
	message := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err = io.ReadFull(serverWire, message)
	require.NoError(t, err)
	return message
}

// withIdentities returns a ClientHello with other tickets, and binders that are
// not right.
func withIdentities(t *testing.T, hello []byte, identities [][]byte) []byte {
	t.Helper()
	s := cryptobyte.String(hello)
	var random []byte
	var body, session, suites, compression, extensions cryptobyte.String
	require.True(t, s.Skip(1) && s.ReadUint24LengthPrefixed(&body) && s.Empty() && body.ReadBytes(&random, 2+32) &&
		body.ReadUint8LengthPrefixed(&session) && body.ReadUint16LengthPrefixed(&suites) &&
		body.ReadUint8LengthPrefixed(&compression) && body.ReadUint16LengthPrefixed(&extensions) && body.Empty())

	var b cryptobyte.Builder
	b.AddUint8(hello[0])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddBytes(random)
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(session) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(suites) })
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(compression) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			const preSharedKey = 41 // the last one (RFC 8446 section 4.2.11)
			for id := uint16(0); id != preSharedKey; {
				var extension cryptobyte.String
				require.True(t, extensions.ReadUint16(&id) && extensions.ReadUint16LengthPrefixed(&extension))
				b.AddUint16(id)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
					if id != preSharedKey {
						b.AddBytes(extension)
						return
					}
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
						for _, identity := range identities {
							b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(identity) })
							b.AddUint32(0)
						}
					})
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
						for range identities {
							b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, sha256.Size)) })
						}
					})
				})
			}
			require.True(t, extensions.Empty())
		})
	})
	return b.BytesOrPanic()
}

// takesTicket reports whether the server has taken a ticket of a ClientHello: an
// alert about its binder, and not a ServerHello.
func takesTicket(t *testing.T, config *tlsapi.ServerConfig, hello []byte) bool {
	t.Helper()
	clientWire, serverWire := tlstest.Pipe()
	server, err := openssl.Provider.Server(serverWire, config)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	for part := range slices.Chunk(hello, 1<<14) {
		record := binary.BigEndian.AppendUint16([]byte{tlstest.RecordHandshake, 3, 1}, uint16(len(part)))
		_, err := clientWire.Write(append(record, part...))
		require.NoError(t, err)
	}
	answer := make([]byte, 5+2)
	_, err = io.ReadFull(clientWire, answer)
	require.NoError(t, err)
	clientWire.Close()
	require.Error(t, <-done)
	server.Close()
	if answer[0] == tlstest.RecordAlert {
		const fatal, decryptError = 2, 51
		require.Equal(t, []byte{fatal, decryptError}, answer[5:])
		return true
	}
	const serverHello = 2
	require.Equal(t, []byte{tlstest.RecordHandshake, serverHello}, []byte{answer[0], answer[5]})
	return false
}

// oneSession is a cache that keeps the last session.
type oneSession struct{ session *tls.ClientSessionState }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) { return c.session, c.session != nil }

func (c *oneSession) Put(_ string, session *tls.ClientSessionState) {
	if session != nil {
		c.session = session
	}
}

// resumes makes a connection, on which the server speaks, and reports whether it
// was resumed.
func resumes(t *testing.T, config *tlsapi.ServerConfig, reference *tls.Config) bool {
	t.Helper()
	clientWire, serverWire := tlstest.Pipe()
	server, err := openssl.Provider.Server(serverWire, config)
	require.NoError(t, err)
	said := make(chan error, 1)
	go func() {
		_, err := server.Write([]byte("hello"))
		said <- err
	}()
	client := tls.Client(clientWire, reference)
	_, err = io.ReadFull(client, make([]byte, 5))
	require.NoError(t, err)
	require.NoError(t, <-said)
	resumed := server.Info().Resumed
	assert.Equal(t, resumed, client.ConnectionState().DidResume)
	assert.Len(t, server.ConnectionState().PeerCertificates, 1)
	client.Close()
	server.Close()
	return resumed
}

// ticket is one of OpenSSL's that was decrypted: name of the key, IV, session,
// digest of all that.
type ticket struct {
	head    []byte
	session []byte
	state   *tls.SessionState
}

const ticketHead = 16 + aes.BlockSize

func openTicket(t *testing.T, key *tickets.Key, of *tls.ClientSessionState) *ticket {
	t.Helper()
	sealed, state, err := of.ResumptionState()
	require.NoError(t, err)
	require.Greater(t, len(sealed), ticketHead+sha256.Size)
	require.Equal(t, key.Name[:], sealed[:16])
	block, err := aes.NewCipher(key.Encryption[:])
	require.NoError(t, err)
	session := bytes.Clone(sealed[ticketHead : len(sealed)-sha256.Size])
	cipher.NewCBCDecrypter(block, sealed[16:ticketHead]).CryptBlocks(session, session)
	return &ticket{head: sealed[:ticketHead], session: session, state: state}
}

// since is where the time stands, in front of the chain.
func (x *ticket) since(t *testing.T, leaf []byte) []byte {
	t.Helper()
	at := bytes.Index(x.session, append(binary.BigEndian.AppendUint32(nil, uint32(len(leaf))), leaf...))
	require.Greater(t, at, 8, "there is no chain in the ticket")
	return x.session[at-8 : at]
}

func (x *ticket) seal(t *testing.T, key *tickets.Key) *tls.ClientSessionState {
	t.Helper()
	block, err := aes.NewCipher(key.Encryption[:])
	require.NoError(t, err)
	sealed := append(bytes.Clone(x.head), x.session...)
	cipher.NewCBCEncrypter(block, x.head[16:]).CryptBlocks(sealed[ticketHead:], x.session)
	mac := hmac.New(sha256.New, key.MAC[:])
	mac.Write(sealed)
	session, err := tls.NewResumptionState(mac.Sum(sealed), x.state)
	require.NoError(t, err)
	return session
}
