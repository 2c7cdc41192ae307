package httptls

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The HTTP/2 server has a connection from its first Write on; Shutdown must not
// tell it to end its connections before that.
func TestRefuseWaitsForConnectionsThatBegin(t *testing.T) {
	var arrivals http2Arrivals
	far, near := net.Pipe()
	defer far.Close()
	c := arrivals.add(near)
	defer c.Close()
	go io.WriteString(far, http2Preface+"more")
	preface := make([]byte, len(http2Preface))
	_, err := io.ReadFull(c, preface)
	require.NoError(t, err)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	arrivals.refuse(ended) // Returns as its context has ended.

	refused := make(chan struct{})
	go func() {
		arrivals.refuse(t.Context())
		close(refused)
	}()
	select {
	case <-refused:
		t.Fatal("a connection that begins was not waited for")
	default:
	}
	rest := make([]byte, len("more"))
	_, err = io.ReadFull(c, rest)
	require.NoError(t, err)
	assert.Equal(t, "more", string(rest))
	go io.ReadFull(far, make([]byte, 1))
	_, err = c.Write([]byte{0})
	require.NoError(t, err)
	<-refused
	assert.Empty(t, arrivals.conns)
}
