// Package checked remembers what configurations have come to: the check parses every
// certificate, which costs as much as a good part of a handshake, and a
// configuration must not be modified after it was handed over.
package checked

import (
	"bytes"
	"runtime"
	"sync"
	"unsafe"
	"weak"
)

// Configs remembers, for configurations of one type that have passed a check, what
// was made of them, for as long as they are in use elsewhere. Its zero value is
// ready; all methods may be called by many goroutines at once.
type Configs[C, P any] struct {
	// passed holds a *entry[P] for every weak.Pointer[C].
	passed sync.Map
}

type entry[P any] struct {
	content []byte
	product P
}

// Of returns what make returns, which is not called for a configuration that it
// has returned something for before. The product must not refer to the
// configuration or to what that points to: it would keep it alive.
//
// Content is what it was made of, as Content gives it. A configuration with
// another one is asked for again: the rule is broken then, but no mistake shall
// slip through. What Content leaves out is not noticed.
func (c *Configs[C, P]) Of(config *C, content []byte, make func() (P, error)) (P, error) {
	if config == nil {
		return make()
	}
	key := weak.Make(config)
	former, known := c.passed.Load(key)
	if known && bytes.Equal(former.(*entry[P]).content, content) {
		return former.(*entry[P]).product, nil
	}
	product, err := make()
	if err != nil {
		return product, err
	}
	// The copy does not keep alive what the fields point to. When that is gone,
	// its address may stand for something else, but then the field was set.
	c.passed.Store(key, &entry[P]{bytes.Clone(content), product})
	if !known {
		runtime.AddCleanup(config, func(key weak.Pointer[C]) { c.passed.Delete(key) }, key)
	}
	return product, nil
}

// Check returns the result of check, which is not called for a configuration that
// has passed before with the same fields. What changes behind a field (an entry of
// a list, a certificate of a pool) is not noticed.
func (c *Configs[C, P]) Check(config *C, check func() error) error {
	var content []byte
	if config != nil {
		// A copy from before the check: a field that is set meanwhile has not
		// passed.
		content = Content(nil, config)
	}
	_, err := c.Of(config, content, func() (product P, err error) { return product, check() })
	return err
}

// Content appends the fields of v to b: numbers as they are, of all else where it
// is.
func Content[T any](b []byte, v *T) []byte {
	return append(b, unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))...)
}

// ContentOf does the same for the entries of a list.
func ContentOf[T any](b []byte, list []T) []byte {
	for i := range list {
		b = Content(b, &list[i])
	}
	return b
}
