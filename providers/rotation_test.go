package providers_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// keptKeys is how many ticket keys a server of TestRotation has: the one that
// encrypts and those before it.
const keptKeys = 3

// generation is what a server has between two rotations.
type generation struct {
	// key and cert count the rotations of each.
	key, cert int
	// config is the configuration, plain the same without hooks.
	config, plain *tlsapi.ServerConfig
	// serial is that of the certificate.
	serial string
}

// rotating is a server whose ticket keys and certificate are replaced while
// clients come and go.
type rotating struct {
	provider tlsapi.Provider
	// way is how its connections get the current generation.
	way string
	ca  *tlstest.Authority
	// known are all generations; begun is the newest that a connection may
	// have, done the newest that every connection that begins now has at least.
	mu          sync.Mutex
	known       []*generation
	begun, done atomic.Int64
	// chosen is the generation that a hook has given a connection, by the
	// client's address.
	chosen sync.Map
}

var rotationWays = []string{"new configurations", "GetConfigForClient", "GetCertificate"}

// rotate makes the next generation: every time with a new ticket key, every
// fifth time with a new certificate.
func (r *rotating) rotate(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := &generation{}
	if n := len(r.known); n > 0 {
		*next = *r.known[n-1]
		next.key++
	}
	if next.key%5 == 0 {
		leaf := r.ca.Leaf(t, tlstest.Spec{CommonName: rotationHost, DNSNames: []string{rotationHost}})
		next.cert, next.serial = next.key/5, leaf.Leaf.SerialNumber.Text(16)
		next.plain = &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf}}
	}
	plain := &tlsapi.ServerConfig{Certificates: next.plain.Certificates}
	for k := next.key; k > next.key-keptKeys && k >= 0; k-- {
		var secret [32]byte
		binary.BigEndian.PutUint64(secret[24:], uint64(k+1))
		plain.SessionTicketKeys = append(plain.SessionTicketKeys, secret)
	}
	next.plain, next.config = plain, plain
	if r.way == "GetCertificate" {
		// The keys come with the configuration, the certificate of the moment
		// with the hook.
		next.config = &tlsapi.ServerConfig{SessionTicketKeys: plain.SessionTicketKeys, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			g := r.newest(hello)
			return &g.plain.Certificates[0], nil
		}}
	}
	r.known = append(r.known, next)
	number := int64(len(r.known) - 1)
	r.begun.Store(number)
	r.done.Store(number)
}

// newest is the generation of a connection that begins now.
func (r *rotating) newest(hello *tls.ClientHelloInfo) *generation {
	number := int(r.done.Load())
	if hello != nil {
		r.chosen.Store(hello.Conn.RemoteAddr().String(), number)
	}
	return r.get(number)
}

func (r *rotating) get(number int) *generation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[number]
}

// serve answers one connection: the numbers of the generations that its
// configuration and its certificate are of, then an echo.
func (r *rotating) serve(transport net.Conn) error {
	number := int(r.done.Load())
	config := r.get(number).config
	if r.way == "GetConfigForClient" {
		config = &tlsapi.ServerConfig{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			return r.newest(hello).config, nil
		}}
	}
	server, err := r.provider.Server(transport, config)
	if err != nil {
		transport.Close()
		return err
	}
	defer server.Close()
	if err := server.Handshake(); err != nil {
		return err
	}
	certified := number
	if chosen, ok := r.chosen.LoadAndDelete(transport.RemoteAddr().String()); ok {
		certified = chosen.(int)
		if r.way == "GetConfigForClient" {
			number = certified
		}
	}
	var greeting [16]byte
	binary.BigEndian.PutUint64(greeting[:], uint64(number))
	binary.BigEndian.PutUint64(greeting[8:], uint64(certified))
	if _, err := server.Write(greeting[:]); err != nil {
		return err
	}
	_, err = io.Copy(server, server)
	return err
}

const rotationHost = "server.example"

// ticket is a session and the generation of the server that has issued it.
type ticket struct {
	session []byte
	key     int
	cert    int
}

// offering is a session cache of one connection: it offers one session and
// keeps what the server issues.
type offering struct {
	mu     sync.Mutex
	offer  []byte
	issued [][]byte
}

func (c *offering) Get(string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	offer := c.offer
	c.offer = nil
	return offer
}

func (c *offering) Put(_ string, session []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.issued = append(c.issued, bytes.Clone(session))
}

// last returns the newest session that was issued, or nil.
func (c *offering) last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.issued) == 0 {
		return nil
	}
	return c.issued[len(c.issued)-1]
}

// TestRotation replaces ticket keys and certificates again and again while
// clients connect, resume and hold connections open: no handshake and no byte is
// lost, no connection that began after a rotation sees an older certificate,
// tickets of keys that are kept resume, and those of keys that were dropped, or
// of another certificate, lead to a full handshake.
func TestRotation(t *testing.T) {
	leftover.Check(t)
	handshakes := max(600, int(soakScale(t)*50000))
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		var counts rotationCounts
		for _, way := range rotationWays {
			t.Run(way, func(t *testing.T) { rotateUnder(t, p, way, handshakes/len(rotationWays), &counts) })
		}
		t.Logf("%d in full without a session, %d resumed with the newest key, %d with an older one, %d tickets of dropped keys and "+
			"%d of other certificates led to full handshakes, %d connections lived through rotations", counts.full.Load(),
			counts.newest.Load(), counts.older.Load(), counts.dropped.Load(), counts.recertified.Load(), counts.held.Load())
		for what, n := range map[string]*atomic.Int64{
			"resumed with the newest key": &counts.newest, "resumed with an older key": &counts.older, "lived through a rotation": &counts.held,
			"offered a ticket of a dropped key": &counts.dropped, "offered a ticket of another certificate": &counts.recertified,
		} {
			assert.NotZero(t, n.Load(), "no connection has %s", what)
		}
	})
}

// rotationCounts is what the clients of TestRotation have seen.
type rotationCounts struct {
	full, newest, older, dropped, recertified, held atomic.Int64
}

func rotateUnder(t *testing.T, p tlsapi.Provider, way string, handshakes int, counts *rotationCounts) {
	r := &rotating{provider: p, way: way, ca: tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Rotation CA"})}
	r.rotate(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				if err := r.serve(c); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		}
	})

	const workers = 4
	interval := int64(max(5, min(100, handshakes/20)))
	var made atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			w := &rotationClient{t: t, r: r, address: listener.Addr().String(), counts: counts}
			defer w.release()
			for {
				n := made.Add(1)
				if n > int64(handshakes) || t.Failed() {
					return
				}
				if n%interval == 0 {
					r.rotate(t)
				}
				w.connect()
			}
		})
	}
	all.Wait()
	require.NoError(t, listener.Close())
	served.Wait()
	t.Logf("%d handshakes, %d rotations", handshakes, r.done.Load())
}

// rotationClient is one of the clients. It has sessions of all ages.
type rotationClient struct {
	t       *testing.T
	r       *rotating
	address string
	counts  *rotationCounts
	tickets [2][]ticket // by version
	held    tlsapi.Conn
	heldAt  int64
}

var rotationVersions = [2]uint16{tls.VersionTLS12, tls.VersionTLS13}

// connect makes one connection and judges it.
func (w *rotationClient) connect() {
	which := rand.IntN(2)
	low := int(w.r.done.Load())
	var offer *ticket
	if list := w.tickets[which]; len(list) > 0 && rand.IntN(4) > 0 {
		// The newest session, or one of any age.
		offer = &list[max(rand.IntN(2*len(list))-len(list), 0)]
	}
	cache := &offering{}
	if offer != nil {
		cache.offer = bytes.Clone(offer.session)
	}
	config := &tlsapi.ClientConfig{ServerName: rotationHost, RootCAs: tlstest.Pool(w.r.ca), SessionCache: cache}
	if rotationVersions[which] == tls.VersionTLS12 {
		config.MaxVersion = tls.VersionTLS12
	}
	client, number, certified, err := w.dial(config)
	if err != nil {
		w.t.Errorf("a client: %v", err)
		return
	}
	high := int(w.r.begun.Load())
	if number < low || certified < low || number > high || certified > high {
		w.t.Errorf("a connection between generations %d and %d has %d, with the certificate of %d", low, high, number, certified)
	}
	g, state := w.r.get(number), client.ConnectionState()
	cert := w.r.get(certified).cert
	if serial := state.PeerCertificates[0].SerialNumber.Text(16); !state.DidResume && serial != w.r.get(certified).serial {
		w.t.Errorf("generation %d presents the certificate %s, not %s", certified, serial, w.r.get(certified).serial)
	}
	w.judge(offer, g.key, cert, state.DidResume)
	if session := cache.last(); session != nil && (!state.DidResume || rotationVersions[which] == tls.VersionTLS13) {
		// A client of TLS 1.2 may put back the session that it has resumed.
		w.keep(which, ticket{session, g.key, cert})
	}
	switch {
	case w.held == nil:
		w.held, w.heldAt = client, int64(number)
	case w.r.done.Load() > w.heldAt+2:
		w.release()
		w.held, w.heldAt = client, int64(number)
	default:
		w.close(client)
	}
}

// judge compares what became of an offered session with what the server has.
func (w *rotationClient) judge(offer *ticket, key, cert int, resumed bool) {
	var want bool
	var count *atomic.Int64
	switch {
	case offer == nil:
		count = &w.counts.full
	case key-offer.key >= keptKeys:
		count = &w.counts.dropped
	case cert != offer.cert:
		if w.r.provider.Name() == "std" && w.r.way == "GetCertificate" {
			// It resumes before it asks the hook for a certificate: no
			// certificate is presented, and the old one was verified.
			return
		}
		count = &w.counts.recertified
	case key == offer.key:
		want, count = true, &w.counts.newest
	default:
		want, count = true, &w.counts.older
	}
	count.Add(1)
	if resumed != want {
		w.t.Errorf("a ticket %+v at a server with key %d and certificate %d: resumed %v", struct{ key, cert int }{offer.key, offer.cert}, key, cert, resumed)
	}
}

// keep puts a session in front, and forgets another when there are many.
func (w *rotationClient) keep(which int, s ticket) {
	list := &w.tickets[which]
	*list = slices.Insert(*list, 0, s)
	if len(*list) > 8 {
		forget := 1 + rand.IntN(8)
		*list = slices.Delete(*list, forget, forget+1)
	}
}

// dial connects, and reads the server's greeting.
func (w *rotationClient) dial(config *tlsapi.ClientConfig) (client tlsapi.Conn, number, certified int, err error) {
	transport, err := net.Dial("tcp", w.address)
	if err != nil {
		return nil, 0, 0, err
	}
	client, err = w.r.provider.Client(transport, config)
	if err != nil {
		transport.Close()
		return nil, 0, 0, err
	}
	var greeting [16]byte
	if _, err = io.ReadFull(client, greeting[:]); err == nil {
		err = roundTrip(client)
	}
	if err != nil {
		client.Close()
		return nil, 0, 0, err
	}
	return client, int(binary.BigEndian.Uint64(greeting[:])), int(binary.BigEndian.Uint64(greeting[8:])), nil
}

// roundTrip sends a message to an echo and compares what comes back.
func roundTrip(c tlsapi.Conn) error {
	message := make([]byte, 1+rand.IntN(3000))
	for i := range message {
		message[i] = byte(i * 7)
	}
	if _, err := c.Write(message); err != nil {
		return err
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(message, got) {
		return errors.New("the echo differs")
	}
	return nil
}

// release uses the connection that was held open through rotations, and closes
// it.
func (w *rotationClient) release() {
	if w.held == nil {
		return
	}
	if w.r.done.Load() > w.heldAt {
		w.counts.held.Add(1)
	}
	if err := roundTrip(w.held); err != nil {
		w.t.Errorf("a connection that was open while keys and certificates changed: %v", err)
	}
	w.close(w.held)
	w.held = nil
}

// close closes a connection in order.
func (w *rotationClient) close(c tlsapi.Conn) {
	if err := c.Close(); err != nil {
		w.t.Errorf("Close: %v", err)
	}
}

// eachNamed runs the test with every provider that is there. Names of tests begin
// with prefix.
func eachNamed(t *testing.T, prefix string, test func(*testing.T, tlsapi.Provider)) {
	for _, p := range providers.All() {
		t.Run(prefix+p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			test(t, p)
		})
	}
}
