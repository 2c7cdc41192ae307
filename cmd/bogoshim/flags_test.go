package main

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

func TestFlagsOfConnections(t *testing.T) {
	parsed, err := parse([]string{
		"-port", "1234", "-shim-id", "7", "-server", "-resume-count", "2", "-async",
		"-curves", "29", "-curves", "23", "-on-initial-expect-alpn", "foo", "-on-resume-expect-session-miss",
		"-cert-file", "c0", "-new-x509-credential", "-cert-file", "c1", "-advertise-alpn", "\x03foo\x02h2",
	})
	require.NoError(t, err)
	assert.Equal(t, "1234", parsed.port)
	assert.Equal(t, uint64(7), parsed.shimID)
	assert.True(t, parsed.server)
	assert.Equal(t, 2, parsed.resumeCount)
	for _, c := range []connection{parsed.initial, parsed.resumed} {
		assert.True(t, c.async)
		assert.Equal(t, []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}, c.curves)
		assert.Equal(t, "c0", c.certificate.certFile)
		require.Len(t, c.credentials, 1)
		assert.Equal(t, "c1", c.credentials[0].certFile)
		assert.Equal(t, []string{"foo", "h2"}, c.advertiseALPN)
	}
	assert.Equal(t, "foo", parsed.initial.expectALPN)
	assert.Empty(t, parsed.resumed.expectALPN)
	assert.False(t, parsed.initial.expectSessionMiss)
	assert.True(t, parsed.resumed.expectSessionMiss)
}

func TestWhatDoesNotApply(t *testing.T) {
	for _, args := range [][]string{
		{"-enable-channel-id"}, {"-expect-total-renegotiations", "1"}, {"-on-retry-verify-fail"}, {"-on-shim-application-settings", "x"}, {"-cipher", "3DES"},
	} {
		_, err := parse(args)
		require.Error(t, err, args)
		assert.True(t, unimplemented(err), args)
	}
	_, err := parse([]string{"-curves", "no number"})
	require.Error(t, err)
	assert.False(t, unimplemented(err), "a flag that is wrong is a failure")

	config := tlsapi.UnsupportedError("std", "Curves", "not here")
	assert.True(t, unimplemented(config))
	assert.False(t, unimplemented(&tlsapi.Error{Op: "handshake", Kind: tlsapi.KindConfig}), "a handshake that fails is a failure")
}

func TestNamesOfCAs(t *testing.T) {
	for text, want := range map[string][][]byte{"<EMPTY>": {}, "<NULL>": {}, "3000": {{0x30, 0}}, "3000,310b": {{0x30, 0}, {0x31, 11}}} {
		parsed, err := parse([]string{"-expect-client-ca-list", text})
		require.NoError(t, err, text)
		assert.Equal(t, want, parsed.initial.expectClientCAs, text)
	}
	_, err := parse([]string{"-use-client-ca-list", "no hex"})
	assert.Error(t, err)

	subject := pkix.Name{CommonName: "a CA"}
	name, err := asn1.Marshal(subject.ToRDNSequence())
	require.NoError(t, err)
	pool, err := named([][]byte{name})
	require.NoError(t, err)
	certs, err := pool.Certificates()
	require.NoError(t, err)
	require.Len(t, certs, 1)
	assert.Equal(t, name, certs[0].RawSubject)
}

func TestKeyShares(t *testing.T) {
	both := []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256, tlsapi.X25519MLKEM768}
	for _, tt := range []struct {
		name           string
		curves, shares []tlsapi.CurveID
		oneByDefault   bool
		want           tlsapi.SecondKeyShare
		missing        bool
	}{
		{name: "nothing said"},
		{name: "left to a library that sends both", curves: both},
		{name: "asked for where the library sends one", curves: both, oneByDefault: true, want: tlsapi.SecondKeyShareOn},
		{name: "one kind of group", curves: both[:2], oneByDefault: true},
		{name: "the first of each kind", curves: both, shares: []tlsapi.CurveID{tlsapi.X25519, tlsapi.X25519MLKEM768}, want: tlsapi.SecondKeyShareOn},
		{name: "the first", curves: both, shares: both[:1], want: tlsapi.SecondKeyShareOff},
		{name: "two of a kind", curves: both, shares: both[:2], missing: true},
		{name: "not the first", curves: both, shares: both[1:2], missing: true},
		{name: "of groups not named", shares: both[:1], missing: true},
	} {
		c := connection{curves: tt.curves, keyShares: tt.shares, oneShareByDefault: tt.oneByDefault}
		share, err := c.secondKeyShare()
		if tt.missing {
			assert.True(t, unimplemented(err), tt.name)
			continue
		}
		require.NoError(t, err, tt.name)
		assert.Equal(t, tt.want, share, tt.name)
	}
}

func TestLegacyServers(t *testing.T) {
	for refuses, want := range map[bool]bool{false: true, true: false} {
		parsed, err := parse([]string{"-no-legacy-server-connect"})
		require.NoError(t, err)
		parsed.initial.refusesLegacyServers = refuses
		_, err = parsed.initial.clientConfig(nil)
		assert.Equal(t, want, unimplemented(err))
	}
}

func TestTimestampLists(t *testing.T) {
	list, err := timestampList(timestamps([][]byte{[]byte("one"), []byte("two")}))
	require.NoError(t, err)
	assert.Equal(t, [][]byte{[]byte("one"), []byte("two")}, list)
	_, err = timestampList([]byte{0, 9, 1})
	assert.True(t, unimplemented(err))
}

func TestVersions(t *testing.T) {
	c := &connection{noVersion: map[uint16]bool{tls.VersionTLS13: true}}
	var s tlsapi.Settings
	require.NoError(t, c.setVersions(&s))
	assert.Equal(t, uint16(tls.VersionTLS12), s.MaxVersion)
	c.noVersion[tls.VersionTLS12] = true
	assert.True(t, unimplemented(c.setVersions(&s)))
}

func TestSchemesWithoutASetting(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fixed []tls.SignatureScheme
		prefs []tls.SignatureScheme
		want  []tls.SignatureScheme
	}{
		{"a library with a setting", nil, []tls.SignatureScheme{tls.Ed25519}, []tls.SignatureScheme{tls.Ed25519}},
		{"what the library has", cryptoTLSSchemes, []tls.SignatureScheme{tls.Ed25519, tls.PSSWithSHA384}, nil},
		{"more than it has", cryptoTLSSchemes, []tls.SignatureScheme{tls.Ed25519, 0x0904}, []tls.SignatureScheme{tls.Ed25519, 0x0904}},
	} {
		var s tlsapi.Settings
		require.NoError(t, (&connection{fixedSchemes: tt.fixed, verifyPrefs: tt.prefs}).setSchemes(&s, false), tt.name)
		assert.Equal(t, tt.want, s.SignatureSchemes, tt.name)
	}
}

func TestTickets(t *testing.T) {
	parsed, err := parse([]string{"-server", "-use-ticket-callback", "-renew-ticket"})
	require.NoError(t, err)
	parsed.rotateTicketKeys()
	initial, err := parsed.initial.serverConfig()
	require.NoError(t, err)
	resumed, err := parsed.resumed.serverConfig()
	require.NoError(t, err)
	require.Len(t, initial.SessionTicketKeys, 1)
	require.Len(t, resumed.SessionTicketKeys, 2)
	assert.Equal(t, initial.SessionTicketKeys[0], resumed.SessionTicketKeys[1], "it decrypts")
	assert.NotEqual(t, initial.SessionTicketKeys[0], resumed.SessionTicketKeys[0], "another encrypts")

	parsed, err = parse([]string{"-server", "-use-ticket-aead-callback", "-skip-ticket"})
	require.NoError(t, err)
	parsed.rotateTicketKeys()
	config, err := parsed.initial.serverConfig()
	require.NoError(t, err)
	assert.True(t, config.SessionTicketsDisabled)
	assert.Nil(t, config.SessionTicketKeys)
}

// Every test that is disabled says why.
func TestDisabledTestsHaveReasons(t *testing.T) {
	files, err := filepath.Glob("config/*.json")
	require.NoError(t, err)
	require.Len(t, files, 4)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var config struct{ DisabledTests map[string]string }
		require.NoError(t, json.Unmarshal(text, &config), file)
		require.NotEmpty(t, config.DisabledTests, file)
		for name, reason := range config.DisabledTests {
			assert.Greater(t, len(reason), 10, "%s: %s", file, name)
			_, err := filepath.Match(name, "")
			assert.NoError(t, err, "%s: %s", file, name)
		}
	}
}

func TestCompliancePolicies(t *testing.T) {
	for name := range compliances {
		parsed, err := parse([]string{"-" + name})
		require.NoError(t, err, name)
		settings, err := parsed.initial.settings(false)
		require.NoError(t, err, name)
		config := tlsapi.ClientConfig{Settings: settings, InsecureSkipVerify: true}
		assert.NoError(t, config.Validate(), name)
		assert.NotNil(t, settings.CipherSuites, name)
	}
	parsed, err := parse([]string{"-on-resume-wpa-202304"})
	require.NoError(t, err)
	assert.Nil(t, parsed.initial.compliance)
	assert.Equal(t, compliances["wpa-202304"], *parsed.resumed.compliance)
}

// scripts/bogo.sh reads the floors with awk.
func TestEveryProviderHasAFloor(t *testing.T) {
	text, err := os.ReadFile("config/floors")
	require.NoError(t, err)
	for _, name := range []string{"std", "boringssl", "openssl", "s2n"} {
		assert.Regexp(t, `(?m)^`+name+` +[1-9][0-9]+$`, string(text))
	}
}

func TestFindings(t *testing.T) {
	var f finding
	err := found(errors.New("the session is not resumed"))
	assert.ErrorAs(t, fmt.Errorf("connection 1: %w", err), &f)
	assert.NoError(t, found(nil))
	err = found(missing{"half-close"})
	assert.NotErrorAs(t, err, &f)
	assert.True(t, unimplemented(err))
}
