package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// peerPackages are the programs of other TLS implementations that the tests
// talk to, with the Debian and Ubuntu packages that hold them.
var peerPackages = map[string]string{
	"openssl":     "openssl",
	"gnutls-cli":  "gnutls-bin",
	"gnutls-serv": "gnutls-bin",
	"curl":        "curl",
}

// peer returns the path of a program. Without it the test is skipped, or fails
// where the peers are required: CI=true or POLYTLS_REQUIRE_PEERS=1.
func peer(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	message := fmt.Sprintf("%v; install it with: apt-get install %s", err, peerPackages[program])
	if os.Getenv("CI") == "true" || os.Getenv("POLYTLS_REQUIRE_PEERS") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
	return ""
}

// peerCase is what both ends agree on in one test.
type peerCase struct {
	version           string // "1.2"
	openssl, gnutls   string // the version in the words of that program
	certificate, key  string
	curlMin, curlMost string
}

// peerCases pair the versions with the key types.
func peerCases(t *testing.T) []peerCase {
	f := files(t)
	return []peerCase{
		{"1.2", "-tls1_2", "NORMAL:-VERS-ALL:+VERS-TLS1.2", f.serverRSA, f.serverRSAKey, "--tlsv1.2", "1.2"},
		{"1.3", "-tls1_3", "NORMAL:-VERS-ALL:+VERS-TLS1.3", f.serverECDSA, f.serverECDSAKey, "--tlsv1.3", "1.3"},
	}
}

func eachPeerCase(t *testing.T, test func(t *testing.T, p tlsapi.Provider, c peerCase)) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, c := range peerCases(t) {
			t.Run("TLS "+c.version, func(t *testing.T) { test(t, p, c) })
		}
	})
}

// serveForPeer starts "polytls serve" with mutual TLS.
func serveForPeer(t *testing.T, p tlsapi.Provider, c peerCase, args ...string) *runningServer {
	f := files(t)
	return startServer(t, append([]string{"--provider", p.Name(), "--cert", c.certificate, "--key", c.key,
		"--client-auth", "require-and-verify", "--client-ca", f.ca, "--min-version", c.version, "--max-version", c.version}, args...)...)
}

// dialogue writes a line to a program that is connected to an echoing server,
// waits until the answer appears in its output, and ends its input. It returns
// all of its output, stdout and stderr.
func dialogue(t *testing.T, cmd *exec.Cmd, line, answer string) (output string, err error) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = commandTime
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	_, err = fmt.Fprintln(stdin, line)
	require.NoError(t, err)
	for !strings.Contains(out.String(), answer) {
		select {
		case err := <-exited:
			return out.String(), errors.Join(errors.New("it ended without the answer"), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	stdin.Close()
	err = <-exited
	return out.String(), err
}

func peerContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	t.Cleanup(cancel)
	return ctx
}

// checkServed looks at what the server told about its one client.
func checkServed(t *testing.T, s *runningServer, c peerCase, alpn string) {
	t.Helper()
	s.stop(t)
	log := s.log.String()
	assert.Contains(t, log, `version="TLS `+c.version+`"`)
	assert.Contains(t, log, "O=Client Ltd")
	assert.Contains(t, log, "verified=true")
	assert.Contains(t, log, "server_name=localhost")
	assert.Contains(t, log, "alpn="+alpn+" ")
	assert.NotContains(t, log, "failed")
}

func TestServeOpenSSLClient(t *testing.T) {
	program := peer(t, "openssl")
	f := files(t)
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		s := serveForPeer(t, p, c, "--alpn", "h2,http/1.1")
		cmd := exec.CommandContext(peerContext(t), program, "s_client", "-connect", s.address, "-servername", "localhost",
			"-CAfile", f.ca, "-verify_return_error", "-verify_hostname", "localhost", "-cert", f.client, "-key", f.clientKey,
			"-alpn", "http/1.1,h2", c.openssl)
		// In the middle of a line: s_client buffers what it tells of the session,
		// but not the data.
		output, err := dialogue(t, cmd, "hello over TLS", "hello over TLS")
		require.NoError(t, err, output)
		assert.Contains(t, output, "Verify return code: 0 (ok)")
		assert.Contains(t, output, "ALPN protocol: h2")
		assert.Contains(t, output, "TLSv"+c.version)
		checkServed(t, s, c, "h2")
	})
}

func TestServeGnuTLSClient(t *testing.T) {
	program := peer(t, "gnutls-cli")
	f := files(t)
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		s := serveForPeer(t, p, c, "--alpn", "h2,http/1.1")
		cmd := exec.CommandContext(peerContext(t), program, "--port", s.port(t), "--sni-hostname", "localhost",
			"--verify-hostname", "localhost", "--x509cafile", f.ca, "--x509certfile", f.client, "--x509keyfile", f.clientKey,
			"--alpn", "h2", "--priority", c.gnutls, "127.0.0.1")
		output, err := dialogue(t, cmd, "hello over TLS", "\nhello over TLS")
		require.NoError(t, err, output)
		assert.Contains(t, output, "The certificate is trusted.")
		assert.Contains(t, output, "TLS"+c.version)
		assert.Regexp(t, `Application protocol: h2`, output)
		checkServed(t, s, c, "h2")
	})
}

func TestServeCurl(t *testing.T) {
	program := peer(t, "curl")
	f := files(t)
	root := t.TempDir()
	content := strings.Repeat("a line of text\n", 1<<16)
	require.NoError(t, os.WriteFile(filepath.Join(root, "file.txt"), []byte(content), 0o600))
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		s := serveForPeer(t, p, c, "--root", root)
		received := filepath.Join(t.TempDir(), "received")
		ctx := peerContext(t)
		// --disable: no settings from the user's home.
		cmd := exec.CommandContext(ctx, program, "--disable", "--silent", "--show-error", "--noproxy", "*",
			"--resolve", "localhost:"+s.port(t)+":127.0.0.1", "--cacert", f.ca, "--cert", f.client, "--key", f.clientKey,
			c.curlMin, "--tls-max", c.curlMost, "--output", received,
			"--write-out", "%{http_code} %{http_version} %{ssl_verify_result} %{num_connects}\n",
			"https://localhost:"+s.port(t)+"/file.txt")
		r := runProcess(ctx, t, cmd, noInput())
		require.Equal(t, 0, r.status, r.stderr)
		assert.Equal(t, "200 1.1 0 1\n", r.stdout)
		assert.True(t, content == textOf(t, received), "the file has other contents")
		checkServed(t, s, c, "http/1.1")
	})
}

// A peer without the client certificate is refused and knows it.
func TestServeRefusesPeersWithoutCertificate(t *testing.T) {
	program := peer(t, "curl")
	f := files(t)
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		// s2n's delay would keep curl waiting.
		s := serveForPeer(t, p, c, "--root", t.TempDir(), "--max-blinding-delay", "-1s")
		ctx := peerContext(t)
		cmd := exec.CommandContext(ctx, program, "--disable", "--silent", "--show-error", "--noproxy", "*",
			"--resolve", "localhost:"+s.port(t)+":127.0.0.1", "--cacert", f.ca, "https://localhost:"+s.port(t)+"/")
		r := runProcess(ctx, t, cmd, noInput())
		assert.NotEqual(t, 0, r.status)
		// In TLS 1.3 curl has finished its handshake, and may end first.
		assert.Eventually(t, func() bool { return strings.Contains(s.log.String(), tlsapi.KindNoCertificate.Error()) },
			commandTime, 10*time.Millisecond)
		s.stop(t)
	})
}

// connectToPeer runs "polytls connect" with mutual TLS and returns its report.
func connectToPeer(t *testing.T, p tlsapi.Provider, c peerCase, address, line, answer string) {
	t.Helper()
	f := files(t)
	received := filepath.Join(t.TempDir(), "received")
	ctx := peerContext(t)
	cmd := polytls(ctx, t, "connect", address, "--json", "--output", received, "--provider", p.Name(), "--servername", "localhost",
		"--ca", f.ca, "--cert", f.client, "--key", f.clientKey, "--alpn", "h2", "--min-version", c.version, "--max-version", c.version)
	r := runProcess(ctx, t, cmd, strings.NewReader(line+"\n"))
	require.Equal(t, 0, r.status, r.stderr)
	var report connectionReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report), r.stdout)
	assert.Equal(t, "TLS "+c.version, report.Version)
	assert.Equal(t, "h2", report.ALPN)
	assert.Equal(t, "localhost", report.ServerName)
	assert.True(t, report.Verified)
	require.NotNil(t, report.Peer)
	assert.Equal(t, "Server & Sons", report.Peer.Organization)
	assert.Equal(t, answer+"\n", textOf(t, received))
}

// startPeer starts a server and waits until its output matches ready.
func startPeer(t *testing.T, ready *regexp.Regexp, program string, args ...string) (match []string, output *syncBuffer, exited chan error) {
	t.Helper()
	cmd := exec.CommandContext(peerContext(t), program, args...)
	output, exited = &syncBuffer{}, make(chan error, 1)
	cmd.Stdout, cmd.Stderr = output, output
	// Servers end with their input.
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Logf("%s\n%s", cmd, output)
		}
	})
	for deadline := time.Now().Add(commandTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if match := ready.FindStringSubmatch(output.String()); match != nil {
			return match, output, exited
		}
		select {
		case err := <-exited:
			exited <- err
			return nil, output, exited
		default:
		}
	}
	t.Fatalf("%s does not listen:\n%s", cmd, output)
	return nil, nil, nil
}

func TestConnectToOpenSSLServer(t *testing.T) {
	program := peer(t, "openssl")
	f := files(t)
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		match, output, _ := startPeer(t, regexp.MustCompile(`ACCEPT (\S+)`), program, "s_server", "-accept", "127.0.0.1:0", "-rev",
			"-cert", c.certificate, "-key", c.key, "-CAfile", f.ca, "-Verify", "2", "-verify_return_error", "-alpn", "http/1.1,h2", c.openssl)
		require.NotNil(t, match, output)
		connectToPeer(t, p, c, match[1], "hello over TLS", "SLT revo olleh")
		says(t, output, "Protocol version: TLSv"+c.version)
		says(t, output, "Client Ltd")
		assert.NotContains(t, output.String(), "ERROR")
	})
}

func TestConnectToGnuTLSServer(t *testing.T) {
	program := peer(t, "gnutls-serv")
	f := files(t)
	eachPeerCase(t, func(t *testing.T, p tlsapi.Provider, c peerCase) {
		port, output := startGnuTLSServer(t, program, "--echo", "--x509certfile", c.certificate, "--x509keyfile", c.key,
			"--x509cafile", f.ca, "--require-client-cert", "--verify-client-cert", "--alpn", "h2", "--alpn-fatal", "--priority", c.gnutls)
		connectToPeer(t, p, c, "127.0.0.1:"+port, "hello over TLS", "hello over TLS")
		says(t, output, "Client Ltd")
	})
}

// says waits for the text: our end may be through before the peer's output is here.
func says(t *testing.T, output *syncBuffer, text string) {
	t.Helper()
	if !assert.Eventually(t, func() bool { return strings.Contains(output.String(), text) }, commandTime, time.Millisecond) {
		assert.Contains(t, output.String(), text)
	}
}

// startGnuTLSServer finds a port for gnutls-serv, which does not let the
// system choose one and has no option for the address.
func startGnuTLSServer(t *testing.T, program string, args ...string) (port string, output *syncBuffer) {
	t.Helper()
	for range 5 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		_, port, err = net.SplitHostPort(listener.Addr().String())
		require.NoError(t, err)
		listener.Close()
		match, out, _ := startPeer(t, regexp.MustCompile(`listening on IPv4 \S+ port \d+\.\.\.done`), program, append(args, "--port", port)...)
		if match != nil {
			return port, out
		}
		output = out
	}
	t.Fatalf("gnutls-serv found no port:\n%s", output)
	return "", nil
}
