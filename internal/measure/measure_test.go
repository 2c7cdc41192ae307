package measure

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/providers"
)

func fixtures(t *testing.T) Fixtures {
	dir := t.TempDir()
	require.NoError(t, WriteFixtures(dir))
	f, err := LoadFixtures(dir)
	require.NoError(t, err)
	return f
}

func subjects(t *testing.T) []Subject {
	list := []Subject{CryptoTLS()}
	for _, p := range providers.All() {
		if err := p.Available(); err != nil {
			t.Logf("%s is left out: %v", p.Name(), err)
			continue
		}
		list = append(list, Provider(p))
	}
	return list
}

// Every measure runs with every provider, and what it says is possible.
func TestMeasures(t *testing.T) {
	f := fixtures(t)
	for _, s := range subjects(t) {
		for _, m := range All() {
			t.Run(s.Name()+"/"+m.Name, func(t *testing.T) {
				ops := 3
				if m.Connections > 64 {
					m.Connections = 64
				}
				if m.Fresh() {
					m.Connections, ops = 64, 64
				}
				sample, err := m.Take(s, f, time.Hour, ops)
				if errors.Is(err, errors.ErrUnsupported) && m.settings.Resume {
					t.Skipf("the provider says that it does not resume: %v", err)
				}
				require.NoError(t, err)
				assert.Contains(t, sample.Negotiated, "TLS 1.3, TLS_AES_128_GCM_SHA256")
				if m.Fresh() {
					assert.Equal(t, 2*ops, sample.Ops)
					assert.Positive(t, sample.Heap)
					return
				}
				assert.Equal(t, ops, sample.Ops)
				assert.Positive(t, sample.Wall)
				assert.Positive(t, sample.CPU)
			})
		}
	}
}

// What a handshake of both ends costs in allocations and calls of C, however busy
// the machine is. A change that raises a number raises it here, with its reason.
func TestHandshakeCounts(t *testing.T) {
	f := fixtures(t)
	for _, s := range subjects(t) {
		if s.Name() == "std" || s.Name() == CryptoTLS().Name() {
			continue
		}
		for measure, most := range map[string]struct{ allocs, calls float64 }{
			"handshake-ecdsa-memory":   {48, 13.5},
			"handshake-resumed-memory": {64, 17.5},
		} {
			t.Run(s.Name()+"/"+measure, func(t *testing.T) {
				m, ok := Lookup(measure)
				require.True(t, ok)
				const ops = checkEvery - 1
				sample, err := m.Take(s, f, time.Hour, ops)
				if errors.Is(err, errors.ErrUnsupported) && m.settings.Resume {
					t.Skipf("the provider says that it does not resume: %v", err)
				}
				require.NoError(t, err)
				// The first of them is looked at, which allocates.
				assert.LessOrEqual(t, float64(sample.Allocs)/ops, most.allocs+2, "allocations")
				assert.LessOrEqual(t, float64(sample.CgoCalls)/ops, most.calls, "calls of C")
			})
		}
	}
}
