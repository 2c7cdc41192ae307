package nativememory_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/polytls/polytls/internal/nativememory"
)

func TestAllocated(t *testing.T) {
	first, ok := nativememory.Allocated()
	if !ok {
		t.Skip("this C library does not tell what is allocated")
	}
	assert.Positive(t, first)
}
