package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/polytls/polytls/tlsapi"
)

// run makes the connections of a test one after the other.
func (t *test) run(provider tlsapi.Provider) error {
	for _, c := range []*connection{&t.initial, &t.resumed} {
		c.schemesPerCertificate = provider.Name() != "s2n"
		c.hookSchemesSettled = provider.Name() == "openssl"
		c.partlyCompliant = provider.Name() == "std"
		c.noCertificateHook = provider.Name() == "s2n"
		c.noTLSUnique = provider.Name() == "s2n"
		c.oneShareByDefault = provider.Name() == "openssl"
		c.refusesLegacyServers = provider.Name() == "openssl"
		// Each connection has a hook of its own, and under another nothing is resumed.
		c.hookPresents = provider.Name() == "std" && t.resumeCount == 0
		c.noExporter = provider.Name() == "s2n"
		if provider.Name() == "std" {
			c.fixedSchemes = cryptoTLSSchemes
		}
	}
	t.rotateTicketKeys()
	sessions := &countingCache{SessionCache: tlsapi.NewLRUSessionCache(0)}
	for i := range t.resumeCount + 1 {
		c := &t.initial
		if i > 0 {
			c = &t.resumed
		}
		sessions.stored.Store(0)
		if err := t.connect(provider, c, i > 0, sessions); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	return nil
}

// rotateTicketKeys does what -renew-ticket wants: a server renews a ticket under a
// key that no longer encrypts.
func (t *test) rotateTicketKeys() {
	keys := [][32]byte{{2}, {1}}
	if t.initial.renewTicket {
		t.initial.ticketKeys = keys[1:]
	}
	if t.resumed.renewTicket {
		t.resumed.ticketKeys = keys
	}
}

// countingCache counts the sessions that are stored.
type countingCache struct {
	tlsapi.SessionCache
	stored atomic.Int64
}

func (c *countingCache) Put(key string, session []byte) {
	c.stored.Add(1)
	c.SessionCache.Put(key, session)
}

func (t *test) connect(provider tlsapi.Provider, c *connection, resumption bool, sessions *countingCache) error {
	transport, socket, err := t.dial()
	if err != nil {
		return err
	}
	defer settle(socket)
	// Closed by the connection once there is one; a second Close is harmless.
	defer transport.Close()
	if c.async {
		transport = newByteAtATime(transport)
	}

	var conn tlsapi.Conn
	if t.server {
		config, err := c.serverConfig()
		if err != nil {
			return err
		}
		conn, err = provider.Server(transport, config)
		if err != nil {
			return err
		}
	} else {
		config, err := c.clientConfig(sessions)
		if err != nil {
			return err
		}
		conn, err = provider.Client(transport, config)
		if err != nil {
			return err
		}
	}
	defer conn.Close()

	if err := c.exchange(conn, func() error { return found(c.check(t, conn, resumption)) }); err != nil {
		return err
	}
	if c.expectTicketRenewal && resumption && sessions.stored.Load() == 0 {
		return found(errors.New("no session was stored, expected a renewed one"))
	}
	if c.expectNoSession && sessions.stored.Load() > 0 {
		return found(errors.New("a session was stored"))
	}
	return nil
}

// finding is what this end finds wrong with a connection. The test fails even where
// the runner expects a failure: it means another.
type finding struct{ error }

func (f finding) Unwrap() error { return f.error }

func found(err error) error {
	var m missing
	if err == nil || errors.As(err, &m) {
		return err
	}
	return finding{err}
}

// exchange plays this end's part: the handshake, what is to be sent first, and
// an echo with every bit turned, until the peer closes.
func (c *connection) exchange(conn tlsapi.Conn, check func() error) error {
	checked := false
	once := func() error {
		if checked {
			return nil
		}
		checked = true
		return check()
	}
	if !c.implicitHandshake {
		if err := conn.Handshake(); err != nil {
			return err
		}
		if err := once(); err != nil {
			return err
		}
		if c.handshakeAgain {
			if err := conn.Handshake(); err != nil {
				return fmt.Errorf("a second Handshake: %w", err)
			}
		}
	}
	if c.exportLength > 0 {
		if err := conn.Handshake(); err != nil {
			return err
		}
		var context []byte
		if c.useExportContext {
			context = append([]byte{}, c.exportContext...)
		}
		secret, err := conn.ExportKeyingMaterial(c.exportLabel, context, c.exportLength)
		if errors.Is(err, errors.ErrUnsupported) {
			return missing{"exporter"}
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(secret); err != nil {
			return err
		}
	}
	if c.tlsUnique {
		unique := conn.ConnectionState().TLSUnique
		if unique == nil && c.noTLSUnique {
			return missing{"tls-unique"}
		}
		if unique == nil {
			return errors.New("there is no tls-unique")
		}
		if _, err := conn.Write(unique); err != nil {
			return err
		}
	}
	switch {
	case c.differentRecordSizes:
		data := bytes.Repeat([]byte{0x42}, 32769)
		for _, n := range []int{0, 1, 255, 256, 257, 16383, 16384, 16385, 32767, 32768, 32769} {
			if _, err := conn.Write(data[:n]); err != nil {
				return err
			}
		}
	case c.writesFirst:
		for range c.repeatInitialWrite {
			if _, err := conn.Write([]byte(c.initialWrite)); err != nil {
				return err
			}
		}
	}
	if c.shutsDown {
		return c.shutDown(conn, once)
	}

	size := 512
	if c.readSize > 0 {
		size = c.readSize
	}
	buf := make([]byte, size)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := once(); err != nil {
				return err
			}
			for i := range n {
				buf[i] ^= 0xff
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		if c.exportBetweenReads {
			if _, err := conn.ExportKeyingMaterial("label", nil, 1); err != nil {
				return fmt.Errorf("exporter after Read: %w", err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := once(); err != nil {
		return err
	}
	return conn.Close()
}

// shutDown closes this end first.
func (c *connection) shutDown(conn tlsapi.Conn, check func() error) error {
	if c.implicitHandshake {
		if err := conn.Handshake(); err != nil {
			return err
		}
	}
	if err := check(); err != nil {
		return err
	}
	if !c.checkCloseNotify {
		return conn.Close()
	}
	if err := conn.CloseWrite(); err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			return missing{"half-close"}
		}
		return err
	}
	// The peer's data on the way is of no interest, its close_notify is.
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{conn}); err != nil {
		return err
	}
	return conn.Close()
}

// check compares what was negotiated with what the flags expect.
func (c *connection) check(t *test, conn tlsapi.Conn, resumption bool) error {
	state, info := conn.ConnectionState(), conn.Info()
	wrong := func(what string, found, expected any) error {
		return fmt.Errorf("%s is %v, expected %v", what, found, expected)
	}
	if !state.HandshakeComplete {
		return errors.New("the handshake is not complete")
	}
	if expected := resumption && !c.expectSessionMiss; state.DidResume != expected {
		return wrong("resumption", state.DidResume, expected)
	}
	if c.expectVersion != 0 && state.Version != c.expectVersion {
		return wrong("version", state.Version, c.expectVersion)
	}
	if c.expectCipher != 0 && state.CipherSuite != c.expectCipher {
		return wrong("cipher suite", state.CipherSuite, c.expectCipher)
	}
	// Info tells what this handshake did, BoringSSL what the session's did: a
	// resumed one has no signature, and with TLS 1.2 no group.
	if c.expectCurve != 0 && info.Group != c.expectCurve && !(state.DidResume && state.Version == tls.VersionTLS12) {
		return wrong("group", info.Group, c.expectCurve)
	}
	if c.expectScheme != 0 && c.fixedSchemes == nil && info.SignatureScheme != c.expectScheme && !state.DidResume {
		return wrong("signature scheme", info.SignatureScheme, c.expectScheme)
	}
	if c.expectEMS {
		if err := c.checkExtendedMasterSecret(conn); err != nil {
			return err
		}
	}
	if c.expectALPN != "" && state.NegotiatedProtocol != c.expectALPN {
		return wrong("ALPN", state.NegotiatedProtocol, c.expectALPN)
	}
	if t.server && c.selectALPN != "" && state.NegotiatedProtocol != c.selectALPN {
		return wrong("ALPN", state.NegotiatedProtocol, c.selectALPN)
	}
	if c.declineALPN && state.NegotiatedProtocol != "" {
		return wrong("ALPN", state.NegotiatedProtocol, "none")
	}
	if c.expectServerName != "" && state.ServerName != c.expectServerName {
		return wrong("server name", state.ServerName, c.expectServerName)
	}
	if c.expectNoServerName && state.ServerName != "" {
		return wrong("server name", state.ServerName, "none")
	}
	if c.expectHRR && !info.HelloRetryRequest || c.expectNoHRR && info.HelloRetryRequest {
		return wrong("HelloRetryRequest", info.HelloRetryRequest, c.expectHRR)
	}
	if c.expectOCSP != nil && !bytes.Equal(state.OCSPResponse, c.expectOCSP) {
		return wrong("OCSP response", state.OCSPResponse, c.expectOCSP)
	}
	if c.expectSCTs != nil {
		if state.SignedCertificateTimestamps == nil {
			return missing{"signed certificate timestamps"}
		}
		if list := timestamps(state.SignedCertificateTimestamps); !bytes.Equal(list, c.expectSCTs) {
			return wrong("signed certificate timestamps", list, c.expectSCTs)
		}
	}
	if c.expectNoPeerCert && len(state.PeerCertificates) > 0 {
		return errors.New("the peer has sent a certificate")
	}
	if c.expectPeerCert != "" {
		expected, err := chain(c.expectPeerCert)
		if err != nil {
			return err
		}
		var found [][]byte
		for _, cert := range state.PeerCertificates {
			found = append(found, cert.Raw)
		}
		if !slices.EqualFunc(found, expected, bytes.Equal) {
			return fmt.Errorf("the peer's chain of %d certificates is another than the one of %d expected", len(found), len(expected))
		}
	}
	return nil
}

// checkExtendedMasterSecret asks for keying material: no provider exports it from
// a connection of TLS 1.2 without the extended master secret. TLS 1.3 has its like
// always.
func (c *connection) checkExtendedMasterSecret(conn tlsapi.Conn) error {
	if conn.ConnectionState().Version == tls.VersionTLS13 {
		return nil
	}
	if c.noExporter {
		return missing{"exporter"}
	}
	if _, err := conn.ExportKeyingMaterial("label", nil, 1); err != nil {
		return fmt.Errorf("there is no extended master secret: %w", err)
	}
	return nil
}

// hello checks a ClientHello.
func (c *connection) hello(info *tls.ClientHelloInfo) error {
	if c.expectAdvertisedALPN != nil && !slices.Equal(info.SupportedProtos, c.expectAdvertisedALPN) {
		return fmt.Errorf("the client offers ALPN %q, expected %q", info.SupportedProtos, c.expectAdvertisedALPN)
	}
	if c.expectVerifyPrefs != nil && !slices.Equal(info.SignatureSchemes, c.expectVerifyPrefs) {
		return fmt.Errorf("the client offers signature schemes %v, expected %v", info.SignatureSchemes, c.expectVerifyPrefs)
	}
	return nil
}
