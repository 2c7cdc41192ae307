package tickets

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeysDependOnEverything(t *testing.T) {
	base, err := Keys([][32]byte{{1}, {2}}, "a", [32]byte{3})
	require.NoError(t, err)
	require.Len(t, base, 2)
	again, err := Keys([][32]byte{{1}, {2}}, "a", [32]byte{3})
	require.NoError(t, err)
	assert.Equal(t, base, again)
	assert.NotEqual(t, base[0], base[1])
	for _, other := range []struct {
		secret  [32]byte
		purpose string
		binding [32]byte
	}{{[32]byte{9}, "a", [32]byte{3}}, {[32]byte{1}, "b", [32]byte{3}}, {[32]byte{1}, "a", [32]byte{4}}} {
		keys, err := Keys([][32]byte{other.secret}, other.purpose, other.binding)
		require.NoError(t, err)
		assert.NotEqual(t, base[0].Name, keys[0].Name)
		assert.NotEqual(t, base[0].Encryption, keys[0].Encryption)
		assert.NotEqual(t, base[0].MAC, keys[0].MAC)
		assert.NotEqual(t, keys[0].Encryption, keys[0].MAC)
	}
}

func TestProcessSecretsRotate(t *testing.T) {
	var r rotation
	start := time.Now()
	first, generation := r.current(start)
	require.Len(t, first, 1)
	again, same := r.current(start.Add(period - time.Second))
	assert.Equal(t, first, again)
	assert.Equal(t, generation, same)
	second, next := r.current(start.Add(period))
	require.Len(t, second, 2)
	assert.Equal(t, first[0], second[1], "the old one still decrypts")
	assert.NotEqual(t, first[0], second[0])
	assert.NotEqual(t, generation, next)
	assert.Equal(t, Generation(second), next)
	late, last := r.current(start.Add(lifetime + period))
	assert.Len(t, late, 1, "secrets older than a ticket's life are gone")
	assert.NotContains(t, late, first[0])
	assert.Equal(t, Generation(late), last)
}
