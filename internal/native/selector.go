package native

import (
	stdcontext "context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/internal/selection"
	"github.com/polytls/polytls/tlsapi"
)

// selector is the engine of a server that chooses for each connection: it waits
// for the ClientHello, lets the hooks and the list of certificates decide, makes
// the library's connection from a context with exactly the chosen configuration
// and certificate, and replays what the client has sent into it. From then on
// the library's connection is the engine. Nothing of another configuration, such
// as its ticket keys, versions or options, can be left over.
type selector struct {
	engine.Engine // the library's connection; nil until it was chosen

	provider  *Provider
	config    *tlsapi.ServerConfig
	transport net.Conn

	hello   helloCollector
	choice  *choice
	failure *helloFailure
	out     []byte
	// replay is what the library's connection has not been given yet.
	replay []byte
}

// selects reports whether a server's certificate or configuration depends on the
// client.
func selects(config *tlsapi.ServerConfig) bool {
	return config.GetCertificate != nil || config.GetConfigForClient != nil || len(config.Certificates) > 1
}

func (s *selector) Handshake() engine.Result {
	if s.Engine == nil {
		if s.failure == nil {
			if res := s.choose(); s.Engine == nil && s.failure == nil {
				return res
			}
		}
		if s.failure != nil {
			return s.failure.result()
		}
	}
	return s.feed(s.Engine.Handshake)
}

// choose does a step until the library's connection is there or a failure is.
func (s *selector) choose() engine.Result {
	if s.choice == nil {
		complete, failure := s.hello.collect()
		switch {
		case failure != nil:
			s.fail(failure)
			return engine.Result{}
		case !complete:
			return engine.Result{Status: engine.WantInput, Fault: engine.NoFault}
		}
		s.choice = &choice{selector: s, wire: s.hello.wire}
		return engine.Result{Status: engine.WantWork, Fault: engine.NoFault}
	}
	conn, err := s.choice.take()
	if err != nil {
		alert := byte(alertInternalError)
		var alerting *alertingError
		if errors.As(err, &alerting) {
			alert = alerting.alert
		}
		s.fail(&helloFailure{alert: alert})
		return engine.Result{}
	}
	s.Engine, s.replay, s.hello, s.choice = conn, s.hello.wire, helloCollector{}, nil
	return engine.Result{}
}

func (s *selector) fail(failure *helloFailure) {
	s.failure = failure
	if !failure.peer {
		s.out = alertRecord(failure.alert)
	}
}

// feed does a step of the library's connection, and gives it what it wants of
// what the client has sent before there was one.
func (s *selector) feed(step func() engine.Result) engine.Result {
	for {
		res := step()
		if res.Status != engine.WantInput || len(s.replay) == 0 {
			return res
		}
		n := copy(s.Engine.InputSpace(false), s.replay)
		if n == 0 {
			return engine.Result{Status: engine.Failed, Fault: engine.Fault{Failure: engine.FailInternal, AlertSent: -1, AlertReceived: -1}}
		}
		s.Engine.InputReceived(n)
		if s.replay = s.replay[n:]; len(s.replay) == 0 {
			s.replay = nil
		}
	}
}

func (s *selector) Work() func(stdcontext.Context, func(*engine.Options)) error {
	if s.Engine != nil {
		return s.Engine.Work()
	}
	return s.choice.run
}

func (s *selector) Verdict(alert uint8) engine.Result {
	if s.Engine == nil {
		return notYet
	}
	return s.Engine.Verdict(alert)
}

func (s *selector) Read(p []byte) engine.Result {
	if s.Engine == nil {
		return notYet
	}
	res := s.feed(func() engine.Result { return s.Engine.Read(p) })
	if len(s.replay) > 0 {
		res.Flags |= engine.FlagPending
	}
	return res
}

func (s *selector) EndFlood() {
	if s.Engine != nil {
		s.Engine.EndFlood()
	}
}

// notYet is what cannot happen: the state machine reads, writes and exports
// after the handshake.
var notYet = engine.Result{Status: engine.Failed, Fault: engine.Fault{Failure: engine.FailInternal, AlertSent: -1, AlertReceived: -1}}

func (s *selector) Write(p []byte) engine.Result {
	if s.Engine == nil {
		return notYet
	}
	return s.Engine.Write(p)
}

func (s *selector) CloseNotify() engine.Result {
	if s.Engine == nil {
		return notYet
	}
	return s.Engine.CloseNotify()
}

func (s *selector) InputSpace(brief bool) []byte {
	if s.Engine == nil {
		return s.hello.space()
	}
	return s.Engine.InputSpace(brief)
}

func (s *selector) InputReceived(n int) {
	if s.Engine == nil {
		s.hello.received(n)
		return
	}
	s.Engine.InputReceived(n)
}

func (s *selector) Input() []byte {
	if s.Engine == nil {
		return s.hello.wire
	}
	return s.Engine.Input()
}

func (s *selector) HasOutput() bool {
	if s.Engine == nil {
		return len(s.out) > 0
	}
	return s.Engine.HasOutput()
}

func (s *selector) TakeOutput() []byte {
	if s.Engine == nil {
		out := s.out
		s.out = nil
		return out
	}
	return s.Engine.TakeOutput()
}

func (s *selector) Verification() engine.Verification {
	if s.Engine == nil {
		return engine.Verification{}
	}
	return s.Engine.Verification()
}

func (s *selector) ErrorText() string {
	switch {
	case s.Engine != nil:
		return s.Engine.ErrorText()
	case s.failure != nil:
		return s.failure.text()
	}
	return ""
}

func (s *selector) TakeKeyLog() []byte {
	if s.Engine == nil {
		return nil
	}
	return s.Engine.TakeKeyLog()
}

func (s *selector) SetSession([]byte) bool { return false }

func (s *selector) TakeSessions() [][]byte { return nil }

func (s *selector) Facts() engine.Facts {
	if s.Engine == nil {
		return engine.Facts{}
	}
	return s.Engine.Facts()
}

func (s *selector) Export(label string, context []byte, length int) ([]byte, engine.Result) {
	if s.Engine == nil {
		return nil, notYet
	}
	return s.Engine.Export(label, context, length)
}

func (s *selector) Free() {
	if s.choice != nil {
		s.choice.drop()
	}
	if s.Engine != nil {
		s.Engine.Free()
	}
}

// choice is the work of choosing. It may go on when the connection is gone.
type choice struct {
	selector *selector // of which it uses what never changes
	wire     []byte

	mu      sync.Mutex
	conn    engine.Engine
	err     error
	dropped bool
}

// take returns what the work has come to. The caller owns the connection.
func (c *choice) take() (engine.Engine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn, err := c.conn, c.err
	c.conn = nil
	if conn == nil && err == nil {
		err = errors.New("the choice of a certificate has not ended")
	}
	return conn, err
}

// drop releases what nobody has taken, now or when the work has come to it.
func (c *choice) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped = true
	if c.conn != nil {
		c.conn.Free()
		c.conn = nil
	}
}

func (c *choice) run(ctx stdcontext.Context, adopt func(*engine.Options)) error {
	var conn engine.Engine
	s := c.selector
	err := withClientHello(ctx, c.wire, s.transport, func(hello *tls.ClientHelloInfo) error {
		config, err := s.provider.chooseConfig(s.config, hello)
		if err != nil {
			return err
		}
		if config != s.config {
			o := s.provider.serverOptions(config)
			adopt(&o)
		}
		effective, err := s.provider.chooseCertificate(config, hello)
		if err != nil {
			return err
		}
		conn, err = s.provider.newConn(s.provider.serverContext(effective), s.provider.askVerdict(nil, effective.VerifyConnection != nil))
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.err = conn, err
	if c.dropped && conn != nil {
		conn.Free()
		c.conn = nil
	}
	var alerting *alertingError
	if errors.As(err, &alerting) {
		err = alerting.err
	}
	return err
}

// chooseConfig returns the configuration for a client: that of the hook, or
// config itself. The hook of the chosen one is not asked.
func (p *Provider) chooseConfig(config *tlsapi.ServerConfig, hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
	if config.GetConfigForClient == nil {
		return config, nil
	}
	chosen, err := config.GetConfigForClient(hello)
	if err != nil {
		return nil, hookError("GetConfigForClient", err)
	}
	if chosen == nil || chosen == config {
		return config, nil
	}
	if _, err := p.planServer(chosen); err != nil {
		return nil, err
	}
	return chosen, nil
}

// chooseCertificate returns config with the one certificate for a client, or
// with none where PSKs can do without.
func (p *Provider) chooseCertificate(config *tlsapi.ServerConfig, hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
	effective := *config
	if config.GetCertificate != nil {
		cert, err := config.GetCertificate(hello)
		if err != nil {
			return nil, hookError("GetCertificate", err)
		}
		if cert != nil {
			effective.Certificates = []tls.Certificate{*cert}
			if err := p.checkServer(&effective); err != nil {
				return nil, ofOption("GetCertificate", err)
			}
			return &effective, nil
		}
	}
	candidates := selection.Candidates(config.Certificates, hello, selection.ParametersOf(&config.Settings))
	if len(candidates) > 0 {
		effective.Certificates = []tls.Certificate{*candidates[0]}
	} else if len(config.PSKs) == 0 {
		return nil, &alertingError{alertHandshakeFailure,
			tlsapi.ConfigError("Certificates", "there is none, and the hooks gave none")}
	}
	return &effective, nil
}

// hookError is what a hook's error makes of the handshake. The hook may choose
// the alert by returning a tls.AlertError.
func hookError(hook string, err error) error {
	alert := engine.HookAlert(err, alertInternalError)
	return &alertingError{alert, &tlsapi.Error{Kind: tlsapi.KindRejected, Option: hook, Err: fmt.Errorf("%s: %w", hook, err)}}
}

// ofOption makes an error of the configuration one of another option.
func ofOption(option string, err error) error {
	var e *tlsapi.Error
	if errors.As(err, &e) {
		changed := *e
		changed.Option = option
		return &changed
	}
	return err
}
