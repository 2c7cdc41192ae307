package tlsapi

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strings"
	"sync"
	"unsafe"
)

// Digest identifies the configuration: two connections may stand in for each
// other, in a pool for example, when their configurations have the same digest
// and the same provider. It is SHA-256 over every field: values by what they
// hold, pools and certificates by their content, private keys by their public
// key, functions, interfaces and writers by instance. The system's trust
// anchors count as one value, as they are loaded once per process.
//
// Instances are told apart by their address, which may come to belong to
// another one when the configuration is gone: a pool must keep the
// configuration for as long as it keeps the digest. A function value that is
// made anew each time, such as a method value, is another instance each time.
// The digest is not stable across processes and versions. Secrets are part of
// it, but cannot be found out from it unless they can be guessed.
func (c *ClientConfig) Digest() [32]byte {
	d := newDigest("client")
	d.clientIdentity(c)
	if c.Certificate != nil {
		d.certificateDetails(c.Certificate)
	}
	d.flag("SessionTicketsDisabled", c.SessionTicketsDisabled)
	d.instance("SessionCache", c.SessionCache)
	d.behaviour(&c.Settings)
	return d.sum()
}

// Digest is that of ClientConfig for a server.
func (c *ServerConfig) Digest() [32]byte {
	d := newDigest("server")
	d.protocol(&c.Settings)
	d.serverIdentity(c)
	for i := range c.Certificates {
		d.certificateDetails(&c.Certificates[i])
	}
	d.instance("GetCertificate", c.GetCertificate)
	d.instance("GetConfigForClient", c.GetConfigForClient)
	d.flag("ALPNStrict", c.ALPNStrict)
	d.flag("SessionTicketsDisabled", c.SessionTicketsDisabled)
	d.number("SessionTicketKeys", len(c.SessionTicketKeys))
	for i := range c.SessionTicketKeys {
		d.bytes("key", c.SessionTicketKeys[i][:])
	}
	d.behaviour(&c.Settings)
	return d.sum()
}

// SessionKey is the key under which a provider keeps sessions in SessionCache:
// sessions cross only between configurations that agree in everything that the
// verification of the server and the negotiation depend on, whatever their
// hooks are, GetClientCertificate excepted: the server knows a resumed session's
// client by the certificate of the first. It is stable across processes where
// that hook is nil.
func (c *ClientConfig) SessionKey(provider string) string {
	d := newDigest("session")
	d.bytes("provider", []byte(provider))
	d.clientIdentity(c)
	sum := d.sum()
	return provider + ":" + hex.EncodeToString(sum[:])
}

// TicketBinding identifies what a ticket of a server must not cross: client
// authentication with its CAs and revocation lists, certificates, protocol
// parameters and PSKs. Providers derive ticket keys from SessionTicketKeys
// together with it. Where certificates are chosen for each connection,
// Certificates must hold the chosen ones. A stapled OCSP response is no part of
// it: it is renewed more often than tickets expire. It is stable across
// processes.
func (c *ServerConfig) TicketBinding() [32]byte {
	d := newDigest("ticket")
	d.protocol(&c.Settings)
	d.serverIdentity(c)
	return d.sum()
}

// digest collects named values; a value cannot run into the next. What goes
// into it is written out byte by byte, so that processes which share ticket
// keys agree whatever Go version built them.
type digest struct {
	h       hash.Hash
	scratch []byte
}

func newDigest(purpose string) *digest {
	d := &digest{h: sha256.New(), scratch: make([]byte, 0, 64)}
	d.bytes("polytls digest 1", []byte(purpose))
	return d
}

func (d *digest) sum() [32]byte { return [32]byte(d.h.Sum(nil)) }

// clientIdentity is what a session of a client depends on.
func (d *digest) clientIdentity(c *ClientConfig) {
	d.protocol(&c.Settings)
	d.bytes("ServerName", []byte(strings.ToLower(c.ServerName)))
	d.bytes("AlternativeName", []byte(strings.ToLower(c.AlternativeName)))
	d.flag("InsecureSkipVerify", c.InsecureSkipVerify)
	d.flag("SkipHostnameVerification", c.SkipHostnameVerification)
	d.pool("RootCAs", c.RootCAs)
	d.number("SecondKeyShare", int(c.SecondKeyShare))
	d.flag("Certificate", c.Certificate != nil)
	if c.Certificate != nil {
		d.certificate(c.Certificate)
	}
	if c.GetClientCertificate != nil {
		d.instance("GetClientCertificate", c.GetClientCertificate)
		d.bytes("process", processIdentity())
	}
}

// processIdentity is a random value for what must not cross processes.
var processIdentity = sync.OnceValue(func() []byte {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return id[:]
})

// serverIdentity is what a ticket of a server depends on, besides protocol.
func (d *digest) serverIdentity(c *ServerConfig) {
	d.number("Certificates", len(c.Certificates))
	for i := range c.Certificates {
		d.certificate(&c.Certificates[i])
	}
	d.number("ClientAuth", int(c.ClientAuth))
	d.pool("ClientCAs", c.ClientCAs)
}

// protocol is what the negotiation and the verification depend on.
func (d *digest) protocol(s *Settings) {
	d.number("MinVersion", int(s.MinVersion))
	d.number("MaxVersion", int(s.MaxVersion))
	numbers(d, "CipherSuites", s.CipherSuites)
	numbers(d, "Curves", s.Curves)
	numbers(d, "SignatureSchemes", s.SignatureSchemes)
	d.bytes("SecurityPolicy", []byte(s.SecurityPolicy))
	d.number("ALPN", len(s.ALPN))
	for _, p := range s.ALPN {
		d.bytes("protocol", []byte(p))
	}
	d.number("PSKs", len(s.PSKs))
	for _, p := range s.PSKs {
		d.bytes("identity", p.Identity)
		d.bytes("secret", p.Secret)
		d.number("hash", int(p.Hash))
		d.number("kind", int(p.Kind))
		if len(p.Context) > 0 {
			d.bytes("context", p.Context)
		}
	}
	d.flag("RequirePSK", s.RequirePSK)
	d.number("RevocationLists", len(s.RevocationLists))
	for _, list := range s.RevocationLists {
		if list != nil {
			d.bytes("list", list.Raw)
		}
	}
}

// behaviour is the rest of the settings.
func (d *digest) behaviour(s *Settings) {
	d.number("MaxBlindingDelay", int(s.MaxBlindingDelay))
	d.number("ConfigCacheSize", s.ConfigCacheSize)
	d.number("HandshakeTimeout", int(s.HandshakeTimeout))
	d.instance("KeyLogWriter", s.KeyLogWriter)
	d.instance("VerifyConnection", s.VerifyConnection)
	d.instance("HandshakeComplete", s.HandshakeComplete)
	d.instance("HandshakeFailed", s.HandshakeFailed)
}

// certificate is what makes the peer trust this end. The private key belongs to
// the leaf, as Validate has checked.
func (d *digest) certificate(c *tls.Certificate) {
	d.number("chain", len(c.Certificate))
	for _, der := range c.Certificate {
		d.bytes("certificate", der)
	}
	numbers(d, "SupportedSignatureAlgorithms", c.SupportedSignatureAlgorithms)
}

// certificateDetails is the rest of a certificate: who signs with it, and what
// is sent along.
func (d *digest) certificateDetails(c *tls.Certificate) {
	external := externalSigner(c.PrivateKey)
	d.flag("external", external)
	if external {
		d.instance("signer", c.PrivateKey)
	}
	d.bytes("OCSPStaple", c.OCSPStaple)
	d.number("SignedCertificateTimestamps", len(c.SignedCertificateTimestamps))
	for _, sct := range c.SignedCertificateTimestamps {
		d.bytes("timestamp", sct)
	}
}

func (d *digest) pool(name string, p *CertPool) {
	sum := p.Digest()
	d.flag(name, p != nil)
	d.bytes(name, sum[:])
}

// numbers adds a list; nil, which leaves the choice to the library, differs from
// an empty one.
func numbers[T ~uint16](d *digest, name string, list []T) {
	d.flag(name, list != nil)
	d.number(name, len(list))
	for _, v := range list {
		d.number(name, int(v))
	}
}

func (d *digest) flag(name string, value bool) {
	if value {
		d.number(name, 1)
	} else {
		d.number(name, 0)
	}
}

func (d *digest) number(name string, value int) {
	d.bytes(name, binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(value)))
}

// instance adds the identity of a function or of what an interface holds: the
// addresses of its type and of its value, which are the two words of an
// interface. For a function the second is its closure: reflection would give
// the code that all closures of one function literal share.
func (d *digest) instance(name string, value any) {
	words := (*[2]uintptr)(unsafe.Pointer(&value))
	d.number(name, int(words[0]))
	d.number(name, int(words[1]))
}

func (d *digest) bytes(name string, value []byte) {
	d.scratch = binary.BigEndian.AppendUint64(d.scratch[:0], uint64(len(name)))
	d.scratch = binary.BigEndian.AppendUint64(d.scratch, uint64(len(value)))
	d.h.Write(append(d.scratch, name...))
	d.h.Write(value)
}
