package stdtls

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWaitForHook(t *testing.T) {
	boom := errors.New("boom")
	got, err := waitForHook(t.Context(), func() (int, error) { return 7, nil })
	require.NoError(t, err)
	require.Equal(t, 7, got)
	_, err = waitForHook(t.Context(), func() (int, error) { return 0, boom })
	require.ErrorIs(t, err, boom)
	require.PanicsWithValue(t, "no", func() { _, _ = waitForHook(t.Context(), func() (int, error) { panic("no") }) })
	_, err = waitForHook(t.Context(), func() (int, error) { runtime.Goexit(); return 0, nil })
	require.Error(t, err)

	release := make(chan struct{})
	defer close(release)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = waitForHook(ended, func() (int, error) { <-release; return 7, nil })
	require.ErrorIs(t, err, context.Canceled)
}
