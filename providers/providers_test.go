package providers

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

func TestOrderAndNames(t *testing.T) {
	var want []string
	for _, p := range []struct {
		name string
		set  []tlsapi.Provider
	}{{"openssl", openSSL}, {"boringssl", boringSSL}, {"s2n", s2nTLS}, {"std", standard}} {
		if len(p.set) > 0 {
			want = append(want, p.name)
		}
	}
	assert.Equal(t, want, Names())
	assert.Contains(t, want, "std")
}

func TestLookupFindsEveryProvider(t *testing.T) {
	for _, p := range All() {
		found, err := Lookup(p.Name())
		require.NoError(t, err)
		assert.Equal(t, p.Name(), found.Name())
	}
}

func TestLookupListsThoseThereAre(t *testing.T) {
	for _, name := range []string{"gnutls", "", "OpenSSL", "std\x00"} {
		_, err := Lookup(name)
		require.ErrorIs(t, err, tlsapi.KindConfig, "%q", name)
		for _, known := range Names() {
			assert.ErrorContains(t, err, known)
		}
	}
}

// An unavailable provider must say so, and refuse connections with the same
// error; an available one must have a version.
func TestAvailability(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name(), func(t *testing.T) {
			err := p.Available()
			if err == nil {
				assert.NotEmpty(t, p.LibraryVersion())
				return
			}
			assert.ErrorIs(t, err, tlsapi.KindUnavailable)
			assert.Empty(t, p.LibraryVersion())
			_, err = p.Client(nil, &tlsapi.ClientConfig{ServerName: "example.com"})
			assert.ErrorIs(t, err, tlsapi.KindUnavailable)
		})
	}
}

// Tests of a provider that is not available are skipped. Where the native
// libraries were built they must not be: POLYTLS_REQUIRE_PROVIDERS lists the
// names of those that have to be there.
func TestRequiredProvidersAreAvailable(t *testing.T) {
	required := strings.Fields(os.Getenv("POLYTLS_REQUIRE_PROVIDERS"))
	if len(required) == 0 {
		t.Skip("POLYTLS_REQUIRE_PROVIDERS is not set")
	}
	for _, name := range required {
		p, err := Lookup(name)
		require.NoError(t, err)
		assert.NoError(t, p.Available(), name)
	}
}

// Every provider answers for every feature, in the matrix's order, with a
// reason wherever something is not simply the library's own.
func TestFeaturesAreComplete(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name(), func(t *testing.T) {
			var features []tlsapi.Feature
			for _, cell := range p.Features() {
				features = append(features, cell.Feature)
				assert.Contains(t, []tlsapi.Support{tlsapi.Native, tlsapi.Emulated, tlsapi.Unsupported}, cell.Support, cell.Feature)
				if cell.Support != tlsapi.Native {
					assert.NotEmpty(t, cell.Note, cell.Feature)
				}
			}
			assert.Equal(t, tlsapi.AllFeatures(), features)
		})
	}
}

func TestBuildTagsLeaveProvidersOut(t *testing.T) {
	packages := func(tags string) []string {
		out, err := exec.Command("go", "list", "-deps", "-tags", tags, ".").CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.Fields(string(out))
	}
	for _, name := range tagged {
		path := "github.com/polytls/polytls/" + name
		assert.Contains(t, packages(""), path)
		left := packages("polytls_no_" + name)
		assert.NotContains(t, left, path)
		for _, other := range tagged {
			if other != name {
				assert.Contains(t, left, "github.com/polytls/polytls/"+other)
			}
		}
	}
	none := packages("polytls_no_openssl,polytls_no_boringssl,polytls_no_s2n")
	for _, name := range tagged {
		assert.NotContains(t, none, "github.com/polytls/polytls/"+name)
	}
	assert.Contains(t, none, "github.com/polytls/polytls/stdtls")
}
