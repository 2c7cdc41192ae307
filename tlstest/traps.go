package tlstest

import (
	"crypto/tls"
	"math/big"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
)

// traps are what Pingora's TLS layer fell into, with the cases that keep us out.
// A case that needs a feature which the provider lacks need not have run.
var traps = []struct {
	name  string
	cases []string
	needs []tlsapi.Feature
}{
	{"a connection is reused under another CA", []string{"traps/identity"}, nil},
	{"certificates are told apart by serial number only", []string{"traps/identity", "client-authentication/client/certificates_are_kept_apart"}, nil},
	{"a server trusts the system's roots for clients", []string{"system-roots"}, []tlsapi.Feature{tlsapi.ServerClientAuth, tlsapi.ServerClientCAs}},
	{"an empty server name switches verification off", []string{"traps/empty_name", "verification/skip_host_name,_untrusted"}, nil},
	{"an IP literal is taken for a DNS name", []string{"verification/IPv4_address/", "verification/address_as_a_DNS_name", "verification/address_in_the_common_name"}, nil},
	{"partial wildcards are accepted", []string{"verification/partial_wildcard/"}, nil},
	{"secrets of PSKs are in debug output", []string{"secrets/connections"}, nil},
	{"there is no close_notify", []string{"close/close/client", "close/close/server"}, nil},
	{"authorities with equal serial numbers share a cached configuration", []string{"verification/contexts_of_different_trust", "client-authentication/authorities_of_the_same_name"}, nil},
	{"delays are skipped after the handshake", []string{"blinding/bad_record/client", "blinding/bad_record/server"}, []tlsapi.Feature{tlsapi.ClientBlinding, tlsapi.ServerBlinding}},
	{"the hash of a PSK is ignored", []string{"psks/.*wrong_hash"}, []tlsapi.Feature{tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal}},
}

func (s *suite) testTraps(t *testing.T) {
	t.Run("identity", s.testIdentity)
	t.Run("empty name", s.testEmptyName)
	t.Run("all have cases", func(t *testing.T) {
		wholeSuite(t)
		names := recorded(strings.TrimSuffix(t.Name(), "/traps/all_have_cases"))
		for _, trap := range traps {
			for _, pattern := range trap.cases {
				if !allSupported(s, trap.needs) {
					continue
				}
				assert.True(t, anyMatches(names, pattern), "%s: no case %q has passed", trap.name, pattern)
			}
		}
	})
}

func allSupported(s *suite, features []tlsapi.Feature) bool {
	for _, f := range features {
		if !s.supported(f) {
			return false
		}
	}
	return true
}

// testIdentity tests that what a pool of connections, a session cache and a
// server's tickets are keyed by tells authorities and certificates apart that
// have everything in common but their keys.
func (s *suite) testIdentity(t *testing.T) {
	spec := Spec{CommonName: "CA", Serial: big.NewInt(1), SubjectKeyID: []byte{1}}
	leaf := Spec{CommonName: "leaf", Serial: big.NewInt(2), DNSNames: []string{serverName}}
	var authorities [2]*Authority
	for i := range authorities {
		authorities[i] = NewAuthority(t, spec)
	}
	one, two := authorities[0].Leaf(t, leaf), authorities[1].Leaf(t, leaf)
	digests, sessions := make(map[[32]byte]bool), make(map[string]bool)
	for _, a := range authorities {
		config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(a) })
		digests[config.Digest()], sessions[config.SessionKey(s.p.Name())] = true, true
		// The provider takes each of them.
		wire, _ := newWire(t)
		conn, err := s.p.Client(wire, config)
		if assert.NoError(t, err) {
			assert.NoError(t, conn.Close())
		}
	}
	client := s.clientConfig()
	client.Certificate = &one
	other := *client
	other.Certificate = &two
	for _, config := range []*tlsapi.ClientConfig{client, &other} {
		digests[config.Digest()], sessions[config.SessionKey(s.p.Name())] = true, true
	}
	assert.Len(t, digests, 4)
	assert.Len(t, sessions, 4)

	bindings := make(map[[32]byte]bool)
	for _, a := range authorities {
		config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.ClientCAs = Pool(a) })
		bindings[config.TicketBinding()] = true
	}
	for _, cert := range []tls.Certificate{one, two} {
		config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} })
		bindings[config.TicketBinding()] = true
	}
	assert.Len(t, bindings, 4)
	pool := Pool(authorities[:]...)
	certs, err := pool.Certificates()
	assert.NoError(t, err)
	assert.Len(t, certs, 2, "a pool holds both")
}

// testEmptyName tests that no server name does not mean no verification.
func (s *suite) testEmptyName(t *testing.T) {
	s.requireClientRefusal(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.ServerName = "" }), tlsapi.KindConfig, "ServerName")
	s.need(t, tlsapi.ClientSkipHostname)
	other := NewAuthority(t, Spec{CommonName: "Another CA"})
	d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) {
		c.ServerName, c.SkipHostnameVerification, c.RootCAs = "", true, Pool(other)
	}), s.referenceServer())
	err, _ := d.handshakes()
	s.requireKinds(t, err, tlsapi.KindUntrusted)
}
