package s2n

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// policy is one of s2n's security policies: the only way in which the library
// lets versions, cipher suites, groups and signature schemes be chosen. The
// lists are in the policy's order.
type policy struct {
	name                   string
	minVersion, maxVersion uint16
	cipherSuites           []uint16
	curves                 []tlsapi.CurveID
	schemes                []tls.SignatureScheme
	// certSchemes restrict the signatures of certificates; empty: s2n does not.
	certSchemes []tls.SignatureScheme
	testOnly    bool
}

// Deviations of the library's policies from what the settings mean elsewhere,
// for the capability matrix.
const (
	// schemeNote: s2n has no policy without them before the ones of 2023.
	schemeNote = "SHA-1 and SHA-224 signature schemes stand in the ClientHello; handshakes that use SHA-1 are refused all the same"
	// exactNote says when explicit settings are honoured.
	exactNote = "honoured when one of the library's security policies has exactly these, in this order; refused otherwise"
	// oldNote is about MaxVersion 1.2.
	oldNote = "TLS 1.2 alone means a policy that has CBC suites with SHA-2 behind the AEAD ones, and no X25519, unless CipherSuites or Curves say otherwise"
)

// shareNote is about the second key share.
const shareNote = "the library decides from its security policy; what it sends is accepted, the other value refused"

// hasPostQuantum reports whether a policy that may be used has a post-quantum
// group.
func hasPostQuantum(table []policy) bool {
	return slices.ContainsFunc(table, func(p policy) bool {
		return p.refusal() == "" && slices.ContainsFunc(p.curves, tlsapi.PostQuantum)
	})
}

// selectPolicy returns the name of the library's policy for the settings.
func selectPolicy(s *tlsapi.Settings) (string, error) { return matchPolicy(s, policyTable()) }

// matchPolicy returns the name of the policy in the table that the settings
// mean:
//   - SecurityPolicy names a preset or one of the table's;
//   - explicit settings mean a policy that has exactly them;
//   - what is not set is left to the best policy that forward secrecy,
//     authenticated encryption and TLS 1.2 as the least version allow.
func matchPolicy(s *tlsapi.Settings, table []policy) (string, error) {
	if preset, ok := tlsapi.LookupPolicy(s.SecurityPolicy); ok {
		return matchPreset(s.SecurityPolicy, preset, table)
	}
	if s.SecurityPolicy != "" {
		return namedPolicy(s.SecurityPolicy, table)
	}
	if p := bestPolicy(s, table); p != nil {
		return p.name, nil
	}
	return "", noMatch(s, table)
}

// namedPolicy checks a name that the user has chosen.
func namedPolicy(name string, table []policy) (string, error) {
	i := slices.IndexFunc(table, func(p policy) bool { return p.name == name })
	if i < 0 {
		var known []string
		for _, p := range table {
			if p.refusal() == "" {
				known = append(known, p.name)
			}
		}
		return "", tlsapi.ConfigError("SecurityPolicy", "%q is unknown; known are intermediate, modern, %s", name, strings.Join(known, ", "))
	}
	if why := table[i].refusal(); why != "" {
		return "", tlsapi.ConfigError("SecurityPolicy", "%q %s", name, why)
	}
	return name, nil
}

// matchPreset finds the policy that comes nearest to a preset without being
// weaker: with its versions, and with none but its suites and groups.
func matchPreset(name string, preset tlsapi.Policy, table []policy) (string, error) {
	var best *policy
	missing := func(p *policy) int {
		return len(preset.CipherSuites) - len(p.cipherSuites) + len(preset.Curves) - len(p.curves)
	}
	for i := range table {
		p := &table[i]
		if p.refusal() != "" || p.minVersion != preset.MinVersion || p.maxVersion != preset.MaxVersion ||
			!subset(p.cipherSuites, preset.CipherSuites) || !subset(p.curves, preset.Curves) || !p.serves() {
			continue
		}
		if best == nil || cmp.Or(
			cmp.Compare(missing(p), missing(best)),
			cmp.Compare(p.weakSchemes(), best.weakSchemes()),
			cmp.Compare(len(p.certSchemes), len(best.certSchemes))) < 0 {
			best = p
		}
	}
	if best == nil {
		return "", tlsapi.UnsupportedError("s2n", "SecurityPolicy", "the library has no policy for %s", name)
	}
	return best.name, nil
}

// presetNote says which policies of the table the presets are, and what they have
// less than the guidelines.
func presetNote(table []policy) string {
	note, weak := "the library's policy that comes nearest without being weaker", false
	for _, name := range []string{tlsapi.PolicyIntermediate, tlsapi.PolicyModern} {
		preset, _ := tlsapi.LookupPolicy(name)
		chosen, err := matchPreset(name, preset, table)
		if err != nil {
			continue
		}
		p := &table[slices.IndexFunc(table, func(p policy) bool { return p.name == chosen })]
		note += "; " + name + " is " + chosen
		var missing []string
		for _, id := range preset.CipherSuites {
			if !slices.Contains(p.cipherSuites, id) {
				missing = append(missing, tlsapi.CipherSuiteName(id))
			}
		}
		for _, id := range preset.Curves {
			if !slices.Contains(p.curves, id) {
				missing = append(missing, tlsapi.CurveName(id))
			}
		}
		if len(missing) > 0 {
			note += ", without " + strings.Join(missing, ", ")
		}
		if !sameSuites(ofList(p.cipherSuites, preset.CipherSuites), ofList(preset.CipherSuites, p.cipherSuites)) {
			note += ", suites in its own order"
		}
		weak = weak || p.weakSchemes() > 0
	}
	if weak {
		note += "; " + schemeNote
	}
	return note + "; a server chooses by its own list, where the guidelines leave the choice to the client"
}

// bestPolicy returns the policy that has all that is set and is best in the
// rest, or nil.
func bestPolicy(s *tlsapi.Settings, table []policy) *policy {
	var best *policy
	for i := range table {
		p := &table[i]
		if p.refusal() != "" || p.strength() == 0 || !p.honours(s) {
			continue
		}
		// Settings that are explicit may want what not every peer has.
		if s.CipherSuites == nil && s.Curves == nil && s.SignatureSchemes == nil && !p.serves() {
			continue
		}
		if best == nil || p.better(best) {
			best = p
		}
	}
	return best
}

// refusal says why a policy is never used, also when the user names it; empty
// when it may be.
func (p *policy) refusal() string {
	if p.testOnly {
		return "is for tests"
	}
	if p.minVersion < tls.VersionTLS12 {
		return fmt.Sprintf("allows %s; the least here is TLS 1.2", versionName(p.minVersion))
	}
	for _, id := range p.cipherSuites {
		if brokenSuites[id] {
			return fmt.Sprintf("has the cipher suite %s", tlsapi.CipherSuiteName(id))
		}
	}
	if len(p.cipherSuites) == 0 || len(p.curves) == 0 || len(p.schemes) == 0 {
		return "is empty with this library"
	}
	return ""
}

// brokenSuites have no encryption, RC4 or triple DES.
var brokenSuites = map[uint16]bool{
	0x0000: true, 0x0001: true, 0x0002: true, 0x0004: true, 0x0005: true, 0x000a: true, 0x0016: true, 0x003b: true,
	0xc007: true, 0xc008: true, 0xc011: true, 0xc012: true,
}

// strength is 2 when all suites have forward secrecy and authenticated
// encryption, 1 when some are CBC with SHA-2 and stand behind the others, 0 for
// less: such policies are used only when they are named.
func (p *policy) strength() int {
	strength := 2
	for _, id := range p.cipherSuites {
		switch {
		case tlsapi.CipherSuiteTLS13(id) || ecdheAEAD[id]:
			if strength == 1 && !tlsapi.CipherSuiteTLS13(id) {
				return 0
			}
		case ecdheCBCSHA2[id]:
			strength = 1
		default:
			return 0
		}
	}
	return strength
}

var (
	ecdheAEAD = map[uint16]bool{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: true, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: true,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: true, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: true,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: true, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: true,
	}
	ecdheCBCSHA2 = map[uint16]bool{0xc023: true, 0xc024: true, 0xc027: true, 0xc028: true}
)

// serves reports whether a policy works with what servers and clients of
// today have: ECDSA P-256 and RSA certificates, and P-256.
func (p *policy) serves() bool {
	if !slices.Contains(p.curves, tlsapi.CurveP256) || !slices.Contains(p.schemes, tls.ECDSAWithP256AndSHA256) {
		return false
	}
	// TLS 1.3 needs PSS for RSA keys; TLS 1.2 can do with PKCS #1.
	if p.maxVersion == tls.VersionTLS13 && !slices.Contains(p.schemes, tls.PSSWithSHA256) {
		return false
	}
	if p.minVersion == tls.VersionTLS12 &&
		!(slices.Contains(p.cipherSuites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) &&
			slices.Contains(p.cipherSuites, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) &&
			slices.Contains(p.schemes, tls.PKCS1WithSHA256)) {
		return false
	}
	return len(p.certSchemes) == 0 ||
		slices.Contains(p.certSchemes, tls.ECDSAWithP256AndSHA256) && slices.Contains(p.certSchemes, tls.PKCS1WithSHA256)
}

// better orders policies that all honour the settings. Of equals the first in
// the table is kept.
func (p *policy) better(than *policy) bool {
	flag := func(list []tlsapi.CurveID, id tlsapi.CurveID) int {
		if slices.Contains(list, id) {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(p.strength(), than.strength()),
		cmp.Compare(flag(p.curves, tlsapi.X25519MLKEM768), flag(than.curves, tlsapi.X25519MLKEM768)),
		cmp.Compare(flag(p.curves, tlsapi.X25519), flag(than.curves, tlsapi.X25519)),
		cmp.Compare(than.weakSchemes(), p.weakSchemes()),
		cmp.Compare(len(p.cipherSuites), len(than.cipherSuites)),
		cmp.Compare(len(p.curves), len(than.curves)),
		cmp.Compare(len(than.certSchemes), len(p.certSchemes))) > 0
}

// weakSchemes counts the signature schemes with SHA-1 and SHA-224.
func (p *policy) weakSchemes() int {
	count := 0
	for _, s := range p.schemes {
		if s>>8 == 2 || s>>8 == 3 {
			count++
		}
	}
	return count
}

// honours reports whether the policy has exactly what is set.
func (p *policy) honours(s *tlsapi.Settings) bool { return len(p.violated(s)) == 0 }

// violated returns the options that the policy does not honour.
func (p *policy) violated(s *tlsapi.Settings) []string {
	var options []string
	minimum, maximum := s.Versions()
	if p.minVersion != minimum {
		options = append(options, "MinVersion")
	}
	if p.maxVersion != maximum {
		options = append(options, "MaxVersion")
	}
	if s.CipherSuites != nil && !sameSuites(p.cipherSuites, s.CipherSuites) {
		options = append(options, "CipherSuites")
	}
	if s.Curves != nil && !slices.Equal(p.curves, s.Curves) {
		options = append(options, "Curves")
	}
	if s.SignatureSchemes != nil && !slices.Equal(p.schemes, s.SignatureSchemes) {
		options = append(options, "SignatureSchemes")
	}
	return options
}

// sameSuites compares the suites of TLS 1.2 and those of TLS 1.3, each in
// order: between the two kinds there is no order, as no handshake can choose.
func sameSuites(a, b []uint16) bool {
	return slices.Equal(ofTLS13(a, true), ofTLS13(b, true)) && slices.Equal(ofTLS13(a, false), ofTLS13(b, false))
}

func ofTLS13(suites []uint16, yes bool) []uint16 {
	return slices.DeleteFunc(slices.Clone(suites), func(id uint16) bool { return tlsapi.CipherSuiteTLS13(id) != yes })
}

// noMatch explains which option stands in the way, and what the nearest policy
// has there.
func noMatch(s *tlsapi.Settings, table []policy) error {
	var nearest *policy
	var fewest int
	for i := range table {
		p := &table[i]
		if p.refusal() != "" || p.strength() == 0 {
			continue
		}
		violated := len(p.violated(s))
		if nearest == nil || violated < fewest || violated == fewest && p.better(nearest) {
			nearest, fewest = p, violated
		}
	}
	if nearest == nil {
		return tlsapi.UnsupportedError("s2n", "SecurityPolicy", "the library has no policy for general use")
	}
	option := "SecurityPolicy"
	if violated := nearest.violated(s); len(violated) > 0 {
		// The option to name is one that the user has set.
		option = violated[len(violated)-1]
		for _, o := range violated {
			if o == "MinVersion" && s.MinVersion != 0 || o == "MaxVersion" && s.MaxVersion != 0 ||
				o == "CipherSuites" || o == "Curves" || o == "SignatureSchemes" {
				option = o
				break
			}
		}
	}
	return tlsapi.UnsupportedError("s2n", option, "none of the library's security policies has exactly these settings; the nearest is %s", nearest.describe())
}

// describe tells a policy's content in the words of the options.
func (p *policy) describe() string {
	var suites, curves, schemes []string
	for _, id := range p.cipherSuites {
		suites = append(suites, tlsapi.CipherSuiteName(id))
	}
	for _, id := range p.curves {
		curves = append(curves, tlsapi.CurveName(id))
	}
	for _, id := range p.schemes {
		schemes = append(schemes, tlsapi.SchemeName(id))
	}
	return fmt.Sprintf("%s (%s to %s; cipher suites %s; curves %s; signature schemes %s)", p.name,
		versionName(p.minVersion), versionName(p.maxVersion),
		strings.Join(suites, ":"), strings.Join(curves, ":"), strings.Join(schemes, ":"))
}

func versionName(version uint16) string {
	if version == 0x0300 {
		return "SSL 3.0"
	}
	return tlsapi.VersionName(version)
}

// ofList returns the elements of list that the other list has as well.
func ofList[T comparable](list, other []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return !slices.Contains(other, v) })
}

func subset[T comparable](list, of []T) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !slices.Contains(of, v) })
}
