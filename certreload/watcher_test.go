//go:build unix

package certreload_test

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/certreload"
)

const patience = 20 * time.Second

// Something that is written all the time in the same folder does not put a
// change off for good.
func TestWatchBesideALog(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "watched")
	require.NoError(t, os.WriteFile(path, []byte("first"), 0o600))
	changed := make(chan struct{}, 100)
	w := certreload.Watch(certreload.WatchOptions{
		Paths:        func() []string { return []string{path} },
		Changed:      func() { changed <- struct{}{} },
		PollInterval: time.Hour,
	})
	defer w.Close()
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			_ = os.WriteFile(filepath.Join(folder, "log"), []byte(time.Now().String()), 0o600)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	defer func() {
		stop.Store(true)
		<-ended
	}()
	require.NoError(t, os.WriteFile(path+".new", []byte("second"), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the change was not seen")
	}
	assert.Empty(t, changed, "nothing else has changed")
}

// The list of files may change; a pipe among them is not read.
func TestWatchAnotherList(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	require.NoError(t, os.WriteFile(first, []byte("1"), 0o600))
	require.NoError(t, os.WriteFile(second, []byte("1"), 0o600))
	var paths atomic.Pointer[[]string]
	paths.Store(&[]string{first, pipe})
	changed := make(chan struct{}, 100)
	w := certreload.Watch(certreload.WatchOptions{
		Paths:        func() []string { return *paths.Load() },
		Changed:      func() { changed <- struct{}{} },
		PollInterval: time.Hour,
	})
	defer w.Close()
	paths.Store(&[]string{second, pipe})
	w.Seen()
	require.NoError(t, os.WriteFile(second, []byte("2"), 0o600))
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the change was not seen")
	}
}

// A file that the list has anew was read by nobody since; one that has left it
// concerns nobody, and neither does the order.
func TestWatchChangesOfTheList(t *testing.T) {
	folder := t.TempDir()
	name := func(i int) string { return filepath.Join(folder, string(rune('a'+i))) }
	for i := range 3 {
		require.NoError(t, os.WriteFile(name(i), []byte("1"), 0o600))
	}
	var paths atomic.Pointer[[]string]
	paths.Store(&[]string{name(0), name(1)})
	var looks atomic.Int32
	changed := make(chan struct{}, 100)
	w := certreload.Watch(certreload.WatchOptions{
		Paths: func() []string {
			looks.Add(1)
			return *paths.Load()
		},
		Changed:      func() { changed <- struct{}{} },
		PollInterval: 5 * time.Millisecond,
	})
	defer w.Close()
	// Two looks for sure: each asks for the list twice.
	look := func() {
		t.Helper()
		before := looks.Load()
		require.Eventually(t, func() bool { return looks.Load() > before+4 }, patience, time.Millisecond)
	}
	paths.Store(&[]string{name(1), name(0)})
	look()
	paths.Store(&[]string{name(1)})
	look()
	assert.Empty(t, changed, "no file is another")
	paths.Store(&[]string{name(1), name(2)})
	look()
	assert.Len(t, changed, 1)
}
