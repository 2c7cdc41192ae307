package tlsapi

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// CurveID is a named group for the key exchange (RFC 8446 section 4.2.7, the
// IANA registry "TLS Supported Groups"). It is the standard library's type;
// its String differs from CurveName.
type CurveID = tls.CurveID

// The groups that Polytls knows.
const (
	X25519             = tls.X25519
	CurveP256          = tls.CurveP256
	CurveP384          = tls.CurveP384
	CurveP521          = tls.CurveP521
	X25519MLKEM768     = tls.X25519MLKEM768
	SecP256r1MLKEM768  = tls.SecP256r1MLKEM768
	SecP384r1MLKEM1024 = tls.SecP384r1MLKEM1024
	X448               = CurveID(30)
	// MLKEM1024 is ML-KEM alone, without a classical half, as CNSA 2.0 wants it
	// (draft-ietf-tls-mlkem).
	MLKEM1024 = CurveID(0x0202)
)

var curveNames = []struct {
	id   CurveID
	name string
	// aliases are lower case.
	aliases []string
}{
	{X25519, "X25519", []string{"x25519", "curve25519"}},
	{CurveP256, "P-256", []string{"p-256", "p256", "secp256r1", "prime256v1", "curvep256"}},
	{CurveP384, "P-384", []string{"p-384", "p384", "secp384r1", "curvep384"}},
	{CurveP521, "P-521", []string{"p-521", "p521", "secp521r1", "curvep521"}},
	{X448, "X448", []string{"x448"}},
	{X25519MLKEM768, "X25519MLKEM768", []string{"x25519mlkem768", "x25519_mlkem768"}},
	{SecP256r1MLKEM768, "SecP256r1MLKEM768", []string{"secp256r1mlkem768"}},
	{SecP384r1MLKEM1024, "SecP384r1MLKEM1024", []string{"secp384r1mlkem1024"}},
	{MLKEM1024, "MLKEM1024", []string{"mlkem1024", "ml-kem-1024"}},
}

// ParseCurves parses a list of groups in order of preference, separated by
// colons or commas: "X25519:P-256". Names are matched without regard to case;
// the usual aliases (secp256r1, prime256v1, P256) are known. An unknown, empty
// or duplicate entry is an error of KindConfig that names it.
func ParseCurves(list string) ([]CurveID, error) {
	return parseList("Curves", list, curveByName)
}

// CurveName returns the name of a group as Polytls prints it: "X25519",
// "P-256", "X25519MLKEM768"; for an unknown group its value in hexadecimal,
// for zero the empty string.
func CurveName(id CurveID) string {
	if id == 0 {
		return ""
	}
	for _, c := range curveNames {
		if c.id == id {
			return c.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(id))
}

// PostQuantum reports whether a group has a post-quantum component.
func PostQuantum(id CurveID) bool {
	return id == X25519MLKEM768 || id == SecP256r1MLKEM768 || id == SecP384r1MLKEM1024 || id == MLKEM1024
}

func curveByName(name string) (CurveID, bool) {
	lower := strings.ToLower(name)
	for _, c := range curveNames {
		for _, alias := range c.aliases {
			if alias == lower {
				return c.id, true
			}
		}
	}
	return 0, false
}

func checkCurves(ids []CurveID) error {
	seen := make(map[CurveID]bool)
	for i, id := range ids {
		if strings.HasPrefix(CurveName(id), "0x") || id == 0 {
			return ConfigError("Curves", "entry %d, 0x%04x, is unknown%s", i+1, uint16(id), knownEntries("Curves"))
		}
		if seen[id] {
			return ConfigError("Curves", "entry %d, %s, is a duplicate", i+1, CurveName(id))
		}
		seen[id] = true
	}
	return nil
}
