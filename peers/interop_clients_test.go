package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/polytls/polytls/tlstest"
)

// repeated runs a client once, or twice where a session is to be resumed.
func repeated(s *session, run func(round int) (string, error)) (string, error) {
	output, err := run(1)
	if err != nil || s.check != resumed {
		return output, err
	}
	again, err := run(2)
	return output + again, err
}

func opensslClient(ctx context.Context, s *session) (string, error) {
	file := filepath.Join(s.scratch, "session.pem")
	return repeated(s, func(round int) (string, error) {
		args := []string{"s_client", "-connect", "127.0.0.1:" + s.port, "-servername", hostName, "-CAfile", s.ca, "-verify_return_error",
			"-verify_hostname", hostName, "-ign_eof", s.pick("-tls1_2", "-tls1_3")}
		args = append(args, s.when(mTLS, "-cert", s.clientCert, "-key", s.clientKey)...)
		args = append(args, s.when(alpn, "-alpn", "http/1.1")...)
		if s.check == resumed {
			args = append(args, []string{"-sess_out", "-sess_in"}[round-1], file)
		}
		return converse(exec.CommandContext(ctx, program(s.t, "openssl"), args...), request, greeting)
	})
}

// opensslTimer connects as often as it can for a second.
func opensslTimer(ctx context.Context, s *session) (string, error) {
	args := []string{"s_time", "-connect", "127.0.0.1:" + s.port, "-CAfile", s.ca, "-verify", "3", "-www", "/", "-time", "1", s.pick("-tls1_2", "-tls1_3")}
	args = append(args, s.when(mTLS, "-cert", s.clientCert, "-key", s.clientKey)...)
	if s.check == resumed {
		args = append(args, "-reuse")
	} else {
		args = append(args, "-new")
	}
	out, err := exec.CommandContext(ctx, program(s.t, "openssl"), args...).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "connections in") {
		err = errors.New("it counts no connections")
	}
	return string(out), err
}

func gnutlsClient(ctx context.Context, s *session) (string, error) {
	args := []string{"--port", s.port, "--sni-hostname", hostName, "--verify-hostname", hostName, "--x509cafile", s.ca,
		"--priority", s.pick("NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3")}
	args = append(args, s.when(mTLS, "--x509certfile", s.clientCert, "--x509keyfile", s.clientKey)...)
	args = append(args, s.when(alpn, "--alpn", "http/1.1")...)
	// It connects, ends, connects again with the session and only then sends.
	args = append(args, s.when(resumed, "--resume", "--waitresumption")...)
	return converse(exec.CommandContext(ctx, program(s.t, "gnutls-cli"), append(args, "127.0.0.1")...), request, greeting)
}

func nssClient(ctx context.Context, s *session) (string, error) {
	s.useNSS(s.t)
	file := filepath.Join(s.scratch, "request")
	if err := os.WriteFile(file, []byte(request), 0o600); err != nil {
		return "", err
	}
	args := []string{"-h", "127.0.0.1", "-a", hostName, "-p", s.port, "-d", s.nssDB, "-4", "-f", "-A", file, "-u", "-V", s.pick("tls1.2:tls1.2", "tls1.3:tls1.3")}
	args = append(args, s.when(mTLS, "-n", "client")...)
	args = append(args, s.when(resumed, "-L", "2")...)
	return converse(exec.CommandContext(ctx, program(s.t, "tstclnt"), args...), "", greeting)
}

func nssStressClient(ctx context.Context, s *session) (string, error) {
	s.useNSS(s.t)
	args := []string{"-p", s.port, "-d", s.nssDB, "-4", "-a", hostName, "-c", "8", "-t", "1", "-V", s.pick("tls1.2:tls1.2", "tls1.3:tls1.3"), "-u"}
	args = append(args, s.when(mTLS, "-n", "client")...)
	if s.check != resumed {
		args = append(args, "-N")
	}
	out, err := exec.CommandContext(ctx, program(s.t, "strsclnt"), append(args, hostName)...).CombinedOutput()
	// Its status also says whether its session cache was asked as often as it
	// expects, which with -N it never is in TLS 1.3.
	if s.check != resumed && strings.Contains(string(out), "NoReuse - 8 server certificates tested.") {
		err = nil
	}
	return string(out), err
}

func curlClient(version string) func(ctx context.Context, s *session) (string, error) {
	return func(ctx context.Context, s *session) (string, error) {
		url := "https://" + hostName + ":" + s.port + "/"
		args := []string{"--disable", "--silent", "--show-error", "--fail", "--noproxy", "*", "--resolve", hostName + ":" + s.port + ":127.0.0.1",
			"--cacert", s.ca, version, s.pick("--tlsv1.2", "--tlsv1.3"), "--tls-max", s.version}
		args = append(args, s.when(mTLS, "--cert", s.clientCert, "--key", s.clientKey)...)
		args = append(args, url)
		// The answer ends the connection, the session is used for the next.
		args = append(args, s.when(resumed, url)...)
		out, err := exec.CommandContext(ctx, program(s.t, "curl"), args...).CombinedOutput()
		if err == nil && !strings.Contains(string(out), greeting) {
			err = errors.New("it got another answer")
		}
		return string(out), err
	}
}

// through sends requests over plain TCP to a program that connects to our server.
func through(ctx context.Context, s *session, name string, args func(port string) []string) (string, error) {
	var (
		d   *daemon
		err error
	)
	for range 3 {
		port := freePort(s.t)
		if d, err = startDaemon(ctx, s.t, port, program(s.t, name), args(port)...); err == nil {
			break
		}
	}
	if err != nil {
		return "", err
	}
	output, err := repeated(s, func(int) (string, error) { return plainRequest(d.address) })
	return output + d.output.String(), err
}

func plainRequest(address string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(answer), greeting) {
		err = fmt.Errorf("the answer is %q", answer)
	}
	return string(answer), err
}

func nginxClient(ctx context.Context, s *session) (string, error) {
	return through(ctx, s, "nginx", func(port string) []string {
		lines := []string{
			"proxy_pass https://127.0.0.1:" + s.port + ";", "proxy_http_version 1.1;", "proxy_ssl_name " + hostName + ";", "proxy_ssl_server_name on;",
			"proxy_ssl_verify on;", "proxy_ssl_trusted_certificate " + s.ca + ";", "proxy_ssl_protocols TLSv" + s.version + ";",
		}
		lines = append(lines, s.when(mTLS, "proxy_ssl_certificate "+s.clientCert+";", "proxy_ssl_certificate_key "+s.clientKey+";")...)
		return nginxArgs(s, "listen 127.0.0.1:"+port+";", strings.Join(lines, "\n"))
	})
}

func haproxyClient(ctx context.Context, s *session) (string, error) {
	return through(ctx, s, "haproxy", func(port string) []string {
		options := []string{"ssl", "verify required", "ca-file " + s.ca, "sni str(" + hostName + ")", "verifyhost " + hostName,
			"ssl-min-ver TLSv" + s.version, "ssl-max-ver TLSv" + s.version}
		options = append(options, s.when(mTLS, "crt "+s.clientCombined)...)
		options = append(options, s.when(alpn, "alpn http/1.1")...)
		return haproxyArgs(s, fmt.Sprintf(`frontend plain
  bind 127.0.0.1:%s
  default_backend polytls
backend polytls
  http-reuse never
  server one 127.0.0.1:%s %s
`, port, s.port, strings.Join(options, " ")))
	})
}

func stunnelClient(ctx context.Context, s *session) (string, error) {
	return through(ctx, s, "stunnel", func(port string) []string {
		lines := []string{"client = yes", "accept = 127.0.0.1:" + port, "connect = 127.0.0.1:" + s.port, "CAfile = " + s.ca, "verifyChain = yes",
			"checkHost = " + hostName, "sni = " + hostName, "sslVersionMin = TLSv" + s.version, "sslVersionMax = TLSv" + s.version}
		lines = append(lines, s.when(mTLS, "cert = "+s.clientCert, "key = "+s.clientKey)...)
		return stunnelArgs(s, lines...)
	})
}

func javaClient(ctx context.Context, s *session) (string, error) {
	return converse(exec.CommandContext(ctx, program(s.t, "java"), javaArgs(s, "client")...), "", greeting)
}

func nodeClient(ctx context.Context, s *session) (string, error) {
	return converse(exec.CommandContext(ctx, program(s.t, "node"), nodeArgs(s, "client")...), "", greeting)
}

func goClient(ctx context.Context, s *session) (string, error) {
	config := goConfig(s)
	config.ServerName, config.RootCAs, config.ClientSessionCache = hostName, tlstest.X509Pool(s.authority), tls.NewLRUClientSessionCache(1)
	if s.check == mTLS {
		config.Certificates = []tls.Certificate{s.client}
	}
	return repeated(s, func(int) (string, error) {
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", "127.0.0.1:"+s.port)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(conn)
		if err == nil && !strings.Contains(string(answer), greeting) {
			err = fmt.Errorf("the answer is %q", answer)
		}
		return string(answer), err
	})
}
