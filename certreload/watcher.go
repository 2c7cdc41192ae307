package certreload

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	defaultPollInterval = time.Minute
	// settleTime is how long nothing must have changed before the files are
	// read: certificate and key are seldom written at once.
	settleTime = 100 * time.Millisecond
	// maxSettleTime bounds that where something changes all the time, such as
	// a log in the same folder.
	maxSettleTime = time.Second
	// maxLinks bounds chains of symbolic links, as systems do.
	maxLinks = 40
)

// WatchOptions say what a Watcher does. They must not be changed after Watch.
type WatchOptions struct {
	// Paths returns the files to watch; it is asked before every look at them,
	// so that the list may change. Only regular files are read, and links to
	// them: what a pipe holds can be read but once. It is required.
	Paths func() []string
	// Changed is called when the content of a file has become another, a file
	// has come or gone, or the list has one that it had not; never for changes
	// of times, modes or the order alone. Calls come one at a time, and it must
	// not call Close. It is required.
	Changed func()
	// PollInterval is how often the files are looked at besides the system's
	// notifications, which do not come from every file system. Zero means one
	// minute.
	PollInterval time.Duration
	// Log receives a warning when the system cannot tell of changes. Nil means
	// none.
	Log *slog.Logger
}

// Watcher looks after files by their content. It sees files that are replaced
// by renaming and links that are turned around, as in Kubernetes' mounted
// secrets, and waits until writing has settled.
type Watcher struct {
	options WatchOptions
	system  *fsnotify.Watcher // nil when there is none

	mu   sync.Mutex
	seen map[string][32]byte // by path

	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
}

// Watch looks at the files as they are now, and calls Changed from then on until
// Close. What it compares with later is from before it returns: read the files
// afterwards, and no change is missed.
func Watch(options WatchOptions) *Watcher {
	if options.PollInterval <= 0 {
		options.PollInterval = defaultPollInterval
	}
	w := &Watcher{options: options, stop: make(chan struct{}), stopped: make(chan struct{})}
	system, err := fsnotify.NewWatcher()
	if err != nil {
		w.warn("the system does not tell of changed files; they are looked at only now and then", err)
	}
	w.system = system
	w.watchFolders()
	w.seen = w.digests()
	go w.run()
	return w
}

// Seen tells the watcher that the files are known as they are now, so that a
// change up to here is not reported. Call it before reading them.
func (w *Watcher) Seen() {
	w.watchFolders()
	now := w.digests()
	w.mu.Lock()
	w.seen = now
	w.mu.Unlock()
}

// Close ends the watching. It waits for Changed.
func (w *Watcher) Close() error {
	w.closing.Do(func() { close(w.stop) })
	<-w.stopped
	return nil
}

func (w *Watcher) run() {
	defer close(w.stopped)
	poll := time.NewTicker(w.options.PollInterval)
	defer poll.Stop()
	settled := time.NewTimer(0)
	settled.Stop()
	defer settled.Stop()
	var unsettled time.Time // since when; zero when nothing has changed
	settle := func() {
		now := time.Now()
		if unsettled.IsZero() {
			unsettled = now
		}
		if now.Sub(unsettled) < maxSettleTime {
			settled.Reset(settleTime)
		}
	}
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w.system != nil {
		defer w.system.Close()
		events, failures = w.system.Events, w.system.Errors
	}
	for {
		select {
		case <-w.stop:
			return
		case <-events:
			settle()
		case err := <-failures:
			// Events may be lost; the files tell the truth.
			w.warn("watching the files", err)
			settle()
		case <-settled.C:
			unsettled = time.Time{}
			w.look()
		case <-poll.C:
			w.look()
		}
	}
}

func (w *Watcher) look() {
	// A link may lead elsewhere now.
	w.watchFolders()
	now, changed := w.digests(), false
	w.mu.Lock()
	for path, digest := range now {
		before, known := w.seen[path]
		changed = changed || !known || before != digest
	}
	w.seen = now
	w.mu.Unlock()
	if changed {
		w.options.Changed()
	}
}

// digests tell whether a file has changed. What cannot be read is part of them.
func (w *Watcher) digests() map[string][32]byte {
	now := make(map[string][32]byte)
	for _, path := range w.options.Paths() {
		text, err := readRegular(path)
		if err != nil {
			text = []byte(err.Error())
		}
		h := sha256.New()
		fmt.Fprintf(h, "%t,", err == nil)
		h.Write(text)
		now[path] = [32]byte(h.Sum(nil))
	}
	return now
}

func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return os.ReadFile(path)
}

// watchFolders watches the folders of the files, and those of every link on the
// way to them: files are replaced by renaming and by turning links around (in
// Kubernetes the link ..data), which a watch of the file would not see.
// Folders that are watched already are no matter.
func (w *Watcher) watchFolders() {
	if w.system == nil {
		return
	}
	for _, path := range w.options.Paths() {
		for range maxLinks {
			w.watchFolder(filepath.Dir(path))
			target, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = target
		}
	}
}

func (w *Watcher) watchFolder(folder string) {
	// A folder that is missing is found by polling when it comes.
	_ = w.system.Add(folder)
}

func (w *Watcher) warn(message string, err error) {
	if w.options.Log != nil {
		w.options.Log.Warn(message, "error", err)
	}
}
