package native

import (
	"crypto/tls"

	"github.com/polytls/polytls/internal/checked"
	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/internal/tickets"
	"github.com/polytls/polytls/tlsapi"
)

// plan is what a configuration comes to, found out when it is first used: that it
// passes the check, and what its connections need. It refers to nothing of the
// configuration and holds no secret.
type plan struct {
	// digest is that of the context; see contextBuilder.
	digest [32]byte
	// sni is what a client sends.
	sni string
	// options are a connection's: a client's names, whether hooks are asked for a
	// verdict.
	options connOptions
	// sessionKey is a client's key in its session cache, empty without one.
	sessionKey string
}

// sessions is how a client of the configuration resumes, or nil.
func (p *plan) sessions(config *tlsapi.ClientConfig) *engine.Sessions {
	if p.sessionKey == "" {
		return nil
	}
	return &engine.Sessions{
		Cache:           config.SessionCache,
		Key:             p.sessionKey,
		Verifies:        !config.InsecureSkipVerify,
		RevocationLists: config.RevocationLists,
	}
}

func (p *Provider) planClient(config *tlsapi.ClientConfig) (plan, error) {
	var memory [contentSize]byte
	var content []byte
	if config != nil {
		content = checked.Content(memory[:0], config)
		content = settingsContent(content, &config.Settings)
		content = poolContent(content, config.RootCAs)
		// The names are what the server has to prove: themselves, not where they
		// are.
		content = append(append(content, config.ServerName...), config.AlternativeName...)
		if config.Certificate != nil {
			content = certificateContent(content, config.Certificate)
		}
	}
	return p.clients.Of(config, content, func() (plan, error) {
		if err := p.checkClient(config); err != nil {
			return plan{}, err
		}
		var made plan
		made.sni, made.options = clientNames(config)
		made.options = p.askVerdict(made.options, config.VerifyConnection != nil || requireALPN(config))
		if config.GetClientCertificate != nil {
			made.options.add(connAskCertificate, []byte{1})
		}
		if resumes(config) {
			made.sessionKey = config.SessionKey(p.ProviderName)
		}
		var err error
		made.digest, err = p.contextDigest(p.clientContext(config))
		return made, err
	})
}

func (p *Provider) planServer(config *tlsapi.ServerConfig) (plan, error) {
	var memory [contentSize]byte
	var content []byte
	if config != nil {
		content = checked.Content(memory[:0], config)
		content = settingsContent(content, &config.Settings)
		content = poolContent(content, config.ClientCAs)
		for i := range config.Certificates {
			content = certificateContent(content, &config.Certificates[i])
		}
		// Where the configuration has no keys, they are the process's, which change.
		generation := tickets.Generation(config.SessionTicketKeys)
		content = append(content, generation[:]...)
	}
	return p.servers.Of(config, content, func() (plan, error) {
		if err := p.checkServer(config); err != nil {
			return plan{}, err
		}
		if selects(config) {
			// Its contexts are chosen for each connection.
			return plan{}, nil
		}
		digest, err := p.contextDigest(p.serverContext(config))
		return plan{digest: digest, options: p.askVerdict(nil, config.VerifyConnection != nil)}, err
	})
}

// contextDigest identifies the context that the instructions make, and wipes them.
func (p *Provider) contextDigest(c *contextBuilder) ([32]byte, error) {
	defer c.wipe()
	if c.err != nil {
		return [32]byte{}, c.err
	}
	return c.digest(), nil
}

// planned makes the native connection that the plan is for. The instructions for
// its context are made when there is no such context yet.
func (p *Provider) planned(r role, cacheSize int, plan *plan, instructions func() *contextBuilder) (*conn, error) {
	ctx := p.contexts.lookUp(cacheClass{r, cacheSize}, plan.digest)
	if ctx == nil {
		var err error
		if ctx, err = p.context(instructions()); err != nil {
			return nil, err
		}
	}
	defer ctx.release()
	conn, err := ctx.newConn(plan.options)
	if err != nil {
		return nil, p.named(err)
	}
	return conn, nil
}

// resumes reports whether a client resumes sessions. With PSKs there is none: a
// session and a PSK would be offered at the same time, and libraries differ in what
// they make of that.
func resumes(config *tlsapi.ClientConfig) bool {
	return config.SessionCache != nil && len(config.PSKs) == 0
}

// contentSize is what the content of most configurations takes.
const contentSize = 2048

// settingsContent, poolContent and certificateContent append what stands behind the
// fields of a configuration and may have been set meanwhile: entries of lists, and
// the certificates of pools, which only grow.
func settingsContent(b []byte, s *tlsapi.Settings) []byte {
	b = checked.ContentOf(b, s.ALPN)
	b = checked.ContentOf(b, s.CipherSuites)
	b = checked.ContentOf(b, s.Curves)
	b = checked.ContentOf(b, s.SignatureSchemes)
	b = checked.ContentOf(b, s.PSKs)
	return checked.ContentOf(b, s.RevocationLists)
}

func poolContent(b []byte, pool *tlsapi.CertPool) []byte {
	if pool == nil {
		return b
	}
	return checked.Content(b, pool)
}

func certificateContent(b []byte, c *tls.Certificate) []byte {
	b = checked.Content(b, c)
	return checked.ContentOf(b, c.Certificate)
}
