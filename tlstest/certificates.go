package tlstest

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testServerCertificates(t *testing.T) {
	t.Run("chain is sent", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, version uint16) {
			cert := s.ca.Intermediate(t, Spec{CommonName: "One"}).Intermediate(t, Spec{CommonName: "Two"}).Leaf(t, validSpec(ECDSA))
			config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} })
			d := s.serverDuo(t, config, s.referenceClient(only(version)))
			d.mustHandshake(t)
			var got [][]byte
			for _, c := range d.peer.ConnectionState().PeerCertificates {
				got = append(got, c.Raw)
			}
			assert.Equal(t, cert.Certificate, got)
		})
	})
	t.Run("chosen by name", s.testCertificateByName)
	t.Run("chosen by key type", s.testCertificateByKeyType)
	t.Run("empty common names", s.testEmptyCommonNames)
	t.Run("external signer", s.testExternalSigner)
	t.Run("hook", s.testGetCertificate)
	t.Run("configuration hook", s.testGetConfigForClient)
}

func (s *suite) testCertificateByName(t *testing.T) {
	s.need(t, tlsapi.ServerCertificatesByName)
	first := s.ca.Leaf(t, Spec{DNSNames: []string{"first.example"}})
	second := s.ca.Leaf(t, Spec{DNSNames: []string{"second.example"}})
	wildcard := s.ca.Leaf(t, Spec{DNSNames: []string{"*.wild.example"}})
	config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{first, second, wildcard} })
	for name, want := range map[string]tls.Certificate{
		"first.example":   first,
		"second.example":  second,
		"SECOND.example":  second,
		"a.wild.example":  wildcard,
		"unknown.example": first,
		"":                first,
	} {
		t.Run("name "+name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				d := s.serverDuo(t, config, s.referenceClient(only(version), func(c *tls.Config) {
					c.ServerName, c.InsecureSkipVerify = name, true
				}))
				d.mustHandshake(t)
				assert.Equal(t, want.Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
			})
		})
	}
}

func (s *suite) testCertificateByKeyType(t *testing.T) {
	s.need(t, tlsapi.ServerCertificatesByName)
	config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{s.certs[ECDSA], s.certs[RSA]} })
	for _, c := range []struct {
		kind  KeyType
		suite uint16
	}{
		{ECDSA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		{RSA, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			d := s.serverDuo(t, config, s.referenceClient(only(tls.VersionTLS12), func(r *tls.Config) { r.CipherSuites = []uint16{c.suite} }))
			d.mustHandshake(t)
			assert.Equal(t, s.certs[c.kind].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
		})
	}
}

// s2n 1.3.33 on its own frees the text of a common name twice that has none.
func (s *suite) testEmptyCommonNames(t *testing.T) {
	empty := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: asn1.TagUTF8String}}
	subject, err := asn1.Marshal(pkix.RDNSequence{{empty}, {empty}})
	require.NoError(t, err)
	spec := validSpec(ECDSA)
	spec.Subject = subject
	cert := s.ca.Leaf(t, spec)
	eachVersion(t, func(t *testing.T, version uint16) {
		config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} })
		d := s.serverDuo(t, config, s.referenceClient(only(version)))
		d.mustHandshake(t)
		assert.Equal(t, cert.Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
	})
}

func (s *suite) testGetCertificate(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	other := s.ca.Leaf(t, Spec{DNSNames: []string{"other.example"}})
	errHook := errors.New("no such customer")
	var names []string
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			names = append(names, hello.ServerName)
			switch hello.ServerName {
			case "other.example":
				return &other, nil
			case "error.example":
				return nil, errHook
			}
			return nil, nil
		}
	})
	connect := func(t *testing.T, name string) *duo {
		return s.serverDuo(t, config, s.referenceClient(func(c *tls.Config) { c.ServerName = name }))
	}
	t.Run("certificate", func(t *testing.T) {
		names = nil
		d := connect(t, "other.example")
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.Equal(t, []string{"other.example"}, names)
	})
	t.Run("nil falls back", func(t *testing.T) { connect(t, serverName).mustHandshake(t) })
	t.Run("error", func(t *testing.T) {
		err, peerErr := connect(t, "error.example").handshakes()
		s.requireKind(t, err, tlsapi.KindRejected)
		require.ErrorIs(t, err, errHook)
		require.Error(t, peerErr)
	})
}

func (s *suite) testGetConfigForClient(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	other := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.Certificates = []tls.Certificate{s.ca.Leaf(t, Spec{DNSNames: []string{"other.example"}})}
		c.ALPN = []string{"other"}
	})
	errHook := errors.New("no such customer")
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.ALPN = []string{"first"}
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			switch hello.ServerName {
			case "other.example":
				return other, nil
			case "error.example":
				return nil, errHook
			}
			return nil, nil
		}
	})
	connect := func(t *testing.T, name string) *duo {
		return s.serverDuo(t, config, s.referenceClient(func(c *tls.Config) {
			c.ServerName, c.NextProtos = name, []string{"first", "other"}
		}))
	}
	t.Run("configuration", func(t *testing.T) {
		d := connect(t, "other.example")
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.Equal(t, "other", d.conn.Info().ALPN)
	})
	t.Run("nil falls back", func(t *testing.T) {
		d := connect(t, serverName)
		d.mustHandshake(t)
		assert.Equal(t, "first", d.conn.Info().ALPN)
	})
	t.Run("error", func(t *testing.T) {
		err, peerErr := connect(t, "error.example").handshakes()
		s.requireKind(t, err, tlsapi.KindRejected)
		require.ErrorIs(t, err, errHook)
		require.Error(t, peerErr)
	})
}
