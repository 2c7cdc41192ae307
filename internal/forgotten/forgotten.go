// Package forgotten counts connections that nobody has closed.
package forgotten

import "sync/atomic"

var count atomic.Uint64

// Add counts one more.
func Add() { count.Add(1) }

// Count returns how many there have been.
func Count() uint64 { return count.Load() }
