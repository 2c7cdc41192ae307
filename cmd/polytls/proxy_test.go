package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// Every option of a server is one of a listener, on the command line and in the
// file, and every option of a client one of a backend.
func TestEveryOptionOfTheProxyHasAFlagAndAKey(t *testing.T) {
	root := newRootCommand()
	command, _, err := root.Find([]string{"proxy"})
	require.NoError(t, err)
	var listener listenerOptions
	var backend backendOptions
	inListener, inBackend := &cobra.Command{}, &cobra.Command{}
	listener.register(inListener)
	backend.register(inBackend)
	for _, side := range []struct {
		config any
		flags  *pflag.FlagSet
		prefix string
	}{
		{tlsapi.ServerConfig{}, inListener.Flags(), ""},
		{tlsapi.ClientConfig{}, inBackend.Flags(), "backend-"},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(side.config)) {
			if field.Anonymous || field.Type.Kind() == reflect.Func {
				continue
			}
			name := strings.TrimPrefix(optionFlags[field.Name], "--")
			assert.NotNil(t, command.Flags().Lookup(side.prefix+name), "--%s%s for %s", side.prefix, name, field.Name)
			assert.NotNil(t, side.flags.Lookup(name), "key %s for %s", name, field.Name)
		}
		// What is not of a configuration has its flag and key as well.
		side.flags.VisitAll(func(f *pflag.Flag) {
			assert.NotNil(t, command.Flags().Lookup(side.prefix+f.Name), "--%s%s", side.prefix, f.Name)
		})
	}
}

// notSettable are the features that no option of a proxy sets, and why.
var notSettable = map[tlsapi.Feature]string{
	tlsapi.ClientExternalSigner:   "a signer is a Go object",
	tlsapi.ServerExternalSigner:   "a signer is a Go object",
	tlsapi.ClientGetCertificate:   "a hook; files are reloaded",
	tlsapi.ServerGetCertificate:   "a hook; files are reloaded",
	tlsapi.ServerGetConfig:        "a hook; the configuration is reloaded",
	tlsapi.ClientVerifyConnection: "a hook",
	tlsapi.ServerVerifyConnection: "a hook",
	tlsapi.ClientHandshakeHooks:   "hooks; metrics and logs tell of handshakes",
	tlsapi.ServerHandshakeHooks:   "hooks; metrics and logs tell of handshakes",
	tlsapi.ClientOCSP:             "a property of connections",
	tlsapi.ClientCloseWrite:       "a property of connections",
	tlsapi.ServerCloseWrite:       "a property of connections",
	tlsapi.ClientExporter:         "a property of connections",
	tlsapi.ServerExporter:         "a property of connections",
	tlsapi.ClientAlerts:           "a property of connections",
	tlsapi.ServerAlerts:           "a property of connections",
	tlsapi.ServerSessionTickets:   "on unless no-tickets",
}

// Every feature of the capability matrix is used by a configuration that the
// file can say, but those above.
func TestTheFileReachesEveryFeature(t *testing.T) {
	f := files(t)
	psk := writeFile(t, "psk", "me:"+strings.Repeat("ab", 16)+"\n")
	tickets := writeFile(t, "tickets", strings.Repeat("01", 32)+"\n")
	used := map[tlsapi.Feature]bool{}
	for _, options := range []string{
		`client-auth: require-and-verify, client-ca: ` + f.ca + `, alpn: H2, alpn-strict: true, crl: ` + f.crl,
		`curves: [X25519, P-256], min-version: "1.2", max-version: "1.3", no-tickets: true, key-log: ` + t.TempDir() + `/keys`,
		`ciphers: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256], signature-schemes: ecdsa_secp256r1_sha256`,
		`security-policy: modern, max-blinding-delay: 1s, config-cache-size: 3, handshake-timeout: 3s`,
		`security-policy: AWS-CRT-SDK-TLSv1.3`,
		`ticket-key-file: ` + tickets,
		`psk-file: ` + psk + `, require-psk: true`,
		`psk-file: ` + psk + `, psk-kind: imported`,
		`psk-file: ` + psk + `, psk-kind: tls12`,
	} {
		text := "listeners: [{address: '127.0.0.1:1', certificates: [{cert: " + f.serverECDSACombined + ", ocsp: " + f.ocspGood + "}, {cert: " + f.serverRSA + ", key: " + f.serverRSAKey + "}], " + options + "}]"
		file, err := decodeOnly(t, text)
		require.NoError(t, err, options)
		l, err := file.files.resolveListener(&file.listeners[0].options, nil)
		require.NoError(t, err, options)
		for _, use := range l.TLS.Features() {
			used[use.Feature] = true
		}
	}
	for _, options := range []string{
		`servername: a, alternative-name: b, ca: ` + f.ca + `, cert: ` + f.client + `, key: ` + f.clientKey + `, alpn: H2H1, crl: ` + f.crl,
		`insecure-skip-verify: true, curves: [X25519MLKEM768, X25519], second-key-share: on, min-version: "1.3"`,
		`skip-hostname: true, second-key-share: off, no-tickets: true, key-log: ` + t.TempDir() + `/keys`,
		`ciphers: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256], signature-schemes: ecdsa_secp256r1_sha256`,
		`security-policy: modern, max-blinding-delay: 1s, config-cache-size: 3, session-file: ` + t.TempDir() + `/sessions`,
		`security-policy: AWS-CRT-SDK-TLSv1.3`,
		`psk-file: ` + psk + `, require-psk: true`,
		`psk-file: ` + psk + `, psk-kind: imported`,
		`psk-file: ` + psk + `, psk-kind: tls12`,
	} {
		file, err := decodeOnly(t, "listeners: [{address: '127.0.0.1:1', backends: [{address: 'localhost:1', provider: std, "+options+"}]}]")
		require.NoError(t, err, options)
		b, err := file.files.resolveBackend(&file.listeners[0].backends[0].options)
		require.NoError(t, err, options)
		for _, use := range b.TLS.Features() {
			used[use.Feature] = true
		}
	}
	for _, feature := range tlsapi.AllFeatures() {
		reason, exempt := notSettable[feature]
		assert.NotEqual(t, exempt, used[feature], "%s: %s", feature, reason)
	}
}

// decodeOnly reads the text of a file without the files that it names.
func decodeOnly(t *testing.T, text string) (*proxyFile, error) {
	name := writeFile(t, "proxy.yaml", text)
	p := &proxyFile{name: name, folder: filepath.Dir(name), files: newOpenFiles()}
	t.Cleanup(func() {
		for _, file := range p.files.keyLogs {
			file.Close()
		}
	})
	root, err := parseYAML(name)
	require.NoError(t, err)
	return p, p.decode(root, io.Discard)
}

// minimal is a file that is good, with places to put something in.
func minimal(f *testFiles, top, listener, backend string) string {
	return top + `
listeners:
  - address: 127.0.0.1:0
    certificates:
      - cert: ` + f.serverECDSA + `
        key: ` + f.serverECDSAKey + `
` + listener + `
    backends:
      - address: localhost:1
` + backend + "\n"
}

// pairs is a configuration with another certificate in line 5.
func pairs(f *testFiles, another string) string {
	return "listeners:\n  - address: 127.0.0.1:0\n    certificates:\n      - cert: " + f.serverECDSACombined + "\n" + another + "\n    backends: [{address: a:1}]\n"
}

// Every mistake is named with its line and field, and nothing is served.
func TestWrongConfigurations(t *testing.T) {
	f := files(t)
	const top, listener, backend = 1, 7, 10 // the lines of the places
	for _, tc := range []struct {
		text  string
		line  int
		field string
		says  string
	}{
		{"", 0, "", "it is empty"},
		{"listeners: [", 1, "", "did not find"},
		{"- a\n- b\n", 1, "", "options are expected"},
		{"admin: x:1\n---\nadmin: y:1\n", 2, "", "second document"},
		{"admin: 127.0.0.1:0\n", 1, "listeners", "there is none"},
		{"listeners: {}\n", 1, "listeners", "a list is expected"},
		{"listeners:\n  - 5\n", 2, "listeners[0]", "options are expected"},
		{minimal(f, "lisseners: []", "", ""), top, "lisseners", "did you mean listeners?"},
		{minimal(f, "admin: nowhere", "", ""), top, "admin", "neither HOST:PORT nor unix:PATH"},
		{minimal(f, "drain-timeout: 5", "", ""), top, "drain-timeout", "missing unit"},
		{minimal(f, "drain-timeout: -5s", "", ""), top, "drain-timeout", "negative"},
		{minimal(f, "access-log-format: xml", "", ""), top, "access-log-format", "neither text nor json"},
		{minimal(f, "access-log: /", "", ""), top, "access-log", "is a directory"},
		{minimal(f, "", "    curve: X25519", ""), listener, "listeners[0].curve", "did you mean curves?"},
		{minimal(f, "", "    cert: a.pem", ""), listener, "listeners[0].cert", "no such option"},
		{minimal(f, "", "    curves: [X25519, brainpool]", ""), listener, "listeners[0].curves", "brainpool"},
		{minimal(f, "", "    curves: []", ""), listener, "listeners[0].curves", "empty"},
		{minimal(f, "", "    curves:", ""), listener, "listeners[0].curves", "no value"},
		{minimal(f, "", "    curves: {a: b}", ""), listener, "listeners[0].curves", "not options of its own"},
		{minimal(f, "", "    mode: [http, tcp]", ""), listener, "listeners[0].mode", "one value"},
		{minimal(f, "", "    mode: smtp", ""), listener, "listeners[0].mode", "neither http nor tcp"},
		{minimal(f, "", "    provider: gnutls", ""), listener, "listeners[0].provider", "std"},
		{minimal(f, "", "    alpn: [h2, smtp]", ""), listener, "listeners[0].alpn", "not served in mode http"},
		{minimal(f, "", "    alpn-strict: maybe", ""), listener, "listeners[0].alpn-strict", `"maybe" is neither true nor false`},
		{minimal(f, "", "    min-version: \"1.3\"\n    max-version: \"1.2\"", ""), listener, "listeners[0].min-version", "1.3"},
		{minimal(f, "", "    name: a\n    name: b", ""), listener + 1, "listeners[0].name", "set twice"},
		{minimal(f, "", "    max-connections: many", ""), listener, "listeners[0].max-connections", `"many" is no number`},
		{minimal(f, "", "    max-connections: 99999999999999999999", ""), listener, "listeners[0].max-connections", "out of range"},
		{minimal(f, "", "    max-connections: 0", ""), listener, "listeners[0].max-connections", "less than 1"},
		{minimal(f, "", "    idle-timeout: -1s", ""), listener, "listeners[0].idle-timeout", "negative"},
		{minimal(f, "", "    accept-proxy: trusted", ""), listener, "listeners[0].accept-proxy", "trusted-proxies"},
		{minimal(f, "", "    trusted-proxies: [10.0.0.0/33]", ""), listener, "listeners[0].trusted-proxies", "10.0.0.0/33"},
		{minimal(f, "", "    client-auth: require-and-verify", ""), listener - 4, "listeners[0].client-ca", "CA"},
		{minimal(f, "", "    client-ca: missing.pem", ""), listener - 4, "listeners[0].client-auth", "require-and-verify"},
		{minimal(f, "", "    client-auth: request\n    client-ca: missing.pem", ""), listener + 1, "listeners[0].client-ca", "missing.pem"},
		{minimal(f, "", "    ticket-key-file: "+f.ca, ""), listener, "listeners[0].ticket-key-file", "line 1"},
		{minimal(f, "", "    psk: [me:short]", ""), listener, "listeners[0].psk", "entry 1"},
		{minimal(f, "", "    max-blinding-delay: 1s\n    security-policy: modern\n    curves: X25519", ""), listener + 1, "listeners[0].security-policy", "curves"},
		{minimal(f, "", "    second-key-share: on", ""), listener, "listeners[0].second-key-share", "no such option"},
		{minimal(f, "", "    provider: std\n    signature-schemes: rsa_pkcs1_sha256", ""), listener + 1, "listeners[0].signature-schemes", "std"},
		{minimal(f, "", "", "        h2c: maybe"), backend, "listeners[0].backends[0].h2c", `"maybe" is neither true nor false`},
		{minimal(f, "", "", "        curves: X25519"), backend, "listeners[0].backends[0].curves", "without a provider"},
		{minimal(f, "", "", "        send-proxy: 3"), backend, "listeners[0].backends[0].send-proxy", "neither off, 1 nor 2"},
		{minimal(f, "", "", "        max-idle: -3"), backend, "listeners[0].backends[0].max-idle", "negative"},
		{minimal(f, "", "", "        provider: std\n        h2c: true"), backend + 1, "listeners[0].backends[0].h2c", "alpn"},
		{minimal(f, "", "", "        provider: std\n        cert: "+f.client), backend + 1, "listeners[0].backends[0].cert", "private key"},
		{minimal(f, "", "", "        provider: std\n        ca: gone.pem"), backend + 1, "listeners[0].backends[0].ca", "gone.pem"},
		{minimal(f, "", "", "        provider: std\n        servername: a b"), backend + 1, "listeners[0].backends[0].servername", "0x20"},
		{minimal(f, "", "", "      - h2c: true"), backend, "listeners[0].backends[1].address", "missing"},
		{minimal(f, "", "", "      - address: nowhere"), backend, "listeners[0].backends[1].address", "HOST:PORT"},
		{minimal(f, "", "", "      - address: a:0"), backend, "listeners[0].backends[1].address", "port 0"},
		{"listeners:\n  - address: 127.0.0.1:0\n    backends: [{address: a:1}]\n", 2, "listeners[0].certificates", "there is none"},
		{"listeners:\n  - certificates: [{cert: " + f.serverECDSACombined + "}]\n    backends: [{address: a:1}]\n", 2, "listeners[0].address", "missing"},
		{"listeners:\n  - address: a:1\n    certificates:\n      - cert: gone.pem\n    backends: [{address: a:1}]\n", 4, "listeners[0].certificates[0].cert", "gone.pem"},
		{minimal(f, "", "    certificates:\n      - cert: "+f.serverECDSACombined+"\n      - cert: "+f.client, ""), listener, "listeners[0].certificates", "set twice"},
		{pairs(f, "      - key: "+f.serverRSAKey+"\n        cert: "+f.serverECDSA), 6, "listeners[0].certificates[1].cert", "does not belong"},
		{pairs(f, "      - cert: "+f.serverECDSACombined+"\n        ocsp: "+f.ca), 6, "listeners[0].certificates[1].ocsp", "OCSP"},
		{"listeners:\n  - address: a:1\n    certificates:\n      - key: " + f.serverECDSAKey + "\n", 4, "listeners[0].certificates[0].cert", "missing"},
		{"listeners:\n  - address: a:1\n    certificates: [{cert: " + f.serverECDSACombined + "}]\n", 2, "listeners[0].backends", "there is none"},
		{minimal(f, "", "", "") + "  - address: 127.0.0.1:0\n    name: 127.0.0.1:0\n    certificates: [{cert: " + f.serverECDSACombined + "}]\n    backends: [{address: a:1}]\n", 12, "listeners[1].name", "too"},
	} {
		t.Run(tc.field+" "+tc.says, func(t *testing.T) {
			name := writeFile(t, "proxy.yaml", tc.text)
			// With the time of a command that would serve.
			r := runHere("proxy", "--config", name, "--check", "--json")
			assert.Equal(t, exitFailure, r.status, r.stderr)
			place := name
			if tc.line > 0 {
				place += fmt.Sprintf(":%d", tc.line)
			}
			if tc.field != "" {
				place += ": " + tc.field
			}
			assert.Contains(t, r.stderr, place+": ")
			assert.Contains(t, r.stderr, tc.says)
			var report checkReport
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
			assert.Equal(t, checkReport{Error: report.Error, File: name, Line: tc.line, Field: tc.field}, report)
		})
	}
}

func TestSecretsOfTheProxyAreNotPrinted(t *testing.T) {
	const secret = "c0ffee00c0ffee11c0ffee22c0ffee33"
	for _, spec := range []string{"me:" + secret + "x", secret, "me:" + secret + ":md5"} {
		name := writeFile(t, "proxy.yaml", minimal(files(t), "", "    psk: ["+spec+"]", ""))
		r := runHere("proxy", "--config", name, "--check", "--json")
		assert.Equal(t, exitFailure, r.status)
		assert.NotContains(t, r.stdout+r.stderr, secret)
	}
}

func TestWrongFlagsOfTheProxy(t *testing.T) {
	f := files(t)
	good := []string{"--cert", f.serverECDSACombined, "--backend", "localhost:1"}
	config := writeFile(t, "proxy.yaml", minimal(f, "", "", ""))
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--cert", f.serverECDSACombined}, exitUsage, "--backend is missing"},
		{[]string{"--backend", "localhost:1"}, exitUsage, "--cert and --key are missing"},
		{append([]string{"nowhere"}, good...), exitUsage, "HOST:PORT"},
		{append(good, "--mode", "smtp"), exitUsage, "--mode: "},
		{append(good, "--backend", "nowhere"), exitUsage, "--backend: "},
		{append(good, "--backend-curves", "X25519"), exitUsage, "--backend-curves: "},
		{append(good, "--backend-curves", "nonsense"), exitUsage, "--backend-curves"},
		{append(good, "--backend-provider", "std", "--backend-ca", "gone.pem"), exitFailure, "--backend-ca: "},
		{append(good, "--backend-provider", "std", "--backend-h2c"), exitUsage, "--backend-h2c: "},
		{append(good, "--send-proxy", "1"), exitUsage, "unknown flag"},
		{append(good, "--backend-send-proxy", "7"), exitUsage, "--backend-send-proxy: "},
		{append(good, "--signature-schemes", "rsa_pkcs1_sha256"), exitFailure, "--signature-schemes: "},
		{append(good, "--client-ca", f.ca), exitUsage, "--client-auth: "},
		{append(good, "--access-log-format", "xml"), exitUsage, "--access-log-format: "},
		{append(good, "--trusted-proxies", "here"), exitUsage, "--trusted-proxies: "},
		{append(good, "--log-level", "loud"), exitUsage, "--log-level: "},
		{append(good, "--log-format", "xml"), exitUsage, "--log-format: "},
		{[]string{"--config", config, "--mode", "tcp"}, exitUsage, "--mode has no place beside --config"},
		{[]string{"--config", config, "127.0.0.1:1"}, exitUsage, "no place beside --config"},
		{[]string{"--config", "gone.yaml"}, exitFailure, "gone.yaml"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			r := runHere(append([]string{"proxy", "--check"}, tc.args...)...)
			assert.Equal(t, tc.status, r.status, r.stderr)
			assert.Contains(t, r.stderr, tc.says)
			assert.Empty(t, r.stdout)
		})
	}
	r := runHere(append([]string{"proxy", "--check", "--json"}, good...)...)
	assert.Equal(t, exitSuccess, r.status, r.stderr)
	assert.JSONEq(t, `{"ok":true,"listeners":1,"error":"","file":"","line":0,"field":""}`, r.stdout)
}

// The file of the documentation is complete and good.
func TestDocumentedConfiguration(t *testing.T) {
	f := files(t)
	text := textOf(t, filepath.Join("..", "..", "docs", "PROXY.md"))
	_, text, found := strings.Cut(text, "```yaml\n")
	require.True(t, found)
	text, _, found = strings.Cut(text, "\n```\n")
	require.True(t, found)
	folder := t.TempDir()
	for name, from := range map[string]string{
		"server.pem": f.serverECDSA, "server.key": f.serverECDSAKey, "server-rsa.pem": f.serverRSA, "server-rsa.key": f.serverRSAKey,
		"ca.pem": f.ca, "client.pem": f.client, "client.key": f.clientKey,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(textOf(t, from)), 0o600))
	}
	name := filepath.Join(folder, "proxy.yaml")
	// Where BoringSSL is not built in, the file is as good with std.
	var available bool
	eachProvider(t, func(_ *testing.T, p tlsapi.Provider) { available = available || p.Name() == "boringssl" })
	if !available {
		text = strings.ReplaceAll(text, "boringssl", "std")
	}
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	r := runHere("proxy", "--config", name, "--check")
	assert.Equal(t, exitSuccess, r.status, r.stderr)
	assert.Contains(t, r.stdout, "2 listener(s)")
	// "Complete" means that every option of a listener and a backend that is
	// not one of TLS is in it.
	var listener listenerOptions
	var backend backendOptions
	var options proxyOptions
	for _, register := range []func(*cobra.Command){listener.register, backend.register, options.register} {
		cmd := &cobra.Command{}
		register(cmd)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !tlsFlag(f.Name) && !slices.Contains([]string{"ocsp", "ticket-key-file", "client-auth", "client-ca", "alpn-strict"}, f.Name) {
				assert.Regexp(t, `(?m)^[ #-]*`+f.Name+":", text)
			}
		})
	}
}

// runningProxy is a "polytls proxy" in a process.
type runningProxy struct {
	*runningServer
	admin string
}

func startProxy(t *testing.T, args ...string) *runningProxy {
	t.Helper()
	if !slices.Contains(args, "--config") && !slices.Contains(args, "--drain-timeout") {
		// Connections without a request then hold it for a quarter of a second.
		args = append(args, "--drain-timeout", "1s")
	}
	s := &runningServer{cmd: polytls(context.Background(), t, append([]string{"proxy", "--json"}, args...)...), log: &syncBuffer{}, ended: make(chan error, 1)}
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
	assert.Equal(t, words("listeners listeners.name listeners.address listeners.mode listeners.provider listeners.library_version admin"), keySet(t, line))
	var announced struct {
		Listeners []struct{ Address string }
		Admin     string
	}
	require.NoError(t, json.Unmarshal(line, &announced))
	s.address = announced.Listeners[0].Address
	return &runningProxy{s, announced.Admin}
}

// hello is a backend that says who it is.
func hello(t *testing.T, name string) string {
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, name)
	}))
	t.Cleanup(b.Close)
	return b.Listener.Addr().String()
}

// httpsClient trusts the CA of the test.
func httpsClient(t *testing.T, http2 bool) *http.Client {
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(textOf(t, files(t).ca))))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, ForceAttemptHTTP2: http2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: commandTime}
}

func ask(client *http.Client, url string) (text, certificate string, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), resp.TLS.PeerCertificates[0].SerialNumber.String(), err
}

func TestProxyWithFlags(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startProxy(t, "127.0.0.1:0", "--provider", p.Name(), "--cert", f.serverECDSACombined, "--backend", hello(t, "plain"), "--admin", "127.0.0.1:0")
		for _, http2 := range []bool{false, true} {
			text, _, err := ask(httpsClient(t, http2), "https://"+s.address)
			require.NoError(t, err)
			assert.Equal(t, "plain", text)
		}
		resp, err := http.Get("http://" + s.admin + "/metrics")
		require.NoError(t, err)
		defer resp.Body.Close()
		metrics, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Regexp(t, `polytls_handshakes_total\{.*provider="`+p.Name()+`",result="success",role="server",.*\} 2\n`, string(metrics))

		// Another proxy in front, over TLS with a certificate of its own.
		inner := startProxy(t, "127.0.0.1:0", "--cert", f.serverECDSACombined, "--backend", hello(t, "inner"),
			"--client-auth", "require-and-verify", "--client-ca", f.ca)
		outer := startProxy(t, "127.0.0.1:0", "--provider", p.Name(), "--cert", f.serverECDSACombined, "--backend", inner.address,
			"--backend-provider", p.Name(), "--backend-ca", f.ca, "--backend-cert", f.client, "--backend-key", f.clientKey, "--backend-servername", "localhost")
		text, _, err := ask(httpsClient(t, true), "https://"+outer.address)
		require.NoError(t, err)
		assert.Equal(t, "inner", text)
		for _, s := range []*runningProxy{outer, inner, s} {
			s.stop(t)
		}
	})
}

// The paths of Unix sockets are relative to the file, too, and are announced in
// the form of a configuration.
func TestProxyOnUnixSockets(t *testing.T) {
	f := files(t)
	folder, err := os.MkdirTemp("", "polytls") // Short enough for a socket.
	require.NoError(t, err)
	defer os.RemoveAll(folder)
	back, err := net.Listen("unix", filepath.Join(folder, "back"))
	require.NoError(t, err)
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "through sockets") })}
	go func() { _ = backend.Serve(back) }()
	defer backend.Close()
	name := filepath.Join(folder, "proxy.yaml")
	require.NoError(t, os.WriteFile(name, []byte("admin: unix:admin\ndrain-timeout: 1s\nlisteners:\n  - address: unix:front\n    certificates: [{cert: "+
		f.serverECDSACombined+"}]\n    backends: [{address: \"unix:back\"}]\n"), 0o600))
	s := startProxy(t, "--config", name)
	assert.Equal(t, "unix:"+filepath.Join(folder, "front"), s.address)
	assert.Equal(t, "unix:"+filepath.Join(folder, "admin"), s.admin)
	over := func(path string) *http.Client {
		client := httpsClient(t, false)
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(folder, path))
		}
		return client
	}
	text, _, err := ask(over("front"), "https://localhost")
	require.NoError(t, err)
	assert.Equal(t, "through sockets", text)
	resp, err := over("admin").Get("http://localhost/healthz")
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	s.stop(t)
}

func TestProxyWithCurl(t *testing.T) {
	curl := peer(t, "curl")
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startProxy(t, "127.0.0.1:0", "--provider", p.Name(), "--cert", f.serverECDSACombined, "--backend", hello(t, "to curl"))
		for _, version := range []string{"--http1.1", "--http2"} {
			for _, protocol := range []string{"1.2", "1.3"} {
				out, err := exec.Command(curl, "-sS", version, "--tlsv"+protocol, "--tls-max", protocol, "--cacert", f.ca, "--max-time", "30",
					"--data", "@"+f.ca, "-w", " %{http_version}", "--connect-to", "localhost:443:"+s.address, "https://localhost/").CombinedOutput()
				require.NoError(t, err, "%s", out)
				assert.Equal(t, "to curl "+map[string]string{"--http1.1": "1.1", "--http2": "2"}[version], string(out))
			}
		}
	})
}

// reissue writes a new certificate for localhost in place of that of path, and
// returns its serial number.
func reissue(t *testing.T, authority *tls.Certificate, path string) string {
	c, err := issueECDSA(authority, &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	require.NoError(t, pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	require.NoError(t, os.WriteFile(path+".new", text.Bytes(), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	return c.Leaf.SerialNumber.String()
}

// A process under load: certificates and the file change, by signal and by
// being written, mistakes are refused, it drains at SIGTERM. No request is lost.
func TestProxyProcessUnderLoad(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		authority, err := issueECDSA(nil, &x509.Certificate{
			Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		})
		require.NoError(t, err)
		folder := t.TempDir()
		cert, name := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "proxy.yaml")
		serial := reissue(t, &authority, cert)
		first, second := hello(t, "first"), hello(t, "second")
		write := func(backend, more string) {
			text := "drain-timeout: 2s\nlisteners:\n  - address: 127.0.0.1:0\n    provider: " + p.Name() +
				"\n    certificates: [{cert: cert.pem}]\n    backends: [{address: '" + backend + "'}]\n" + more
			require.NoError(t, os.WriteFile(name+".new", []byte(text), 0o600))
			require.NoError(t, os.Rename(name+".new", name))
		}
		write(first, "")
		s := startProxy(t, "--config", name)

		roots := x509.NewCertPool()
		roots.AddCert(authority.Leaf)
		newClient := func(http2, keep bool) *http.Client {
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, ForceAttemptHTTP2: http2, DisableKeepAlives: !keep}
			t.Cleanup(tr.CloseIdleConnections)
			return &http.Client{Transport: tr, Timeout: commandTime}
		}
		var stopped atomic.Bool
		var running sync.WaitGroup
		var done atomic.Int64
		for _, client := range []*http.Client{newClient(false, true), newClient(true, true), newClient(false, false)} {
			running.Go(func() {
				for !stopped.Load() {
					if _, _, err := ask(client, "https://"+s.address); assert.NoError(t, err) {
						done.Add(1)
					}
				}
			})
		}
		defer running.Wait()
		defer stopped.Store(true)
		becomes := func(what string, check func(text, serial string) bool) {
			t.Helper()
			require.Eventually(t, func() bool {
				text, serial, err := ask(newClient(false, false), "https://"+s.address)
				return err == nil && check(text, serial)
			}, commandTime, 5*time.Millisecond, what)
		}
		becomes("the first certificate", func(text, got string) bool { return text == "first" && got == serial })

		serial = reissue(t, &authority, cert)
		becomes("a certificate that was written", func(_, got string) bool { return got == serial })
		write(second, "")
		becomes("a file that was written", func(text, _ string) bool { return text == "second" })

		write(first, "    curves: [X25519, nonsense]\n")
		logged := func(words string) bool { return strings.Contains(s.log.String(), words) }
		require.Eventually(t, func() bool { return logged(name + ":7: listeners[0].curves: ") }, commandTime, 5*time.Millisecond)
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Count(s.log.String(), "was not taken over") >= 2 }, commandTime, 5*time.Millisecond)
		becomes("what was before the mistake", func(text, got string) bool { return text == "second" && got == serial })

		write(first, "")
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
		becomes("a file that was mended", func(text, _ string) bool { return text == "first" })

		until := done.Load() + 30
		require.Eventually(t, func() bool { return done.Load() > until }, commandTime, time.Millisecond)
		stopped.Store(true)
		running.Wait()
		s.stop(t)
	})
}

// SIGTERM: the requests under way are finished, then it ends with success; with
// a time limit that is too short, with failure.
func TestProxyDrains(t *testing.T) {
	f := files(t)
	for limit, status := range map[string]int{"30s": exitSuccess, "200ms": exitFailure} {
		arrived, release := make(chan struct{}), make(chan struct{})
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			select {
			case <-release:
			case <-r.Context().Done():
			}
			fmt.Fprint(w, "done")
		}))
		s := startProxy(t, "127.0.0.1:0", "--cert", f.serverECDSACombined, "--backend", backend.Listener.Addr().String(), "--drain-timeout", limit)
		answered := make(chan error, 1)
		go func() {
			text, _, err := ask(httpsClient(t, false), "https://"+s.address)
			if err == nil && text != "done" {
				err = fmt.Errorf("%q", text)
			}
			answered <- err
		}()
		<-arrived
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
		require.Eventually(t, func() bool {
			c, err := net.Dial("tcp", s.address)
			if err == nil {
				c.Close()
			}
			return err != nil
		}, commandTime, time.Millisecond)
		if status == exitSuccess {
			close(release)
			assert.NoError(t, <-answered)
		} else {
			assert.Error(t, <-answered)
		}
		s.wait(t, status)
		backend.Close()
	}
}

func TestProxyAccessLogRotation(t *testing.T) {
	f := files(t)
	path := filepath.Join(t.TempDir(), "access.log")
	s := startProxy(t, "127.0.0.1:0", "--cert", f.serverECDSACombined, "--backend", hello(t, "x"), "--access-log", path)
	lines := func(path string) int {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0
		}
		return bytes.Count(text, []byte("\n"))
	}
	_, _, err := ask(httpsClient(t, false), "https://"+s.address)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return lines(path) == 1 }, commandTime, time.Millisecond)
	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { _, err := os.Stat(path); return err == nil }, commandTime, time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "took over") }, commandTime, time.Millisecond)
	_, _, err = ask(httpsClient(t, false), "https://"+s.address)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return lines(path) == 1 && lines(path+".1") == 1 }, commandTime, time.Millisecond)
	s.stop(t)
}
