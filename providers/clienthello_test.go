package providers_test

import (
	"crypto/tls"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// ClientHellos that are malformed, or lack what their version needs, are refused
// before anything else is sent. Who does not is named, and testdata/clienthello.txt
// says why.
func TestMalformedClientHellos(t *testing.T) {
	x := newFuzzFixtures(t)
	s := newFuzzSessions(t)
	const tls12, tls13 = tls.VersionTLS12, tls.VersionTLS13
	body := func(id uint16, b ...byte) func(h *rawHello) {
		return func(h *rawHello) {
			h.extensions = slices.Clone(h.extensions)
			i := slices.IndexFunc(h.extensions, func(e rawExtension) bool { return e.id == id })
			if i < 0 {
				h.extensions = append(h.extensions, rawExtension{id, b})
			} else {
				h.extensions[i].body = b
			}
		}
	}
	without := func(ids ...uint16) func(h *rawHello) {
		return func(h *rawHello) {
			h.extensions = slices.DeleteFunc(slices.Clone(h.extensions), func(e rawExtension) bool { return slices.Contains(ids, e.id) })
		}
	}
	twice := func(id uint16) func(h *rawHello) {
		return func(h *rawHello) {
			h.extensions = append(slices.Clone(h.extensions), rawExtension{id, nil}, rawExtension{id, nil})
		}
	}
	const serverName, groups, formats, schemes, alpn = 0, 10, 11, 13, 16
	for _, c := range []struct {
		name    string
		version uint16
		change  func(h *rawHello)
		// alert is s2n's, which is that of the RFC. The others may call it by another
		// name.
		alert  byte
		except []string
	}{
		{"a name with a NUL byte", tls13, body(serverName, 0, 6, 0, 0, 3, 'a', 0, 'b'), 112, []string{"std"}},
		{"a name of an unknown kind", tls13, body(serverName, 0, 4, 9, 0, 1, 'a'), 112, []string{"std"}},
		{"an empty name", tls13, body(serverName, 0, 3, 0, 0, 0), 50, []string{"openssl"}},
		{"a list of names that ends early", tls13, body(serverName, 0, 9, 0, 0, 1, 'a'), 50, nil},
		{"bytes behind the names", tls12, body(serverName, 0, 4, 0, 0, 1, 'a', 0), 50, nil},
		{"no group", tls12, body(groups, 0, 0), 50, nil},
		{"half a group", tls13, body(groups, 0, 3, 0, 29, 0), 50, nil},
		{"bytes behind the groups", tls12, body(groups, 0, 2, 0, 23, 0), 50, nil},
		{"no signature scheme", tls13, body(schemes, 0, 0), 50, nil},
		{"half a signature scheme", tls12, body(schemes, 0, 3, 4, 3, 4), 50, nil},
		{"no version", tls13, body(extensionSupportedVersions, 0), 50, nil},
		{"bytes behind the versions", tls13, body(extensionSupportedVersions, 2, 3, 4, 0), 50, nil},
		{"no mode for PSKs", tls13, body(extensionPSKModes, 0), 50, []string{"std"}},
		{"a protocol without a name", tls13, body(alpn, 0, 1, 0), 50, []string{"boringssl"}},
		{"points in unknown formats", tls12, body(formats, 1, 7), 47, nil},
		{"an unknown extension twice", tls13, twice(0xfff1), 47, []string{"openssl"}},
		{"no compression method", tls12, func(h *rawHello) { h.compression = nil }, 47, nil},
		{"a compression method", tls13, func(h *rawHello) { h.compression = []byte{0, 1} }, 47, nil},
		{"no groups", tls13, without(groups), 109, nil},
		{"no shares", tls13, without(extensionKeyShare), 109, []string{"std"}},
		{"no signature schemes", tls13, without(schemes), 109, nil},
		{"an old version", tls12, func(h *rawHello) { h.version = 0x02ea }, 70, nil},
		{"SSL 2.0", tls13, func(h *rawHello) { h.version = 0x0200 }, 70, []string{"boringssl", "std"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hello := s.hello13
			if c.version == tls12 {
				hello = s.hello12
			}
			c.change(&hello)
			record, ok := hello.record()
			require.True(t, ok)
			for _, p := range x.providers {
				answer, err := x.fedServer(t, p, record)
				alert, refused := alertIn(answer)
				if assert.Equal(t, !slices.Contains(c.except, p.Name()), refused, "%s: %v", p.Name(), err) && refused {
					assert.Len(t, answer, 7, "%s sends more than an alert", p.Name())
					assert.ErrorIs(t, err, tlsapi.KindProtocol, p.Name())
				}
				if p.Name() == "s2n" {
					assert.Equal(t, c.alert, alert)
				}
			}
		})
	}
}
