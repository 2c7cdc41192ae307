package stdtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/internal/linger"
	"github.com/polytls/polytls/tlsapi"
)

// conn is a tlsapi.Conn over *tls.Conn.
type conn struct {
	inner     net.Conn // the caller's
	transport *transport
	tls       *tls.Conn
	client    bool
	// settings are those of the configuration; a server's are replaced when
	// GetConfigForClient chooses another one, by the goroutine that runs the
	// handshake.
	settings *tlsapi.Settings
	verifier *verifier
	// sessions is a client's session cache, or nil.
	sessions *sessions

	// started is set by the goroutine that runs the handshake. It closes
	// done when handshakeErr and verifiedChains are final.
	started        atomic.Bool
	done           chan struct{}
	handshakeErr   *tlsapi.Error
	verifiedChains [][]*x509.Certificate
	// early is what is known while the handshake runs.
	early atomic.Pointer[tls.ConnectionState]
	// outcome is set once: to the cause when a context or the timer ended
	// the handshake, to finished when crypto/tls was first.
	outcome   atomic.Pointer[error]
	timer     *time.Timer
	startTime time.Time
	timeout   time.Duration
	// handshakeCtx is done when the handshake is to end, and signerErr is the
	// error of the private key. Both belong to the goroutine that runs the
	// handshake.
	handshakeCtx context.Context
	signerErr    *tlsapi.Error
	// ending is done when the handshake is to end early; end does it.
	ending context.Context
	end    context.CancelFunc

	// writers counts running Writes in steps of 2; bit 0 is set by Close.
	writers atomic.Int32
	// reading is held by Reads; heard is set when one has had data.
	reading sync.RWMutex
	heard   atomic.Bool
	// deadlines orders the deadline setters and Close.
	deadlines sync.Mutex

	mu sync.Mutex
	// writeErr is why nothing can be written any more.
	writeErr *tlsapi.Error
	// failed is set by a fatal error of a Read: nothing is sent after it.
	failed bool
}

var _ tlsapi.Conn = (*conn)(nil)

func newConn(inner net.Conn, client bool, settings *tlsapi.Settings, v *verifier) *conn {
	c := &conn{
		inner:     inner,
		transport: newTransport(inner, client),
		client:    client,
		settings:  settings,
		verifier:  v,
		done:      make(chan struct{}),
	}
	c.transport.setBlinding(blindingDelay(settings))
	c.ending, c.end = context.WithCancel(context.Background())
	return c
}

func newClientConn(inner net.Conn, config *tlsapi.ClientConfig) (*conn, error) {
	plan, err := clientPlanOf(config)
	if err != nil {
		return nil, err
	}
	c := newConn(inner, true, &config.Settings, plan.verifier)
	standard := plan.standard.Clone()
	standard.VerifyConnection = c.verify
	if choose := standard.GetClientCertificate; choose != nil {
		standard.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := choose(request)
			if err != nil {
				return nil, err
			}
			return c.withSigner(cert), nil
		}
	}
	if config.SessionCache != nil {
		c.sessions = &sessions{cache: config.SessionCache, key: plan.sessionKey, chainsUntil: c.chainsUntil}
		standard.SessionTicketsDisabled, standard.ClientSessionCache = false, c.sessions
	}
	c.tls = tls.Client(c.transport, standard)
	return c, nil
}

func newServerConn(inner net.Conn, config *tlsapi.ServerConfig) (*conn, error) {
	plan, err := serverPlanOf(config)
	if err != nil {
		return nil, err
	}
	c := newConn(inner, false, &config.Settings, plan.verifier)
	standard := plan.standard.Clone()
	standard.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return c.configForClient(plan, hello)
	}
	c.tls = tls.Server(c.transport, standard)
	return c, nil
}

// configForClient runs for every ClientHello: it lets the caller's hook choose
// a configuration, chooses the certificate, which tickets depend on, and fits
// ALPN to what the client offers.
func (c *conn) configForClient(plan *serverPlan, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	hello.Conn = c.inner
	if plan.config.GetConfigForClient != nil {
		base := plan.config
		chosen, err := waitForHook(hello.Context(), func() (*tlsapi.ServerConfig, error) { return base.GetConfigForClient(hello) })
		if err != nil {
			return nil, rejected(alertInternalError, fmt.Errorf("GetConfigForClient: %w", err))
		}
		if chosen != nil && chosen != plan.config {
			if plan, err = serverPlanOf(chosen); err != nil {
				return nil, err
			}
			c.adopt(plan)
		}
	}
	cert, binding, err := plan.chooseCertificate(hello.Context(), hello)
	if err != nil {
		return nil, err
	}
	standard := plan.standard.Clone()
	standard.VerifyConnection = c.verify
	standard.Certificates = []tls.Certificate{*c.withSigner(cert)}
	standard.NextProtos = negotiableALPN(plan.config, hello.SupportedProtos)
	if !plan.config.SessionTicketsDisabled {
		newTicketer(plan.config.SessionTicketKeys, binding, hello.ServerName, c.chainsUntil).into(standard)
	}
	return standard, nil
}

// adopt makes the connection follow a configuration that GetConfigForClient
// has chosen, in everything that it says.
func (c *conn) adopt(plan *serverPlan) {
	c.verifier = plan.verifier
	if plan.config.HandshakeTimeout != c.settings.HandshakeTimeout {
		c.startTimer(plan.config.HandshakeTimeout)
	}
	c.settings = &plan.config.Settings
	c.transport.setBlinding(blindingDelay(c.settings))
}

// chainsUntil tells how long the chains that the handshake has verified hold;
// the zero time is no limit.
func (c *conn) chainsUntil() time.Time {
	if c.verifier == nil {
		return time.Time{}
	}
	return c.verifier.until(c.verifiedChains)
}

// verify is crypto/tls's VerifyConnection: after the peer's certificates have
// come and before this end's last flight.
func (c *conn) verify(state tls.ConnectionState) error {
	var chains [][]*x509.Certificate
	if c.verifier != nil && (c.client || len(state.PeerCertificates) > 0) {
		if len(state.PeerCertificates) == 0 {
			return &tlsapi.Error{Provider: providerName, Op: opHandshake, Kind: tlsapi.KindNoCertificate, Alert: alertBadCertificate, HasAlert: true}
		}
		var err error
		if chains, err = c.verifier.verify(state.PeerCertificates); err != nil {
			return err
		}
	}
	state.VerifiedChains = chains
	c.verifiedChains = chains
	c.early.Store(&state)
	if c.client && slices.Equal(c.settings.ALPN, tlsapi.ALPNH2()) && state.NegotiatedProtocol == "" {
		return &tlsapi.Error{
			Provider: providerName, Op: opHandshake, Kind: tlsapi.KindNoALPN, Alert: alertBadCertificate, HasAlert: true,
			Err: errors.New("the server selected none; only h2 was offered"),
		}
	}
	if hook := c.settings.VerifyConnection; hook != nil {
		if err := hook(state); err != nil {
			return rejected(alertBadCertificate, fmt.Errorf("VerifyConnection: %w", err))
		}
	}
	return c.overdue()
}

func (c *conn) Handshake() error { return c.HandshakeContext(context.Background()) }

func (c *conn) HandshakeContext(ctx context.Context) error {
	if err := c.handshake(ctx); err != nil {
		return err
	}
	return nil
}

// handshake returns a typed error, for callers that add nothing to it.
func (c *conn) handshake(ctx context.Context) *tlsapi.Error {
	if c.isClosed() {
		if c.complete() {
			return nil
		}
		return closed(opHandshake)
	}
	if c.isDone() {
		return c.handshakeErr
	}
	if c.started.CompareAndSwap(false, true) {
		c.runHandshake(ctx)
		return c.handshakeErr
	}
	select {
	case <-c.done:
		return c.handshakeErr
	case <-c.ending.Done():
		if c.isClosed() {
			return closed(opHandshake)
		}
		<-c.done
		return c.handshakeErr
	case <-ctx.Done():
		if !c.abort(ctx.Err()) {
			<-c.done
			return c.handshakeErr
		}
		return ended(ctx.Err())
	}
}

func (c *conn) runHandshake(ctx context.Context) {
	over := sync.OnceFunc(func() {
		c.transport.handshakeOver()
		c.end()
		close(c.done)
	})
	// What stays if a hook panics.
	c.handshakeErr = &tlsapi.Error{Provider: providerName, Op: opHandshake, Kind: tlsapi.KindInternal, Err: errors.New("a hook panicked")}
	defer over()

	c.handshakeErr = c.tryHandshake(ctx)
	if c.handshakeErr == nil {
		state := c.finalState()
		if c.sessions != nil {
			c.sessions.accept(state)
		}
		if hook := c.settings.HandshakeComplete; hook != nil {
			hook(c.describe(state))
		}
		return
	}
	c.verifiedChains = nil
	// The handshake is over before the hook runs: it may use the connection.
	over()
	if hook := c.settings.HandshakeFailed; hook != nil {
		hook(c.handshakeErr)
	}
}

func (c *conn) tryHandshake(ctx context.Context) *tlsapi.Error {
	if err := ctx.Err(); err != nil {
		c.abort(err)
		return ended(err)
	}
	// Hooks see this context in the ClientHelloInfo.
	handshakeCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ending, cancel)()

	c.handshakeCtx = handshakeCtx
	c.startTime = time.Now()
	c.startTimer(c.settings.HandshakeTimeout)
	e := c.outcomeOf(ctx, handshakeCtx, c.tls.HandshakeContext(handshakeCtx))
	if e != nil {
		c.blind(e)
	}
	return e
}

// outcomeOf makes the connection's error of what crypto/tls's handshake has
// returned.
func (c *conn) outcomeOf(ctx, handshakeCtx context.Context, err error) *tlsapi.Error {
	if c.timer != nil {
		c.timer.Stop()
	}
	if err == nil {
		_ = c.overdue()
	}
	if !c.outcome.CompareAndSwap(nil, &finished) {
		return ended(*c.outcome.Load())
	}
	if err == nil {
		return nil
	}
	if handshakeCtx.Err() != nil && errors.Is(err, handshakeCtx.Err()) {
		if ctx.Err() != nil {
			// crypto/tls does so, too, unless its handshake has ended at the
			// same time.
			_ = c.transport.Close()
			return ended(ctx.Err())
		}
		return closed(opHandshake)
	}
	if c.signerErr != nil {
		err = c.signerErr
	}
	e := classify(opHandshake, err)
	if c.isClosed() && errors.As(err, new(*transportError)) {
		return closed(opHandshake)
	}
	if sent := c.transport.sentAlert(); sent >= 0 && e.Kind != tlsapi.KindPeerAlert {
		e.Alert, e.HasAlert = tls.AlertError(sent), true
	}
	return e
}

// finished is the outcome of a handshake that nobody ended from outside.
var finished error

// startTimer starts the handshake timeout, or replaces it; it counts from the
// beginning of the handshake.
func (c *conn) startTimer(timeout time.Duration) {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.timeout = timeout
	if timeout > 0 {
		c.timer = time.AfterFunc(time.Until(c.startTime.Add(timeout)), func() { c.abort(overtime(timeout)) })
	}
}

// overdue ends a handshake whose time is up: on a busy machine the timer may be
// later than what follows a slow hook.
func (c *conn) overdue() error {
	if c.timeout <= 0 || time.Since(c.startTime) < c.timeout {
		return nil
	}
	err := overtime(c.timeout)
	c.abort(err)
	return err
}

func overtime(timeout time.Duration) error {
	return fmt.Errorf("the handshake took longer than HandshakeTimeout, %v: %w", timeout, context.DeadlineExceeded)
}

// abort ends the handshake by closing the transport; false when the handshake
// was over before.
func (c *conn) abort(cause error) bool {
	if !c.outcome.CompareAndSwap(nil, &cause) {
		return false
	}
	_ = c.transport.Close()
	c.end()
	return true
}

func (c *conn) Read(b []byte) (int, error) {
	if c.isClosed() {
		return 0, closed(opRead)
	}
	if err := c.handshake(context.Background()); err != nil {
		return 0, err
	}
	c.reading.RLock()
	if c.isClosed() {
		// The transport may be somebody else's already: see discard.
		c.reading.RUnlock()
		return 0, closed(opRead)
	}
	n, err := c.tls.Read(b)
	c.reading.RUnlock()
	if n > 0 {
		c.heard.Store(true)
	}
	if err == nil {
		return n, nil
	}
	if c.isClosed() {
		return n, closed(opRead)
	}
	if err == io.EOF {
		return n, io.EOF
	}
	e := classify(opRead, err)
	if e.Kind != tlsapi.KindTimeout {
		c.mu.Lock()
		c.failed = true
		if c.writeErr == nil && e.Kind != tlsapi.KindTransport {
			// crypto/tls goes on writing after the peer's fatal alert.
			c.writeErr = e
		}
		c.mu.Unlock()
		c.blind(e)
	}
	return n, e
}

func (c *conn) Write(b []byte) (int, error) {
	if !c.beginWrite() {
		return 0, closed(opWrite)
	}
	defer c.endWrite()
	if err := c.handshake(context.Background()); err != nil {
		return 0, err
	}
	if err := c.stoppedWriting(); err != nil {
		return 0, err
	}
	n, err := c.writeTLS(b)
	if err == nil {
		return n, nil
	}
	return n, c.writeFailed(err)
}

// CloseWrite counts as a Write for Close: it may wait for the transport.
func (c *conn) CloseWrite() error {
	if !c.beginWrite() {
		return closed(opClose)
	}
	defer c.endWrite()
	if !c.complete() {
		return &tlsapi.Error{Provider: providerName, Op: opClose, Kind: tlsapi.KindProtocol, Err: errors.New("CloseWrite before the handshake has completed")}
	}
	c.mu.Lock()
	failed := c.failed
	previous := c.writeErr
	if previous == nil && !failed {
		// A Write that comes between is too late already.
		c.writeErr = closed(opWrite)
	}
	c.mu.Unlock()
	if previous != nil {
		if previous.Kind == tlsapi.KindClosed {
			return nil
		}
		return previous
	}
	if failed {
		return &tlsapi.Error{Provider: providerName, Op: opClose, Kind: tlsapi.KindProtocol, Err: errors.New("the connection has failed")}
	}
	err := c.tls.CloseWrite()
	if err != nil && c.isClosed() {
		return closed(opClose)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.writeErr = classify(opClose, err)
		return c.writeErr
	}
	return nil
}

// beginWrite registers a Write with Close; false when Close was first.
func (c *conn) beginWrite() bool {
	for {
		w := c.writers.Load()
		if w&1 != 0 {
			return false
		}
		if c.writers.CompareAndSwap(w, w+2) {
			return true
		}
	}
}

func (c *conn) endWrite() { c.writers.Add(-2) }

func (c *conn) stoppedWriting() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr != nil {
		return c.writeErr
	}
	return nil
}

// writeFailed keeps the first error for all later Writes.
func (c *conn) writeFailed(err error) error {
	if c.isClosed() {
		return closed(opWrite)
	}
	e := classify(opWrite, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr == nil {
		c.writeErr = e
	}
	return c.writeErr
}

func (c *conn) isClosed() bool { return c.writers.Load()&1 != 0 }

func (c *conn) Close() error {
	var writers int32
	for {
		writers = c.writers.Load()
		if writers&1 != 0 {
			return closed(opClose)
		}
		if c.writers.CompareAndSwap(writers, writers|1) {
			break
		}
	}
	c.end()
	// A deadline set at the same time must not undo what finish sets.
	c.deadlines.Lock()
	defer c.deadlines.Unlock()

	if err := c.closeTransport(writers > 0); err != nil {
		e := classify(opClose, markTransport(err))
		return e
	}
	return nil
}

// closeTransport sends a close_notify first where one is due: not before the
// handshake, not after a fatal error, not into the middle of a record.
func (c *conn) closeTransport(writing bool) error {
	switch {
	case c.transport.holdFailure():
		return nil
	case !c.isDone():
		return c.transport.Close()
	case c.handshakeErr != nil:
		// Its alert may still be on its way.
		return c.transport.finish(c.discard)
	}
	c.mu.Lock()
	silent := c.failed || c.writeErr != nil && c.writeErr.Kind != tlsapi.KindClosed
	c.mu.Unlock()
	if writing || silent || !c.transport.withhold() {
		return c.transport.Close()
	}
	if err := c.tls.CloseWrite(); err != nil {
		return c.transport.Close()
	}
	c.transport.lingering = c.linger
	return c.transport.finish(c.discard)
}

// linger leaves the close of the transport to the background where closing at
// once could destroy what was written: bytes wait to be read, or a client of
// TLS 1.3 has read nothing, so that tickets may be on their way. False means
// that there is no need, or no way.
func (c *conn) linger() bool {
	expected := c.client && !c.heard.Load() && c.finalState().Version == tls.VersionTLS13
	switch linger.Look(c.inner) {
	case linger.Ended:
		return false
	case linger.None, linger.Unknown:
		if !expected {
			return false
		}
	}
	// This ends a Read that waits for the peer; discard waits for its end.
	if c.inner.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	return linger.Close(c.inner, c.discard)
}

// discard reads what arrives and drops it. Reads must have been ended before.
func (c *conn) discard() {
	// Whoever held it has left the transport.
	linger.Await(c.inner, &c.reading)
	c.reading.Unlock()
	linger.Discard(c.inner)
}

func (c *conn) LocalAddr() net.Addr  { return c.inner.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }
func (c *conn) NetConn() net.Conn    { return c.inner }

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadline(c.inner.SetDeadline, t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadline(c.inner.SetReadDeadline, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.inner.SetWriteDeadline, t) }

func (c *conn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if c.isClosed() {
		return closed(opDeadline)
	}
	if c.transport.held() {
		// The connection has failed, and the transport waits for its close.
		return nil
	}
	if err := set(t); err != nil {
		return classify(opDeadline, markTransport(err))
	}
	return nil
}

// isDone reports whether the handshake is over, complete whether it succeeded.
func (c *conn) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *conn) complete() bool { return c.isDone() && c.handshakeErr == nil }

func (c *conn) ConnectionState() tls.ConnectionState {
	if c.isDone() {
		return c.finalState()
	}
	// crypto/tls's own method would wait for the handshake.
	if known := c.early.Load(); known != nil {
		return *known
	}
	return tls.ConnectionState{}
}

// finalState is called when the handshake is over, by its goroutine or after
// done is closed.
func (c *conn) finalState() tls.ConnectionState {
	state := c.tls.ConnectionState()
	state.VerifiedChains = c.verifiedChains
	if c.handshakeErr != nil {
		state.HandshakeComplete = false
	}
	return state
}

func (c *conn) Info() tlsapi.ConnectionInfo { return c.describe(c.ConnectionState()) }

func (c *conn) describe(state tls.ConnectionState) tlsapi.ConnectionInfo {
	info := tlsapi.ConnectionInfo{
		Provider:          providerName,
		LibraryVersion:    Provider.LibraryVersion(),
		Version:           state.Version,
		CipherSuite:       state.CipherSuite,
		Group:             state.CurveID,
		ALPN:              state.NegotiatedProtocol,
		ServerName:        state.ServerName,
		Verified:          len(state.VerifiedChains) > 0,
		Resumed:           state.DidResume,
		KeyShares:         c.transport.keyShares(),
		HelloRetryRequest: state.HelloRetryRequest,
	}
	info.BlindingPending = c.transport.blindingPending()
	info.DescribePeer(state.PeerCertificates)
	return info
}

// The exporter of crypto/tls panics beyond these (RFC 8446 section 7.1: a label
// is at most 255 bytes with its prefix; RFC 5869: at most 255 hashes).
const (
	maxExportLabel  = 255 - len("tls13 ")
	maxExportLength = 255 * 32
)

func (c *conn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	fail := func(kind tlsapi.Kind, format string, args ...any) ([]byte, error) {
		return nil, &tlsapi.Error{Provider: providerName, Op: opExport, Kind: kind, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case c.isClosed():
		return nil, closed(opExport)
	case !c.complete():
		return fail(tlsapi.KindProtocol, "the handshake has not completed")
	case len(label) > maxExportLabel:
		return fail(tlsapi.KindConfig, "the label has %d bytes; the most is %d", len(label), maxExportLabel)
	case length < 0 || length > maxExportLength:
		return fail(tlsapi.KindConfig, "%d bytes are wanted; the most is %d", length, maxExportLength)
	case len(context) > math.MaxUint16:
		return fail(tlsapi.KindConfig, "the context has %d bytes; the most is %d", len(context), math.MaxUint16)
	}
	state := c.tls.ConnectionState()
	material, err := state.ExportKeyingMaterial(label, context, length)
	if err != nil {
		if strings.Contains(err.Error(), "Extended Master Secret") {
			return fail(tlsapi.KindUnsupported, "%w", err)
		}
		return fail(tlsapi.KindConfig, "%w", err)
	}
	return material, nil
}
