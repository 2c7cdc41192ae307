package main

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

func TestStapledOCSPResponseIsTold(t *testing.T) {
	f := files(t)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		serve := []string{"--provider", p.Name(), "--cert", f.serverECDSACombined, "--ocsp", f.ocspGood}
		if !supports(p, tlsapi.ServerOCSP) {
			requireRefusal(t, tlsapi.ServerOCSP, append([]string{"serve", "127.0.0.1:0"}, serve...)...)
			serve[1] = "std"
		}
		s := startServer(t, serve...)
		connect := []string{"connect", s.address, "--servername", "localhost", "--provider", p.Name(), "--ca", f.ca}
		r := runPolytls(t, noInput(), append(connect, "--json")...)
		require.Equal(t, exitSuccess, r.status, r.stderr)
		var report connectReport
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
		assert.False(t, report.RevocationChecked)
		if !supports(p, tlsapi.ClientOCSP) {
			t.Skipf("%s declares %s unsupported", p.Name(), tlsapi.ClientOCSP)
		}
		assert.Equal(t, words(connectKeys), keySet(t, []byte(r.stdout)))
		require.NotNil(t, report.OCSP)
		assert.Equal(t, "good", report.OCSP.Status)
		assert.True(t, report.OCSP.Verified)
		assert.NotEmpty(t, report.OCSP.ThisUpdate)
		r = runPolytls(t, noInput(), connect...)
		assert.Contains(t, r.stderr, "stapled OCSP    good 20")
		s.stop(t)
	})
}

func TestRevocationLists(t *testing.T) {
	f := files(t)
	s := startServer(t, "--cert", f.serverECDSACombined)
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		connect := func(list ...string) []string {
			return append([]string{"connect", s.address, "--servername", "localhost", "--provider", p.Name(), "--ca", f.ca}, list...)
		}
		if !supports(p, tlsapi.ClientRevocationLists) {
			requireRefusal(t, tlsapi.ClientRevocationLists, connect("--crl", f.crl)...)
			return
		}
		r := runPolytls(t, noInput(), connect("--crl", f.crl, "--json")...)
		require.Equal(t, exitSuccess, r.status, r.stderr)
		var report connectReport
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
		assert.True(t, report.RevocationChecked)
		r = runPolytls(t, noInput(), connect("--crl", f.crl)...)
		assert.Contains(t, r.stderr, "checked with the lists of --crl")

		r = runPolytls(t, noInput(), connect("--crl", f.crlRevoking)...)
		assert.Equal(t, exitFailure, r.status)
		assert.Contains(t, r.stderr, "revoked")
	})
	s.stop(t)
}

// requireRefusal runs a command that uses a feature that its provider has not.
func requireRefusal(t *testing.T, feature tlsapi.Feature, args ...string) {
	t.Helper()
	r := runPolytls(t, noInput(), args...)
	assert.Equal(t, exitFailure, r.status)
	assert.Contains(t, r.stderr, string(feature))
	assert.Empty(t, r.stdout)
}

// SIGHUP makes new connections use the files as they are then.
func TestReloadBySignal(t *testing.T) {
	f := files(t)
	cert := writeFile(t, "server.pem", textOf(t, f.serverECDSACombined))
	s := startServer(t, "--cert", cert)
	serial := func() string {
		r := runPolytls(t, noInput(), "connect", s.address, "--insecure-skip-verify", "--json")
		require.Equal(t, exitSuccess, r.status, r.stderr)
		var report connectionReport
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
		return report.Peer.Serial
	}
	reload := func(text, logged string) {
		require.NoError(t, os.WriteFile(cert, []byte(text), 0o600))
		before := strings.Count(s.log.String(), logged)
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Count(s.log.String(), logged) > before }, commandTime, 10*time.Millisecond)
	}
	first := serial()
	reload("damaged", "the old configuration stays")
	assert.Equal(t, first, serial())
	reload(textOf(t, f.serverOtherNames), "read the files again")
	assert.NotEqual(t, first, serial())
	reload(textOf(t, f.serverECDSACombined), "read the files again")
	assert.Equal(t, first, serial())
	s.stop(t)
}
