package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// HTTP/2 behind an upgrade would be a tunnel: requests in it would reach the
// backend with whatever headers the client likes.
func TestUpgradeToHTTP2IsNotPassedOn(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen-Upgrade", r.Header.Get("Upgrade"))
		w.Header().Set("Seen-Connection", r.Header.Get("Connection"))
		w.Header().Set("Seen-Settings", r.Header.Get("Http2-Settings"))
	}))
	address := s.start(t)
	for _, protocol := range []string{"h2c", "H2C", "websocket, h2c", "h2c/1", "HTTP/2.0"} {
		for _, connection := range []string{"Upgrade, HTTP2-Settings", "Upgrade"} {
			c := s.dial(t, address)
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: %s\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n", connection, protocol)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, resp.StatusCode)
			for _, name := range []string{"Seen-Upgrade", "Seen-Connection", "Seen-Settings"} {
				assert.Empty(t, resp.Header.Get(name), "%s of %q", name, protocol)
			}
		}
	}
}

// A tunnel would lead to wherever the client likes, by way of a backend that makes
// tunnels.
func TestConnectIsRefused(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the backend got %s %s", r.Method, r.RequestURI)
	}))
	address := s.start(t)
	for _, target := range []string{"10.0.0.1:22", "/path"} {
		c := s.dial(t, address)
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: a\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		assert.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	}
	req, err := http.NewRequest(http.MethodConnect, "https://"+address, nil)
	require.NoError(t, err)
	resp, _ := send(t, s.client(t, true), req)
	assert.Equal(t, 2, resp.ProtoMajor)
	assert.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

// net/http takes a client's end of sending for its end. A response that says
// that all is well must not be made up for it.
func TestNoResponseIsMadeUpForAClientThatHasEnded(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	c := s.dial(t, s.start(t))
	t.Cleanup(func() { close(release) })
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	require.NoError(t, c.CloseWrite())
	answer, _ := io.ReadAll(c)
	assert.Empty(t, string(answer))
}

// A client of HTTP/2 that opens no more of its window takes nothing either,
// though its connection is not blocked.
func TestStalledStream(t *testing.T) {
	gone := make(chan struct{})
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 1<<16))
		}
		close(gone)
	}))
	s.listener.StallTimeout = 100 * time.Millisecond
	client := s.client(t, true)
	resp, err := client.Get("https://" + s.start(t))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the backend still sends")
	}
}

// A backend that takes its time between two parts of a response is no stall.
func TestSlowResponseIsNoStall(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "part ")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(longerThanAStall)
		fmt.Fprint(w, "part")
	}))
	s.listener.StallTimeout = stall
	address := s.start(t)
	bothVersions(func(http2 bool) {
		_, text := do(t, s.client(t, http2), "GET", "https://"+address, "")
		assert.Equal(t, "part part", text)
	})
}

// stall is a StallTimeout that requests keep, on a busy machine, too, while they
// take longerThanAStall as a whole.
const (
	stall            = time.Second
	longerThanAStall = 1500 * time.Millisecond
)

// bothVersions makes requests of both versions of HTTP at the same time.
func bothVersions(f func(http2 bool)) {
	var both sync.WaitGroup
	for _, http2 := range []bool{false, true} {
		both.Go(func() { f(http2) })
	}
	both.Wait()
}

// A backend does not answer for a client that breaks off or stalls its body.
func TestBackendsAreNotBlamedForClients(t *testing.T) {
	for name, tc := range map[string]struct {
		request string
		status  int
	}{
		"malformed": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nxyz\r\n", http.StatusBadRequest},
		// net/http takes a client that stalls for one that has gone.
		"stalled": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", 0},
	} {
		for _, backends := range []int{1, 2} {
			t.Run(fmt.Sprint(name, backends), func(t *testing.T) {
				var addresses []string
				for range backends {
					addresses = append(addresses, httpBackend(t, mirror))
				}
				s := newSite(t, standard(t), HTTP, addresses...)
				if tc.status == 0 {
					s.listener.StallTimeout = 100 * time.Millisecond
				}
				address := s.start(t)
				for range 4 {
					c := s.dial(t, address)
					fmt.Fprint(c, tc.request)
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if tc.status == 0 {
						assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
						continue
					}
					require.NoError(t, err)
					assert.Equal(t, tc.status, resp.StatusCode)
				}
				for _, o := range s.server.sockets {
					for _, b := range o.current.Load().pool.backends {
						assert.Zero(t, b.downUntil.Load())
					}
				}
			})
		}
	}
}

// Over HTTP/2 there is a stream left to answer on.
func TestStalledBodyOverHTTP2(t *testing.T) {
	s := newSite(t, standard(t), HTTP, httpBackend(t, mirror))
	s.listener.StallTimeout = 100 * time.Millisecond
	body, client := io.Pipe()
	defer client.Close()
	go func() { _, _ = client.Write([]byte("half")) }()
	resp, err := s.client(t, true).Post("https://"+s.start(t), "text/plain", body)
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, 2, resp.ProtoMajor)
	assert.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
}
