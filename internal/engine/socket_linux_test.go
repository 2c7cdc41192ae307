//go:build !race

package engine_test

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// A socket that somebody has made blocking, through a duplicate of its
// descriptor, stops neither deadlines nor the rest of the program.
func TestSocketMadeBlocking(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		one, two := loopback(t)
		client, server := f.over(t, one, two)
		defer client.Close()
		defer server.Close()
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		require.NoError(t, client.Handshake())
		require.NoError(t, <-done)

		file, err := one.(*net.TCPConn).File()
		require.NoError(t, err)
		defer file.Close()
		raw, err := file.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) { err = syscall.SetNonblock(int(fd), false) }))
		require.NoError(t, err)

		for _, way := range []string{"read", "write"} {
			require.NoError(t, client.SetDeadline(time.Now().Add(20*time.Millisecond)))
			within(t, 5*time.Second, way, func() {
				if way == "read" {
					_, err = client.Read(make([]byte, 10))
				} else {
					_, err = client.Write(make([]byte, 64<<20))
				}
			})
			assert.ErrorIs(t, err, tlsapi.KindTimeout, way)
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded, way)
		}
	})
}
