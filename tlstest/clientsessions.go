package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sessionLog is a cache that remembers what went through it.
type sessionLog struct {
	cache tlsapi.SessionCache

	mu       sync.Mutex
	got, put [][]byte
	again    int // stored although they had been taken before
}

func newSessionLog() *sessionLog { return &sessionLog{cache: tlsapi.NewLRUSessionCache(8)} }

func (l *sessionLog) Get(key string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	session := l.cache.Get(key)
	if session != nil {
		l.got = append(l.got, bytes.Clone(session))
	}
	return session
}

func (l *sessionLog) Put(key string, session []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put = append(l.put, bytes.Clone(session))
	if slices.ContainsFunc(l.got, func(g []byte) bool { return bytes.Equal(g, session) }) {
		l.again++
	}
	l.cache.Put(key, session)
}

// counts returns how many sessions were taken, stored, and stored although they
// had been taken before.
func (l *sessionLog) counts() (got, put, again int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.got), len(l.put), l.again
}

// last returns the session that was stored last.
func (l *sessionLog) last(t *testing.T) []byte {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotEmpty(t, l.put, "no session was stored")
	return bytes.Clone(l.put[len(l.put)-1])
}

// fixedSession is a cache that has the same session for everybody.
type fixedSession struct{ session []byte }

func (f fixedSession) Get(string) []byte  { return bytes.Clone(f.session) }
func (f fixedSession) Put(string, []byte) {}

// wipingCache is a cache that keeps its sessions elsewhere, and wipes what it was
// given: it owns that.
type wipingCache struct{ kept []byte }

func (c *wipingCache) Get(string) []byte { return bytes.Clone(c.kept) }

func (c *wipingCache) Put(_ string, session []byte) {
	c.kept = bytes.Clone(session)
	clear(session)
}

// resumable makes a connection of the provider's client to crypto/tls's server
// and exchanges data, so that the client has the server's tickets.
func (s *suite) resumable(t *testing.T, config *tlsapi.ClientConfig, reference *tls.Config) *duo {
	t.Helper()
	d := s.clientDuo(t, config, reference)
	d.mustHandshake(t)
	d.mustEcho(t)
	assert.Equal(t, d.peer.ConnectionState().DidResume, d.conn.Info().Resumed)
	assert.Equal(t, d.peer.ConnectionState().DidResume, d.conn.ConnectionState().DidResume)
	return d
}

func (s *suite) testClientSessions(t *testing.T) {
	s.need(t, tlsapi.ClientSessionCache)
	both := s.ca.Leaf(t, Spec{CommonName: "both", Organization: "Server Organization", DNSNames: []string{serverName, "other.example"}})
	cachedFor := func(version uint16, cache tlsapi.SessionCache, change ...func(*tlsapi.ClientConfig)) *tlsapi.ClientConfig {
		config := s.clientConfig(append([]func(*tlsapi.ClientConfig){func(c *tlsapi.ClientConfig) { c.SessionCache = cache }}, change...)...)
		if version == tls.VersionTLS12 && s.declares("client.", "TLS 1.2 where that is MaxVersion") {
			config.MaxVersion = version
		}
		return config
	}
	serving := func(version uint16) *tls.Config {
		return s.referenceServer(only(version), func(c *tls.Config) { c.Certificates = []tls.Certificate{both} })
	}
	eachVersion(t, func(t *testing.T, version uint16) {
		cached := func(cache tlsapi.SessionCache, change ...func(*tlsapi.ClientConfig)) *tlsapi.ClientConfig {
			return cachedFor(version, cache, change...)
		}
		t.Run("facts", func(t *testing.T) {
			cache, reference := newSessionLog(), serving(version)
			reference.Certificates[0].OCSPStaple = []byte("not looked at")
			first := s.resumable(t, cached(cache), reference)
			require.False(t, first.conn.Info().Resumed)
			second := s.resumable(t, cached(cache), reference)
			require.True(t, second.conn.Info().Resumed)
			one, two := first.conn.ConnectionState(), second.conn.ConnectionState()
			assert.Equal(t, one.Version, two.Version)
			assert.Equal(t, one.CipherSuite, two.CipherSuite)
			assert.Equal(t, one.PeerCertificates, two.PeerCertificates)
			assert.Equal(t, one.VerifiedChains, two.VerifiedChains)
			assert.Equal(t, one.OCSPResponse, two.OCSPResponse)
			assert.Len(t, two.VerifiedChains, 1)
			info := second.conn.Info()
			assert.True(t, info.Verified)
			assert.Zero(t, info.SignatureScheme, "nobody has signed")
			requirePeer(t, info, both, "Server Organization")
		})
		t.Run("uses", func(t *testing.T) {
			cache, reference := newSessionLog(), serving(version)
			const connections = 4
			for i := range connections {
				d := s.resumable(t, cached(cache), reference)
				assert.Equal(t, i > 0, d.conn.Info().Resumed, "connection %d", i+1)
			}
			got, put, again := cache.counts()
			assert.Equal(t, connections-1, got, "a connection takes one session")
			assert.GreaterOrEqual(t, put, connections)
			if version == tls.VersionTLS13 {
				assert.Zero(t, again, "a session of TLS 1.3 is for one use")
			}
		})
		t.Run("a session that the server does not know", func(t *testing.T) {
			cache := newSessionLog()
			s.resumable(t, cached(cache), serving(version))
			d := s.resumable(t, cached(cache), serving(version))
			assert.False(t, d.conn.Info().Resumed)
			got, _, again := cache.counts()
			assert.Equal(t, 1, got)
			assert.Zero(t, again)
		})
		t.Run("never in another configuration", func(t *testing.T) {
			another := NewAuthority(t, Spec{CommonName: "Another CA"})
			for _, x := range []struct {
				name    string
				feature tlsapi.Feature
				change  func(*tlsapi.ClientConfig)
			}{
				{"server name", tlsapi.ClientServerName, func(c *tlsapi.ClientConfig) { c.ServerName = "other.example" }},
				{"alternative name", tlsapi.ClientAlternativeName, func(c *tlsapi.ClientConfig) { c.AlternativeName = "other.example" }},
				{"CAs", tlsapi.ClientRootCAs, func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(s.ca, another) }},
				{"client certificate", tlsapi.ClientCertificate, func(c *tlsapi.ClientConfig) { c.Certificate = &s.clientCert }},
				{"no verification", tlsapi.ClientInsecureSkipVerify, func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }},
				{"no check of the name", tlsapi.ClientSkipHostname, func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true }},
				{"ALPN", tlsapi.ClientALPN, func(c *tlsapi.ClientConfig) { c.ALPN = []string{"other"} }},
			} {
				t.Run(x.name, func(t *testing.T) {
					s.need(t, x.feature)
					cache, reference := newSessionLog(), serving(version)
					s.resumable(t, cached(cache), reference)
					assert.False(t, s.resumable(t, cached(cache, x.change), reference).conn.Info().Resumed, "there")
					cache = newSessionLog()
					s.resumable(t, cached(cache, x.change), reference)
					assert.False(t, s.resumable(t, cached(cache), reference).conn.Info().Resumed, "and back")
				})
			}
			t.Run("unverified first", func(t *testing.T) {
				s.need(t, tlsapi.ClientInsecureSkipVerify)
				cache, reference := newSessionLog(), serving(version)
				wrong := func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(another) }
				s.resumable(t, cached(cache, wrong, func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }), reference)
				d := s.clientDuo(t, cached(cache, wrong), reference)
				err, _ := d.handshakes()
				s.requireKind(t, err, tlsapi.KindUntrusted)
			})
		})
		t.Run("what is no session", func(t *testing.T) {
			cache, reference := newSessionLog(), serving(version)
			s.resumable(t, cached(cache), reference)
			session := cache.last(t)
			for name, garbage := range map[string][]byte{
				"empty":       {},
				"one byte":    {1},
				"zeros":       make([]byte, 500),
				"random":      randomBytes(500),
				"large":       make([]byte, 2<<20),
				"cut":         session[:len(session)-1],
				"cut in half": session[:len(session)/2],
				"extended":    append(bytes.Clone(session), 0),
				"other form":  append([]byte{session[0] + 1}, session[1:]...),
				"no library":  append(bytes.Clone(session[:len(session)-60]), make([]byte, 60)...),
			} {
				d := s.resumable(t, cached(fixedSession{garbage}), reference)
				assert.False(t, d.conn.Info().Resumed || d.peer.ConnectionState().DidResume, name)
			}
			// The form is right, and so is a copy.
			assert.True(t, s.resumable(t, cached(fixedSession{session}), reference).conn.Info().Resumed)
		})
		t.Run("of another configuration's key", func(t *testing.T) {
			// A cache that mixes the keys up: what the session itself says
			// must be enough.
			cache, reference := newSessionLog(), serving(version)
			another := NewAuthority(t, Spec{CommonName: "Another CA"})
			s.resumable(t, cached(cache, func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }), reference)
			d := s.clientDuo(t, cached(fixedSession{cache.last(t)}, func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(another) }), reference)
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindUntrusted)
		})
		t.Run("hook", func(t *testing.T) {
			s.need(t, tlsapi.ClientVerifyConnection)
			cache, reference := newSessionLog(), serving(version)
			var refuse bool
			var seen []tls.ConnectionState
			config := cached(cache, func(c *tlsapi.ClientConfig) {
				c.VerifyConnection = func(state tls.ConnectionState) error {
					seen = append(seen, state)
					if refuse {
						return errors.New("refused")
					}
					return nil
				}
			})
			refuse = true
			d := s.clientDuo(t, config, reference)
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindRejected)
			_, put, _ := cache.counts()
			require.Zero(t, put, "the session of a connection that was refused")

			refuse = false
			s.resumable(t, config, reference)
			require.True(t, s.resumable(t, config, reference).conn.Info().Resumed)
			require.Len(t, seen, 3)
			assert.True(t, seen[2].DidResume)
			assert.Equal(t, seen[1].PeerCertificates, seen[2].PeerCertificates)
			assert.Equal(t, seen[1].VerifiedChains, seen[2].VerifiedChains)

			_, before, _ := cache.counts()
			refuse = true
			d = s.clientDuo(t, config, reference)
			err, _ = d.handshakes()
			s.requireKind(t, err, tlsapi.KindRejected)
			require.True(t, seen[3].DidResume)
			_, after, _ := cache.counts()
			assert.Equal(t, before, after, "a session that was refused goes nowhere")
		})
	})
	t.Run("expired chain", func(t *testing.T) {
		var cache *sessionLog
		references := map[uint16]*tls.Config{}
		s.outlive(t, Spec{CommonName: "short", DNSNames: []string{serverName}}, func(short tls.Certificate) error {
			cache = newSessionLog()
			for _, version := range versions {
				reference := s.referenceServer(only(version), func(c *tls.Config) { c.Certificates = []tls.Certificate{short} })
				d := s.clientDuo(t, cachedFor(version, cache), reference)
				if err := errors.Join(d.handshake()); err != nil {
					return err
				}
				d.mustEcho(t)
				references[version] = reference
			}
			return nil
		})
		for _, version := range versions {
			d := s.clientDuo(t, cachedFor(version, cache), references[version])
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindExpired)
		}
	})
}

// onlySession is crypto/tls's cache with one session for all names.
type onlySession struct {
	mu      sync.Mutex
	session *tls.ClientSessionState
}

func (o *onlySession) Get(string) (*tls.ClientSessionState, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.session, o.session != nil
}

func (o *onlySession) Put(_ string, session *tls.ClientSessionState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = session
}

// testTicketNames offers a ticket for one name under another one. Where the
// names have the same certificate no harm comes of it: the contract
// (ServerConfig.TicketBinding) leaves it to the provider.
func (s *suite) testTicketNames(t *testing.T) {
	s.need(t, tlsapi.ServerSessionTickets)
	if !s.declares("server.", "a ticket is for one server name") {
		t.Skipf("%s does not declare that its tickets are for one server name", s.p.Name())
	}
	eachVersion(t, func(t *testing.T, version uint16) {
		both := s.ca.Leaf(t, Spec{CommonName: "both", DNSNames: []string{serverName, "other.example"}})
		config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{both} })
		cache := &onlySession{}
		connect := func(name string) bool {
			d := s.serverDuo(t, config, s.referenceClient(only(version), func(c *tls.Config) {
				c.ServerName, c.ClientSessionCache = name, cache
			}))
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Equal(t, d.peer.ConnectionState().DidResume, d.conn.Info().Resumed)
			return d.conn.Info().Resumed
		}
		require.False(t, connect(serverName))
		require.True(t, connect(serverName))
		assert.False(t, connect("other.example"))
		assert.True(t, connect("other.example"))
		assert.False(t, connect(serverName))
	})
}
