package peers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlstest"
)

func opensslServer(ctx context.Context, s *session) (*daemon, error) {
	args := []string{"s_server", "-accept", "127.0.0.1:" + s.port, "-www", "-cert", s.serverCert, "-key", s.serverKey, s.pick("-tls1_2", "-tls1_3")}
	args = append(args, s.when(mTLS, "-CAfile", s.ca, "-Verify", "2", "-verify_return_error")...)
	args = append(args, s.when(alpn, "-alpn", "http/1.1")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "openssl"), args...)
}

func gnutlsServer(ctx context.Context, s *session) (*daemon, error) {
	args := []string{"--port", s.port, "--http", "--x509certfile", s.serverCert, "--x509keyfile", s.serverKey,
		"--priority", s.pick("NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3")}
	if s.check == mTLS {
		args = append(args, "--x509cafile", s.ca, "--require-client-cert", "--verify-client-cert")
	} else {
		args = append(args, "--disable-client-cert")
	}
	args = append(args, s.when(alpn, "--alpn", "http/1.1", "--alpn-fatal")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "gnutls-serv"), args...)
}

func nssServer(ctx context.Context, s *session) (*daemon, error) {
	s.useNSS(s.t)
	args := []string{"-p", s.port, "-d", s.nssDB, "-e", "server", "-V", s.pick("tls1.2:tls1.2", "tls1.3:tls1.3"), "-u"}
	args = append(args, s.when(mTLS, "-r", "-r")...)
	args = append(args, s.when(alpn, "-Q")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "selfserv"), args...)
}

// nginxArgs writes a configuration with one server.
func nginxArgs(s *session, server, location string) []string {
	dir, err := os.MkdirTemp(s.scratch, "nginx-")
	require.NoError(s.t, err)
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(s.t, os.WriteFile(config, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr info;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server {
    %[2]s
    location / {
      %[3]s
    }
  }
}
`, dir, server, location), 0o600))
	return []string{"-e", "stderr", "-p", dir, "-c", config}
}

func nginxServer(ctx context.Context, s *session) (*daemon, error) {
	lines := []string{"listen 127.0.0.1:" + s.port + " ssl;", "ssl_certificate " + s.serverCert + ";", "ssl_certificate_key " + s.serverKey + ";",
		"ssl_protocols TLSv" + s.version + ";", "ssl_session_cache builtin;"}
	lines = append(lines, s.when(mTLS, "ssl_client_certificate "+s.ca+";", "ssl_verify_client on;")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "nginx"), nginxArgs(s, strings.Join(lines, "\n"), `return 200 "`+greeting+` $ssl_client_verify";`)...)
}

// haproxyArgs writes a configuration with these sections. One thread: each has
// its own cache of sessions with servers.
func haproxyArgs(s *session, sections string) []string {
	config := filepath.Join(s.scratch, "haproxy.cfg")
	require.NoError(s.t, os.WriteFile(config, []byte(`
global
  nbthread 1
defaults
  mode http
  timeout client 20s
  timeout server 20s
  timeout connect 5s
`+sections), 0o600))
	return []string{"-db", "-f", config}
}

func haproxyServer(ctx context.Context, s *session) (*daemon, error) {
	options := []string{"ssl", "crt", s.serverCombined, "ssl-min-ver", "TLSv" + s.version, "ssl-max-ver", "TLSv" + s.version}
	options = append(options, s.when(mTLS, "ca-file", s.ca, "verify", "required")...)
	options = append(options, s.when(alpn, "alpn", "http/1.1")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "haproxy"), haproxyArgs(s, fmt.Sprintf(`frontend tls
  bind 127.0.0.1:%s %s
  http-request return status 200 content-type text/plain string "%s"
`, s.port, strings.Join(options, " "), greeting))...)
}

func stunnelArgs(s *session, lines ...string) []string {
	config := filepath.Join(s.scratch, "stunnel.conf")
	text := "foreground = yes\npid =\nsyslog = no\ndebug = info\n[one]\n" + strings.Join(lines, "\n") + "\n"
	require.NoError(s.t, os.WriteFile(config, []byte(text), 0o600))
	return []string{config}
}

// stunnelServer ends TLS in front of a plain HTTP server.
func stunnelServer(ctx context.Context, s *session) (*daemon, error) {
	backend := plainServer(s)
	lines := []string{"accept = 127.0.0.1:" + s.port, "connect = " + backend, "cert = " + s.serverCert, "key = " + s.serverKey,
		"sslVersionMin = TLSv" + s.version, "sslVersionMax = TLSv" + s.version}
	lines = append(lines, s.when(mTLS, "CAfile = "+s.ca, "verifyChain = yes", "requireCert = yes")...)
	return startDaemon(ctx, s.t, s.port, program(s.t, "stunnel"), stunnelArgs(s, lines...)...)
}

func plainServer(s *session) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	server := &http.Server{Handler: http.HandlerFunc(greet)}
	go func() { _ = server.Serve(listener) }()
	s.t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

func greet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Connection", "close")
	_, _ = io.WriteString(w, greeting+"\n")
}

// javaArgs runs Peer.java, which is compiled once.
func javaArgs(s *session, role string) []string {
	s.usePKCS12(s.t)
	return []string{"-cp", javaClasses(s), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "Peer", role, s.port, "TLSv" + s.version, string(s.check),
		s.ca, map[string]string{"client": s.clientP12, "server": s.serverP12}[role], password}
}

var compileJava sync.Once

func javaClasses(s *session) string {
	dir := filepath.Join(s.dir, "classes")
	compileJava.Do(func() { must(s.t, program(s.t, "javac"), "-d", dir, filepath.Join("testdata", "Peer.java")) })
	return dir
}

func javaServer(ctx context.Context, s *session) (*daemon, error) {
	return startDaemon(ctx, s.t, s.port, program(s.t, "java"), javaArgs(s, "server")...)
}

func nodeArgs(s *session, role string) []string {
	certificate, key := s.clientCert, s.clientKey
	if role == "server" {
		certificate, key = s.serverCert, s.serverKey
	}
	return []string{filepath.Join("testdata", "peer.js"), role, s.port, "TLSv" + s.version, string(s.check), s.ca, certificate, key}
}

func nodeServer(ctx context.Context, s *session) (*daemon, error) {
	return startDaemon(ctx, s.t, s.port, program(s.t, "node"), nodeArgs(s, "server")...)
}

func goConfig(s *session) *tls.Config {
	version := settings(s).MinVersion
	config := &tls.Config{MinVersion: version, MaxVersion: version}
	if s.check == alpn {
		config.NextProtos = []string{"http/1.1"}
	}
	return config
}

// goServer runs in this process.
func goServer(_ context.Context, s *session) (*daemon, error) {
	config := goConfig(s)
	config.Certificates = []tls.Certificate{s.server}
	if s.check == mTLS {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, tlstest.X509Pool(s.authority)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:"+s.port, config)
	if err != nil {
		return nil, err
	}
	output := &syncBuffer{}
	server := &http.Server{Handler: http.HandlerFunc(greet), ErrorLog: log.New(output, "", 0)}
	go func() { _ = server.Serve(listener) }()
	s.t.Cleanup(func() { server.Close() })
	return &daemon{address: listener.Addr().String(), output: output}, nil
}
