//go:build cgo && linux && !polytls_pkgconfig && !polytls_no_openssl && !polytls_no_boringssl && !polytls_no_s2n

package providers_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/providers"
)

// prefixOf returns the folder of the library that a provider was linked with,
// from the flags that the build script generated.
func prefixOf(t *testing.T, provider string) string {
	t.Helper()
	flags, err := os.ReadFile(filepath.Join("..", provider, "native_flags_generated.go"))
	if os.IsNotExist(err) {
		t.Skip("the native libraries are not built: run make native")
	}
	require.NoError(t, err)
	match := regexp.MustCompile(`third_party/build/([^/]+)/include`).FindSubmatch(flags)
	require.NotNil(t, match, "no folder in the flags of %s", provider)
	return filepath.Join("..", "third_party", "build", string(match[1]))
}

// TestOwnLibrary holds every provider to the version that its own headers
// name: two archives with the same function can link without any error, one
// provider then running the other's code.
func TestOwnLibrary(t *testing.T) {
	for _, name := range []string{"openssl", "boringssl", "s2n"} {
		prefix := prefixOf(t, name)
		probe, err := os.ReadFile(filepath.Join(prefix, "include", "polytls_"+name+"_probe.h"))
		require.NoError(t, err)
		match := regexp.MustCompile(`_VERSION_STRING "([^"]+)"`).FindSubmatch(probe)
		require.NotNil(t, match)

		p, err := providers.Lookup(name)
		require.NoError(t, err)
		require.NoError(t, p.Available())
		require.Contains(t, p.LibraryVersion(), string(match[1]), name)
	}
}

// TestNoCommonSymbols compares the strong symbols that the archives define.
func TestNoCommonSymbols(t *testing.T) {
	owner := make(map[string]string)
	for _, name := range []string{"openssl", "boringssl", "s2n"} {
		prefix := prefixOf(t, name)
		if strings.HasPrefix(filepath.Base(prefix), "openssl-system-") {
			// The system's OpenSSL is a shared library: nothing of it is in
			// the binary, and its symbols have versions.
			continue
		}
		archives, err := filepath.Glob(filepath.Join(prefix, "lib", "*.a"))
		require.NoError(t, err)
		symbols := 0
		for _, archive := range archives {
			head, err := os.ReadFile(archive)
			require.NoError(t, err)
			if !bytes.HasPrefix(head, []byte("!<arch>")) {
				continue // a linker script that names the archives
			}
			out, err := exec.Command("nm", "--defined-only", "--extern-only", archive).Output()
			require.NoError(t, err)
			lines := bufio.NewScanner(bytes.NewReader(out))
			for lines.Scan() {
				fields := strings.Fields(lines.Text())
				// Weak symbols (W, V, u) are shared by design: C++ templates.
				if len(fields) != 3 || !strings.Contains("TDBRGSC", fields[1]) {
					continue
				}
				symbols++
				if other, ok := owner[fields[2]]; ok && other != name {
					t.Errorf("%s is defined by %s and by %s", fields[2], other, name)
				}
				owner[fields[2]] = name
			}
		}
		require.Greater(t, symbols, 100, "the archives of %s define nothing", name)
	}
}
