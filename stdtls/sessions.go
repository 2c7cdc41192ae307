package stdtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/tlsapi"
)

// sessions is crypto/tls's session cache of one connection, over the one of the
// configuration. Sessions come under the configuration's key, whatever
// crypto/tls asks for, and are stored only once the handshake was accepted.
type sessions struct {
	cache tlsapi.SessionCache
	key   string
	// chainsUntil tells how long what the handshake has verified holds.
	chainsUntil func() time.Time

	mu sync.Mutex
	// taken is the session that this handshake offers.
	taken []byte
	// accepted is set when the handshake has been; waiting came before.
	accepted bool
	waiting  []*tls.ClientSessionState
}

// maxTaken is how many sessions are tried: a cache may keep several that have
// expired.
const maxTaken = 8

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(string) (*tls.ClientSessionState, bool) {
	for range maxTaken {
		kept := s.cache.Get(s.key)
		if kept == nil {
			return nil, false
		}
		if session := openSession(s.key, kept); session != nil {
			s.mu.Lock()
			s.taken = kept
			s.mu.Unlock()
			return session, true
		}
	}
	return nil, false
}

// Put implements tls.ClientSessionCache. Nil is for a session that turned out to
// be unusable: Get has removed it.
func (s *sessions) Put(_ string, session *tls.ClientSessionState) {
	if session == nil {
		return
	}
	s.mu.Lock()
	if !s.accepted {
		s.waiting = append(s.waiting, session)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.store(session)
}

// accept stores what the handshake has brought. A session of TLS 1.2 that was
// resumed, and for which the server has sent no other, is good for another
// time.
func (s *sessions) accept(state tls.ConnectionState) {
	s.mu.Lock()
	waiting, taken := s.waiting, s.taken
	s.accepted, s.waiting, s.taken = true, nil, nil
	s.mu.Unlock()
	for _, session := range waiting {
		s.store(session)
	}
	if len(waiting) == 0 && taken != nil && state.DidResume && state.Version == tls.VersionTLS12 {
		// A copy: the cache may wipe what it owns, and crypto/tls goes on
		// using the secrets in taken.
		s.cache.Put(s.key, bytes.Clone(taken))
	}
}

func (s *sessions) store(session *tls.ClientSessionState) {
	if kept := sealSession(s.key, session, s.chainsUntil()); kept != nil {
		s.cache.Put(s.key, kept)
	}
}

// sessionFormat begins a kept session. The Go version follows, because the
// encoding of the state is good for one only; then the end of what was
// verified, the ticket, the state, and a digest over all that and the key.
const sessionFormat = "polytls std session 1"

// maxSession bounds what is parsed: above it are only certificates that
// crypto/tls would not have accepted (256 KiB), and the longest ticket.
const maxSession = 512 << 10

// sealSession returns nil for what cannot be kept.
func sealSession(key string, session *tls.ClientSessionState, until time.Time) []byte {
	ticket, state, err := session.ResumptionState()
	if err != nil || state == nil || len(ticket) == 0 {
		return nil
	}
	encoded, err := state.Bytes()
	if err != nil {
		return nil
	}
	var b cryptobyte.Builder
	b.AddBytes([]byte(sessionFormat))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(runtime.Version())) })
	b.AddUint64(unixSeconds(until))
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(ticket) })
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(encoded) })
	clear(encoded)
	kept, err := b.Bytes()
	if err != nil || len(kept) > maxSession-sha256.Size {
		return nil
	}
	digest := sessionDigest(key, kept)
	return append(kept, digest[:]...)
}

// openSession returns nil for what is no session of this format, Go version and
// key, or holds no more.
func openSession(key string, kept []byte) *tls.ClientSessionState {
	if len(kept) < sha256.Size || len(kept) > maxSession {
		return nil
	}
	body, digest := kept[:len(kept)-sha256.Size], kept[len(kept)-sha256.Size:]
	if want := sessionDigest(key, body); !bytes.Equal(digest, want[:]) {
		return nil
	}
	s := cryptobyte.String(body)
	var format []byte
	var version, ticket, encoded cryptobyte.String
	var until uint64
	if !s.ReadBytes(&format, len(sessionFormat)) || string(format) != sessionFormat ||
		!s.ReadUint8LengthPrefixed(&version) || string(version) != runtime.Version() ||
		!s.ReadUint64(&until) || !s.ReadUint16LengthPrefixed(&ticket) || !s.ReadUint24LengthPrefixed(&encoded) ||
		!s.Empty() || len(ticket) == 0 || past(timeOfUnixSeconds(until)) {
		return nil
	}
	// crypto/tls's client panics on a server's state, which may have no
	// certificates: the type is behind the version (see tls.SessionState).
	const typeAt, typeClient = 2, 2
	if len(encoded) <= typeAt || encoded[typeAt] != typeClient {
		return nil
	}
	state, err := tls.ParseSessionState(encoded)
	if err != nil {
		return nil
	}
	session, err := tls.NewResumptionState(ticket, state)
	if err != nil {
		return nil
	}
	return session
}

func sessionDigest(key string, body []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}
