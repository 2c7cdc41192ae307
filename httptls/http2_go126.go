//go:build !go1.27

package httptls

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/polytls/polytls/tlsapi"
)

// http2Connections are a pool's HTTP/2 connections. http.Transport of Go 1.26
// speaks HTTP/2 over *tls.Conn only, but asks golang.org/x/net/http2 for a
// connection before it dials; that one takes any net.Conn.
type http2Connections struct {
	client *http2.Transport
	mu     sync.Mutex
	conns  map[string][]*http2.ClientConn // by the authority of the URL
}

func (h *http2Connections) enable(t *http.Transport) error {
	client, err := http2.ConfigureTransports(t)
	if err != nil {
		return err
	}
	client.ConnPool = h
	h.client, h.conns = client, make(map[string][]*http2.ClientConn)
	return nil
}

// add takes a connection, unless one is there by now; either way the dial ends
// with errHTTP2.
func (h *http2Connections) add(authority string, conn tlsapi.Conn) (net.Conn, error) {
	h.mu.Lock()
	usable := slices.ContainsFunc(h.conns[authority], (*http2.ClientConn).CanTakeNewRequest)
	h.mu.Unlock()
	if usable {
		conn.Close()
		return nil, errHTTP2
	}
	cc, err := h.client.NewClientConn(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// It may have ended already, before it could be removed.
	if !cc.State().Closed {
		h.conns[authority] = append(h.conns[authority], cc)
	}
	return nil, errHTTP2
}

// GetClientConn implements http2.ClientConnPool.
func (h *http2Connections) GetClientConn(req *http.Request, _ string) (*http2.ClientConn, error) {
	state, ok := req.Context().Value(requestKey{}).(*requestState)
	if !ok {
		return nil, http2.ErrNoCachedConn
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cc := range h.conns[state.authority] {
		if cc.ReserveNewRequest() {
			return cc, nil
		}
	}
	return nil, http2.ErrNoCachedConn
}

// MarkDead implements http2.ClientConnPool.
func (h *http2Connections) MarkDead(cc *http2.ClientConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for authority, conns := range h.conns {
		conns = slices.DeleteFunc(conns, func(c *http2.ClientConn) bool { return c == cc })
		if len(conns) == 0 {
			delete(h.conns, authority)
		} else {
			h.conns[authority] = conns
		}
	}
}

func (h *http2Connections) closeIdle() {
	h.mu.Lock()
	var idle []*http2.ClientConn
	for _, conns := range h.conns {
		for _, cc := range conns {
			if s := cc.State(); s.StreamsActive+s.StreamsReserved+s.StreamsPending == 0 {
				idle = append(idle, cc)
			}
		}
	}
	h.mu.Unlock()
	for _, cc := range idle {
		h.MarkDead(cc)
		go func() {
			// Graceful, as a request may have got the connection meanwhile.
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if cc.Shutdown(ctx) != nil {
				cc.Close()
			}
		}()
	}
}
