package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

func TestParsePSK(t *testing.T) {
	secret := strings.Repeat("0f", 16)
	for spec, want := range map[string]tlsapi.PSK{
		"me:" + secret:                   {Identity: []byte("me")},
		"me:" + secret + ":sha256":       {Identity: []byte("me")},
		"me:" + secret + ":SHA384":       {Identity: []byte("me"), Hash: tlsapi.PSKSHA384},
		"a:b:c:" + secret:                {Identity: []byte("a:b:c")},
		"a%00%3a+%25:" + secret:          {Identity: []byte("a\x00:+%")},
		"sha256:" + secret:               {Identity: []byte("sha256")},
		"x:sha384:" + secret + ":sha384": {Identity: []byte("x:sha384"), Hash: tlsapi.PSKSHA384},
	} {
		got, err := parsePSK(spec, tlsapi.PSKExternal)
		require.NoError(t, err, spec)
		want.Secret = bytes.Repeat([]byte{0x0f}, 16)
		assert.Equal(t, want, got, spec)
	}
	for spec, says := range map[string]string{
		"":                       "no colon",
		secret:                   "no colon",
		secret + ":sha256":       "secret is missing",
		":" + secret:             "identity is empty",
		"me:":                    "0 bytes",
		"me:00":                  "1 bytes",
		"me:xyz":                 "neither a secret",
		"me:" + secret + ":md5":  "neither a secret",
		"%4:" + secret:           "percent",
		"me:" + secret[:31]:      "neither a secret",
		"me:" + secret + ":sha1": "neither a secret",
	} {
		_, err := parsePSK(spec, tlsapi.PSKExternal)
		assert.ErrorContains(t, err, says, spec)
	}
	_, err := parsePSK("me:"+secret+":sha256", tlsapi.PSKTLS12)
	assert.ErrorContains(t, err, "tls12")
}

func TestSecretFileErrorsNameTheLine(t *testing.T) {
	path := writeFile(t, "keys", "# one\n\nme:"+strings.Repeat("0f", 16)+"\nwrong\n")
	_, err := readPSKs(nil, []string{path}, tlsapi.PSKExternal)
	assert.ErrorContains(t, err, path+", line 4")

	key := strings.Repeat("0f", 32)
	_, err = readTicketKeys(writeFile(t, "tickets", key+"\n"+key+"\n"))
	assert.ErrorContains(t, err, "line 2")
	assert.ErrorContains(t, err, "same")
	_, err = readTicketKeys(writeFile(t, "tickets", key+"00\n"))
	assert.ErrorContains(t, err, "64 hexadecimal digits")
	_, err = readTicketKeys(writeFile(t, "tickets", strings.Repeat("#", maxSecretFile+1)))
	assert.ErrorContains(t, err, "more than")
}

func TestSessionFile(t *testing.T) {
	path := t.TempDir() + "/sessions"
	a, err := openSessionFile(path, io.Discard)
	require.NoError(t, err)
	a.Put("k", []byte{1, 2})
	a.Put("other", []byte{3})

	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	b, err := openSessionFile(path, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 2}, b.Get("k"))
	assert.Nil(t, a.Get("k"), "a session is for one use")
	assert.Equal(t, []byte{3}, a.Get("other"))
	assert.Nil(t, a.Get("unknown"))
	entries, err := os.ReadDir(strings.TrimSuffix(path, "/sessions"))
	require.NoError(t, err)
	assert.Len(t, entries, 2, "only the file and its lock remain")
}

// Many takers, in several "processes": each session goes to exactly one.
func TestSessionFileSingleUse(t *testing.T) {
	path := t.TempDir() + "/sessions"
	var taken atomic.Int64
	var group sync.WaitGroup
	first, err := openSessionFile(path, io.Discard)
	require.NoError(t, err)
	first.Put("k", []byte("s"))
	for range 8 {
		cache, err := openSessionFile(path, io.Discard)
		require.NoError(t, err)
		group.Go(func() {
			if cache.Get("k") != nil {
				taken.Add(1)
			}
		})
	}
	group.Wait()
	assert.Equal(t, int64(1), taken.Load())
}

func TestSessionFileFailuresAreTold(t *testing.T) {
	path := writeFile(t, "sessions", "not JSON: secret")
	_, err := openSessionFile(path, io.Discard)
	require.ErrorContains(t, err, path)
	assert.NotContains(t, err.Error(), "secret")

	dir := t.TempDir()
	var warnings bytes.Buffer
	cache, err := openSessionFile(dir+"/sessions", &warnings)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/sessions", []byte("damaged"), 0o600))
	cache.Put("k", []byte("s"))
	assert.Nil(t, cache.Get("k"))
	assert.Equal(t, 1, strings.Count(warnings.String(), "\n"), "told once: %s", &warnings)
	assert.Contains(t, warnings.String(), dir)
}
