package peers

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// writeSection replaces what stands in a Markdown file between "<!-- NAME -->"
// and "<!-- end of NAME -->".
func writeSection(t *testing.T, file, name, text string) {
	t.Helper()
	document, err := os.ReadFile(file)
	require.NoError(t, err)
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	before, rest, ok := strings.Cut(string(document), begin)
	require.True(t, ok, "%s: the line %s is missing", file, begin)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s: the line %s is missing", file, end)
	require.NoError(t, os.WriteFile(file, []byte(before+begin+text+end+after), 0o644))
}
