package leftover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { Main(m) }

// A goroutine that ends later than goleak would wait is none that is left.
func TestFindWaits(t *testing.T) {
	Check(t)
	const late = time.Second
	end := make(chan struct{})
	go func() { <-end }()
	require.Error(t, goleak.Find(), "goleak waits as long by itself")
	time.AfterFunc(late, func() { close(end) })
	assert.NoError(t, find(limit))
}

func TestFindFinds(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	before := goleak.IgnoreCurrent()
	go wait(end)
	assert.ErrorContains(t, find(time.Second, before), "leftover.wait")
}

func wait(end chan struct{}) { <-end }
