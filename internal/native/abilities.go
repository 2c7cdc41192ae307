package native

// Abilities are what builds of a native library differ in: a set of bits that
// the C side has probed. Where a matrix depends on them, it says what the
// library at hand does, not what its newest version does.
type Abilities uint32

const (
	// AbilityMLKEM is the group X25519MLKEM768.
	AbilityMLKEM Abilities = 1 << iota
	// AbilityKeyShares is the choice of a client's key shares.
	AbilityKeyShares
	// AbilityImportedPSKs is PSKs by RFC 9258.
	AbilityImportedPSKs
	AbilityExporter
	// AbilityHalfClose is to go on reading after close_notify was sent.
	AbilityHalfClose
	// AbilityVerdict is to stop the handshake for a hook's verdict before this
	// end's last flight, and to refuse with an alert.
	AbilityVerdict
	// AbilityTimestamps is signed certificate timestamps beside a certificate.
	AbilityTimestamps

	// AllAbilities are those of the libraries that third_party/native.lock
	// prefers. A provider that is not available says what it could do with
	// one of these.
	AllAbilities = AbilityTimestamps<<1 - 1
)

// Has reports whether all of the bits are set.
func (a Abilities) Has(bits Abilities) bool { return a&bits == bits }
