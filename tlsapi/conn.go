package tlsapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
)

// Conn is a TLS connection of any provider. It is a net.Conn with the methods
// that *tls.Conn has, so that net/http and others accept it.
//
// All methods may be called by many goroutines at once. Read, Write, Close and
// the deadline setters do not block each other, except that one Read waits for
// another Read and one Write for another Write.
//
// Ownership is Close: it releases the native memory and closes the transport.
// A connection that was forgotten is collected by the runtime as a net against
// leaks, no more.
type Conn interface {
	// Conn is the net.Conn. Read and Write run the handshake first when it
	// has not run yet.
	//
	// Read returns io.EOF only after the peer's close_notify; a connection
	// that was cut is io.ErrUnexpectedEOF. A passed read deadline is not
	// sticky: a later Read with a later deadline goes on.
	//
	// A Write that fails, for a passed deadline too, leaves the connection
	// unusable for writing: later Writes return the same error.
	//
	// Close returns at once. A close_notify goes out before it where the
	// transport takes it, otherwise in the background for at most 5 s; after
	// a fatal alert nothing is sent. A second Close returns net.ErrClosed.
	net.Conn

	// Handshake runs the handshake if it has not run yet; it is
	// HandshakeContext with context.Background.
	Handshake() error
	// HandshakeContext runs the handshake if it has not run yet, and returns
	// its error if it has. When ctx ends first, the transport is closed and
	// the error wraps ctx.Err(). The context has no effect after the
	// handshake.
	HandshakeContext(ctx context.Context) error
	// CloseWrite sends a close_notify and leaves the reading half open.
	// Before the handshake has completed it is an error. With a provider
	// that cannot half-close the error matches errors.ErrUnsupported.
	CloseWrite() error
	// NetConn returns the transport. Reading from it or writing to it breaks
	// the TLS connection.
	NetConn() net.Conn
	// ConnectionState returns the standard library's view of the connection.
	// Before the handshake has completed, HandshakeComplete is false and only
	// what is known is set. ExportKeyingMaterial of the returned state works
	// with provider std only: use the Conn's. The certificates are shared
	// with other connections and must not be modified.
	ConnectionState() tls.ConnectionState
	// Info returns what ConnectionState has no field for.
	Info() ConnectionInfo
	// ExportKeyingMaterial derives length bytes from the connection's secrets
	// (RFC 5705, RFC 8446 section 7.5). It is an error before the handshake
	// has completed; where the library has no exporter the error matches
	// errors.ErrUnsupported.
	ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
}

// ConnectionInfo describes a connection beyond tls.ConnectionState. Its
// spelling is the same with every provider. A field that a library does not
// tell has its zero value.
type ConnectionInfo struct {
	// Provider is the provider's name, LibraryVersion its library's version.
	Provider       string
	LibraryVersion string
	// Version is the protocol version, as tls.VersionTLS13; zero before it is
	// negotiated.
	Version uint16
	// CipherSuite is the IANA value of the cipher suite.
	CipherSuite uint16
	// Group is the key exchange group; zero when there was none (PSK without
	// key exchange, TLS 1.2 resumption) or the library does not tell.
	Group CurveID
	// SignatureScheme is what the peer signed the handshake with; zero when
	// it did not sign or the library does not tell.
	SignatureScheme tls.SignatureScheme
	// ALPN is the negotiated application protocol, or empty.
	ALPN string
	// ServerName is the name that the client sent as SNI.
	ServerName string
	// Verified reports whether the peer's certificate chain was verified (and
	// its name, unless that check was switched off).
	Verified bool
	// Resumed reports whether an earlier session was resumed.
	Resumed bool
	// PSKIdentity is the identity of the external PSK in use, or nil.
	PSKIdentity []byte
	// KeyShares are the groups that had a key share in the client's first
	// ClientHello, in order.
	KeyShares []CurveID
	// HelloRetryRequest reports whether the server asked for another
	// ClientHello (TLS 1.3).
	HelloRetryRequest bool
	// PeerOrganization is the first organization in the subject of the peer's
	// leaf certificate, PeerSerial its serial number in lower-case
	// hexadecimal, PeerSHA256 the SHA-256 digest of its DER form in lower-case
	// hexadecimal. All are empty without a peer certificate.
	PeerOrganization string
	PeerSerial       string
	PeerSHA256       string
	// BlindingPending reports whether the connection has failed and its
	// transport is held open by the blinding delay.
	BlindingPending bool
}

// DescribePeer sets the Peer fields from the peer's certificates, leaf first.
// Providers use it, so that the spelling is the same everywhere.
func (i *ConnectionInfo) DescribePeer(chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	leaf := chain[0]
	if len(leaf.Subject.Organization) > 0 {
		i.PeerOrganization = leaf.Subject.Organization[0]
	}
	i.PeerSerial = leaf.SerialNumber.Text(16)
	sum := sha256.Sum256(leaf.Raw)
	i.PeerSHA256 = hex.EncodeToString(sum[:])
}
