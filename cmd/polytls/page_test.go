package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// pageClient is a client of a provider; the page is the same provider's.
func pageClient(t *testing.T, p tlsapi.Provider, http2 bool, certificate ...string) *http.Client {
	t.Helper()
	roots, err := tlsapi.CertPoolFromFiles(files(t).ca)
	require.NoError(t, err)
	config := &tlsapi.ClientConfig{RootCAs: roots, ServerName: "localhost"}
	if len(certificate) == 2 {
		cert, err := tlsapi.LoadCertificate(certificate[0], certificate[1])
		require.NoError(t, err)
		config.Certificate = &cert
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	transport := &httptls.Transport{Provider: p, Config: config, HTTP: &http.Transport{Protocols: protocols}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: commandTime}
}

func get(t *testing.T, client *http.Client, url, accept string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := client.Do(request)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response, string(body)
}

func TestPage(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey,
			"--client-auth", "verify-if-given", "--client-ca", f.ca, "--page")
		url := "https://" + s.address
		for _, http2 := range []bool{false, true} {
			client := pageClient(t, p, http2, f.client, f.clientKey)
			response, body := get(t, client, url+"/json", "")
			assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
			assert.Equal(t, withoutOCSP(pageKeys), keySet(t, []byte(body)))
			var report pageReport
			require.NoError(t, json.Unmarshal([]byte(body), &report))
			assert.Equal(t, p.Name(), report.Provider)
			assert.Equal(t, p.LibraryVersion(), report.LibraryVersion)
			assert.Equal(t, response.Proto, report.Protocol)
			assert.Equal(t, map[bool]string{false: "http/1.1", true: "h2"}[http2], report.ALPN)
			assert.Equal(t, http2, response.ProtoMajor == 2)
			assert.Equal(t, tlsapi.VersionName(response.TLS.Version), report.Version)
			assert.Equal(t, tlsapi.CipherSuiteName(response.TLS.CipherSuite), report.CipherSuite)
			assert.Equal(t, tlsapi.CurveName(response.TLS.CurveID), report.Group)
			assert.Equal(t, "localhost", report.ServerName)
			assert.NotEmpty(t, report.KeyShares)
			require.NotNil(t, report.Peer)
			assert.Equal(t, "Client Ltd", report.Peer.Organization)
			assert.True(t, report.Verified)

			response, body = get(t, client, url+"/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
			assert.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"))
			assert.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
			for _, fact := range []string{p.Name(), report.Version, report.CipherSuite, report.ALPN, "Client Ltd", report.Peer.SHA256, "localhost"} {
				assert.Contains(t, body, "<td>"+fact+"</td>", fact)
			}
			response, body = get(t, client, url+"/", "application/json")
			assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
			assert.True(t, json.Valid([]byte(body)))
			response, _ = get(t, client, url+"/elsewhere", "")
			assert.Equal(t, http.StatusNotFound, response.StatusCode)
		}
		_, body := get(t, pageClient(t, p, true), url+"/json", "")
		var report pageReport
		require.NoError(t, json.Unmarshal([]byte(body), &report))
		assert.Nil(t, report.Peer)
		assert.False(t, report.Verified)
		s.stop(t)
	})
}

func TestPageChoosesTheForm(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                     false,
		"*/*":                                  false,
		"text/html":                            false,
		"application/json":                     true,
		"application/*":                        true,
		"text/html, application/json":          false,
		"text/html;q=0.5, application/json":    true,
		"application/json;q=0.5, text/html":    false,
		"application/json, */*;q=0.1":          true,
		"application/json;q=0, */*":            false,
		"application/json;q=high":              false,
		"text/*, application/json;q=0.9":       false,
		"text/html;q=0, */*":                   true,
		";;;,, application/json":               true,
		"application/json; charset=utf-8":      true,
		"text/plain, application/json;q=0.001": true,
	} {
		assert.Equal(t, want, prefersJSON(accept), "%q", accept)
	}
}

func TestPageTellsGrease(t *testing.T) {
	assert.Equal(t, "0x3a3a (GREASE), X25519, 0x3a4a, 0x0011", keyShareTexts([]string{"0x3a3a", "X25519", "0x3a4a", "0x0011"}))
	assert.Empty(t, keyShareTexts(nil))
}

// A browser's protocols with a program that is not ours.
func TestPageCurl(t *testing.T) {
	program := peer(t, "curl")
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--page")
		for _, version := range []string{"--http1.1", "--http2"} {
			ctx := peerContext(t)
			cmd := exec.CommandContext(ctx, program, "--disable", "--silent", "--show-error", "--noproxy", "*",
				"--resolve", "localhost:"+s.port(t)+":127.0.0.1", "--cacert", f.ca, version, "--header", "Accept: application/json",
				"https://localhost:"+s.port(t)+"/")
			r := runProcess(ctx, t, cmd, noInput())
			require.Equal(t, 0, r.status, r.stderr)
			var report pageReport
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
			assert.Equal(t, map[string]string{"--http1.1": "HTTP/1.1", "--http2": "HTTP/2.0"}[version], report.Protocol)
			assert.Equal(t, "localhost", report.ServerName)
			assert.Contains(t, r.stdout, p.Name())
		}
		s.stop(t)
		assert.NotContains(t, s.log.String(), "failed")
	})
}

// Wrong combinations are refused before anything is listened on.
func TestPageRefuses(t *testing.T) {
	f := files(t)
	for told, args := range map[string][]string{
		"--root": {"--page", "--root", t.TempDir()},
		"--alpn": {"--page", "--alpn", "h2,spdy/3"},
	} {
		r := runPolytls(t, noInput(), append([]string{"serve", "127.0.0.1:0", "--cert", f.serverECDSACombined}, args...)...)
		assert.Equal(t, exitUsage, r.status, "%v", args)
		assert.Contains(t, r.stderr, told)
	}
}

// Stopping ends idle HTTP/2 connections cleanly and at once.
func TestPageStops(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--page", "--once")
		response, _ := get(t, pageClient(t, p, true), "https://"+s.address+"/", "")
		assert.Equal(t, 2, response.ProtoMajor)
		s.stop(t)
	})
}

// What the client chose is text on the page, whatever it is.
func TestPageEscapes(t *testing.T) {
	f := files(t)
	c, err := issueECDSA(nil, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "<script>alert(1)</script>", Organization: []string{"\x1b[31m\u202e\"'&"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	require.NoError(t, err)
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	combined := filepath.Join(dir, "client.pem")
	require.NoError(t, os.WriteFile(combined, append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), 0o600))
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--client-auth", "require-any", "--page")
		_, body := get(t, pageClient(t, p, true, combined, combined), "https://"+s.address+"/", "")
		assert.Contains(t, body, `\&lt;script\&gt;alert(1)\&lt;/script\&gt;`)
		assert.NotContains(t, body, "<script>")
		assert.NotContains(t, body, "\x1b")
		assert.NotContains(t, body, "\u202e")
		s.stop(t)
	})
}

// A client that asks and then takes nothing has no data on its connection
// either, also when a stream of HTTP/2 waits and not the connection.
func TestServeEndsStalledDownloads(t *testing.T) {
	f := files(t)
	root := t.TempDir()
	large, err := os.Create(filepath.Join(root, "large"))
	require.NoError(t, err)
	require.NoError(t, errors.Join(large.Truncate(256<<20), large.Close()))
	std, err := providers.Lookup("std")
	require.NoError(t, err)
	for _, http2 := range []bool{false, true} {
		s := startServer(t, "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--root", root, "--alpn", "H2H1", "--idle-timeout", "500ms", "--once")
		response, err := pageClient(t, std, http2).Get("https://" + s.address + "/large")
		require.NoError(t, err)
		defer response.Body.Close()
		assert.Equal(t, http2, response.ProtoMajor == 2)
		s.wait(t, 0)
	}
	// Where only HTTP/1.1 is spoken, net/http has the connection from the beginning.
	s := startServer(t, "--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--root", root, "--idle-timeout", "500ms")
	response, err := pageClient(t, std, false).Get("https://" + s.address + "/large")
	require.NoError(t, err)
	defer response.Body.Close()
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "connection ended") }, commandTime, 50*time.Millisecond)
	s.stop(t)
}
