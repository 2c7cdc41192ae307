package engine

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/polytls/polytls/tlsapi"
)

// Sessions is how a client resumes sessions.
type Sessions struct {
	Cache tlsapi.SessionCache
	// Key is the cache's key for the provider and the configuration.
	Key string
	// Verifies says that the configuration verifies the server: only sessions
	// with a verified chain that is in date are offered.
	Verifies bool
	// RevocationLists are those that the chain was checked with. Once one is
	// out of date, sessions are not offered: a full handshake decides.
	RevocationLists []*x509.RevocationList
}

// sessionLifetime is how long a session may be resumed after the handshake
// that authenticated the server, however often its tickets were renewed (RFC
// 8446 section 4.6.1 bounds each ticket by it).
const sessionLifetime = 7 * 24 * time.Hour

// offerSession takes a session out of the cache and gives it to the library. It
// is called once, before the first step of the handshake, without mu: the cache
// is the user's code.
func (c *Conn) offerSession() {
	s := c.options.Sessions
	if s == nil {
		return
	}
	raw := s.Cache.Get(s.Key)
	session, ok := parseSession(s.Key, raw)
	if !ok || !s.usable(session, time.Now()) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.engine.SetSession(session.library) {
		c.offered, c.offeredRaw = session, raw
	}
}

// usable reports whether what was verified then still counts.
func (s *Sessions) usable(session *session, now time.Time) bool {
	if now.Before(session.authenticated) || now.Sub(session.authenticated) >= sessionLifetime {
		return false
	}
	if !s.Verifies {
		return true
	}
	for _, list := range s.RevocationLists {
		// One that does not say when the next comes holds for good.
		if !list.NextUpdate.IsZero() && !now.Before(list.NextUpdate) {
			return false
		}
	}
	return len(session.verifiedChain) > 0 && !now.Before(time.Unix(session.from, 0)) && !now.After(time.Unix(session.until, 0))
}

// chainPeriod is the period, in seconds since 1970, in which all certificates of a
// chain that was verified before are in date; false when one does not tell.
func chainPeriod(chain [][]byte) (from, until int64, ok bool) {
	from, until = math.MinInt64, math.MaxInt64
	for _, der := range chain {
		notBefore, notAfter, ok := validity(der)
		if !ok {
			return 0, 0, false
		}
		from, until = max(from, notBefore.Unix()), min(until, notAfter.Unix())
	}
	return from, until, true
}

// validity reads the validity period of a certificate, and nothing else: parsing all
// of it takes long.
func validity(der []byte) (notBefore, notAfter time.Time, ok bool) {
	s := cryptobyte.String(der)
	var certificate, body, period cryptobyte.String
	if !s.ReadASN1(&certificate, asn1.SEQUENCE) || !certificate.ReadASN1(&body, asn1.SEQUENCE) ||
		!body.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!body.SkipASN1(asn1.INTEGER) || // serial number
		!body.SkipASN1(asn1.SEQUENCE) || // signature algorithm
		!body.SkipASN1(asn1.SEQUENCE) || // issuer
		!body.ReadASN1(&period, asn1.SEQUENCE) ||
		!readTime(&period, &notBefore) || !readTime(&period, &notAfter) {
		return time.Time{}, time.Time{}, false
	}
	return notBefore, notAfter, true
}

func readTime(s *cryptobyte.String, t *time.Time) bool {
	if s.PeekASN1Tag(asn1.UTCTime) {
		return s.ReadASN1UTCTime(t)
	}
	return s.ReadASN1GeneralizedTime(t)
}

// checkResumption refuses a session that was not offered. It is called by who
// runs the handshake, without mu.
func (c *Conn) checkResumption() error {
	if c.options.Sessions == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gatherFacts()
	if c.facts.Resumed && c.offered == nil {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindProtocol,
			Err: errors.New("the server resumed a session that was not offered")}
	}
	return nil
}

// restoreFacts replaces what a resumed handshake does not tell: the server's
// certificates are those that it authenticated the session with, and nobody has
// signed. It is called with mu held.
func (c *Conn) restoreFacts() {
	if !c.facts.Resumed {
		return
	}
	c.facts.SignatureScheme = 0
	if c.facts.Version == tls.VersionTLS12 {
		c.facts.Group = 0
	}
	if c.offered != nil {
		c.facts.PeerChain = c.offered.peerChain
		c.facts.VerifiedChain = c.offered.verifiedChain
		c.facts.OCSPResponse = c.offered.ocspResponse
	}
}

// handshakeSessions ends a successful handshake: what the library has made of
// it goes to the cache, or the session of TLS 1.2 that was resumed goes back.
// Nothing is kept of a connection that was refused.
func (c *Conn) handshakeSessions() {
	s := c.options.Sessions
	if s == nil {
		return
	}
	c.mu.Lock()
	c.gatherFacts()
	c.authenticated = time.Now()
	resumed := c.facts.Resumed && c.offered != nil
	if resumed {
		c.authenticated = c.offered.authenticated
	}
	sessions := c.takeSessions()
	raw, version := c.offeredRaw, c.facts.Version
	c.offeredRaw = nil
	c.mu.Unlock()
	if len(sessions) == 0 && resumed && version == tls.VersionTLS12 {
		// A copy: the cache may wipe what it owns, and c.offered refers to raw.
		sessions = [][]byte{bytes.Clone(raw)}
	}
	c.putSessions(sessions)
}

// takeSessions returns the library's new sessions in the form for the cache; it
// is called with mu held, after a successful handshake.
func (c *Conn) takeSessions() [][]byte {
	if c.options.Sessions == nil {
		return nil
	}
	sessions := c.engine.TakeSessions()
	if len(sessions) == 0 {
		return nil
	}
	s, ok := c.newSession()
	var kept [][]byte
	for _, library := range sessions {
		if ok {
			s.library = library
			if raw := s.marshal(c.options.Sessions.Key); raw != nil {
				kept = append(kept, raw)
			}
		}
		clear(library)
	}
	return kept
}

// newSession is what the sessions of this connection have in common, or false when
// none may be kept; it is called with mu held.
func (c *Conn) newSession() (s session, ok bool) {
	c.gatherFacts()
	f := &c.facts
	if c.options.Sessions.Verifies && len(f.VerifiedChain) == 0 {
		return s, false
	}
	s = session{version: f.Version, authenticated: c.authenticated, peerChain: f.PeerChain,
		verifiedChain: f.VerifiedChain, ocspResponse: f.OCSPResponse}
	if f.Resumed && c.offered != nil {
		s.from, s.until = c.offered.from, c.offered.until
		return s, true
	}
	s.from, s.until, ok = chainPeriod(f.VerifiedChain)
	return s, ok
}

// putSessions is called without mu.
func (c *Conn) putSessions(sessions [][]byte) {
	for _, session := range sessions {
		c.options.Sessions.Cache.Put(c.options.Sessions.Key, session)
	}
}

// session is what the cache holds: the library's session with what was verified
// when it began.
type session struct {
	version       uint16
	authenticated time.Time
	peerChain     [][]byte
	verifiedChain [][]byte
	// from and until are the period of verifiedChain.
	from, until  int64
	ocspResponse []byte
	library      []byte
}

const (
	// sessionFormat is the first byte of a session in the cache.
	sessionFormat = 2
	// maxSession bounds a session: chains of any sensible length, and tickets
	// that hold such a chain, are far below.
	maxSession = 1 << 20
	// maxSessionChain bounds the number of certificates in a chain.
	maxSessionChain = 32
)

// marshal returns the session in one allocation, as it is secret, or nil when it
// is too large to be kept. The key is in it: a cache that mistakes one session for
// another must not undo the verification. The checksum at the end finds what was
// damaged; who may write to the cache could make any digest as well.
func (s *session) marshal(key string) []byte {
	size := 1 + 2 + 8*3 + 3*5 + len(key) + len(s.ocspResponse) + len(s.library) + crc32.Size
	for _, chain := range [][][]byte{s.peerChain, s.verifiedChain} {
		for _, der := range chain {
			size += 3 + len(der)
		}
		if len(chain) > maxSessionChain {
			return nil
		}
	}
	if size > maxSession {
		return nil
	}
	b := make([]byte, 0, size)
	b = append(b, sessionFormat)
	b = binary.BigEndian.AppendUint16(b, s.version)
	for _, seconds := range []int64{s.authenticated.Unix(), s.from, s.until} {
		b = binary.BigEndian.AppendUint64(b, uint64(seconds))
	}
	b = appendBytes(b, key)
	b = appendChain(b, s.peerChain)
	b = appendChain(b, s.verifiedChain)
	b = appendBytes(b, s.ocspResponse)
	b = appendBytes(b, s.library)
	return binary.BigEndian.AppendUint32(b, sessionChecksum(b))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sessionChecksum(body []byte) uint32 { return crc32.Checksum(body, castagnoli) }

// appendBytes appends bytes with a length of three bytes.
func appendBytes[T string | []byte](b []byte, bytes T) []byte {
	n := len(bytes)
	return append(append(b, byte(n>>16), byte(n>>8), byte(n)), bytes...)
}

func appendChain(b []byte, chain [][]byte) []byte {
	n := 0
	for _, der := range chain {
		n += 3 + len(der)
	}
	b = append(b, byte(n>>16), byte(n>>8), byte(n))
	for _, der := range chain {
		b = appendBytes(b, der)
	}
	return b
}

// parseSession reads what marshal has made for the key; false for anything else.
// The result refers to raw.
func parseSession(key string, raw []byte) (*session, bool) {
	if len(raw) > maxSession || len(raw) < crc32.Size {
		return nil, false
	}
	body := raw[:len(raw)-crc32.Size]
	if sessionChecksum(body) != binary.BigEndian.Uint32(raw[len(body):]) {
		return nil, false
	}
	b := cryptobyte.String(body)
	var s session
	var format uint8
	var authenticated, from, until uint64
	var keptUnder cryptobyte.String
	if !b.ReadUint8(&format) || format != sessionFormat ||
		!b.ReadUint16(&s.version) || s.version != tls.VersionTLS12 && s.version != tls.VersionTLS13 ||
		!b.ReadUint64(&authenticated) || authenticated > 1<<40 || !b.ReadUint64(&from) || !b.ReadUint64(&until) ||
		!b.ReadUint24LengthPrefixed(&keptUnder) || string(keptUnder) != key ||
		!readChain(&b, &s.peerChain) || !readChain(&b, &s.verifiedChain) ||
		!b.ReadUint24LengthPrefixed((*cryptobyte.String)(&s.ocspResponse)) ||
		!b.ReadUint24LengthPrefixed((*cryptobyte.String)(&s.library)) ||
		len(s.library) == 0 || !b.Empty() {
		return nil, false
	}
	if len(s.ocspResponse) == 0 {
		s.ocspResponse = nil
	}
	s.authenticated, s.from, s.until = time.Unix(int64(authenticated), 0), int64(from), int64(until)
	return &s, true
}

func readChain(b *cryptobyte.String, chain *[][]byte) bool {
	var list cryptobyte.String
	if !b.ReadUint24LengthPrefixed(&list) {
		return false
	}
	for !list.Empty() {
		var der cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&der) || len(der) == 0 || len(*chain) == maxSessionChain {
			return false
		}
		*chain = append(*chain, der)
	}
	return true
}
