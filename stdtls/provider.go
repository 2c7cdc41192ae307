// Package stdtls is the provider "std": the contract of package tlsapi over
// crypto/tls. It has no native code and is always available.
//
// crypto/tls does the protocol. The verification of certificates, the rules of
// the contract about closing, deadlines and errors, and the hooks are done
// here, so that they are the same as with the other providers.
package stdtls

import (
	"errors"
	"net"
	"runtime"

	"github.com/polytls/polytls/tlsapi"
)

const providerName = "std"

// Provider is the provider "std".
var Provider tlsapi.Provider = provider{}

type provider struct{}

func (provider) Name() string           { return providerName }
func (provider) Library() string        { return "crypto/tls" }
func (provider) LibraryVersion() string { return runtime.Version() }
func (provider) Available() error       { return nil }

func (provider) Client(transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	if transport == nil {
		return nil, named(errNilTransport())
	}
	c, err := newClientConn(transport, config)
	if err != nil {
		return nil, named(err)
	}
	return c, nil
}

func (provider) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if transport == nil {
		return nil, named(errNilTransport())
	}
	c, err := newServerConn(transport, config)
	if err != nil {
		return nil, named(err)
	}
	return c, nil
}

func errNilTransport() error {
	return tlsapi.ConfigError("", "the transport is nil")
}

// named puts the provider's name into an error of the contract that has none.
func named(err error) error {
	var e *tlsapi.Error
	if !errors.As(err, &e) || e.Provider != "" {
		return err
	}
	withName := *e
	withName.Provider = providerName
	return &withName
}
