package tlsapi_test

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseCurves(t *testing.T) {
	for list, want := range map[string][]tlsapi.CurveID{
		"X25519":                            {tlsapi.X25519},
		"X25519:P-256":                      {tlsapi.X25519, tlsapi.CurveP256},
		"p-256,x25519":                      {tlsapi.CurveP256, tlsapi.X25519},
		"secp256r1:SECP384R1:secp521r1":     {tlsapi.CurveP256, tlsapi.CurveP384, tlsapi.CurveP521},
		"prime256v1":                        {tlsapi.CurveP256},
		"P256:P384:P521":                    {tlsapi.CurveP256, tlsapi.CurveP384, tlsapi.CurveP521},
		"CurveP256:curve25519":              {tlsapi.CurveP256, tlsapi.X25519},
		"X25519MLKEM768:x25519":             {tlsapi.X25519MLKEM768, tlsapi.X25519},
		"SecP256r1MLKEM768,X448":            {tlsapi.SecP256r1MLKEM768, tlsapi.X448},
		"secp384r1mlkem1024":                {tlsapi.SecP384r1MLKEM1024},
		"MLKEM1024":                         {tlsapi.MLKEM1024},
		"X25519:P-256,P-384:X25519MLKEM768": {tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384, tlsapi.X25519MLKEM768},
	} {
		got, err := tlsapi.ParseCurves(list)
		require.NoError(t, err, "%q", list)
		assert.Equal(t, want, got, "%q", list)
	}
	for list, part := range map[string]string{
		"":                         `entry 1 of "" is empty`,
		":":                        "entry 1",
		"X25519:":                  "entry 2",
		":X25519":                  "entry 1",
		"X25519::P-256":            "entry 2",
		"X25519,,P-256":            "entry 2",
		"X25519:P-255":             `entry 2, "P-255", is unknown; known are X25519, P-256`,
		"X25519:secp256k1":         `"secp256k1"`,
		"X25519 ":                  `"X25519 "`,
		"X25519: P-256":            `" P-256"`,
		"X25519\x00":               `"X25519\x00"`,
		"\x00":                     `"\x00"`,
		"P-256:X25519:P-256":       `entry 3, "P-256", is a duplicate`,
		"P-256:secp256r1":          `entry 2, "secp256r1", is a duplicate`,
		"x25519:X25519":            `entry 2, "X25519", is a duplicate`,
		"Ｘ25519":                   "is unknown",
		"X25519;P-256":             "is unknown",
		strings.Repeat("a", 1<<20): "is unknown",
	} {
		_, err := tlsapi.ParseCurves(list)
		require.Error(t, err, "%.40q", list)
		requireConfigError(t, err, "Curves")
		assert.Contains(t, err.Error(), part)
	}
}

func TestCurveNames(t *testing.T) {
	for id, name := range map[tlsapi.CurveID]string{
		tlsapi.X25519: "X25519", tlsapi.CurveP256: "P-256", tlsapi.CurveP384: "P-384", tlsapi.CurveP521: "P-521",
		tlsapi.X448: "X448", tlsapi.X25519MLKEM768: "X25519MLKEM768", 0x4242: "0x4242", 0: "",
	} {
		assert.Equal(t, name, tlsapi.CurveName(id))
		if id != 0 && id != 0x4242 {
			back, err := tlsapi.ParseCurves(name)
			require.NoError(t, err)
			assert.Equal(t, []tlsapi.CurveID{id}, back)
		}
	}
	assert.True(t, tlsapi.PostQuantum(tlsapi.X25519MLKEM768))
	assert.True(t, tlsapi.PostQuantum(tlsapi.SecP256r1MLKEM768))
	assert.True(t, tlsapi.PostQuantum(tlsapi.SecP384r1MLKEM1024))
	assert.True(t, tlsapi.PostQuantum(tlsapi.MLKEM1024))
	assert.False(t, tlsapi.PostQuantum(tlsapi.X25519))
}

func TestParseCipherSuites(t *testing.T) {
	got, err := tlsapi.ParseCipherSuites("TLS_AES_256_GCM_SHA384:tls_ecdhe_rsa_with_aes_128_gcm_sha256,TLS_CHACHA20_POLY1305_SHA256")
	require.NoError(t, err)
	assert.Equal(t, []uint16{tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256}, got)
	for _, list := range []string{
		"", "TLS_AES_128_GCM_SHA256:", "ECDHE-RSA-AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256",
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_RC4_128_SHA", "TLS_AES_128_GCM_SHA256\x00",
		"TLS_AES_128_GCM_SHA256:TLS_AES_128_GCM_SHA256", "HIGH", "DEFAULT:@SECLEVEL=0",
	} {
		_, err := tlsapi.ParseCipherSuites(list)
		requireConfigError(t, err, "CipherSuites")
	}
	assert.Equal(t, "TLS_AES_128_GCM_SHA256", tlsapi.CipherSuiteName(tls.TLS_AES_128_GCM_SHA256))
	assert.Equal(t, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", tlsapi.CipherSuiteName(tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256))
	assert.Equal(t, "TLS_RSA_WITH_RC4_128_SHA", tlsapi.CipherSuiteName(tls.TLS_RSA_WITH_RC4_128_SHA))
	assert.Equal(t, "0xfefe", tlsapi.CipherSuiteName(0xfefe))
	assert.Empty(t, tlsapi.CipherSuiteName(0))
	assert.True(t, tlsapi.CipherSuiteTLS13(tls.TLS_AES_128_GCM_SHA256))
	assert.False(t, tlsapi.CipherSuiteTLS13(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256))
}

func TestParseSignatureSchemes(t *testing.T) {
	got, err := tlsapi.ParseSignatureSchemes("ed25519:RSA_PSS_RSAE_SHA256,ecdsa_secp256r1_sha256")
	require.NoError(t, err)
	assert.Equal(t, []tls.SignatureScheme{tls.Ed25519, tls.PSSWithSHA256, tls.ECDSAWithP256AndSHA256}, got)
	for _, list := range []string{"", "rsa_pkcs1_sha1", "ecdsa_sha1", "ed25519:ed25519", "RSA+SHA256", "ed25519::ed448"} {
		_, err := tlsapi.ParseSignatureSchemes(list)
		requireConfigError(t, err, "SignatureSchemes")
	}
	for _, scheme := range got {
		back, err := tlsapi.ParseSignatureSchemes(tlsapi.SchemeName(scheme))
		require.NoError(t, err)
		assert.Equal(t, []tls.SignatureScheme{scheme}, back)
	}
	assert.Empty(t, tlsapi.SchemeName(0))
	assert.Equal(t, "0x0201", tlsapi.SchemeName(tls.PKCS1WithSHA1))
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]uint16{
		"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13, "TLS 1.3": tls.VersionTLS13, "TLSv1.2": tls.VersionTLS12,
		"tls1.3": tls.VersionTLS13, "v1.3": tls.VersionTLS13,
	} {
		got, err := tlsapi.ParseVersion(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "1", "1.1", "1.0", "TLS 1.1", "SSL 3.0", "1.4", "1.3\x00", "13", "TLS"} {
		_, err := tlsapi.ParseVersion(s)
		require.Error(t, err, "%q", s)
		assert.ErrorIs(t, err, tlsapi.KindConfig)
	}
	assert.Equal(t, "TLS 1.3", tlsapi.VersionName(tls.VersionTLS13))
	assert.Empty(t, tlsapi.VersionName(0))
}

func TestPolicies(t *testing.T) {
	for _, name := range []string{tlsapi.PolicyIntermediate, tlsapi.PolicyModern} {
		policy, ok := tlsapi.LookupPolicy(name)
		require.True(t, ok)
		// What a policy says must be a right configuration by itself.
		settings := tlsapi.Settings{
			MinVersion: policy.MinVersion, MaxVersion: policy.MaxVersion,
			CipherSuites: policy.CipherSuites, Curves: policy.Curves,
		}
		require.NoError(t, (&tlsapi.ClientConfig{Settings: settings, ServerName: "x"}).Validate())
		// A caller's change must not reach the next caller.
		policy.CipherSuites[0], policy.Curves[0] = 0, 0
		again, _ := tlsapi.LookupPolicy(name)
		assert.NotZero(t, again.CipherSuites[0])
		assert.NotZero(t, again.Curves[0])
	}
	for _, name := range []string{"", "Modern", "default", "modern\x00"} {
		_, ok := tlsapi.LookupPolicy(name)
		assert.False(t, ok, "%q", name)
	}
}

// requireConfigError tests that err is of KindConfig and names the option.
func requireConfigError(t *testing.T, err error, option string) {
	t.Helper()
	require.Error(t, err)
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, tlsapi.KindConfig, e.Kind, "%v", err)
	require.Equal(t, option, e.Option, "%v", err)
	require.False(t, errors.Is(err, errors.ErrUnsupported))
	require.Contains(t, err.Error(), option)
}
