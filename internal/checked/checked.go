// Package checked remembers which configurations have passed a provider's check:
// the check parses every certificate, which costs as much as a good part of a
// handshake, and a configuration must not be modified after it was handed over.
package checked

import (
	"bytes"
	"runtime"
	"sync"
	"unsafe"
	"weak"
)

// Configs remembers configurations of one type, for as long as they are in use
// elsewhere. Its zero value is ready; all methods may be called by many
// goroutines at once.
type Configs[C any] struct {
	// passed holds a []byte for every weak.Pointer[C].
	passed sync.Map
}

// Check returns the result of check, which is not called for a configuration
// that has passed before. A configuration with a field that was set since then
// is checked again: the rule is broken, but no mistake shall slip through. What
// changes behind a field (an entry of a list, a certificate of a pool) is not
// noticed.
func (c *Configs[C]) Check(config *C, check func() error) error {
	if config == nil {
		return check()
	}
	key := weak.Make(config)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(config)), unsafe.Sizeof(*config))
	former, known := c.passed.Load(key)
	if known && bytes.Equal(former.([]byte), memory) {
		return nil
	}
	// Before the check: a field that is set meanwhile has not passed.
	before := bytes.Clone(memory)
	if err := check(); err != nil {
		return err
	}
	// The copy does not keep alive what the fields point to. When that is gone,
	// its address may stand for something else, but then the field was set.
	c.passed.Store(key, before)
	if !known {
		runtime.AddCleanup(config, func(key weak.Pointer[C]) { c.passed.Delete(key) }, key)
	}
	return nil
}
