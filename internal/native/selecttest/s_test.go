package selecttest

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

type selecting struct{ tlsapi.Provider }

func (p selecting) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if config != nil && config.GetConfigForClient == nil {
		changed := *config
		changed.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return config, nil }
		config = &changed
		x := *config
		x.Settings = tlsapi.Settings{MaxBlindingDelay: config.MaxBlindingDelay}
	}
	return p.Provider.Server(transport, config)
}

func TestO(t *testing.T) { tlstest.Run(t, selecting{openssl.Provider}) }
func TestB(t *testing.T) { tlstest.Run(t, selecting{boringssl.Provider}) }
func TestS(t *testing.T) { tlstest.Run(t, selecting{s2n.Provider}) }
