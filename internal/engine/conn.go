package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/internal/blinding"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
)

// Options are what the state machine needs to know of a configuration.
type Options struct {
	Provider       string
	LibraryVersion string
	// ServerName is the client's configured name, for errors.
	ServerName string
	// SNI is what the client sends, empty for IP literals.
	SNI    string
	Client bool
	// RequireALPN fails a handshake that has selected no protocol.
	RequireALPN bool
	// HalfClose and Exporter say whether the library can.
	HalfClose, Exporter bool
	// Replaceable says that the engine's work may replace the options.
	Replaceable bool

	// MaxBlindingDelay is the longest delay, zero for none.
	MaxBlindingDelay time.Duration
	HandshakeTimeout time.Duration
	// Sessions is nil for servers and for clients that resume nothing.
	Sessions *Sessions
	// KeyLogWriter gets the lines of TakeKeyLog.
	KeyLogWriter      io.Writer
	VerifyConnection  func(tls.ConnectionState) error
	HandshakeComplete func(tlsapi.ConnectionInfo)
	HandshakeFailed   func(error)
}

// Conn is a TLS connection over a transport. It implements tlsapi.Conn.
//
// Locks, in the order in which they are taken: handshakeMu (a channel, so that
// waiting for it obeys a context); readMu and writeMu, which serialize Reads
// and Writes and are held while they wait for the network; deadlineMu; mu, which
// guards the engine and the fields behind it and is held for one step only, never
// while waiting.
//
// One goroutine at a time writes to the transport: who has set sending, under mu.
// It gives that up in the critical section in which it has found nothing left to
// send, so who adds output and finds it set may leave the output to it.
type Conn struct {
	transport net.Conn
	// socket is the transport where it is a plain socket of the net package;
	// else nil.
	socket  *socket
	options Options

	handshakeMu   chan struct{}
	handshakeDone atomic.Bool
	// closing is closed, below, for who has just given up readMu.
	closing      atomic.Bool
	handshakeErr error // guarded by handshakeMu

	readMu  sync.Mutex
	writeMu sync.Mutex

	// deadlineMu serializes the deadline setters with Close, which uses the
	// transport's deadlines to wake blocked calls. readDeadline is that of Reads,
	// in nanoseconds since the program began, zero for none.
	deadlineMu   sync.Mutex
	readDeadline atomic.Int64

	mu     sync.Mutex
	engine Engine
	// users counts the calls inside but for Reads; the engine is freed when the
	// connection is closed, the last has left, and nobody has readMu.
	users  int32
	closed bool
	freed  bool
	// sending says that somebody writes to the transport. sendFree wakes who
	// waits for that to end, or for the end of the writing.
	sending  bool
	sendFree sync.Cond
	// sendErr is why nothing can be sent any more.
	sendErr *tlsapi.Error
	// unsent is a copy of what was taken out of the engine and not sent, though
	// nothing is wrong with the transport: it comes before all other output.
	unsent []byte
	// workGivenUp is not nil while the handshake waits for work; Close and the
	// end of any caller's context close it.
	workGivenUp chan struct{}
	// readErr and writeErr are what all later Reads and Writes return.
	readErr, writeErr error
	closeNotifySent   bool
	// heard is set when the peer's data has been read.
	heard bool
	// writing is set while a part of what a Write was given is not encrypted.
	writing bool
	// readable is set when a Read has something to look at without more input:
	// data that the engine may have, an error, the end of the connection. It is
	// written with mu held; a Read that finds it unset goes to the transport at
	// once.
	readable atomic.Bool
	// plain is what has been decrypted and nobody has read yet: Reads of a few
	// bytes are served from it.
	plain plaintext
	// lateOutput is not nil while a server's tickets wait for other output to
	// leave with, or for their time.
	lateOutput *uptime.Timer
	// tail is not nil once an alert or close_notify has been left to the
	// background.
	tail *tail
	// hold is not nil once a failure has begun to be blinded: the transport
	// belongs to it. aborted says that a context came first.
	hold    *blinding.Hold
	aborted bool

	// lookingForAlert is set when the handshake has failed and pendingAlert has
	// set its own deadline.
	lookingForAlert bool

	// headerChecked is set when the peer's first bytes were found to be TLS.
	headerChecked bool
	// complete is set when the engine has completed its handshake: its facts do
	// not change any more.
	complete   bool
	factsDone  bool
	helloRetry bool
	facts      Facts
	state      *tls.ConnectionState
	// hellos reads the hello messages until the handshake is complete, and is nil
	// then; keyShares and helloRetry are what it has read.
	hellos    *hellos
	keyShares []tlsapi.CurveID
	// peerCertificates are those of facts, once they were parsed.
	peerCertificates []*x509.Certificate

	// offered is the session that was given to the library, offeredRaw its form
	// in the cache, until the handshake is over. authenticated is when the
	// server was, in this handshake or in that of the session.
	offered       *session
	offeredRaw    []byte
	authenticated time.Time
}

// New returns the connection over transport. It owns engine and transport from
// now on.
func New(transport net.Conn, engine Engine, options Options) *Conn {
	c := &Conn{transport: transport, socket: newSocket(transport), engine: engine, options: options, handshakeMu: make(chan struct{}, 1), hellos: &hellos{}}
	c.sendFree.L = &c.mu
	return c
}

var _ tlsapi.Conn = (*Conn)(nil)

// Handshake is HandshakeContext with context.Background.
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// HandshakeContext runs the handshake once.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.handshakeDone.Load() {
		return nil
	}
	if err := c.enter("handshake"); err != nil {
		return err
	}
	defer c.leave()
	select {
	case c.handshakeMu <- struct{}{}:
		defer func() { <-c.handshakeMu }()
	case <-ctx.Done():
		if c.handshakeDone.Load() {
			return nil
		}
		if c.abort() {
			return ContextError(c.options.Provider, ctx.Err())
		}
		// The handshake has failed before; who ran it leaves at once.
		c.handshakeMu <- struct{}{}
		err := c.handshakeErr
		<-c.handshakeMu
		return err
	}
	if c.handshakeDone.Load() {
		return nil
	}
	if c.handshakeErr != nil {
		return c.handshakeErr
	}

	// What stays if a hook panics.
	returned := false
	defer func() {
		if !returned {
			c.handshakeErr = &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindInternal, Err: errors.New("a hook or the transport panicked")}
		}
	}()
	err := c.runHandshake(ctx)
	returned = true
	if err != nil {
		if c.isClosed() {
			err = ClosedError(c.options.Provider, "handshake")
		}
		c.handshakeErr = err
		c.mu.Lock()
		c.readErr, c.writeErr = err, err
		c.readable.Store(true)
		c.mu.Unlock()
		if c.options.HandshakeFailed != nil {
			c.options.HandshakeFailed(err)
		}
		return err
	}
	c.mu.Lock()
	c.takeHellos()
	c.readable.Store(true)
	c.handshakeDone.Store(true)
	c.mu.Unlock()
	if c.options.HandshakeComplete != nil {
		c.options.HandshakeComplete(c.Info())
	}
	return nil
}

// runHandshake runs the handshake until it is over or the context is.
func (c *Conn) runHandshake(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		c.transport.Close()
		return ContextError(c.options.Provider, err)
	}
	limited := c.limit(ctx)
	defer limited.end()
	if limited.Done() == nil {
		return c.handshake(limited)
	}
	interrupted := make(chan bool, 1)
	stop := context.AfterFunc(limited, func() { interrupted <- c.abort() })
	err := c.handshake(limited)
	var interruption bool
	if !stop() {
		interruption = <-interrupted
	} else if limited.Err() != nil && errors.Is(err, limited.cause()) {
		// The handshake has seen the end of the context before AfterFunc.
		interruption = c.abort()
	}
	if interruption {
		return ContextError(c.options.Provider, limited.cause())
	}
	return err
}

// handshake is run by one goroutine at a time.
func (c *Conn) handshake(ctx *limitedContext) error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.offerSession()
	accepted := false
	var workErr error
	for {
		if err := handshakeSteps.enter(ctx); err != nil {
			return ContextError(c.options.Provider, ctx.cause())
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			handshakeSteps.leave()
			return ClosedError(c.options.Provider, "handshake")
		}
		res := c.engine.Handshake()
		handshakeSteps.leave()
		c.complete = c.complete || res.Status == OK
		text := c.engine.ErrorText()
		keys := c.engine.TakeKeyLog()
		if res.Status == Failed && res.Failure != FailPeerAlert {
			c.blind()
		}
		c.mu.Unlock()

		keyErr := c.logKeys(keys)
		if res.Status == Failed {
			err := c.handshakeFailure(res, text)
			if workErr != nil {
				err = workError(c.options.Provider, res, workErr)
			}
			return err
		}
		if workErr != nil {
			// The engine went on as if the work had been done.
			c.dropOutput()
			c.startBlinding()
			return workError(c.options.Provider, noAlert, workErr)
		}
		if keyErr != nil {
			c.mu.Lock()
			c.engine.TakeOutput()
			c.mu.Unlock()
			return keyErr
		}
		// The send gate: nothing of this step's output has been sent yet, and
		// nothing will be if the connection is refused here.
		if res.Status == WantVerdict {
			workErr = c.verdict()
			accepted = true
			continue
		}
		accepting := !accepted && (res.Status == OK || res.Flags&FlagPeerCertificates != 0)
		if accepting || res.Status == OK {
			err := c.requireFacts()
			if err == nil && accepting {
				err = c.accept(res.Status == OK)
			}
			if err != nil {
				c.dropOutput()
				c.startBlinding()
				return err
			}
			accepted = true
		}
		if ctx.overdue() {
			return ContextError(c.options.Provider, ctx.cause())
		}
		if res.Status == OK && c.onlyTicketsLeft() {
			// The peer may have stopped reading: for it the handshake is over.
			c.sendLater()
		} else if err := c.send(); err != nil {
			// A peer that has refused us may have closed its end before our
			// flight was out; its alert says more than the failed write.
			var e *tlsapi.Error
			if errors.As(err, &e) && e.Kind != tlsapi.KindTimeout {
				if alert := c.pendingAlert(); alert != nil {
					return alert
				}
			}
			return err
		}
		switch res.Status {
		case OK:
			c.handshakeSessions()
			return nil
		case WantInput:
			if err := c.receive("handshake"); err != nil {
				return err
			}
		case WantOutput:
			// send has made room.
		case WantWork:
			var err error
			if workErr, err = c.work(ctx); err != nil {
				return err
			}
		default:
			return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindProtocol,
				Err: errors.New("the peer closed the connection in the handshake")}
		}
	}
}

// onlyTicketsLeft reports whether a complete handshake's last output can be
// nothing but session tickets: in TLS 1.3 a server's last step reads the
// client's Finished.
func (c *Conn) onlyTicketsLeft() bool {
	if c.options.Client {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freed || !c.engine.HasOutput() {
		return false
	}
	c.gatherFacts()
	return c.facts.Version == tls.VersionTLS13
}

// dropOutput makes sure that nothing of a step is sent, for a connection that
// is refused after it.
func (c *Conn) dropOutput() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine.TakeOutput()
	c.blind()
}

// keyLogMu serializes the writers, which connections may share.
var keyLogMu sync.Mutex

// logKeys writes lines to the key log, each with one Write, and wipes them.
func (c *Conn) logKeys(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	defer clear(lines)
	keyLogMu.Lock()
	defer keyLogMu.Unlock()
	for line := range bytes.Lines(lines) {
		if _, err := c.options.KeyLogWriter.Write(line); err != nil {
			return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindInternal, Option: "KeyLogWriter", Err: err}
		}
	}
	return nil
}

// accept runs what must agree before this end's last flight goes out.
func (c *Conn) accept(complete bool) error {
	if err := c.checkALPN(); err != nil {
		return err
	}
	if err := c.checkResumption(); err != nil {
		return err
	}
	if c.options.VerifyConnection == nil {
		return nil
	}
	c.mu.Lock()
	c.gatherFacts()
	state := c.connectionState(complete)
	c.mu.Unlock()
	if err := c.options.VerifyConnection(state); err != nil {
		return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindRejected, Option: "VerifyConnection", Err: err}
	}
	return nil
}

// verdict tells the engine whether the connection is accepted, and returns why
// not.
func (c *Conn) verdict() error {
	err := c.requireFacts()
	if err == nil {
		err = c.accept(false)
	}
	var alert uint8
	if err != nil {
		alert = verdictAlert(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		// The next step finds out.
		return nil
	}
	if res := c.engine.Verdict(alert); res.Status != OK && err == nil {
		return ResultError(c.options.Provider, "handshake", res, c.engine.ErrorText())
	}
	return err
}

func (c *Conn) checkALPN() error {
	if !c.options.RequireALPN {
		return nil
	}
	c.mu.Lock()
	c.gatherFacts()
	alpn := c.facts.ALPN
	c.mu.Unlock()
	if alpn != "" {
		return nil
	}
	return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindNoALPN, Option: "ALPN"}
}

func (c *Conn) handshakeFailure(res Result, text string) error {
	var err *tlsapi.Error
	if res.Failure == FailVerify {
		c.mu.Lock()
		v := c.engine.Verification()
		chain := parseChain(c.engine.Facts().PeerChain)
		c.mu.Unlock()
		err = VerificationError(c.options.Provider, res, v, text, chain, c.options.ServerName)
	} else {
		err = ResultError(c.options.Provider, "handshake", res, text)
	}
	c.sendAlert()
	return err
}

// pendingAlert looks whether the peer's alert explains a failed send: it reads
// what has arrived already.
func (c *Conn) pendingAlert() error {
	c.mu.Lock()
	c.lookingForAlert = true
	c.mu.Unlock()
	c.deadlineMu.Lock()
	err := c.transport.SetReadDeadline(time.Now().Add(tailWait))
	c.deadlineMu.Unlock()
	if err != nil {
		return nil
	}
	for {
		if c.receive("handshake") != nil {
			return nil
		}
		c.mu.Lock()
		res := c.engine.Handshake()
		text := c.engine.ErrorText()
		c.mu.Unlock()
		switch {
		case res.Status == Failed && res.Failure == FailPeerAlert:
			return ResultError(c.options.Provider, "handshake", res, text)
		case res.Status != WantInput:
			return nil
		}
	}
}

// Read decrypts into p.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 || !c.handshakeDone.Load() {
		if err := c.handshakeFirst("read"); err != nil || len(p) == 0 {
			return 0, err
		}
	}
	c.readMu.Lock()
	defer c.endRead()
	return c.read(p)
}

// read is Read after the handshake, with readMu held.
func (c *Conn) read(p []byte) (int, error) {
	received := false
	if !c.readable.Load() {
		// Asking the library when it has nothing costs more than this look.
		if err := c.receive("read"); err != nil {
			return 0, err
		}
		received = true
	}
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return 0, ClosedError(c.options.Provider, "read")
		}
		if c.readErr != nil {
			err := c.readErr
			c.mu.Unlock()
			return 0, err
		}
		res := Result{Status: WantInput}
		var text string
		var sessions [][]byte
		if readable := c.readable.Load(); readable || received {
			res = c.decrypt(p)
			pending := res.Flags&FlagPending != 0
			if more := pending || res.Status != WantInput && res.Status != OK; more != readable {
				c.readable.Store(more)
			}
			if res.Status == Failed {
				text = c.engine.ErrorText()
			} else {
				sessions = c.takeSessions()
			}
		}
		output := res.Status != Failed && c.engine.HasOutput()
		if res.Status == OK {
			c.heard = true
			if !output && sessions == nil {
				// Nothing but the data: the way of nearly every Read.
				c.mu.Unlock()
				return res.N, nil
			}
		}
		switch res.Status {
		case Closed:
			c.readErr = io.EOF
		case Failed:
			// Known before anybody can take the lock: a Close must not add
			// its close_notify to the alert.
			c.readErr = ResultError(c.options.Provider, "read", res, text)
			if c.writeErr == nil {
				c.writeErr = c.readErr
			}
			if res.Failure != FailPeerAlert {
				c.blind()
			}
			c.sendFree.Broadcast()
		}
		err := c.readErr
		c.mu.Unlock()

		c.putSessions(sessions)
		switch {
		case res.Status == WantOutput:
			if err := c.sendForRead(); err != nil {
				return 0, err
			}
		case output:
			c.sendInBackground()
		}
		switch res.Status {
		case OK:
			return res.N, nil
		case Closed:
			return 0, err
		case Failed:
			c.sendAlert()
			return 0, err
		case WantInput:
			if res.Flags&FlagFlood != 0 {
				if err := c.standBack(); err != nil {
					return 0, err
				}
			}
			if res.Flags&FlagPending != 0 {
				break
			}
			if err := c.receive("read"); err != nil {
				return 0, err
			}
			received = true
		}
	}
}

// handshakeFirst runs the handshake before the first Read or Write, and tells of
// a closed connection when nothing else would.
func (c *Conn) handshakeFirst(op string) error {
	if err := c.enter(op); err != nil {
		return err
	}
	defer c.leave()
	return c.HandshakeContext(context.Background())
}

// Write encrypts p and sends it.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 || !c.handshakeDone.Load() {
		if err := c.handshakeFirst("write"); err != nil {
			return 0, err
		}
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(p)
}

// write is Write after the handshake, with writeMu and mu held.
func (c *Conn) write(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, c.writable()
	}
	c.users++
	defer c.leaveLocked()
	for err == nil && n < len(p) {
		// What is encrypted is taken out to be sent before anybody else can come:
		// what a Write says about it must be true.
		if err = c.beginWriting(); err != nil {
			break
		}
		res := c.engine.Write(p[n:])
		c.writing = n+res.N < len(p)
		if res.Status != OK && res.Status != WantOutput {
			c.endSending()
			c.writeErr = ResultError(c.options.Provider, "write", res, c.engine.ErrorText())
			c.readable.Store(true)
			err = c.writeErr
			break
		}
		if err = c.sendAll(); err == nil {
			n += res.N
		} else if c.hold != nil && c.writeErr != nil {
			// Woken by startBlinding: the failure itself says more.
			err = c.writeErr
		}
	}
	return n, err
}

// writable returns why nothing can be written any more; it is called with mu held.
func (c *Conn) writable() error {
	if c.closed {
		return ClosedError(c.options.Provider, "write")
	}
	return c.writeErr
}

// beginWriting waits until nobody else sends, or nothing can be written any more.
// It is called with mu held, which is free while it waits.
func (c *Conn) beginWriting() error {
	for {
		if err := c.writable(); err != nil {
			return err
		}
		if !c.sending {
			c.sending = true
			return nil
		}
		c.sendFree.Wait()
	}
}

// beginSending waits until nobody else sends. It is called with mu held, which is
// free while it waits.
func (c *Conn) beginSending() {
	for c.sending {
		c.sendFree.Wait()
	}
	c.sending = true
}

// endSending lets others send; it is called with mu held, in the critical section
// in which the caller has begun, or found that nothing is left to send.
func (c *Conn) endSending() {
	c.sending = false
	c.sendFree.Broadcast()
}

// send sends all output of the engine. A write deadline that passes before that
// is fatal for the writing half.
func (c *Conn) send() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginSending()
	return c.sendAll()
}

// sendInBackground sends output that a Read has caused (a key update, a
// ticket's answer) without making the Read wait for the transport.
func (c *Conn) sendInBackground() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sending {
		return
	}
	c.sending = true
	if c.sendAtOnce() {
		c.endSending()
		return
	}
	c.goOnSending(nil)
}

// goOnSending lets the background send all output, and calls ended, unless nil,
// then. It is called with mu held by who may send, who does not any more.
func (c *Conn) goOnSending(ended func(error)) {
	c.users++
	go func() {
		c.mu.Lock()
		_, err := c.pump(false)
		c.endSending()
		c.leaveLocked()
		c.mu.Unlock()
		if ended != nil {
			ended(err)
		}
	}()
}

// sendAll sends all output that is there, and returns why it cannot. What others
// add meanwhile is their matter: it is sent, too, but nobody waits for it, or a peer
// that never stops asking for answers would hold a Write for ever. A deadline that
// cuts it off is fatal, as part of a record may be out. It is called with mu held by
// who may send, and lets others send then; mu is free while the transport is written.
func (c *Conn) sendAll() error {
	done, err := c.pump(true)
	if !done {
		c.goOnSending(nil)
		return nil
	}
	c.endSending()
	return err
}

// pump gives output to the transport, until nothing is left or nothing can be sent
// any more. Done is false where a deadline has cut it off: what is left goes first
// the next time then. With deadline that is fatal, and it sends no more than the
// output that was there when it was called: done is false, too, when others have
// added some. It is called like sendAll, and the caller may go on sending.
func (c *Conn) pump(deadline bool) (done bool, err error) {
	own := true
	for c.sendErr == nil {
		if deadline && !own && (c.unsent != nil || c.engine.HasOutput()) {
			return false, nil
		}
		rest := c.unsent != nil
		out := c.takeOutput()
		if len(out) == 0 {
			return true, nil
		}
		n, err := c.transmitUnlocked(out)
		if err != nil {
			e := c.sendFailed(err, out[n:], deadline)
			switch {
			case c.sendErr != nil:
			case own:
				return false, e
			default:
				return false, nil
			}
			break
		}
		own = own && rest
	}
	// Part of a record may be out: nothing can follow it.
	c.unsent = nil
	for len(c.takeOutput()) > 0 {
	}
	switch {
	case !own:
		return true, nil
	case c.closed:
		return true, ClosedError(c.options.Provider, "write")
	}
	return true, c.sendErr
}

// sendAtOnce sends what a socket takes without waiting, and reports whether that
// was all. It is called like pump.
func (c *Conn) sendAtOnce() bool {
	if c.socket == nil {
		return false
	}
	for c.sendErr == nil {
		out := c.takeOutput()
		if len(out) == 0 {
			return true
		}
		c.mu.Unlock()
		n := c.socket.tryWrite(out)
		c.mu.Lock()
		if n < len(out) {
			c.unsent = bytes.Clone(out[n:])
			return false
		}
	}
	return false
}

// lateOutputDelay is how long tickets wait for other output, and up to twice as
// long. Every Write takes them along, every Read that waits and Close send them
// before.
const lateOutputDelay = 20 * time.Millisecond

// sendLater lets output that nobody waits for leave with the next.
func (c *Conn) sendLater() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.lateOutput = &uptime.Timer{}
	c.lateOutput.Start(lateOutputDelay, func() {
		if c.enter("write") != nil {
			return
		}
		defer c.leave()
		c.mu.Lock()
		waits := c.lateOutput != nil
		c.mu.Unlock()
		if waits {
			c.sendInBackground()
		}
	})
}

// takeOutput is what comes next to be sent, for who may send; it is called with mu
// held.
func (c *Conn) takeOutput() []byte {
	if c.lateOutput != nil {
		c.lateOutput.Stop()
		c.lateOutput = nil
	}
	if out := c.unsent; out != nil {
		c.unsent = nil
		return out
	}
	out := c.engine.TakeOutput()
	if !c.handshakeDone.Load() {
		c.outgoing(out)
	}
	return out
}

// transmitUnlocked is transmit for who has mu, which is free meanwhile. Where the
// transport panics it is broken: nobody may wait for it any more.
func (c *Conn) transmitUnlocked(out []byte) (n int, err error) {
	c.mu.Unlock()
	returned := false
	defer func() {
		if !returned {
			c.transport.Close()
		}
		c.mu.Lock()
		if !returned {
			c.sendErr = TransportError(c.options.Provider, "write", errPanicked)
			if c.writeErr == nil {
				c.writeErr = c.sendErr
			}
			c.endSending()
		}
	}()
	n, err = c.transmit(out)
	returned = true
	return n, err
}

var errPanicked = errors.New("the transport's Write has panicked")

// transmit gives output to the transport. Only who may send calls it, without mu.
func (c *Conn) transmit(out []byte) (n int, err error) {
	if c.socket != nil {
		if n, err = c.socket.write(out); err != errAskTransport {
			return n, err
		}
	}
	more, err := c.writeTransport(out[n:])
	return n + more, err
}

// writeTransport writes all of out, or says how much was written and why it was
// not all.
func (c *Conn) writeTransport(out []byte) (n int, err error) {
	n, err = c.transport.Write(out)
	if n < 0 || n > len(out) {
		n, err = 0, errors.New("the transport's Write returned an impossible count")
	}
	if err == nil && n != len(out) {
		err = io.ErrShortWrite
	}
	return n, err
}

// sendFailed makes known why the transport has not taken rest. A deadline that is
// not to be fatal leaves that for the next time; all else is the end of the writing
// half. It is called with mu held.
func (c *Conn) sendFailed(err error, rest []byte, deadline bool) *tlsapi.Error {
	e := TransportError(c.options.Provider, "write", err)
	if c.hold != nil {
		c.hold.DropAlert()
	}
	if e.Kind == tlsapi.KindTimeout && !deadline {
		if len(rest) > 0 {
			c.unsent = bytes.Clone(rest)
		}
		return e
	}
	c.sendErr = e
	if c.writeErr == nil || c.closeNotifySent && c.hold == nil {
		c.writeErr = e
	}
	return e
}

// errAskTransport says that the socket itself told nothing: the transport knows
// why.
var errAskTransport = errors.New("ask the transport")

// maxEmptyReads is how often a transport may return neither data nor an error.
const maxEmptyReads = 100

// receive reads from the transport into the engine's memory. It is called with
// readMu held.
func (c *Conn) receive(op string) error {
	for empty := 0; ; {
		// Who has readMu alone uses the engine's input. A Close that comes now
		// wakes the transport's Read.
		var space []byte
		var n int
		var err error
		if c.socket != nil {
			space, n, err = c.socket.read(c.engine)
		}
		if c.socket == nil || err == errAskTransport {
			if space = c.engine.InputSpace(false); len(space) > 0 {
				n, err = c.transport.Read(space)
			}
		}
		if len(space) == 0 {
			return &tlsapi.Error{Provider: c.options.Provider, Op: op, Kind: tlsapi.KindInternal, Err: errors.New("no memory for input")}
		}
		switch {
		case n < 0 || n > len(space):
			// The count becomes the size of the input in native memory.
			n, err = 0, errors.New("the transport's Read returned an impossible count")
		case n > 0:
			empty = 0
		case err == nil:
			if empty++; empty == maxEmptyReads {
				err = io.ErrNoProgress
			}
		}
		if n > 0 && c.handshakeDone.Load() {
			c.engine.InputReceived(n)
			// An error that came with the data comes again.
			return nil
		}
		c.mu.Lock()
		if n > 0 {
			c.incoming(space[:n])
		}
		c.engine.InputReceived(n)
		closed := c.closed
		headerErr, short := c.checkHeader()
		c.mu.Unlock()
		switch {
		case closed:
			return ClosedError(c.options.Provider, op)
		case headerErr != nil:
			return headerErr
		case n > 0 && !short:
			// An error that came with the data comes again.
			return nil
		case err != nil:
			e := TransportError(c.options.Provider, op, err)
			if e.Kind != tlsapi.KindTimeout {
				c.mu.Lock()
				c.readErr = e
				c.readable.Store(true)
				c.mu.Unlock()
			}
			return e
		}
	}
}

// checkHeader looks once whether the peer's first bytes are a TLS record. short
// says that too few have come to tell.
func (c *Conn) checkHeader() (err error, short bool) {
	if c.headerChecked {
		return nil, false
	}
	in := c.engine.Input()
	if len(in) < recordHeaderSize {
		return nil, true
	}
	c.headerChecked = true
	kind, version := in[0], uint16(in[1])<<8|uint16(in[2])
	if (kind == recordTypeHandshake || kind == recordTypeAlert) && version>>8 == 3 {
		return nil, false
	}
	header := tls.RecordHeaderError{
		Msg:  "first record does not look like a TLS handshake",
		Conn: c.transport,
	}
	copy(header.RecordHeader[:], in)
	return &tlsapi.Error{Provider: c.options.Provider, Op: "handshake", Kind: tlsapi.KindNotTLS, Err: header}, false
}

// incoming and outgoing read the hello messages for what libraries do not tell.
// They are called with mu held.
func (c *Conn) incoming(b []byte) { c.readHello(b, !c.options.Client) }
func (c *Conn) outgoing(b []byte) { c.readHello(b, c.options.Client) }

func (c *Conn) readHello(b []byte, fromClient bool) {
	if c.hellos != nil {
		c.hellos.read(b, fromClient)
	}
}

// takeHellos makes what the hello messages held known, when the handshake is
// complete; it is called with mu held.
func (c *Conn) takeHellos() {
	if c.hellos != nil {
		c.keyShares, c.helloRetry = c.hellos.keyShares, c.hellos.retry
		c.hellos = nil
	}
	c.state = nil
}

// enter and leave keep the engine alive during a call.
func (c *Conn) enter(op string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ClosedError(c.options.Provider, op)
	}
	c.users++
	return nil
}

func (c *Conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveLocked()
}

// leaveLocked is leave for who has mu.
func (c *Conn) leaveLocked() {
	c.users--
	c.freeUnused()
}

// freeUnused frees the engine of a closed connection that nobody is in. Reads are no
// users: they have readMu. Whoever finds it taken leaves the engine to its holder,
// and who takes it later finds the connection closed. It is called with mu held.
func (c *Conn) freeUnused() {
	if !c.closed || c.users > 0 || c.freed || !c.readMu.TryLock() {
		return
	}
	c.readMu.Unlock()
	c.freed = true
	c.engine.Free()
}

// endRead gives up readMu.
func (c *Conn) endRead() {
	c.readMu.Unlock()
	// A Close may have found it taken.
	if c.closing.Load() {
		c.mu.Lock()
		c.freeUnused()
		c.mu.Unlock()
	}
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// NetConn returns the transport.
func (c *Conn) NetConn() net.Conn { return c.transport }

// LocalAddr returns the transport's local address.
func (c *Conn) LocalAddr() net.Addr { return c.transport.LocalAddr() }

// RemoteAddr returns the transport's remote address.
func (c *Conn) RemoteAddr() net.Addr { return c.transport.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(func() error {
		c.readDeadline.Store(sinceBegin(t))
		return c.transport.SetDeadline(t)
	})
}

// SetReadDeadline sets the deadline of Reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(func() error {
		c.readDeadline.Store(sinceBegin(t))
		return c.transport.SetReadDeadline(t)
	})
}

// SetWriteDeadline sets the deadline of Writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(func() error { return c.transport.SetWriteDeadline(t) })
}

func (c *Conn) setDeadline(set func() error) error {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.mu.Lock()
	closed, busy := c.closed, c.tail != nil || c.hold != nil || c.lookingForAlert
	c.mu.Unlock()
	switch {
	case closed:
		return ClosedError(c.options.Provider, "deadline")
	case busy:
		// The connection has failed; the deadlines belong to its alert.
		return nil
	}
	if err := set(); err != nil {
		return TransportError(c.options.Provider, "deadline", err)
	}
	return nil
}
