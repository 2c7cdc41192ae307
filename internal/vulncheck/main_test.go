package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"3.5.7", "3.5.7", 0}, {"3.5.7", "3.5.10", -1}, {"3.6", "3.5.9", 1}, {"0", "0.0.1", -1}, {"1.3.33", "1.4", -1}} {
		got, err := compareVersions(c.a, c.b)
		require.NoError(t, err)
		assert.Equal(t, c.want, got, "%s and %s", c.a, c.b)
	}
	_, err := compareVersions("aws-crt-python-0.37.0", "1")
	assert.Error(t, err)
}

func TestCheck(t *testing.T) {
	list, err := parseAdvisories(`
# a comment
reviewed lib 2026-01-02
advisory lib CVE-1 1.0 1.5 open it crashes
advisory lib CVE-2 1.0 1.9 unused it does not matter
`)
	require.NoError(t, err)
	assert.Equal(t, 2026, list.reviewed["lib"].Year())
	var text strings.Builder
	assert.True(t, list.check(&text, pin{"lib", "1.4.9"}))
	assert.Contains(t, text.String(), "CVE-1")
	assert.Contains(t, text.String(), "CVE-2")
	text.Reset()
	assert.False(t, list.check(&text, pin{"lib", "1.5"}))
	assert.NotContains(t, text.String(), "CVE-1")
	assert.Contains(t, text.String(), "CVE-2")
	text.Reset()
	assert.False(t, list.check(&text, pin{"lib", "0.9"}))
	assert.Contains(t, text.String(), "no advisory known")
	text.Reset()
	assert.False(t, list.check(&text, pin{"other", "1"}))
	assert.Contains(t, text.String(), "nobody has looked")
}

func TestMalformedAdvisories(t *testing.T) {
	for _, text := range []string{"advisory lib CVE-1 1.0 1.5 fine it is", "advisory lib CVE-1 one 1.5 open it is", "reviewed lib yesterday", "something else"} {
		_, err := parseAdvisories(text)
		assert.Error(t, err, text)
	}
}

// The files of this repository parse, and no pinned version has an open
// advisory.
func TestOwnFiles(t *testing.T) {
	t.Chdir("../..")
	var text strings.Builder
	found, err := checkNative(&text, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
	require.NoError(t, err)
	assert.False(t, found, text.String())
	// What nobody could tell is shown each time.
	assert.Contains(t, text.String(), "rest-of-3.5.10, fixed in 3.5.10, unclear")
	assert.NotContains(t, text.String(), "later ones are not known")
	text.Reset()
	_, err = checkNative(&text, time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC))
	require.NoError(t, err)
	assert.Contains(t, text.String(), "later ones are not known")
}

func TestUnreachable(t *testing.T) {
	assert.True(t, unreachable("govulncheck: fetching vulnerabilities: Get \"https://vuln.go.dev/index/modules.json.gz\": dial tcp: lookup vuln.go.dev: no such host"))
	assert.False(t, unreachable("Vulnerability #1: GO-2026-0001"))
}
