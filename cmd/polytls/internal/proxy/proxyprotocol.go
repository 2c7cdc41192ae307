package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/polytls/polytls/tlsapi"
)

// Lengths by the specification of the PROXY protocol.
const (
	proxySignature = 12  // what tells the versions apart, and no header is shorter
	maxProxyLine   = 107 // version 1, with the end of the line
	maxProxyBinary = 4096
)

// readProxyHeader takes the addresses from the header of a connection from
// which one is expected. Not a byte behind it is read: the provider then uses
// the socket itself.
func (c *conn) readProxyHeader(transport net.Conn, timeout time.Duration) error {
	l := c.generation.config
	if l.AcceptProxy == AcceptProxyOff || l.AcceptProxy == AcceptProxyTrusted && !trusted(l.TrustedProxies, transport.RemoteAddr()) {
		return nil
	}
	// It is not among the connections yet that are cut off.
	stop := context.AfterFunc(c.generation.uncut, func() { transport.Close() })
	defer stop()
	if timeout > 0 {
		if err := transport.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
	}
	header, err := parseProxyHeader(transport)
	if err != nil {
		return fmt.Errorf("PROXY protocol header from %s: %w", transport.RemoteAddr(), err)
	}
	if header.Command.IsProxy() && header.TransportProtocol != proxyproto.UNSPEC {
		c.remote, c.local = header.SourceAddr, header.DestinationAddr
	}
	return transport.SetReadDeadline(time.Time{})
}

func parseProxyHeader(r io.Reader) (*proxyproto.Header, error) {
	text := make([]byte, proxySignature, 128)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(text, proxyproto.SIGV2):
		text = text[:16]
		if _, err := io.ReadFull(r, text[proxySignature:]); err != nil {
			return nil, err
		}
		length := int(text[14])<<8 | int(text[15])
		if length > maxProxyBinary {
			return nil, fmt.Errorf("it has %d bytes; the most are %d", length, maxProxyBinary)
		}
		text = append(text, make([]byte, length)...)
		if _, err := io.ReadFull(r, text[16:]); err != nil {
			return nil, err
		}
	case bytes.HasPrefix(text, []byte("PROXY ")):
		for !bytes.HasSuffix(text, []byte("\r\n")) {
			if len(text) == maxProxyLine {
				return nil, errors.New("its line does not end")
			}
			text = append(text, 0)
			if _, err := io.ReadFull(r, text[len(text)-1:]); err != nil {
				return nil, err
			}
		}
	default:
		return nil, errors.New("there is none")
	}
	return proxyproto.Read(bufio.NewReader(bytes.NewReader(text)))
}

func trusted(prefixes []netip.Prefix, address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// proxyHeader is what a backend is told of a client, in the version that it
// wants: in version 2 with what was negotiated.
func proxyHeader(version int, client *conn) ([]byte, error) {
	header := proxyproto.HeaderProxyFromAddrs(byte(version), client.remote, client.local)
	if version == 2 {
		tlvs, err := connectionTLVs(client)
		if err != nil {
			return nil, err
		}
		if err := header.SetTLVs(tlvs); err != nil {
			return nil, err
		}
	}
	return header.Format()
}

func connectionTLVs(client *conn) ([]proxyproto.TLV, error) {
	state, info := client.ConnectionState(), client.Info()
	var tlvs []proxyproto.TLV
	add := func(list *[]proxyproto.TLV, kind proxyproto.PP2Type, value string) {
		if value != "" {
			*list = append(*list, proxyproto.TLV{Type: kind, Value: []byte(value)})
		}
	}
	add(&tlvs, proxyproto.PP2_TYPE_ALPN, info.ALPN)
	add(&tlvs, proxyproto.PP2_TYPE_AUTHORITY, info.ServerName)

	// Anything but zero means that no certificate was verified.
	ssl := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: 1}
	if len(state.PeerCertificates) > 0 {
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
		if !info.Resumed {
			ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
		}
		if info.Verified {
			ssl.Verify = 0
		}
		add(&ssl.TLV, proxyproto.PP2_SUBTYPE_SSL_CN, state.PeerCertificates[0].Subject.CommonName)
	}
	add(&ssl.TLV, proxyproto.PP2_SUBTYPE_SSL_VERSION, sslVersion(info.Version))
	add(&ssl.TLV, proxyproto.PP2_SUBTYPE_SSL_CIPHER, tlsapi.CipherSuiteName(info.CipherSuite))
	tlv, err := ssl.Marshal()
	return append(tlvs, tlv), err
}

// sslVersion is a version in the spelling of the PROXY protocol, which is
// OpenSSL's.
func sslVersion(version uint16) string {
	switch version {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return tls.VersionName(version)
}
