package s2n_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func needLibrary(t *testing.T) {
	t.Helper()
	if err := s2n.Provider.Available(); err != nil {
		t.Skipf("nothing to test: %v", err)
	}
}

// end is one end of a connection, of either kind.
type end interface {
	net.Conn
	Handshake() error
}

// exchange runs one connection: the server sends "hello" and reads the client's
// answer, so that both have read what the other sent after its handshake.
func exchange(t *testing.T, client, server end) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := server.Write([]byte("hello"))
		if err == nil {
			_, err = io.ReadFull(server, make([]byte, 5))
		}
		done <- err
	}()
	buf := make([]byte, 5)
	_, err := io.ReadFull(client, buf)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf))
	_, err = client.Write(buf)
	require.NoError(t, errors.Join(err, <-done))
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
}

func pipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	client, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	server, err = listener.Accept()
	require.NoError(t, err)
	return client, server
}

type sessionFixture struct {
	ca   *tlstest.Authority
	leaf tls.Certificate
	// roots are ca for crypto/tls.
	roots *x509.CertPool
}

func newSessionFixture(t *testing.T) *sessionFixture {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Session Test CA"})
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.PEM()))
	return &sessionFixture{ca: ca, roots: roots, leaf: ca.Leaf(t, tlstest.Spec{CommonName: "server", DNSNames: []string{"server.example"}})}
}

func (f *sessionFixture) client(cache tlsapi.SessionCache, change ...func(*tlsapi.ClientConfig)) *tlsapi.ClientConfig {
	c := &tlsapi.ClientConfig{ServerName: "server.example", RootCAs: tlstest.Pool(f.ca), SessionCache: cache}
	for _, f := range change {
		f(c)
	}
	return c
}

// connectToStandard connects to a server of crypto/tls.
func (f *sessionFixture) connectToStandard(t *testing.T, config *tlsapi.ClientConfig, server *tls.Config) tlsapi.ConnectionInfo {
	t.Helper()
	c, s := pipe(t)
	client, err := s2n.Provider.Client(c, config)
	require.NoError(t, err)
	peer := tls.Server(s, server)
	exchange(t, client, peer)
	assert.Equal(t, client.Info().Resumed, peer.ConnectionState().DidResume)
	return client.Info()
}

func eachVersion(t *testing.T, test func(t *testing.T, version uint16)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { test(t, version) })
	}
}

func TestClientResumesWithStandardServer(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	eachVersion(t, func(t *testing.T, version uint16) {
		server := &tls.Config{Certificates: []tls.Certificate{f.leaf}, MinVersion: version, MaxVersion: version}
		for name, change := range map[string]func(*tlsapi.ClientConfig){
			"that version":  func(c *tlsapi.ClientConfig) { c.MinVersion, c.MaxVersion = version, version },
			"both versions": func(*tlsapi.ClientConfig) {},
		} {
			t.Run(name, func(t *testing.T) {
				// What may be TLS 1.3 resumes no TLS 1.2.
				resumes := version == tls.VersionTLS13 || name != "both versions"
				config := f.client(tlsapi.NewLRUSessionCache(0), change)
				for i := range 5 {
					info := f.connectToStandard(t, config, server)
					assert.Equal(t, resumes && i > 0, info.Resumed, "connection %d", i)
					assert.Equal(t, version, info.Version)
				}
			})
		}
		assert.False(t, f.connectToStandard(t, f.client(tlsapi.NewLRUSessionCache(0)), server).Resumed, "another cache")
	})
}

// mutatingCache hands out what change makes of a session.
type mutatingCache struct {
	mu     sync.Mutex
	kept   []byte
	change func([]byte) []byte
}

func (c *mutatingCache) Get(string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		return nil
	}
	return c.change(slices.Clone(c.kept))
}

func (c *mutatingCache) Put(_ string, session []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = session
}

// TestBrokenSessionsAreNotOffered tests that what the library cannot read leaves
// a connection as good as new.
func TestBrokenSessionsAreNotOffered(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	eachVersion(t, func(t *testing.T, version uint16) {
		server := &tls.Config{Certificates: []tls.Certificate{f.leaf}, MinVersion: version, MaxVersion: version}
		cache := &mutatingCache{change: func(b []byte) []byte { return b }}
		config := f.client(cache, func(c *tlsapi.ClientConfig) {
			c.MinVersion, c.MaxVersion, c.MaxBlindingDelay = version, version, -1
		})
		f.connectToStandard(t, config, server)
		require.NotNil(t, cache.kept)
		whole := slices.Clone(cache.kept)
		require.True(t, f.connectToStandard(t, config, server).Resumed)
		for i := range len(whole) {
			cache.kept, cache.change = whole, func(b []byte) []byte {
				b[i] ^= 0xff
				return b
			}
			if i%7 == 0 || i > len(whole)-120 {
				c, s := pipe(t)
				client, err := s2n.Provider.Client(c, config)
				require.NoError(t, err)
				peer := tls.Server(s, server)
				done := make(chan error, 1)
				go func() {
					err := peer.Handshake()
					if err != nil {
						s.Close()
					}
					done <- err
				}()
				// A changed secret fails as the handshake of a wrong key does;
				// nothing else may.
				_ = client.Handshake()
				require.NoError(t, client.Close())
				<-done
				s.Close()
			}
		}
		for _, length := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
			cache.kept, cache.change = whole, func(b []byte) []byte { return b[:length] }
			assert.False(t, f.connectToStandard(t, config, server).Resumed, "%d bytes", length)
		}
	})
}

// TestFirstTicketKeyEncrypts: s2n itself chooses at random among the keys that it
// may encrypt with.
func TestFirstTicketKeyEncrypts(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	first, second, third := [32]byte{1}, [32]byte{2}, [32]byte{3}
	server := func(keys ...[32]byte) *tlsapi.ServerConfig {
		return &tlsapi.ServerConfig{Certificates: []tls.Certificate{f.leaf}, SessionTicketKeys: keys}
	}
	eachVersion(t, func(t *testing.T, version uint16) {
		connect := func(cache tls.ClientSessionCache, config *tlsapi.ServerConfig) bool {
			t.Helper()
			c, s := pipe(t)
			conn, err := s2n.Provider.Server(s, config)
			require.NoError(t, err)
			client := tls.Client(c, &tls.Config{ServerName: "server.example", RootCAs: f.roots,
				ClientSessionCache: cache, MinVersion: version, MaxVersion: version})
			exchange(t, client, conn)
			return conn.Info().Resumed
		}
		for range 20 {
			cache := tls.NewLRUClientSessionCache(0)
			require.False(t, connect(cache, server(first, second, third)))
			require.True(t, connect(cache, server(first)), "a ticket of another key than the first")
			// The older keys decrypt, wherever they stand, and the ticket that
			// comes of it is the first key's.
			require.True(t, connect(cache, server(second, third, first)))
			require.True(t, connect(cache, server(second)))
		}
	})
}

// TestEndsResumeWithEachOther tests what both ends of the library make of the
// lifetimes that one of them tells.
func TestEndsResumeWithEachOther(t *testing.T) {
	needLibrary(t)
	f := newSessionFixture(t)
	eachVersion(t, func(t *testing.T, version uint16) {
		config := f.client(tlsapi.NewLRUSessionCache(0), func(c *tlsapi.ClientConfig) { c.MinVersion, c.MaxVersion = version, version })
		for i := range 3 {
			c, s := pipe(t)
			client, err := s2n.Provider.Client(c, config)
			require.NoError(t, err)
			server, err := s2n.Provider.Server(s, &tlsapi.ServerConfig{Certificates: []tls.Certificate{f.leaf}})
			require.NoError(t, err)
			exchange(t, client, server)
			assert.Equal(t, i > 0, client.Info().Resumed)
			assert.Equal(t, i > 0, server.Info().Resumed)
			assert.True(t, client.Info().Verified)
			assert.NotEmpty(t, client.ConnectionState().PeerCertificates)
		}
	})
}
