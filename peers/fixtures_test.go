package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/freeport"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// everything reports whether the tests that take minutes run, too.
func everything() bool { return os.Getenv("POLYTLS_PEERS") == "all" }

// needsEverything skips a test that takes minutes.
func needsEverything(t *testing.T, target string) {
	t.Helper()
	if !everything() {
		t.Skipf("it takes minutes: `make %s` runs it (POLYTLS_PEERS=all)", target)
	}
}

// packages are the programs of the tests, with the Debian and Ubuntu packages
// that hold them.
var packages = map[string]string{
	"openssl": "openssl", "gnutls-cli": "gnutls-bin", "gnutls-serv": "gnutls-bin", "curl": "curl",
	"tstclnt": "libnss3-tools", "strsclnt": "libnss3-tools", "selfserv": "libnss3-tools", "certutil": "libnss3-tools", "pk12util": "libnss3-tools",
	"nginx": "nginx-light", "haproxy": "haproxy", "stunnel": "stunnel4", "java": "default-jdk-headless", "javac": "default-jdk-headless", "node": "nodejs",
	"testssl": "testssl.sh", "sslscan": "sslscan", "h2load": "nghttp2-client", "chromium": "chromium",
}

// program returns the path of a program. Without it the test is skipped, or
// fails where the peers are required: CI=true or POLYTLS_REQUIRE_PEERS=1.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		// Daemons may not be in an ordinary user's path.
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err == nil {
		return path
	}
	message := fmt.Sprintf("%v; install it with: apt-get install %s", err, packages[name])
	if os.Getenv("CI") == "true" || os.Getenv("POLYTLS_REQUIRE_PEERS") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
	return ""
}

// available are the providers that can be used.
func available() (all []tlsapi.Provider) {
	for _, p := range providers.All() {
		if p.Available() == nil {
			all = append(all, p)
		}
	}
	return all
}

// fixtures are the certificates of all tests, in memory and in files.
type fixtures struct {
	dir                         string
	authority                   *tlstest.Authority
	server, client              tls.Certificate
	ca                          string // PEM files
	serverCert, serverKey       string
	clientCert, clientKey       string
	serverCombined              string // certificate and key in one
	clientCombined              string
	serverP12, clientP12, nssDB string // with password; made by usePKCS12 and useNSS
	p12, nss                    sync.Once
}

const (
	hostName = "localhost"
	password = "not-secret"
	greeting = "hello over TLS"
)

// newFixtures writes the certificates of a server named localhost and of a
// client to files.
func newFixtures(t *testing.T, key tlstest.KeyType) *fixtures {
	// Daemons give up the rights of root and read some of the files after that.
	f := &fixtures{dir: t.TempDir()}
	for dir := f.dir; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	f.authority = tlstest.NewAuthority(t, tlstest.Spec{Key: key, CommonName: "Test CA", Organization: "Test CA"})
	f.server = f.authority.Leaf(t, tlstest.Spec{Key: key, CommonName: "server", Organization: "Server & Sons", DNSNames: []string{hostName},
		IPAddresses: []string{"127.0.0.1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	f.client = f.authority.Leaf(t, tlstest.Spec{Key: key, CommonName: "client", Organization: "Client Ltd",
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	write := func(name string, parts ...[]byte) string {
		path := filepath.Join(f.dir, name)
		require.NoError(t, os.WriteFile(path, bytes.Join(parts, nil), 0o644))
		return path
	}
	serverCert, serverKey := tlstest.CertificatePEM(f.server), tlstest.KeyPEM(t, f.server)
	clientCert, clientKey := tlstest.CertificatePEM(f.client), tlstest.KeyPEM(t, f.client)
	f.ca = write("ca.pem", f.authority.PEM())
	f.serverCert, f.serverKey, f.serverCombined = write("server.pem", serverCert), write("server.key", serverKey), write("server-both.pem", serverCert, serverKey)
	f.clientCert, f.clientKey, f.clientCombined = write("client.pem", clientCert), write("client.key", clientKey), write("client-both.pem", clientCert, clientKey)
	return f
}

// usePKCS12 makes the files that hold certificate, chain and key.
func (f *fixtures) usePKCS12(t testing.TB) {
	f.p12.Do(func() {
		f.serverP12, f.clientP12 = filepath.Join(f.dir, "server.p12"), filepath.Join(f.dir, "client.p12")
		for name, files := range map[string][3]string{"server": {f.serverCert, f.serverKey, f.serverP12}, "client": {f.clientCert, f.clientKey, f.clientP12}} {
			must(t, program(t, "openssl"), "pkcs12", "-export", "-name", name, "-in", files[0], "-inkey", files[1], "-out", files[2], "-passout", "pass:"+password)
		}
	})
}

// useNSS makes a database of NSS with all certificates.
func (f *fixtures) useNSS(t testing.TB) {
	f.usePKCS12(t)
	f.nss.Do(func() {
		dir := filepath.Join(f.dir, "nss")
		require.NoError(t, os.Mkdir(dir, 0o755))
		f.nssDB = "sql:" + dir
		must(t, program(t, "certutil"), "-N", "-d", f.nssDB, "--empty-password")
		must(t, program(t, "certutil"), "-A", "-d", f.nssDB, "-n", "ca", "-t", "CT,,", "-i", f.ca)
		for _, p12 := range []string{f.serverP12, f.clientP12} {
			must(t, program(t, "pk12util"), "-d", f.nssDB, "-i", p12, "-W", password, "-K", "")
		}
	})
}

// must runs a program that prepares something.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", cmd, out)
	return string(out)
}

// converse runs a program, writes input to it and waits until its output has the
// answer or it ends; then its input ends. It returns all output.
func converse(cmd *exec.Cmd, input, answer string) (string, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return "", err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	_, _ = io.WriteString(stdin, input)
	for !strings.Contains(out.String(), answer) {
		select {
		case err := <-exited:
			if strings.Contains(out.String(), answer) {
				return out.String(), err
			}
			return out.String(), errors.Join(fmt.Errorf("%s ended without the answer", cmd), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	stdin.Close()
	return out.String(), <-exited
}

// daemon is a running program that stops with the test.
type daemon struct {
	address string
	output  *syncBuffer
	cmd     *exec.Cmd
}

// startDaemon starts a program that listens on the port, and waits until it
// does. A program that never gets there is an error.
func startDaemon(ctx context.Context, t testing.TB, port, name string, args ...string) (*daemon, error) {
	d := &daemon{address: "127.0.0.1:" + port, output: &syncBuffer{}, cmd: exec.CommandContext(ctx, name, args...)}
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	d.cmd.WaitDelay = 2 * time.Second
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	// Some end with their input.
	if _, err := d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() { _ = d.cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(2 * time.Second):
			_ = d.cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("%s\n%s", d.cmd, d.output)
		}
	})
	for {
		// A look at the sockets instead of a connection, which some programs
		// would take for their client.
		if listens(port) {
			return d, nil
		}
		select {
		case <-exited:
			return nil, fmt.Errorf("%s ended: %s", d.cmd, d.output)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not listen: %w: %s", d.cmd, ctx.Err(), d.output)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listens reports whether a TCP socket of this machine listens on the port.
func listens(port string) bool {
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		return false
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) {
				return true
			}
		}
	}
	return false
}

func freePort(t testing.TB) string {
	port, err := freeport.Choose()
	require.NoError(t, err)
	return port
}

// syncBuffer is a buffer that a process writes while the test reads it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
