package tlsapi

import "slices"

// Presets for Settings.ALPN. They return new slices, which the caller may
// change.

// ALPNH1 offers HTTP/1.1 only.
func ALPNH1() []string { return []string{"http/1.1"} }

// ALPNH2 offers HTTP/2 only. A client with exactly this list fails with
// KindNoALPN when the server selects nothing.
func ALPNH2() []string { return []string{"h2"} }

// ALPNH2H1 offers HTTP/2, then HTTP/1.1.
func ALPNH2H1() []string { return []string{"h2", "http/1.1"} }

func checkALPN(protocols []string) error {
	total := 0
	for i, p := range protocols {
		switch {
		case p == "":
			return ConfigError("ALPN", "entry %d is empty", i+1)
		case len(p) > 255:
			return ConfigError("ALPN", "entry %d has %d bytes; the most is 255", i+1, len(p))
		case slices.Index(protocols, p) < i:
			return ConfigError("ALPN", "entry %d, %q, is a duplicate", i+1, p)
		}
		total += 1 + len(p)
	}
	// RFC 7301 section 3.1: the list is a vector of at most 2^16-1 bytes,
	// inside an extension of at most that size.
	if total > 65533 {
		return ConfigError("ALPN", "the list has %d bytes; the most is 65533", total)
	}
	return nil
}
