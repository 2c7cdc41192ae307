package stdtls

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder is a net.Conn that keeps what is written to it and never answers.
type recorder struct {
	mu      sync.Mutex
	written []byte
	closed  chan struct{}
	once    sync.Once
}

func newRecorder() *recorder { return &recorder{closed: make(chan struct{})} }

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written = append(r.written, b...)
	return len(b), nil
}

func (r *recorder) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.written...)
}

func (r *recorder) Read([]byte) (int, error)         { <-r.closed; return 0, net.ErrClosed }
func (r *recorder) Close() error                     { r.once.Do(func() { close(r.closed) }); return nil }
func (r *recorder) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r *recorder) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// scripted is a net.Conn whose Reads return what the test says.
type scripted struct {
	*recorder
	reads []func([]byte) (int, error)
}

func (s *scripted) Read(b []byte) (int, error) {
	next := s.reads[0]
	if len(s.reads) > 1 {
		s.reads = s.reads[1:]
	}
	return next(b)
}

func TestTransportKeepsDataThatComesWithAnError(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct{ with, then error }{
		"end of stream": {io.EOF, io.ErrUnexpectedEOF},
		"failure":       {boom, boom},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(&scripted{newRecorder(), []func([]byte) (int, error){
				func(b []byte) (int, error) { return copy(b, "abc"), c.with },
				func([]byte) (int, error) { panic("read again after the end") },
			}}, true)
			b := make([]byte, 10)
			n, err := tr.Read(b)
			require.NoError(t, err)
			require.Equal(t, "abc", string(b[:n]))
			for range 2 {
				_, err = tr.Read(b)
				require.ErrorIs(t, err, c.then)
				require.NotErrorIs(t, err, io.EOF)
			}
		})
	}
}

// A write that failed may have torn a record: nothing may follow it.
func TestTransportStopsAfterAFailedWrite(t *testing.T) {
	boom := errors.New("boom")
	inner := &failingConn{recorder: newRecorder(), err: boom}
	tr := newTransport(inner, true)
	tr.handshakeOver()
	n, err := tr.Write([]byte("abc"))
	require.Equal(t, 1, n)
	require.ErrorIs(t, err, boom)
	inner.err = nil
	_, err = tr.Write([]byte("def"))
	require.ErrorIs(t, err, boom)
	require.False(t, tr.withhold())
	require.Equal(t, "a", string(inner.bytes()))
}

// failingConn writes one byte and fails, as long as err is set.
type failingConn struct {
	*recorder
	err error
}

func (f *failingConn) Write(b []byte) (int, error) {
	if f.err == nil {
		return f.recorder.Write(b)
	}
	n, _ := f.recorder.Write(b[:1])
	return n, f.err
}

func TestLastAlert(t *testing.T) {
	record := func(kind byte, n int, fill byte) []byte {
		b := []byte{kind, 3, 3, byte(n >> 8), byte(n)}
		for range n {
			b = append(b, fill)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		alert int
		last  bool
	}{
		{"nothing", nil, 0, false},
		{"half a header", []byte{21, 3}, 0, false},
		{"plaintext alert", record(21, 2, 40), 40, true},
		{"half an alert", record(21, 2, 40)[:6], -1, false},
		{"TLS 1.2 encrypted alert", record(21, 26, 9), -1, true},
		{"TLS 1.3 encrypted alert", record(23, 19, 9), -1, true},
		{"TLS 1.3 Finished", record(23, 53, 9), -1, false},
		{"handshake", record(22, 2, 40), -1, false},
		{"alert after change_cipher_spec", append(record(20, 1, 1), record(21, 2, 42)...), 42, true},
		{"handshake after an alert", append(record(21, 2, 42), record(22, 9, 0)...), -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			alert, last := lastAlert(c.bytes)
			require.Equal(t, c.last, last)
			if last {
				require.Equal(t, c.alert, alert)
			}
		})
	}
}
