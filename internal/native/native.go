// Package native is the Go side of the step contract of polytls_native.h: it
// turns configurations into native contexts and native connections into
// engines. It holds all cgo of the native providers but their C itself.
package native

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polytls/polytls/internal/blinding"
	"github.com/polytls/polytls/internal/checked"
	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/tlsapi"
)

// Provider is a tlsapi.Provider over a native library.
type Provider struct {
	ProviderName string
	LibraryName  string
	// Matrix is the capability matrix of a library with these abilities.
	Matrix func(Abilities) Matrix
	// NoCANames leaves the names of the accepted CAs out of a server's
	// CertificateRequest, for libraries that cannot send them.
	NoCANames bool
	// NoClientTickets leaves servers that ask for certificates without tickets, for
	// libraries that would resume without looking at the certificate again.
	NoClientTickets bool
	// MaxBlindingDelay is the library's own longest blinding delay: the meaning
	// of zero in a configuration.
	MaxBlindingDelay time.Duration
	// Policy chooses the library's own security policy for the settings, for
	// libraries that are driven by policies. Where it is nil, the settings
	// reach the library one by one.
	Policy func(*tlsapi.Settings) (string, error)

	library   *library
	abilities Abilities
	// cells are Matrix for the library at hand, complete and in order.
	cells    []tlsapi.FeatureSupport
	initOnce sync.Once
	initErr  error
	contexts contextCache
	// clients and servers are the plans of the configurations that were checked.
	clients checked.Configs[tlsapi.ClientConfig, plan]
	servers checked.Configs[tlsapi.ServerConfig, plan]
	// vetted are the servers' configurations of which contexts can be made.
	vetted checked.Configs[tlsapi.ServerConfig, struct{}]
	// can is what the state machine must know of the library.
	can struct{ clientHalfClose, clientExporter, serverHalfClose, serverExporter bool }
}

// complete fills in what follows from the library at hand.
func (p *Provider) complete(l *library, abilities Abilities) *Provider {
	p.library, p.abilities = l, abilities
	p.cells = p.Matrix(abilities).Cells()
	p.can.clientHalfClose, p.can.clientExporter = p.supports(tlsapi.ClientCloseWrite), p.supports(tlsapi.ClientExporter)
	p.can.serverHalfClose, p.can.serverExporter = p.supports(tlsapi.ServerCloseWrite), p.supports(tlsapi.ServerExporter)
	return p
}

// Name returns the provider's name.
func (p *Provider) Name() string { return p.ProviderName }

// Library returns the library's name.
func (p *Provider) Library() string { return p.LibraryName }

// LibraryVersion asks the library for its version.
func (p *Provider) LibraryVersion() string {
	if p.Available() != nil {
		return ""
	}
	return p.library.version()
}

// Available initializes the library when it is first asked.
func (p *Provider) Available() error {
	p.initOnce.Do(func() { p.initErr = p.library.init() })
	if p.initErr == nil {
		return nil
	}
	return &tlsapi.Error{Provider: p.ProviderName, Op: "config", Kind: tlsapi.KindUnavailable, Err: p.initErr}
}

// Features returns the capability matrix.
func (p *Provider) Features() []tlsapi.FeatureSupport { return slices.Clone(p.cells) }

// FeaturesWith returns the capability matrix of a library with these abilities.
func (p *Provider) FeaturesWith(abilities Abilities) []tlsapi.FeatureSupport {
	return p.Matrix(abilities).Cells()
}

// Abilities returns what the library at hand can do.
func (p *Provider) Abilities() Abilities { return p.abilities }

func (p *Provider) supports(f tlsapi.Feature) bool {
	for _, cell := range p.cells {
		if cell.Feature == f {
			return cell.Support != tlsapi.Unsupported
		}
	}
	return false
}

// Client returns the client end of a connection.
func (p *Provider) Client(transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	if err := p.check(transport); err != nil {
		return nil, err
	}
	plan, err := p.planClient(config)
	if err != nil {
		return nil, p.named(err)
	}
	conn, err := p.planned(client, config.ConfigCacheSize, &plan, func() *contextBuilder { return p.clientContext(config) })
	if err != nil {
		return nil, err
	}
	if config.Certificate != nil {
		conn.signer = externalSigner(config.Certificate.PrivateKey)
	}
	if config.GetClientCertificate != nil {
		conn.chooser = &certificateChooser{provider: p, config: config}
	}
	o := p.options(&config.Settings)
	o.Client = true
	o.ServerName = config.ServerName
	o.SNI = plan.sni
	o.Sessions = plan.sessions(config)
	o.RequireALPN = requireALPN(config)
	o.HalfClose, o.Exporter = p.can.clientHalfClose, p.can.clientExporter
	return engine.New(transport, conn, o), nil
}

// h2Only is the list that fails a handshake which selects nothing.
var h2Only = tlsapi.ALPNH2()

// Server returns the server end of a connection.
func (p *Provider) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if err := p.check(transport); err != nil {
		return nil, err
	}
	plan, err := p.planServer(config)
	if err != nil {
		return nil, p.named(err)
	}
	if selects(config) {
		if err := p.vet(config); err != nil {
			return nil, err
		}
		o := p.serverOptions(config)
		o.Replaceable = config.GetConfigForClient != nil
		return engine.New(transport, &selector{provider: p, config: config, transport: transport}, o), nil
	}
	conn, err := p.planned(server, config.ConfigCacheSize, &plan, func() *contextBuilder { return p.serverContext(config) })
	if err != nil {
		return nil, err
	}
	if len(config.Certificates) > 0 {
		conn.signer = externalSigner(config.Certificates[0].PrivateKey)
	}
	return engine.New(transport, conn, p.serverOptions(config)), nil
}

// checkClient refuses what is wrong with every provider and what this one does
// not have.
func (p *Provider) checkClient(config *tlsapi.ClientConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	return tlsapi.CheckFeatures(p, config.Features())
}

// checkServer is the same for a server.
func (p *Provider) checkServer(config *tlsapi.ServerConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	return tlsapi.CheckFeatures(p, config.Features())
}

// clientContext returns the instructions for a client.
func (p *Provider) clientContext(config *tlsapi.ClientConfig) *contextBuilder {
	c := &contextBuilder{provider: p, role: client}
	c.settings(&config.Settings)
	c.setUint8(optVerifyMode, "InsecureSkipVerify", verifyRequireAndVerify)
	if config.InsecureSkipVerify {
		c.setUint8(optVerifyMode, "InsecureSkipVerify", verifyNone)
	} else {
		c.anchors("RootCAs", config.RootCAs, true)
	}
	if config.Certificate != nil {
		c.certificate("Certificate", config.Certificate)
	}
	c.keyShares(config)
	if resumes(config) {
		c.setUint8(optSessionTickets, "SessionCache", 1)
	}
	return c
}

// serverContext returns the instructions for a server. Where certificates or
// configurations are chosen for each connection, config has the chosen ones.
func (p *Provider) serverContext(config *tlsapi.ServerConfig) *contextBuilder {
	c := &contextBuilder{provider: p, role: server}
	c.settings(&config.Settings)
	c.setUint8(optVerifyMode, "ClientAuth", uint8(config.ClientAuth))
	if config.ClientAuth != tls.NoClientCert && !config.ClientCAs.Empty() {
		c.anchors("ClientCAs", config.ClientCAs, false)
	}
	for i := range config.Certificates {
		c.certificate("Certificates", &config.Certificates[i])
	}
	if config.ALPNStrict {
		c.setUint8(optALPNStrict, "ALPNStrict", 1)
	}
	c.tickets(config)
	return c
}

// serverOptions returns what the state machine must know of a server's
// configuration.
func (p *Provider) serverOptions(config *tlsapi.ServerConfig) engine.Options {
	o := p.options(&config.Settings)
	o.HalfClose, o.Exporter = p.can.serverHalfClose, p.can.serverExporter
	return o
}

// requireALPN reports whether a client goes on only with an application protocol.
func requireALPN(config *tlsapi.ClientConfig) bool { return slices.Equal(config.ALPN, h2Only) }

// askVerdict adds to a connection's options that the state machine is asked
// before the last flight, where the library can.
func (p *Provider) askVerdict(options connOptions, ask bool) connOptions {
	if ask && p.abilities.Has(AbilityVerdict) {
		options.add(connAskVerdict, []byte{1})
	}
	return options
}

// check does what comes before any look at a configuration.
func (p *Provider) check(transport net.Conn) error {
	if err := p.Available(); err != nil {
		return err
	}
	if transport == nil {
		return p.named(tlsapi.ConfigError("", "the transport is nil"))
	}
	return nil
}

// newConn makes a native connection of the context that the instructions make.
func (p *Provider) newConn(c *contextBuilder, options connOptions) (engine.Engine, error) {
	ctx, err := p.context(c)
	if err != nil {
		return nil, err
	}
	defer ctx.release()
	conn, err := ctx.newConn(options)
	if err != nil {
		return nil, p.named(err)
	}
	conn.signer = c.signer
	return conn, nil
}

// context returns the context that the instructions make, and wipes them. The
// caller releases it.
func (p *Provider) context(c *contextBuilder) (*context, error) {
	defer c.wipe()
	if c.err != nil {
		return nil, p.named(c.err)
	}
	ctx, err := p.contexts.get(c)
	if err != nil {
		return nil, p.named(err)
	}
	return ctx, nil
}

// options returns what the state machine must know of the shared options.
func (p *Provider) options(s *tlsapi.Settings) engine.Options {
	return engine.Options{
		Provider:          p.ProviderName,
		LibraryVersion:    p.library.version(),
		KeyLogWriter:      s.KeyLogWriter,
		MaxBlindingDelay:  blinding.Max(s.MaxBlindingDelay, p.MaxBlindingDelay),
		HandshakeTimeout:  s.HandshakeTimeout,
		VerifyConnection:  s.VerifyConnection,
		HandshakeComplete: s.HandshakeComplete,
		HandshakeFailed:   s.HandshakeFailed,
	}
}

// named puts the provider's name on an error of the configuration.
func (p *Provider) named(err error) error {
	var e *tlsapi.Error
	if errors.As(err, &e) && e.Provider == "" {
		named := *e
		named.Provider = p.ProviderName
		return &named
	}
	return err
}

// clientNames returns the SNI and the options of a connection for it and for the
// names that a server certificate may hold.
func clientNames(config *tlsapi.ClientConfig) (sni string, options connOptions) {
	dns, ip := splitName(config.ServerName)
	if dns != "" {
		sni = dns
		options.add(connServerName, []byte(dns))
	}
	if config.InsecureSkipVerify || config.SkipHostnameVerification {
		options.add(connSkipHostname, []byte{1})
		return sni, options
	}
	add := func(dns string, ip netip.Addr) {
		if dns != "" {
			options.add(connVerifyDNS, []byte(dns))
		} else if ip.IsValid() {
			options.add(connVerifyIP, ip.AsSlice())
		}
	}
	add(dns, ip)
	add(splitName(config.AlternativeName))
	return sni, options
}

// connOptions are options of a connection in the order in which it gets them, each
// as its number, the length of its data (uint32) and the data.
type connOptions []byte

func (o *connOptions) add(option int, data []byte) {
	*o = binary.BigEndian.AppendUint32(*o, uint32(option))
	*o = binary.BigEndian.AppendUint32(*o, uint32(len(data)))
	*o = append(*o, data...)
}

// splitName tells DNS names from IP literals. A trailing dot is not part of the
// name in SNI and certificates (RFC 6066 section 3).
func splitName(name string) (dns string, ip netip.Addr) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return "", ip.Unmap().WithZone("")
	}
	return strings.TrimSuffix(name, "."), netip.Addr{}
}

// contextBuilder collects the instructions that make a native context. What
// reaches the library is part of the context's identity by construction.
type contextBuilder struct {
	provider *Provider
	role     role
	// cacheSize is Settings.ConfigCacheSize, which does not reach the library.
	cacheSize    int
	instructions []instruction
	// signer is that of the certificate when its private key is not among the
	// instructions. It is the connection's and no part of the identity.
	signer crypto.Signer
	err    error
}

type role int32

const (
	client role = 0
	server role = 1
)

// instruction is one call of ctx_set.
type instruction struct {
	option int
	// name is the option's name for errors.
	name string
	data []byte
	// expand, if not nil, gives the data of any number of calls; data is then a
	// digest of them all and only part of the identity.
	expand func() ([][]byte, error)
	// secret data is wiped: what expand gives when it has reached the library,
	// data with the builder.
	secret bool
}

// wipe clears what expand has given.
func (i *instruction) wipe(values [][]byte) {
	if !i.secret || i.expand == nil {
		return
	}
	for _, v := range values {
		clear(v)
	}
}

func (c *contextBuilder) set(option int, name string, data []byte) {
	c.instructions = append(c.instructions, instruction{option: option, name: name, data: data})
}

func (c *contextBuilder) setUint8(option int, name string, v uint8) {
	for i := range c.instructions {
		if c.instructions[i].option == option {
			c.instructions[i].data = []byte{v}
			return
		}
	}
	c.set(option, name, []byte{v})
}

func (c *contextBuilder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// settings adds the shared options.
func (c *contextBuilder) settings(s *tlsapi.Settings) {
	c.cacheSize = s.ConfigCacheSize
	if c.provider.Policy != nil {
		name, err := c.provider.Policy(s)
		if err != nil {
			c.fail(err)
		}
		c.set(optSecurityPolicy, "SecurityPolicy", []byte(name))
	} else {
		c.explicit(s)
	}
	if len(s.ALPN) > 0 {
		var wire []byte
		for _, p := range s.ALPN {
			wire = append(append(wire, byte(len(p))), p...)
		}
		c.set(optALPN, "ALPN", wire)
	}
	c.setUint8(optSessionTickets, "SessionTicketsDisabled", 0)
	if s.KeyLogWriter != nil {
		c.setUint8(optKeyLog, "KeyLogWriter", 1)
	}
	for i := range s.PSKs {
		c.psk(&s.PSKs[i])
	}
	if s.RequirePSK {
		c.setUint8(optRequirePSK, "RequirePSK", 1)
	}
	c.revocationLists(s)
}

// psk adds a pre-shared key.
func (c *contextBuilder) psk(p *tlsapi.PSK) {
	// One allocation, so that wipe reaches every copy of the secret.
	data := make([]byte, 0, 6+len(p.Identity)+len(p.Context)+len(p.Secret))
	data = append(data, byte(p.Kind), byte(p.Hash))
	data = binary.BigEndian.AppendUint16(data, uint16(len(p.Identity)))
	data = append(data, p.Identity...)
	data = binary.BigEndian.AppendUint16(data, uint16(len(p.Context)))
	data = append(append(data, p.Context...), p.Secret...)
	c.instructions = append(c.instructions, instruction{option: optPSK, name: "PSKs", data: data, secret: true})
}

// explicit adds what a library without policies takes one by one.
func (c *contextBuilder) explicit(s *tlsapi.Settings) {
	minimum, maximum := s.Versions()
	suites, curves := s.CipherSuites, s.Curves
	if policy, ok := tlsapi.LookupPolicy(s.SecurityPolicy); ok {
		minimum, maximum, suites, curves = policy.MinVersion, policy.MaxVersion, policy.CipherSuites, policy.Curves
		if !c.provider.abilities.Has(AbilityMLKEM) {
			// As Mozilla's own generator does for such libraries.
			curves = slices.DeleteFunc(slices.Clone(curves), tlsapi.PostQuantum)
		}
	}
	c.set(optMinVersion, "MinVersion", binary.BigEndian.AppendUint16(nil, minimum))
	c.set(optMaxVersion, "MaxVersion", binary.BigEndian.AppendUint16(nil, maximum))
	if suites != nil {
		c.set(optCipherSuites, "CipherSuites", uint16s(suites))
	}
	if curves != nil {
		c.set(optGroups, "Curves", uint16s(curves))
	}
	if s.SignatureSchemes != nil {
		c.set(optSignatureSchemes, "SignatureSchemes", uint16s(s.SignatureSchemes))
	}
}

// anchors adds the trust anchors, the system's for a nil pool when these are
// the default.
func (c *contextBuilder) anchors(name string, pool *tlsapi.CertPool, systemDefault bool) {
	if pool == nil && systemDefault {
		pool = systemPool
	}
	digest := pool.Digest()
	certificates := sync.OnceValues(pool.Certificates)
	c.instructions = append(c.instructions, instruction{option: optTrustAnchor, name: name, data: digest[:], expand: func() ([][]byte, error) {
		certs, err := certificates()
		return rawOf(certs, func(c *x509.Certificate) []byte { return c.Raw }), err
	}})
	if c.role == server && !c.provider.NoCANames {
		c.instructions = append(c.instructions, instruction{option: optCAName, name: name, data: digest[:], expand: func() ([][]byte, error) {
			certs, err := certificates()
			return rawOf(certs, func(c *x509.Certificate) []byte { return c.RawSubject }), err
		}})
	}
}

var systemPool = func() *tlsapi.CertPool {
	pool := tlsapi.NewCertPool()
	pool.AddSystemRoots()
	return pool
}()

func rawOf(certs []*x509.Certificate, raw func(*x509.Certificate) []byte) [][]byte {
	var out [][]byte
	for _, c := range certs {
		out = append(out, raw(c))
	}
	return out
}

// certificate adds a certificate with its key, or without one when the key has an
// external signer. The chain stands for both in the identity: Validate has found
// that the key belongs to the leaf. So the key itself is only touched when a
// context is made.
func (c *contextBuilder) certificate(name string, cert *tls.Certificate) {
	switch {
	case len(cert.SignedCertificateTimestamps) > 0 && !c.provider.abilities.Has(AbilityTimestamps):
		c.fail(tlsapi.UnsupportedError(c.provider.ProviderName, name, "SignedCertificateTimestamps are not sent beside a certificate; have them put into it"))
		return
	case cert.SupportedSignatureAlgorithms != nil && c.provider.Policy != nil:
		c.fail(tlsapi.UnsupportedError(c.provider.ProviderName, name, "SupportedSignatureAlgorithms cannot be set for one certificate; set SignatureSchemes"))
		return
	}
	h := sha256.New()
	for _, der := range cert.Certificate {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(der))))
		h.Write(der)
	}
	identity := h.Sum(nil)
	if c.signer = externalSigner(cert.PrivateKey); c.signer != nil {
		identity = append(identity, 1)
	}
	c.instructions = append(c.instructions, instruction{option: optCertificate, name: name, data: identity, secret: true, expand: func() ([][]byte, error) {
		data, err := keyAndChain(name, cert)
		return [][]byte{data}, err
	}})
	if cert.SupportedSignatureAlgorithms != nil {
		c.set(optCertificateSchemes, name, uint16s(cert.SupportedSignatureAlgorithms))
	}
	if len(cert.SignedCertificateTimestamps) > 0 {
		list, err := timestampList(cert.SignedCertificateTimestamps)
		if err != nil {
			c.fail(tlsapi.ConfigError(name, "SignedCertificateTimestamps: %v", err))
		}
		c.set(optTimestamps, name, list)
	}
	if c.role == server && len(cert.OCSPStaple) > 0 {
		c.set(optOCSPResponse, name, cert.OCSPStaple)
	}
}

// keyAndChain is a certificate as the library takes it, with the key in PKCS #8
// form or, when it has an external signer, without.
func keyAndChain(name string, cert *tls.Certificate) ([]byte, error) {
	var key []byte
	if externalSigner(cert.PrivateKey) == nil {
		var err error
		if key, err = x509.MarshalPKCS8PrivateKey(cert.PrivateKey); err != nil {
			return nil, tlsapi.ConfigError(name, "the private key cannot be given to the library: its type is %T", cert.PrivateKey)
		}
	}
	size := 4 + len(key)
	for _, der := range cert.Certificate {
		size += 4 + len(der)
	}
	// One allocation, so that wipe reaches every copy of the key.
	data := make([]byte, 0, size)
	data = append(binary.BigEndian.AppendUint32(data, uint32(len(key))), key...)
	clear(key)
	for _, der := range cert.Certificate {
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(der))), der...)
	}
	return data, nil
}

// wipe clears the secrets.
func (c *contextBuilder) wipe() {
	for _, i := range c.instructions {
		if i.secret {
			clear(i.data)
		}
	}
}

// chain reads values, each behind its length.
func chain(b []byte) [][]byte {
	var chain [][]byte
	for len(b) >= 4 {
		size := binary.BigEndian.Uint32(b)
		if uint64(size) > uint64(len(b)-4) {
			return nil
		}
		chain = append(chain, b[4:4+size:4+size])
		b = b[4+size:]
	}
	return chain
}

func uint16s[T ~uint16](values []T) []byte {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}

// The values of the enums of polytls_native.h.
const (
	optMinVersion       = 1
	optMaxVersion       = 2
	optCipherSuites     = 3
	optGroups           = 4
	optKeyShares        = 5
	optSignatureSchemes = 6
	optSecurityPolicy   = 7
	optALPN             = 8
	optALPNStrict       = 9
	optTrustAnchor      = 10
	optVerifyMode       = 11
	optCertificate      = 12
	optSessionTickets   = 13
	optCAName           = 14
	optKeyLog           = 17
	optPSK              = 15
	optRequirePSK       = 16
	optTicketKey        = 18
	optOCSPResponse     = 19
	optRevocationList   = 20

	optCertificateSchemes = 21
	optTimestamps         = 22

	connServerName   = 1
	connVerifyDNS    = 2
	connVerifyIP     = 3
	connSkipHostname = 4
	connSession      = 5
	connSignature    = 6
	connAskVerdict   = 7

	connAskCertificate    = 9
	connChosenCertificate = 10

	choiceFail = 0
	choiceNone = 1
	choiceSend = 2
	choiceKeep = 3

	verifyNone             = 0
	verifyRequireAndVerify = 4
)
