package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polytls/polytls/tlstest"
)

// calls is a gRPC service with a call and a stream.
type calls struct {
	canceled chan error // what a stream that its client gives up ends with
}

var callsOfTest = grpc.ServiceDesc{
	ServiceName: "polytls.Test",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Hello", Handler: func(service any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		return service.(*calls).hello(ctx, decode)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(service any, stream grpc.ServerStream) error {
		return service.(*calls).chat(stream)
	}}},
}

// hello answers with what it is told, and with what it sees of the proxy.
func (*calls) hello(ctx context.Context, decode func(any) error) (any, error) {
	var in wrapperspb.StringValue
	if err := decode(&in); err != nil {
		return nil, err
	}
	if in.Value == "" {
		return nil, status.Error(codes.FailedPrecondition, "say: \"something\", 100 % of it")
	}
	told, _ := metadata.FromIncomingContext(ctx)
	name := "nobody"
	if p, _ := peer.FromContext(ctx); p.AuthInfo != nil {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			name = info.State.PeerCertificates[0].Subject.CommonName
		}
	}
	err := errors.Join(
		grpc.SetHeader(ctx, metadata.Pairs("proxy", name, "forwarded", strings.Join(told["x-forwarded-for"], ","), "bin-bin", "\x00\xff")),
		grpc.SetTrailer(ctx, metadata.Pairs("last", strings.Join(told["first"], ","))))
	return wrapperspb.String(in.Value), err
}

// chat sends everything back at once, and at its end says how many there were.
func (c *calls) chat(stream grpc.ServerStream) error {
	for n := 0; ; n++ {
		var in wrapperspb.BytesValue
		switch err := stream.RecvMsg(&in); {
		case err == io.EOF:
			stream.SetTrailer(metadata.Pairs("messages", strings.Repeat("I", n)))
			return nil
		case err != nil:
			c.canceled <- err
			return err
		}
		if err := stream.SendMsg(&in); err != nil {
			return err
		}
	}
}

// TestGRPC sends calls and streams of grpc-go through `polytls proxy`, to backends
// that speak HTTP/2 without TLS and with mutual TLS.
func TestGRPC(t *testing.T) {
	f := newFixtures(t, tlstest.ECDSA)
	for _, p := range available() {
		for _, secure := range []bool{false, true} {
			name := p.Name() + "/h2c"
			credentialsOfBackend, flags := insecure.NewCredentials(), []string{"--backend-h2c"}
			if secure {
				name = p.Name() + "/mTLS"
				credentialsOfBackend = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{f.server},
					ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: tlstest.X509Pool(f.authority)})
				flags = []string{"--backend-provider", p.Name(), "--backend-ca", f.ca, "--backend-cert", f.clientCert, "--backend-key", f.clientKey, "--backend-alpn", "H2"}
			}
			t.Run(name, func(t *testing.T) {
				service := &calls{canceled: make(chan error, 1)}
				server := grpc.NewServer(grpc.Creds(credentialsOfBackend))
				server.RegisterService(&callsOfTest, service)
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				go func() { _ = server.Serve(l) }()
				defer server.Stop()
				s := forward(t, append([]string{"--provider", p.Name(), "--cert", f.serverCert, "--key", f.serverKey, "--backend", l.Addr().String()}, flags...)...)
				conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: tlstest.X509Pool(f.authority)})))
				require.NoError(t, err)
				defer conn.Close()
				useCalls(t, conn, service, secure)
				require.NoError(t, conn.Close())
				s.stop(t)
			})
		}
	}
}

func useCalls(t *testing.T, conn *grpc.ClientConn, service *calls, secure bool) {
	const hello, chat = "/polytls.Test/Hello", "/polytls.Test/Chat"
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "first", "1", "x-forwarded-for", "6.6.6.6"), time.Minute)
	defer cancel()

	var out wrapperspb.StringValue
	var header, trailer metadata.MD
	require.NoError(t, conn.Invoke(ctx, hello, wrapperspb.String("hello"), &out, grpc.Header(&header), grpc.Trailer(&trailer)))
	assert.Equal(t, "hello", out.Value)
	proxy := "nobody"
	if secure {
		proxy = "client"
	}
	assert.Equal(t, []string{proxy}, header["proxy"])
	assert.Equal(t, []string{"127.0.0.1"}, header["forwarded"])
	assert.Equal(t, []string{"\x00\xff"}, header["bin-bin"])
	assert.Equal(t, []string{"1"}, trailer["last"])

	// An answer that is nothing but trailers.
	err := conn.Invoke(ctx, hello, wrapperspb.String(""), &out)
	assert.Equal(t, codes.FailedPrecondition, status.Code(err))
	assert.Equal(t, `say: "something", 100 % of it`, status.Convert(err).Message())
	assert.Equal(t, codes.Unimplemented, status.Code(conn.Invoke(ctx, "/polytls.Test/Bye", wrapperspb.String(""), &out)))

	// Each message arrives before the next is sent.
	stream, err := conn.NewStream(ctx, &callsOfTest.Streams[0], chat)
	require.NoError(t, err)
	for i := range 64 {
		message := make([]byte, i*2000)
		require.NoError(t, stream.SendMsg(wrapperspb.Bytes(message)))
		var back wrapperspb.BytesValue
		require.NoError(t, stream.RecvMsg(&back))
		assert.Len(t, back.Value, len(message))
	}
	require.NoError(t, stream.CloseSend())
	assert.ErrorIs(t, stream.RecvMsg(new(wrapperspb.BytesValue)), io.EOF)
	assert.Equal(t, []string{strings.Repeat("I", 64)}, stream.Trailer()["messages"])

	// The backend hears of a stream that is given up.
	given, giveUp := context.WithCancel(ctx)
	defer giveUp()
	stream, err = conn.NewStream(given, &callsOfTest.Streams[0], chat)
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(wrapperspb.Bytes([]byte("x"))))
	require.NoError(t, stream.RecvMsg(new(wrapperspb.BytesValue)))
	giveUp()
	select {
	case err := <-service.canceled:
		assert.Equal(t, codes.Canceled, status.Code(err))
	case <-time.After(time.Minute):
		t.Error("the backend has not heard of it")
	}
}
