package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"
)

// sessionFile is a tlsapi.SessionCache in a file, shared by processes: a lock
// file beside it makes Get take a session away for all of them, as sessions
// of TLS 1.3 are for one use.
type sessionFile struct {
	path     string
	warnings io.Writer

	mu     sync.Mutex
	lock   *flock.Flock
	warned bool
}

// openSessionFile makes sure that the file can be read and written. A file
// that does not exist is made.
func openSessionFile(path string, warnings io.Writer) (*sessionFile, error) {
	f := &sessionFile{path: path, warnings: warnings, lock: flock.New(path+".lock", flock.SetPermissions(0o600))}
	return f, f.update(func(map[string][]byte) {})
}

// Get removes and returns a session. One that could not be removed is not
// returned: another run could use it a second time.
func (f *sessionFile) Get(key string) []byte {
	var session []byte
	err := f.update(func(sessions map[string][]byte) {
		session = sessions[key]
		delete(sessions, key)
	})
	if err != nil {
		f.warn(err)
		return nil
	}
	return session
}

// Put stores a session.
func (f *sessionFile) Put(key string, session []byte) {
	if err := f.update(func(sessions map[string][]byte) { sessions[key] = session }); err != nil {
		f.warn(err)
	}
}

// warn tells the first failure: the cache's interface has no errors, and a
// connection works without resumption.
func (f *sessionFile) warn(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.warned {
		f.warned = true
		fmt.Fprintf(f.warnings, "polytls: session file: %v\n", err)
	}
}

// update changes the sessions under the lock. The file is replaced as a whole,
// so that an interrupted run leaves the old or the new one.
func (f *sessionFile) update(change func(sessions map[string][]byte)) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.lock.Lock(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.lock.Unlock()) }()

	sessions := make(map[string][]byte)
	text, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(text) > 0:
		// The decoder's error is left out: it could quote the text.
		if json.Unmarshal(text, &sessions) != nil || sessions == nil {
			return fmt.Errorf("%s: is not a session file; remove it or name another", f.path)
		}
	}
	change(sessions)

	text, err = json.Marshal(sessions)
	if err != nil {
		return err
	}
	// CreateTemp makes files that only their owner reads.
	next, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*")
	if err != nil {
		return err
	}
	_, err = next.Write(text)
	err = errors.Join(err, next.Close())
	if err == nil {
		err = os.Rename(next.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	return nil
}
