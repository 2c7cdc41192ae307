package tlsapi_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func certKey(t *testing.T, cert tls.Certificate) *ecdsa.PrivateKey {
	t.Helper()
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	require.True(t, ok)
	return key
}

func mustDecode(t *testing.T, text []byte) *pem.Block {
	t.Helper()
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	return block
}

func TestClientValidate(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	lists := tlsapi.Settings{RevocationLists: []*x509.RevocationList{ca.RevocationList(t, time.Now(), time.Now().Add(time.Hour))}}
	for _, c := range []struct {
		name, option string
		config       tlsapi.ClientConfig
	}{
		{"no name", "ServerName", tlsapi.ClientConfig{}},
		{"only an alternative name", "ServerName", tlsapi.ClientConfig{AlternativeName: "x"}},
		{"NUL", "ServerName", tlsapi.ClientConfig{ServerName: "a\x00b"}},
		{"space", "ServerName", tlsapi.ClientConfig{ServerName: "a b"}},
		{"line end", "ServerName", tlsapi.ClientConfig{ServerName: "a\n"}},
		{"not ASCII", "ServerName", tlsapi.ClientConfig{ServerName: "bücher.example"}},
		{"long", "ServerName", tlsapi.ClientConfig{ServerName: strings.Repeat("a", 256)}},
		{"NUL in the alternative", "AlternativeName", tlsapi.ClientConfig{ServerName: "x", AlternativeName: "a\x00"}},
		{"wrong name although skipped", "ServerName", tlsapi.ClientConfig{ServerName: "a\x00", InsecureSkipVerify: true}},
		{"empty pool", "RootCAs", tlsapi.ClientConfig{ServerName: "x", RootCAs: tlsapi.NewCertPool()}},
		{"empty pool, host name skipped", "RootCAs", tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: tlsapi.NewCertPool()}},
		{"unknown share", "SecondKeyShare", tlsapi.ClientConfig{ServerName: "x", SecondKeyShare: 9}},
		{"share without a pair", "SecondKeyShare", tlsapi.ClientConfig{
			ServerName: "x", SecondKeyShare: tlsapi.SecondKeyShareOn,
			Settings: tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256}},
		}},
		{"revocation lists without verification", "RevocationLists", tlsapi.ClientConfig{InsecureSkipVerify: true, Settings: lists}},
		{"cache without tickets", "SessionCache", tlsapi.ClientConfig{ServerName: "x", SessionTicketsDisabled: true, SessionCache: cache{}}},
	} {
		t.Run(c.name, func(t *testing.T) { requireConfigError(t, c.config.Validate(), c.option) })
	}
	for name, config := range map[string]tlsapi.ClientConfig{
		"name":                 {ServerName: "x.example"},
		"trailing dot":         {ServerName: "x.example."},
		"address":              {ServerName: "192.0.2.1"},
		"IPv6 address":         {ServerName: "2001:db8::1"},
		"underscore":           {ServerName: "_dmarc.example"},
		"skip everything":      {InsecureSkipVerify: true},
		"skip the name":        {SkipHostnameVerification: true},
		"skip, empty pool":     {InsecureSkipVerify: true, RootCAs: tlsapi.NewCertPool()},
		"pool":                 {ServerName: "x", RootCAs: tlstest.Pool(ca)},
		"share with a pair":    {ServerName: "x", SecondKeyShare: tlsapi.SecondKeyShareOn, Settings: tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X25519MLKEM768, tlsapi.X25519}}},
		"share by default":     {ServerName: "x", SecondKeyShare: tlsapi.SecondKeyShareOn},
		"no blinding":          {ServerName: "x", Settings: tlsapi.Settings{MaxBlindingDelay: -1, ConfigCacheSize: -1}},
		"policy":               {ServerName: "x", Settings: tlsapi.Settings{SecurityPolicy: "modern"}},
		"tickets off":          {ServerName: "x", SessionTicketsDisabled: true},
		"255 bytes of name":    {ServerName: strings.Repeat("a", 255)},
		"ALPN of 255 bytes":    {ServerName: "x", Settings: tlsapi.Settings{ALPN: []string{strings.Repeat("x", 255)}}},
		"empty ALPN, not nil":  {ServerName: "x", Settings: tlsapi.Settings{ALPN: []string{}}},
		"name and alternative": {ServerName: "x", AlternativeName: "192.0.2.1"},
	} {
		assert.NoError(t, config.Validate(), name)
	}
	requireNilConfig(t, (*tlsapi.ClientConfig)(nil).Validate())
	requireNilConfig(t, (*tlsapi.ServerConfig)(nil).Validate())
}

func requireNilConfig(t *testing.T, err error) {
	t.Helper()
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, tlsapi.KindConfig, e.Kind)
}

func TestServerValidate(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	certs := []tls.Certificate{ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x"}})}
	psk := []tlsapi.PSK{{Identity: []byte("a"), Secret: []byte("0123456789abcdef")}}
	lists := tlsapi.Settings{RevocationLists: []*x509.RevocationList{ca.RevocationList(t, time.Now(), time.Now().Add(time.Hour))}}
	for _, c := range []struct {
		name, option string
		config       tlsapi.ServerConfig
	}{
		{"nothing", "Certificates", tlsapi.ServerConfig{}},
		{"mode below", "ClientAuth", tlsapi.ServerConfig{Certificates: certs, ClientAuth: -1}},
		{"mode above", "ClientAuth", tlsapi.ServerConfig{Certificates: certs, ClientAuth: 5}},
		{"no authorities", "ClientCAs", tlsapi.ServerConfig{Certificates: certs, ClientAuth: tls.RequireAndVerifyClientCert}},
		{"empty authorities", "ClientCAs", tlsapi.ServerConfig{Certificates: certs, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: tlsapi.NewCertPool()}},
		{"PSK with a required certificate", "PSKs", tlsapi.ServerConfig{Certificates: certs, ClientAuth: tls.RequireAnyClientCert, Settings: tlsapi.Settings{PSKs: psk}}},
		{"revocation lists without client authentication", "RevocationLists", tlsapi.ServerConfig{Certificates: certs, Settings: lists}},
		{"revocation lists without verification", "RevocationLists", tlsapi.ServerConfig{Certificates: certs, Settings: lists,
			ClientAuth: tls.RequireAnyClientCert, ClientCAs: tlstest.Pool(ca)}},
		{"strict without ALPN", "ALPNStrict", tlsapi.ServerConfig{Certificates: certs, ALPNStrict: true}},
		{"keys without tickets", "SessionTicketKeys", tlsapi.ServerConfig{Certificates: certs, SessionTicketsDisabled: true, SessionTicketKeys: [][32]byte{{}}}},
		{"PSK required without any", "RequirePSK", tlsapi.ServerConfig{Certificates: certs, Settings: tlsapi.Settings{RequirePSK: true}}},
	} {
		t.Run(c.name, func(t *testing.T) { requireConfigError(t, c.config.Validate(), c.option) })
	}
	systemOnly := tlsapi.NewCertPool()
	systemOnly.AddSystemRoots()
	for name, config := range map[string]tlsapi.ServerConfig{
		"certificate":    {Certificates: certs},
		"hook":           {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }},
		"other hook":     {GetConfigForClient: func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return nil, nil }},
		"PSK":            {Settings: tlsapi.Settings{PSKs: psk}},
		"authorities":    {Certificates: certs, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(ca)},
		"system's roots": {Certificates: certs, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: systemOnly},
		"request":        {Certificates: certs, ClientAuth: tls.RequestClientCert},
		"lists":          {Certificates: certs, Settings: lists, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: tlstest.Pool(ca)},
	} {
		assert.NoError(t, config.Validate(), name)
	}
}

func TestSettingsValidate(t *testing.T) {
	const suite12, suite13 = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_AES_128_GCM_SHA256
	long := make([]string, 0, 300)
	for i := range 300 {
		long = append(long, strings.Repeat("x", 250)+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	for _, c := range []struct {
		name, option string
		settings     tlsapi.Settings
	}{
		{"TLS 1.1", "MinVersion", tlsapi.Settings{MinVersion: tls.VersionTLS11}},
		{"SSL 3", "MaxVersion", tlsapi.Settings{MaxVersion: 0x0300}},
		{"future", "MaxVersion", tlsapi.Settings{MaxVersion: 0x0305}},
		{"crossed", "MinVersion", tlsapi.Settings{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12}},
		{"suites empty", "CipherSuites", tlsapi.Settings{CipherSuites: []uint16{}}},
		{"suite unknown", "CipherSuites", tlsapi.Settings{CipherSuites: []uint16{suite12, suite13, 0xeeee}}},
		{"suite twice", "CipherSuites", tlsapi.Settings{CipherSuites: []uint16{suite12, suite13, suite12}}},
		{"no suite for 1.2", "CipherSuites", tlsapi.Settings{CipherSuites: []uint16{suite13}}},
		{"no suite for 1.3", "CipherSuites", tlsapi.Settings{CipherSuites: []uint16{suite12}}},
		{"curves empty", "Curves", tlsapi.Settings{Curves: []tlsapi.CurveID{}}},
		{"curve zero", "Curves", tlsapi.Settings{Curves: []tlsapi.CurveID{0}}},
		{"curve twice", "Curves", tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X25519, tlsapi.X25519}}},
		{"schemes empty", "SignatureSchemes", tlsapi.Settings{SignatureSchemes: []tls.SignatureScheme{}}},
		{"scheme SHA-1", "SignatureSchemes", tlsapi.Settings{SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithSHA1}}},
		{"scheme zero", "SignatureSchemes", tlsapi.Settings{SignatureSchemes: []tls.SignatureScheme{0}}},
		{"protocol empty", "ALPN", tlsapi.Settings{ALPN: []string{""}}},
		{"protocol long", "ALPN", tlsapi.Settings{ALPN: []string{strings.Repeat("x", 256)}}},
		{"protocol twice", "ALPN", tlsapi.Settings{ALPN: []string{"a", "b", "a"}}},
		{"protocols long", "ALPN", tlsapi.Settings{ALPN: long}},
		{"negative timeout", "HandshakeTimeout", tlsapi.Settings{HandshakeTimeout: -time.Second}},
		{"policy and versions", "SecurityPolicy", tlsapi.Settings{SecurityPolicy: "modern", MaxVersion: tls.VersionTLS13}},
		{"policy and suites", "SecurityPolicy", tlsapi.Settings{SecurityPolicy: "modern", CipherSuites: []uint16{suite13, suite12}}},
		{"policy and curves", "SecurityPolicy", tlsapi.Settings{SecurityPolicy: "modern", Curves: []tlsapi.CurveID{tlsapi.X25519}}},
		{"policy and schemes", "SecurityPolicy", tlsapi.Settings{SecurityPolicy: "modern", SignatureSchemes: []tls.SignatureScheme{tls.Ed25519}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireConfigError(t, (&tlsapi.ClientConfig{ServerName: "x", Settings: c.settings}).Validate(), c.option)
		})
	}
	for name, settings := range map[string]tlsapi.Settings{
		"both suites":   {CipherSuites: []uint16{suite12, suite13}},
		"1.2 only":      {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite12}},
		"1.3 only":      {MinVersion: tls.VersionTLS13, CipherSuites: []uint16{suite13}},
		"same versions": {MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS13},
	} {
		assert.NoError(t, (&tlsapi.ClientConfig{ServerName: "x", Settings: settings}).Validate(), name)
	}
	minimum, maximum := (&tlsapi.Settings{}).Versions()
	assert.EqualValues(t, tls.VersionTLS12, minimum)
	assert.EqualValues(t, tls.VersionTLS13, maximum)
	assert.Equal(t, []string{"h2", "http/1.1"}, tlsapi.ALPNH2H1())
	tlsapi.ALPNH1()[0] = "changed"
	assert.Equal(t, []string{"http/1.1"}, tlsapi.ALPNH1())
	for value, text := range map[tlsapi.SecondKeyShare]string{
		tlsapi.SecondKeyShareDefault: "default", tlsapi.SecondKeyShareOn: "on", tlsapi.SecondKeyShareOff: "off",
	} {
		assert.Equal(t, text, value.String())
	}
}
