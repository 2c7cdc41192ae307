package stdtls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestProvider(t *testing.T) {
	require.Equal(t, "std", Provider.Name())
	require.Equal(t, "crypto/tls", Provider.Library())
	require.Equal(t, runtime.Version(), Provider.LibraryVersion())
	require.NoError(t, Provider.Available())

	var features []tlsapi.Feature
	for _, cell := range Provider.Features() {
		features = append(features, cell.Feature)
		require.Contains(t, []tlsapi.Support{tlsapi.Native, tlsapi.Emulated, tlsapi.Unsupported}, cell.Support, cell.Feature)
		if cell.Support != tlsapi.Native {
			require.NotEmpty(t, cell.Note, "%s says why", cell.Feature)
		}
	}
	require.Equal(t, tlsapi.AllFeatures(), features)
	require.Len(t, cells, len(features), "no cell is for an unknown feature")
}

// What cannot be honoured is refused with the option's name, before a byte is
// sent.
func TestRefusals(t *testing.T) {
	ca := newAuthority(t, "CA")
	cert := leaf(t, ca, "server.test")
	secret := bytes.Repeat([]byte{7}, 32)
	shared := []struct {
		name, option string
		kind         tlsapi.Kind
		set          func(*tlsapi.Settings)
	}{
		{"version too low", "MinVersion", tlsapi.KindConfig, func(s *tlsapi.Settings) { s.MinVersion = tls.VersionTLS11 }},
		{"X448", "Curves", tlsapi.KindUnsupported, func(s *tlsapi.Settings) { s.Curves = []tlsapi.CurveID{tlsapi.X25519, tlsapi.X448} }},
		{"only post-quantum curves with TLS 1.2", "Curves", tlsapi.KindConfig, func(s *tlsapi.Settings) {
			s.Curves, s.MaxVersion = []tlsapi.CurveID{tlsapi.X25519MLKEM768}, tls.VersionTLS12
		}},
		{"one TLS 1.3 suite", "CipherSuites", tlsapi.KindUnsupported, func(s *tlsapi.Settings) {
			s.MinVersion, s.CipherSuites = tls.VersionTLS13, []uint16{tls.TLS_AES_128_GCM_SHA256}
		}},
		{"DHE suite", "CipherSuites", tlsapi.KindUnsupported, func(s *tlsapi.Settings) {
			s.MaxVersion, s.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 0x009e}
		}},
		{"signature schemes", "SignatureSchemes", tlsapi.KindUnsupported, func(s *tlsapi.Settings) { s.SignatureSchemes = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256} }},
		{"named policy", "SecurityPolicy", tlsapi.KindUnsupported, func(s *tlsapi.Settings) { s.SecurityPolicy = "20240501" }},
		{"PSK", "PSKs", tlsapi.KindUnsupported, func(s *tlsapi.Settings) { s.PSKs = []tlsapi.PSK{{Identity: []byte("i"), Secret: secret}} }},
		{"imported PSK", "PSKs", tlsapi.KindUnsupported, func(s *tlsapi.Settings) {
			s.PSKs = []tlsapi.PSK{{Identity: []byte("i"), Secret: secret, Kind: tlsapi.PSKImported}}
		}},
		{"TLS 1.2 PSK", "PSKs", tlsapi.KindUnsupported, func(s *tlsapi.Settings) {
			s.PSKs = []tlsapi.PSK{{Identity: []byte("i"), Secret: secret, Kind: tlsapi.PSKTLS12}}
		}},
		{"config cache", "ConfigCacheSize", tlsapi.KindUnsupported, func(s *tlsapi.Settings) { s.ConfigCacheSize = 3 }},
	}
	for _, c := range shared {
		t.Run("client "+c.name, func(t *testing.T) {
			config := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}
			c.set(&config.Settings)
			requireRefusedClient(t, config, c.kind, c.option)
		})
		t.Run("server "+c.name, func(t *testing.T) {
			config := &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}}
			c.set(&config.Settings)
			requireRefusedServer(t, config, c.kind, c.option)
		})
	}
	for _, c := range []struct {
		name, option string
		kind         tlsapi.Kind
		set          func(*tlsapi.ClientConfig)
	}{
		{"no name", "ServerName", tlsapi.KindConfig, func(c *tlsapi.ClientConfig) { c.ServerName = "" }},
		{"second share off by default", "SecondKeyShare", tlsapi.KindUnsupported, func(c *tlsapi.ClientConfig) { c.SecondKeyShare = tlsapi.SecondKeyShareOff }},
		{"second share on without its classical half", "SecondKeyShare", tlsapi.KindUnsupported, func(c *tlsapi.ClientConfig) {
			c.SecondKeyShare, c.Curves = tlsapi.SecondKeyShareOn, []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.CurveP256}
		}},
		{"second share off with its classical half", "SecondKeyShare", tlsapi.KindUnsupported, func(c *tlsapi.ClientConfig) {
			c.SecondKeyShare, c.Curves = tlsapi.SecondKeyShareOff, []tlsapi.CurveID{tlsapi.X25519, tlsapi.X25519MLKEM768}
		}},
		{"second share with TLS 1.2", "SecondKeyShare", tlsapi.KindUnsupported, func(c *tlsapi.ClientConfig) {
			c.SecondKeyShare, c.MaxVersion = tlsapi.SecondKeyShareOn, tls.VersionTLS12
		}},
		{"post-quantum curve with TLS 1.2", "Curves", tlsapi.KindUnsupported, func(c *tlsapi.ClientConfig) {
			c.Curves, c.MaxVersion = []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.X25519}, tls.VersionTLS12
		}},
	} {
		t.Run("client "+c.name, func(t *testing.T) {
			config := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca)}
			c.set(config)
			requireRefusedClient(t, config, c.kind, c.option)
		})
	}
	t.Run("nil", func(t *testing.T) {
		_, err := Provider.Client(nil, &tlsapi.ClientConfig{ServerName: "x"})
		requireKind(t, err, tlsapi.KindConfig, "config")
		_, err = Provider.Server(nil, &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}})
		requireKind(t, err, tlsapi.KindConfig, "config")
		_, err = Provider.Client(newRecorder(), nil)
		requireKind(t, err, tlsapi.KindConfig, "config")
		_, err = Provider.Server(newRecorder(), nil)
		requireKind(t, err, tlsapi.KindConfig, "config")
	})
}

func requireRefusedClient(t *testing.T, config *tlsapi.ClientConfig, kind tlsapi.Kind, option string) {
	t.Helper()
	transport := newRecorder()
	_, err := Provider.Client(transport, config)
	requireRefused(t, transport, err, kind, option)
}

func requireRefusedServer(t *testing.T, config *tlsapi.ServerConfig, kind tlsapi.Kind, option string) {
	t.Helper()
	transport := newRecorder()
	_, err := Provider.Server(transport, config)
	requireRefused(t, transport, err, kind, option)
}

func requireRefused(t *testing.T, transport *recorder, err error, kind tlsapi.Kind, option string) {
	t.Helper()
	e := requireKind(t, err, kind, "config")
	require.Equal(t, option, e.Option)
	require.Equal(t, kind == tlsapi.KindUnsupported, errors.Is(err, errors.ErrUnsupported))
	require.Empty(t, transport.bytes())
	select {
	case <-transport.closed:
		t.Fatal("the transport still belongs to the caller")
	default:
	}
}

// Switching off what the provider does not have is not refused.
func TestSwitchedOff(t *testing.T) {
	ca := newAuthority(t, "CA")
	off := tlsapi.Settings{MaxBlindingDelay: -1, ConfigCacheSize: -1}
	connected(t, tcpPair,
		&tlsapi.ClientConfig{Settings: off, ServerName: "server.test", RootCAs: tlstest.Pool(ca), SessionTicketsDisabled: true},
		&tlsapi.ServerConfig{Settings: off, Certificates: []tls.Certificate{leaf(t, ca, "server.test")}, SessionTicketsDisabled: true})
}

// With tickets switched off none is issued, whatever the client would do with
// it.
func TestNoTickets(t *testing.T) {
	ca := newAuthority(t, "CA")
	cert := leaf(t, ca, "server.test")
	for _, version := range versions {
		sessions := &countingSessions{}
		for range 2 {
			ct, st := tcpPair(t)
			server := newEnd(t, st, false, nil, &tlsapi.ServerConfig{
				Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
			go server.Write([]byte("x"))
			client := tls.Client(ct, &tls.Config{InsecureSkipVerify: true, ServerName: "server.test", ClientSessionCache: sessions})
			_, err := client.Read(make([]byte, 1))
			require.NoError(t, err)
			require.False(t, client.ConnectionState().DidResume)
			require.NoError(t, client.Close())
		}
		require.Zero(t, sessions.stored)
	}
}

type countingSessions struct{ stored int }

func (*countingSessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *countingSessions) Put(string, *tls.ClientSessionState)      { c.stored++ }

// clientOffer returns what is in the ClientHello that a configuration sends.
func clientOffer(t *testing.T, config *tlsapi.ClientConfig) offer {
	t.Helper()
	transport := newRecorder()
	client, err := Provider.Client(transport, config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.HandshakeContext(ctx) }()
	require.Eventually(t, func() bool {
		_, complete := (&helloRecorder{records: transport.bytes()}).firstMessage()
		return complete
	}, time.Minute, time.Millisecond)
	cancel()
	<-done
	message, _ := (&helloRecorder{records: transport.bytes()}).firstMessage()
	require.Equal(t, parseClientHello(message).shares, client.Info().KeyShares)
	return parseClientHello(message)
}

func TestKeySharesOnTheWire(t *testing.T) {
	const pq, x, p256, p384 = tlsapi.X25519MLKEM768, tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384
	type curves = []tlsapi.CurveID
	for _, c := range []struct {
		curves         curves
		share          tlsapi.SecondKeyShare
		groups, shares curves
	}{
		{curves{x}, tlsapi.SecondKeyShareDefault, curves{x}, curves{x}},
		{curves{p384, x, p256}, tlsapi.SecondKeyShareOff, curves{x, p256, p384}, curves{x}},
		{curves{pq, x}, tlsapi.SecondKeyShareOn, curves{pq, x}, curves{pq, x}},
		{curves{x, pq, p256}, tlsapi.SecondKeyShareDefault, curves{pq, x, p256}, curves{pq, x}},
		{curves{pq, p256}, tlsapi.SecondKeyShareOff, curves{pq, p256}, curves{pq}},
		{curves{pq}, tlsapi.SecondKeyShareOff, curves{pq}, curves{pq}},
		{curves{tlsapi.SecP256r1MLKEM768, p256}, tlsapi.SecondKeyShareOn, curves{tlsapi.SecP256r1MLKEM768, p256}, curves{tlsapi.SecP256r1MLKEM768, p256}},
	} {
		t.Run(fmt.Sprint(c.curves, c.share), func(t *testing.T) {
			got := clientOffer(t, &tlsapi.ClientConfig{
				Settings: tlsapi.Settings{Curves: c.curves}, SecondKeyShare: c.share, InsecureSkipVerify: true,
			})
			require.Equal(t, c.groups, got.groups)
			require.Equal(t, c.shares, got.shares)
		})
	}
	t.Run("on by default", func(t *testing.T) {
		got := clientOffer(t, &tlsapi.ClientConfig{SecondKeyShare: tlsapi.SecondKeyShareOn, InsecureSkipVerify: true})
		require.True(t, got.secondShare())
	})
}

func TestCurvesAndRetry(t *testing.T) {
	ca := newAuthority(t, "CA")
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}}
	server.Curves = []tlsapi.CurveID{tlsapi.CurveP384}
	cc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca),
		Settings: tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP384}}}
	client, srv := connected(t, tcpPair, cc, server)
	for _, conn := range []tlsapi.Conn{client, srv} {
		info := conn.Info()
		require.Equal(t, tlsapi.CurveP384, info.Group)
		require.True(t, info.HelloRetryRequest)
		require.Equal(t, []tlsapi.CurveID{tlsapi.X25519}, info.KeyShares)
	}

	cc.Curves = []tlsapi.CurveID{tlsapi.X25519}
	_, _, clientErr, serverErr := connect(t, tcpPair, cc, server)
	e := requireKind(t, serverErr, tlsapi.KindProtocol, opHandshake)
	require.True(t, e.HasAlert)
	require.Equal(t, alertHandshakeFailure, e.Alert)
	require.Equal(t, alertHandshakeFailure, requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake).Alert)
}

func TestVersionsSuitesAndPolicies(t *testing.T) {
	ca := newAuthority(t, "CA")
	connectWith := func(t *testing.T, c, s tlsapi.Settings) (tlsapi.Conn, error, error) {
		client, _, clientErr, serverErr := connect(t, tcpPair,
			&tlsapi.ClientConfig{Settings: c, ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
			&tlsapi.ServerConfig{Settings: s, Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
		return client, clientErr, serverErr
	}
	t.Run("TLS 1.2 suite", func(t *testing.T) {
		client, clientErr, serverErr := connectWith(t, tlsapi.Settings{},
			tlsapi.Settings{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}})
		require.NoError(t, errors.Join(clientErr, serverErr))
		require.Equal(t, uint16(tls.VersionTLS12), client.Info().Version)
		require.Equal(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, client.Info().CipherSuite)
	})
	t.Run("no version in common", func(t *testing.T) {
		_, clientErr, serverErr := connectWith(t, tlsapi.Settings{MaxVersion: tls.VersionTLS12}, tlsapi.Settings{MinVersion: tls.VersionTLS13})
		require.Equal(t, tls.AlertError(70), requireKind(t, serverErr, tlsapi.KindProtocol, opHandshake).Alert)
		require.Equal(t, tls.AlertError(70), requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake).Alert)
	})
	t.Run("no suite in common", func(t *testing.T) {
		_, clientErr, serverErr := connectWith(t,
			tlsapi.Settings{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			tlsapi.Settings{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}})
		requireKind(t, serverErr, tlsapi.KindProtocol, opHandshake)
		requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake)
	})
	t.Run("modern against TLS 1.2", func(t *testing.T) {
		_, clientErr, serverErr := connectWith(t, tlsapi.Settings{MaxVersion: tls.VersionTLS12}, tlsapi.Settings{SecurityPolicy: tlsapi.PolicyModern})
		require.Error(t, clientErr)
		require.Error(t, serverErr)
	})
	for _, policy := range []string{tlsapi.PolicyIntermediate, tlsapi.PolicyModern} {
		t.Run(policy, func(t *testing.T) {
			settings := tlsapi.Settings{SecurityPolicy: policy}
			client, clientErr, serverErr := connectWith(t, settings, settings)
			require.NoError(t, errors.Join(clientErr, serverErr))
			require.Equal(t, uint16(tls.VersionTLS13), client.Info().Version)
			got := clientOffer(t, &tlsapi.ClientConfig{Settings: settings, InsecureSkipVerify: true})
			want, _ := tlsapi.LookupPolicy(policy)
			require.ElementsMatch(t, want.Curves, got.groups)
		})
	}
}

func TestALPN(t *testing.T) {
	ca := newAuthority(t, "CA")
	type list = []string
	for _, c := range []struct {
		name           string
		client, server list
		strict         bool
		want           string
		clientKind     tlsapi.Kind
		serverKind     tlsapi.Kind
	}{
		{name: "the server's order", client: list{"http/1.1", "h2"}, server: list{"h2", "http/1.1"}, want: "h2"},
		{name: "no client list", server: list{"h2"}},
		{name: "no client list, strict", server: list{"h2"}, strict: true},
		{name: "no server list", client: list{"h2", "http/1.1"}},
		{name: "nothing in common", client: list{"a"}, server: list{"b"}},
		{name: "nothing in common, strict", client: list{"a"}, server: list{"b"}, strict: true, clientKind: tlsapi.KindPeerAlert, serverKind: tlsapi.KindNoALPN},
		{name: "http/1.1 to h2", client: list{"http/1.1"}, server: list{"h2"}},
		{name: "http/1.1 to h2, strict", client: list{"http/1.1"}, server: list{"h2"}, strict: true, clientKind: tlsapi.KindPeerAlert, serverKind: tlsapi.KindNoALPN},
		{name: "http/1.1 to h2 and more, strict", client: list{"http/1.1", "none in common"}, server: list{"h2", "x"}, strict: true, clientKind: tlsapi.KindPeerAlert, serverKind: tlsapi.KindNoALPN},
		{name: "in common, strict", client: list{"a", "b"}, server: list{"c", "b"}, strict: true, want: "b"},
		{name: "only h2, none selected", client: list{"h2"}, clientKind: tlsapi.KindNoALPN, serverKind: tlsapi.KindPeerAlert},
		{name: "only h2, other server", client: list{"h2"}, server: list{"http/1.1"}, clientKind: tlsapi.KindNoALPN, serverKind: tlsapi.KindPeerAlert},
		{name: "only h2, selected", client: list{"h2"}, server: list{"h2"}, want: "h2"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(c.name+" "+tlsapi.VersionName(version), func(t *testing.T) {
				client, server, clientErr, serverErr := connect(t, tcpPair,
					&tlsapi.ClientConfig{Settings: tlsapi.Settings{ALPN: c.client}, ServerName: "server.test", RootCAs: tlstest.Pool(ca)},
					&tlsapi.ServerConfig{Settings: tlsapi.Settings{ALPN: c.server, MaxVersion: version}, ALPNStrict: c.strict, Certificates: []tls.Certificate{leaf(t, ca, "server.test")}})
				if c.serverKind == tlsapi.KindNoALPN {
					require.Equal(t, alertNoApplicationProtocol, requireKind(t, serverErr, c.serverKind, opHandshake).Alert)
					require.Equal(t, alertNoApplicationProtocol, requireKind(t, clientErr, c.clientKind, opHandshake).Alert)
					return
				}
				if c.clientKind != 0 {
					requireKind(t, clientErr, c.clientKind, opHandshake)
					requireKind(t, serverErr, c.serverKind, opHandshake)
					return
				}
				require.NoError(t, errors.Join(clientErr, serverErr))
				require.Equal(t, c.want, client.Info().ALPN)
				require.Equal(t, c.want, server.Info().ALPN)
			})
		}
	}
}

func TestServerCertificates(t *testing.T) {
	ca := newAuthority(t, "CA")
	a, b, rsaB := leaf(t, ca, "a.test"), leaf(t, ca, "b.test"), ca.Leaf(t, tlstest.Spec{Key: tlstest.RSA, DNSNames: []string{"b.test"}})
	ed := ca.Leaf(t, tlstest.Spec{Key: tlstest.Ed25519, DNSNames: []string{"ed.test"}})
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{a, rsaB, b, ed}}
	serial := func(cert tls.Certificate) string { return mustParse(t, cert.Certificate[0]).SerialNumber.Text(16) }
	ecdsaOnly := tlsapi.Settings{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
	for _, c := range []struct {
		name     string
		settings tlsapi.Settings
		want     tls.Certificate
	}{
		{"a.test", tlsapi.Settings{}, a},
		{"b.test", tlsapi.Settings{}, rsaB},
		{"b.test", ecdsaOnly, b},
		{"ed.test", tlsapi.Settings{}, ed},
		{"unknown.test", tlsapi.Settings{}, a},
		{"127.0.0.1", tlsapi.Settings{}, a},
	} {
		client, srv := connected(t, tcpPair, &tlsapi.ClientConfig{Settings: c.settings, ServerName: c.name, SkipHostnameVerification: true, RootCAs: tlstest.Pool(ca)}, server)
		require.Equal(t, serial(c.want), client.Info().PeerSerial, c.name)
		sni := c.name
		if net.ParseIP(sni) != nil {
			sni = ""
		}
		require.Equal(t, sni, srv.Info().ServerName)
	}
}

// signer hides a key's type, as a hardware module does.
type signer struct{ crypto.Signer }

func TestExternalSigners(t *testing.T) {
	ca := newAuthority(t, "CA")
	for _, key := range []tlstest.KeyType{tlstest.ECDSA, tlstest.RSA, tlstest.Ed25519} {
		serverCert := ca.Leaf(t, tlstest.Spec{Key: key, DNSNames: []string{"server.test"}})
		serverCert.PrivateKey = signer{serverCert.PrivateKey.(crypto.Signer)}
		clientCert := ca.Leaf(t, tlstest.Spec{Key: key, DNSNames: []string{"client.test"}})
		clientCert.PrivateKey = signer{clientCert.PrivateKey.(crypto.Signer)}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			_, server := connected(t, tcpPair,
				&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: &clientCert},
				&tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{serverCert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(ca)})
			require.True(t, server.Info().Verified)
		}
	}
}

func TestGetCertificate(t *testing.T) {
	ca := newAuthority(t, "CA")
	configured, chosen := leaf(t, ca, "server.test", "127.0.0.1"), leaf(t, ca, "server.test", "127.0.0.1")
	boom := errors.New("boom")
	weak := ca.Leaf(t, tlstest.Spec{Key: tlstest.RSA1024, DNSNames: []string{"server.test"}})
	mismatched := tls.Certificate{Certificate: chosen.Certificate, PrivateKey: ca.Key}
	for _, c := range []struct {
		name       string
		serverName string
		configured []tls.Certificate
		cert       *tls.Certificate
		err        error
		want       *tls.Certificate
		kind       tlsapi.Kind
	}{
		{"chosen", "server.test", nil, &chosen, nil, &chosen, 0},
		{"chosen before configured", "server.test", []tls.Certificate{configured}, &chosen, nil, &chosen, 0},
		{"chosen without SNI", "127.0.0.1", []tls.Certificate{configured}, &chosen, nil, &chosen, 0},
		{"none means configured", "server.test", []tls.Certificate{configured}, nil, nil, &configured, 0},
		{"none at all", "server.test", nil, nil, nil, nil, tlsapi.KindConfig},
		{"error", "server.test", []tls.Certificate{configured}, nil, boom, nil, tlsapi.KindRejected},
		{"weak key", "server.test", nil, &weak, nil, nil, tlsapi.KindConfig},
		{"wrong key", "server.test", nil, &mismatched, nil, nil, tlsapi.KindConfig},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls := 0
			var transport net.Conn
			client, server, clientErr, serverErr := connect(t, tcpPair,
				&tlsapi.ClientConfig{ServerName: c.serverName, RootCAs: tlstest.Pool(ca)},
				&tlsapi.ServerConfig{Certificates: c.configured, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					calls++
					transport = hello.Conn
					return c.cert, c.err
				}})
			require.Equal(t, 1, calls)
			require.Same(t, server.NetConn(), transport)
			if c.kind != 0 {
				e := requireKind(t, serverErr, c.kind, opHandshake)
				require.Equal(t, alertInternalError, e.Alert)
				requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake)
				if c.err != nil {
					require.ErrorIs(t, serverErr, c.err)
				}
				return
			}
			require.NoError(t, errors.Join(clientErr, serverErr))
			require.Equal(t, c.want.Certificate[0], client.ConnectionState().PeerCertificates[0].Raw)
		})
	}
}

func TestGetConfigForClient(t *testing.T) {
	ca, clientCA := newAuthority(t, "CA"), newAuthority(t, "Client CA")
	first, second := leaf(t, ca, "server.test"), leaf(t, ca, "server.test")
	clientCert, wrongCert := leaf(t, clientCA, "client.test"), leaf(t, ca, "client.test")
	run := func(t *testing.T, cert *tls.Certificate, chosen *tlsapi.ServerConfig, hookErr error) (client, server tlsapi.Conn, clientErr, serverErr error) {
		cc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: cert, Settings: tlsapi.Settings{ALPN: []string{"a", "b"}}}
		client, server, clientErr, serverErr = connect(t, tcpPair, cc, &tlsapi.ServerConfig{
			Settings:     tlsapi.Settings{ALPN: []string{"a"}},
			Certificates: []tls.Certificate{first},
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
				require.Equal(t, "server.test", hello.ServerName)
				require.IsType(t, &net.TCPConn{}, hello.Conn)
				return chosen, hookErr
			},
		})
		return client, server, clientErr, serverErr
	}
	t.Run("nil means this one", func(t *testing.T) {
		client, _, clientErr, serverErr := run(t, nil, nil, nil)
		require.NoError(t, errors.Join(clientErr, serverErr))
		require.Equal(t, first.Certificate[0], client.ConnectionState().PeerCertificates[0].Raw)
		require.Equal(t, "a", client.Info().ALPN)
	})
	t.Run("another one, in everything", func(t *testing.T) {
		var complete int
		var verified tls.ConnectionState
		var keys bytes.Buffer
		client, server, clientErr, serverErr := run(t, &clientCert, &tlsapi.ServerConfig{
			Settings: tlsapi.Settings{
				ALPN: []string{"b"}, MaxVersion: tls.VersionTLS12, KeyLogWriter: &keys,
				VerifyConnection:  func(state tls.ConnectionState) error { verified = state; return nil },
				HandshakeComplete: func(tlsapi.ConnectionInfo) { complete++ },
			},
			Certificates: []tls.Certificate{second},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(clientCA),
		}, nil)
		require.NoError(t, errors.Join(clientErr, serverErr))
		require.Equal(t, second.Certificate[0], client.ConnectionState().PeerCertificates[0].Raw)
		require.Equal(t, "b", client.Info().ALPN)
		require.Equal(t, uint16(tls.VersionTLS12), client.Info().Version)
		require.True(t, server.Info().Verified)
		require.Len(t, verified.VerifiedChains, 1)
		require.Equal(t, 1, complete)
		require.Contains(t, keys.String(), "CLIENT_RANDOM")
	})
	t.Run("its verification", func(t *testing.T) {
		failed := 0
		_, _, _, serverErr := run(t, &wrongCert, &tlsapi.ServerConfig{
			Settings:     tlsapi.Settings{HandshakeFailed: func(error) { failed++ }},
			Certificates: []tls.Certificate{second},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(clientCA),
		}, nil)
		requireKind(t, serverErr, tlsapi.KindUntrusted, opHandshake)
		require.Equal(t, 1, failed)
	})
	t.Run("its ALPN", func(t *testing.T) {
		_, _, clientErr, serverErr := run(t, nil, &tlsapi.ServerConfig{
			Settings: tlsapi.Settings{ALPN: []string{"c"}}, ALPNStrict: true, Certificates: []tls.Certificate{second},
		}, nil)
		requireKind(t, serverErr, tlsapi.KindNoALPN, opHandshake)
		requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake)
	})
	t.Run("refused", func(t *testing.T) {
		_, _, clientErr, serverErr := run(t, nil, &tlsapi.ServerConfig{
			Settings: tlsapi.Settings{ConfigCacheSize: 3}, Certificates: []tls.Certificate{second},
		}, nil)
		require.Equal(t, "ConfigCacheSize", requireKind(t, serverErr, tlsapi.KindUnsupported, opHandshake).Option)
		require.Equal(t, alertInternalError, requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake).Alert)
	})
	t.Run("invalid", func(t *testing.T) {
		_, _, _, serverErr := run(t, nil, &tlsapi.ServerConfig{}, nil)
		requireKind(t, serverErr, tlsapi.KindConfig, opHandshake)
	})
	t.Run("error", func(t *testing.T) {
		boom := errors.New("boom")
		_, _, clientErr, serverErr := run(t, nil, nil, boom)
		requireKind(t, serverErr, tlsapi.KindRejected, opHandshake)
		require.ErrorIs(t, serverErr, boom)
		requireKind(t, clientErr, tlsapi.KindPeerAlert, opHandshake)
	})
}

func TestKeyLog(t *testing.T) {
	ca := newAuthority(t, "CA")
	var client, server bytes.Buffer
	connected(t, tcpPair,
		&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Settings: tlsapi.Settings{KeyLogWriter: &client}},
		&tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}, Settings: tlsapi.Settings{KeyLogWriter: &server}})
	require.Equal(t, strings.Count(client.String(), "\n"), strings.Count(server.String(), "\n"))
	for _, label := range []string{"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} {
		require.Contains(t, client.String(), label)
	}
	for _, line := range strings.Split(strings.TrimSpace(client.String()), "\n") {
		require.Contains(t, server.String(), line)
	}
}

func TestFailingKeyLog(t *testing.T) {
	ca := newAuthority(t, "CA")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, _, clientErr, _ := connect(t, tcpPair,
			&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Settings: tlsapi.Settings{KeyLogWriter: failingWriter{}}},
			&tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}, Settings: tlsapi.Settings{MaxVersion: version}})
		requireKind(t, clientErr, tlsapi.KindInternal, opHandshake)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
