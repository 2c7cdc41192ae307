package engine

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/polytls/polytls/tlsapi"
)

// gatherFacts asks the engine once the handshake is over, or while it runs; it
// is called with mu held.
func (c *Conn) gatherFacts() {
	if c.factsDone || c.freed {
		return
	}
	c.facts = c.engine.Facts()
	if !c.options.Client {
		// Libraries also tell the one that the server has sent.
		c.facts.OCSPResponse = nil
	}
	c.restoreFacts()
	c.factsDone = c.complete && !c.facts.Incomplete
	c.state, c.peerCertificates = nil, nil
}

// requireFacts refuses a connection whose facts cannot be had: a peer's
// certificate that is missing would look like none. Libraries accept
// certificates that crypto/x509 does not, with and without verification; the
// program would not see them.
func (c *Conn) requireFacts() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gatherFacts()
	if c.facts.Incomplete {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindInternal,
			Err: errors.New("what was negotiated could not be read: out of memory")}
	}
	c.peerCertificates = parseChain(c.facts.PeerChain)
	if len(c.peerCertificates) < len(c.facts.PeerChain) {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindInvalidCertificate,
			Err: errors.New("the peer has sent a certificate that crypto/x509 cannot parse")}
	}
	return nil
}

// ConnectionState returns the standard library's view of the connection.
func (c *Conn) ConnectionState() tls.ConnectionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gatherFacts()
	return c.connectionState(c.handshakeDone.Load())
}

// connectionState is called with mu held, after gatherFacts.
func (c *Conn) connectionState(complete bool) tls.ConnectionState {
	if c.state != nil && c.state.HandshakeComplete == complete {
		return *c.state
	}
	f := &c.facts
	if c.peerCertificates == nil {
		c.peerCertificates = parseChain(f.PeerChain)
	}
	state := tls.ConnectionState{
		Version:            f.Version,
		HandshakeComplete:  complete,
		DidResume:          f.Resumed,
		CipherSuite:        f.CipherSuite,
		CurveID:            f.Group,
		NegotiatedProtocol: f.ALPN,
		ServerName:         f.ServerName,
		OCSPResponse:       f.OCSPResponse,
		HelloRetryRequest:  f.HelloRetry || c.helloRetry,
		PeerCertificates:   c.peerCertificates,

		SignedCertificateTimestamps: f.Timestamps,
		TLSUnique:                   f.TLSUnique,
	}
	//lint:ignore SA1019 HTTP/2 clients still look at it, and crypto/tls sets it always
	state.NegotiatedProtocolIsMutual = true
	if c.options.Client {
		state.ServerName = c.options.SNI
	}
	if chain := parseChain(f.VerifiedChain); len(chain) > 0 {
		state.VerifiedChains = [][]*x509.Certificate{chain}
	}
	c.state = &state
	return state
}

// Info returns what ConnectionState has no field for.
func (c *Conn) Info() tlsapi.ConnectionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gatherFacts()
	info := c.summary()
	info.DescribePeer(c.connectionState(c.handshakeDone.Load()).PeerCertificates)
	return info
}

// Summary is Info without the description of the peer, for which certificates
// would have to be parsed: what every handshake can afford to be counted by.
func (c *Conn) Summary() tlsapi.ConnectionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gatherFacts()
	return c.summary()
}

// summary is called with mu held, after gatherFacts.
func (c *Conn) summary() tlsapi.ConnectionInfo {
	f := &c.facts
	info := tlsapi.ConnectionInfo{
		Provider:          c.options.Provider,
		LibraryVersion:    c.options.LibraryVersion,
		Version:           f.Version,
		CipherSuite:       f.CipherSuite,
		Group:             f.Group,
		SignatureScheme:   tls.SignatureScheme(f.SignatureScheme),
		ALPN:              f.ALPN,
		ServerName:        f.ServerName,
		Verified:          len(f.VerifiedChain) > 0,
		Resumed:           f.Resumed,
		PSKIdentity:       slices.Clone(f.PSKIdentity),
		KeyShares:         slices.Clone(c.keyShares),
		HelloRetryRequest: f.HelloRetry || c.helloRetry,
	}
	if c.options.Client {
		info.ServerName = c.options.SNI
	}
	info.BlindingPending = c.hold != nil && c.hold.Pending()
	return info
}

// ExportKeyingMaterial derives keying material from the connection's secrets.
func (c *Conn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	if err := c.enter("export"); err != nil {
		return nil, err
	}
	defer c.leave()
	if !c.handshakeDone.Load() {
		return nil, &tlsapi.Error{Provider: c.options.Provider, Op: "export", Kind: tlsapi.KindProtocol,
			Err: errors.New("the handshake has not completed")}
	}
	if !c.options.Exporter {
		return nil, &tlsapi.Error{Provider: c.options.Provider, Op: "export", Kind: tlsapi.KindUnsupported, Option: "ExportKeyingMaterial",
			Err: errors.New("the library has no exporter")}
	}
	if length < 0 || length > 65535 || len(label) > 65535 || len(context) > 65535 {
		return nil, &tlsapi.Error{Provider: c.options.Provider, Op: "export", Kind: tlsapi.KindConfig,
			Err: fmt.Errorf("label (%d bytes), context (%d) and length (%d) must be within 0 and 65535", len(label), len(context), length)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freed {
		return nil, ClosedError(c.options.Provider, "export")
	}
	out, res := c.engine.Export(label, context, length)
	if res.Status != OK {
		return nil, ResultError(c.options.Provider, "export", res, c.engine.ErrorText())
	}
	return out, nil
}
