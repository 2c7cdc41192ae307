package tlstest

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testTransfer(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		t.Run("4 MiB each way at once", func(t *testing.T) {
			s.connected(t, r, version).mustExchange(t, 4<<20)
		})
		t.Run("one byte at a time", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			d.connWire.SetChunk(1)
			d.peerWire.SetChunk(1)
			d.mustHandshake(t)
			d.mustEcho(t)
		})
		for _, size := range []int{1, 50} {
			t.Run(fmt.Sprintf("handshake in records of %d bytes", size), func(t *testing.T) {
				d := s.unconnected(t, r, version)
				if r == client {
					d.peer = tls.Server(&fragmenter{Conn: d.peerWire, size: size}, s.referenceServer(only(version)))
					d.server = d.peer
				} else {
					d.peer = tls.Client(&fragmenter{Conn: d.peerWire, size: size}, s.referenceClient(only(version)))
					d.client = d.peer
				}
				d.mustHandshake(t)
				d.mustEcho(t)
				info := d.conn.Info()
				assert.Equal(t, d.hello(t).KeyShares, info.KeyShares)
				assert.False(t, info.HelloRetryRequest)
			})
		}
		t.Run("small transport buffers", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			d.connWire.SetCapacity(100)
			d.peerWire.SetCapacity(100)
			d.mustHandshake(t)
			d.mustExchange(t, 100_000)
		})
		t.Run("nothing", func(t *testing.T) {
			d := s.connected(t, r, version)
			for _, p := range [][]byte{nil, {}} {
				n, err := d.conn.Write(p)
				require.NoError(t, err)
				assert.Zero(t, n)
				require.NoError(t, within(t, "Read", func() error {
					_, err := d.conn.Read(p)
					return err
				}))
			}
			n, err := d.peer.Write(nil)
			require.NoError(t, err)
			assert.Zero(t, n)
			d.mustEcho(t)
		})
		t.Run("handshake with the first Write or Read", func(t *testing.T) {
			d := s.unconnected(t, r, version)
			d.mustEcho(t)
			assert.True(t, d.conn.ConnectionState().HandshakeComplete)
		})
		t.Run("small reads of a large record", func(t *testing.T) {
			d := s.connected(t, r, version)
			sent := randomBytes(16384)
			_, err := d.peer.Write(sent)
			require.NoError(t, err)
			var got []byte
			for len(got) < len(sent) {
				buf := make([]byte, 1+len(got)%977)
				n, err := d.conn.Read(buf)
				require.NoError(t, err)
				require.Positive(t, n)
				got = append(got, buf[:n]...)
			}
			assert.Equal(t, sent, got)
		})
		t.Run("sizes around a record", func(t *testing.T) {
			d := s.connected(t, r, version)
			for _, size := range []int{16383, 16384, 16385, 32768, 65536, 65537} {
				sent := randomBytes(size)
				go d.conn.Write(sent)
				got := make([]byte, size)
				_, err := io.ReadFull(d.peer, got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(sent, got), "%d bytes", size)
			}
		})
		t.Run("writer may reuse its buffer", func(t *testing.T) {
			d := s.connected(t, r, version)
			buf := bytes.Repeat([]byte{'a'}, 5000)
			_, err := d.conn.Write(buf)
			require.NoError(t, err)
			for i := range buf {
				buf[i] = 'b'
			}
			got := make([]byte, 5000)
			_, err = io.ReadFull(d.peer, got)
			require.NoError(t, err)
			assert.Equal(t, bytes.Repeat([]byte{'a'}, 5000), got)
		})
		t.Run("many at once", func(t *testing.T) { s.testConcurrentUse(t, r, version) })
		t.Run("over TCP", func(t *testing.T) {
			clientSide, serverSide := tcpPair(t)
			conn, peer, d := net.Conn(nil), net.Conn(nil), &session{}
			if r == client {
				conn, peer = clientSide, serverSide
			} else {
				conn, peer = serverSide, clientSide
			}
			end, err := s.make(r, conn)
			require.NoError(t, err)
			if r == client {
				d.client, d.server = end, tls.Server(peer, s.referenceServer(only(version)))
			} else {
				d.server, d.client = end, tls.Client(peer, s.referenceClient(only(version)))
			}
			d.closeWith(t)
			d.mustHandshake(t)
			d.mustExchange(t, 4<<20)
		})
	})
	t.Run("many connections of one configuration", func(t *testing.T) {
		clientConfig, serverConfig := s.clientConfig(), s.serverConfig()
		var group sync.WaitGroup
		for range 16 {
			clientWire, serverWire := newWire(t)
			group.Go(func() {
				c, err := s.p.Client(clientWire, clientConfig)
				if !assert.NoError(t, err) {
					return
				}
				defer c.Close()
				e, err := s.p.Server(serverWire, serverConfig)
				if !assert.NoError(t, err) {
					return
				}
				defer e.Close()
				go io.Copy(e, e)
				sent := randomBytes(50_000)
				go c.Write(sent)
				got := make([]byte, len(sent))
				_, err = io.ReadFull(c, got)
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(sent, got))
			})
		}
		group.Wait()
	})
}

// fragmenter splits the handshake messages that are sent in the clear into
// records of a size, as RFC 8446 section 5.1 allows.
type fragmenter struct {
	net.Conn
	size int
	// done says that what follows is encrypted.
	done bool
}

func (f *fragmenter) Write(p []byte) (int, error) {
	records, err := ParseRecords(p)
	if err != nil {
		return 0, err // crypto/tls writes whole records
	}
	var out []byte
	for _, r := range records {
		f.done = f.done || r.Type != RecordHandshake
		size := f.size
		if f.done {
			size = len(r.Payload)
		}
		for part := range slices.Chunk(r.Payload, size) {
			out = append(out, r.Type, byte(r.Version>>8), byte(r.Version), byte(len(part)>>8), byte(len(part)))
			out = append(out, part...)
		}
	}
	if _, err := f.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// mustExchange sends size bytes each way at once and compares digests.
func (s *session) mustExchange(t *testing.T, size int) {
	t.Helper()
	var group sync.WaitGroup
	errs := make(chan error, 4)
	send := func(w io.Writer, seed int64, sum *[32]byte) {
		group.Go(func() {
			source, digest := rand.New(rand.NewSource(seed)), sha256.New()
			buf := make([]byte, 64<<10)
			for rest := size; rest > 0; {
				// Sizes that fit no record.
				n := min(rest, 1+source.Intn(len(buf)))
				source.Read(buf[:n])
				digest.Write(buf[:n])
				if _, err := w.Write(buf[:n]); err != nil {
					errs <- err
					return
				}
				rest -= n
			}
			digest.Sum(sum[:0])
		})
	}
	receive := func(r io.Reader, sum *[32]byte) {
		group.Go(func() {
			digest := sha256.New()
			if n, err := io.CopyN(digest, r, int64(size)); err != nil {
				errs <- fmt.Errorf("after %d bytes: %w", n, err)
				return
			}
			digest.Sum(sum[:0])
		})
	}
	var up, down, gotUp, gotDown [32]byte
	send(s.client, 1, &up)
	send(s.server, 2, &down)
	receive(s.server, &gotUp)
	receive(s.client, &gotDown)
	group.Wait()
	close(errs)
	for err := range errs {
		assert.NoError(t, err)
	}
	assert.Equal(t, up, gotUp, "from the client to the server")
	assert.Equal(t, down, gotDown, "from the server to the client")
}

// testConcurrentUse has many goroutines write whole messages and many others
// read: no message may be torn, no byte lost.
func (s *suite) testConcurrentUse(t *testing.T, r role, version uint16) {
	const writers, messages, size = 8, 40, 1000
	d := s.connected(t, r, version)
	// No end of data is sent while the other half is in use: not every library
	// can go on then.
	var group, readers sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			message := bytes.Repeat([]byte{byte(w)}, size)
			for range messages {
				if _, err := d.conn.Write(message); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	group.Go(func() {
		message := make([]byte, size)
		for range writers * messages {
			_, err := io.ReadFull(d.peer, message)
			if !assert.NoError(t, err) || !assert.Equal(t, bytes.Repeat(message[:1], size), message, "a message was torn") {
				d.clientWire.Break(errors.New("tlstest: the test has failed"))
				return
			}
		}
	})
	var mu sync.Mutex
	var total [256]int
	group.Go(func() {
		for i := range writers * messages {
			if _, err := d.peer.Write(bytes.Repeat([]byte{byte(i)}, size)); !assert.NoError(t, err) {
				return
			}
		}
	})
	for range 4 {
		readers.Go(func() {
			buf := make([]byte, 333)
			for {
				n, err := d.conn.Read(buf)
				mu.Lock()
				for _, b := range buf[:n] {
					total[b]++
				}
				mu.Unlock()
				if err != nil {
					assert.Equal(t, io.EOF, err)
					return
				}
				// Asking is allowed at any time.
				_, _ = d.conn.Info(), d.conn.ConnectionState()
			}
		})
	}
	group.Wait()
	assert.NoError(t, d.peer.CloseWrite())
	readers.Wait()
	var want [256]int
	for i := range writers * messages {
		want[byte(i)] += size
	}
	assert.Equal(t, want, total)
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(p)
	return p
}
