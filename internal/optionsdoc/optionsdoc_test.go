package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
)

// root is the top folder of the repository.
const root = "../.."

func TestEveryFeatureHasARow(t *testing.T) {
	features := make(map[string]bool)
	for _, f := range tlsapi.AllFeatures() {
		_, name, found := strings.Cut(string(f), ".")
		require.True(t, found)
		features[name] = true
	}
	rows := make(map[string]int)
	for _, theme := range themes {
		for _, row := range theme.rows {
			rows[row.feature]++
			assert.True(t, features[row.feature], "%s in themes.go is no feature", row.feature)
		}
	}
	for name := range features {
		assert.Equal(t, 1, rows[name], "%s stands once in themes.go", name)
	}
}

func TestEveryOptionIsDescribed(t *testing.T) {
	described := make(map[string]int)
	for _, theme := range themes {
		for _, options := range theme.options {
			for _, name := range strings.Split(options, ", ") {
				described[name]++
			}
		}
	}
	s, err := readSource(root)
	require.NoError(t, err)
	fields := make(map[string]bool)
	for _, config := range []any{tlsapi.Settings{}, tlsapi.ClientConfig{}, tlsapi.ServerConfig{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(config)) {
			if f.Anonymous || len(f.Index) > 1 {
				continue
			}
			fields[f.Name] = true
			assert.Equal(t, 1, described[f.Name], "%s stands once in themes.go", f.Name)
			documented, err := s.option(f.Name)
			require.NoError(t, err)
			assert.NotEmpty(t, strings.TrimSpace(documented.text), "%s has no comment", f.Name)
		}
	}
	assert.Len(t, described, len(fields), "an option in themes.go is no field")
	_, err = s.option("NoSuchOption")
	assert.Error(t, err)
}

// The flags come from another module's source: their form may change there.
func TestFlagsAreRead(t *testing.T) {
	s, err := readSource(root)
	require.NoError(t, err)
	assert.Equal(t, "--curves", s.flags["Curves"])
	assert.Equal(t, "--cert", s.flags["Certificate"])
}

func TestSharedRowsAndFootnotes(t *testing.T) {
	d := &document{columns: []tlsapi.Provider{stdtls.Provider}}
	d.table([]row{{"alpn", "x"}, {"close-write", "y"}, {"psk-external", "z"}, {"psk-imported", "w"}})
	text := d.String()
	assert.Contains(t, text, "| x | client | emulated [1] |\n| x | server | emulated [2] |\n")
	assert.Contains(t, text, "| y | both | native |\n")
	assert.Contains(t, text, "| z | both | – [3] |\n| w | both | – [3] |\n")
	assert.Equal(t, 1, strings.Count(text, "- [3] "))
	assert.NotContains(t, text, "[4]")
}

// TestDocumentIsCurrent is what `make lint` does as well. A program with other
// libraries than the document's describes others.
func TestDocumentIsCurrent(t *testing.T) {
	columns, err := availableProviders()
	if err != nil {
		t.Skipf("not all libraries are there: %v", err)
	}
	committed, err := os.ReadFile(filepath.Join(root, target))
	require.NoError(t, err)
	if !strings.Contains(string(committed), describeLibraries(columns)) {
		t.Skip("the document is about other versions of the libraries: " + describeLibraries(columns))
	}
	text, err := render(root, columns)
	require.NoError(t, err)
	assert.Equal(t, string(committed), string(text), "run `make docs`")
}
