package freeport

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChoose(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		port, err := Choose()
		require.NoError(t, err)
		assert.False(t, seen[port], "port %s twice", port)
		seen[port] = true
		number, err := strconv.Atoi(port)
		require.NoError(t, err)
		assert.Less(t, number, 32768)
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		require.NoError(t, err)
		l.Close()
	}
}
