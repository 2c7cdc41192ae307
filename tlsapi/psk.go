package tlsapi

import (
	"bytes"
	"fmt"
)

// PSKHash is the hash that a pre-shared key belongs to (RFC 8446 section
// 4.2.11): the cipher suite must use the same.
type PSKHash uint8

const (
	// PSKSHA256 is the zero value, the default of RFC 8446.
	PSKSHA256 PSKHash = iota
	PSKSHA384
)

// String returns "sha256" or "sha384".
func (h PSKHash) String() string {
	switch h {
	case PSKSHA256:
		return "sha256"
	case PSKSHA384:
		return "sha384"
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

// PSKKind is the way a pre-shared key is used.
type PSKKind uint8

const (
	// PSKExternal is an external PSK of TLS 1.3 (RFC 8446); the zero value.
	PSKExternal PSKKind = iota
	// PSKImported is an external PSK imported by RFC 9258. It does not
	// interoperate with PSKExternal.
	PSKImported
	// PSKTLS12 is a PSK for the ECDHE_PSK cipher suites of TLS 1.2 (RFC 4279,
	// RFC 5489, RFC 7905), which come before all others when there is one. It
	// does not count in TLS 1.3, which is ruled out where nothing else can
	// authenticate: with RequirePSK, and on a server without certificates.
	// Identities have at most 128 bytes, none of them zero.
	PSKTLS12
)

// String returns "external", "imported" or "tls12".
func (k PSKKind) String() string {
	switch k {
	case PSKExternal:
		return "external"
	case PSKImported:
		return "imported"
	case PSKTLS12:
		return "tls12"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// PSK is a pre-shared key. Its secret does not print: String, GoString, Format
// and MarshalJSON leave it out. They cannot be called for a PSK inside an
// unexported field of another struct: package fmt then prints the bytes.
type PSK struct {
	// Identity is sent in the clear. It must not be empty.
	Identity []byte
	// Secret has at least 16 bytes and is not all zero.
	Secret []byte
	// Hash counts for PSKExternal, where the cipher suite must have it, and for
	// PSKImported, where the key is derived with it and any suite fits. Both
	// ends need the same.
	Hash PSKHash
	Kind PSKKind
	// Context is that of PSKImported (RFC 9258 section 3.1): what the key is
	// imported for. It is sent in the clear, and both ends need the same. Empty,
	// the default, means none; with another kind it is an error. Identity and
	// Context have at most 65527 bytes together.
	Context []byte
}

// String returns all but the secret.
func (p PSK) String() string {
	if len(p.Context) > 0 {
		return fmt.Sprintf("PSK{Identity: %q, Secret: (%d bytes), Hash: %v, Kind: %v, Context: %q}", p.Identity, len(p.Secret), p.Hash, p.Kind, p.Context)
	}
	return fmt.Sprintf("PSK{Identity: %q, Secret: (%d bytes), Hash: %v, Kind: %v}", p.Identity, len(p.Secret), p.Hash, p.Kind)
}

// GoString is String: %#v must not print the secret either.
func (p PSK) GoString() string { return "tlsapi." + p.String() }

// Format makes every verb print String, %x among them.
func (p PSK) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.String()) }

// MarshalJSON prints String: a configuration that is logged as JSON must not
// show the secret.
func (p PSK) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", p.String()), nil }

// maxImportedIdentity is what the 8 bytes of lengths, protocol and KDF leave in an
// ImportedIdentity.
const maxImportedIdentity = 65535 - 8

func checkPSKs(psks []PSK) error {
	for i, p := range psks {
		switch {
		case len(p.Identity) == 0:
			return ConfigError("PSKs", "entry %d has an empty identity", i+1)
		case len(p.Identity) > 65535:
			return ConfigError("PSKs", "the identity of entry %d has %d bytes; the most is 65535", i+1, len(p.Identity))
		case len(p.Secret) < 16:
			return ConfigError("PSKs", "the secret of entry %d, %q, has %d bytes; the least is 16", i+1, p.Identity, len(p.Secret))
		case len(bytes.Trim(p.Secret, "\x00")) == 0:
			return ConfigError("PSKs", "the secret of entry %d, %q, is all zero", i+1, p.Identity)
		case p.Hash > PSKSHA384:
			return ConfigError("PSKs", "entry %d, %q, has an unknown hash", i+1, p.Identity)
		case p.Kind > PSKTLS12:
			return ConfigError("PSKs", "entry %d, %q, has an unknown kind", i+1, p.Identity)
		case len(p.Context) > 0 && p.Kind != PSKImported:
			return ConfigError("PSKs", "entry %d, %q, has a context, which only imported PSKs have", i+1, p.Identity)
		case p.Kind == PSKImported && len(p.Identity)+len(p.Context) > maxImportedIdentity:
			return ConfigError("PSKs", "identity and context of entry %d have %d bytes; the most is %d", i+1, len(p.Identity)+len(p.Context), maxImportedIdentity)
		}
		for j := range i {
			if bytes.Equal(psks[j].Identity, p.Identity) {
				return ConfigError("PSKs", "entries %d and %d have the same identity, %q", j+1, i+1, p.Identity)
			}
		}
	}
	return nil
}
