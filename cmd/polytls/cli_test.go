package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// keySet returns the keys of a JSON object in order; objects inside of it as
// "name.key".
func keySet(t *testing.T, text []byte) []string {
	t.Helper()
	var keys []string
	var walk func(prefix string, value any)
	walk = func(prefix string, value any) {
		object, ok := value.(map[string]any)
		if list, isList := value.([]any); isList && len(list) > 0 {
			object, ok = list[0].(map[string]any)
		}
		if !ok {
			return
		}
		for key, inner := range object {
			keys = append(keys, prefix+key)
			walk(prefix+key+".", inner)
		}
	}
	var value any
	require.NoError(t, json.Unmarshal(text, &value), "%s", text)
	walk("", value)
	slices.Sort(keys)
	return keys
}

func words(s string) []string {
	w := strings.Fields(s)
	slices.Sort(w)
	return w
}

// The keys of the JSON forms are a promise to scripts.
const (
	providersKeys = `name library version available reason features features.feature features.support features.note`
	matrixKeys    = `ok pairs pairs.client pairs.server pairs.ok pairs.error pairs.version pairs.cipher_suite pairs.group
		pairs.alpn pairs.resumed pairs.mtls pairs.psk pairs.psk_kind pairs.bytes pairs.handshake_us`
	connectKeys = `provider library_version version cipher_suite group alpn resumed server_name verified hello_retry_request
		key_shares psk_identity ocsp ocsp.status ocsp.this_update ocsp.next_update ocsp.verified revocation_checked
		peer peer.subject peer.organization peer.serial peer.sha256 peer.not_after peer.dns_names
		peer.ip_addresses`
	transferKeys = `sent_bytes received_bytes`
	pageKeys     = `provider library_version version cipher_suite group signature_scheme alpn protocol resumed server_name
		verified hello_retry_request key_shares psk_identity remote_address ocsp ocsp.status ocsp.this_update ocsp.next_update
		ocsp.verified peer peer.subject peer.organization peer.serial peer.sha256 peer.not_after peer.dns_names peer.ip_addresses`
	serveKeys   = `provider library_version address`
	versionKeys = `version revision modified go`
)

// withoutOCSP are the keys of a report in which "ocsp" is null.
func withoutOCSP(keys string) []string {
	return slices.DeleteFunc(words(keys), func(key string) bool { return strings.HasPrefix(key, "ocsp.") })
}

func TestProvidersJSON(t *testing.T) {
	r := runPolytls(t, noInput(), "providers", "--json")
	require.Equal(t, 0, r.status, r.stderr)
	assert.Empty(t, r.stderr)
	assert.Equal(t, words(providersKeys), keySet(t, []byte(r.stdout)))

	var reports []providerReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &reports))
	require.Len(t, reports, len(providers.All()))
	for i, p := range providers.All() {
		assert.Equal(t, p.Name(), reports[i].Name)
		assert.Equal(t, p.LibraryVersion(), reports[i].Version)
		assert.Equal(t, p.Available() == nil, reports[i].Available)
		assert.Equal(t, reports[i].Available, reports[i].Reason == "")
		assert.Equal(t, p.Features(), reports[i].Features)
	}
}

func TestProvidersTable(t *testing.T) {
	r := runPolytls(t, noInput(), "providers")
	require.Equal(t, 0, r.status, r.stderr)
	for _, line := range strings.Split(r.stdout, "\n") {
		assert.LessOrEqual(t, utf8.RuneCountInString(line), plainWidth, line)
	}
	// As wrapping has left no word out.
	text := strings.Join(strings.Fields(r.stdout), " ")
	for _, p := range providers.All() {
		assert.Contains(t, text, p.Library())
		for _, cell := range p.Features() {
			assert.Contains(t, text, string(cell.Feature))
			if cell.Note != "" {
				assert.Contains(t, text, "] "+cell.Note)
			}
		}
	}
}

func TestProvidersTableOfNarrowTerminals(t *testing.T) {
	var reports []providerReport
	for _, p := range providers.All() {
		reports = append(reports, describeProvider(p))
		reports[len(reports)-1].Reason = ""
	}
	var out strings.Builder
	writeProviders(&out, reports, 80)
	for _, line := range strings.Split(out.String(), "\n") {
		assert.LessOrEqual(t, utf8.RuneCountInString(line), 80, line)
	}
	assert.Contains(t, out.String(), "N native, E emulated")
	assert.Regexp(t, `│ client\.insecure-skip-verify +│ N `, out.String())
}

func TestVersion(t *testing.T) {
	r := runPolytls(t, noInput(), "version", "--json")
	require.Equal(t, 0, r.status, r.stderr)
	assert.Equal(t, words(versionKeys), keySet(t, []byte(r.stdout)))
	flag := runPolytls(t, noInput(), "--version")
	command := runPolytls(t, noInput(), "version")
	assert.Equal(t, 0, flag.status)
	assert.True(t, strings.HasPrefix(flag.stdout, "polytls "), flag.stdout)
	assert.Equal(t, flag, command)
}

func TestHelpAndCompletion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"connect", "--help"}, {"serve", "--help"}, {"matrix", "--help"}, {"completion", "bash"}} {
		r := runPolytls(t, noInput(), args...)
		assert.Equal(t, 0, r.status, args)
		assert.NotEmpty(t, r.stdout)
		assert.Empty(t, r.stderr)
	}
	r := runPolytls(t, noInput(), "__complete", "connect", "--provider", "")
	for _, name := range providers.Names() {
		assert.Contains(t, r.stdout, name+"\n")
	}
	r = runPolytls(t, noInput(), "__complete", "proxy", "--backend-send-proxy", "")
	assert.Contains(t, r.stdout, "off\n")
}

// The flags of a configuration file, in which there are secrets, end with it.
func TestFlagsAreCollected(t *testing.T) {
	listener, backend := func() (weak.Pointer[listenerOptions], weak.Pointer[backendOptions]) {
		listener, backend := new(listenerOptions), new(backendOptions)
		listener.register(&cobra.Command{})
		backend.register(&cobra.Command{})
		return weak.Make(listener), weak.Make(backend)
	}()
	runtime.GC()
	assert.True(t, listener.Value() == nil, "a listener's")
	assert.True(t, backend.Value() == nil, "a backend's")
}

func TestMatrix(t *testing.T) {
	r := runPolytls(t, noInput(), "matrix", "--json", "--available", "--tls-version", "both")
	require.Equal(t, 0, r.status, "%s%s", r.stderr, r.stdout)
	assert.Equal(t, words(matrixKeys), keySet(t, []byte(r.stdout)))
	var report matrixReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	assert.True(t, report.OK)

	var available []tlsapi.Provider
	for _, p := range providers.All() {
		if p.Available() == nil {
			available = append(available, p)
		}
	}
	pairs := report.Pairs
	for _, version := range []string{"TLS 1.2", "TLS 1.3"} {
		for _, client := range available {
			for _, server := range available {
				require.NotEmpty(t, pairs)
				pair := pairs[0]
				pairs = pairs[1:]
				assert.Equal(t, client.Name(), pair.Client)
				assert.Equal(t, server.Name(), pair.Server)
				assert.True(t, pair.OK)
				assert.Empty(t, pair.Error)
				assert.Equal(t, version, pair.Version)
				assert.True(t, strings.HasPrefix(pair.CipherSuite, "TLS_"), pair.CipherSuite)
				assert.NotEmpty(t, pair.Group)
				assert.Equal(t, "h2", pair.ALPN)
				assert.Equal(t, 1<<20, pair.Bytes)
				assert.Positive(t, pair.HandshakeMicros)
				assert.Equal(t, supports(client, tlsapi.ClientCertificate) && supports(server, tlsapi.ServerClientAuth), pair.MutualTLS)
				assert.Equal(t, supports(client, tlsapi.ClientSessionCache) && supports(server, tlsapi.ServerSessionTickets), pair.Resumed)
			}
		}
	}
	assert.Empty(t, pairs)
}

func TestMatrixGridAndUnavailableProviders(t *testing.T) {
	r := runPolytls(t, noInput(), "matrix")
	left := runPolytls(t, noInput(), "matrix", "--available")
	assert.Equal(t, exitSuccess, left.status)
	missing := 0
	for _, p := range providers.All() {
		assert.Contains(t, r.stdout, "│ "+p.Name())
		if err := p.Available(); err != nil {
			missing++
			assert.Contains(t, r.stdout, "NOT AVAILABLE "+p.Name()+": "+cause(err).Error())
			assert.Contains(t, left.stderr, "left out: "+p.Name()+": "+cause(err).Error())
			assert.NotContains(t, left.stdout, p.Name())
		}
	}
	n := len(providers.All())
	right := (n - missing) * (n - missing)
	assert.Contains(t, r.stdout, fmt.Sprintf("%d of %d pairs are right", right, n*n))
	assert.Contains(t, left.stdout, fmt.Sprintf("%d of %d pairs are right", right, right))
	assert.Equal(t, n*n-right, strings.Count(r.stdout, "not available"))
	assert.NotContains(t, r.stdout, "FAILED")
	assert.Equal(t, missing > 0, r.status == exitFailure, r.stderr)
}

// A peer that never answers must not hold the matrix, and both ends' errors
// are shown.
func TestMatrixPairFailuresAreTold(t *testing.T) {
	standard, err := providers.Lookup("std")
	require.NoError(t, err)
	authority, err := newMatrixAuthority()
	require.NoError(t, err)
	other, err := newMatrixAuthority()
	require.NoError(t, err)
	authority.server = other.server // The client does not trust it.
	m := &matrixCommand{timeout: commandTime}
	pair := m.tryPair(context.Background(), authority, standard, standard, tls.VersionTLS13)
	assert.False(t, pair.OK)
	assert.Contains(t, pair.Error, "client: ")
	assert.Contains(t, pair.Error, "server: ")

	authority, err = newMatrixAuthority()
	require.NoError(t, err)
	m.timeout = 100 * time.Millisecond
	begin := time.Now()
	pair = m.tryPair(context.Background(), authority, standard, silentProvider{standard}, tls.VersionTLS13)
	assert.False(t, pair.OK)
	assert.Contains(t, pair.Error, "deadline")
	assert.Less(t, time.Since(begin), 10*time.Second)
}

// silentProvider is a server that does not take part in the handshake.
type silentProvider struct{ tlsapi.Provider }

func (p silentProvider) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	conn, err := p.Provider.Server(transport, config)
	return silentConn{conn}, err
}

type silentConn struct{ tlsapi.Conn }

func (silentConn) HandshakeContext(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestEchoWithEveryProvider(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for _, version := range []string{"1.2", "1.3"} {
			t.Run(version, func(t *testing.T) {
				s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--alpn", "h2,http/1.1",
					"--client-auth", "require-and-verify", "--client-ca", f.ca)
				data := make([]byte, 1<<20)
				_, err := rand.Read(data)
				require.NoError(t, err)
				received := filepath.Join(t.TempDir(), "received")
				r := runPolytls(t, bytes.NewReader(data), "connect", s.address, "--provider", p.Name(), "--ca", f.ca,
					"--cert", f.client, "--key", f.clientKey, "--alpn", "http/1.1", "--json", "--output", received,
					"--min-version", version, "--max-version", version)
				require.Equal(t, 0, r.status, r.stderr)
				assert.True(t, bytes.Equal(data, []byte(textOf(t, received))))
				assert.Empty(t, r.stderr, "diagnostics only when there are any")
				assert.Equal(t, withoutOCSP(connectKeys), keySet(t, []byte(r.stdout)))

				var report connectionReport
				require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
				assert.Equal(t, p.Name(), report.Provider)
				assert.Equal(t, p.LibraryVersion(), report.LibraryVersion)
				assert.Equal(t, "TLS "+version, report.Version)
				assert.True(t, strings.HasPrefix(report.CipherSuite, "TLS_"))
				assert.Equal(t, "http/1.1", report.ALPN)
				assert.True(t, report.Verified)
				assert.False(t, report.Resumed)
				require.NotNil(t, report.Peer)
				assert.Equal(t, "Server & Sons", report.Peer.Organization)
				assert.Equal(t, []string{"localhost"}, report.Peer.DNSNames)
				assert.Equal(t, []string{"127.0.0.1"}, report.Peer.IPAddresses)
				assert.Regexp(t, "^[0-9a-f]{64}$", report.Peer.SHA256)
				assert.Regexp(t, "^[0-9a-f]+$", report.Peer.Serial)
				_, err = time.Parse(time.RFC3339, report.Peer.NotAfter)
				assert.NoError(t, err)
				s.stop(t)
				assert.Contains(t, s.log.String(), "connection ended")
				assert.Contains(t, s.log.String(), "O=Client Ltd")
			})
		}
	})
}

func TestConnectForPeople(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--cert", f.serverRSA, "--key", f.serverRSAKey)
		r := runPolytls(t, strings.NewReader("echo this\n"), "connect", s.address, "--provider", p.Name(), "--ca", f.ca)
		assert.Equal(t, 0, r.status, r.stderr)
		assert.Equal(t, "echo this\n", r.stdout)
		for _, says := range []string{s.address, p.LibraryVersion(), "TLS 1.3", "verified chain", "Server & Sons", "names localhost, 127.0.0.1"} {
			assert.Contains(t, r.stderr, says)
		}
		assert.NotContains(t, r.stderr, "NOT verified")

		r = runPolytls(t, noInput(), "connect", s.address, "--provider", p.Name(), "--insecure-skip-verify")
		assert.Equal(t, 0, r.status, r.stderr)
		assert.Contains(t, r.stderr, "NOT verified")
	})
}

// What verification refuses fails with status 1, nothing on stdout and a
// reason that a reader understands.
func TestConnectRefuses(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		right := startServer(t, "--cert", f.serverECDSA, "--key", f.serverECDSAKey)
		elsewhere := startServer(t, "--cert", f.serverOtherNames)
		mutual := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey,
			"--client-auth", "require-and-verify", "--client-ca", f.ca,
			// s2n would let the client wait for the alert.
			"--max-blinding-delay", "-1s")
		for _, tc := range []struct {
			name    string
			address string
			args    []string
			says    string
		}{
			{"untrusted", right.address, []string{"--ca", f.otherCA}, "unknown authority"},
			{"wrong name", elsewhere.address, []string{"--ca", f.ca}, "not valid for the name"},
			{"wrong SNI", right.address, []string{"--ca", f.ca, "--servername", "elsewhere.example"}, "not valid for the name"},
			{"no certificate", mutual.address, []string{"--ca", f.ca}, "alert"},
			{"stranger", mutual.address, []string{"--ca", f.ca, "--cert", f.strangerClient, "--key", f.strangerClientKey}, "alert"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				args := append([]string{"connect", tc.address, "--json", "--provider", p.Name(), "--max-version", "1.2"}, tc.args...)
				r := runPolytls(t, noInput(), args...)
				assert.Equal(t, exitFailure, r.status)
				assert.Contains(t, r.stderr, p.Name()+": ")
				assert.Contains(t, r.stderr, tc.says)
				assert.Empty(t, r.stdout)
			})
		}
		r := runPolytls(t, noInput(), "connect", elsewhere.address, "--provider", p.Name(), "--ca", f.ca, "--alternative-name", "elsewhere.example")
		assert.Equal(t, 0, r.status, "the servers live on: %s", r.stderr)
	})
}

func TestPlainHTTPPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		r := runPolytls(t, noInput(), "connect", listener.Addr().String(), "--provider", p.Name())
		assert.Equal(t, exitFailure, r.status)
		assert.Contains(t, r.stderr, tlsapi.KindNotTLS.Error())
		assert.Empty(t, r.stdout)
	})
}

// countingListener accepts everything and counts.
func countingListener(t *testing.T) (address string, connections func() int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 100)
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
			accepted <- conn
		}
	}()
	return listener.Addr().String(), func() int {
		listener.Close()
		n := 0
		for range accepted {
			n++
		}
		return n
	}
}

// optionArgs are command lines that use one feature each that a provider may
// not have; DIR stands for a folder of the test.
var optionArgs = map[tlsapi.Feature][]string{
	tlsapi.ClientSessionCache:      {"connect", "--session-file", "DIR/sessions"},
	tlsapi.ClientConfigCache:       {"connect", "--config-cache-size", "3"},
	tlsapi.ServerConfigCache:       {"serve", "--config-cache-size", "3"},
	tlsapi.ClientKeyLog:            {"connect", "--key-log", "DIR/keys"},
	tlsapi.ClientRequirePSK:        {"connect", "--psk", "me:000102030405060708090a0b0c0d0e0f", "--require-psk"},
	tlsapi.ServerSessionTicketKeys: {"serve", "--ticket-key-file", "DIR/tickets"},
	tlsapi.ServerKeyLog:            {"serve", "--key-log", "DIR/keys"},
	tlsapi.ServerALPNStrict:        {"serve", "--alpn", "h2", "--alpn-strict"},
	tlsapi.ServerSignatureSchemes:  {"serve", "--signature-schemes", "ecdsa_secp256r1_sha256"},
	tlsapi.ClientSecondKeyShareOn:  {"connect", "--second-key-share", "on"},
	tlsapi.ClientSecondKeyShareOff: {"connect", "--second-key-share", "off"},
	tlsapi.ClientPSKExternal:       {"connect", "--psk", "me:000102030405060708090a0b0c0d0e0f"},
	tlsapi.ClientPSKImported:       {"connect", "--psk", "me:000102030405060708090a0b0c0d0e0f", "--psk-kind", "imported"},
	tlsapi.ClientPSKTLS12:          {"connect", "--psk", "me:000102030405060708090a0b0c0d0e0f", "--psk-kind", "tls12"},
	tlsapi.ClientBlinding:          {"connect", "--max-blinding-delay", "1s"},
	tlsapi.ClientSignatureSchemes:  {"connect", "--signature-schemes", "ecdsa_secp256r1_sha256"},
	tlsapi.ClientPolicyNamed:       {"connect", "--security-policy", "20230317"},
	tlsapi.ServerPSKExternal:       {"serve", "--psk", "me:000102030405060708090a0b0c0d0e0f"},
	tlsapi.ServerPSKImported:       {"serve", "--psk", "me:000102030405060708090a0b0c0d0e0f", "--psk-kind", "imported"},
	tlsapi.ServerPSKTLS12:          {"serve", "--psk", "me:000102030405060708090a0b0c0d0e0f", "--psk-kind", "tls12"},
	tlsapi.ServerBlinding:          {"serve", "--max-blinding-delay", "1s"},
	tlsapi.ServerPolicyNamed:       {"serve", "--security-policy", "20230317"},
}

// An option that a provider does not have is refused, naming both, before the
// peer hears anything.
func TestUnsupportedOptionsAreRefused(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		for feature, args := range optionArgs {
			if supports(p, feature) {
				continue
			}
			t.Run(string(feature), func(t *testing.T) {
				address, connections := countingListener(t)
				dir := t.TempDir()
				require.NoError(t, os.WriteFile(dir+"/tickets", []byte(strings.Repeat("0f", 32)), 0o600))
				args := append([]string{args[0], address, "--provider", p.Name()}, args[1:]...)
				for i := range args {
					args[i] = strings.Replace(args[i], "DIR", dir, 1)
				}
				if args[0] == "serve" {
					args[1] = "127.0.0.1:0"
					args = append(args, "--cert", f.serverECDSA, "--key", f.serverECDSAKey)
				}
				r := runPolytls(t, noInput(), args...)
				assert.Equal(t, exitFailure, r.status)
				assert.Contains(t, r.stderr, p.Name()+": ")
				assert.Contains(t, r.stderr, "unsupported")
				assert.Empty(t, r.stdout)
				assert.Zero(t, connections())
			})
		}
	})
}

// A peer that cuts the connection makes the command fail: what came may be
// incomplete.
func TestCutConnection(t *testing.T) {
	f := files(t)
	certificate, err := tls.LoadX509KeyPair(f.serverECDSA, f.serverECDSAKey)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			transport, err := listener.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(transport, &tls.Config{Certificates: []tls.Certificate{certificate}})
			_, _ = conn.Write([]byte("part"))
			transport.Close()
		}
	}()
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		r := runWithOpenInput(t, "connect", listener.Addr().String(), "--provider", p.Name(), "--ca", f.ca)
		assert.Equal(t, exitFailure, r.status)
		assert.Contains(t, r.stderr, io.ErrUnexpectedEOF.Error())
		assert.Equal(t, "part", r.stdout)
	})
}

// runWithOpenInput runs a command whose input stays open: it has to end by
// itself.
func runWithOpenInput(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	return runProcess(ctx, t, polytls(ctx, t, args...), read)
}

func TestKeyLog(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ClientKeyLog, tlsapi.ServerKeyLog) {
			t.Skip("its refusal has a test of its own")
		}
		dir := t.TempDir()
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSACombined, "--key-log", dir+"/server")
		r := runPolytls(t, noInput(), "connect", s.address, "--provider", p.Name(), "--ca", f.ca, "--key-log", dir+"/client")
		require.Equal(t, 0, r.status, r.stderr)
		s.stop(t)
		assert.Contains(t, textOf(t, dir+"/client"), "CLIENT_TRAFFIC_SECRET_0 ")
		assert.ElementsMatch(t, strings.Split(textOf(t, dir+"/client"), "\n"), strings.Split(textOf(t, dir+"/server"), "\n"))
	})
}

func TestSilentPeerAndHandshakeTimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		begin := time.Now()
		r := runPolytls(t, noInput(), "connect", listener.Addr().String(), "--provider", p.Name(), "--handshake-timeout", "200ms")
		assert.Equal(t, exitFailure, r.status)
		assert.Contains(t, r.stderr, "timeout")
		assert.Less(t, time.Since(begin), 10*time.Second)
	})
}

func TestConnectionRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	listener.Close()
	r := runPolytls(t, noInput(), "connect", address)
	assert.Equal(t, exitFailure, r.status)
	assert.Contains(t, r.stderr, address)
}

// Clients that send garbage, plain HTTP, nothing, or part of a handshake do
// not disturb the others.
func TestBadClientsDoNotStopTheServer(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--handshake-timeout", "300ms")
		comeBadClients(t, s.address)
		r := runPolytls(t, strings.NewReader("still there"), "connect", s.address, "--ca", f.ca)
		assert.Equal(t, 0, r.status, r.stderr)
		assert.Equal(t, "still there", r.stdout)
		s.stop(t)
		assert.Equal(t, 4, strings.Count(s.log.String(), "handshake failed"), s.log)
	})
}

// Nor do they take the places of the others where files are served.
func TestBadClientsDoNotStopTheFileServer(t *testing.T) {
	f := files(t)
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), []byte("still there"), 0o600))
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--handshake-timeout", "300ms",
			"--root", root, "--max-connections", "1")
		comeBadClients(t, s.address)
		for range 2 {
			client := pageClient(t, p, false)
			response, body := get(t, client, "https://"+s.address+"/file", "")
			client.CloseIdleConnections()
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Equal(t, "still there", body)
		}
		s.stop(t)
		assert.Equal(t, 4, strings.Count(s.log.String(), "handshake failed"), s.log)
		assert.Regexp(t, `(?s)"connection ended" client=127\.0\.0\.1:[0-9]+ version="TLS 1.*"connection ended" client=`, s.log.String())
	})
}

// comeBadClients connects clients that send nothing, garbage, plain HTTP and part
// of a handshake, one after the other, until the server closes each.
func comeBadClients(t *testing.T, address string) {
	t.Helper()
	garbage := make([]byte, 4096)
	_, err := rand.Read(garbage)
	require.NoError(t, err)
	for _, bytes := range [][]byte{nil, garbage, []byte("GET / HTTP/1.1\r\n\r\n"), {22, 3, 1, 0, 200, 1}} {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		_, err = conn.Write(bytes)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(commandTime)))
		_, err = io.Copy(io.Discard, conn)
		// Reset is as good: the server closed with bytes of ours unread.
		assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "the server did not close the connection: %v", err)
		conn.Close()
	}
}

func TestOnce(t *testing.T) {
	f := files(t)
	s := startServer(t, "--once", "--cert", f.serverECDSACombined)
	r := runPolytls(t, strings.NewReader("one"), "connect", s.address, "--ca", f.ca)
	assert.Equal(t, result{"one", r.stderr, 0}, r)
	s.wait(t, exitSuccess)
	r = runPolytls(t, noInput(), "connect", s.address, "--ca", f.ca)
	assert.Equal(t, exitFailure, r.status)

	s = startServer(t, "--once", "--cert", f.serverECDSACombined)
	r = runPolytls(t, noInput(), "connect", s.address, "--ca", f.otherCA)
	assert.Equal(t, exitFailure, r.status)
	s.wait(t, exitFailure)
}

// The signal ends idle connections with a close_notify and the server with
// status 0.
func TestStopWithOpenConnections(t *testing.T) {
	f := files(t)
	for _, mode := range []string{"echo", "files"} {
		t.Run(mode, func(t *testing.T) {
			args := []string{"--cert", f.serverECDSACombined}
			if mode == "files" {
				args = append(args, "--root", t.TempDir())
			}
			s := startServer(t, args...)
			conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
			require.NoError(t, err)
			defer conn.Close()
			if mode == "files" {
				_, err = fmt.Fprint(conn, "GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
				require.NoError(t, err)
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				assert.Equal(t, http.StatusNotFound, response.StatusCode)
				_, err = io.Copy(io.Discard, response.Body)
				require.NoError(t, err)
			} else {
				_, err = fmt.Fprint(conn, "x")
				require.NoError(t, err)
				_, err = io.ReadFull(conn, make([]byte, 1))
				require.NoError(t, err)
			}
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
			ended, ok := uptime.Receive(s.ended, 4*time.Second)
			if assert.True(t, ok, "it waits for its clients") {
				s.ended <- ended
			}
			s.wait(t, exitSuccess)
			_, err = conn.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err)
		})
	}
}

func TestMaxConnections(t *testing.T) {
	f := files(t)
	s := startServer(t, "--cert", f.serverECDSACombined, "--max-connections", "1")
	first, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	second := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			err = conn.Close()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("the second connection did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	require.NoError(t, first.Close())
	require.NoError(t, <-second)
	s.stop(t)
}

func TestFilesOverHTTP(t *testing.T) {
	f := files(t)
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "hello.txt"), bytes.Repeat([]byte("hello\n"), 1<<17), 0o600))
	secret := writeFile(t, "secret", "outside")
	require.NoError(t, os.Symlink(secret, filepath.Join(root, "link")))
	// Opening it for reading waits for who writes to it.
	require.NoError(t, syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	pool, err := tlsapi.CertPoolFromFiles(f.ca)
	require.NoError(t, err)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--root", root)
		// The client is the same provider, under net/http's transport.
		client := &http.Client{Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				var dialer net.Dialer
				transport, err := dialer.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				conn, err := p.Client(transport, &tlsapi.ClientConfig{ServerName: "127.0.0.1", RootCAs: pool})
				if err != nil {
					return nil, err
				}
				return conn, conn.HandshakeContext(ctx)
			},
		}}
		defer client.CloseIdleConnections()
		for range 3 {
			response, err := client.Get("https://" + s.address + "/hello.txt")
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Len(t, body, 6<<17)
		}
		for _, path := range []string{"/link", "/../" + filepath.Base(filepath.Dir(secret)) + "/secret", "/missing"} {
			response, err := client.Get("https://" + s.address + path)
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.NotEqual(t, http.StatusOK, response.StatusCode, path)
			assert.NotContains(t, string(body), "outside")
		}
		response, err := client.Get("https://" + s.address + "/pipe")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		s.stop(t)
	})
}

func TestServeAnnouncesForPeople(t *testing.T) {
	f := files(t)
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := polytls(ctx, t, "serve", "127.0.0.1:0", "--cert", f.serverECDSACombined)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	assert.Regexp(t, `^listening on 127\.0\.0\.1:[0-9]+ \(std go.*, echo\)\n$`, line)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
}

// With --log-level warn a server tells of clients that fail, not of all.
func TestServeLogLevel(t *testing.T) {
	f := files(t)
	for level, logs := range map[string]struct{ ended, failed bool }{"info": {true, true}, "warn": {false, true}, "error": {false, false}} {
		t.Run(level, func(t *testing.T) {
			s := startServer(t, "--provider", "std", "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--log-level", level)
			assert.Equal(t, 0, runPolytls(t, noInput(), "connect", s.address, "--provider", "std", "--servername", "localhost", "--ca", f.ca).status)
			assert.Equal(t, 1, runPolytls(t, noInput(), "connect", s.address, "--provider", "std", "--servername", "localhost", "--ca", f.otherCA).status)
			s.stop(t)
			assert.Equal(t, logs.ended, strings.Contains(s.log.String(), "connection ended"))
			assert.Equal(t, logs.failed, strings.Contains(s.log.String(), "handshake failed") || strings.Contains(s.log.String(), "connection failed"))
		})
	}
}

func TestServeJSONKeys(t *testing.T) {
	f := files(t)
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := polytls(ctx, t, "serve", "127.0.0.1:0", "--cert", f.serverECDSACombined, "--json")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err)
	assert.Equal(t, words(serveKeys), keySet(t, line))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
}

// An address in use is a failure that names it.
func TestAddressInUse(t *testing.T) {
	f := files(t)
	s := startServer(t, "--cert", f.serverECDSACombined)
	r := runPolytls(t, noInput(), "serve", s.address, "--cert", f.serverECDSACombined)
	assert.Equal(t, exitFailure, r.status)
	assert.Contains(t, r.stderr, s.address)
	s.stop(t)
}

// A provider that is not built in fails with the reason, not with a crash.
func TestUnavailableProvider(t *testing.T) {
	f := files(t)
	for _, p := range providers.All() {
		reason := p.Available()
		if reason == nil {
			continue
		}
		for _, args := range [][]string{
			{"connect", "localhost:1", "--provider", p.Name()},
			{"serve", "127.0.0.1:0", "--provider", p.Name(), "--cert", f.serverECDSACombined},
		} {
			r := runPolytls(t, noInput(), args...)
			assert.Equal(t, exitFailure, r.status)
			assert.Contains(t, r.stderr, cause(reason).Error())
			assert.Empty(t, r.stdout)
		}
	}
}

// The reports have no key beside those of the promise, filled or not.
func TestReportTypesMatchThePromise(t *testing.T) {
	for keys, value := range map[string]any{
		providersKeys: []providerReport{{Features: []tlsapi.FeatureSupport{{}}}},
		matrixKeys:    matrixReport{Pairs: []pairReport{{}}},
		connectKeys:   connectReport{connectionReport: connectionReport{Peer: &peerReport{}, OCSP: &ocspReport{}}},
		pageKeys:      pageReport{connectionReport: connectionReport{Peer: &peerReport{}, OCSP: &ocspReport{}}},
		transferKeys:  transferReport{},
		versionKeys:   versionReport{},
	} {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		assert.Equal(t, words(keys), keySet(t, text), reflect.TypeOf(value))
	}
}
