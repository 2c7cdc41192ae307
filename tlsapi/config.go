package tlsapi

import (
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Settings are the options that clients and servers share. They are embedded
// in [ClientConfig] and [ServerConfig].
type Settings struct {
	// MinVersion and MaxVersion bound the protocol versions: tls.VersionTLS12
	// or tls.VersionTLS13 (RFC 5246, RFC 8446). Zero means TLS 1.2 and
	// TLS 1.3. Lower versions are errors.
	MinVersion, MaxVersion uint16

	// CipherSuites are IANA values in order of preference; suites of TLS 1.2
	// and 1.3 may be mixed. Every enabled version needs one of its suites, or
	// the configuration is an error. Nil means the provider's default. Provider
	// std cannot change TLS 1.3 suites nor the order; provider s2n needs a
	// policy with exactly these suites.
	CipherSuites []uint16

	// Curves are the groups for the key exchange (RFC 8446 section 4.2.7), in
	// order of preference. A client sends exactly this list in this order
	// (std: in its own order). Nil means the provider's default. Unknown and
	// duplicate entries are errors; so is an empty list that is not nil.
	Curves []CurveID

	// SignatureSchemes are the schemes to sign and verify with (RFC 8446
	// section 4.2.3), in order of preference. Nil means the provider's
	// default.
	SignatureSchemes []tls.SignatureScheme

	// SecurityPolicy names a set of versions, cipher suites, curves and
	// signature schemes: "intermediate" or "modern" with every provider (see
	// PolicyIntermediate, PolicyModern), and the names of s2n's policies with
	// provider s2n. Together with MinVersion, MaxVersion, CipherSuites,
	// Curves or SignatureSchemes it is an error. Empty means the provider's
	// default with TLS 1.2 as the least version.
	SecurityPolicy string

	// ALPN are the application protocols (RFC 7301) in order of preference;
	// see ALPNH1, ALPNH2, ALPNH2H1. A client offers them; with exactly
	// ["h2"] it fails with KindNoALPN when the server selects none. A server
	// selects the first of its own list that the client offers. Nil means no
	// ALPN.
	ALPN []string

	// PSKs are the pre-shared keys. Identities must differ. On a client they
	// are offered; a server selects the first acceptable one of its list and
	// falls back to certificates. Together with a client authentication that
	// requires certificates they are an error.
	PSKs []PSK
	// RequirePSK fails handshakes that do not use one of the PSKs, with
	// KindNoPSK. Without PSKs it is an error.
	RequirePSK bool

	// MaxBlindingDelay is the longest delay between a fatal TLS error and the
	// close of the transport: the delay is random in [max/3, max], the caller
	// of Read, Write or Handshake has the error at once. Zero means the
	// provider's default (s2n: 30 s; others: none), a negative value none.
	//
	// Until then the peer sees neither an alert nor the end of the
	// connection; the alert, if there is one, goes out with the close. Close
	// returns at once and leaves the transport to the delay. Delayed are all
	// failures that the peer's bytes or certificate cause, refusals by hooks
	// and for want of an application protocol included, during the handshake
	// and after it. Never delayed are clean closes, fatal alerts of the peer
	// (it knows of them), errors of the transport, timeouts, cancellation and
	// KindNotTLS (no TLS has begun, and servers may want to answer in plain
	// text). See SetBlindedConnectionLimit for the number of connections that
	// may wait.
	MaxBlindingDelay time.Duration

	// ConfigCacheSize is the most native contexts (SSL_CTX, s2n_config) that
	// the provider keeps for configurations with this size. Making one is
	// expensive, trust anchors above all; configurations whose contents are
	// the same share one, whatever their addresses, which hooks do not count
	// for. Clients and servers are kept apart, and so are sizes: a
	// configuration drives out only those that state the same size, the one
	// that was not used for the longest time first. Zero means 64; a negative
	// value keeps none, so that every connection makes its own. A context
	// lives on for as long as a connection uses it. See CachingProvider for
	// counts.
	ConfigCacheSize int

	// HandshakeTimeout is the longest time that a handshake may take; past it
	// the handshake fails with KindTimeout and the transport is closed. Zero
	// means no limit but the context's and the deadlines'. A negative value
	// is an error.
	HandshakeTimeout time.Duration

	// RevocationLists are certificate revocation lists (RFC 5280) to verify the
	// peer's chain with. When there is any, every certificate of the chain but
	// the trust anchor needs a current list of its issuer: without one the
	// handshake fails with KindRevocationUnknown, and with KindRevoked when the
	// list names the certificate. Lists that are out of date, have no valid
	// signature of the issuer or hold an unknown critical extension count as
	// missing. Nil, the default, means no check of revocation. Entries that are
	// nil are errors, and so are lists where no chain is verified: with
	// InsecureSkipVerify, and on a server without a ClientAuth that verifies.
	RevocationLists []*x509.RevocationList

	// KeyLogWriter receives the TLS secrets in NSS key log format, for
	// debugging. It breaks the security of the connections. Writes are
	// serialized. Nil means none.
	KeyLogWriter io.Writer

	// VerifyConnection, if not nil, is called once per handshake, after the
	// provider's own verification and before this end's last flight goes out;
	// an error fails the handshake with KindRejected, and with alert
	// bad_certificate where the provider can send one (see
	// ClientVerifyConnection, ServerVerifyConnection); an error that is, or
	// wraps, a tls.AlertError has that alert instead where the provider can
	// choose. What comes after the peer's certificate in the handshake may not
	// be known yet: the group and the signature scheme.
	// It is also called when a session was resumed. It may block: the
	// handshake's deadline goes on.
	VerifyConnection func(tls.ConnectionState) error

	// HandshakeComplete, if not nil, is called once after a successful
	// handshake, before Handshake returns. It must not use the connection.
	HandshakeComplete func(ConnectionInfo)
	// HandshakeFailed, if not nil, is called once after a failed handshake,
	// before Handshake returns. It must not use the connection; Close is
	// allowed.
	HandshakeFailed func(error)
}

// ClientConfig configures the client end. It must not be modified after it was
// handed to a provider; it may be used for many connections at once.
type ClientConfig struct {
	Settings

	// ServerName is sent as SNI (RFC 6066), unless it is an IP literal, and is
	// the name that the server's certificate must hold: a DNS name matches DNS
	// SANs, an IP literal IP SANs, the common name never. Empty is an error
	// unless InsecureSkipVerify or SkipHostnameVerification is set.
	ServerName string
	// AlternativeName is a DNS name or IP literal that is accepted as well as
	// ServerName. It never changes the SNI. Empty means none.
	AlternativeName string

	// InsecureSkipVerify switches off the verification of the certificate
	// chain and of the name. Anybody can then impersonate the server.
	InsecureSkipVerify bool
	// SkipHostnameVerification switches off the check of the name; the chain
	// is verified still.
	SkipHostnameVerification bool

	// RootCAs are the trust anchors. Nil means the system's roots; a pool that
	// is not nil replaces them (see CertPool.AddSystemRoots). An empty pool is
	// an error unless InsecureSkipVerify is set.
	RootCAs *CertPool

	// Certificate is the client certificate with its chain and key, sent when
	// the server asks for one. Nil means none.
	Certificate *tls.Certificate
	// GetClientCertificate, if not nil, is called when the server asks for a
	// certificate, after the server's own was verified and VerifyConnection has
	// returned; it is not called for a session that is resumed. It sees the
	// server's acceptable CAs (raw subjects; none: any), the signature schemes
	// that it can verify and the version. It may block, in which the
	// handshake's deadline and context go on.
	//
	// A nil certificate means Certificate, one with an empty chain that none is
	// sent. The certificate is held to the same rules as Certificate; one that
	// is wrong fails the handshake with KindConfig or KindUnsupported. An error
	// fails it with KindRejected, which wraps it, and with alert internal_error
	// (std: in TLS 1.3 without an alert); an error that is, or wraps, a
	// tls.AlertError has that alert instead where the provider can choose. The request's Context ends with the
	// handshake; a hook that goes on after that does not keep Close, Handshake
	// or the timeout waiting, and its result is dropped. Hooks of one
	// configuration are called from many goroutines at once. Sessions in
	// SessionCache are kept apart by hook (the function's instance) and process.
	GetClientCertificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

	// SecondKeyShare says whether the first ClientHello carries a second key
	// share, one post-quantum and one classical. supported_groups is
	// unchanged by it. SecondKeyShareOn without such a pair in Curves is an
	// error.
	SecondKeyShare SecondKeyShare

	// SessionTicketsDisabled switches session resumption off.
	SessionTicketsDisabled bool
	// SessionCache holds the sessions to resume (RFC 5077, RFC 8446 section
	// 2.2); see NewLRUSessionCache. Nil means that none is kept. The server's
	// certificate is not sent again when a session is resumed: what was
	// verified then counts, as long as the chain is in date and the
	// configuration the same (SessionKey).
	SessionCache SessionCache
}

// ServerConfig configures the server end. It must not be modified after it was
// handed to a provider; it may be used for many connections at once.
type ServerConfig struct {
	Settings

	// Certificates are the server's certificates with chains and keys. At
	// least one is needed, unless GetCertificate, GetConfigForClient or PSKs
	// are set; nil means none.
	//
	// The one for a connection is chosen from the ClientHello: those with a
	// DNS name equal to the SNI come before those with a wildcard that covers
	// it, and before the first of the list with those that share its names.
	// The common name does not count. Of these the first is presented whose
	// key the client says it can verify. When it can verify none of them, the
	// first is presented nevertheless, never one for another name.
	Certificates []tls.Certificate
	// GetCertificate, if not nil, is called once in every handshake, when the
	// ClientHello is complete and before anything is sent, resumed sessions
	// included (where the provider std has resumed one, it is not called). It
	// may block, in which the handshake's deadline and context go on, and
	// return what it likes each time: certificates are replaced without
	// touching the connections that are open. A nil certificate means those of
	// Certificates. The certificate is held to the same rules as those; one
	// that is wrong fails the handshake with KindConfig or KindUnsupported.
	//
	// An error fails the handshake with KindRejected, which wraps it, and with
	// alert internal_error (80); an error that is, or wraps, a tls.AlertError
	// has that alert instead, such as 112 for unrecognized_name (std: always
	// internal_error). MaxBlindingDelay applies. When there is no certificate
	// at all the error is of KindConfig.
	//
	// The ClientHelloInfo has the same content with every provider. Its Conn
	// is the transport, which the hook must leave alone. Its Context ends with
	// the handshake. A hook that goes on after that does not keep Close,
	// Handshake or the timeout waiting, and its result is dropped (std:
	// Handshake waits for the hook). Hooks of one configuration are called
	// from many goroutines at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// GetConfigForClient, if not nil, is called once in every handshake,
	// before GetCertificate and by the same rules. A nil configuration means
	// this one. Another one is validated and checked against the provider's
	// features; what is wrong with it fails the handshake with that error and
	// alert internal_error.
	//
	// From then on everything that the chosen configuration says holds and
	// nothing of this one does: versions, certificates with its
	// GetCertificate, client authentication, tickets, hooks, blinding and
	// HandshakeTimeout, which counts from the beginning of the handshake. The
	// chosen configuration's own GetConfigForClient is not called. A
	// configuration that is returned must not be modified any more; native
	// contexts are kept for those that come again.
	GetConfigForClient func(*tls.ClientHelloInfo) (*ServerConfig, error)

	// ClientAuth says whether clients are asked for a certificate; the zero
	// value is tls.NoClientCert.
	ClientAuth tls.ClientAuthType
	// ClientCAs are the trust anchors for clients. The system's roots are
	// trusted only when added with CertPool.AddSystemRoots. The modes that
	// verify need a pool that is not empty.
	ClientCAs *CertPool

	// ALPNStrict fails a handshake with alert no_application_protocol (RFC
	// 7301) when the client offers ALPN and no protocol is in common. By
	// default the connection goes on without one.
	ALPNStrict bool

	// SessionTicketsDisabled switches session tickets off.
	SessionTicketsDisabled bool
	// SessionTicketKeys are the secrets for session tickets: the first
	// encrypts, all decrypt. To rotate them, put a new one in front and drop
	// the last in a new configuration. A ticket is good only for
	// configurations with the same TicketBinding, whatever the keys. Nil
	// means keys of the process, which it changes every day and keeps for a
	// week. An all-zero key and two equal ones are errors.
	SessionTicketKeys [][32]byte
}

// SecondKeyShare is the value of ClientConfig.SecondKeyShare.
type SecondKeyShare uint8

const (
	// SecondKeyShareDefault leaves it to the library.
	SecondKeyShareDefault SecondKeyShare = iota
	SecondKeyShareOn
	SecondKeyShareOff
)

// String returns "default", "on" or "off".
func (s SecondKeyShare) String() string {
	switch s {
	case SecondKeyShareOn:
		return "on"
	case SecondKeyShareOff:
		return "off"
	}
	return "default"
}

// Validate reports the first mistake of a client configuration that is one
// with every provider. Providers call it; its errors are of KindConfig.
func (c *ClientConfig) Validate() error {
	if c == nil {
		return ConfigError("", "the client configuration is nil; a server name is needed at least")
	}
	if err := c.Settings.validate(); err != nil {
		return err
	}
	if c.ServerName == "" && !c.InsecureSkipVerify && !c.SkipHostnameVerification {
		return ConfigError("ServerName", "it is empty; set it, or InsecureSkipVerify or SkipHostnameVerification")
	}
	for _, n := range []struct{ option, name string }{{"ServerName", c.ServerName}, {"AlternativeName", c.AlternativeName}} {
		if err := checkName(n.option, n.name); err != nil {
			return err
		}
	}
	if c.RootCAs != nil && c.RootCAs.Empty() && !c.InsecureSkipVerify {
		return ConfigError("RootCAs", "the pool is empty: no certificate could be verified; add certificates, or leave RootCAs nil for the system's")
	}
	if c.Certificate != nil {
		if err := checkCertificate("Certificate", c.Certificate); err != nil {
			return err
		}
	}
	if c.SecondKeyShare > SecondKeyShareOff {
		return ConfigError("SecondKeyShare", "unknown value %d", c.SecondKeyShare)
	}
	if c.SecondKeyShare == SecondKeyShareOn && c.Curves != nil {
		var classical, quantum bool
		for _, id := range c.Curves {
			classical = classical || !PostQuantum(id)
			quantum = quantum || PostQuantum(id)
		}
		if !classical || !quantum {
			return ConfigError("SecondKeyShare", "on needs a post-quantum and a classical group in Curves")
		}
	}
	if c.InsecureSkipVerify && len(c.RevocationLists) > 0 {
		return ConfigError("RevocationLists", "they are set although InsecureSkipVerify is: no chain is verified, and nothing would be looked up in them")
	}
	if c.SessionTicketsDisabled && c.SessionCache != nil {
		return ConfigError("SessionCache", "it is set although SessionTicketsDisabled is")
	}
	return nil
}

// Validate reports the first mistake of a server configuration that is one
// with every provider. Providers call it; its errors are of KindConfig.
func (c *ServerConfig) Validate() error {
	if c == nil {
		return ConfigError("", "the server configuration is nil; a certificate is needed at least")
	}
	if err := c.Settings.validate(); err != nil {
		return err
	}
	if len(c.Certificates) == 0 && c.GetCertificate == nil && c.GetConfigForClient == nil && len(c.PSKs) == 0 {
		return ConfigError("Certificates", "there is none")
	}
	for i := range c.Certificates {
		if err := checkCertificate("Certificates", &c.Certificates[i]); err != nil {
			return err
		}
	}
	if c.ClientAuth < tls.NoClientCert || c.ClientAuth > tls.RequireAndVerifyClientCert {
		return ConfigError("ClientAuth", "unknown mode %d", int(c.ClientAuth))
	}
	verifies := c.ClientAuth >= tls.VerifyClientCertIfGiven
	if verifies && (c.ClientCAs == nil || c.ClientCAs.Empty()) {
		return ConfigError("ClientCAs", "mode %v verifies clients and needs their CAs; the system's are trusted only when added", c.ClientAuth)
	}
	if len(c.RevocationLists) > 0 && !verifies {
		return ConfigError("RevocationLists", "they are set although ClientAuth verifies no certificates: nothing would be looked up in them; set VerifyClientCertIfGiven or RequireAndVerifyClientCert")
	}
	if len(c.PSKs) > 0 && (c.ClientAuth == tls.RequireAnyClientCert || c.ClientAuth == tls.RequireAndVerifyClientCert) {
		return ConfigError("PSKs", "a PSK handshake has no certificates, but ClientAuth requires one")
	}
	if c.ALPNStrict && len(c.ALPN) == 0 {
		return ConfigError("ALPNStrict", "it needs a list in ALPN")
	}
	if c.SessionTicketsDisabled && len(c.SessionTicketKeys) > 0 {
		return ConfigError("SessionTicketKeys", "they are set although SessionTicketsDisabled is")
	}
	for i, key := range c.SessionTicketKeys {
		if key == [32]byte{} {
			return ConfigError("SessionTicketKeys", "key %d is all zero", i+1)
		}
		for j := range i {
			if subtle.ConstantTimeCompare(key[:], c.SessionTicketKeys[j][:]) == 1 {
				return ConfigError("SessionTicketKeys", "keys %d and %d are the same", j+1, i+1)
			}
		}
	}
	return nil
}

func (s *Settings) validate() error {
	if err := checkVersions(s.MinVersion, s.MaxVersion); err != nil {
		return err
	}
	if s.SecurityPolicy != "" {
		for _, c := range []struct {
			option string
			set    bool
		}{
			{"MinVersion", s.MinVersion != 0},
			{"MaxVersion", s.MaxVersion != 0},
			{"CipherSuites", s.CipherSuites != nil},
			{"Curves", s.Curves != nil},
			{"SignatureSchemes", s.SignatureSchemes != nil},
		} {
			if c.set {
				return ConfigError("SecurityPolicy", "%q already says what %s says: set one of them", s.SecurityPolicy, c.option)
			}
		}
	}
	if s.CipherSuites != nil {
		if err := s.checkSuitesForVersions(); err != nil {
			return err
		}
	}
	if s.Curves != nil {
		if len(s.Curves) == 0 {
			return ConfigError("Curves", "the list is empty; leave it nil for the default%s", knownEntries("Curves"))
		}
		if err := checkCurves(s.Curves); err != nil {
			return err
		}
	}
	if s.SignatureSchemes != nil {
		if len(s.SignatureSchemes) == 0 {
			return ConfigError("SignatureSchemes", "the list is empty; leave it nil for the default")
		}
		if err := checkSchemes(s.SignatureSchemes); err != nil {
			return err
		}
	}
	if err := checkALPN(s.ALPN); err != nil {
		return err
	}
	if err := checkPSKs(s.PSKs); err != nil {
		return err
	}
	if s.RequirePSK && len(s.PSKs) == 0 {
		return ConfigError("RequirePSK", "it is set, but there are no PSKs")
	}
	for i, list := range s.RevocationLists {
		if list == nil || len(list.Raw) == 0 {
			return ConfigError("RevocationLists", "entry %d is nil or was not parsed; use x509.ParseRevocationList", i+1)
		}
	}
	if s.HandshakeTimeout < 0 {
		return ConfigError("HandshakeTimeout", "%v is negative", s.HandshakeTimeout)
	}
	return nil
}

// Versions returns the range of protocol versions with the defaults filled in.
func (s *Settings) Versions() (minimum, maximum uint16) {
	minimum, maximum = s.MinVersion, s.MaxVersion
	if minimum == 0 {
		minimum = tls.VersionTLS12
	}
	if maximum == 0 {
		maximum = tls.VersionTLS13
	}
	return minimum, maximum
}

func (s *Settings) checkSuitesForVersions() error {
	if err := checkCipherSuites(s.CipherSuites); err != nil {
		return err
	}
	var has12, has13 bool
	for _, id := range s.CipherSuites {
		if CipherSuiteTLS13(id) {
			has13 = true
		} else {
			has12 = true
		}
	}
	minimum, maximum := s.Versions()
	if minimum == tls.VersionTLS12 && !has12 {
		return ConfigError("CipherSuites", "there is no suite for TLS 1.2; add one or set MinVersion to TLS 1.3")
	}
	if maximum == tls.VersionTLS13 && !has13 {
		return ConfigError("CipherSuites", "there is no suite for TLS 1.3; add one or set MaxVersion to TLS 1.2")
	}
	return nil
}

// checkName refuses names that can match nothing or that a C library could
// read differently from Go.
func checkName(option, name string) error {
	if name == "" {
		return nil
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	if strings.ContainsAny(name, "[]:/@") {
		return ConfigError(option, "%q is neither a DNS name nor an IP address; leave brackets, port and URL parts out", name)
	}
	if len(name) > 255 {
		return ConfigError(option, "it has %d bytes; a DNS name has at most 255", len(name))
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f {
			return ConfigError(option, "%q holds a byte (0x%02x) that no DNS name has; convert international names to their xn-- form", name, c)
		}
	}
	return nil
}
