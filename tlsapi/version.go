package tlsapi

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// VersionName returns the protocol version in words: "TLS 1.3"; the empty
// string for zero.
func VersionName(version uint16) string {
	if version == 0 {
		return ""
	}
	return tls.VersionName(version)
}

// ParseVersion parses "1.2", "1.3", "TLS 1.3", "TLSv1.3" or "TLS1.3", without
// regard to case.
func ParseVersion(s string) (uint16, error) {
	t := strings.ToLower(s)
	t = strings.TrimPrefix(t, "tls")
	t = strings.TrimPrefix(t, "v")
	switch strings.TrimSpace(t) {
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, ConfigError("MinVersion", "unknown protocol version %.100q; known are 1.2 and 1.3", s)
}

func checkVersions(minimum, maximum uint16) error {
	for _, v := range []struct {
		option string
		value  uint16
	}{{"MinVersion", minimum}, {"MaxVersion", maximum}} {
		if v.value != 0 && v.value != tls.VersionTLS12 && v.value != tls.VersionTLS13 {
			return ConfigError(v.option, "%s (0x%04x) is not allowed; allowed are TLS 1.2 and TLS 1.3", tls.VersionName(v.value), v.value)
		}
	}
	if minimum != 0 && maximum != 0 && minimum > maximum {
		return ConfigError("MinVersion", "%s is above MaxVersion, %s", tls.VersionName(minimum), tls.VersionName(maximum))
	}
	return nil
}

// SchemeName returns the IANA name of a signature scheme, such as
// "ecdsa_secp256r1_sha256"; its value in hexadecimal when unknown; the empty
// string for zero.
func SchemeName(scheme tls.SignatureScheme) string {
	if scheme == 0 {
		return ""
	}
	for _, s := range schemeNames {
		if s.id == scheme {
			return s.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(scheme))
}

// ParseSignatureSchemes parses a list of IANA names, separated by colons or
// commas, without regard to case. Unknown, empty and duplicate entries are
// errors of KindConfig that name the entry.
func ParseSignatureSchemes(list string) ([]tls.SignatureScheme, error) {
	return parseList("SignatureSchemes", list, func(entry string) (tls.SignatureScheme, bool) {
		for _, s := range schemeNames {
			if strings.EqualFold(s.name, entry) {
				return s.id, true
			}
		}
		return 0, false
	})
}

var schemeNames = []struct {
	id   tls.SignatureScheme
	name string
}{
	{tls.ECDSAWithP256AndSHA256, "ecdsa_secp256r1_sha256"},
	{tls.ECDSAWithP384AndSHA384, "ecdsa_secp384r1_sha384"},
	{tls.ECDSAWithP521AndSHA512, "ecdsa_secp521r1_sha512"},
	{tls.Ed25519, "ed25519"},
	{tls.PSSWithSHA256, "rsa_pss_rsae_sha256"},
	{tls.PSSWithSHA384, "rsa_pss_rsae_sha384"},
	{tls.PSSWithSHA512, "rsa_pss_rsae_sha512"},
	{tls.PKCS1WithSHA256, "rsa_pkcs1_sha256"},
	{tls.PKCS1WithSHA384, "rsa_pkcs1_sha384"},
	{tls.PKCS1WithSHA512, "rsa_pkcs1_sha512"},
	{0x0808, "ed448"},
	{0x0809, "rsa_pss_pss_sha256"},
	{0x080a, "rsa_pss_pss_sha384"},
	{0x080b, "rsa_pss_pss_sha512"},
}

func checkSchemes(schemes []tls.SignatureScheme) error {
	seen := make(map[tls.SignatureScheme]bool)
	for i, s := range schemes {
		name := SchemeName(s)
		if name == "" || strings.HasPrefix(name, "0x") {
			return ConfigError("SignatureSchemes", "entry %d, 0x%04x, is unknown or no longer safe", i+1, uint16(s))
		}
		if seen[s] {
			return ConfigError("SignatureSchemes", "entry %d, %s, is a duplicate", i+1, name)
		}
		seen[s] = true
	}
	return nil
}

// parseList splits an option's value at colons and commas and looks every
// entry up; it refuses empty, unknown and duplicate entries.
func parseList[T comparable](option, list string, lookup func(string) (T, bool)) ([]T, error) {
	var out []T
	seen := make(map[T]bool)
	for i, entry := range strings.Split(strings.ReplaceAll(list, ",", ":"), ":") {
		if entry == "" {
			return nil, ConfigError(option, "entry %d of %.100q is empty", i+1, list)
		}
		v, ok := lookup(entry)
		if !ok {
			return nil, ConfigError(option, "entry %d, %.100q, is unknown%s", i+1, entry, knownEntries(option))
		}
		if seen[v] {
			return nil, ConfigError(option, "entry %d, %.100q, is a duplicate", i+1, entry)
		}
		seen[v] = true
		out = append(out, v)
	}
	return out, nil
}

// knownEntries tells what a list option could hold, for its error message.
func knownEntries(option string) string {
	var names []string
	switch option {
	case "Curves":
		for _, c := range curveNames {
			names = append(names, c.name)
		}
	case "SignatureSchemes":
		for _, s := range schemeNames {
			names = append(names, s.name)
		}
	case "CipherSuites":
		for _, s := range cipherSuites {
			names = append(names, s.name)
		}
	}
	return "; known are " + strings.Join(names, ", ")
}
