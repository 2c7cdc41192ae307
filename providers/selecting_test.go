package providers_test

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// selecting is a provider whose servers choose everything in
// GetConfigForClient: of the configuration that they begin with nothing may
// be left but the blinding delay, which a failure before the choice needs.
type selecting struct{ tlsapi.Provider }

func (p selecting) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if transport == nil || config.Validate() != nil || config.GetConfigForClient != nil {
		return p.Provider.Server(transport, config)
	}
	// What a library refuses is found out before the first byte only of the
	// configuration that one begins with.
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	probe, err := p.Provider.Server(near, config)
	if err != nil {
		return nil, err
	}
	probe.Close()
	first := &tlsapi.ServerConfig{
		Settings: tlsapi.Settings{
			MaxBlindingDelay: config.MaxBlindingDelay,
			HandshakeTimeout: config.HandshakeTimeout,
			HandshakeFailed:  config.HandshakeFailed,
			VerifyConnection: func(tls.ConnectionState) error { panic("a hook of the first configuration") },
		},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return config, nil },
	}
	return p.Provider.Server(transport, first)
}

// Servers that choose are a path of their own from the ClientHello to the
// library.
func TestConformanceOfServersThatChoose(t *testing.T) {
	if testing.Short() {
		t.Skip("it repeats half of the conformance tests of all native providers")
	}
	for _, p := range []tlsapi.Provider{openssl.Provider, boringssl.Provider, s2n.Provider} {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			tlstest.RunServed(t, selecting{p})
		})
	}
}
