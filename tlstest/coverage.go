package tlstest

import (
	"flag"
	"strings"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
)

// coverage is the set of features that cases have looked at: on a connection
// that uses the feature, by what the provider declares, or by its refusal.
type coverage struct {
	mu   sync.Mutex
	seen map[tlsapi.Feature]bool
}

func (c *coverage) add(feature tlsapi.Feature) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[tlsapi.Feature]bool)
	}
	c.seen[feature] = true
}

func (c *coverage) use(used []tlsapi.FeatureUse) {
	for _, u := range used {
		c.add(u.Feature)
	}
}

func (c *coverage) has(feature tlsapi.Feature) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[feature]
}

// requireEveryCell fails the test when a cell of the matrix had no case. It
// says nothing of a run that has left cases out.
func (s *suite) requireEveryCell(t *testing.T) {
	if t.Failed() || testing.Short() || partialRun() {
		return
	}
	for _, cell := range s.p.Features() {
		if !s.coverage.has(cell.Feature) {
			t.Errorf("no case of this suite looks at %s, which the provider calls %s", cell.Feature, cell.Support)
		}
	}
}

// partialRun reports whether flags of the test choose among its cases.
func partialRun() bool {
	for name, chooses := range map[string]func(string) bool{
		"test.run":  func(pattern string) bool { return strings.Contains(pattern, "/") },
		"test.skip": func(pattern string) bool { return pattern != "" },
	} {
		if f := flag.Lookup(name); f != nil && chooses(f.Value.String()) {
			return true
		}
	}
	return false
}
