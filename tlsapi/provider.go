package tlsapi

import "net"

// Provider makes TLS connections with one library. It is safe for use by many
// goroutines at once.
type Provider interface {
	// Name is the provider's name: "openssl", "boringssl", "s2n", "std".
	Name() string
	// Library is the name of the library behind it: "OpenSSL".
	Library() string
	// LibraryVersion is the version of the library that runs, asked from the
	// library itself; empty when the provider is not available.
	LibraryVersion() string
	// Available returns nil, or an error of KindUnavailable that says why the
	// provider cannot be used and what to do about it.
	Available() error
	// Features returns how the provider supports every feature, in the order
	// of AllFeatures. It works when the provider is not available, too.
	Features() []FeatureSupport

	// Client returns the client end of a TLS connection over transport. The
	// handshake runs with the first Read, Write or Handshake. The connection
	// owns the transport from then on; when Client fails, the transport still
	// belongs to the caller and nothing was sent.
	Client(transport net.Conn, config *ClientConfig) (Conn, error)
	// Server is the same for the server end.
	Server(transport net.Conn, config *ServerConfig) (Conn, error)
}
