package tlstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// end is what a provider's connection and crypto/tls's have in common.
type end interface {
	net.Conn
	Handshake() error
	HandshakeContext(ctx context.Context) error
	CloseWrite() error
	ConnectionState() tls.ConnectionState
}

// session is a connection under test: a client and a server end over an
// in-memory transport.
type session struct {
	clientWire, serverWire *Transport
	client, server         end
}

// duo is a session of the provider's conn and crypto/tls's peer.
type duo struct {
	*session
	conn               tlsapi.Conn
	peer               *tls.Conn
	connWire, peerWire *Transport
}

// newWire returns a transport that is closed with the test and broken when the
// test hangs.
func newWire(t *testing.T) (clientWire, serverWire *Transport) {
	t.Helper()
	record(t)
	clientWire, serverWire = Pipe()
	watchdog := time.AfterFunc(patience, func() { clientWire.Break(errHung) })
	t.Cleanup(func() {
		if !watchdog.Stop() {
			t.Errorf("the test took longer than %v; its transport was broken", patience)
		}
		clientWire.Close()
		serverWire.Close()
	})
	return clientWire, serverWire
}

// newShortWire is newWire for sessions of which a test has thousands: they are
// closed one by one.
func newShortWire() (clientWire, serverWire *Transport, stop func() bool) {
	clientWire, serverWire = Pipe()
	watchdog := time.AfterFunc(patience, func() { clientWire.Break(errHung) })
	return clientWire, serverWire, watchdog.Stop
}

// clientDuo makes the provider's client and crypto/tls's server; the handshake
// has not begun. For values see acceptRefusal.
func (s *suite) clientDuo(t *testing.T, config *tlsapi.ClientConfig, reference *tls.Config, values ...string) *duo {
	t.Helper()
	clientWire, serverWire := newWire(t)
	conn, err := s.p.Client(clientWire, config)
	s.acceptRefusal(t, err, config.Features(), values...)
	peer := tls.Server(serverWire, reference)
	d := &duo{
		session: &session{clientWire, serverWire, conn, peer},
		conn:    conn, peer: peer, connWire: clientWire, peerWire: serverWire,
	}
	d.closeWith(t)
	return d
}

// serverDuo makes the provider's server and crypto/tls's client.
func (s *suite) serverDuo(t *testing.T, config *tlsapi.ServerConfig, reference *tls.Config, values ...string) *duo {
	t.Helper()
	clientWire, serverWire := newWire(t)
	conn, err := s.p.Server(serverWire, config)
	s.acceptRefusal(t, err, config.Features(), values...)
	peer := tls.Client(clientWire, reference)
	d := &duo{
		session: &session{clientWire, serverWire, peer, conn},
		conn:    conn, peer: peer, connWire: serverWire, peerWire: clientWire,
	}
	d.closeWith(t)
	return d
}

// unconnected makes the provider's end with valid settings in a role, and
// crypto/tls's peer of one version.
func (s *suite) unconnected(t *testing.T, r role, version uint16, change ...func(*tlsapi.Settings)) *duo {
	t.Helper()
	if r == client {
		return s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) {
			for _, f := range change {
				f(&c.Settings)
			}
		}), s.referenceServer(only(version)))
	}
	return s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
		for _, f := range change {
			f(&c.Settings)
		}
	}), s.referenceClient(only(version)))
}

// connected is unconnected with the handshake done. A server of TLS 1.3 sends
// its tickets with the handshake or its first data: echo makes both ends
// quiet.
func (s *suite) connected(t *testing.T, r role, version uint16, change ...func(*tlsapi.Settings)) *duo {
	t.Helper()
	d := s.unconnected(t, r, version, change...)
	d.mustHandshake(t)
	d.mustEcho(t)
	return d
}

// make makes the provider's end with valid settings in a role, changed by
// change.
func (s *suite) make(r role, wire net.Conn, change ...func(*tlsapi.Settings)) (tlsapi.Conn, error) {
	if r == client {
		return s.p.Client(wire, s.clientConfig(func(c *tlsapi.ClientConfig) {
			for _, f := range change {
				f(&c.Settings)
			}
		}))
	}
	return s.p.Server(wire, s.serverConfig(func(c *tlsapi.ServerConfig) {
		for _, f := range change {
			f(&c.Settings)
		}
	}))
}

func (s *session) closeWith(t *testing.T) {
	t.Cleanup(func() {
		s.client.Close()
		s.server.Close()
	})
}

// handshake runs both ends' handshakes. An end that fails is closed, as a
// program would do, so that the other does not wait for it.
func (s *session) handshake() (clientErr, serverErr error) {
	done := make(chan error, 1)
	run := func(e end) error {
		err := e.Handshake()
		if err != nil {
			e.Close()
		}
		return err
	}
	go func() { done <- run(s.server) }()
	clientErr = run(s.client)
	return clientErr, <-done
}

// handshakes is handshake with the errors by end under test and peer.
func (d *duo) handshakes() (connErr, peerErr error) {
	clientErr, serverErr := d.handshake()
	if d.connWire == d.clientWire {
		return clientErr, serverErr
	}
	return serverErr, clientErr
}

func (s *session) mustHandshake(t *testing.T) {
	t.Helper()
	clientErr, serverErr := s.handshake()
	require.NoError(t, errors.Join(clientErr, serverErr))
}

// mustEcho sends data each way and compares what arrives.
func (s *session) mustEcho(t *testing.T) {
	t.Helper()
	for _, size := range []int{1, 100, 20_000} {
		sent := make([]byte, size)
		rand.Read(sent)
		done := make(chan error, 1)
		go func() {
			buf := make([]byte, size)
			_, err := io.ReadFull(s.server, buf)
			if err == nil {
				_, err = s.server.Write(buf)
			}
			if err != nil {
				s.server.Close() // or the client would wait for the answer
			}
			done <- err
		}()
		n, err := s.client.Write(sent)
		require.NoError(t, err)
		require.Equal(t, size, n)
		got := make([]byte, size)
		_, err = io.ReadFull(s.client, got)
		require.NoError(t, errors.Join(err, <-done))
		require.True(t, bytes.Equal(sent, got), "%d bytes came back changed", size)
	}
}

// hello returns the client's first ClientHello.
func (s *session) hello(t *testing.T) *ClientHello {
	t.Helper()
	hello, err := ParseClientHello(s.clientWire.Written())
	require.NoError(t, err)
	return hello
}

// requireKind fails the test unless err is a *tlsapi.Error of the kind that
// names the provider and wraps the error that the kind promises.
func (s *suite) requireKind(t *testing.T, err error, kind tlsapi.Kind) *tlsapi.Error {
	t.Helper()
	return s.requireKinds(t, err, kind)
}

func (s *suite) requireKinds(t *testing.T, err error, kinds ...tlsapi.Kind) *tlsapi.Error {
	t.Helper()
	require.Error(t, err)
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e, "%T: %v", err, err)
	require.Contains(t, kinds, e.Kind, "%v", err)
	require.ErrorIs(t, err, e.Kind)
	assert.Equal(t, s.p.Name(), e.Provider, "%v", err)
	assert.NotEmpty(t, e.Op, "%v", err)
	assert.NotEmpty(t, err.Error())
	requirePromisedError(t, err, e.Kind)
	return e
}

// requirePromisedError tests what the documentation of the kinds says about
// the wrapped error.
func requirePromisedError(t *testing.T, err error, kind tlsapi.Kind) {
	t.Helper()
	switch kind {
	case tlsapi.KindUnsupported:
		require.ErrorIs(t, err, errors.ErrUnsupported)
	case tlsapi.KindClosed:
		require.ErrorIs(t, err, net.ErrClosed)
	case tlsapi.KindTimeout:
		require.True(t, errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded), "%v", err)
		var n net.Error
		require.ErrorAs(t, err, &n)
		require.True(t, n.Timeout(), "%v", err)
	case tlsapi.KindNotTLS:
		var header tls.RecordHeaderError
		require.ErrorAs(t, err, &header)
	case tlsapi.KindHostname:
		var e x509.HostnameError
		require.ErrorAs(t, err, &e)
		require.NotNil(t, e.Certificate)
	case tlsapi.KindUntrusted, tlsapi.KindSelfSigned:
		var e x509.UnknownAuthorityError
		require.ErrorAs(t, err, &e)
		require.NotNil(t, e.Cert)
	case tlsapi.KindExpired, tlsapi.KindNotYetValid:
		var e x509.CertificateInvalidError
		require.ErrorAs(t, err, &e)
		require.Equal(t, x509.Expired, e.Reason)
		require.NotNil(t, e.Cert)
	case tlsapi.KindKeyUsage:
		var e x509.CertificateInvalidError
		require.ErrorAs(t, err, &e)
		// A library may look at the key usage before it hands the certificate
		// out: e.Cert is nil then.
		require.Equal(t, x509.IncompatibleUsage, e.Reason)
	case tlsapi.KindPeerAlert:
		var e *tlsapi.Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.HasAlert, "%v", err)
		var alert tls.AlertError
		require.ErrorAs(t, err, &alert)
	}
}

// Alerts, from the IANA registry.
const (
	alertBadRecordMAC        tls.AlertError = 20
	alertHandshakeFailure    tls.AlertError = 40
	alertBadCertificate      tls.AlertError = 42
	alertProtocolVersion     tls.AlertError = 70
	alertNoALPN              tls.AlertError = 120
	alertCertificateRequired tls.AlertError = 116
)

// certificateAlerts are those that say that a certificate was refused;
// BoringSSL calls a wrong key usage an illegal_parameter (47).
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 47, 48, alertCertificateRequired}

// stage is the part of a connection in which an alert is sent.
type stage bool

const (
	// inTheClear is a handshake before any keys are in use.
	inTheClear stage = false
	// encrypted is what comes after that.
	encrypted stage = true
)

// certificateStage is the stage in which a certificate is refused.
func certificateStage(version uint16) stage { return version == tls.VersionTLS13 }

// requireAlertSeen fails the test unless crypto/tls has received one of the
// alerts from the provider's end. Alerts that are encrypted may be missing or
// unreadable, where the provider's features say that not all go out.
func (s *suite) requireAlertSeen(t *testing.T, r role, when stage, peerErr error, alerts ...tls.AlertError) {
	t.Helper()
	require.Error(t, peerErr)
	text := peerErr.Error()
	for _, a := range alerts {
		if strings.Contains(text, "remote error: "+a.Error()) {
			return
		}
	}
	if when == encrypted && !s.native(r.feature("alerts")) {
		t.Logf("no alert arrived, as declared (%s): %v", s.cells[r.feature("alerts")].Note, peerErr)
		return
	}
	require.Fail(t, "the peer has not received the alert", "it may be one of %v; the peer's error is: %v", alerts, peerErr)
}

// isCut reports whether an error is that of a connection which ended without
// a close_notify.
func isCut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// within runs f and returns its error; it fails the test when f takes longer
// than promptly.
func within(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	return result(t, what, done)
}

// result returns what comes from done; it fails the test when that takes longer
// than promptly.
func result(t *testing.T, what string, done <-chan error) error {
	t.Helper()
	err, ok := uptime.Receive(done, promptly)
	require.True(t, ok, "%s took longer than %v", what, promptly)
	return err
}
