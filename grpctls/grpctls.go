// Package grpctls gives grpc-go the TLS of any provider.
//
//	creds, err := grpctls.NewServer(openssl.Provider, &tlsapi.ServerConfig{…})
//	server := grpc.NewServer(grpc.Creds(creds))
//
//	creds, err := grpctls.NewClient(boringssl.Provider, &tlsapi.ClientConfig{RootCAs: roots})
//	conn, err := grpc.NewClient("dns:///service.example:443", grpc.WithTransportCredentials(creds))
//
// The credentials are those of grpc-go's own credentials package otherwise:
// peers have a credentials.TLSInfo with security level PrivacyAndIntegrity, and
// both ends must have negotiated h2 (ALPN).
package grpctls

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/polytls/polytls/internal/handshakelog"
	"github.com/polytls/polytls/tlsapi"
)

// defaultHandshakeTimeout bounds a server's handshakes whose configuration says
// nothing; clients have the context of the dial.
const defaultHandshakeTimeout = 2 * time.Minute

// NewClient returns the credentials of clients. The name to verify is
// ServerName, or the authority of the target when that is empty. ALPN must be
// nil or hold h2; h2 is what is offered in any case. A configuration that the
// provider refuses is an error. The configuration must not be changed any more.
func NewClient(provider tlsapi.Provider, config *tlsapi.ClientConfig) (credentials.TransportCredentials, error) {
	if err := available(provider); err != nil {
		return nil, err
	}
	c := &clientCredentials{provider: provider}
	if config != nil {
		c.config = *config
	}
	if err := offerHTTP2(&c.config.ALPN); err != nil {
		return nil, err
	}
	// The authority is not known yet.
	trial := c.config
	if trial.ServerName == "" {
		trial.ServerName = "localhost"
	}
	return c, try(func(transport net.Conn) (tlsapi.Conn, error) { return provider.Client(transport, &trial) })
}

// NewServer returns the credentials of servers. ALPN must be nil or hold h2; a
// configuration that GetConfigForClient returns must offer it itself. Handshakes
// end after HandshakeTimeout, or two minutes when it is zero. A configuration
// that the provider refuses is an error.
func NewServer(provider tlsapi.Provider, config *tlsapi.ServerConfig, options ...ServerOption) (credentials.TransportCredentials, error) {
	if err := available(provider); err != nil {
		return nil, err
	}
	s := &serverCredentials{provider: provider}
	for _, option := range options {
		option(s)
	}
	if config != nil {
		s.config = *config
	}
	if err := offerHTTP2(&s.config.ALPN); err != nil {
		return nil, err
	}
	return s, try(func(transport net.Conn) (tlsapi.Conn, error) { return provider.Server(transport, &s.config) })
}

// ServerOption changes what NewServer returns.
type ServerOption func(*serverCredentials)

// WithLog logs failed handshakes of a server at slog.LevelWarn, as
// httptls.Listener does; grpc-go tells of them in its own log at most. A client's
// failures are in the errors of its calls. Nil, the default, means none. To log
// successful handshakes as well, wrap the provider with a metrics.Meter.
func WithLog(log *slog.Logger) ServerOption {
	return func(s *serverCredentials) { s.log = log }
}

func available(provider tlsapi.Provider) error {
	if provider == nil {
		return tlsapi.ConfigError("", "there is no provider; set one, such as stdtls.Provider or one of package providers")
	}
	return provider.Available()
}

// try makes a connection that is never used, so that what the provider refuses
// is an error now.
func try(connect func(net.Conn) (tlsapi.Conn, error)) error {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	conn, err := connect(near)
	if err != nil {
		return err
	}
	return conn.Close()
}

func offerHTTP2(alpn *[]string) error {
	if *alpn != nil && !slices.Contains(*alpn, "h2") {
		return tlsapi.ConfigError("ALPN", "gRPC is HTTP/2, and h2 is not in the list; leave it nil")
	}
	*alpn = tlsapi.ALPNH2()
	return nil
}

type clientCredentials struct {
	provider tlsapi.Provider
	config   tlsapi.ClientConfig
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, transport net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := c.config
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(authority)
		if err != nil {
			host = strings.Trim(authority, "[]")
		}
		config.ServerName = strings.TrimSuffix(host, ".")
	}
	conn, err := c.provider.Client(transport, &config)
	if err != nil {
		return nil, nil, err
	}
	return handshake(ctx, c.provider, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *clientCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("grpctls: these are the credentials of a client; use NewServer")
}

// Info implements credentials.TransportCredentials.
func (c *clientCredentials) Info() credentials.ProtocolInfo {
	//lint:ignore SA1019 grpc-go takes the :authority header from it still.
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: c.config.ServerName}
}

// Clone implements credentials.TransportCredentials.
func (c *clientCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName implements credentials.TransportCredentials.
func (c *clientCredentials) OverrideServerName(name string) error {
	c.config.ServerName = name
	return nil
}

type serverCredentials struct {
	provider tlsapi.Provider
	config   tlsapi.ServerConfig
	log      *slog.Logger
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("grpctls: these are the credentials of a server; use NewClient")
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ServerHandshake(transport net.Conn) (net.Conn, credentials.AuthInfo, error) {
	began := time.Now()
	conn, auth, err := s.handshake(transport)
	if err != nil {
		handshakelog.Failed(s.log, handshakelog.Handshake{
			Provider: s.provider.Name(), Role: "server", Remote: transport.RemoteAddr(), Duration: time.Since(began),
		}, err)
	}
	return conn, auth, err
}

func (s *serverCredentials) handshake(transport net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := s.provider.Server(transport, &s.config)
	if err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	if s.config.HandshakeTimeout == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultHandshakeTimeout)
		defer cancel()
	}
	return handshake(ctx, s.provider, conn)
}

// Info implements credentials.TransportCredentials.
func (s *serverCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials. Configurations are not
// changed, so the same one serves.
func (s *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{provider: s.provider, config: s.config, log: s.log}
}

// OverrideServerName implements credentials.TransportCredentials.
func (s *serverCredentials) OverrideServerName(string) error {
	return errors.New("grpctls: a server has no server name to override")
}

func handshake(ctx context.Context, provider tlsapi.Provider, conn tlsapi.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		conn.Close()
		return nil, nil, &tlsapi.Error{Provider: provider.Name(), Op: "handshake", Kind: tlsapi.KindNoALPN,
			Err: errors.New("gRPC needs h2, which the peer did not negotiate")}
	}
	return conn, credentials.TLSInfo{
		State:          state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		SPIFFEID:       spiffeID(&state),
	}, nil
}

// spiffeID returns the SPIFFE ID of the peer, or nil: the one URI of the
// certificate, by the rules of the SPIFFE standard for X.509 SVIDs.
func spiffeID(state *tls.ConnectionState) *url.URL {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return nil
	}
	id := state.PeerCertificates[0].URIs[0]
	if id.Scheme != "spiffe" || id.Host == "" || len(id.Host) > 255 || id.Path == "" || id.User != nil || id.Port() != "" ||
		id.RawQuery != "" || id.Fragment != "" || len(id.String()) > 2048 {
		return nil
	}
	return id
}
