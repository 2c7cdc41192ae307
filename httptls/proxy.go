package httptls

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/net/proxy"

	"github.com/polytls/polytls/tlsapi"
)

// proxyTimeout bounds the answer to CONNECT, as in net/http.
const proxyTimeout = time.Minute

// dialThroughProxy returns a connection that ends at addr.
func (p *pool) dialThroughProxy(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.proxy == nil {
		return p.transport.dial(ctx, network, addr)
	}
	conn, err := p.connectProxy(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: network, Err: err}
	}
	return conn, nil
}

func (p *pool) connectProxy(ctx context.Context, network, addr string) (net.Conn, error) {
	proxyAddr, err := proxyAddress(p.proxy)
	if err != nil {
		return nil, err
	}
	switch p.proxy.Scheme {
	case "socks5", "socks5h":
		return p.transport.dialSOCKS(ctx, network, proxyAddr, p.proxy.User, addr)
	}
	conn, err := p.transport.dial(ctx, network, proxyAddr)
	if err != nil {
		return nil, err
	}
	if p.proxy.Scheme == "https" {
		if conn, err = p.transport.proxyHandshake(ctx, p.provider, p.config, conn, p.proxy.Hostname()); err != nil {
			return nil, err
		}
	}
	if err := p.transport.connect(ctx, conn, p.proxy, addr); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (t *Transport) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if t.settings.DialContext != nil {
		return t.settings.DialContext(ctx, network, addr)
	}
	if t.settings.Dial != nil { //nolint:staticcheck // net/http honours it still.
		return t.settings.Dial(network, addr) //nolint:staticcheck // The same.
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func proxyAddress(u *url.URL) (string, error) {
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "http":
			port = "80"
		case "https":
			port = "443"
		case "socks5", "socks5h":
			port = "1080"
		}
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return "", fmt.Errorf("the proxy's scheme is %q; http, https, socks5 and socks5h are known", u.Scheme)
	}
	host, err := idna.Lookup.ToASCII(u.Hostname())
	if err != nil {
		host = u.Hostname() // An IP literal, or a name with an underscore.
	}
	return net.JoinHostPort(host, port), nil
}

func (t *Transport) dialSOCKS(ctx context.Context, network, proxyAddr string, user *url.Userinfo, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if user != nil {
		auth = &proxy.Auth{User: user.Username()}
		auth.Password, _ = user.Password()
	}
	d, err := proxy.SOCKS5(network, proxyAddr, auth, forwardDialer{t})
	if err != nil {
		return nil, err
	}
	return d.(proxy.ContextDialer).DialContext(ctx, network, addr)
}

// forwardDialer connects to the SOCKS proxy itself.
type forwardDialer struct{ t *Transport }

// Dial implements proxy.Dialer.
func (d forwardDialer) Dial(network, addr string) (net.Conn, error) {
	return d.t.dial(context.Background(), network, addr)
}

// DialContext implements proxy.ContextDialer.
func (d forwardDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d.t.dial(ctx, network, addr)
}

// proxyHandshake owns conn.
func (t *Transport) proxyHandshake(ctx context.Context, provider tlsapi.Provider, config *tlsapi.ClientConfig, conn net.Conn, host string) (net.Conn, error) {
	var c tlsapi.ClientConfig
	if t.ProxyConfig != nil {
		c = *t.ProxyConfig
	} else {
		if config != nil {
			c = *config
		}
		// What proves who we are is for the server.
		c.ServerName, c.AlternativeName = "", ""
		c.Certificate, c.PSKs, c.RequirePSK = nil, nil, false
		c.ALPN = nil
	}
	if c.ALPN == nil {
		c.ALPN = tlsapi.ALPNH1()
	}
	return t.handshake(ctx, provider, conn, configForHost(&c, host))
}

// dialProxyOfPlainRequest is for http URLs through a proxy that speaks TLS;
// http.Transport asks for nothing else there.
func (t *Transport) dialProxyOfPlainRequest(ctx context.Context, network, addr string) (net.Conn, error) {
	if t.Provider == nil {
		return nil, errNoProvider()
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	conn, err := t.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return t.proxyHandshake(ctx, t.Provider, t.Config, conn, host)
}

// connect asks an HTTP proxy for a tunnel to addr.
func (t *Transport) connect(ctx context.Context, conn net.Conn, proxyURL *url.URL, addr string) error {
	header := t.settings.ProxyConnectHeader
	if t.settings.GetProxyConnectHeader != nil {
		var err error
		if header, err = t.settings.GetProxyConnectHeader(ctx, proxyURL, addr); err != nil {
			return err
		}
	}
	if header = header.Clone(); header == nil {
		header = http.Header{}
	}
	if u := proxyURL.User; u != nil {
		password, _ := u.Password()
		header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: header}

	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	resp, err := exchange(conn, req, t.settings.MaxResponseHeaderBytes)
	if !stop() {
		<-interrupted
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if t.settings.OnProxyConnectResponse != nil {
		if err := t.settings.OnProxyConnectResponse(ctx, proxyURL, req, resp); err != nil {
			return err
		}
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New("the proxy refused the tunnel: " + resp.Status)
	}
	return nil
}

// exchange reads no further than the answer's header: the server behind the
// tunnel says nothing before the client does, so the buffer holds no more.
func exchange(conn net.Conn, req *http.Request, limit int64) (*http.Response, error) {
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = 1 << 20
	}
	return http.ReadResponse(bufio.NewReader(io.LimitReader(conn, limit)), req)
}
