//go:build go1.27

package httptls

import (
	"net"
	"net/http"

	"github.com/polytls/polytls/tlsapi"
)

// http2Connections has nothing to do from Go 1.27 on: http.Transport speaks
// HTTP/2 over connections with ConnectionState.
type http2Connections struct{}

func (h *http2Connections) enable(t *http.Transport) error {
	if t.Protocols == nil {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	t.Protocols.SetHTTP2(true)
	return nil
}

func (h *http2Connections) add(_ string, conn tlsapi.Conn) (net.Conn, error) { return conn, nil }

func (h *http2Connections) closeIdle() {}
