package selection_test

import (
	"crypto/tls"
	"slices"
	"strconv"
	"testing"

	"github.com/polytls/polytls/internal/selection"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var authority *tlstest.Authority

func leaf(t testing.TB, kind tlstest.KeyType, names ...string) tls.Certificate {
	if authority == nil {
		authority = tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	}
	return authority.Leaf(t, tlstest.Spec{Key: kind, CommonName: "common.example", DNSNames: names})
}

// able returns the ClientHello of a client that can verify everything.
func able(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves:  []tls.CurveID{tls.X25519, tls.CurveP256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.Ed25519, tls.PKCS1WithSHA256},
	}
}

// chosen returns the positions of the candidates in the list.
func chosen(t *testing.T, certificates []tls.Certificate, hello *tls.ClientHelloInfo, server selection.Parameters) []int {
	t.Helper()
	var positions []int
	for _, c := range selection.Candidates(certificates, hello, server) {
		i := slices.IndexFunc(certificates, func(x tls.Certificate) bool { return &x.Certificate[0][0] == &c.Certificate[0][0] })
		require.GreaterOrEqual(t, i, 0)
		assert.Same(t, &certificates[i], c)
		positions = append(positions, i)
	}
	return positions
}

func TestCandidatesByName(t *testing.T) {
	certificates := []tls.Certificate{
		leaf(t, tlstest.ECDSA, "first.example", "second.name.example"),
		leaf(t, tlstest.ECDSA, "*.wild.example"),
		leaf(t, tlstest.ECDSA, "exact.wild.example"),
		leaf(t, tlstest.ECDSA, "f*.partial.example", "*", "*.*.stars.example"),
		leaf(t, tlstest.ECDSA, "dotted.example."),
		leaf(t, tlstest.ECDSA, "Capital.Example"),
		leaf(t, tlstest.ECDSA, "first.example"),
	}
	for name, want := range map[string]int{
		"first.example":           0,
		"FIRST.example":           0,
		"first.example.":          0,
		"second.name.example":     0,
		"exact.wild.example":      2,
		"EXACT.wild.example.":     2,
		"a.wild.example":          1,
		"a.b.wild.example":        0,
		"wild.example":            0,
		".wild.example":           0,
		"foo.partial.example":     0,
		"f*.partial.example":      0,
		"a.b.stars.example":       0,
		"dotted.example":          4,
		"capital.example":         5,
		"common.example":          0,
		"unknown.example":         0,
		"":                        0,
		".":                       0,
		"192.0.2.1":               0,
		"2001:db8::1":             0,
		"localhost":               0,
		"exact.wild.example.evil": 0,
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, []int{want}, chosen(t, certificates, able(name), selection.Parameters{}))
		})
	}
}

func TestCandidatesByKeyType(t *testing.T) {
	certificates := []tls.Certificate{
		leaf(t, tlstest.ECDSA, "default.example"),
		leaf(t, tlstest.RSA, "both.example"),
		leaf(t, tlstest.ECDSA, "both.example"),
		leaf(t, tlstest.RSA, "both.example"),
		leaf(t, tlstest.Ed25519, "both.example"),
		leaf(t, tlstest.RSA, "default.example"),
		leaf(t, tlstest.RSA, "*.mixed.example"),
		leaf(t, tlstest.ECDSA, "a.mixed.example"),
	}
	type change func(*tls.ClientHelloInfo)
	only12 := func(h *tls.ClientHelloInfo) { h.SupportedVersions = []uint16{tls.VersionTLS12} }
	schemes := func(list ...tls.SignatureScheme) change {
		return func(h *tls.ClientHelloInfo) { h.SignatureSchemes = list }
	}
	suites := func(list ...uint16) change { return func(h *tls.ClientHelloInfo) { h.CipherSuites = list } }
	for _, c := range []struct {
		what    string
		name    string
		changes []change
		server  selection.Parameters
		want    []int
	}{
		{what: "one of each in order", name: "both.example", want: []int{1, 2, 4}},
		{what: "default has both", name: "", want: []int{0, 5}},
		{what: "only ECDSA", name: "both.example", changes: []change{schemes(tls.ECDSAWithP256AndSHA256)}, want: []int{2}},
		{what: "only RSA", name: "both.example", changes: []change{schemes(tls.PSSWithSHA512)}, want: []int{1}},
		{what: "only Ed25519", name: "both.example", changes: []change{schemes(tls.Ed25519)}, want: []int{4}},
		{what: "PKCS1 is not for TLS 1.3", name: "both.example", changes: []change{schemes(tls.PKCS1WithSHA256, tls.Ed25519)}, want: []int{4}},
		{what: "PKCS1 in TLS 1.2", name: "both.example", changes: []change{schemes(tls.PKCS1WithSHA256), only12}, want: []int{1}},
		{what: "another curve in TLS 1.3", name: "both.example", changes: []change{schemes(tls.ECDSAWithP384AndSHA384, tls.PSSWithSHA256)}, want: []int{1}},
		{what: "another hash in TLS 1.2", name: "both.example", changes: []change{schemes(tls.ECDSAWithP384AndSHA384), only12}, want: []int{2}},
		{what: "SHA-1 suits nobody", name: "both.example", changes: []change{schemes(tls.PKCS1WithSHA1, tls.ECDSAWithSHA1, tls.Ed25519), only12}, want: []int{4}},
		{what: "RSA suites in TLS 1.2", name: "both.example", changes: []change{suites(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), only12}, want: []int{1}},
		{what: "ECDSA suites in TLS 1.2", name: "both.example", changes: []change{suites(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), only12}, want: []int{2, 4}},
		{what: "suites of TLS 1.2 do not matter in 1.3", name: "both.example", changes: []change{suites(tls.TLS_AES_128_GCM_SHA256)}, want: []int{1, 2, 4}},
		{what: "the certificate's curve in TLS 1.2", name: "both.example",
			changes: []change{func(h *tls.ClientHelloInfo) { h.SupportedCurves = []tls.CurveID{tls.X25519} }, only12}, want: []int{1, 4}},
		{what: "the server's version", name: "both.example", changes: []change{suites(tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)},
			server: selection.Parameters{MaxVersion: tls.VersionTLS12}, want: []int{1}},
		{what: "the server's suites", name: "both.example", changes: []change{only12},
			server: selection.Parameters{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, want: []int{2, 4}},
		{what: "the server's schemes", name: "both.example",
			server: selection.Parameters{SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}, want: []int{2}},
		{what: "exact before wildcard", name: "a.mixed.example", want: []int{7}},
		{what: "wildcard when the exact one cannot be verified", name: "a.mixed.example", changes: []change{schemes(tls.PSSWithSHA256)}, want: []int{6}},
		{what: "best match when none can be verified", name: "a.mixed.example", changes: []change{schemes(tls.Ed25519)}, want: []int{7}},
		{what: "all key types when none can be verified", name: "both.example", changes: []change{schemes(tls.PKCS1WithSHA1)}, want: []int{1, 2, 4}},
		{what: "no version in common", name: "both.example",
			changes: []change{func(h *tls.ClientHelloInfo) { h.SupportedVersions = []uint16{tls.VersionTLS11} }}, want: []int{1, 2, 4}},
	} {
		t.Run(c.what, func(t *testing.T) {
			hello := able(c.name)
			for _, change := range c.changes {
				change(hello)
			}
			assert.Equal(t, c.want, chosen(t, certificates, hello, c.server))
		})
	}
	t.Run("schemes of the certificate", func(t *testing.T) {
		limited := slices.Clone(certificates[1:3])
		limited[0].SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PKCS1WithSHA256}
		assert.Equal(t, []int{1}, chosen(t, limited, able("both.example"), selection.Parameters{}))
	})
}

func TestCandidatesWithoutChoice(t *testing.T) {
	assert.Empty(t, selection.Candidates(nil, able("a.example"), selection.Parameters{}))
	// A single one is taken whatever the client says: the library decides.
	one := []tls.Certificate{leaf(t, tlstest.RSA, "a.example")}
	assert.Equal(t, []int{0}, chosen(t, one, &tls.ClientHelloInfo{ServerName: "b.example"}, selection.Parameters{}))
}

func TestCandidatesFollowTheList(t *testing.T) {
	a, b, c := leaf(t, tlstest.ECDSA, "a.example"), leaf(t, tlstest.ECDSA, "b.example"), leaf(t, tlstest.ECDSA, "b.example")
	assert.Equal(t, []int{1}, chosen(t, []tls.Certificate{a, b}, able("b.example"), selection.Parameters{}))
	assert.Equal(t, []int{1}, chosen(t, []tls.Certificate{a, b}, able("b.example"), selection.Parameters{}))
	// Another list that begins with the same certificate.
	assert.Equal(t, []int{0}, chosen(t, []tls.Certificate{a, a, a}, able("b.example"), selection.Parameters{}))
	list := []tls.Certificate{a, c}
	assert.Same(t, &list[1], selection.Candidates(list, able("b.example"), selection.Parameters{})[0])
	// Leaf does not have to be there, and is not believed when it is.
	b.Leaf = nil
	c.Leaf = a.Leaf
	assert.Equal(t, []int{1}, chosen(t, []tls.Certificate{a, b}, able("b.example"), selection.Parameters{}))
	assert.Equal(t, []int{1}, chosen(t, []tls.Certificate{b, a, c}, able("a.example"), selection.Parameters{}))
}

func TestParametersOf(t *testing.T) {
	assert.Equal(t, selection.Parameters{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, selection.ParametersOf(&tlsapi.Settings{}))
	modern := selection.ParametersOf(&tlsapi.Settings{SecurityPolicy: tlsapi.PolicyModern})
	assert.EqualValues(t, tls.VersionTLS13, modern.MinVersion)
	assert.NotEmpty(t, modern.CipherSuites)
	explicit := tlsapi.Settings{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{1}, SignatureSchemes: []tls.SignatureScheme{2}}
	assert.Equal(t, selection.Parameters{tls.VersionTLS12, tls.VersionTLS12, []uint16{1}, []tls.SignatureScheme{2}}, selection.ParametersOf(&explicit))
}

func BenchmarkCandidates(b *testing.B) {
	var certificates []tls.Certificate
	for i := range 1000 {
		certificates = append(certificates, leaf(b, tlstest.ECDSA, "a"+strconv.Itoa(i)+".example"))
	}
	hello := able("a999.example")
	for b.Loop() {
		selection.Candidates(certificates, hello, selection.Parameters{})
	}
}
