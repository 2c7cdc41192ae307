package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func header(version byte, command proxyproto.ProtocolVersionAndCommand) *proxyproto.Header {
	h := proxyproto.HeaderProxyFromAddrs(version,
		&net.TCPAddr{IP: net.ParseIP("203.0.113.7"), Port: 1234}, &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 443})
	h.Command = command
	return h
}

// askAfter sends a header, then a request over TLS; the result is what the
// backend was told of the client, or an error.
func (s *site) askAfter(t *testing.T, address string, before []byte) (string, error) {
	raw, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer raw.Close()
	require.NoError(t, raw.SetDeadline(time.Now().Add(patience)))
	_, err = raw.Write(before)
	require.NoError(t, err)
	c := tls.Client(raw, s.clientTLS())
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return resp.Header.Get("Seen-X-Forwarded-For"), nil
}

func TestAcceptProxy(t *testing.T) {
	format := func(h *proxyproto.Header) []byte {
		text, err := h.Format()
		require.NoError(t, err)
		return text
	}
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t, p, HTTP, httpBackend(t, mirror))
		s.listener.TLS.HandshakeTimeout = patience
		address := s.start(t)
		use := func(accept AcceptProxy, trusted ...string) {
			require.NoError(t, s.server.Apply(s.changed(func(l *Listener) {
				l.AcceptProxy = accept
				for _, prefix := range trusted {
					l.TrustedProxies = append(l.TrustedProxies, netip.MustParsePrefix(prefix))
				}
			})))
		}
		for _, version := range []byte{1, 2} {
			use(AcceptProxyOff)
			_, err := s.askAfter(t, address, format(header(version, proxyproto.PROXY)))
			assert.Error(t, err, "nobody expects a header")

			for _, accept := range []AcceptProxy{AcceptProxyAlways, AcceptProxyTrusted} {
				use(accept, "127.0.0.0/8")
				told, err := s.askAfter(t, address, format(header(version, proxyproto.PROXY)))
				require.NoError(t, err)
				assert.Equal(t, "203.0.113.7", told)
				_, err = s.askAfter(t, address, nil)
				assert.Error(t, err, "the header is missing")
			}

			use(AcceptProxyTrusted, "10.0.0.0/8")
			_, err = s.askAfter(t, address, format(header(version, proxyproto.PROXY)))
			assert.Error(t, err, "the peer is not trusted")
			told, err := s.askAfter(t, address, nil)
			require.NoError(t, err)
			assert.Equal(t, "127.0.0.1", told)
		}
		// The health check of a balancer speaks for itself.
		use(AcceptProxyAlways)
		told, err := s.askAfter(t, address, format(header(2, proxyproto.LOCAL)))
		require.NoError(t, err)
		assert.Equal(t, "127.0.0.1", told)
		told, err = s.askAfter(t, address, []byte("PROXY UNKNOWN\r\n"))
		require.NoError(t, err)
		assert.Equal(t, "127.0.0.1", told)
		for _, wrong := range []string{
			"PROXY TCP4 203.0.113.7\r\n", "PROXY " + strings.Repeat("x", 200),
			string(proxyproto.SIGV2) + "\x21\x11\xff\xff", string(proxyproto.SIGV2) + "\x31\x11\x00\x00",
		} {
			_, err := s.askAfter(t, address, []byte(wrong))
			assert.Error(t, err, "%q", wrong)
		}
	})
}

// A header that does not come holds a connection for the time of a handshake.
func TestSlowProxyHeader(t *testing.T) {
	s := newSite(t, standard(t), TCP, httpBackend(t, mirror))
	s.listener.AcceptProxy = AcceptProxyAlways
	s.listener.TLS.HandshakeTimeout = 50 * time.Millisecond
	raw, err := net.Dial("tcp", s.start(t))
	require.NoError(t, err)
	defer raw.Close()
	_, err = raw.Write([]byte("PROXY "))
	require.NoError(t, err)
	require.NoError(t, raw.SetReadDeadline(time.Now().Add(patience)))
	_, err = io.ReadAll(raw)
	var timeout net.Error
	assert.NotErrorAs(t, err, &timeout)
}

// A backend is told who the client is, and in version 2 what was negotiated.
func TestSendProxy(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		headers := make(chan *proxyproto.Header, 10)
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listener := &proxyproto.Listener{Listener: inner, ReadHeaderTimeout: patience}
		backend := &http.Server{
			Handler:  http.HandlerFunc(mirror),
			ErrorLog: nil,
			ConnState: func(c net.Conn, state http.ConnState) {
				if state == http.StateActive {
					headers <- c.(*proxyproto.Conn).ProxyHeader()
				}
			},
		}
		go func() { _ = backend.Serve(listener) }()
		defer backend.Close()
		for _, mode := range []Mode{TCP, HTTP} {
			for _, version := range []int{1, 2} {
				s := newSite(t, p, mode, inner.Addr().String())
				s.listener.Backends[0].SendProxy = version
				s.listener.TLS.ALPN = tlsapi.ALPNH1()
				s.listener.TLS.ClientAuth = tls.RequireAndVerifyClientCert
				s.listener.TLS.ClientCAs = tlstest.Pool(s.authority)
				address := s.start(t)
				config := s.clientTLS()
				config.Certificates = []tls.Certificate{s.leaf(t, "a client")}
				config.NextProtos = []string{"http/1.1"}
				for range 2 {
					c, err := tls.Dial("tcp", address, config)
					require.NoError(t, err)
					local := c.LocalAddr().String()
					_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
					require.NoError(t, err)
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					require.NoError(t, err)
					resp.Body.Close()
					c.Close()
					assert.Equal(t, local, resp.Header.Get("Seen-Peer"))

					h := <-headers
					require.NotNil(t, h)
					assert.Equal(t, byte(version), h.Version)
					assert.Equal(t, local, h.SourceAddr.String())
					assert.Equal(t, address, h.DestinationAddr.String())
					if version == 1 {
						continue
					}
					tlvs, err := h.TLVs()
					require.NoError(t, err)
					values := map[proxyproto.PP2Type]string{}
					for _, tlv := range tlvs {
						values[tlv.Type] = string(tlv.Value)
					}
					assert.Equal(t, "http/1.1", values[proxyproto.PP2_TYPE_ALPN])
					assert.Equal(t, "localhost", values[proxyproto.PP2_TYPE_AUTHORITY])
					ssl, ok := tlvparse.FindSSL(tlvs)
					require.True(t, ok)
					assert.True(t, ssl.ClientSSL() && ssl.ClientCertConn() && ssl.Verified())
					name, _ := ssl.ClientCN()
					assert.Equal(t, "a client", name)
					got, _ := ssl.SSLVersion()
					assert.Equal(t, "TLSv1.3", got)
					suite, _ := ssl.SSLCipher()
					assert.Equal(t, tlsapi.CipherSuiteName(c.ConnectionState().CipherSuite), suite)
				}
			}
		}
	})
}
