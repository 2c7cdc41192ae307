package s2n

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// builtTable is the table of the library that is built in.
func builtTable(t *testing.T) []policy {
	t.Helper()
	table := policyTable()
	if len(table) == 0 {
		t.Skip("s2n is not built in")
	}
	return table
}

func find(t *testing.T, table []policy, name string) policy {
	t.Helper()
	i := slices.IndexFunc(table, func(p policy) bool { return p.name == name })
	require.GreaterOrEqual(t, i, 0, "no policy %q", name)
	return table[i]
}

func match(t *testing.T, s tlsapi.Settings, table []policy) policy {
	t.Helper()
	name, err := matchPolicy(&s, table)
	require.NoError(t, err)
	return find(t, table, name)
}

func TestDefaultPolicyIsSafeAndServesEverybody(t *testing.T) {
	p := match(t, tlsapi.Settings{}, builtTable(t))
	assert.Equal(t, uint16(tls.VersionTLS12), p.minVersion)
	assert.Equal(t, uint16(tls.VersionTLS13), p.maxVersion)
	assert.Contains(t, p.curves, tlsapi.X25519)
	assert.Contains(t, p.curves, tlsapi.CurveP256)
	assert.Contains(t, p.schemes, tls.ECDSAWithP256AndSHA256)
	assert.Contains(t, p.schemes, tls.PSSWithSHA256)
	assert.Empty(t, p.certSchemes)
	// crypto/tls knows which suites have weaknesses.
	for _, id := range p.cipherSuites {
		assert.True(t, slices.ContainsFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool {
			return s.ID == id && !strings.Contains(s.Name, "_CBC_")
		}), "suite 0x%04x", id)
	}
}

func TestPresetsAreNotWeakerThanElsewhere(t *testing.T) {
	table := builtTable(t)
	for _, name := range []string{tlsapi.PolicyIntermediate, tlsapi.PolicyModern} {
		preset, ok := tlsapi.LookupPolicy(name)
		require.True(t, ok)
		p := match(t, tlsapi.Settings{SecurityPolicy: name}, table)
		assert.Equal(t, preset.MinVersion, p.minVersion, name)
		assert.Equal(t, preset.MaxVersion, p.maxVersion, name)
		assert.ElementsMatch(t, preset.CipherSuites, p.cipherSuites, name)
		// What the library lacks is said.
		want := slices.DeleteFunc(slices.Clone(preset.Curves), func(id tlsapi.CurveID) bool {
			return tlsapi.PostQuantum(id) && strings.Contains(presetNote(table), "without "+tlsapi.CurveName(id))
		})
		assert.Equal(t, want, p.curves, name)
		assert.Contains(t, presetNote(table), name+" is "+p.name)
	}
}

func TestSingleVersions(t *testing.T) {
	table := builtTable(t)
	p := match(t, tlsapi.Settings{MinVersion: tls.VersionTLS13}, table)
	assert.Equal(t, uint16(tls.VersionTLS13), p.minVersion)
	assert.Equal(t, uint16(tls.VersionTLS13), p.maxVersion)
	assert.Contains(t, p.curves, tlsapi.X25519)

	p = match(t, tlsapi.Settings{MaxVersion: tls.VersionTLS12}, table)
	assert.Equal(t, uint16(tls.VersionTLS12), p.minVersion)
	assert.Equal(t, uint16(tls.VersionTLS12), p.maxVersion)
	assert.GreaterOrEqual(t, p.strength(), 1)
	// What is authenticated comes first.
	assert.True(t, ecdheAEAD[p.cipherSuites[0]])

	p = match(t, tlsapi.Settings{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, table)
	assert.Equal(t, match(t, tlsapi.Settings{}, table).name, p.name)
}

// Every policy that is used without its name is found by its own content.
func TestExplicitSettingsFindTheirPolicy(t *testing.T) {
	table := builtTable(t)
	found := 0
	for _, want := range table {
		if want.refusal() != "" || want.strength() == 0 {
			continue
		}
		found++
		settings := tlsapi.Settings{
			MinVersion: want.minVersion, MaxVersion: want.maxVersion,
			CipherSuites: want.cipherSuites, Curves: want.curves, SignatureSchemes: want.schemes,
		}
		got := match(t, settings, table)
		assert.Equal(t, want.cipherSuites, got.cipherSuites, want.name)
		assert.Equal(t, want.curves, got.curves, want.name)
		assert.Equal(t, want.schemes, got.schemes, want.name)
	}
	assert.Positive(t, found)
}

func TestExplicitSettingsMatchExactlyOrAreRefused(t *testing.T) {
	table := builtTable(t)
	intermediate, _ := tlsapi.LookupPolicy(tlsapi.PolicyIntermediate)
	intermediate.Curves = match(t, tlsapi.Settings{SecurityPolicy: tlsapi.PolicyIntermediate}, table).curves
	_, err := matchPolicy(&tlsapi.Settings{CipherSuites: intermediate.CipherSuites, Curves: intermediate.Curves}, table)
	assert.NoError(t, err)

	// TLS 1.3 suites may stand anywhere among those of TLS 1.2.
	rotated := append(slices.Clone(intermediate.CipherSuites[3:]), intermediate.CipherSuites[:3]...)
	_, err = matchPolicy(&tlsapi.Settings{CipherSuites: rotated}, table)
	assert.NoError(t, err)

	reversed := slices.Clone(intermediate.CipherSuites)
	slices.Reverse(reversed)
	reversedCurves := slices.Clone(intermediate.Curves)
	slices.Reverse(reversedCurves)
	for option, s := range map[string]tlsapi.Settings{
		"CipherSuites": {CipherSuites: reversed},
		"Curves":       {Curves: reversedCurves},
		"SignatureSchemes": {SignatureSchemes: []tls.SignatureScheme{
			tls.ECDSAWithP256AndSHA256}},
	} {
		_, err := matchPolicy(&s, table)
		require.Error(t, err, option)
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		var e *tlsapi.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, option, e.Option)
		assert.Equal(t, "s2n", e.Provider)
		assert.Contains(t, err.Error(), "the nearest is ")
	}
	// One group alone is no policy of this library.
	_, err = matchPolicy(&tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X448}}, table)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestNamedPolicies(t *testing.T) {
	table := builtTable(t)
	named := func(name string) error {
		got, err := matchPolicy(&tlsapi.Settings{SecurityPolicy: name}, table)
		if err == nil {
			assert.Equal(t, name, got)
		}
		return err
	}
	for _, name := range []string{"CloudFront-TLS-1-2-2021", "AWS-CRT-SDK-TLSv1.2", "rfc9151", "ELBSecurityPolicy-FS-1-2-Res-2019-08"} {
		assert.NoError(t, named(name))
	}
	refused := map[string]string{
		"test_all":                "is for tests",
		"null":                    "is for tests",
		"20190801":                "allows TLS 1.0",
		"CloudFront-SSL-v-3":      "allows SSL 3.0",
		"cloudfront-tls-1-2-2021": "is unknown; known are intermediate, modern, ",
		"no such policy":          "CloudFront-TLS-1-2-2021",
		// It looks like a policy by date and is the library's test_all_tls13.
		"20200207": "allows ",
	}
	for name, why := range refused {
		err := named(name)
		require.Error(t, err, name)
		assert.ErrorIs(t, err, tlsapi.KindConfig, name)
		assert.Contains(t, err.Error(), why, name)
	}
	for _, p := range table {
		if named(p.name) != nil {
			continue
		}
		assert.False(t, p.testOnly, p.name)
		assert.GreaterOrEqual(t, p.minVersion, uint16(tls.VersionTLS12), p.name)
		for _, id := range p.cipherSuites {
			assert.NotContains(t, tlsapi.CipherSuiteName(id), "_3DES_", p.name)
			assert.NotContains(t, tlsapi.CipherSuiteName(id), "_RC4_", p.name)
		}
	}
}

// rows is a table as a newer library could have it.
func rows() []policy {
	aead := []uint16{
		tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
	schemes := []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.PKCS1WithSHA256}
	classical := []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384}
	base := policy{minVersion: tls.VersionTLS12, maxVersion: tls.VersionTLS13, cipherSuites: aead, curves: classical, schemes: schemes}
	change := func(name string, f func(*policy)) policy {
		p := base
		p.name = name
		f(&p)
		return p
	}
	return []policy{
		change("old", func(p *policy) { p.minVersion = tls.VersionTLS10 }),
		change("rsa", func(p *policy) { p.cipherSuites = append(slices.Clone(aead), tls.TLS_RSA_WITH_AES_128_GCM_SHA256) }),
		change("cbc", func(p *policy) { p.cipherSuites = append(slices.Clone(aead), 0xc023) }),
		change("sha1", func(p *policy) { p.schemes = append(slices.Clone(schemes), tls.ECDSAWithSHA1) }),
		change("plain", func(*policy) {}),
		change("certs", func(p *policy) { p.certSchemes = []tls.SignatureScheme{tls.ECDSAWithP384AndSHA384} }),
		change("pq", func(p *policy) { p.curves = append([]tlsapi.CurveID{tlsapi.X25519MLKEM768}, classical...) }),
		change("test", func(p *policy) { p.testOnly = true }),
		change("empty", func(p *policy) { p.schemes = nil }),
	}
}

func TestChoiceBetweenPolicies(t *testing.T) {
	name := func(s tlsapi.Settings, table []policy) string { return match(t, s, table).name }
	table := rows()
	assert.Equal(t, "pq", name(tlsapi.Settings{}, table), "post-quantum where there is one")
	without := slices.DeleteFunc(slices.Clone(table), func(p policy) bool { return p.name == "pq" })
	assert.Equal(t, "plain", name(tlsapi.Settings{}, without), "no SHA-1 where it can be had")
	assert.Equal(t, "pq", name(tlsapi.Settings{SecurityPolicy: tlsapi.PolicyIntermediate}, table))
	assert.Equal(t, "plain", name(tlsapi.Settings{SecurityPolicy: tlsapi.PolicyIntermediate}, without))
	assert.Equal(t, "plain", name(tlsapi.Settings{Curves: []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256, tlsapi.CurveP384}}, table))

	for _, bad := range []string{"old", "rsa", "test", "empty", "certs"} {
		only := []policy{find(t, table, bad)}
		_, err := matchPolicy(&tlsapi.Settings{}, only)
		assert.ErrorIs(t, err, errors.ErrUnsupported, bad)
	}
	// CBC is better than nothing, and never better than anything else.
	assert.Equal(t, "cbc", name(tlsapi.Settings{}, []policy{find(t, table, "cbc")}))
	assert.Equal(t, "sha1", name(tlsapi.Settings{}, []policy{find(t, table, "cbc"), find(t, table, "sha1")}))
	_, err := matchPolicy(&tlsapi.Settings{}, nil)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = matchPolicy(&tlsapi.Settings{SecurityPolicy: tlsapi.PolicyModern}, table)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}
