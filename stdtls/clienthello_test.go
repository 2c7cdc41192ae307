package stdtls

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wireSink is a transport that keeps what is written and then ends.
type wireSink struct {
	helloSink
	wire []byte
}

func (s *wireSink) Write(b []byte) (int, error) {
	s.wire = append(s.wire, b...)
	return len(b), nil
}

// A peer may send its ClientHello in records of one byte, and each of them byte by
// byte: complete records are taken out at once, so that none is read again.
func TestHelloInPieces(t *testing.T) {
	transport := new(wireSink)
	_ = tls.Client(transport, &tls.Config{InsecureSkipVerify: true}).Handshake()
	whole := new(helloRecorder)
	whole.add(transport.wire)
	require.True(t, whole.done)
	require.NotEmpty(t, whole.offer.groups)

	content := transport.wire[recordHeader:]
	pieces := new(helloRecorder)
	for i, c := range content {
		require.False(t, pieces.done)
		for _, b := range []byte{recordHandshake, 3, 1, 0, 1, c} {
			require.LessOrEqual(t, len(pieces.records), recordHeader, "byte %d", i)
			pieces.add([]byte{b})
		}
	}
	require.True(t, pieces.done)
	assert.Equal(t, whole.offer, pieces.offer)
}
