//go:build linux && !race && !386 && !s390x

package nowait_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/polytls/polytls/internal/nowait"
)

func TestNothingIsAllocated(t *testing.T) {
	one, two := pair(t, "tcp")
	c := nowait.Conn(one)
	b := make([]byte, 64)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(two, b); err != nil {
			t.Fatal(err)
		}
		if _, err := two.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
	}))
}
