package tlsapi

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
)

// Configurations hold private keys, pre-shared keys and ticket keys. They print
// as the list of the options that are set, without secrets, with every verb of
// package fmt, as JSON and in logs. Package fmt can call no methods for what
// stands in an unexported field of another struct, and prints the bytes there:
// a struct with such a field that may be printed needs a String method of its
// own. Behind a pointer in such a field %v, %+v and %#v show the address only.

// String lists the options that are set, without secrets.
func (s Settings) String() string { return describe("Settings", s.options()) }

// GoString is String: %#v must not print secrets either.
func (s Settings) GoString() string { return "tlsapi." + s.String() }

// Format makes every verb print String.
func (s Settings) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalJSON writes the options that are set, without secrets. It is for logs:
// there is no way back.
func (s Settings) MarshalJSON() ([]byte, error) { return marshal(s.options()) }

// LogValue is a group of the options that are set, without secrets.
func (s Settings) LogValue() slog.Value { return logValue(s.options()) }

// String lists the options that are set, without secrets.
func (c ClientConfig) String() string { return describe("ClientConfig", c.options()) }

// GoString is String: %#v must not print secrets either.
func (c ClientConfig) GoString() string { return "tlsapi." + c.String() }

// Format makes every verb print String.
func (c ClientConfig) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// MarshalJSON writes the options that are set, without secrets. It is for logs:
// there is no way back.
func (c ClientConfig) MarshalJSON() ([]byte, error) { return marshal(c.options()) }

// LogValue is a group of the options that are set, without secrets.
func (c ClientConfig) LogValue() slog.Value { return logValue(c.options()) }

// String lists the options that are set, without secrets.
func (c ServerConfig) String() string { return describe("ServerConfig", c.options()) }

// GoString is String: %#v must not print secrets either.
func (c ServerConfig) GoString() string { return "tlsapi." + c.String() }

// Format makes every verb print String.
func (c ServerConfig) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// MarshalJSON writes the options that are set, without secrets. It is for logs:
// there is no way back.
func (c ServerConfig) MarshalJSON() ([]byte, error) { return marshal(c.options()) }

// LogValue is a group of the options that are set, without secrets.
func (c ServerConfig) LogValue() slog.Value { return logValue(c.options()) }

// option is one option that is set, in words.
type option struct {
	name string
	// value is a string, a list of them, an int or a bool.
	value any
}

type options []option

func (o *options) add(set bool, name string, value any) {
	if set {
		*o = append(*o, option{name, value})
	}
}

// instance adds what has no content to show.
func (o *options) instance(set bool, name string) { o.add(set, name, "set") }

func (s *Settings) options() options {
	var o options
	o.add(s.MinVersion != 0, "MinVersion", VersionName(s.MinVersion))
	o.add(s.MaxVersion != 0, "MaxVersion", VersionName(s.MaxVersion))
	o.add(s.CipherSuites != nil, "CipherSuites", names(s.CipherSuites, CipherSuiteName))
	o.add(s.Curves != nil, "Curves", names(s.Curves, CurveName))
	o.add(s.SignatureSchemes != nil, "SignatureSchemes", names(s.SignatureSchemes, SchemeName))
	o.add(s.SecurityPolicy != "", "SecurityPolicy", s.SecurityPolicy)
	o.add(s.ALPN != nil, "ALPN", s.ALPN)
	o.add(s.PSKs != nil, "PSKs", names(s.PSKs, PSK.String))
	o.add(s.RequirePSK, "RequirePSK", true)
	o.add(s.MaxBlindingDelay != 0, "MaxBlindingDelay", s.MaxBlindingDelay.String())
	o.add(s.ConfigCacheSize != 0, "ConfigCacheSize", s.ConfigCacheSize)
	o.add(s.HandshakeTimeout != 0, "HandshakeTimeout", s.HandshakeTimeout.String())
	o.add(s.RevocationLists != nil, "RevocationLists", names(s.RevocationLists, describeRevocationList))
	o.instance(s.KeyLogWriter != nil, "KeyLogWriter")
	o.instance(s.VerifyConnection != nil, "VerifyConnection")
	o.instance(s.HandshakeComplete != nil, "HandshakeComplete")
	o.instance(s.HandshakeFailed != nil, "HandshakeFailed")
	return o
}

func (c *ClientConfig) options() options {
	var o options
	o.add(c.ServerName != "", "ServerName", c.ServerName)
	o.add(c.AlternativeName != "", "AlternativeName", c.AlternativeName)
	o.add(c.InsecureSkipVerify, "InsecureSkipVerify", true)
	o.add(c.SkipHostnameVerification, "SkipHostnameVerification", true)
	o.add(c.RootCAs != nil, "RootCAs", describePool(c.RootCAs))
	if c.Certificate != nil {
		o.add(true, "Certificate", describeCertificate(*c.Certificate))
	}
	o.instance(c.GetClientCertificate != nil, "GetClientCertificate")
	o.add(c.SecondKeyShare != SecondKeyShareDefault, "SecondKeyShare", c.SecondKeyShare.String())
	o.add(c.SessionTicketsDisabled, "SessionTicketsDisabled", true)
	o.instance(c.SessionCache != nil, "SessionCache")
	return append(o, c.Settings.options()...)
}

func (c *ServerConfig) options() options {
	var o options
	o.add(c.Certificates != nil, "Certificates", names(c.Certificates, describeCertificate))
	o.instance(c.GetCertificate != nil, "GetCertificate")
	o.instance(c.GetConfigForClient != nil, "GetConfigForClient")
	o.add(c.ClientAuth != tls.NoClientCert, "ClientAuth", c.ClientAuth.String())
	o.add(c.ClientCAs != nil, "ClientCAs", describePool(c.ClientCAs))
	o.add(c.ALPNStrict, "ALPNStrict", true)
	o.add(c.SessionTicketsDisabled, "SessionTicketsDisabled", true)
	o.add(c.SessionTicketKeys != nil, "SessionTicketKeys", fmt.Sprintf("%d keys", len(c.SessionTicketKeys)))
	return append(o, c.Settings.options()...)
}

func names[T any](list []T, name func(T) string) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

// describeCertificate names the leaf and the type of the key, never the key.
func describeCertificate(cert tls.Certificate) string {
	subject := "no certificate"
	if len(cert.Certificate) > 0 {
		subject = "certificate that does not parse"
		if leaf, err := x509.ParseCertificate(cert.Certificate[0]); err == nil {
			subject = fmt.Sprintf("%s, serial %s", leaf.Subject, leaf.SerialNumber.Text(16))
		}
	}
	if cert.PrivateKey == nil {
		return subject + ", no key"
	}
	return fmt.Sprintf("%s, key of type %T", subject, cert.PrivateKey)
}

func describePool(p *CertPool) string {
	if p == nil {
		return ""
	}
	text := fmt.Sprintf("%d certificates", len(p.certificates))
	if p.system {
		text += " and the system's"
	}
	return text
}

func describeRevocationList(list *x509.RevocationList) string {
	if list == nil {
		return "nil"
	}
	return list.Issuer.String()
}

func describe(name string, o options) string {
	var b strings.Builder
	b.WriteString(name + "{")
	for i, x := range o {
		if i > 0 {
			b.WriteString(", ")
		}
		switch x.value.(type) {
		case string, []string:
			fmt.Fprintf(&b, "%s: %q", x.name, x.value)
		default:
			fmt.Fprintf(&b, "%s: %v", x.name, x.value)
		}
	}
	return b.String() + "}"
}

func marshal(o options) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(x.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", x.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func logValue(o options) slog.Value {
	attributes := make([]slog.Attr, 0, len(o))
	for _, x := range o {
		attributes = append(attributes, slog.Any(x.name, x.value))
	}
	return slog.GroupValue(attributes...)
}
