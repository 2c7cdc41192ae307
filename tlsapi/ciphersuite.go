package tlsapi

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// cipherSuites are the suites that an option may name: all of TLS 1.3 and the
// forward-secret, authenticated ones of TLS 1.2. CBC suites and suites without
// forward secrecy are left out on purpose.
var cipherSuites = []struct {
	id   uint16
	name string
}{
	{tls.TLS_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"},
	{tls.TLS_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"},
	{tls.TLS_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
	{0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"},
	{0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"},
	{0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
}

// pskCipherSuites are what connections with a PSKTLS12 have negotiated; having
// one enables them, no list can name them.
var pskCipherSuites = map[uint16]string{
	0xccac: "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
	0xc035: "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
	0xc036: "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA",
	0xc037: "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
	0xc038: "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA384",
}

// CipherSuiteName returns the IANA name of a cipher suite; its value in
// hexadecimal when unknown; the empty string for zero.
func CipherSuiteName(id uint16) string {
	if id == 0 {
		return ""
	}
	for _, s := range cipherSuites {
		if s.id == id {
			return s.name
		}
	}
	if name, ok := pskCipherSuites[id]; ok {
		return name
	}
	if name := tls.CipherSuiteName(id); !strings.HasPrefix(name, "0x") {
		return name
	}
	return fmt.Sprintf("0x%04x", id)
}

// CipherSuiteTLS13 reports whether a cipher suite belongs to TLS 1.3.
func CipherSuiteTLS13(id uint16) bool { return id>>8 == 0x13 }

// ParseCipherSuites parses a list of IANA names in order of preference,
// separated by colons or commas, without regard to case. Suites of TLS 1.2 and
// 1.3 may be mixed. Unknown, empty and duplicate entries are errors of
// KindConfig that name the entry. Suites without forward secrecy or
// authenticated encryption are unknown on purpose.
func ParseCipherSuites(list string) ([]uint16, error) {
	return parseList("CipherSuites", list, func(entry string) (uint16, bool) {
		for _, s := range cipherSuites {
			if strings.EqualFold(s.name, entry) {
				return s.id, true
			}
		}
		return 0, false
	})
}

func checkCipherSuites(suites []uint16) error {
	seen := make(map[uint16]bool)
	for i, id := range suites {
		known := false
		for _, s := range cipherSuites {
			known = known || s.id == id
		}
		if !known {
			return ConfigError("CipherSuites", "entry %d, %s, is unknown or no longer safe%s", i+1, CipherSuiteName(id), knownEntries("CipherSuites"))
		}
		if seen[id] {
			return ConfigError("CipherSuites", "entry %d, %s, is a duplicate", i+1, CipherSuiteName(id))
		}
		seen[id] = true
	}
	return nil
}
