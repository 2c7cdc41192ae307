// Package leftover looks, for tests, for goroutines that nobody has ended.
package leftover

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polytls/polytls/internal/uptime"
)

// limit is how long goroutines may take to end, of the time in which the process
// runs: connections may use up to 5 s in the background after Close. What goleak
// itself grants, less than half a second, is less than that, and little on a busy
// machine.
const limit = 8 * time.Second

// Check fails the test when at its end there are goroutines that were not there
// when Check was called.
func Check(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := find(limit, before); err != nil {
			t.Errorf("goroutines are left: %v", err)
		}
	})
}

// Main runs the tests of a package, which fail when goroutines are left behind
// them, and ends the process.
func Main(m *testing.M) {
	status := m.Run()
	if status == 0 {
		if err := find(limit); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left behind tests that passed: %v\n", err)
			status = 1
		}
	}
	os.Exit(status)
}

func find(limit time.Duration, options ...goleak.Option) (err error) {
	uptime.Eventually(limit, func() bool {
		err = goleak.Find(options...)
		return err == nil
	})
	return err
}
