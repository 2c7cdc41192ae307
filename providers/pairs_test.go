package providers_test

import (
	"testing"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlstest"
)

// TestPairs runs every provider's client against every other provider's server.
// Each against itself is part of its own conformance test.
func TestPairs(t *testing.T) {
	for _, client := range providers.All() {
		for _, server := range providers.All() {
			if client.Name() == server.Name() {
				continue
			}
			t.Run(client.Name()+" to "+server.Name(), func(t *testing.T) {
				tlstest.RunPair(t, client, server)
			})
		}
	}
}
