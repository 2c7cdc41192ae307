package providers_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every test, case, target and package that docs/SECURITY.md names for what it
// promises exists.
func TestSecurityNames(t *testing.T) {
	const root = ".."
	text, err := os.ReadFile(filepath.Join(root, "docs", "SECURITY.md"))
	require.NoError(t, err)
	_, promises, found := strings.Cut(string(text), "## What is promised")
	require.True(t, found)
	promises, _, _ = strings.Cut(promises, "\n## ")

	functions, cases := sourceNames(t, root)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.Lines(promises) {
		columns := strings.Split(line, "|")
		if len(columns) != 4 || strings.HasPrefix(columns[1], "-") {
			continue
		}
		names := quoted.FindAllStringSubmatch(columns[2], -1)
		for _, name := range names {
			name := name[1]
			target, isTarget := strings.CutPrefix(name, "make ")
			switch _, err := os.Stat(filepath.Join(root, name)); {
			case err == nil, functions[name]:
			case isTarget:
				assert.Contains(t, string(makefile), "\n"+target+":", "docs/SECURITY.md names a target that is none")
			default:
				for part := range strings.SplitSeq(name, "/") {
					assert.True(t, cases[part], "docs/SECURITY.md names `%s`, and there is no test %s", name, part)
				}
			}
		}
		if len(names) > 0 {
			rows++
		}
	}
	assert.GreaterOrEqual(t, rows, 15, "rows with a promise and its tests")
}

// sourceNames returns the functions of the repository's Go files, and the strings
// of tlstest's, which its cases are called by.
func sourceNames(t *testing.T, root string) (functions, cases map[string]bool) {
	functions, cases = make(map[string]bool), make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?(\w+)\(`)
	literal := regexp.MustCompile(`"([^"\n]+)"`)
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range function.FindAllSubmatch(text, -1) {
			functions[string(m[1])] = true
		}
		if filepath.Base(filepath.Dir(path)) == "tlstest" {
			for _, m := range literal.FindAllSubmatch(text, -1) {
				cases[string(m[1])] = true
			}
		}
		return nil
	}))
	return functions, cases
}
