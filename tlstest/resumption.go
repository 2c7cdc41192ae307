package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testResumption is the matrix of what a session may cross: nothing. Sessions
// are resumed where all that a peer was authenticated by agrees, and never where
// anything differs (the class of CVE-2025-23419 and CVE-2025-68121).
func (s *suite) testResumption(t *testing.T) {
	p := newResumptionParties(t)
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerSessionTickets)
		eachVersion(t, func(t *testing.T, version uint16) {
			for _, keys := range []keyRelation{sharedKeys, clonedConfig, ownKeys} {
				t.Run(string(keys), func(t *testing.T) { s.testServerResumption(t, p, version, keys, true) })
			}
			t.Run("without a certificate", func(t *testing.T) { s.testServerResumption(t, p, version, clonedConfig, false) })
			t.Run("virtual hosts", func(t *testing.T) { s.testVirtualHosts(t, p, version) })
			t.Run("replayed tickets", func(t *testing.T) { s.testReplayedTickets(t, version) })
			t.Run("ended client", func(t *testing.T) { s.testEndedClient(t, version) })
			t.Run("long chain", func(t *testing.T) { s.testLongClientChain(t, version) })
		})
	})
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientSessionCache)
		eachVersion(t, func(t *testing.T, version uint16) {
			for _, caches := range []cacheRelation{sharedCache, clonedWithCache, mistakenCache} {
				t.Run(string(caches), func(t *testing.T) { s.testClientResumption(t, p, version, caches, false) })
			}
			t.Run("impostors", func(t *testing.T) { s.testClientResumption(t, p, version, sharedCache, true) })
			t.Run("what was not verified", func(t *testing.T) { s.testUnverifiedSessions(t, p, version) })
			t.Run("no tickets", func(t *testing.T) { s.testNoTickets(t, p, version) })
		})
	})
}

// resumptionParties are the certificates of the matrix: two authorities that
// only their keys tell apart, and what they have issued under equal names and
// serial numbers.
type resumptionParties struct {
	authorities [2]*Authority
	servers     [2][2]tls.Certificate // by authority and name
	clients     [2]tls.Certificate    // by authority
}

var resumptionNames = [2]string{"a.example", "b.example"}

func newResumptionParties(t *testing.T) *resumptionParties {
	t.Helper()
	var p resumptionParties
	for i := range p.authorities {
		p.authorities[i] = NewAuthority(t, Spec{CommonName: "Resumption CA", Serial: big.NewInt(1)})
		for j, name := range resumptionNames {
			p.servers[i][j] = p.authorities[i].Leaf(t, Spec{CommonName: "server", DNSNames: []string{name}, Serial: big.NewInt(2)})
		}
		p.clients[i] = p.authorities[i].Leaf(t, Spec{CommonName: "client", Serial: big.NewInt(3)})
	}
	return &p
}

// keyRelation is how the ticket keys of two servers relate.
type keyRelation string

const (
	sharedKeys   keyRelation = "shared keys"
	clonedConfig keyRelation = "cloned configuration"
	ownKeys      keyRelation = "own keys"
)

// serverTrust is one configuration of a server in the matrix.
type serverTrust struct {
	auth     tls.ClientAuthType
	ca, name int
}

func (x serverTrust) String() string {
	return fmt.Sprintf("{%v, CA %d, %s}", x.auth, x.ca+1, resumptionNames[x.name])
}

func eachServerTrust(f func(serverTrust)) {
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAndVerifyClientCert} {
		for ca := range 2 {
			for name := range 2 {
				f(serverTrust{auth, ca, name})
			}
		}
	}
}

func (x serverTrust) apply(p *resumptionParties, c *tlsapi.ServerConfig) {
	c.ClientAuth, c.ClientCAs = x.auth, Pool(p.authorities[x.ca])
	c.Certificates = []tls.Certificate{p.servers[0][x.name]}
}

// resumesClients reports whether the provider resumes sessions of servers with a
// mode of client authentication; those that do not for any but none say so.
func (s *suite) resumesClients(mode tls.ClientAuthType) bool {
	note := s.cells[tlsapi.ServerSessionTickets].Note
	return mode == tls.NoClientCert ||
		!strings.Contains(note, "ask clients for certificates") && !strings.Contains(note, "none with client authentication")
}

// anySession is a cache of crypto/tls that offers its one session to every
// server, which is what an attacker would do.
type anySession struct{ session *tls.ClientSessionState }

func (c *anySession) Get(string) (*tls.ClientSessionState, bool) { return c.session, c.session != nil }

// Put keeps the first session: a matrix of second connections starts from it.
func (c *anySession) Put(_ string, session *tls.ClientSessionState) {
	if c.session == nil {
		c.session = session
	}
}

// attacker returns crypto/tls's client that accepts everything and offers what
// cache holds.
func attacker(version uint16, name string, cache tls.ClientSessionCache, cert *tls.Certificate) *tls.Config {
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: cache}
	only(version)(config)
	sending(cert)(config)
	return config
}

// testServerResumption takes a ticket from every server of the matrix to every
// other. When certified, the client has a certificate that each of them trusts,
// so that every second handshake succeeds; otherwise it has nothing but the
// ticket.
func (s *suite) testServerResumption(t *testing.T, p *resumptionParties, version uint16, keys keyRelation, certified bool) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	if keys != clonedConfig {
		s.need(t, tlsapi.ServerSessionTicketKeys)
	}
	secret := func(b byte) [][32]byte { return [][32]byte{[32]byte(bytes.Repeat([]byte{b}, 32))} }
	eachServerTrust(func(first serverTrust) {
		firstConfig := s.serverConfig(func(c *tlsapi.ServerConfig) {
			first.apply(p, c)
			if keys != clonedConfig {
				c.SessionTicketKeys = secret(1)
			}
		})
		cache := new(anySession)
		reference := attacker(version, resumptionNames[first.name], cache, &p.clients[first.ca])
		s.visit(t, firstConfig, reference, func(d *duo) {
			require.False(t, d.conn.Info().Resumed)
			// Tickets of TLS 1.3 come with the first data.
			d.mustEcho(t)
		})
		if s.resumesClients(first.auth) {
			require.NotNil(t, cache.session, "%v issues no ticket", first)
		} else {
			require.Nil(t, cache.session, "%v issues a ticket, although its note says it does not", first)
			return
		}
		eachServerTrust(func(second serverTrust) {
			secondConfig := *firstConfig
			second.apply(p, &secondConfig)
			if keys == ownKeys {
				secondConfig.SessionTicketKeys = secret(2)
			}
			cert := &p.clients[second.ca]
			if !certified {
				cert = nil
			}
			what := fmt.Sprintf("a ticket of %v at %v", first, second)
			resumes := first == second && keys != ownKeys
			reference := attacker(version, resumptionNames[second.name], cache, cert)
			if cert == nil && second.auth == tls.RequireAndVerifyClientCert && !resumes {
				s.visitRefused(t, &secondConfig, reference, what)
				return
			}
			s.visit(t, &secondConfig, reference, func(d *duo) {
				assert.Equal(t, resumes, d.conn.Info().Resumed, what)
				assert.Equal(t, resumes, d.peer.ConnectionState().DidResume, what)
				if resumes {
					cert = &p.clients[first.ca]
				}
				s.requireClientSeen(t, d, second.auth, cert, what)
			})
		})
	})
}

// testEndedClient: a ticket is no way around the end of the client's certificate.
// A full handshake follows, for which the client may have another one.
func (s *suite) testEndedClient(t *testing.T, version uint16) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	if !s.resumesClients(tls.RequireAndVerifyClientCert) {
		t.Skipf("declared: %s", s.cells[tlsapi.ServerSessionTickets].Note)
	}
	lasting := s.ca.Leaf(t, Spec{CommonName: "lasting"})
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
	})
	var cache *anySession
	s.outlive(t, Spec{CommonName: "ending"}, func(ending tls.Certificate) error {
		cache = new(anySession)
		d, done := s.shortServerDuo(t, config, attacker(version, serverName, cache, &ending))
		defer done()
		if err := errors.Join(d.handshake()); err != nil {
			return err
		}
		d.mustEcho(t)
		require.NotNil(t, cache.session)
		return nil
	})
	s.visit(t, config, attacker(version, serverName, cache, &lasting), func(d *duo) {
		assert.False(t, d.conn.Info().Resumed)
		s.requireClientSeen(t, d, config.ClientAuth, &lasting, "a ticket whose client has ended")
	})
}

// outlive lets use do handshakes with a certificate that is valid for a short
// time only, and returns when that is over. A machine on which the handshakes
// take longer gets a certificate that lasts longer.
func (s *suite) outlive(t *testing.T, spec Spec, use func(tls.Certificate) error) {
	t.Helper()
	for life := 2 * time.Second; ; life *= 4 {
		// Certificates know whole seconds.
		until := time.Now().Add(life).Truncate(time.Second)
		spec.NotAfter = until
		err := use(s.ca.Leaf(t, spec))
		if err != nil && time.Now().After(until) && life < patience/8 {
			continue
		}
		require.NoError(t, err)
		time.Sleep(time.Until(until.Add(time.Second)))
		return
	}
}

// testLongClientChain: a client whose chain is too long for a ticket does without,
// however often it comes.
func (s *suite) testLongClientChain(t *testing.T, version uint16) {
	s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	if !s.resumesClients(tls.RequireAndVerifyClientCert) {
		t.Skipf("declared: %s", s.cells[tlsapi.ServerSessionTickets].Note)
	}
	long := s.ca.Leaf(t, Spec{CommonName: "long chain"})
	for range 2 {
		// A root names its organization twice.
		other := NewAuthority(t, Spec{CommonName: "Long CA", Organization: strings.Repeat("o", 20000)})
		long.Certificate = append(long.Certificate, other.Certificate.Raw)
	}
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
	})
	cache := new(anySession)
	for range 2 {
		s.visit(t, config, attacker(version, serverName, cache, &long), func(d *duo) {
			d.mustEcho(t)
			assert.False(t, d.conn.Info().Resumed)
			s.requireClientSeen(t, d, config.ClientAuth, &long, "a chain that is too long for a ticket")
		})
	}
}

// requireClientSeen tests what a server knows of its client.
func (s *suite) requireClientSeen(t *testing.T, d *duo, auth tls.ClientAuthType, cert *tls.Certificate, what string) {
	t.Helper()
	got := d.conn.ConnectionState().PeerCertificates
	if auth == tls.NoClientCert || cert == nil {
		assert.Empty(t, got, what)
		return
	}
	if assert.NotEmpty(t, got, what) {
		assert.True(t, bytes.Equal(cert.Certificate[0], got[0].Raw), "the server sees another certificate: %s", what)
	}
	assert.Equal(t, auth == tls.RequireAndVerifyClientCert, d.conn.Info().Verified, what)
}

// visit runs one connection to the provider's server, looks at it with f, and
// ends it at once: a matrix has thousands.
func (s *suite) visit(t *testing.T, config *tlsapi.ServerConfig, reference *tls.Config, f func(*duo)) {
	t.Helper()
	d, done := s.shortServerDuo(t, config, reference)
	defer done()
	d.mustHandshake(t)
	f(d)
}

// visitRefused is visit for a client that is refused for want of a certificate.
func (s *suite) visitRefused(t *testing.T, config *tlsapi.ServerConfig, reference *tls.Config, what string) {
	t.Helper()
	d, done := s.shortServerDuo(t, config, reference)
	defer done()
	_, err := d.handshake()
	assert.False(t, d.conn.Info().Resumed, what)
	assert.ErrorIs(t, err, tlsapi.KindNoCertificate, what)
}

func (s *suite) shortServerDuo(t *testing.T, config *tlsapi.ServerConfig, reference *tls.Config) (d *duo, done func()) {
	t.Helper()
	record(t)
	clientWire, serverWire, stop := newShortWire()
	conn, err := s.p.Server(serverWire, config)
	require.NoError(t, err)
	peer := tls.Client(clientWire, reference)
	return &duo{
			session: &session{clientWire, serverWire, peer, conn},
			conn:    conn, peer: peer, connWire: serverWire, peerWire: clientWire,
		}, func() {
			conn.Close()
			clientWire.Close()
			stop()
		}
}

// testVirtualHosts takes tickets between the names of one server, whose
// configurations are chosen for each connection and share their keys.
func (s *suite) testVirtualHosts(t *testing.T, p *resumptionParties, version uint16) {
	s.need(t, tlsapi.ServerGetConfig, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	for _, hosts := range [][2]serverTrust{
		{{tls.NoClientCert, 0, 0}, {tls.RequireAndVerifyClientCert, 0, 1}},
		{{tls.RequestClientCert, 0, 0}, {tls.RequireAndVerifyClientCert, 0, 1}},
		{{tls.RequireAndVerifyClientCert, 0, 0}, {tls.RequireAndVerifyClientCert, 1, 1}},
		{{tls.NoClientCert, 0, 0}, {tls.NoClientCert, 0, 1}},
	} {
		base := s.serverConfig()
		chosen := make(map[string]*tlsapi.ServerConfig)
		for i, host := range hosts {
			clone := *base
			host.apply(p, &clone)
			chosen[resumptionNames[i]] = &clone
		}
		config := *base
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			return chosen[hello.ServerName], nil
		}
		for i, first := range hosts {
			cache := new(anySession)
			s.visit(t, &config, attacker(version, resumptionNames[i], cache, &p.clients[first.ca]), func(d *duo) { d.mustEcho(t) })
			if !s.resumesClients(first.auth) {
				require.Nil(t, cache.session)
				continue
			}
			require.NotNil(t, cache.session)
			s.visit(t, &config, attacker(version, resumptionNames[i], cache, &p.clients[first.ca]), func(d *duo) {
				assert.True(t, d.conn.Info().Resumed, "the same host, %v", first)
			})
			second := hosts[1-i]
			what := fmt.Sprintf("a ticket of host %v at host %v", first, second)
			reference := attacker(version, resumptionNames[1-i], cache, nil)
			if second.auth == tls.RequireAndVerifyClientCert {
				s.visitRefused(t, &config, reference, what)
				continue
			}
			s.visit(t, &config, reference, func(d *duo) {
				assert.False(t, d.conn.Info().Resumed, what)
				assert.Empty(t, d.conn.ConnectionState().PeerCertificates, what)
			})
		}
	}
}

// testReplayedTickets sends tickets that were changed on the way: a full
// handshake follows, whatever they hold.
func (s *suite) testReplayedTickets(t *testing.T, version uint16) {
	config, cache := s.serverConfig(), new(anySession)
	s.visit(t, config, attacker(version, serverName, cache, nil), func(d *duo) { d.mustEcho(t) })
	require.NotNil(t, cache.session)
	ticket, state, err := cache.session.ResumptionState()
	require.NoError(t, err)
	require.NotEmpty(t, ticket)
	flipped := func(at int) []byte {
		changed := bytes.Clone(ticket)
		changed[at] ^= 0x80
		return changed
	}
	for _, x := range []struct {
		name    string
		ticket  []byte
		resumes bool
	}{
		{"as it was", ticket, true},
		{"as it was, again", ticket, true},
		{"first byte changed", flipped(0), false},
		{"byte in the key's name changed", flipped(15), false},
		{"byte behind the key's name changed", flipped(17), false},
		{"byte in the middle changed", flipped(len(ticket) / 2), false},
		{"last byte changed", flipped(len(ticket) - 1), false},
		{"cut", ticket[:len(ticket)-1], false},
		{"one byte", ticket[:1], false},
		{"twice as long", append(bytes.Clone(ticket), ticket...), false},
		{"foreign", bytes.Repeat([]byte{0x5a}, len(ticket)), false},
		{"foreign and long", bytes.Repeat([]byte{0x5a}, 8000), false},
	} {
		session, err := tls.NewResumptionState(x.ticket, state)
		require.NoError(t, err)
		s.visit(t, config, attacker(version, serverName, &anySession{session}, nil), func(d *duo) {
			assert.Equal(t, x.resumes, d.conn.Info().Resumed, "ticket %s", x.name)
			assert.Equal(t, x.resumes, d.peer.ConnectionState().DidResume, "ticket %s", x.name)
		})
	}
	// What another server of the same program has issued, with other ticket
	// keys, and one of an unrelated program.
	other := &tls.Config{Certificates: []tls.Certificate{s.certs[ECDSA]}}
	foreign := new(anySession)
	clientWire, serverWire := newWire(t)
	peers := &session{clientWire, serverWire, tls.Client(clientWire, attacker(version, serverName, foreign, nil)), tls.Server(serverWire, other)}
	peers.closeWith(t)
	peers.mustHandshake(t)
	peers.mustEcho(t)
	require.NotNil(t, foreign.session)
	s.visit(t, config, attacker(version, serverName, foreign, nil), func(d *duo) {
		assert.False(t, d.conn.Info().Resumed, "a ticket of crypto/tls's server")
	})
}

// cacheRelation is how the session caches of two clients relate.
type cacheRelation string

const (
	sharedCache     cacheRelation = "shared cache"
	clonedWithCache cacheRelation = "cloned configuration"
	// mistakenCache returns sessions for keys that are not theirs: a fault of
	// the cache's author that must not become a fault of the verification.
	mistakenCache cacheRelation = "mistaken cache"
)

// clientTrust is one configuration of a client in the matrix.
type clientTrust struct {
	// cert is 0 for none, 1 and 2 for the certificates.
	cert     int
	ca, name int
}

func (x clientTrust) String() string {
	return fmt.Sprintf("{certificate %d, CA %d, %s}", x.cert, x.ca+1, resumptionNames[x.name])
}

func eachClientTrust(f func(clientTrust)) {
	for cert := range 3 {
		for ca := range 2 {
			for name := range 2 {
				f(clientTrust{cert, ca, name})
			}
		}
	}
}

func (x clientTrust) apply(p *resumptionParties, c *tlsapi.ClientConfig) {
	c.ServerName, c.RootCAs, c.Certificate = resumptionNames[x.name], Pool(p.authorities[x.ca]), nil
	if x.cert > 0 {
		c.Certificate = &p.clients[x.cert-1]
	}
}

// fixVersion makes TLS 1.2 the highest version of a client that is to resume
// sessions of TLS 1.2: some libraries keep none otherwise.
func (s *suite) fixVersion(c *tlsapi.Settings, version uint16) {
	if version == tls.VersionTLS12 && s.supported(tlsapi.ClientVersions) {
		c.MaxVersion = version
	}
}

// frozenCache gives out the sessions that it had when it was frozen, as often as
// it is asked.
type frozenCache struct {
	mistaken bool

	mu       sync.Mutex
	frozen   bool
	sessions map[string][]byte
}

func (c *frozenCache) Get(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if session := c.sessions[key]; session != nil {
		return bytes.Clone(session)
	}
	if c.mistaken {
		for _, session := range c.sessions {
			return bytes.Clone(session)
		}
	}
	return nil
}

func (c *frozenCache) Put(key string, session []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen {
		return
	}
	if c.sessions == nil {
		c.sessions = make(map[string][]byte)
	}
	c.sessions[key] = session
}

func (c *frozenCache) freeze() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = true
	return len(c.sessions)
}

// promiscuousServer is crypto/tls's server that accepts the tickets of all its
// like, whatever certificate they were issued with.
func promiscuousServer(version uint16, cert tls.Certificate) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
	config.SetSessionTicketKeys([][32]byte{[32]byte(bytes.Repeat([]byte{7}, 32))})
	only(version)(config)
	return config
}

// testClientResumption takes a session of every client of the matrix to every
// other. The server accepts every ticket. It has the certificate that the second
// client trusts, or, as an impostor, the one that the first has trusted.
func (s *suite) testClientResumption(t *testing.T, p *resumptionParties, version uint16, caches cacheRelation, impostor bool) {
	s.need(t, tlsapi.ClientCertificate, tlsapi.ClientRootCAs)
	eachClientTrust(func(first clientTrust) {
		cache := &frozenCache{mistaken: caches == mistakenCache}
		firstConfig := s.clientConfig(func(c *tlsapi.ClientConfig) {
			first.apply(p, c)
			s.fixVersion(&c.Settings, version)
			c.SessionCache = cache
		})
		s.call(t, firstConfig, promiscuousServer(version, p.servers[first.ca][first.name]), func(d *duo) {
			require.False(t, d.conn.Info().Resumed)
			d.mustEcho(t)
		})
		require.Equal(t, 1, cache.freeze(), "%v keeps its session", first)
		eachClientTrust(func(second clientTrust) {
			var secondConfig *tlsapi.ClientConfig
			if caches == clonedWithCache {
				clone := *firstConfig
				secondConfig = &clone
			} else {
				secondConfig = s.clientConfig(func(c *tlsapi.ClientConfig) {
					s.fixVersion(&c.Settings, version)
					c.SessionCache = cache
				})
			}
			second.apply(p, secondConfig)
			what := fmt.Sprintf("a session of %v at %v", first, second)
			server := second
			if impostor {
				server = first
			}
			reference := promiscuousServer(version, p.servers[server.ca][server.name])
			if server.ca != second.ca || server.name != second.name {
				s.callRefused(t, secondConfig, reference, what)
				return
			}
			s.call(t, secondConfig, reference, func(d *duo) {
				assert.Equal(t, first == second, d.conn.Info().Resumed, what)
				assert.Equal(t, first == second, d.peer.ConnectionState().DidResume, what)
				assert.True(t, d.conn.Info().Verified, what)
				assert.NotEmpty(t, d.conn.ConnectionState().VerifiedChains, what)
				got := d.conn.ConnectionState().PeerCertificates
				if assert.NotEmpty(t, got, what) {
					assert.True(t, bytes.Equal(p.servers[second.ca][second.name].Certificate[0], got[0].Raw), "the client sees another certificate: %s", what)
				}
				seen := d.peer.ConnectionState().PeerCertificates
				if second.cert == 0 {
					assert.Empty(t, seen, what)
				} else if assert.NotEmpty(t, seen, what) {
					assert.True(t, bytes.Equal(p.clients[second.cert-1].Certificate[0], seen[0].Raw), "the server sees another certificate: %s", what)
				}
			})
		})
	})
}

// call is visit for the provider's client.
func (s *suite) call(t *testing.T, config *tlsapi.ClientConfig, reference *tls.Config, f func(*duo)) {
	t.Helper()
	d, done := s.shortClientDuo(t, config, reference)
	defer done()
	clientErr, serverErr := d.handshake()
	require.NoError(t, errors.Join(clientErr, serverErr), "%v", config)
	f(d)
}

// callRefused is call for a server that the client does not trust.
func (s *suite) callRefused(t *testing.T, config *tlsapi.ClientConfig, reference *tls.Config, what string) {
	t.Helper()
	d, done := s.shortClientDuo(t, config, reference)
	defer done()
	err, _ := d.handshake()
	assert.False(t, d.conn.Info().Resumed, what)
	var e *tlsapi.Error
	if assert.ErrorAs(t, err, &e, what) {
		assert.Contains(t, []tlsapi.Kind{tlsapi.KindUntrusted, tlsapi.KindInvalidCertificate, tlsapi.KindHostname}, e.Kind, what)
	}
}

func (s *suite) shortClientDuo(t *testing.T, config *tlsapi.ClientConfig, reference *tls.Config) (d *duo, done func()) {
	t.Helper()
	record(t)
	clientWire, serverWire, stop := newShortWire()
	conn, err := s.p.Client(clientWire, config)
	require.NoError(t, err)
	peer := tls.Server(serverWire, reference)
	return &duo{
			session: &session{clientWire, serverWire, conn, peer},
			conn:    conn, peer: peer, connWire: clientWire, peerWire: serverWire,
		}, func() {
			conn.Close()
			serverWire.Close()
			stop()
		}
}

// testUnverifiedSessions takes sessions of clients that verify less to one that
// verifies.
func (s *suite) testUnverifiedSessions(t *testing.T, p *resumptionParties, version uint16) {
	for _, x := range []struct {
		name    string
		feature tlsapi.Feature
		lax     func(*tlsapi.ClientConfig)
		// cert is what the server presents.
		cert tls.Certificate
	}{
		{"nothing", tlsapi.ClientInsecureSkipVerify, func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }, p.servers[1][0]},
		{"not the name", tlsapi.ClientSkipHostname, func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true }, p.servers[0][1]},
		{"another name as well", tlsapi.ClientAlternativeName, func(c *tlsapi.ClientConfig) { c.AlternativeName = resumptionNames[1] }, p.servers[0][1]},
		{"another root as well", tlsapi.ClientRootCAs, func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(p.authorities[:]...) }, p.servers[1][0]},
	} {
		t.Run(x.name, func(t *testing.T) {
			s.need(t, x.feature)
			for _, mistaken := range []bool{false, true} {
				cache := &frozenCache{mistaken: mistaken}
				strict := s.clientConfig(func(c *tlsapi.ClientConfig) {
					clientTrust{}.apply(p, c)
					s.fixVersion(&c.Settings, version)
					c.SessionCache = cache
				})
				lax := *strict
				x.lax(&lax)
				reference := promiscuousServer(version, x.cert)
				s.call(t, &lax, reference, func(d *duo) { d.mustEcho(t) })
				require.Equal(t, 1, cache.freeze())
				s.call(t, &lax, reference, func(d *duo) { assert.True(t, d.conn.Info().Resumed) })
				s.callRefused(t, strict, reference, fmt.Sprintf("a session of a client that verifies %s, mistaken cache: %t", x.name, mistaken))
			}
		})
	}
}

// testNoTickets tests that a client offers nothing where nothing was issued, or
// where it is not to.
func (s *suite) testNoTickets(t *testing.T, p *resumptionParties, version uint16) {
	cache := &frozenCache{}
	config := s.clientConfig(func(c *tlsapi.ClientConfig) {
		clientTrust{}.apply(p, c)
		s.fixVersion(&c.Settings, version)
		c.SessionCache = cache
	})
	reference := promiscuousServer(version, p.servers[0][0])
	reference.SessionTicketsDisabled = true
	for range 2 {
		s.call(t, config, reference, func(d *duo) {
			assert.False(t, d.conn.Info().Resumed)
			d.mustEcho(t)
		})
	}
	assert.Empty(t, cache.sessions)
	// A handshake that failed leaves no session.
	distrustful := *config
	distrustful.ServerName = resumptionNames[1]
	s.callRefused(t, &distrustful, promiscuousServer(version, p.servers[0][0]), "the wrong name")
	assert.Empty(t, cache.sessions)
}

// pairResumption takes sessions between configurations of two providers.
func pairResumption(t *testing.T, c, v *suite, version uint16) {
	p := newResumptionParties(t)
	type change func(*tlsapi.ClientConfig, *tlsapi.ServerConfig)
	for _, x := range []struct {
		name    string
		resumes bool
		change  change
	}{
		{"nothing", true, func(*tlsapi.ClientConfig, *tlsapi.ServerConfig) {}},
		{"the clients' authority", false, func(_ *tlsapi.ClientConfig, server *tlsapi.ServerConfig) { server.ClientCAs = Pool(p.authorities[1]) }},
		{"client authentication", false, func(_ *tlsapi.ClientConfig, server *tlsapi.ServerConfig) {
			server.ClientAuth = tls.RequireAndVerifyClientCert
		}},
		{"the server's certificate", false, func(client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) {
			server.Certificates = []tls.Certificate{p.servers[1][0]}
			client.RootCAs = Pool(p.authorities[1])
		}},
		{"the name", false, func(client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) {
			server.Certificates = []tls.Certificate{p.servers[0][1]}
			client.ServerName = resumptionNames[1]
		}},
		{"the client's roots", false, func(client *tlsapi.ClientConfig, _ *tlsapi.ServerConfig) {
			client.RootCAs = Pool(p.authorities[:]...)
		}},
		{"the client's certificate", false, func(client *tlsapi.ClientConfig, _ *tlsapi.ServerConfig) { client.Certificate = &p.clients[1] }},
	} {
		t.Run("change of "+x.name, func(t *testing.T) {
			cache := tlsapi.NewLRUSessionCache(0)
			connect := func(apply change) *pairing {
				d := newPair(t, c, v, version, func(config *tlsapi.ClientConfig) {
					clientTrust{cert: 1}.apply(p, config)
					c.fixVersion(&config.Settings, version)
					config.SessionCache = cache
					apply(config, new(tlsapi.ServerConfig))
				}, func(config *tlsapi.ServerConfig) {
					serverTrust{}.apply(p, config)
					apply(new(tlsapi.ClientConfig), config)
				})
				d.mustHandshake(t)
				d.mustEcho(t)
				return d
			}
			first := connect(func(*tlsapi.ClientConfig, *tlsapi.ServerConfig) {})
			assert.False(t, first.clientConn.Info().Resumed)
			second := connect(x.change)
			assert.Equal(t, x.resumes, second.clientConn.Info().Resumed)
			assert.Equal(t, x.resumes, second.serverConn.Info().Resumed)
			one, two := first.clientConn.ConnectionState(), second.clientConn.ConnectionState()
			require.NotEmpty(t, two.PeerCertificates)
			if x.resumes {
				assert.True(t, bytes.Equal(one.PeerCertificates[0].Raw, two.PeerCertificates[0].Raw))
			}
			assert.True(t, second.clientConn.Info().Verified)
			require.NoError(t, second.client.Close())
			_, err := second.server.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err)
		})
	}
	// Not every server renews its tickets: a session that goes back to the cache
	// is the cache's again, and the connection's facts must not be in it.
	t.Run("cache that wipes", func(t *testing.T) {
		cache := &wipingCache{}
		for i := range 3 {
			d := newPair(t, c, v, version, func(config *tlsapi.ClientConfig) {
				clientTrust{}.apply(p, config)
				c.fixVersion(&config.Settings, version)
				config.SessionCache = cache
			}, func(config *tlsapi.ServerConfig) { serverTrust{}.apply(p, config) })
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Equal(t, i > 0, d.clientConn.Info().Resumed)
			require.NotEmpty(t, d.clientConn.ConnectionState().PeerCertificates)
			assert.Equal(t, p.servers[0][0].Certificate[0], d.clientConn.ConnectionState().PeerCertificates[0].Raw)
		}
	})
}
