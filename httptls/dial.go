package httptls

import (
	"context"
	"net"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// Dial connects to addr, runs the handshake and returns the connection; it is
// DialContext with context.Background.
func Dial(network, addr string, provider tlsapi.Provider, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	return DialContext(context.Background(), network, addr, provider, config)
}

// DialContext connects to addr with a net.Dialer, runs the handshake and
// returns the connection. When config is nil or has no ServerName, the host of
// addr is the name to verify, as with tls.Dial; config itself is not changed.
// ctx bounds connecting and the handshake, and has no effect after it.
//
// Errors are those of net.Dialer and *tlsapi.Error. A configuration that the
// provider refuses fails before anything is sent.
func DialContext(ctx context.Context, network, addr string, provider tlsapi.Provider, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	if provider == nil {
		return nil, errNoProvider()
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	transport, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return clientHandshake(ctx, provider, transport, configForHost(config, host))
}

// clientHandshake owns transport from the beginning.
func clientHandshake(ctx context.Context, provider tlsapi.Provider, transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	conn, err := provider.Client(transport, config)
	if err != nil {
		transport.Close()
		return nil, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// configForHost returns a copy of config whose server name is set.
func configForHost(config *tlsapi.ClientConfig, host string) *tlsapi.ClientConfig {
	var c tlsapi.ClientConfig
	if config != nil {
		c = *config
	}
	if c.ServerName == "" {
		// The zone says by which interface an address is reached; no
		// certificate holds it. The dot at the end of a full DNS name is in
		// neither SNI nor certificates.
		host, _, _ = strings.Cut(host, "%")
		c.ServerName = strings.TrimSuffix(host, ".")
	}
	return &c
}

func errNoProvider() error {
	return tlsapi.ConfigError("", "there is no provider; set one, such as stdtls.Provider or one of package providers")
}
