// Package selection chooses among the certificates of a server for a
// ClientHello. It is the same for every provider.
//
// First the name decides: certificates with a DNS name equal to the client's
// SNI win; without any, those with a wildcard that covers it (one label:
// "*.example.com"); without any, or without a DNS name in the SNI, the first
// certificate and those with the same names as it. The common name counts
// never, case and a trailing dot do not matter (RFC 6066 section 3, RFC 6125
// section 6.4).
//
// Then the client's abilities decide: left out are certificates with whose key
// this end cannot sign in a way that the client says it can verify. Of what is
// left the first of each key type stays, in the order of the list.
//
// When the client can verify none that has its name exactly, those with a
// wildcard get their turn. When it can verify none at all, all with the best
// match stay: the client's lists may be incomplete, and when they are not, the
// library has the alert. A certificate for another name never takes the place
// of one that the client cannot verify.
package selection

import (
	"crypto/tls"
	"net/netip"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// Parameters are those of the server that limit what it can sign with. Nil
// lists do not.
type Parameters struct {
	// MinVersion and MaxVersion are TLS 1.2 and TLS 1.3 where they are zero.
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	SignatureSchemes       []tls.SignatureScheme
}

// ParametersOf returns the parameters that settings say, with the presets of
// SecurityPolicy filled in. Names of other policies leave the lists nil.
func ParametersOf(s *tlsapi.Settings) Parameters {
	if policy, ok := tlsapi.LookupPolicy(s.SecurityPolicy); ok {
		return Parameters{MinVersion: policy.MinVersion, MaxVersion: policy.MaxVersion, CipherSuites: policy.CipherSuites}
	}
	minimum, maximum := s.Versions()
	return Parameters{minimum, maximum, s.CipherSuites, s.SignatureSchemes}
}

// Candidates returns the certificates for a client, the best first, at most one
// of each key type; none only when certificates is empty. A provider that
// presents one certificate takes the first. The result points into
// certificates, whose leaves must parse.
//
// What it finds out of the certificates is kept and found again by the identity
// of the leaves: lists that stay the same are cheap to ask often.
func Candidates(certificates []tls.Certificate, hello *tls.ClientHelloInfo, server Parameters) []*tls.Certificate {
	if len(certificates) == 0 {
		return nil
	}
	if len(certificates) == 1 {
		return []*tls.Certificate{&certificates[0]}
	}
	x := indexOf(certificates)
	levels := x.levels(hello.ServerName)
	o := offerOf(hello, server)
	for _, level := range levels {
		suitable := x.onePerKeyType(level, func(i int) bool { return o.suits(&x.leaves[i], &certificates[i]) })
		if len(suitable) > 0 {
			return pointers(certificates, suitable)
		}
	}
	return pointers(certificates, x.onePerKeyType(levels[0], func(int) bool { return true }))
}

// Suits reports whether the client can verify a handshake that is signed with
// the certificate's key, as far as its ClientHello tells.
func Suits(certificate *tls.Certificate, hello *tls.ClientHelloInfo, server Parameters) bool {
	leaf := readLeaf(certificate)
	return offerOf(hello, server).suits(&leaf, certificate)
}

func pointers(certificates []tls.Certificate, indices []int) []*tls.Certificate {
	out := make([]*tls.Certificate, len(indices))
	for n, i := range indices {
		out[n] = &certificates[i]
	}
	return out
}

// levels returns the certificates for a name by quality of the match, the best
// first; at least one level, none of them empty.
func (x *index) levels(serverName string) [][]int {
	var levels [][]int
	if name := hostName(serverName); name != "" {
		if exact := x.exact[name]; len(exact) > 0 {
			levels = append(levels, exact)
		}
		if _, parent, ok := strings.Cut(name, "."); ok {
			if wildcard := x.wildcard[parent]; len(wildcard) > 0 {
				levels = append(levels, wildcard)
			}
		}
	}
	if len(levels) == 0 {
		levels = append(levels, x.first)
	}
	return levels
}

// onePerKeyType returns the first of each key type that suits.
func (x *index) onePerKeyType(indices []int, suits func(int) bool) []int {
	var taken [otherKey + 1]bool
	var out []int
	for _, i := range indices {
		if kind := x.leaves[i].key; !taken[kind] && suits(i) {
			taken[kind] = true
			out = append(out, i)
		}
	}
	return out
}

// hostName returns the form of a DNS name in which names are compared, empty
// for IP literals and what cannot be a name.
func hostName(name string) string {
	name = strings.TrimSuffix(name, ".")
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	if strings.HasPrefix(name, ".") {
		return ""
	}
	return strings.ToLower(name)
}
