package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
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
	"golang.org/x/crypto/ocsp"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// asCommand makes the test binary behave as polytls itself, so that the tests
// run the command as a process of its own without building it again.
const asCommand = "POLYTLS_TEST_AS_COMMAND"

// commandTime is far more than any command of the tests takes.
const commandTime = 60 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	status := m.Run()
	if f, err := makeFiles(); err == nil {
		os.RemoveAll(f.dir)
	}
	os.Exit(status)
}

// polytls returns the command as a process that has not been started yet.
func polytls(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, self, args...)
	// Under the race detector a process sleeps for a second at its end.
	cmd.Env = append(os.Environ(), asCommand+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

// result is what a finished command left.
type result struct {
	stdout, stderr string
	status         int
}

// runPolytls runs the command to its end.
func runPolytls(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return runProcess(ctx, t, polytls(ctx, t, args...), stdin)
}

func runProcess(ctx context.Context, t *testing.T, cmd *exec.Cmd, stdin io.Reader) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	// Between the end of the process and the last of its output a busy machine
	// may do something else.
	cmd.WaitDelay = commandTime
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "%s did not end in time\nstdout: %s\nstderr: %s", cmd, &stdout, &stderr)
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit, "%s", cmd)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// runningServer is a "polytls serve" that stops with the test.
type runningServer struct {
	address string
	cmd     *exec.Cmd
	log     *syncBuffer
	ended   chan error
}

// startServer starts "polytls serve" on a port that the system chooses.
func startServer(t *testing.T, args ...string) *runningServer {
	t.Helper()
	args = append([]string{"serve", "127.0.0.1:0", "--json"}, args...)
	s := &runningServer{cmd: polytls(context.Background(), t, args...), log: &syncBuffer{}, ended: make(chan error, 1)}
	stdout, stdoutWriter, err := os.Pipe()
	require.NoError(t, err)
	defer stdout.Close()
	s.cmd.Stdout, s.cmd.Stderr = stdoutWriter, s.log
	require.NoError(t, s.cmd.Start())
	stdoutWriter.Close()
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("%s\n%s", s.cmd, s.log)
		}
	})

	require.NoError(t, stdout.SetReadDeadline(time.Now().Add(commandTime)))
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, "%s\n%s", s.cmd, s.log)
	var announced struct{ Address string }
	require.NoError(t, json.Unmarshal(line, &announced))
	s.address = announced.Address
	return s
}

func (s *runningServer) port(t *testing.T) string {
	_, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	return port
}

// stop sends SIGTERM and expects a clean exit.
func (s *runningServer) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.wait(t, 0)
}

func (s *runningServer) wait(t *testing.T, status int) {
	t.Helper()
	select {
	case <-s.ended:
		assert.Equal(t, status, s.cmd.ProcessState.ExitCode(), "%s\n%s", s.cmd, s.log)
	case <-time.After(commandTime):
		t.Fatalf("%s did not end\n%s", s.cmd, s.log)
	}
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

// testFiles are certificates and keys in files, made once for all tests.
type testFiles struct {
	dir                                   string
	ca, otherCA                           string
	serverECDSA, serverECDSAKey           string
	serverRSA, serverRSAKey               string
	client, clientKey                     string
	strangerClient, strangerClientKey     string
	serverECDSACombined, serverOtherNames string
	// Of the CA: a list that revokes nothing (PEM), one that revokes
	// serverECDSA (DER), and the response for it that says good.
	crl, crlRevoking, ocspGood string
}

var makeFiles = sync.OnceValues(func() (*testFiles, error) {
	dir, err := os.MkdirTemp("", "polytls-test-")
	if err != nil {
		return nil, err
	}
	f := &testFiles{dir: dir}
	var firstErr error
	check := func(err error) {
		if firstErr == nil {
			firstErr = err
		}
	}
	write := func(name string, blocks ...*pem.Block) string {
		path := filepath.Join(dir, name)
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		check(os.WriteFile(path, text, 0o600))
		return path
	}
	certificate := func(c tls.Certificate) *pem.Block {
		return &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}
	}
	key := func(c tls.Certificate) *pem.Block {
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		check(err)
		return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	}
	authority := func(name string) tls.Certificate {
		c, err := issueECDSA(nil, &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		})
		check(err)
		return c
	}
	server := func(names ...string) *x509.Certificate {
		return &x509.Certificate{
			Subject:     pkix.Name{CommonName: "server", Organization: []string{"Server & Sons"}},
			DNSNames:    names,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
	}
	client := func() *x509.Certificate {
		return &x509.Certificate{
			Subject:     pkix.Name{CommonName: "client", Organization: []string{"Client Ltd"}},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
	}
	ca, other := authority("Test CA"), authority("Other CA")
	f.ca, f.otherCA = write("ca.pem", certificate(ca)), write("other-ca.pem", certificate(other))

	c, err := issueECDSA(&ca, server("localhost"))
	check(err)
	f.serverECDSA, f.serverECDSAKey = write("server-ecdsa.pem", certificate(c)), write("server-ecdsa.key", key(c))
	f.serverECDSACombined = write("server-ecdsa-combined.pem", key(c), certificate(c))

	now := time.Now()
	list := func(revoked ...x509.RevocationListEntry) []byte {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour), RevokedCertificateEntries: revoked,
		}, ca.Leaf, ca.PrivateKey.(crypto.Signer))
		check(err)
		return der
	}
	f.crl = write("crl.pem", &pem.Block{Type: "X509 CRL", Bytes: list()})
	f.crlRevoking = filepath.Join(dir, "revoking.crl")
	check(os.WriteFile(f.crlRevoking, list(x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: now}), 0o600))
	response, err := ocsp.CreateResponse(ca.Leaf, ca.Leaf, ocsp.Response{
		Status: ocsp.Good, SerialNumber: c.Leaf.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour),
	}, ca.PrivateKey.(crypto.Signer))
	check(err)
	f.ocspGood = filepath.Join(dir, "good.ocsp")
	check(os.WriteFile(f.ocspGood, response, 0o600))

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	c, err = issue(&ca, crypto.Signer(rsaKey), server("localhost"))
	check(err)
	f.serverRSA, f.serverRSAKey = write("server-rsa.pem", certificate(c)), write("server-rsa.key", key(c))

	template := server("elsewhere.example")
	template.IPAddresses = nil
	c, err = issueECDSA(&ca, template)
	check(err)
	f.serverOtherNames = write("server-other-names.pem", certificate(c), key(c))

	c, err = issueECDSA(&ca, client())
	check(err)
	f.client, f.clientKey = write("client.pem", certificate(c)), write("client.key", key(c))
	c, err = issueECDSA(&other, client())
	check(err)
	f.strangerClient, f.strangerClientKey = write("stranger.pem", certificate(c)), write("stranger.key", key(c))
	return f, firstErr
})

func files(t *testing.T) *testFiles {
	t.Helper()
	f, err := makeFiles()
	require.NoError(t, err)
	return f
}

// eachProvider runs a test with every provider that is available.
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

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func textOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func noInput() io.Reader { return strings.NewReader("") }
