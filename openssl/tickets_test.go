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
	"testing"
	"time"

	"github.com/polytls/polytls/internal/tickets"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A week after its full handshake a client has to show its key again, however
// often its ticket was renewed.
func TestTicketsEndAWeekAfterTheFullHandshake(t *testing.T) {
	if err := openssl.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	client := ca.Leaf(t, tlstest.Spec{CommonName: "client"})
	config := &tlsapi.ServerConfig{
		Certificates:      []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.example"}})},
		ClientAuth:        tls.RequireAndVerifyClientCert,
		ClientCAs:         tlstest.Pool(ca),
		SessionTicketKeys: [][32]byte{{1}},
	}
	keys, err := tickets.Keys(config.SessionTicketKeys, openssl.Provider.Name(), config.TicketBinding())
	require.NoError(t, err)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cache := new(oneSession)
			reference := &tls.Config{
				ServerName: "server.example", RootCAs: tlstest.X509Pool(ca), Certificates: []tls.Certificate{client},
				MinVersion: version, MaxVersion: version, ClientSessionCache: cache,
			}
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
