package measure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/polytls/polytls/tlsapi"
)

// Conn is one end of a connection.
type Conn interface {
	net.Conn
	Handshake() error
}

// Negotiated is what an end knows of its connection; zero where it cannot tell.
type Negotiated struct {
	Version, CipherSuite uint16
	Group                tlsapi.CurveID
	Resumed              bool
}

// Subject is an implementation of TLS that is measured.
type Subject interface {
	// Name identifies it in reports.
	Name() string
	// Library is the library behind it, with its version.
	Library() string
	// Prepare returns what makes the ends of the connections of a measure. An
	// error that matches errors.ErrUnsupported says that the implementation
	// cannot do it.
	Prepare(Fixtures, Settings) (*Ends, error)
}

// Ends make the two ends of connections.
type Ends struct {
	Client, Server func(net.Conn) (Conn, error)
	// Describe tells what an end has negotiated after its handshake.
	Describe func(Conn) Negotiated
}

// Provider returns a provider as a subject.
func Provider(p tlsapi.Provider) Subject { return provider{p} }

type provider struct{ tlsapi.Provider }

func (p provider) Library() string { return p.Provider.Library() + " " + p.LibraryVersion() }

func (p provider) Prepare(f Fixtures, s Settings) (*Ends, error) {
	if err := p.Available(); err != nil {
		return nil, err
	}
	client := &tlsapi.ClientConfig{ServerName: ServerName, RootCAs: tlsapi.NewCertPool()}
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{f.certificate(s)}}
	client.RootCAs.AddCert(f.root(s))
	if s.Resume {
		for _, feature := range []tlsapi.Feature{tlsapi.ClientSessionCache, tlsapi.ServerSessionTickets} {
			if err := tlsapi.CheckFeatures(p, []tlsapi.FeatureUse{{Feature: feature, Option: "SessionCache"}}); err != nil {
				return nil, err
			}
		}
		client.SessionCache = tlsapi.NewLRUSessionCache(1)
	} else {
		client.SessionTicketsDisabled, server.SessionTicketsDisabled = true, true
	}
	p.pin(client, server)
	return &Ends{
		Client: func(c net.Conn) (Conn, error) { return p.Client(c, client) },
		Server: func(c net.Conn) (Conn, error) { return p.Server(c, server) },
		Describe: func(c Conn) Negotiated {
			info := c.(tlsapi.Conn).Info()
			return Negotiated{info.Version, info.CipherSuite, info.Group, info.Resumed}
		},
	}, nil
}

// pin asks for the version, suite and group that all are compared with, as far
// as the provider takes them. What is then negotiated is checked.
func (p provider) pin(client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) {
	accepted := func(set func(*tlsapi.Settings)) bool {
		c, s := *client, *server
		set(&c.Settings)
		set(&s.Settings)
		here, there := net.Pipe()
		defer here.Close()
		defer there.Close()
		a, err := p.Client(here, &c)
		if err != nil {
			return false
		}
		a.Close()
		b, err := p.Server(there, &s)
		if err != nil {
			return false
		}
		b.Close()
		*client, *server = c, s
		return true
	}
	accepted(func(s *tlsapi.Settings) { s.MinVersion = tls.VersionTLS13 })
	accepted(func(s *tlsapi.Settings) { s.Curves = []tlsapi.CurveID{tlsapi.X25519} })
	accepted(func(s *tlsapi.Settings) { s.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256} })
}

// CryptoTLS is crypto/tls as a program uses it without Polytls: the floor of
// provider std.
func CryptoTLS() Subject { return cryptoTLS{} }

type cryptoTLS struct{}

func (cryptoTLS) Name() string    { return "crypto-tls" }
func (cryptoTLS) Library() string { return "crypto/tls " + goVersion() }

func (cryptoTLS) Prepare(f Fixtures, s Settings) (*Ends, error) {
	roots := x509.NewCertPool()
	roots.AddCert(f.root(s))
	client := &tls.Config{ServerName: ServerName, RootCAs: roots, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, SessionTicketsDisabled: !s.Resume}
	server := &tls.Config{Certificates: []tls.Certificate{f.certificate(s)}, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, SessionTicketsDisabled: !s.Resume}
	if s.Resume {
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return &Ends{
		Client: func(c net.Conn) (Conn, error) { return tls.Client(c, client), nil },
		Server: func(c net.Conn) (Conn, error) { return tls.Server(c, server), nil },
		Describe: func(c Conn) Negotiated {
			state := c.(*tls.Conn).ConnectionState()
			return Negotiated{state.Version, state.CipherSuite, tlsapi.CurveID(state.CurveID), state.DidResume}
		},
	}, nil
}

// connected makes the ends over two transports and runs both handshakes.
func (b *bench) connected(client, server net.Conn) (Conn, Conn, error) {
	c, err := b.ends.Client(client)
	if err != nil {
		return nil, nil, err
	}
	s, err := b.ends.Server(server)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-failed); err != nil {
		c.Close()
		s.Close()
		return nil, nil, err
	}
	return c, s, nil
}

// checkNegotiated holds what a connection came to against what is compared.
func (b *bench) checkNegotiated(c Conn, resumed bool) error {
	n := b.ends.Describe(c)
	if n.Version != tls.VersionTLS13 || n.Resumed != resumed {
		return fmt.Errorf("negotiated %s, resumed %v; wanted TLS 1.3, resumed %v", tlsapi.VersionName(n.Version), n.Resumed, resumed)
	}
	if n.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return fmt.Errorf("negotiated %s; the comparison is with TLS_AES_128_GCM_SHA256", tlsapi.CipherSuiteName(n.CipherSuite))
	}
	if n.Group != 0 && n.Group != tlsapi.X25519 {
		return fmt.Errorf("negotiated %s; the comparison is with X25519", tlsapi.CurveName(n.Group))
	}
	text := "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519"
	if n.Group == 0 {
		text = "TLS 1.3, TLS_AES_128_GCM_SHA256, group not told"
	}
	b.negotiated.Store(&text)
	return nil
}

type negotiatedText = atomic.Pointer[string]
