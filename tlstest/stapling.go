package tlstest

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
)

// extensionStatusRequest asks for a stapled OCSP response (RFC 6066 section 8).
const extensionStatusRequest = 5

// staple stands for an OCSP response: neither end of a connection looks into it.
var staple = bytes.Repeat([]byte("an OCSP response "), 90)

func (s *suite) testStapling(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		t.Run("server", func(t *testing.T) { s.testServerStapling(t, version) })
		t.Run("client", func(t *testing.T) { s.testClientStapling(t, version) })
		t.Run("both", func(t *testing.T) { s.testStaplingPair(t, version) })
	})
}

func stapled(cert tls.Certificate, response []byte) tls.Certificate {
	cert.OCSPStaple = response
	return cert
}

// testServerStapling tests what crypto/tls's client, which always asks, gets.
func (s *suite) testServerStapling(t *testing.T, version uint16) {
	s.need(t, tlsapi.ServerOCSP)
	for _, kind := range []KeyType{ECDSA, RSA} {
		// The same certificate with other responses: they are part of what is
		// cached.
		for _, response := range [][]byte{staple, nil, []byte("renewed")} {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{stapled(s.certs[kind], response)} })
			d := s.serverDuo(t, config, s.referenceClient(only(version)))
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.True(t, bytes.Equal(response, d.peer.ConnectionState().OCSPResponse), "%v: the client got %d bytes of %d",
				kind, len(d.peer.ConnectionState().OCSPResponse), len(response))
			assert.Empty(t, d.conn.ConnectionState().OCSPResponse, "the server got none")
		}
	}
}

func (s *suite) testClientStapling(t *testing.T, version uint16) {
	if !s.supported(tlsapi.ClientOCSP) {
		d := s.clientDuo(t, s.clientConfig(), s.referenceServer(only(version), func(c *tls.Config) {
			c.Certificates = []tls.Certificate{stapled(s.certs[ECDSA], staple)}
		}))
		d.mustHandshake(t)
		assert.False(t, d.hello(t).Has(extensionStatusRequest), "the client asks for what it does not show")
		assert.Empty(t, d.conn.ConnectionState().OCSPResponse)
		return
	}
	for _, response := range [][]byte{staple, nil, []byte("another")} {
		reference := s.referenceServer(only(version), func(c *tls.Config) { c.Certificates = []tls.Certificate{stapled(s.certs[ECDSA], response)} })
		var calls hookCalls
		d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { calls.install(nil)(&c.Settings) }), reference)
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.True(t, d.hello(t).Has(extensionStatusRequest), "the client asks")
		assert.True(t, bytes.Equal(response, d.conn.ConnectionState().OCSPResponse), "the client shows %d bytes of %d",
			len(d.conn.ConnectionState().OCSPResponse), len(response))
		assert.True(t, bytes.Equal(response, calls.state.OCSPResponse), "the hook sees it")
	}
}

func (s *suite) testStaplingPair(t *testing.T, version uint16) {
	s.need(t, tlsapi.ClientOCSP, tlsapi.ServerOCSP)
	d := newPair(t, s, s, version, nil, func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{stapled(s.certs[ECDSA], staple)} })
	d.mustHandshake(t)
	d.mustEcho(t)
	assert.True(t, bytes.Equal(staple, d.clientConn.ConnectionState().OCSPResponse))
}
