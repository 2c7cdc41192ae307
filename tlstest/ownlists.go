package tlstest

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/polytls/polytls/tlsapi"
)

// testOwnLists tests explicit settings of a library that takes no others than
// those that it knows as a whole: what its clients offer by themselves. set puts
// one list of a ClientHello into the settings, list reads it.
func testOwnLists[T any](s *suite, t *testing.T, features map[role]tlsapi.Feature, list func(*ClientHello) []T, set func(*tlsapi.Settings, []T)) {
	for _, r := range []role{client, server} {
		t.Run(string(r)+"/list of the library", func(t *testing.T) {
			s.need(t, features[r])
			if s.native(features[r]) {
				t.Skip("it takes any list")
			}
			probe := s.clientDuo(t, s.clientConfig(), s.referenceServer())
			probe.mustHandshake(t)
			own := list(probe.hello(t))
			config := s.clientConfig(func(c *tlsapi.ClientConfig) { set(&c.Settings, own) })
			if err := config.Validate(); err != nil {
				t.Skipf("the library offers what the contract refuses: %v", err)
			}
			if r == server {
				d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { set(&c.Settings, own) }), s.referenceClient())
				d.mustHandshake(t)
				d.mustEcho(t)
				return
			}
			d := s.clientDuo(t, config, s.referenceServer())
			d.mustHandshake(t)
			d.mustEcho(t)
			assert.Equal(t, own, list(d.hello(t)))
		})
	}
}
