package providers_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

const (
	extensionSessionTicket     = 35
	extensionPreSharedKey      = 41
	extensionSupportedVersions = 43
	extensionPSKModes          = 45
	extensionKeyShare          = 51

	messageServerHello = 2
	messageCertificate = 11
)

// FuzzSession gives clients sessions that their caches never had, and servers
// tickets that they never made. Where framed is true the input is what the
// library made of a session, within what the state machine puts around it; it is
// the whole session, and the ticket, otherwise.
//
// Handshakes take nearly all of the time. A client that sends the ClientHello
// that it sends without a session, and a server's answer that is that to a client
// without a ticket, go on as any other would: only one input in 16 sees the end
// of those.
func FuzzSession(f *testing.F) {
	s := newFuzzSessions(f)
	for _, session := range s.foreign(f) {
		f.Add(false, session)
		if _, library, ok := splitSession(session); ok {
			f.Add(true, library)
			for at := 0; at < len(library); at += 97 {
				changed := bytes.Clone(library)
				changed[at] ^= 0xff
				f.Add(true, changed)
				f.Add(true, library[:at])
			}
		}
	}
	for _, p := range s.providers {
		f.Add(false, s.ticketOf(f, p, tls.VersionTLS12))
		f.Add(false, s.ticketOf(f, p, tls.VersionTLS13))
	}
	f.Add(false, []byte{})
	f.Add(true, []byte{})
	f.Add(false, bytes.Repeat([]byte{0x5a}, 300))
	f.Fuzz(func(t *testing.T, framed bool, session []byte) {
		whole := sha256.Sum256(session)[0]%16 == 0
		for _, p := range s.providers {
			s.offered(t, p, framed, session, whole)
			if !framed {
				s.received(t, p, session, whole)
			}
		}
	})
}

// fuzzSessions are clients whose caches hold what they are told to.
type fuzzSessions struct {
	*fuzzFixtures
	clients map[string]*tlsapi.ClientConfig
	caches  map[string]*fuzzCache
	// frames are sessions of the clients, plain the shapes of their ClientHellos
	// without one.
	frames map[string][]byte
	plain  map[string]string
	// peer is crypto/tls's server, state a session of its client.
	peer  *tls.Config
	state []byte
	// hellos have no ticket: that of TLS 1.3, and one that ends with TLS 1.2.
	hello13, hello12 rawHello
}

// fuzzCache gives the same session for every key, and keeps the last that comes.
type fuzzCache struct {
	mu            sync.Mutex
	session, kept []byte
}

func (c *fuzzCache) Get(string) []byte { return bytes.Clone(c.session) }

func (c *fuzzCache) Put(_ string, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = bytes.Clone(value)
}

func newFuzzSessions(f testing.TB) *fuzzSessions {
	s := &fuzzSessions{
		fuzzFixtures: newFuzzFixtures(f),
		clients:      make(map[string]*tlsapi.ClientConfig),
		caches:       make(map[string]*fuzzCache),
		frames:       make(map[string][]byte),
		plain:        make(map[string]string),
	}
	s.peer = s.peerServer(0)
	for _, p := range s.providers {
		cache, config := &fuzzCache{}, s.clientConfig(p)
		config.SessionCache = cache
		s.clients[p.Name()], s.caches[p.Name()] = config, cache
		s.plain[p.Name()] = shape(s.hello(f, p))
		s.frames[p.Name()] = s.sessionOf(f, p, 0)
	}
	s.state = s.sessionState(f)
	wire, peer := tlstest.Pipe()
	peer.Close()
	resuming := s.peerClient(0)
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	require.Error(f, tls.Client(wire, resuming).Handshake())
	var ok bool
	s.hello13, ok = splitHello(wire.Written())
	require.True(f, ok)
	s.hello12 = s.hello13
	s.hello12.extensions = slices.DeleteFunc(slices.Clone(s.hello13.extensions), func(e rawExtension) bool {
		return e.id == extensionSupportedVersions || e.id == extensionKeyShare || e.id == extensionPSKModes
	})
	return s
}

// sessionOf is what the provider's client keeps of a connection to a server whose
// tickets mean nothing to s.peer.
func (s *fuzzSessions) sessionOf(f testing.TB, p tlsapi.Provider, version uint16) []byte {
	cache := s.caches[p.Name()]
	cache.session, cache.kept = nil, nil
	s.connect(f, p, s.peerServer(version), false)
	return cache.kept
}

// foreign returns sessions of both versions, of every provider.
func (s *fuzzSessions) foreign(f testing.TB) (sessions [][]byte) {
	for _, p := range s.providers {
		sessions = append(sessions, s.sessionOf(f, p, tls.VersionTLS12), s.sessionOf(f, p, tls.VersionTLS13))
	}
	return sessions
}

// hello is the first flight of the provider's client.
func (s *fuzzSessions) hello(t testing.TB, p tlsapi.Provider) []byte {
	flight, err := fed(t, p, func(wire net.Conn) (tlsapi.Conn, error) { return p.Client(wire, s.clients[p.Name()]) }, nil)
	failUnexpected(t, p, err)
	return flight
}

// shape tells ClientHellos apart by everything but the content of their fields.
func shape(flight []byte) string {
	h, ok := splitHello(flight)
	if !ok {
		return ""
	}
	text := fmt.Sprint(h.version, len(h.session), h.suites, h.compression)
	for _, e := range h.extensions {
		text += fmt.Sprint(" ", e.id, len(e.body))
	}
	return text
}

// offered runs a client with the session.
func (s *fuzzSessions) offered(t *testing.T, p tlsapi.Provider, framed bool, session []byte, whole bool) {
	cache := s.caches[p.Name()]
	cache.session = session
	if head, _, ok := splitSession(s.frames[p.Name()]); framed && ok {
		cache.session = frame(head, session)
	}
	if whole || shape(s.hello(t, p)) != s.plain[p.Name()] {
		promptly(t, p, func() { s.connect(t, p, s.peer, framed) })
	}
}

// received runs a server to which a client offers the ticket.
func (s *fuzzSessions) received(t *testing.T, p tlsapi.Provider, ticket []byte, whole bool) {
	psk := func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(ticket) })
			b.AddUint32(0) // its age
		})
		// The binder is wrong: who does not know the ticket cannot tell.
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, sha256.Size)) })
		})
	}
	var b cryptobyte.Builder
	psk(&b)
	body, err := b.Bytes()
	if len(ticket) > 0 && err == nil {
		s.ignores(t, p, s.hello13, rawExtension{extensionPreSharedKey, body})
	}
	s.ignores(t, p, s.hello12, rawExtension{extensionSessionTicket, ticket})
	if whole {
		promptly(t, p, func() { s.accept(t, p, ticket) })
	}
}

// ignores fails the test unless the server answers as if the extension, which
// offers a session, were not there.
func (s *fuzzSessions) ignores(t *testing.T, p tlsapi.Provider, hello rawHello, offer rawExtension) {
	hello.extensions = append(slices.DeleteFunc(slices.Clone(hello.extensions), func(e rawExtension) bool { return e.id == offer.id }), offer)
	record, ok := hello.record()
	if !ok {
		return
	}
	answer, err := s.fedServer(t, p, record)
	failUnexpected(t, p, err)
	if alert, ok := alertIn(answer); ok {
		t.Errorf("%s: alert %d for a ticket that it does not know: %v", p.Name(), alert, err)
	} else if resumed, err := resumes(answer); err != nil || resumed {
		t.Errorf("%s: resumes a session that it never had: %t, %v", p.Name(), resumed, err)
	}
}

// resumes reports whether a server's first flight resumes a session: in TLS 1.3
// its ServerHello chooses a PSK, in TLS 1.2 no certificate follows.
func resumes(flight []byte) (bool, error) {
	records, _ := tlstest.ParseRecords(flight)
	var messages []byte
	for _, r := range records {
		if r.Type == tlstest.RecordHandshake {
			messages = append(messages, r.Payload...)
		}
	}
	stream := cryptobyte.String(messages)
	var kind uint8
	var body, session, extensions cryptobyte.String
	if !stream.ReadUint8(&kind) || kind != messageServerHello || !stream.ReadUint24LengthPrefixed(&body) ||
		!body.Skip(2+32) || !body.ReadUint8LengthPrefixed(&session) || !body.Skip(2+1) {
		return false, errors.New("the answer is no ServerHello")
	}
	if !body.Empty() && !body.ReadUint16LengthPrefixed(&extensions) {
		return false, errors.New("a malformed ServerHello")
	}
	tls13, psk := false, false
	for !extensions.Empty() {
		var id uint16
		var content cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&content) {
			return false, errors.New("a malformed ServerHello")
		}
		tls13, psk = tls13 || id == extensionSupportedVersions, psk || id == extensionPreSharedKey
	}
	if tls13 {
		return psk, nil
	}
	return !stream.ReadUint8(&kind) || kind != messageCertificate, nil
}

// connect makes a connection of the provider's client and echoes one message. It
// must succeed whatever the cache returns, unless that is made up: a cache that
// lies about what the library wrote may make a library fail, and no more.
func (s *fuzzSessions) connect(t testing.TB, p tlsapi.Provider, peer *tls.Config, madeUp bool) {
	wire, serverWire := tlstest.Pipe()
	conn, err := p.Client(wire, s.clients[p.Name()])
	if err != nil {
		t.Errorf("%s: %v", p.Name(), err)
		return
	}
	err, peerErr := echoed(conn, tls.Server(serverWire, peer))
	if madeUp {
		failUnexpected(t, p, err)
	} else if err := errors.Join(err, peerErr); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
}

// accept makes a connection of the provider's server with a client of crypto/tls
// that has the ticket, and echoes one message.
func (s *fuzzSessions) accept(t testing.TB, p tlsapi.Provider, ticket []byte) {
	wire, serverWire := tlstest.Pipe()
	conn, err := p.Server(serverWire, s.servers[p.Name()])
	if err != nil {
		t.Errorf("%s: %v", p.Name(), err)
		return
	}
	config := s.peerClient(0)
	if len(ticket) > 0 && len(ticket) <= 1<<15 {
		config.ClientSessionCache = &forgedTicket{state: s.state, ticket: ticket}
	}
	if err := errors.Join(echoed(tls.Client(wire, config), conn)); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
}

// echoed sends a byte there and back, and closes both ends.
func echoed(client, server net.Conn) (clientErr, serverErr error) {
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(server, server, 1)
		done <- err
	}()
	_, clientErr = client.Write([]byte{1})
	if clientErr == nil {
		_, clientErr = io.ReadFull(client, make([]byte, 1))
	}
	if clientErr != nil {
		client.Close()
	}
	serverErr = <-done
	client.Close()
	server.Close()
	return clientErr, serverErr
}

// splitSession divides a session of the state machine (internal/engine/sessions.go)
// before what the library made: behind a head of one size are the key, two chains
// and the OCSP response. It is false for those of std.
func splitSession(session []byte) (head, library []byte, ok bool) {
	if bytes.HasPrefix(session, []byte("polytls std")) || len(session) < crc32.Size {
		return nil, nil, false
	}
	body := session[:len(session)-crc32.Size]
	s := cryptobyte.String(body)
	ok = s.Skip(1 + 2 + 3*8)
	for range 4 {
		var part cryptobyte.String
		ok = ok && s.ReadUint24LengthPrefixed(&part)
	}
	head = body[:len(body)-len(s)]
	ok = ok && s.ReadUint24LengthPrefixed((*cryptobyte.String)(&library)) && s.Empty()
	return head, library, ok
}

// frame is the session whose parts splitSession returns.
func frame(head, library []byte) []byte {
	session := slices.Concat(head, []byte{byte(len(library) >> 16), byte(len(library) >> 8), byte(len(library))}, library)
	return binary.BigEndian.AppendUint32(session, crc32.Checksum(session, crc32.MakeTable(crc32.Castagnoli)))
}

// ticketOf is a ticket of the provider's server with other keys.
func (s *fuzzSessions) ticketOf(f testing.TB, p tlsapi.Provider, version uint16) []byte {
	config := s.serverConfig(p)
	config.SessionTicketKeys = [][32]byte{{1}}
	wire, serverWire := tlstest.Pipe()
	server, err := p.Server(serverWire, config)
	require.NoError(f, err)
	peer, cache := s.peerClient(version), tls.NewLRUClientSessionCache(1)
	peer.ClientSessionCache = cache
	require.NoError(f, errors.Join(echoed(tls.Client(wire, peer), server)))
	session, ok := cache.Get(fuzzHost)
	require.True(f, ok, "%s sends no ticket", p.Name())
	ticket, _, err := session.ResumptionState()
	require.NoError(f, err)
	return ticket
}

// sessionState is of a connection of crypto/tls with itself.
func (x *fuzzFixtures) sessionState(f testing.TB) []byte {
	wire, serverWire := tlstest.Pipe()
	config, cache := x.peerClient(0), tls.NewLRUClientSessionCache(1)
	config.ClientSessionCache = cache
	require.NoError(f, errors.Join(echoed(tls.Client(wire, config), tls.Server(serverWire, x.peerServer(0)))))
	session, ok := cache.Get(fuzzHost)
	require.True(f, ok)
	_, state, err := session.ResumptionState()
	require.NoError(f, err)
	encoded, err := state.Bytes()
	require.NoError(f, err)
	return encoded
}

// forgedTicket gives crypto/tls's client a session with another ticket.
type forgedTicket struct{ state, ticket []byte }

func (c *forgedTicket) Get(string) (*tls.ClientSessionState, bool) {
	// Each session is one of its own: crypto/tls writes to it.
	state, err := tls.ParseSessionState(c.state)
	if err != nil {
		return nil, false
	}
	session, err := tls.NewResumptionState(c.ticket, state)
	return session, err == nil
}

func (c *forgedTicket) Put(string, *tls.ClientSessionState) {}
