package tlstest

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"math/big"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
)

func (s *suite) testInformation(t *testing.T) {
	t.Run("client", s.testClientInformation)
	t.Run("server", s.testServerInformation)
	t.Run("before the handshake", func(t *testing.T) {
		eachRole(t, func(t *testing.T, r role) {
			d := s.unconnected(t, r, tls.VersionTLS13)
			info := d.conn.Info()
			assert.Equal(t, s.p.Name(), info.Provider)
			assert.Equal(t, s.p.LibraryVersion(), info.LibraryVersion)
			assert.Zero(t, info.Version)
			assert.Zero(t, info.CipherSuite)
			assert.Zero(t, info.Group)
			assert.False(t, info.Verified)
			assert.Empty(t, info.PeerSHA256)
			state := d.conn.ConnectionState()
			assert.False(t, state.HandshakeComplete)
			assert.Zero(t, state.Version)
			assert.Empty(t, state.PeerCertificates)
			assert.Same(t, d.connWire, d.conn.NetConn())
			assert.Equal(t, d.connWire.LocalAddr(), d.conn.LocalAddr())
			assert.Equal(t, d.connWire.RemoteAddr(), d.conn.RemoteAddr())
			assert.Empty(t, d.connWire.Written(), "asking must not start the handshake")
		})
	})
	t.Run("serial numbers", func(t *testing.T) {
		for _, serial := range []string{"1", "7f", "80", "ff00ff00ff", "abcdef0123456789abcdef0123456789abcd"} {
			number, ok := new(big.Int).SetString(serial, 16)
			require.True(t, ok)
			cert := s.ca.Leaf(t, Spec{DNSNames: []string{serverName}, Serial: number})
			d := s.clientDuo(t, s.clientConfig(), s.referenceServer(func(c *tls.Config) { c.Certificates = []tls.Certificate{cert} }))
			d.mustHandshake(t)
			got, ok := new(big.Int).SetString(d.conn.Info().PeerSerial, 16)
			require.True(t, ok, "%q", d.conn.Info().PeerSerial)
			assert.Zero(t, number.Cmp(got), "%s became %s", serial, d.conn.Info().PeerSerial)
			assert.Equal(t, hex.EncodeToString(number.Bytes()), evenHex(d.conn.Info().PeerSerial))
		}
	})
	t.Run("exporter", s.testExporter)
	t.Run("acknowledged name", s.testAcknowledgedName)
}

// testAcknowledgedName checks that a server says that it heeds the client's name
// (RFC 6066 section 3), where that stands on the wire in the clear.
func (s *suite) testAcknowledgedName(t *testing.T) {
	d := s.connected(t, server, tls.VersionTLS12)
	records, err := ParseRecords(d.connWire.Written())
	require.NoError(t, err)
	extensions, ok := serverExtensions(records[0])
	require.True(t, ok, "the first record is no ServerHello")
	assert.Contains(t, extensions, uint16(extensionServerName))
}

// serverExtensions returns the numbers of a ServerHello's extensions.
func serverExtensions(r Record) ([]uint16, bool) {
	var hello, sessionID, extensions cryptobyte.String
	message := cryptobyte.String(r.Payload)
	// Version and random, the suite, the compression.
	if r.Type != RecordHandshake || !message.Skip(1) || !message.ReadUint24LengthPrefixed(&hello) || !hello.Skip(2+32) ||
		!hello.ReadUint8LengthPrefixed(&sessionID) || !hello.Skip(2+1) || !hello.ReadUint16LengthPrefixed(&extensions) {
		return nil, false
	}
	var numbers []uint16
	for !extensions.Empty() {
		var number uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&number) || !extensions.ReadUint16LengthPrefixed(&body) {
			return nil, false
		}
		numbers = append(numbers, number)
	}
	return numbers, true
}

// evenHex pads a number in hexadecimal to whole bytes.
func evenHex(s string) string {
	if len(s)%2 == 1 {
		return "0" + s
	}
	return s
}

func (s *suite) testClientInformation(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		chain := s.ca.Intermediate(t, Spec{CommonName: "Intermediate"}).Leaf(t, validSpec(ECDSA))
		config := s.clientConfig(func(c *tlsapi.ClientConfig) {
			if s.supported(tlsapi.ClientALPN) {
				c.ALPN = tlsapi.ALPNH2H1()
			}
		})
		d := s.clientDuo(t, config, s.referenceServer(only(version), func(c *tls.Config) {
			c.Certificates, c.NextProtos = []tls.Certificate{chain}, []string{"h2"}
		}))
		d.mustHandshake(t)
		d.mustEcho(t)
		info, state, peer := d.conn.Info(), d.conn.ConnectionState(), d.peer.ConnectionState()
		s.requireCommonInformation(t, d, version)
		assert.Equal(t, serverName, info.ServerName)
		assert.True(t, info.Verified)
		requirePeer(t, info, chain, "Server Organization")
		require.Len(t, state.PeerCertificates, 2)
		require.NotEmpty(t, state.VerifiedChains)
		verified := state.VerifiedChains[0]
		require.Len(t, verified, 3)
		assert.Equal(t, s.ca.Certificate.Raw, verified[2].Raw)
		assert.Equal(t, peer.ServerName, state.ServerName)
		assert.Equal(t, d.hello(t).KeyShares, info.KeyShares)
		if info.SignatureScheme != 0 {
			assert.Equal(t, tls.ECDSAWithP256AndSHA256, info.SignatureScheme)
		}
	})
}

func (s *suite) testServerInformation(t *testing.T) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	eachVersion(t, func(t *testing.T, version uint16) {
		config := s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
			if s.supported(tlsapi.ServerALPN) {
				c.ALPN = tlsapi.ALPNH2H1()
			}
		})
		d := s.serverDuo(t, config, s.referenceClient(only(version), sending(&s.clientCert), func(c *tls.Config) {
			c.NextProtos = []string{"h2"}
		}))
		d.mustHandshake(t)
		d.mustEcho(t)
		s.requireCommonInformation(t, d, version)
		info := d.conn.Info()
		assert.Equal(t, serverName, info.ServerName)
		assert.Equal(t, serverName, d.conn.ConnectionState().ServerName)
		assert.True(t, info.Verified)
		requirePeer(t, info, s.clientCert, "Client Organization")
		assert.Equal(t, d.hello(t).KeyShares, info.KeyShares)
	})
}

// requireCommonInformation compares what the provider says with what
// crypto/tls says of the same connection.
func (s *suite) requireCommonInformation(t *testing.T, d *duo, version uint16) {
	t.Helper()
	info, state, peer := d.conn.Info(), d.conn.ConnectionState(), d.peer.ConnectionState()
	assert.Equal(t, s.p.Name(), info.Provider)
	assert.Equal(t, s.p.LibraryVersion(), info.LibraryVersion)
	assert.Equal(t, version, info.Version)
	assert.Equal(t, peer.CipherSuite, info.CipherSuite)
	if info.Group != 0 {
		assert.Equal(t, peer.CurveID, info.Group)
	}
	if version == tls.VersionTLS13 {
		assert.NotZero(t, info.Group)
	}
	assert.Equal(t, peer.NegotiatedProtocol, info.ALPN)
	assert.False(t, info.Resumed)
	assert.False(t, info.HelloRetryRequest)
	assert.Nil(t, info.PSKIdentity)
	assert.False(t, info.BlindingPending)

	assert.True(t, state.HandshakeComplete)
	assert.Equal(t, info.Version, state.Version)
	assert.Equal(t, info.CipherSuite, state.CipherSuite)
	assert.Equal(t, info.Group, state.CurveID)
	assert.Equal(t, info.ALPN, state.NegotiatedProtocol)
	assert.Equal(t, info.ServerName, state.ServerName)
	assert.False(t, state.DidResume)
	if state.TLSUnique != nil {
		// Not every library tells of it.
		assert.Equal(t, peer.TLSUnique, state.TLSUnique)
	}
}

func requirePeer(t *testing.T, info tlsapi.ConnectionInfo, cert tls.Certificate, organization string) {
	t.Helper()
	digest := sha256.Sum256(cert.Certificate[0])
	assert.Equal(t, hex.EncodeToString(digest[:]), info.PeerSHA256)
	assert.Equal(t, hex.EncodeToString(cert.Leaf.SerialNumber.Bytes()), evenHex(info.PeerSerial))
	assert.Equal(t, organization, info.PeerOrganization)
}

func (s *suite) testExporter(t *testing.T) {
	const label = "EXPERIMENTAL polytls test"
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("before the handshake", func(t *testing.T) {
			_, err := s.unconnected(t, r, version).conn.ExportKeyingMaterial(label, nil, 32)
			require.Error(t, err)
		})
		d := s.connected(t, r, version)
		if !s.supported(r.feature("exporter")) {
			_, err := d.conn.ExportKeyingMaterial(label, nil, 32)
			require.ErrorIs(t, err, errors.ErrUnsupported)
			return
		}
		state := d.peer.ConnectionState()
		for _, context := range [][]byte{nil, {}, []byte("context"), bytes.Repeat([]byte("x"), 500)} {
			for _, length := range []int{1, 32, 200} {
				got, err := d.conn.ExportKeyingMaterial(label, context, length)
				require.NoError(t, err)
				want, err := state.ExportKeyingMaterial(label, context, length)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
		}
		// A label of no bytes is one, too.
		got, err := d.conn.ExportKeyingMaterial("", nil, 32)
		require.NoError(t, err)
		want, err := state.ExportKeyingMaterial("", nil, 32)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		other, err := d.conn.ExportKeyingMaterial(label+" 2", nil, 32)
		require.NoError(t, err)
		same, err := d.conn.ExportKeyingMaterial(label, nil, 32)
		require.NoError(t, err)
		assert.NotEqual(t, other, same)
	})
}
