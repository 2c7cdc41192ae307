package tlsapi

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"reflect"
	"strings"
)

// Digest identifies the configuration: two connections may stand in for each
// other, in a pool for example, when their configurations have the same digest
// and the same provider. It is SHA-256 over every field: values by what they
// hold, pools and certificates by their content, private keys by their public
// key, functions, interfaces and writers by instance. The system's trust
// anchors count as one value, as they are loaded once per process.
//
// Instances are told apart by their address, so a digest must not be kept
// longer than the configuration. It is not stable across processes and
// versions. Secrets are part of it, but cannot be found out from it unless they
// can be guessed.
func (c *ClientConfig) Digest() [32]byte {
	d := newDigest("client")
	d.clientIdentity(c)
	d.field("SessionTicketsDisabled", c.SessionTicketsDisabled)
	d.instance("SessionCache", c.SessionCache)
	d.behaviour(&c.Settings)
	return d.sum()
}

// Digest is that of ClientConfig for a server.
func (c *ServerConfig) Digest() [32]byte {
	d := newDigest("server")
	d.protocol(&c.Settings)
	d.serverIdentity(c)
	d.instance("GetCertificate", c.GetCertificate)
	d.instance("GetConfigForClient", c.GetConfigForClient)
	d.field("ALPNStrict", c.ALPNStrict)
	d.field("SessionTicketsDisabled", c.SessionTicketsDisabled)
	d.field("SessionTicketKeys", c.SessionTicketKeys)
	d.behaviour(&c.Settings)
	return d.sum()
}

// SessionKey is the key under which a provider keeps sessions in SessionCache:
// sessions cross only between configurations that agree in everything that the
// verification of the server and the negotiation depend on, whatever their
// hooks are. It is stable across processes.
func (c *ClientConfig) SessionKey(provider string) string {
	d := newDigest("session")
	d.field("provider", provider)
	d.clientIdentity(c)
	sum := d.sum()
	return provider + ":" + hex.EncodeToString(sum[:])
}

// TicketBinding identifies what a ticket of a server must not cross: client
// authentication with its CAs and revocation lists, certificates, protocol
// parameters and PSKs. Providers derive ticket keys from SessionTicketKeys
// together with it. Where certificates are chosen for each connection,
// Certificates must hold the chosen ones. It is stable across processes.
func (c *ServerConfig) TicketBinding() [32]byte {
	d := newDigest("ticket")
	d.protocol(&c.Settings)
	d.serverIdentity(c)
	return d.sum()
}

// digest collects named values; a value cannot run into the next.
type digest struct{ h hash.Hash }

func newDigest(purpose string) digest {
	d := digest{sha256.New()}
	d.bytes("polytls digest 1", []byte(purpose))
	return d
}

func (d digest) sum() [32]byte { return [32]byte(d.h.Sum(nil)) }

// clientIdentity is what a session of a client depends on.
func (d digest) clientIdentity(c *ClientConfig) {
	d.protocol(&c.Settings)
	d.field("ServerName", strings.ToLower(c.ServerName))
	d.field("AlternativeName", strings.ToLower(c.AlternativeName))
	d.field("InsecureSkipVerify", c.InsecureSkipVerify)
	d.field("SkipHostnameVerification", c.SkipHostnameVerification)
	d.pool("RootCAs", c.RootCAs)
	d.field("SecondKeyShare", c.SecondKeyShare)
	d.field("Certificate", c.Certificate != nil)
	if c.Certificate != nil {
		d.certificate(c.Certificate)
	}
}

// serverIdentity is what a ticket of a server depends on, besides protocol.
func (d digest) serverIdentity(c *ServerConfig) {
	d.field("Certificates", len(c.Certificates))
	for i := range c.Certificates {
		d.certificate(&c.Certificates[i])
	}
	d.field("ClientAuth", c.ClientAuth)
	d.pool("ClientCAs", c.ClientCAs)
}

// protocol is what the negotiation and the verification depend on.
func (d digest) protocol(s *Settings) {
	d.field("MinVersion", s.MinVersion)
	d.field("MaxVersion", s.MaxVersion)
	d.field("CipherSuites", s.CipherSuites)
	d.field("Curves", s.Curves)
	d.field("SignatureSchemes", s.SignatureSchemes)
	d.field("SecurityPolicy", s.SecurityPolicy)
	d.field("ALPN", len(s.ALPN))
	for _, p := range s.ALPN {
		d.bytes("protocol", []byte(p))
	}
	d.field("PSKs", len(s.PSKs))
	for _, p := range s.PSKs {
		d.bytes("identity", p.Identity)
		d.bytes("secret", p.Secret)
		d.field("hash", p.Hash)
		d.field("kind", p.Kind)
	}
	d.field("RequirePSK", s.RequirePSK)
	d.field("RevocationLists", len(s.RevocationLists))
	for _, list := range s.RevocationLists {
		if list != nil {
			d.bytes("list", list.Raw)
		}
	}
}

// behaviour is the rest of the settings.
func (d digest) behaviour(s *Settings) {
	d.field("MaxBlindingDelay", s.MaxBlindingDelay)
	d.field("ConfigCacheSize", s.ConfigCacheSize)
	d.field("HandshakeTimeout", s.HandshakeTimeout)
	d.instance("KeyLogWriter", s.KeyLogWriter)
	d.instance("VerifyConnection", s.VerifyConnection)
	d.instance("HandshakeComplete", s.HandshakeComplete)
	d.instance("HandshakeFailed", s.HandshakeFailed)
}

func (d digest) certificate(c *tls.Certificate) {
	d.field("chain", len(c.Certificate))
	for _, der := range c.Certificate {
		d.bytes("certificate", der)
	}
	// The key belongs to the leaf, which Validate has checked; where it lives
	// decides who signs.
	d.field("external", externalSigner(c.PrivateKey))
	if externalSigner(c.PrivateKey) {
		d.instance("signer", c.PrivateKey)
	}
	d.field("SupportedSignatureAlgorithms", c.SupportedSignatureAlgorithms)
	d.bytes("OCSPStaple", c.OCSPStaple)
	d.field("SignedCertificateTimestamps", len(c.SignedCertificateTimestamps))
	for _, sct := range c.SignedCertificateTimestamps {
		d.bytes("timestamp", sct)
	}
}

func (d digest) pool(name string, p *CertPool) {
	sum := p.Digest()
	d.field(name, p != nil)
	d.bytes(name, sum[:])
}

// field adds a value without pointers in it; nil lists differ from empty ones.
func (d digest) field(name string, value any) {
	v := reflect.ValueOf(value)
	if v.Kind() == reflect.Slice && v.IsNil() {
		d.bytes(name, []byte("nil"))
		return
	}
	d.bytes(name, fmt.Appendf(nil, "%#v", value))
}

// instance adds the address of what a function, an interface or a pointer
// refers to, or its value where it is none.
func (d digest) instance(name string, value any) {
	v := reflect.ValueOf(value)
	switch {
	case !v.IsValid():
		d.bytes(name, nil)
	case v.Kind() == reflect.Func:
		// The closure's address: Pointer would be that of its code, which all
		// closures of one function literal share.
		d.bytes(name, fmt.Appendf(nil, "func %#x", closure(v)))
	case v.Kind() == reflect.Pointer || v.Kind() == reflect.Map || v.Kind() == reflect.Chan || v.Kind() == reflect.UnsafePointer:
		d.bytes(name, fmt.Appendf(nil, "%s %#x", v.Type(), v.Pointer()))
	default:
		d.bytes(name, fmt.Appendf(nil, "%s %#v", v.Type(), value))
	}
}

func (d digest) bytes(name string, value []byte) {
	head := binary.BigEndian.AppendUint64(nil, uint64(len(name)))
	head = binary.BigEndian.AppendUint64(head, uint64(len(value)))
	d.h.Write(head)
	d.h.Write([]byte(name))
	d.h.Write(value)
}

// closure returns the address of a function value's closure.
func closure(v reflect.Value) uintptr {
	if v.IsNil() {
		return 0
	}
	holder := reflect.New(v.Type())
	holder.Elem().Set(v)
	return *(*uintptr)(holder.UnsafePointer())
}
