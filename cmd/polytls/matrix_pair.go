package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

const (
	versionTLS12 = tls.VersionTLS12
	versionTLS13 = tls.VersionTLS13

	// transferSize is what goes each way through every pair.
	transferSize = 1 << 20
	// stuckTime is how long after its timeout a pair is waited for before it
	// is given up as stuck.
	stuckTime = 2 * time.Second
)

// pairTrial is the trial of one provider as client against one as server.
type pairTrial struct {
	client, server tlsapi.Provider
	version        uint16
	authority      *matrixAuthority
	report         pairReport
}

func (t *pairTrial) run(ctx context.Context) error {
	if err := t.client.Available(); err != nil {
		return wrap("client", err)
	}
	if err := t.server.Available(); err != nil {
		return wrap("server", err)
	}
	mutual := supports(t.client, tlsapi.ClientCertificate) && supports(t.server, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
	if err := t.tryTransfer(ctx, mutual); err != nil {
		return err
	}
	if t.bothResume() {
		if err := t.tryResumption(ctx); err != nil {
			return fmt.Errorf("resumption: %w", err)
		}
	}
	if t.bothPSK() {
		if err := t.tryPSK(ctx); err != nil {
			return fmt.Errorf("PSK: %w", err)
		}
	}
	return nil
}

// configs are the configurations that every connection of the trial starts
// from.
func (t *pairTrial) configs() (*tlsapi.ClientConfig, *tlsapi.ServerConfig) {
	client := &tlsapi.ClientConfig{ServerName: matrixServerName, RootCAs: t.authority.roots}
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{t.authority.server}}
	client.MinVersion, client.MaxVersion = t.version, t.version
	server.MinVersion, server.MaxVersion = t.version, t.version
	return client, server
}

// tryTransfer is the main connection: agreement, transfer and close.
func (t *pairTrial) tryTransfer(ctx context.Context, mutual bool) error {
	client, server := t.configs()
	alpn := supports(t.client, tlsapi.ClientALPN) && supports(t.server, tlsapi.ServerALPN)
	if alpn {
		// In opposite orders: the server's counts.
		client.ALPN = []string{"http/1.1", "h2"}
		server.ALPN = []string{"h2", "http/1.1"}
	}
	if mutual {
		client.Certificate = &t.authority.client
		server.ClientAuth = tls.RequireAndVerifyClientCert
		server.ClientCAs = t.authority.roots
	}
	return t.connect(ctx, client, server, func(c, s tlsapi.Conn, took time.Duration) error {
		if err := t.checkAgreement(c, s, alpn, mutual); err != nil {
			return err
		}
		t.report.HandshakeMicros = took.Microseconds()
		t.report.MutualTLS = mutual
		if err := transfer(c, s); err != nil {
			return err
		}
		t.report.Bytes = transferSize
		return checkClose(c, s)
	})
}

// checkAgreement fills the report from the client's view and holds it against
// the server's.
func (t *pairTrial) checkAgreement(c, s tlsapi.Conn, alpn, mutual bool) error {
	ci, si := c.Info(), s.Info()
	t.report.Version = tlsapi.VersionName(ci.Version)
	t.report.CipherSuite = tlsapi.CipherSuiteName(ci.CipherSuite)
	t.report.Group = tlsapi.CurveName(ci.Group)
	t.report.ALPN = ci.ALPN
	switch {
	case ci.Version != t.version || si.Version != t.version:
		return fmt.Errorf("asked for %s, but the client has %s and the server %s",
			tlsapi.VersionName(t.version), tlsapi.VersionName(ci.Version), tlsapi.VersionName(si.Version))
	case ci.CipherSuite != si.CipherSuite || ci.CipherSuite == 0:
		return fmt.Errorf("the client has cipher suite %q and the server %q", tlsapi.CipherSuiteName(ci.CipherSuite), tlsapi.CipherSuiteName(si.CipherSuite))
	case ci.Group != si.Group && ci.Group != 0 && si.Group != 0:
		return fmt.Errorf("the client has group %s and the server %s", tlsapi.CurveName(ci.Group), tlsapi.CurveName(si.Group))
	case ci.ALPN != si.ALPN:
		return fmt.Errorf("the client has ALPN %q and the server %q", ci.ALPN, si.ALPN)
	case alpn && ci.ALPN != "h2":
		return fmt.Errorf("ALPN is %q, not \"h2\", which the server prefers", ci.ALPN)
	case !ci.Verified:
		return errors.New("the client has not verified the server")
	case ci.PeerSHA256 != digestOf(t.authority.server.Certificate[0]):
		return errors.New("the client does not see the server's certificate")
	case mutual && !si.Verified:
		return errors.New("the server has not verified the client")
	case mutual && si.PeerSHA256 != digestOf(t.authority.client.Certificate[0]):
		return errors.New("the server does not see the client's certificate")
	}
	if t.report.Group == "" {
		t.report.Group = tlsapi.CurveName(si.Group)
	}
	return nil
}

func digestOf(der []byte) string { return fmt.Sprintf("%x", sha256.Sum256(der)) }

// transfer sends random bytes both ways at once and compares digests.
func transfer(c, s tlsapi.Conn) error {
	return both(
		func() error { return transferOneWay(c, s, "client to server") },
		func() error { return transferOneWay(s, c, "server to client") })
}

func transferOneWay(from, to tlsapi.Conn, direction string) error {
	data := make([]byte, transferSize)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	digest := sha256.New()
	err := both(
		func() error {
			_, err := from.Write(data)
			return closeFailed(from, wrap("write", err))
		},
		func() error {
			_, err := io.CopyN(digest, to, transferSize)
			return closeFailed(to, wrap("read", err))
		})
	if err != nil {
		return fmt.Errorf("%s: %w", direction, err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(digest.Sum(nil), want[:]) {
		return fmt.Errorf("%s: the bytes that arrived have another SHA-256 digest", direction)
	}
	return nil
}

// checkClose closes the client; the server must see its close_notify.
func checkClose(c, s tlsapi.Conn) error {
	if err := c.Close(); err != nil {
		return fmt.Errorf("client: close: %w", err)
	}
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("server: after the client's close, Read returned %d bytes and error %v, not EOF", n, err)
	}
	if err := s.Close(); err != nil {
		return fmt.Errorf("server: close: %w", err)
	}
	return nil
}

func (t *pairTrial) bothResume() bool {
	return supports(t.client, tlsapi.ClientSessionCache) && supports(t.server, tlsapi.ServerSessionTickets)
}

// tryResumption makes two connections with one session cache; the second must
// resume the first.
func (t *pairTrial) tryResumption(ctx context.Context) error {
	client, server := t.configs()
	client.SessionCache = &memorySessions{sessions: make(map[string][]byte)}
	for _, resumed := range []bool{false, true} {
		err := t.connect(ctx, client, server, func(c, s tlsapi.Conn, _ time.Duration) error {
			if c.Info().Resumed != resumed || s.Info().Resumed != resumed {
				return fmt.Errorf("resumed is %t at the client and %t at the server, not %t", c.Info().Resumed, s.Info().Resumed, resumed)
			}
			// A TLS 1.3 client gets its tickets while it reads.
			if err := transfer(c, s); err != nil {
				return err
			}
			return checkClose(c, s)
		})
		if err != nil {
			return err
		}
	}
	t.report.Resumed = true
	return nil
}

// memorySessions is a tlsapi.SessionCache for one trial.
type memorySessions struct {
	mu       sync.Mutex
	sessions map[string][]byte
}

func (m *memorySessions) Get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	session := m.sessions[key]
	delete(m.sessions, key)
	return session
}

func (m *memorySessions) Put(key string, session []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions[key] = session
}

// pskKind is the kind of key that both can use; false when there is none.
func (t *pairTrial) pskKind() (tlsapi.PSKKind, bool) {
	kinds := []struct {
		kind           tlsapi.PSKKind
		version        uint16
		client, server tlsapi.Feature
	}{
		{tlsapi.PSKExternal, versionTLS13, tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal},
		{tlsapi.PSKImported, versionTLS13, tlsapi.ClientPSKImported, tlsapi.ServerPSKImported},
		{tlsapi.PSKTLS12, versionTLS12, tlsapi.ClientPSKTLS12, tlsapi.ServerPSKTLS12},
	}
	for _, k := range kinds {
		if k.version == t.version && supports(t.client, k.client) && supports(t.server, k.server) {
			return k.kind, true
		}
	}
	return 0, false
}

func (t *pairTrial) bothPSK() bool {
	_, ok := t.pskKind()
	return ok
}

// tryPSK makes a connection that is authenticated by a pre-shared key.
func (t *pairTrial) tryPSK(ctx context.Context) error {
	kind, _ := t.pskKind()
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	identity := []byte("polytls-matrix")
	client, server := t.configs()
	client.PSKs = []tlsapi.PSK{{Identity: identity, Secret: secret, Kind: kind}}
	server.PSKs = client.PSKs
	return t.connect(ctx, client, server, func(c, s tlsapi.Conn, _ time.Duration) error {
		if ci, si := c.Info().PSKIdentity, s.Info().PSKIdentity; !bytes.Equal(ci, identity) || !bytes.Equal(si, identity) {
			return fmt.Errorf("the identity in use is %q at the client and %q at the server, not %q", ci, si, identity)
		}
		t.report.PSK, t.report.PSKKind = true, kind.String()
		return checkClose(c, s)
	})
}

// connect makes a connection over TCP, runs both handshakes and then use, and
// closes everything. When ctx ends it fails with the errors of both ends.
func (t *pairTrial) connect(ctx context.Context, client *tlsapi.ClientConfig, server *tlsapi.ServerConfig, use func(c, s tlsapi.Conn, took time.Duration) error) error {
	near, far, err := tcpPair(ctx)
	if err != nil {
		return err
	}
	// Both contexts are made before the clock starts.
	c, err := t.client.Client(near, client)
	if err != nil {
		return errors.Join(fmt.Errorf("client: %w", err), near.Close(), far.Close())
	}
	defer c.Close()
	s, err := t.server.Server(far, server)
	if err != nil {
		return errors.Join(fmt.Errorf("server: %w", err), far.Close())
	}
	defer s.Close()

	finished := make(chan error, 1)
	go func() {
		begin := time.Now()
		err := both(
			func() error { return t.handshake(ctx, c, "client") },
			func() error { return t.handshake(ctx, s, "server") })
		if err == nil {
			err = use(c, s, time.Since(begin))
		}
		finished <- err
	}()
	select {
	case err := <-finished:
		return err
	case <-ctx.Done():
	}
	// The ends fail with what they were doing.
	near.Close()
	far.Close()
	select {
	case err := <-finished:
		return errors.Join(fmt.Errorf("no result in time: %w", context.Cause(ctx)), err)
	case <-time.After(stuckTime):
		return fmt.Errorf("stuck: closing the TCP connections did not end it: %w", context.Cause(ctx))
	}
}

// handshake runs one end.
func (t *pairTrial) handshake(ctx context.Context, conn tlsapi.Conn, end string) error {
	return closeFailed(conn, wrap(end, conn.HandshakeContext(ctx)))
}

// tcpPair returns both ends of a TCP connection over loopback.
func tcpPair(ctx context.Context) (near, far net.Conn, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	// Loopback connects before the other end accepts.
	var dialer net.Dialer
	near, err = dialer.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	for {
		far, err = listener.Accept()
		if err != nil {
			return nil, nil, errors.Join(err, near.Close())
		}
		// Another process may have connected first.
		if far.RemoteAddr().String() == near.LocalAddr().String() {
			return near, far, nil
		}
		far.Close()
	}
}

// both runs two functions at once and returns the errors of both.
func both(a, b func() error) error {
	second := make(chan error, 1)
	go func() { second <- b() }()
	return errors.Join(a(), <-second)
}

// closeFailed closes a connection after an error, so that the other end does
// not wait for it.
func closeFailed(conn tlsapi.Conn, err error) error {
	if err != nil {
		conn.Close()
	}
	return err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
