package grpctls_test

//lint:file-ignore SA1019 The interface has them still.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polytls/polytls/grpctls"
	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestMain(m *testing.M) { leftover.Main(m) }

const (
	unaryMethod  = "/polytls.Test/Hello"
	streamMethod = "/polytls.Test/Chat"
)

// service answers with the name in the client's certificate.
var service = grpc.ServiceDesc{
	ServiceName: "polytls.Test",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Hello", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in wrapperspb.StringValue
		if err := decode(&in); err != nil {
			return nil, err
		}
		name, err := clientName(ctx)
		return wrapperspb.String(in.Value + " " + name), err
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		for {
			var in wrapperspb.BytesValue
			switch err := stream.RecvMsg(&in); {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			}
			if err := stream.SendMsg(&in); err != nil {
				return err
			}
		}
	}}},
}

func clientName(ctx context.Context) (string, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", status.Errorf(codes.Unauthenticated, "the peer has %T", p.AuthInfo)
	}
	if err := credentials.CheckSecurityLevel(info, credentials.PrivacyAndIntegrity); err != nil {
		return "", err
	}
	if len(info.State.PeerCertificates) == 0 {
		return "nobody", nil
	}
	return info.State.PeerCertificates[0].Subject.CommonName, nil
}

type site struct {
	authority *tlstest.Authority
	server    *tlsapi.ServerConfig
	client    *tlsapi.ClientConfig
}

// newSite has certificates at both ends.
func newSite(t *testing.T) site {
	a := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"})
	clientCert := a.Leaf(t, tlstest.Spec{CommonName: "Client"})
	return site{
		authority: a,
		server: &tlsapi.ServerConfig{
			Certificates: []tls.Certificate{a.Leaf(t, tlstest.Spec{DNSNames: []string{"localhost"}, IPAddresses: []string{"127.0.0.1"}})},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    tlstest.Pool(a),
		},
		client: &tlsapi.ClientConfig{RootCAs: tlstest.Pool(a), Certificate: &clientCert},
	}
}

func serve(t *testing.T, creds credentials.TransportCredentials) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(grpc.Creds(creds))
	server.RegisterService(&service, struct{}{})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		assert.NoError(t, <-ended)
	})
	return l.Addr().String()
}

func dial(t *testing.T, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return conn
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// exchange makes a call and streams 64 messages each way.
func exchange(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx := limit(t)
	var p peer.Peer
	var out wrapperspb.StringValue
	require.NoError(t, conn.Invoke(ctx, unaryMethod, wrapperspb.String("hello"), &out, grpc.Peer(&p)))
	assert.Equal(t, "hello Client", out.Value)
	if info, ok := p.AuthInfo.(credentials.TLSInfo); assert.True(t, ok, "%T", p.AuthInfo) {
		assert.Equal(t, "h2", info.State.NegotiatedProtocol)
		assert.Equal(t, credentials.PrivacyAndIntegrity, info.SecurityLevel)
		assert.Equal(t, "tls", info.AuthType())
		assert.NotEmpty(t, info.State.VerifiedChains)
	}
	stream, err := conn.NewStream(ctx, &service.Streams[0], streamMethod)
	require.NoError(t, err)
	for i := range 64 {
		payload := make([]byte, 50_000)
		payload[0] = byte(i)
		require.NoError(t, stream.SendMsg(wrapperspb.Bytes(payload)))
		var echoed wrapperspb.BytesValue
		require.NoError(t, stream.RecvMsg(&echoed))
		assert.True(t, string(payload) == string(echoed.Value), "message %d came back changed", i)
	}
	require.NoError(t, stream.CloseSend())
	assert.ErrorIs(t, stream.RecvMsg(new(wrapperspb.BytesValue)), io.EOF)
}

// eachProvider runs a test for every provider that is built in; that none is
// missing where all must be there is tested in package providers.
func eachProvider(t *testing.T, test func(t *testing.T, p tlsapi.Provider)) {
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skip(err)
			}
			test(t, p)
		})
	}
}

// Each provider with itself, and with grpc-go's own credentials at either end.
func TestCallsAndStreams(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		server, err := grpctls.NewServer(p, s.server)
		require.NoError(t, err)
		client, err := grpctls.NewClient(p, s.client)
		require.NoError(t, err)
		standardServer := credentials.NewTLS(&tls.Config{
			Certificates: s.server.Certificates, ClientAuth: s.server.ClientAuth, ClientCAs: tlstest.X509Pool(s.authority),
		})
		standardClient := credentials.NewTLS(&tls.Config{
			RootCAs: tlstest.X509Pool(s.authority), Certificates: []tls.Certificate{*s.client.Certificate},
		})
		for name, ends := range map[string][2]credentials.TransportCredentials{
			"both": {client, server}, "client": {client, standardServer}, "server": {standardClient, server},
			"clones": {client.Clone(), server.Clone()},
		} {
			t.Run(name, func(t *testing.T) { exchange(t, dial(t, serve(t, ends[1]), ends[0])) })
		}
	})
}

// A Meter changes nothing; what fails is logged and counted.
func TestCountedAndLogged(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		s.server.MaxBlindingDelay = -1
		lines := make(chan string, 10)
		log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			lines <- string(p)
			return len(p), nil
		}), nil))
		meter := new(metrics.Meter)
		server, err := grpctls.NewServer(meter.Provider(p), s.server, grpctls.WithLog(log))
		require.NoError(t, err)
		client, err := grpctls.NewClient(meter.Provider(p), s.client)
		require.NoError(t, err)
		address := serve(t, server)
		exchange(t, dial(t, address, client))
		for _, c := range meter.Snapshot().Connections {
			complete, _ := c.Handshakes()
			assert.EqualValues(t, 1, complete, c.Role)
			assert.Greater(t, c.BytesRead, uint64(64*50_000), c.Role)
			assert.Zero(t, c.Failures(), c.Role)
		}
		assert.Empty(t, lines)

		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "this is not TLS\n")
		require.NoError(t, err)
		line := <-lines
		assert.Contains(t, line, "level=WARN msg=\"TLS handshake failed\" provider="+p.Name()+" role=server remote="+conn.LocalAddr().String())
		assert.Contains(t, line, "kind=not_tls")
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRefusals(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		s.server.MaxBlindingDelay = -1
		server, err := grpctls.NewServer(p, s.server)
		require.NoError(t, err)
		address := serve(t, server)
		call := func(config tlsapi.ClientConfig) error {
			creds, err := grpctls.NewClient(p, &config)
			require.NoError(t, err)
			return dial(t, address, creds).Invoke(limit(t), unaryMethod, wrapperspb.String(""), new(wrapperspb.StringValue))
		}
		require.NoError(t, call(*s.client))

		anonymous := *s.client
		anonymous.Certificate = nil
		assert.Equal(t, codes.Unavailable, status.Code(call(anonymous)))
		stranger := *s.client
		stranger.RootCAs = tlstest.Pool(tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Other CA"}))
		assert.ErrorContains(t, call(stranger), tlsapi.KindUntrusted.Error())
		misnamed := *s.client
		misnamed.ServerName = "elsewhere.test"
		assert.ErrorContains(t, call(misnamed), tlsapi.KindHostname.Error())
		plain := dial(t, address, insecure.NewCredentials())
		assert.Equal(t, codes.Unavailable, status.Code(plain.Invoke(limit(t), unaryMethod, wrapperspb.String(""), new(wrapperspb.StringValue))))
	})
}

// Without ALPN neither end goes on.
func TestALPNIsEnforced(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := newSite(t)
		server, err := grpctls.NewServer(p, s.server)
		require.NoError(t, err)
		client, err := grpctls.NewClient(p, s.client)
		require.NoError(t, err)
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		peerEnded := make(chan struct{})
		go func() {
			defer close(peerEnded)
			conn, err := stdtls.Provider.Client(near, s.namedClient())
			if assert.NoError(t, err) {
				_ = conn.Handshake()
				_, _ = io.ReadAll(conn)
				conn.Close()
			}
		}()
		_, _, err = server.ServerHandshake(far)
		assert.ErrorIs(t, err, tlsapi.KindNoALPN)
		far.Close()
		<-peerEnded

		near, far = net.Pipe()
		defer near.Close()
		defer far.Close()
		peerEnded = make(chan struct{})
		go func() {
			defer close(peerEnded)
			conn, err := stdtls.Provider.Server(far, s.server)
			if assert.NoError(t, err) {
				_ = conn.Handshake()
				_, _ = io.ReadAll(conn)
				conn.Close()
			}
		}()
		_, _, err = client.ClientHandshake(limit(t), "localhost:1", near)
		assert.ErrorIs(t, err, tlsapi.KindNoALPN)
		near.Close()
		<-peerEnded
	})
}

// namedClient offers no ALPN.
func (s site) namedClient() *tlsapi.ClientConfig {
	config := *s.client
	config.ServerName = "localhost"
	return &config
}

func TestConfigurationErrors(t *testing.T) {
	s := newSite(t)
	_, err := grpctls.NewClient(nil, s.client)
	assert.ErrorIs(t, err, tlsapi.KindConfig)
	_, err = grpctls.NewServer(nil, s.server)
	assert.ErrorIs(t, err, tlsapi.KindConfig)
	_, err = grpctls.NewServer(stdtls.Provider, &tlsapi.ServerConfig{})
	assert.ErrorIs(t, err, tlsapi.KindConfig)
	http1 := *s.client
	http1.ALPN = tlsapi.ALPNH1()
	_, err = grpctls.NewClient(stdtls.Provider, &http1)
	assert.ErrorIs(t, err, tlsapi.KindConfig)

	client, err := grpctls.NewClient(stdtls.Provider, s.client)
	require.NoError(t, err)
	_, _, err = client.ServerHandshake(nil)
	assert.Error(t, err)
	require.NoError(t, client.OverrideServerName("other.test"))
	assert.Equal(t, "other.test", client.Info().ServerName)
	server, err := grpctls.NewServer(stdtls.Provider, s.server)
	require.NoError(t, err)
	_, _, err = server.ClientHandshake(limit(t), "", nil)
	assert.Error(t, err)
	assert.Error(t, server.OverrideServerName("other.test"))
	assert.Equal(t, "tls", fmt.Sprint(server.Info().SecurityProtocol))
}
