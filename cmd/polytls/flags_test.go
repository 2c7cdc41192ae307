package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// runHere runs a command line inside the test process.
func runHere(args ...string) result {
	var stdout, stderr bytes.Buffer
	// A server whose flags are not refused would wait for connections for good.
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	status := run(ctx, args, strings.NewReader(""), &stdout, &stderr)
	return result{stdout.String(), stderr.String(), status}
}

// Every value that is wrong by itself is wrong usage, and the message names
// the flag and the value.
func TestBadValuesNameFlagAndValue(t *testing.T) {
	both := []string{"connect", "serve"}
	client, server := []string{"connect"}, []string{"serve"}
	for _, tc := range []struct {
		commands    []string
		flag, value string
		says        string
	}{
		{both, "--provider", "gnutls", "std"},
		{both, "--provider", "", "std"},
		{both, "--alpn", "h2,,http/1.1", "entry 2 is empty"},
		{both, "--alpn", "", "empty"},
		{both, "--alpn", "h2,h2", "duplicate"},
		{both, "--alpn", strings.Repeat("x", 256), "255"},
		{both, "--curves", "X25519:brainpool", "brainpool"},
		{both, "--curves", "X25519::P-256", "empty"},
		{both, "--curves", "P-256:secp256r1", "duplicate"},
		{both, "--curves", "", "empty"},
		{both, "--curves", "X25519\x00", `\x00`},
		{both, "--min-version", "1.1", "1.2 and 1.3"},
		{both, "--max-version", "3", "1.2 and 1.3"},
		{both, "--ciphers", "TLS_RSA_WITH_RC4_128_SHA", "unknown"},
		{both, "--ciphers", "", "empty"},
		{both, "--signature-schemes", "rsa_pkcs1_sha1", "unknown"},
		{both, "--psk-kind", "pure", "external, imported, tls12"},
		{both, "--max-blinding-delay", "soon", "soon"},
		{both, "--handshake-timeout", "10", "10"},
		{both, "--require-psk", "perhaps", "perhaps"},
		{both, "--insecure-skip-everything", "1", "unknown flag"},
		{server, "--log-level", "chatty", "info, warn and error"},
		{client, "--second-key-share", "maybe", "default, on, off, true, false"},
		{client, "--servername", "exa mple.com", "0x20"},
		{client, "--servername", "bücher.example", "xn--"},
		{client, "--alternative-name", "a\x00b", "0x00"},
		{client, "--linger", "-1s", "negative"},
		{client, "--connect-timeout", "-1s", "negative"},
		{server, "--client-auth", "verify", "require-and-verify"},
		{server, "--client-auth", "", "require-and-verify"},
		{server, "--max-connections", "0", "less than 1"},
		{server, "--idle-timeout", "-1s", "negative"},
	} {
		for _, command := range tc.commands {
			t.Run(command+tc.flag+"="+tc.value, func(t *testing.T) {
				r := runHere(command, "127.0.0.1:1", tc.flag+"="+tc.value)
				assert.Equal(t, exitUsage, r.status, r.stderr)
				assert.Contains(t, r.stderr, tc.flag)
				assert.Contains(t, r.stderr, tc.says)
				assert.Contains(t, r.stderr, "polytls "+command+" --help")
				assert.Empty(t, r.stdout)
			})
		}
	}
}

func TestContradictionsAreWrongUsage(t *testing.T) {
	f := files(t)
	serve := func(args ...string) []string {
		return append([]string{"serve", "127.0.0.1:0", "--cert", f.serverECDSA, "--key", f.serverECDSAKey}, args...)
	}
	connect := func(args ...string) []string { return append([]string{"connect", "localhost:1"}, args...) }
	psk := writeFile(t, "psk", "me:000102030405060708090a0b0c0d0e0f\n")
	for _, tc := range []struct {
		args []string
		says string
	}{
		{nil, "command is missing"},
		{[]string{"conect"}, "did you mean connect?"},
		{[]string{"connect"}, "accepts 1 arg"},
		{[]string{"connect", "a:1", "b:2"}, "accepts 1 arg"},
		{[]string{"connect", "localhost"}, "HOST:PORT"},
		{[]string{"connect", ":443"}, "HOST:PORT"},
		{[]string{"connect", "::1:443"}, "brackets"},
		{[]string{"serve", "4433"}, "HOST:PORT"},
		{[]string{"serve"}, "--cert and --key are missing"},
		{[]string{"providers", "x"}, "unknown command"},
		{[]string{"matrix", "--tls-version", "1.1"}, "--tls-version"},
		{[]string{"matrix", "--timeout", "0"}, "--timeout"},
		{connect("--servername="), "--servername"},
		{connect("--min-version", "1.3", "--max-version", "1.2"), "--min-version"},
		{connect("--security-policy", "modern", "--curves", "X25519"), "--security-policy"},
		{connect("--ciphers", "TLS_AES_128_GCM_SHA256"), "--ciphers"},
		{connect("--require-psk"), "--require-psk"},
		{connect("--psk-kind", "tls12"), "--psk-kind"},
		{connect("--psk-context", "backup"), "--psk-context"},
		{connect("--key", f.clientKey), "--cert"},
		{connect("--cert", f.client, "--cert", f.client), "one certificate"},
		{connect("--second-key-share", "on", "--curves", "X25519"), "--second-key-share"},
		{connect("--handshake-timeout", "-1s"), "--handshake-timeout"},
		{connect("--client-auth", "none"), "unknown flag: --client-auth"},
		{serve("--cert", f.serverRSA), "--key 1 times"},
		{serve("--ocsp", f.ocspGood, "--ocsp", f.ocspGood), "--ocsp is given 2 times and --cert 1 times"},
		{serve("--client-ca", f.ca), "--client-auth"},
		{serve("--add-system-roots"), "--client-auth"},
		{serve("--client-auth", "require-and-verify"), "--client-ca"},
		{serve("--alpn-strict"), "--alpn-strict"},
		{serve("--root", ".", "--alpn", "h2,spdy/3"), "--alpn"},
		{serve("--client-auth", "require-any", "--psk-file", psk), "--psk"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			r := runHere(tc.args...)
			assert.Equal(t, exitUsage, r.status, r.stderr)
			assert.Contains(t, r.stderr, tc.says)
			assert.Empty(t, r.stdout)
		})
	}
}

// A file that is missing or wrong is a failure; the message names flag and
// file.
func TestBadFilesNameFlagAndFile(t *testing.T) {
	f := files(t)
	empty := writeFile(t, "empty", "")
	garbage := writeFile(t, "garbage", strings.Repeat("\xa5", 10<<20))
	truncated := writeFile(t, "truncated", textOf(t, f.ca)[:200])
	for _, tc := range []struct {
		args       []string
		flag, file string
	}{
		{[]string{"connect", "localhost:1", "--ca", "missing.pem"}, "--ca", "missing.pem"},
		{[]string{"connect", "localhost:1", "--ca", empty}, "--ca", empty},
		{[]string{"connect", "localhost:1", "--ca", garbage}, "--ca", garbage},
		{[]string{"connect", "localhost:1", "--ca", truncated}, "--ca", truncated},
		{[]string{"connect", "localhost:1", "--cert", "missing.pem"}, "--cert", "missing.pem"},
		{[]string{"connect", "localhost:1", "--cert", f.client}, "--cert", "no private key"},
		{[]string{"connect", "localhost:1", "--cert", f.client, "--key", f.serverRSAKey}, "--cert", f.serverRSAKey},
		{[]string{"connect", "localhost:1", "--psk-file", "missing.psk"}, "--psk-file", "missing.psk"},
		{[]string{"connect", "localhost:1", "--psk-file", empty}, "--psk-file", empty},
		{[]string{"connect", "localhost:1", "--session-file", garbage}, "--session-file", garbage},
		{[]string{"connect", "localhost:1", "--key-log", "/"}, "--key-log", "/"},
		{[]string{"connect", "localhost:1", "--crl", "missing.crl"}, "--crl", "missing.crl"},
		{[]string{"connect", "localhost:1", "--crl", f.ca}, "--crl", "no PEM block X509 CRL"},
		{[]string{"connect", "localhost:1", "--crl", garbage}, "--crl", garbage},
		{[]string{"serve", "--cert", f.serverECDSACombined, "--crl", empty}, "--crl", empty},
		{[]string{"serve", "--cert", f.serverECDSACombined, "--ocsp", f.crlRevoking}, "--ocsp", f.crlRevoking},
		{[]string{"serve", "--cert", f.serverECDSACombined, "--client-auth", "request", "--client-ca", empty}, "--client-ca", empty},
		{[]string{"serve", "--cert", f.serverECDSACombined, "--ticket-key-file", empty}, "--ticket-key-file", empty},
		{[]string{"serve", "--cert", f.serverECDSACombined, "--root", "missing"}, "--root", "missing"},
		{[]string{"connect", "localhost:1", "--output", "/"}, "--output", "/"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			r := runHere(tc.args...)
			assert.Equal(t, exitFailure, r.status, r.stderr)
			assert.Contains(t, r.stderr, tc.flag)
			assert.Contains(t, r.stderr, tc.file)
			assert.Less(t, len(r.stderr), 2000)
			assert.Empty(t, r.stdout)
		})
	}
}

// No message may show a secret, whatever is wrong around it.
func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "c0ffee00c0ffee11c0ffee22c0ffee33"
	for _, spec := range []string{
		secret,
		":" + secret,
		"me:" + secret + ":sha512",
		"me:" + secret + ":",
		"me:" + secret + ":ab",
		"me:" + secret + "x",
		"me:" + secret + "0",
		"%zz:" + secret,
		"me:" + secret[:30],
	} {
		for _, args := range [][]string{
			{"--psk", spec},
			{"--psk-file", writeFile(t, "keys", "# a comment\n"+spec+"\n")},
		} {
			r := runHere(append([]string{"connect", "localhost:1"}, args...)...)
			assert.NotEqual(t, exitSuccess, r.status)
			assert.Contains(t, r.stderr, args[0], spec)
			assert.NotContains(t, r.stdout+r.stderr, secret[:30], spec)
		}
	}
	// Right by itself, refused or failing later.
	for _, spec := range []string{"me:" + secret, "me:" + secret + ":sha384"} {
		for _, command := range []string{"connect", "serve"} {
			r := runHere(command, "127.0.0.1:x", "--psk", spec, "--psk", spec)
			assert.NotEqual(t, exitSuccess, r.status)
			assert.NotContains(t, r.stdout+r.stderr, secret)
		}
	}
	ticketKeys := writeFile(t, "ticket", secret+"\n")
	r := runHere("serve", "--cert", files(t).serverECDSACombined, "--ticket-key-file", ticketKeys)
	assert.Equal(t, exitFailure, r.status)
	assert.Contains(t, r.stderr, "line 1")
	assert.NotContains(t, r.stderr, secret)
}

// parse reads flags as a command of that set would.
func parse(t *testing.T, register func(*cobra.Command), args ...string) *cobra.Command {
	t.Helper()
	cmd := &cobra.Command{Use: "test"}
	register(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	return cmd
}

func TestEveryClientFlagReachesTheConfiguration(t *testing.T) {
	f := files(t)
	pskFile := writeFile(t, "psk", "\n# comment\nfile%3Akey:"+strings.Repeat("22", 16)+":sha256\n")
	keyLog, sessions := t.TempDir()+"/keys", t.TempDir()+"/sessions"
	var flags clientFlags
	cmd := parse(t, flags.register,
		"--provider", "std", "--servername", "a.example", "--skip-hostname", "--alternative-name", "192.0.2.1",
		"--ca", f.ca, "--ca", f.otherCA, "--cert", f.client, "--key", f.clientKey, "--alpn", "h2,http/1.1",
		"--curves", "x25519mlkem768:P256", "--second-key-share", "true", "--psk", "a:b:"+strings.Repeat("11", 32)+":sha384",
		"--psk-file", pskFile, "--psk-kind", "imported", "--require-psk", "--max-blinding-delay", "-1s",
		"--min-version", "1.2", "--max-version", "TLSv1.3", "--ciphers", "TLS_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
		"--signature-schemes", "ed25519:ecdsa_secp256r1_sha256", "--handshake-timeout", "3s",
		"--crl", f.crl, "--crl", f.crlRevoking, "--config-cache-size", "7", "--key-log", keyLog, "--session-file", sessions)
	config, err := flags.clientConfig(cmd, "ignored.example")
	require.NoError(t, err)

	assert.Equal(t, "std", flags.provider.Name())
	assert.Equal(t, "a.example", config.ServerName)
	assert.False(t, config.InsecureSkipVerify)
	assert.True(t, config.SkipHostnameVerification)
	assert.Equal(t, "192.0.2.1", config.AlternativeName)
	roots, err := config.RootCAs.Certificates()
	require.NoError(t, err)
	assert.Len(t, roots, 2)
	assert.Equal(t, "client", config.Certificate.Leaf.Subject.CommonName)
	assert.Equal(t, []string{"h2", "http/1.1"}, config.ALPN)
	assert.Equal(t, []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.CurveP256}, config.Curves)
	assert.Equal(t, tlsapi.SecondKeyShareOn, config.SecondKeyShare)
	assert.Equal(t, []tlsapi.PSK{
		{Identity: []byte("a:b"), Secret: bytes.Repeat([]byte{0x11}, 32), Hash: tlsapi.PSKSHA384, Kind: tlsapi.PSKImported},
		{Identity: []byte("file:key"), Secret: bytes.Repeat([]byte{0x22}, 16), Hash: tlsapi.PSKSHA256, Kind: tlsapi.PSKImported},
	}, config.PSKs)
	assert.True(t, config.RequirePSK)
	assert.Equal(t, -time.Second, config.MaxBlindingDelay)
	assert.Equal(t, uint16(tls.VersionTLS12), config.MinVersion)
	assert.Equal(t, uint16(tls.VersionTLS13), config.MaxVersion)
	assert.Equal(t, []uint16{tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, config.CipherSuites)
	assert.Equal(t, []tls.SignatureScheme{tls.Ed25519, tls.ECDSAWithP256AndSHA256}, config.SignatureSchemes)
	assert.Equal(t, 3*time.Second, config.HandshakeTimeout)
	require.Len(t, config.RevocationLists, 2)
	assert.Len(t, config.RevocationLists[1].RevokedCertificateEntries, 1)
	assert.Equal(t, 7, config.ConfigCacheSize)
	require.NotNil(t, config.KeyLogWriter)
	_, err = config.KeyLogWriter.Write([]byte("line\n"))
	require.NoError(t, err)
	assert.Equal(t, "line\n", textOf(t, keyLog))
	require.NotNil(t, config.SessionCache)
	assert.False(t, config.SessionTicketsDisabled)

	// It goes with no revocation lists.
	var insecure clientFlags
	config, err = insecure.clientConfig(parse(t, insecure.register, "--provider", "std", "--insecure-skip-verify"), "a.example")
	require.NoError(t, err)
	assert.True(t, config.InsecureSkipVerify)
}

// A new option cannot be forgotten: every field has a flag of both commands or
// of its own, but the functions, which are for programs.
func TestEveryOptionHasAFlag(t *testing.T) {
	root := newRootCommand()
	for _, tc := range []struct {
		command string
		config  any
	}{{"connect", tlsapi.ClientConfig{}}, {"serve", tlsapi.ServerConfig{}}} {
		cmd, _, err := root.Find([]string{tc.command})
		require.NoError(t, err)
		for _, field := range reflect.VisibleFields(reflect.TypeOf(tc.config)) {
			if field.Anonymous || field.Type.Kind() == reflect.Func {
				continue
			}
			flag := optionFlags[field.Name]
			if assert.NotEmpty(t, flag, "%s has no flag", field.Name) {
				assert.NotNil(t, cmd.Flags().Lookup(strings.TrimPrefix(flag, "--")), "%s of %s", flag, tc.command)
			}
		}
	}
}

func TestEveryServerFlagReachesTheConfiguration(t *testing.T) {
	f := files(t)
	tickets := writeFile(t, "tickets", strings.Repeat("01", 32)+"\n"+strings.Repeat("02", 32)+"\n")
	var flags serverFlags
	cmd := parse(t, flags.register,
		"--cert", f.serverECDSA, "--key", f.serverECDSAKey, "--cert", f.serverRSA, "--key", f.serverRSAKey,
		"--client-auth", "verify-if-given", "--client-ca", f.ca, "--alpn", "H2H1", "--alpn-strict",
		"--security-policy", "intermediate", "--ticket-key-file", tickets, "--max-blinding-delay", "2s",
		"--ocsp", "", "--ocsp", f.ocspGood)
	config, err := flags.serverConfig(cmd)
	require.NoError(t, err)
	assert.Len(t, config.Certificates, 2)
	assert.Empty(t, config.Certificates[0].OCSPStaple)
	assert.Equal(t, textOf(t, f.ocspGood), string(config.Certificates[1].OCSPStaple))
	assert.Equal(t, tls.VerifyClientCertIfGiven, config.ClientAuth)
	assert.False(t, config.ClientCAs.Empty())
	assert.Equal(t, []string{"h2", "http/1.1"}, config.ALPN)
	assert.True(t, config.ALPNStrict)
	assert.Equal(t, "intermediate", config.SecurityPolicy)
	assert.Equal(t, [][32]byte{[32]byte(bytes.Repeat([]byte{1}, 32)), [32]byte(bytes.Repeat([]byte{2}, 32))}, config.SessionTicketKeys)
	assert.Equal(t, 2*time.Second, config.MaxBlindingDelay)
	assert.Equal(t, defaultHandshakeTimeout, config.HandshakeTimeout)

	flags = serverFlags{}
	cmd = parse(t, flags.register, "--cert", f.serverECDSACombined, "--no-tickets")
	config, err = flags.serverConfig(cmd)
	require.NoError(t, err)
	assert.True(t, config.SessionTicketsDisabled)
	assert.Len(t, config.Certificates, 1)
	assert.Equal(t, tls.NoClientCert, config.ClientAuth)
}

// Without flags the configuration is the safe default and nothing else, so
// that every provider honours it.
func TestNoFlagsNoOptions(t *testing.T) {
	var flags clientFlags
	config, err := flags.clientConfig(parse(t, flags.register), "a.example")
	require.NoError(t, err)
	want := &tlsapi.ClientConfig{ServerName: "a.example"}
	want.HandshakeTimeout = defaultHandshakeTimeout
	assert.Equal(t, want, config)
}

func TestAddSystemRoots(t *testing.T) {
	f := files(t)
	t.Setenv("SSL_CERT_FILE", f.otherCA)
	var flags clientFlags
	config, err := flags.clientConfig(parse(t, flags.register, "--ca", f.ca, "--add-system-roots"), "a.example")
	require.NoError(t, err)
	roots, err := config.RootCAs.Certificates()
	require.NoError(t, err)
	assert.Greater(t, len(roots), 1)
}

func TestClientAuthWords(t *testing.T) {
	for word, mode := range map[string]tls.ClientAuthType{
		"none": tls.NoClientCert, "request": tls.RequestClientCert, "require-any": tls.RequireAnyClientCert,
		"verify-if-given": tls.VerifyClientCertIfGiven, "require-and-verify": tls.RequireAndVerifyClientCert,
	} {
		got, err := parseClientAuth(word)
		require.NoError(t, err)
		assert.Equal(t, mode, got, word)
	}
}

func TestALPNPresets(t *testing.T) {
	for text, want := range map[string][]string{
		"H1": {"http/1.1"}, "H2": {"h2"}, "H2H1": {"h2", "http/1.1"}, "h2": {"h2"}, "a,b": {"a", "b"},
	} {
		got, err := parseALPN(text)
		require.NoError(t, err)
		assert.Equal(t, want, got, text)
	}
}

func TestDefaultServerName(t *testing.T) {
	for host, want := range map[string]string{
		"example.com": "example.com", "example.com.": "example.com", "127.0.0.1": "127.0.0.1",
		"::1": "::1", "fe80::1%eth0": "fe80::1",
	} {
		assert.Equal(t, want, defaultServerName(host))
	}
}
