package checked

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func count[C, P any](c *Configs[C, P]) int {
	n := 0
	c.passed.Range(func(any, any) bool { n++; return true })
	return n
}

var global tlsapi.ClientConfig

func TestChecksOnce(t *testing.T) {
	var configs Configs[tlsapi.ClientConfig, struct{}]
	calls := 0
	pass := func() error { calls++; return nil }
	inside := struct {
		before int
		config tlsapi.ClientConfig
	}{}
	for _, config := range []*tlsapi.ClientConfig{{}, {ServerName: "a"}, &inside.config, &global} {
		calls = 0
		for range 3 {
			require.NoError(t, configs.Check(config, pass))
		}
		assert.Equal(t, 1, calls)
		config.ALPN = []string{"h2"}
		require.NoError(t, configs.Check(config, pass))
		assert.Equal(t, 2, calls, "a field was set")
		config.InsecureSkipVerify = true
		require.NoError(t, configs.Check(config, pass))
		assert.Equal(t, 3, calls, "a field was set")
		copied := *config
		require.NoError(t, configs.Check(&copied, pass))
		assert.Equal(t, 4, calls, "a copy is another configuration")
	}
	calls = 0
	require.NoError(t, configs.Check(nil, pass))
	require.NoError(t, configs.Check(nil, pass))
	assert.Equal(t, 2, calls)
}

func TestFailuresAreNotRemembered(t *testing.T) {
	var configs Configs[tlsapi.ServerConfig, struct{}]
	config := new(tlsapi.ServerConfig)
	failed := errors.New("failed")
	for range 2 {
		require.Equal(t, failed, configs.Check(config, func() error { return failed }))
	}
	require.NoError(t, configs.Check(config, func() error { return nil }))
	require.NoError(t, configs.Check(config, func() error { return failed }))
	config.ALPNStrict = true
	require.Equal(t, failed, configs.Check(config, func() error { return failed }))
}

func TestForgetsWhatIsGone(t *testing.T) {
	var configs Configs[tlsapi.ServerConfig, struct{}]
	for range 100 {
		config := new(tlsapi.ServerConfig)
		// A hook that refers to its configuration must not keep it alive.
		config.HandshakeFailed = func(error) { _ = config }
		require.NoError(t, configs.Check(config, func() error { return nil }))
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return count(&configs) < 5
	}, time.Minute, 10*time.Millisecond)
}

func TestManyAtOnce(t *testing.T) {
	var configs Configs[tlsapi.ServerConfig, struct{}]
	config := new(tlsapi.ServerConfig)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				assert.NoError(t, configs.Check(config, func() error { return nil }))
			}
		})
	}
	group.Wait()
	assert.Equal(t, 1, count(&configs))
}

// TestChangeDuringTheCheck tests that what is remembered is what was checked.
func TestChangeDuringTheCheck(t *testing.T) {
	var configs Configs[tlsapi.ServerConfig, struct{}]
	config := new(tlsapi.ServerConfig)
	calls := 0
	for range 2 {
		require.NoError(t, configs.Check(config, func() error {
			calls++
			config.ALPNStrict = true
			return nil
		}))
	}
	assert.Equal(t, 2, calls)
}

func TestProductsFollowTheContent(t *testing.T) {
	var configs Configs[tlsapi.ServerConfig, int]
	config := &tlsapi.ServerConfig{}
	config.ALPN = []string{"h2", "http/1.1"}
	made := 0
	of := func() int {
		product, err := configs.Of(config, ContentOf(Content(nil, config), config.ALPN), func() (int, error) { made++; return made, nil })
		require.NoError(t, err)
		return product
	}
	assert.Equal(t, 1, of())
	assert.Equal(t, 1, of())
	config.ALPN[1] = "other"
	assert.Equal(t, 2, of(), "an entry of a list that is looked at was set")
	assert.Equal(t, 2, of())
}
