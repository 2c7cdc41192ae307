package main

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An answer counts only if status, length and every byte are right.
func TestReadAnswer(t *testing.T) {
	want := content(smallSize)
	answer := "HTTP/1.1 200 OK\r\ncontent-length: 1024\r\nX: y\r\n\r\n" + string(want)
	for name, tc := range map[string]struct{ answer, says string }{
		"right":          {answer, ""},
		"another status": {strings.Replace(answer, "200 OK", "502 Bad Gateway", 1), "502"},
		"a length less":  {strings.Replace(answer, "1024", "1023", 1), "1023 bytes instead of 1024"},
		"no length":      {strings.Replace(answer, "content-length", "x-length", 1), "bytes instead of 1024"},
		"a byte changed": {answer[:len(answer)-1] + "!", "other contents"},
		"a byte missing": {answer[:len(answer)-1], "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err := readAnswer(bufio.NewReader(strings.NewReader(tc.answer)), make([]byte, len(want)), want)
			if tc.says == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, tc.says)
		})
	}
}

// The content differs at every place, so that a shifted answer is noticed.
func TestContent(t *testing.T) {
	c := content(smallSize)
	assert.Len(t, c, smallSize)
	assert.NotEqual(t, c[:512], c[512:])
}

func TestProcessorTime(t *testing.T) {
	before, err := processorTime(os.Getpid())
	require.NoError(t, err)
	assert.Positive(t, before)
	// Others may have the processor, and the system counts in hundredths.
	after := before
	for start := time.Now(); after <= before && time.Since(start) < time.Minute; {
		after, err = processorTime(os.Getpid())
		require.NoError(t, err)
	}
	assert.Greater(t, after, before)
	_, err = processorTime(1 << 30)
	assert.ErrorContains(t, err, "is gone")
}

func TestInsert(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(file, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600))
	require.NoError(t, insert(file, "new\n"))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "before\n"+beginMark+"\nnew\n"+endMark+"\nafter\n", string(text))
	require.NoError(t, os.WriteFile(file, []byte("no marks\n"), 0o600))
	assert.ErrorContains(t, insert(file, "new\n"), "are missing")
}

func TestMedian(t *testing.T) {
	assert.Equal(t, 3, median([]int{9, 1, 3}))
}
