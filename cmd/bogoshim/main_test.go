package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCrashesAreReported(t *testing.T) {
	if os.Getenv("BOGO_CRASHES") != "" {
		if reportCrashes() != nil {
			os.Exit(0)
		}
		go panic("the test wants a crash")
		select {}
	}
	path := filepath.Join(t.TempDir(), "crashes")
	for range 2 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashesAreReported$")
		cmd.Env = append(os.Environ(), "BOGO_CRASHES="+path)
		assert.Error(t, cmd.Run())
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Regexp(t, `(?s)^panic: the test wants a crash.*goroutine.*panic: the test wants a crash`, string(text))
}
