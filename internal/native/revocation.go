package native

import (
	"crypto/sha256"
	"crypto/x509"
	"runtime"
	"sync"
	"weak"

	"github.com/polytls/polytls/tlsapi"
)

// listDigests keeps the digest of each revocation list as long as the list
// lives: lists can have megabytes, and every connection asks.
var listDigests sync.Map // weak.Pointer[x509.RevocationList] to [sha256.Size]byte

func listDigest(list *x509.RevocationList) [sha256.Size]byte {
	key := weak.Make(list)
	if known, ok := listDigests.Load(key); ok {
		return known.([sha256.Size]byte)
	}
	digest := sha256.Sum256(list.Raw)
	if _, known := listDigests.LoadOrStore(key, digest); !known {
		runtime.AddCleanup(list, func(key weak.Pointer[x509.RevocationList]) { listDigests.Delete(key) }, key)
	}
	return digest
}

// revocationLists adds the lists; their digests are part of the context's
// identity.
func (c *contextBuilder) revocationLists(s *tlsapi.Settings) {
	lists := s.RevocationLists
	if len(lists) == 0 {
		return
	}
	var digests []byte
	for _, list := range lists {
		digest := listDigest(list)
		digests = append(digests, digest[:]...)
	}
	c.instructions = append(c.instructions, instruction{option: optRevocationList, name: "RevocationLists", data: digests, expand: func() ([][]byte, error) {
		var raw [][]byte
		for _, list := range lists {
			raw = append(raw, list.Raw)
		}
		return raw, nil
	}})
}
