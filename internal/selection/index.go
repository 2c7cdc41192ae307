package selection

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"
)

// keyType is the type of a leaf's public key; libraries hold one certificate
// of each.
type keyType uint8

const (
	rsaKey keyType = iota
	ecdsaKey
	ed25519Key
	otherKey
)

// leaf is what the choice needs to know of a certificate.
type leaf struct {
	// der is compared by identity: as long as it is held, no other certificate
	// can have its address.
	der []byte
	key keyType
	// curve is that of an ECDSA key.
	curve tls.CurveID
	names []string
}

// index finds the certificates of a list by name. It holds no private key, so
// that keeping it keeps none alive.
type index struct {
	leaves []leaf
	// exact and wildcard have the certificates by DNS name and by the parent of
	// a wildcard, in the order of the list; first has the first certificate and
	// those that share its names.
	exact, wildcard map[string][]int
	first           []int
}

// indexCacheSize is the most lists whose indices are kept.
const indexCacheSize = 256

// indices are kept by the address of a list's first leaf. Lists that begin with
// the same one push each other out.
var indices = func() *lru.Cache[*byte, *index] {
	// The size is a positive constant: the constructor cannot fail.
	c, _ := lru.New[*byte, *index](indexCacheSize)
	return c
}()

func indexOf(certificates []tls.Certificate) *index {
	if len(certificates[0].Certificate) == 0 {
		return newIndex(certificates)
	}
	key := unsafe.SliceData(certificates[0].Certificate[0])
	if x, ok := indices.Get(key); ok && x.of(certificates) {
		return x
	}
	x := newIndex(certificates)
	indices.Add(key, x)
	return x
}

// of reports whether x is the index of these certificates.
func (x *index) of(certificates []tls.Certificate) bool {
	if len(certificates) != len(x.leaves) {
		return false
	}
	for i := range certificates {
		der := leafDER(&certificates[i])
		if len(der) != len(x.leaves[i].der) || unsafe.SliceData(der) != unsafe.SliceData(x.leaves[i].der) {
			return false
		}
	}
	return true
}

func newIndex(certificates []tls.Certificate) *index {
	x := &index{exact: make(map[string][]int), wildcard: make(map[string][]int)}
	for i := range certificates {
		l := readLeaf(&certificates[i])
		x.leaves = append(x.leaves, l)
		for _, name := range l.names {
			if parent, ok := strings.CutPrefix(name, "*."); ok {
				x.wildcard[parent] = append(x.wildcard[parent], i)
			} else {
				x.exact[name] = append(x.exact[name], i)
			}
		}
		if i == 0 || slices.Equal(l.names, x.leaves[0].names) {
			x.first = append(x.first, i)
		}
	}
	return x
}

func leafDER(certificate *tls.Certificate) []byte {
	if len(certificate.Certificate) == 0 {
		return nil
	}
	return certificate.Certificate[0]
}

func readLeaf(certificate *tls.Certificate) leaf {
	l := leaf{der: leafDER(certificate), key: otherKey}
	// Leaf is the caller's claim and may be of another certificate.
	parsed, err := x509.ParseCertificate(l.der)
	if err != nil {
		return l
	}
	switch key := parsed.PublicKey.(type) {
	case *rsa.PublicKey:
		l.key = rsaKey
	case ed25519.PublicKey:
		l.key = ed25519Key
	case *ecdsa.PublicKey:
		l.key, l.curve = ecdsaKey, curves[key.Curve]
	}
	for _, name := range parsed.DNSNames {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if rest := strings.TrimPrefix(name, "*."); rest == "" || strings.Contains(rest, "*") {
			// A partial wildcard covers nothing.
			continue
		}
		l.names = append(l.names, name)
	}
	slices.Sort(l.names)
	l.names = slices.Compact(l.names)
	return l
}

var curves = map[elliptic.Curve]tls.CurveID{
	elliptic.P256(): tls.CurveP256,
	elliptic.P384(): tls.CurveP384,
	elliptic.P521(): tls.CurveP521,
}
