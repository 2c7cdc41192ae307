package engine_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// loopback returns the two ends of a TCP connection.
func loopback(t testing.TB) (one, two net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	one, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	two, err = l.Accept()
	require.NoError(t, err)
	return one, two
}

// overTCP returns both ends of a connection after the handshake.
func overTCP(t *testing.T, f *fixture) (client, server tlsapi.Conn) {
	one, two := loopback(t)
	client, server = f.over(t, one, two)
	t.Cleanup(func() { client.Close(); server.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return client, server
}

// costs are operations on a connection whose cost in memory and in calls of C is
// known.
var costs = []struct {
	name  string
	write int // bytes of a Write
	read  int // bytes of the Reads that follow it
	back  bool
	calls int
}{
	{"a record", 16 << 10, 16 << 10, false, 2},
	{"part of a record", 1 << 10, 1 << 10, false, 2},
	{"a record read in small parts", 16 << 10, 128, false, 2},
	{"a record read in larger parts", 16 << 10, 8 << 10, false, 3},
	{"there and back", 128, 128, true, 4},
	// Three records at a time are written, and what has come by then is read.
	{"several records", 48 << 10, 48 << 10, false, 2},
}

// operation returns one operation with a cost.
func operation(t *testing.T, client, server tlsapi.Conn, write, read int, back bool) func() {
	data, got := make([]byte, write), make([]byte, read)
	way := func(from, to net.Conn) {
		if _, err := from.Write(data); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < write; n += read {
			if _, err := io.ReadFull(to, got); err != nil {
				t.Fatal(err)
			}
		}
	}
	return func() {
		way(client, server)
		if back {
			way(server, client)
		}
	}
}

// Reads and Writes allocate nothing.
func TestReadAndWriteAllocateNothing(t *testing.T) {
	if instrumented {
		t.Skip("the detectors allocate, and make pools forget")
	}
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, server := overTCP(t, f)
		for _, cost := range costs {
			one := operation(t, client, server, cost.write, cost.read, cost.back)
			assert.Zero(t, testing.AllocsPerRun(200, one), cost.name)
		}
	})
}

// Every step is one call of C: one per record and end, two per message there and
// back and end, and none for Reads that find their data decrypted.
func TestStepsPerOperation(t *testing.T) {
	if instrumented {
		t.Skip("the detectors make pools forget, and buffers are made by calls of C")
	}
	eachProvider(t, func(t *testing.T, f *fixture) {
		client, server := overTCP(t, f)
		for _, cost := range costs {
			one := operation(t, client, server, cost.write, cost.read, cost.back)
			const rounds = 200
			for range 10 {
				one() // tickets come with the first data
			}
			// Connections of earlier tests may end in the background.
			fewest := int64(-1)
			for range 5 {
				before := runtime.NumCgoCall()
				for range rounds {
					one()
				}
				if calls := runtime.NumCgoCall() - before; fewest < 0 || calls < fewest {
					fewest = calls
				}
			}
			assert.LessOrEqual(t, fewest, int64(rounds*cost.calls+rounds/20), cost.name)
		}
	})
}

// A resumed handshake of both ends, from making them to freeing them, takes no more
// calls of C than its steps: the client's session is set in one, and everything that
// is known of a connection is asked for in one.
func TestStepsPerResumedHandshake(t *testing.T) {
	if instrumented {
		t.Skip("the detectors make pools forget, and buffers are made by calls of C")
	}
	eachProvider(t, func(t *testing.T, f *fixture) {
		f.client.SessionCache = tlsapi.NewLRUSessionCache(1)
		f.client.MinVersion = tls.VersionTLS13
		one := func() (resumed bool) {
			here, there := net.Pipe()
			client, server := f.over(t, here, there)
			ended := make(chan error, 1)
			go func() {
				_, err := server.Write([]byte{1})
				ended <- err
			}()
			_, err := io.ReadFull(client, make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, <-ended)
			resumed = client.ConnectionState().DidResume
			go io.Copy(io.Discard, there) // a pipe holds nothing, and nobody reads the close_notify
			require.NoError(t, client.Close())
			require.NoError(t, server.Close())
			return resumed
		}
		one()
		// Connections of earlier tests may end in the background.
		fewest := int64(-1)
		for range 20 {
			before := runtime.NumCgoCall()
			require.True(t, one())
			if calls := runtime.NumCgoCall() - before; fewest < 0 || calls < fewest {
				fewest = calls
			}
		}
		assert.LessOrEqual(t, fewest, int64(17))
	})
}

// recordedSessions is a cache that keeps the sessions in sight.
type recordedSessions struct {
	mu       sync.Mutex
	sessions [][]byte
}

func (r *recordedSessions) Get(string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sessions) == 0 {
		return nil
	}
	return bytes.Clone(r.sessions[len(r.sessions)-1])
}

func (r *recordedSessions) Put(_ string, session []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = append(r.sessions, session)
}

// A session has every certificate once as sent and once as verified, and none in the
// library's part: parsing it again costs as much as the rest of offering it. Sessions
// of resumed connections neither, and they resume with the same certificates.
func TestSessionsWithoutCertificatesInside(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "root"})
	between := ca.Intermediate(t, tlstest.Spec{CommonName: "between"})
	chain := between.Leaf(t, tlstest.Spec{CommonName: host, DNSNames: []string{host}})
	eachProvider(t, func(t *testing.T, f *fixture) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cache := &recordedSessions{}
			f := *f
			f.client.MinVersion, f.client.MaxVersion = version, version
			f.client.RootCAs, f.client.SessionCache = tlstest.Pool(ca), cache
			f.server.Certificates = []tls.Certificate{chain}
			for i := range 3 {
				client, server := afterServersByte(t, &f)
				state := client.ConnectionState()
				assert.Equal(t, i > 0, state.DidResume)
				require.Len(t, state.PeerCertificates, 2)
				require.Len(t, state.VerifiedChains, 1)
				session := cache.Get("")
				for _, cert := range state.VerifiedChains[0] {
					want := 1
					if cert.Subject.CommonName != "root" {
						want = 2
					}
					assert.Equal(t, want, bytes.Count(session, cert.Raw), "%s, %s", tlsapi.VersionName(version), cert.Subject)
				}
				client.Close()
				server.Close()
			}
		}
	})
}

// afterServersByte returns connections over TCP of which the client has read a byte,
// and with it the tickets that come before.
func afterServersByte(t *testing.T, f *fixture) (client, server tlsapi.Conn) {
	t.Helper()
	one, two := loopback(t)
	client, server = f.over(t, one, two)
	go func() {
		if server.Handshake() == nil {
			server.Write([]byte{1})
		}
	}()
	_, err := io.ReadFull(client, make([]byte, 1))
	require.NoError(t, err)
	return client, server
}

// The tag of BoringSSL's chain is that of the group of the key exchange in OpenSSL's
// sessions. Without it OpenSSL copies every session of TLS 1.3 that it resumes.
func TestSessionsKeepTheGroup(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		if f.provider.Name() != openssl.Provider.Name() {
			t.Skip("the encoding is OpenSSL's")
		}
		cache := &recordedSessions{}
		f.client.SessionCache = cache
		f.client.Curves = []tlsapi.CurveID{tls.X25519}
		client, server := afterServersByte(t, f)
		require.Equal(t, tls.X25519, client.ConnectionState().CurveID)
		client.Close()
		server.Close()
		assert.True(t, bytes.Contains(cache.Get(""), []byte{0xb3, 3, 2, 1, byte(tls.X25519)}))
	})
}

// Data that was decrypted ahead comes before everything that follows it, and a
// Close ends that, too.
func TestSmallReadsKeepTheOrder(t *testing.T) {
	const size = 40000
	sent := func(t *testing.T, f *fixture) (client, server tlsapi.Conn, raw net.Conn) {
		one, two := loopback(t)
		client, server = f.over(t, one, two)
		t.Cleanup(func() { client.Close(); server.Close() })
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-done)
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		n, err := client.Write(data)
		require.NoError(t, err)
		require.Equal(t, size, n)
		return client, server, one
	}
	// rest reads in parts until there is an error.
	rest := func(t *testing.T, server tlsapi.Conn, part int) error {
		got := 0
		p := make([]byte, part)
		for {
			n, err := server.Read(p)
			for i := range n {
				require.Equal(t, byte((got+i)*7>>3), p[i], "byte %d", got+i)
			}
			if got += n; err != nil {
				assert.Equal(t, size, got)
				return err
			}
		}
	}
	eachProvider(t, func(t *testing.T, f *fixture) {
		t.Run("close_notify", func(t *testing.T) {
			client, server, _ := sent(t, f)
			require.NoError(t, client.Close())
			assert.Equal(t, io.EOF, rest(t, server, 100))
		})
		t.Run("cut", func(t *testing.T) {
			_, server, raw := sent(t, f)
			require.NoError(t, raw.(*net.TCPConn).CloseWrite())
			assert.ErrorIs(t, rest(t, server, 100), io.ErrUnexpectedEOF)
		})
		t.Run("failure", func(t *testing.T) {
			_, server, raw := sent(t, f)
			_, err := raw.Write(garbage())
			require.NoError(t, err)
			assert.ErrorIs(t, rest(t, server, 100), tlsapi.KindBadRecord)
		})
		t.Run("deadline", func(t *testing.T) {
			_, server, _ := sent(t, f)
			p := make([]byte, 100)
			_, err := io.ReadFull(server, p)
			require.NoError(t, err)
			for n := len(p); n < size; n += len(p) {
				_, err := io.ReadFull(server, p)
				require.NoError(t, err)
			}
			require.NoError(t, server.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, err = server.Read(p)
			assert.ErrorIs(t, err, tlsapi.KindTimeout)
		})
		t.Run("Close", func(t *testing.T) {
			_, server, _ := sent(t, f)
			_, err := io.ReadFull(server, make([]byte, 100))
			require.NoError(t, err)
			require.NoError(t, server.Close())
			n, err := server.Read(make([]byte, 100))
			assert.Zero(t, n)
			assert.ErrorIs(t, err, net.ErrClosed)
		})
	})
}
