package tlstest

import (
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *suite) testProvider(t *testing.T) {
	t.Run("names", func(t *testing.T) {
		assert.Regexp(t, `^[a-z][a-z0-9]*$`, s.p.Name())
		assert.NotEmpty(t, s.p.Library())
		assert.NotEmpty(t, s.p.LibraryVersion())
	})
	t.Run("features", func(t *testing.T) {
		var rows []tlsapi.Feature
		for _, cell := range s.p.Features() {
			rows = append(rows, cell.Feature)
			switch cell.Support {
			case tlsapi.Native:
			case tlsapi.Emulated, tlsapi.Unsupported:
				assert.NotEmpty(t, cell.Note, "%s is %s without a reason", cell.Feature, cell.Support)
			default:
				assert.Fail(t, "unknown support", "%s: %q", cell.Feature, cell.Support)
			}
		}
		assert.Equal(t, tlsapi.AllFeatures(), rows, "the matrix has every feature once, in order")
	})
	t.Run("features can be changed by the caller", func(t *testing.T) {
		cells := s.p.Features()
		require.NotEmpty(t, cells)
		cells[0].Note = "changed"
		assert.NotEqual(t, "changed", s.p.Features()[0].Note)
	})
}
