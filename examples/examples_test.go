package examples

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

const patience = 60 * time.Second

// programs is the folder with the examples, built, and with certificates.
var programs, certificates string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	folder, err := os.MkdirTemp("", "polytls-examples-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	programs, certificates = folder, filepath.Join(folder, "pki")
	build := exec.Command("go", "build", "-ldflags=-s", "-o", folder, "./...")
	build.Stderr = os.Stderr
	if build.Run() != nil {
		return 1
	}
	return m.Run()
}

// Every folder is in the README, and the other way round.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	mains, err := filepath.Glob("*/main.go")
	require.NoError(t, err)
	require.NotEmpty(t, mains)
	for _, main := range mains {
		assert.Equal(t, 1, strings.Count(string(readme), "("+main+")"), main)
	}
	assert.Equal(t, len(mains), strings.Count(string(readme), "/main.go)"))
}

// output runs a program to its end.
func output(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs, name), args...)
	var out, failures bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failures
	err = cmd.Run()
	require.NoError(t, ctx.Err(), "%s did not end", cmd)
	return out.String(), failures.String(), err
}

// server is a program that runs until the end of the test.
type server struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	log   lockedBuffer
}

func start(t *testing.T, name string, args ...string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(filepath.Join(programs, name), args...)}
	s.cmd.Stderr = &s.log
	stdout, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	s.lines = bufio.NewScanner(stdout)
	require.NoError(t, s.cmd.Start())
	watchdog := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	t.Cleanup(func() {
		// Every server stops cleanly when it is asked to.
		assert.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
		_, _ = io.Copy(io.Discard, stdout)
		assert.NoError(t, s.cmd.Wait(), "%s", s.log.String())
		watchdog.Stop()
	})
	return s
}

// address is what the server has printed after the words.
func (s *server) address(t *testing.T, words string) string {
	t.Helper()
	require.True(t, s.lines.Scan(), "%s", s.log.String())
	address, found := strings.CutPrefix(s.lines.Text(), words+" ")
	require.True(t, found, s.lines.Text())
	// The certificates are for this name as well; with it there is SNI.
	return strings.Replace(address, "127.0.0.1", "localhost", 1)
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eachProvider skips providers whose library was not built; package providers
// has the test that fails where they are required.
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

var pki = sync.OnceValues(func() (string, error) {
	out, err := exec.Command(filepath.Join(programs, "certificates"), certificates).CombinedOutput()
	return string(out), err
})

// file is one that the example "certificates" has written.
func file(t *testing.T, name string) string {
	t.Helper()
	out, err := pki()
	require.NoError(t, err, out)
	return filepath.Join(certificates, name)
}

func TestCertificates(t *testing.T) {
	pool, err := tlsapi.CertPoolFromFiles(file(t, "ca.pem"))
	require.NoError(t, err)
	assert.False(t, pool.Empty())
	for _, name := range []string{"server", "client"} {
		_, err := tlsapi.LoadCertificate(file(t, name+".pem"), file(t, name+"-key.pem"))
		assert.NoError(t, err)
		info, err := os.Stat(file(t, name+"-key.pem"))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	_, stderr, err := output(t, "certificates")
	assert.Error(t, err)
	assert.Contains(t, stderr, "usage")
}

func TestHTTP(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := start(t, "httpserver", "-addr", "127.0.0.1:0", "-provider", p.Name(), "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"))
		url := "https://" + s.address(t, "listening on") + "/"
		stdout, stderr, err := output(t, "httpclient", "-provider", p.Name(), "-ca", file(t, "ca.pem"), url)
		require.NoError(t, err, stderr)
		assert.Equal(t, "hello over HTTP/2.0, by "+p.Name()+" "+p.LibraryVersion()+"\n", stdout)
		assert.Contains(t, stderr, "HTTP/2.0, TLS 1.3, TLS_")

		// A client that trusts somebody else is told of on both sides.
		_, stderr, err = output(t, "httpclient", "-provider", "std", "-ca", file(t, "client.pem"), url)
		require.Error(t, err)
		assert.Contains(t, stderr, tlsapi.KindUntrusted.Error())
		assert.Eventually(t, func() bool { return strings.Contains(s.log.String(), "TLS handshake failed") }, patience, 10*time.Millisecond, s.log.String())
		assert.Contains(t, s.log.String(), "kind=peer_alert")
	})
}

func TestGRPC(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := start(t, "grpc", "-addr", "127.0.0.1:0", "-provider", p.Name(), "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"))
		stdout, stderr, err := output(t, "grpc", "-call", s.address(t, "listening on"), "-provider", p.Name(), "-ca", file(t, "ca.pem"))
		require.NoError(t, err, stderr)
		assert.Regexp(t, `^SERVING over TLS 1\.3, TLS_[A-Z0-9_]+\n$`, stdout)
	})
}

func TestMutualTLS(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := start(t, "mtls", "-addr", "127.0.0.1:0", "-provider", p.Name(), "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"), "-ca", file(t, "ca.pem"))
		call := []string{"-call", s.address(t, "listening on"), "-provider", p.Name(), "-ca", file(t, "ca.pem")}
		stdout, stderr, err := output(t, "mtls", append(call, "-cert", file(t, "client.pem"), "-key", file(t, "client-key.pem"))...)
		require.NoError(t, err, stderr)
		assert.Equal(t, "hello billing of Example Ltd\n", stdout)

		if p.Name() == "s2n" {
			return // it keeps those that it refuses waiting for 10 to 30 s
		}
		// The server's own certificate is not for clients.
		stdout, _, err = output(t, "mtls", append(call, "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"))...)
		assert.Error(t, err)
		assert.Empty(t, stdout)
		assert.Eventually(t, func() bool { return strings.Contains(s.log.String(), "kind=key_usage") }, patience, 10*time.Millisecond, s.log.String())
	})
}

func TestPreSharedKeys(t *testing.T) {
	folder := t.TempDir()
	secret, other := filepath.Join(folder, "psk.hex"), filepath.Join(folder, "other.hex")
	require.NoError(t, os.WriteFile(secret, []byte(strings.Repeat("5c", 32)+"\n"), 0o600))
	require.NoError(t, os.WriteFile(other, []byte(strings.Repeat("c5", 32)+"\n"), 0o600))
	flags := map[string][]string{"openssl": nil, "s2n": nil, "boringssl": {"-imported"}}
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		with := func(args ...string) []string { return append(append(args, "-provider", p.Name()), flags[p.Name()]...) }
		if p.Name() == "std" {
			_, stderr, err := output(t, "psk", with("-addr", "127.0.0.1:0", "-secret", secret)...)
			assert.Error(t, err)
			assert.Contains(t, stderr, "PSKs")
			return
		}
		s := start(t, "psk", with("-addr", "127.0.0.1:0", "-secret", secret)...)
		address := s.address(t, "listening on")
		stdout, stderr, err := output(t, "psk", with("-call", address, "-secret", secret)...)
		require.NoError(t, err, stderr)
		assert.Equal(t, "balance for ledger 1: 42\n", stdout)

		if p.Name() == "s2n" {
			return // it keeps those that it refuses waiting for 10 to 30 s
		}
		stdout, _, err = output(t, "psk", with("-call", address, "-secret", other)...)
		assert.Error(t, err, "a key with the same identity and another secret")
		assert.Empty(t, stdout)
		assert.NotContains(t, s.log.String(), "5c5c")
	})
}

func TestChoose(t *testing.T) {
	s := start(t, "httpserver", "-addr", "127.0.0.1:0", "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"))
	address := s.address(t, "listening on")
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		stdout, stderr, err := output(t, "choose", "-ca", file(t, "ca.pem"), "-order", p.Name(), address)
		require.NoError(t, err, stderr)
		assert.True(t, strings.HasPrefix(stdout, p.Name()+" "+p.LibraryVersion()+": TLS 1.3, "), stdout)
	})
	// s2n of 2023 has no post-quantum groups; a system's OpenSSL may have none.
	for _, name := range []string{"boringssl", "openssl"} {
		p, err := providers.Lookup(name)
		require.NoError(t, err)
		wanted := &tlsapi.ClientConfig{ServerName: "localhost", Settings: tlsapi.Settings{Curves: []tlsapi.CurveID{tls.X25519MLKEM768, tls.X25519}}, SecondKeyShare: tlsapi.SecondKeyShareOff}
		if p.Available() != nil || tlsapi.CheckFeatures(p, wanted.Features()) != nil {
			continue
		}
		stdout, stderr, err := output(t, "choose", "-ca", file(t, "ca.pem"), "-curves", "X25519MLKEM768:X25519", "-second-key-share", "-order", "s2n,"+name, address)
		require.NoError(t, err, stderr)
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		require.Len(t, lines, 2, stdout)
		assert.True(t, strings.HasPrefix(lines[0], "not s2n: "), stdout)
		assert.True(t, strings.HasPrefix(lines[1], name+" "), stdout)
		assert.Contains(t, lines[1], "X25519MLKEM768, key shares X25519MLKEM768 and X25519")
	}
	_, stderr, err := output(t, "choose", "-ca", file(t, "client.pem"), "-order", "std", address)
	assert.Error(t, err)
	assert.Contains(t, stderr, tlsapi.KindUntrusted.Error())
}

func TestReload(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		folder := t.TempDir()
		path := func(name string) string { return filepath.Join(folder, name) }
		out, stderr, err := output(t, "certificates", folder)
		require.NoError(t, err, stderr)
		assert.Contains(t, out, folder)
		s := start(t, "reload", "-addr", "127.0.0.1:0", "-provider", p.Name(), "-cert", path("server.pem"), "-key", path("server-key.pem"))
		address := s.address(t, "listening on")
		serial := func() string {
			conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
			require.NoError(t, err)
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		written := func() string {
			text, err := os.ReadFile(path("server.pem"))
			require.NoError(t, err)
			block, _ := pem.Decode(text)
			require.NotNil(t, block)
			cert, err := x509.ParseCertificate(block.Bytes)
			require.NoError(t, err)
			return cert.SerialNumber.String()
		}
		first := serial()
		require.Equal(t, written(), first)

		_, stderr, err = output(t, "certificates", folder)
		require.NoError(t, err, stderr)
		require.NotEqual(t, first, written())
		assert.Eventually(t, func() bool { return serial() == written() }, patience, 20*time.Millisecond, s.log.String())

		// What is wrong changes nothing.
		require.NoError(t, os.WriteFile(path("server.pem"), []byte("nothing"), 0o600))
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
		assert.Eventually(t, func() bool { return strings.Contains(s.log.String(), "cannot be used") }, patience, 20*time.Millisecond)
		assert.NotEqual(t, first, serial())
	})
}

func TestMetrics(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := start(t, "metrics", "-addr", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-provider", p.Name(), "-cert", file(t, "server.pem"), "-key", file(t, "server-key.pem"))
		url := "https://" + s.address(t, "listening on") + "/"
		admin := "http://" + s.address(t, "metrics on") + "/metrics"
		for range 2 {
			stdout, stderr, err := output(t, "httpclient", "-provider", p.Name(), "-ca", file(t, "ca.pem"), url)
			require.NoError(t, err, stderr)
			assert.Equal(t, "hello\n", stdout)
		}
		client := &http.Client{Timeout: patience}
		defer client.CloseIdleConnections()
		response, err := client.Get(admin)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Contains(t, string(text), `polytls_handshakes_total{provider="`+p.Name()+`",result="success",role="server",version="1.3"} 2`+"\n")

		var entry struct{ Level, Msg, Provider, Role, Version string }
		line, _, _ := strings.Cut(s.log.String(), "\n")
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		assert.Equal(t, "DEBUG TLS handshake complete "+p.Name()+" server TLS 1.3", strings.Join([]string{entry.Level, entry.Msg, entry.Provider, entry.Role, entry.Version}, " "))
	})
}
