package providers_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// soakScale is how much of the full size long tests have: POLYTLS_SOAK in the
// environment, 1 for all of it.
func soakScale(t *testing.T) float64 {
	t.Helper()
	text := os.Getenv("POLYTLS_SOAK")
	if text == "" {
		return 0.001
	}
	s, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err, "POLYTLS_SOAK")
	return s
}
