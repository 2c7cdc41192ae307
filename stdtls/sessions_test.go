package stdtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// shelf is a session cache that shows what is in it.
type shelf struct {
	mu   sync.Mutex
	kept map[string][][]byte
	puts int
}

func newShelf() *shelf { return &shelf{kept: make(map[string][][]byte)} }

func (s *shelf) Get(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.kept[key]
	if len(list) == 0 {
		return nil
	}
	s.kept[key] = list[:len(list)-1]
	return list[len(list)-1]
}

func (s *shelf) Put(key string, session []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[key] = append(s.kept[key], session)
	s.puts++
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, list := range s.kept {
		n += len(list)
	}
	return n
}

// resumable are configurations of both ends that resume sessions.
type resumable struct {
	shelf  *shelf
	client *tlsapi.ClientConfig
	server *tlsapi.ServerConfig
}

func newResumable(t testing.TB, version uint16) *resumable {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test", "other.test"}})
	r := &resumable{shelf: newShelf()}
	r.client = &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), SessionCache: r.shelf}
	r.server = &tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{leaf}}
	return r
}

// connect makes a connection and reads a byte at the client, so that the
// tickets have come.
func (r *resumable) connect(t testing.TB) (client, server tlsapi.Conn) {
	t.Helper()
	client, server = connected(t, tcpPair, r.client, r.server)
	_, err := server.Write([]byte("x"))
	require.NoError(t, err)
	_, err = client.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, client.Info().Resumed, server.Info().Resumed)
	require.Equal(t, client.Info().Resumed, client.ConnectionState().DidResume)
	return client, server
}

func (r *resumable) resumes(t testing.TB) bool {
	t.Helper()
	client, _ := r.connect(t)
	return client.Info().Resumed
}

func eachTLSVersion(t *testing.T, test func(t *testing.T, version uint16)) {
	for _, version := range versions {
		t.Run(tlsapi.VersionName(version), func(t *testing.T) { test(t, version) })
	}
}

func TestResumption(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		r := newResumable(t, version)
		var verified int
		r.client.VerifyConnection = func(state tls.ConnectionState) error {
			verified++
			require.NotEmpty(t, state.VerifiedChains)
			return nil
		}
		require.False(t, r.resumes(t))
		require.Equal(t, 1, r.shelf.count())
		require.Contains(t, r.shelf.kept, r.client.SessionKey("std"))
		for range 3 {
			client, _ := r.connect(t)
			require.True(t, client.Info().Resumed)
			require.True(t, client.Info().Verified, "what was verified is verified again")
			require.Equal(t, r.server.Certificates[0].Certificate[0], client.ConnectionState().PeerCertificates[0].Raw)
			require.Equal(t, 1, r.shelf.count(), "the session that was used is gone, the server's new one is there")
		}
		require.Equal(t, 4, verified)

		r.client.SessionCache, r.client.SessionTicketsDisabled = nil, true
		require.False(t, r.resumes(t))
		require.Equal(t, 1, r.shelf.count())
	})
}

// A session of TLS 1.2 is put back where the server sends no new one; one of
// TLS 1.3 is not.
func TestPutBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		version uint16
		resumed bool
		back    bool
	}{
		{"TLS 1.2 resumed", tls.VersionTLS12, true, true},
		{"TLS 1.2 refused by the server", tls.VersionTLS12, false, false},
		{"TLS 1.3 resumed", tls.VersionTLS13, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newResumable(t, c.version)
			r.connect(t)
			s := &sessions{cache: r.shelf, key: r.client.SessionKey(providerName)}
			session, ok := s.Get("whatever")
			require.True(t, ok)
			require.NotNil(t, session)
			require.Zero(t, r.shelf.count())
			s.accept(tls.ConnectionState{Version: c.version, DidResume: c.resumed})
			require.Equal(t, c.back, r.shelf.count() == 1)
			if c.back {
				require.True(t, r.resumes(t), "and it is good")
			}
		})
	}
}

// A handshake that is refused after the certificate was verified leaves no
// session behind.
func TestRefusedHandshakesLeaveNoSession(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		r := newResumable(t, version)
		r.client.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
		_, _, clientErr, _ := connect(t, tcpPair, r.client, r.server)
		requireKind(t, clientErr, tlsapi.KindRejected, opHandshake)
		require.Zero(t, r.shelf.puts)

		r.client.VerifyConnection = nil
		r.connect(t)
		require.Equal(t, 1, r.shelf.puts)
		r.client.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
		_, _, clientErr, _ = connect(t, tcpPair, r.client, r.server)
		requireKind(t, clientErr, tlsapi.KindRejected, opHandshake)
		require.Zero(t, r.shelf.count(), "the session that led there is gone")
	})
}

func TestUnusableSessionsAreIgnored(t *testing.T) {
	r := newResumable(t, tls.VersionTLS13)
	r.connect(t)
	key := r.client.SessionKey(providerName)
	good := r.shelf.Get(key)
	require.NotNil(t, openSession(key, good))
	sealed := func(key string, body []byte) []byte {
		digest := sessionDigest(key, body)
		return append(bytes.Clone(body), digest[:]...)
	}
	body := good[:len(good)-sha256.Size]
	foreign := bytes.Replace(body, []byte("std session 1"), []byte("std session 2"), 1)
	otherGo := bytes.Replace(body, []byte("go1."), []byte("go0."), 1)

	bad := map[string][]byte{
		"empty":            {},
		"text":             []byte("hello"),
		"another format":   sealed(key, foreign),
		"another Go":       sealed(key, otherGo),
		"another key":      sealed(key+"x", body),
		"trailing byte":    sealed(key, append(bytes.Clone(body), 0)),
		"sealed nothing":   sealed(key, nil),
		"too long":         make([]byte, maxSession+1),
		"a server's state": sealed(key, asServerState(t, body)),
	}
	for name, kept := range bad {
		t.Run(name, func(t *testing.T) {
			require.Nil(t, openSession(key, kept))
			r.shelf.Put(key, kept)
			require.False(t, r.resumes(t))
			r.shelf.Get(key)
		})
	}
	t.Run("every truncation and every bit", func(t *testing.T) {
		for i := range good {
			require.Nil(t, openSession(key, good[:i]))
			flipped := bytes.Clone(good)
			flipped[i] ^= 1
			require.Nil(t, openSession(key, flipped))
		}
	})
	t.Run("every truncation with a right digest", func(t *testing.T) {
		for i := range body {
			require.Nil(t, openSession(key, sealed(key, body[:i])))
		}
	})
	t.Run("a good one behind it", func(t *testing.T) {
		r.shelf.Put(key, good)
		r.shelf.Put(key, []byte("garbage"))
		require.True(t, r.resumes(t))
	})
}

// asServerState changes the type in the state of a kept session.
func asServerState(t *testing.T, body []byte) []byte {
	changed := bytes.Clone(body)
	i := bytes.Index(changed, []byte{3, 4, 2})
	require.Positive(t, i)
	changed[i+2] = 1
	return changed
}

// Sessions end with the shortest-lived certificate or list of their chain.
func TestSessionsEndWithTheirChain(t *testing.T) {
	for name, c := range map[string]struct {
		until time.Time
		holds bool
	}{
		"no limit": {time.Time{}, true},
		"later":    {time.Now().Add(time.Hour), true},
		"past":     {time.Now().Add(-time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResumable(t, tls.VersionTLS13)
			r.connect(t)
			key := r.client.SessionKey(providerName)
			session := openSession(key, r.shelf.Get(key))
			require.NotNil(t, session)
			kept := sealSession(key, session, c.until)
			require.NotNil(t, kept)
			require.Equal(t, c.holds, openSession(key, kept) != nil)

			_, state, err := session.ResumptionState()
			require.NoError(t, err)
			issuing := newTicketer([][32]byte{{1}}, [32]byte{2}, "a.test", func() time.Time { return c.until })
			ticket, err := issuing.wrap(tls.ConnectionState{}, state)
			require.NoError(t, err)
			state.Extra = nil
			reading := newTicketer([][32]byte{{1}}, [32]byte{2}, "A.test", func() time.Time { return time.Time{} })
			read, err := reading.unwrap(ticket, tls.ConnectionState{})
			require.NoError(t, err)
			require.Equal(t, c.holds, read != nil)
			if c.holds && !c.until.IsZero() {
				// The ticket of a resumed session holds no longer.
				renewed, err := reading.wrap(tls.ConnectionState{DidResume: true}, state)
				require.NoError(t, err)
				again := newTicketer([][32]byte{{1}}, [32]byte{2}, "a.test", nil)
				read, err = again.unwrap(renewed, tls.ConnectionState{})
				require.NoError(t, err)
				require.NotNil(t, read)
				require.Equal(t, c.until.Unix(), again.resumedUntil.Unix())
			}
		})
	}
	t.Run("verified chain", func(t *testing.T) {
		ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
		soon := time.Now().Add(10 * time.Minute).Truncate(time.Second)
		inter := ca.Intermediate(t, tlstest.Spec{CommonName: "Intermediate", NotAfter: soon})
		leaf := inter.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
		v := newVerifier(newAnchors([]*x509.Certificate{ca.Certificate}), x509.ExtKeyUsageServerAuth)
		v.skipNames = true
		sent := []*x509.Certificate{leaf.Leaf, inter.Certificate}
		chains, err := v.verify(sent)
		require.NoError(t, err)
		require.Equal(t, soon.Unix(), v.until(chains).Unix())
		sooner := soon.Add(-time.Minute)
		v.revocations = revocationsOf([]*x509.RevocationList{
			ca.RevocationList(t, time.Time{}, time.Time{}), inter.RevocationList(t, time.Time{}, sooner)})
		chains, err = v.verify(sent)
		require.NoError(t, err)
		require.Equal(t, sooner.Unix(), v.until(chains).Unix())
	})
}

func TestTicketsAreBound(t *testing.T) {
	r := newResumable(t, tls.VersionTLS13)
	r.connect(t)
	key := r.client.SessionKey(providerName)
	_, state, err := openSession(key, r.shelf.Get(key)).ResumptionState()
	require.NoError(t, err)
	forever := func() time.Time { return time.Time{} }
	ticket, err := newTicketer([][32]byte{{1}}, [32]byte{1}, "a.test", forever).wrap(tls.ConnectionState{}, state)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		with  *ticketer
		holds bool
	}{
		"the same":         {newTicketer([][32]byte{{1}}, [32]byte{1}, "a.test", forever), true},
		"an older key":     {newTicketer([][32]byte{{9}, {1}}, [32]byte{1}, "a.test", forever), true},
		"another key":      {newTicketer([][32]byte{{9}}, [32]byte{1}, "a.test", forever), false},
		"the process's":    {newTicketer(nil, [32]byte{1}, "a.test", forever), false},
		"another binding":  {newTicketer([][32]byte{{1}}, [32]byte{2}, "a.test", forever), false},
		"another name":     {newTicketer([][32]byte{{1}}, [32]byte{1}, "b.test", forever), false},
		"without its name": {newTicketer([][32]byte{{1}}, [32]byte{1}, "", forever), false},
	} {
		t.Run(name, func(t *testing.T) {
			read, err := c.with.unwrap(ticket, tls.ConnectionState{})
			require.NoError(t, err)
			require.Equal(t, c.holds, read != nil)
		})
	}
	t.Run("crypto/tls's own ticket", func(t *testing.T) {
		state.Extra = nil
		with := newTicketer([][32]byte{{1}}, [32]byte{1}, "a.test", forever)
		keys, err := with.keys()
		require.NoError(t, err)
		plain, err := keys.EncryptTicket(tls.ConnectionState{}, state)
		require.NoError(t, err)
		read, err := with.unwrap(plain, tls.ConnectionState{})
		require.NoError(t, err)
		require.Nil(t, read)
	})
	t.Run("garbage", func(t *testing.T) {
		with := newTicketer([][32]byte{{1}}, [32]byte{1}, "a.test", forever)
		for _, garbage := range [][]byte{nil, {1}, make([]byte, 100)} {
			read, err := with.unwrap(garbage, tls.ConnectionState{})
			require.NoError(t, err)
			require.Nil(t, read)
		}
	})
}

// A week after its full handshake a client has to show its key again, however
// often its ticket was renewed: crypto/tls's sessions of TLS 1.3 begin anew.
func TestTicketsEndAWeekAfterTheFullHandshake(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
		config := &tlsapi.ServerConfig{
			Settings:          tlsapi.Settings{MaxVersion: version},
			Certificates:      []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"a.test"}})},
			ClientAuth:        tls.RequireAndVerifyClientCert,
			ClientCAs:         tlstest.Pool(ca),
			SessionTicketKeys: [][32]byte{{1}},
		}
		cache := &oneSession{}
		reference := &tls.Config{ServerName: "a.test", RootCAs: tlstest.X509Pool(ca), ClientSessionCache: cache,
			Certificates: []tls.Certificate{ca.Leaf(t, tlstest.Spec{CommonName: "client"})}}
		resumes := func() bool {
			ct, st := tcpPair(t)
			server := newEnd(t, st, false, nil, config)
			go server.Write([]byte("x"))
			client := tls.Client(ct, reference)
			defer client.Close()
			_, err := client.Read(make([]byte, 1))
			require.NoError(t, err)
			require.Len(t, server.ConnectionState().PeerCertificates, 1)
			return client.ConnectionState().DidResume
		}
		keys, err := newTicketer(config.SessionTicketKeys, config.TicketBinding(), "a.test", nil).keys()
		require.NoError(t, err)
		// opened decrypts the ticket in the cache, and returns where the time of
		// the full handshake stands in it.
		opened := func() (session *tls.SessionState, since []byte) {
			ticket, _, err := cache.session.ResumptionState()
			require.NoError(t, err)
			session, err = keys.DecryptTicket(ticket, tls.ConnectionState{})
			require.NoError(t, err)
			require.NotNil(t, session)
			require.Len(t, session.Extra, 1)
			require.Len(t, session.Extra[0], ticketExtraBytes)
			return session, session.Extra[0][ticketExtraBytes-8:]
		}
		put := func(session *tls.SessionState) {
			_, state, err := cache.session.ResumptionState()
			require.NoError(t, err)
			ticket, err := keys.EncryptTicket(tls.ConnectionState{}, session)
			require.NoError(t, err)
			cache.session, err = tls.NewResumptionState(ticket, state)
			require.NoError(t, err)
		}

		require.False(t, resumes())
		session, since := opened()
		require.InDelta(t, time.Now().Unix(), int64(binary.BigEndian.Uint64(since)), 60)
		sixDays := uint64(time.Now().Add(-6 * 24 * time.Hour).Unix())
		binary.BigEndian.PutUint64(since, sixDays)
		put(session)
		require.True(t, resumes())
		session, since = opened()
		require.Equal(t, sixDays, binary.BigEndian.Uint64(since), "a ticket of a resumed session")

		binary.BigEndian.PutUint64(since, uint64(time.Now().Add(-8*24*time.Hour).Unix()))
		put(session)
		require.False(t, resumes())
		require.True(t, resumes())

		session, since = opened()
		binary.BigEndian.PutUint64(since, 0)
		put(session)
		require.False(t, resumes(), "without the time")
	})
}

// oneSession is crypto/tls's cache of a client that offers its session to
// whatever server.
type oneSession struct{ session *tls.ClientSessionState }

func (o *oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.session, o.session != nil }
func (o *oneSession) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		o.session = s
	}
}

// A ticket crosses neither names nor the certificates that a hook chooses.
func TestTicketsByNameAndCertificate(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
		both := tlstest.Spec{DNSNames: []string{"a.test", "b.test"}}
		first, second := ca.Leaf(t, both), ca.Leaf(t, both)
		current := &first
		keys := [][32]byte{{7}}
		static := &tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{first}, SessionTicketKeys: keys}
		hooked := &tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, SessionTicketKeys: keys,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current, nil }}
		cache := &oneSession{}
		resumes := func(t *testing.T, config *tlsapi.ServerConfig, name string) bool {
			ct, st := tcpPair(t)
			server := newEnd(t, st, false, nil, config)
			go server.Write([]byte("x"))
			client := tls.Client(ct, &tls.Config{ServerName: name, RootCAs: tlstest.X509Pool(ca), ClientSessionCache: cache})
			_, err := client.Read(make([]byte, 1))
			require.NoError(t, err)
			defer client.Close()
			return client.ConnectionState().DidResume
		}
		require.False(t, resumes(t, static, "a.test"))
		require.True(t, resumes(t, static, "a.test"))
		require.False(t, resumes(t, static, "b.test"), "another name")
		require.True(t, resumes(t, static, "b.test"))
		replaced := *static
		replaced.Certificates = []tls.Certificate{second}
		require.False(t, resumes(t, &replaced, "b.test"), "another certificate")

		require.False(t, resumes(t, hooked, "a.test"))
		require.True(t, resumes(t, hooked, "a.test"))
		current = &second
		require.False(t, resumes(t, hooked, "a.test"), "another certificate from the hook")
		require.True(t, resumes(t, hooked, "a.test"))

		off := *static
		off.SessionTicketsDisabled, off.SessionTicketKeys = true, nil
		getConfig := &tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, SessionTicketKeys: keys,
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
				if hello.ServerName == "b.test" {
					return &off, nil
				}
				return static, nil
			}}
		require.False(t, resumes(t, getConfig, "a.test"))
		require.True(t, resumes(t, getConfig, "a.test"))
		require.True(t, resumes(t, static, "a.test"), "the hook's configuration is the same")
		require.False(t, resumes(t, getConfig, "b.test"))
		require.False(t, resumes(t, getConfig, "b.test"))
	})
}

// The client's chain in a ticket is verified again with what holds now.
func TestClientChainIsVerifiedOnResumption(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		r := newResumable(t, version)
		clients := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Clients"})
		inter := clients.Intermediate(t, tlstest.Spec{CommonName: "Client Intermediate"})
		cert := inter.Leaf(t, tlstest.Spec{CommonName: "client"})
		r.client.Certificate = &cert
		r.server.ClientAuth, r.server.ClientCAs = tls.RequireAndVerifyClientCert, tlstest.Pool(clients)
		_, first := r.connect(t)
		_, second := r.connect(t)
		require.True(t, second.Info().Resumed)
		require.True(t, second.Info().Verified)
		require.Equal(t, first.ConnectionState().PeerCertificates, second.ConnectionState().PeerCertificates)
		require.Len(t, second.ConnectionState().VerifiedChains, 1)
		require.Len(t, second.ConnectionState().VerifiedChains[0], 3)

		ct, st := tcpPair(t)
		server := newEnd(t, st, false, nil, r.server).(*conn)
		later := *server.verifier
		later.now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
		server.verifier = &later
		client := newEnd(t, ct, true, r.client, nil)
		go client.Read(make([]byte, 1))
		requireKind(t, server.Handshake(), tlsapi.KindExpired, opHandshake)
		require.True(t, server.early.Load() == nil)
		require.True(t, server.tls.ConnectionState().DidResume, "the session was to be resumed")
	})
}

// nameless is a transport without addresses.
type nameless struct{ net.Conn }

func (nameless) RemoteAddr() net.Addr { return nil }

func TestResumptionWithoutNames(t *testing.T) {
	r := newResumable(t, tls.VersionTLS13)
	r.client = &tlsapi.ClientConfig{InsecureSkipVerify: true, SessionCache: r.shelf}
	for i := range 2 {
		ct, st := tcpPair(t)
		server := newEnd(t, st, false, nil, r.server)
		go server.Write([]byte("x"))
		client := newEnd(t, nameless{ct}, true, r.client, nil)
		_, err := client.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, i == 1, client.Info().Resumed)
		require.False(t, client.Info().Verified)
	}
}
