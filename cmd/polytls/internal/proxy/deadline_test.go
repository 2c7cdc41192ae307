package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// noted remembers the deadlines that reach it.
type noted struct {
	net.Conn
	deadlines []time.Time
}

func (c *noted) SetReadDeadline(t time.Time) error {
	c.deadlines = append(c.deadlines, t)
	return nil
}

func TestReadDeadline(t *testing.T) {
	past, future := time.Unix(1, 0), time.Now().Add(time.Hour)
	t.Run("it counts when something is read", func(t *testing.T) {
		d, c := readDeadline{}, &noted{}
		d.begin(c)
		d.end()
		assert.Empty(t, c.deadlines, "none was set")
		require.NoError(t, d.set(c, future))
		require.NoError(t, d.set(c, past))
		require.NoError(t, d.set(c, future))
		assert.Empty(t, c.deadlines, "nobody reads")
		d.begin(c)
		assert.Equal(t, []time.Time{future}, c.deadlines)
		require.NoError(t, d.set(c, past))
		assert.Equal(t, []time.Time{future, past}, c.deadlines, "a Read is under way")
		d.end()
		require.NoError(t, d.set(c, time.Time{}))
		d.begin(c)
		d.end()
		assert.Equal(t, []time.Time{future, past, {}}, c.deadlines)
	})
	t.Run("it ends the watch", func(t *testing.T) {
		d, c := readDeadline{}, &noted{}
		for range 1000 {
			require.NoError(t, d.set(c, time.Time{}))
			ended := make(chan error, 1)
			go func() { ended <- d.watch() }()
			require.NoError(t, d.set(c, future), "that is no reason to end")
			require.NoError(t, d.set(c, past))
			select {
			case err := <-ended:
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var timeout net.Error
				assert.True(t, errors.As(err, &timeout) && timeout.Timeout(), "net/http looks for a timeout")
			case <-time.After(patience):
				t.Fatal("the watch goes on")
			}
			assert.Empty(t, d.over)
		}
		assert.Empty(t, c.deadlines)
	})
	t.Run("the watch ends by itself", func(t *testing.T) {
		d, c := readDeadline{}, &noted{}
		for range 2 {
			assert.NoError(t, d.watch())
		}
		require.NoError(t, d.set(c, past))
		assert.Empty(t, d.over, "nobody watches any more")
		assert.ErrorIs(t, d.watch(), os.ErrDeadlineExceeded)
	})
}

// A request whose client goes is given up, and a client that sends its next
// request early gets both answers.
func TestClientsAreWatched(t *testing.T) {
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		arrived, gone := make(chan bool, 1), make(chan error, 1)
		s := newSite(t, p, HTTP, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/wait":
				arrived <- true
				select {
				case <-r.Context().Done():
					gone <- nil
				case <-time.After(patience):
					gone <- context.DeadlineExceeded
				}
			case "/slow":
				time.Sleep(10 * lookAfter)
			}
			fmt.Fprint(w, r.URL.Path)
		}))
		address := s.start(t)

		c := s.dial(t, address)
		_, err := fmt.Fprintf(c, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		answers, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Contains(t, string(answers), "/slow")
		assert.Contains(t, string(answers), "/second")

		c = s.dial(t, address)
		_, err = fmt.Fprintf(c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		<-arrived
		c.Close()
		assert.NoError(t, <-gone, "the backend's request was not given up")
	})
}
