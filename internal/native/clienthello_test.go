package native

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// helloOf returns what crypto/tls's client sends first.
func helloOf(t testing.TB, config *tls.Config) []byte {
	near, far := net.Pipe()
	defer far.Close()
	go tls.Client(near, config).Handshake()
	header := make([]byte, recordHeader)
	_, err := io.ReadFull(far, header)
	require.NoError(t, err)
	body := make([]byte, int(header[3])<<8|int(header[4]))
	_, err = io.ReadFull(far, body)
	require.NoError(t, err)
	return append(header, body...)
}

// give hands wire to a collector in pieces of the size; it stops when the
// collector has come to something.
func give(h *helloCollector, wire []byte, size int) (complete bool, failure *helloFailure) {
	for len(wire) > 0 && !complete && failure == nil {
		n := copy(h.space(), wire[:min(size, len(wire))])
		h.received(n)
		wire = wire[n:]
		complete, failure = h.collect()
	}
	return complete, failure
}

func record(kind byte, body ...byte) []byte {
	return append([]byte{kind, 3, 1, byte(len(body) >> 8), byte(len(body))}, body...)
}

// split puts a record into records of the size.
func split(wire []byte, size int) []byte {
	var out []byte
	for body := wire[recordHeader:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, record(wire[0], body[:n]...)...)
		body = body[n:]
	}
	return out
}

func TestCollectsClientHello(t *testing.T) {
	wire := helloOf(t, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}})
	for _, records := range []int{1, 2, 3, 5, 100, 1 << 14} {
		for _, reads := range []int{1, 2, 7, 1000, 1 << 20} {
			var h helloCollector
			sent := split(wire, records)
			complete, failure := give(&h, sent, reads)
			require.Nil(t, failure)
			require.True(t, complete, "records of %d, reads of %d", records, reads)
			require.Equal(t, sent, h.wire)
			called := 0
			errUse := errors.New("of the hook")
			err := withClientHello(t.Context(), h.wire, replayed, func(hello *tls.ClientHelloInfo) error {
				called++
				assert.Equal(t, "a.example", hello.ServerName)
				assert.Equal(t, []string{"h2"}, hello.SupportedProtos)
				assert.Same(t, replayed, hello.Conn)
				assert.NoError(t, hello.Context().Err())
				return errUse
			})
			require.Equal(t, errUse, err)
			require.Equal(t, 1, called)
		}
	}
	t.Run("what comes behind is kept", func(t *testing.T) {
		var h helloCollector
		more := append(bytes.Clone(wire), record(recordHandshake, 1, 2, 3)...)
		complete, failure := give(&h, more, len(more))
		require.True(t, complete && failure == nil)
		assert.Equal(t, more, h.wire)
	})
}

var replayed = &replayConn{}

func TestRefusesWhatIsNoClientHello(t *testing.T) {
	long := append([]byte{clientHello, 0, 0x40, 0}, make([]byte, 100)...)
	for name, c := range map[string]struct {
		wire  []byte
		alert byte
		peer  bool
	}{
		"application data":     {record(23, 1, 2, 3), alertUnexpectedMessage, false},
		"empty record":         {record(recordHandshake), alertUnexpectedMessage, false},
		"long record":          {[]byte{recordHandshake, 3, 1, 0x40, 1}, alertRecordOverflow, false},
		"another message":      {record(recordHandshake, 2, 0, 0, 0), alertUnexpectedMessage, false},
		"another, split":       {split(record(recordHandshake, 2, 0, 0, 0), 1), alertUnexpectedMessage, false},
		"long message":         {record(recordHandshake, clientHello, 1, 0, 1), alertDecodeError, false},
		"fatal alert":          {record(recordAlert, 2, 42), 42, true},
		"close_notify":         {record(recordAlert, 1, 0), 0, true},
		"warning":              {record(recordAlert, 1, 90), alertUnexpectedMessage, false},
		"malformed alert":      {record(recordAlert, 2), alertUnexpectedMessage, false},
		"alert in between":     {append(record(recordHandshake, long...), record(recordAlert, 1, 90)...), alertUnexpectedMessage, false},
		"endless tiny records": {bytes.Repeat(record(recordHandshake, clientHello), maxHelloWire), alertUnexpectedMessage, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reads := range []int{1, 3, 1 << 20} {
				var h helloCollector
				complete, failure := give(&h, c.wire, reads)
				require.False(t, complete)
				if name == "endless tiny records" {
					// The message says 0x010101 bytes: too long.
					require.NotNil(t, failure)
					require.EqualValues(t, alertDecodeError, failure.alert)
					continue
				}
				require.NotNil(t, failure)
				assert.Equal(t, c.alert, failure.alert)
				assert.Equal(t, c.peer, failure.peer)
			}
		})
	}
	t.Run("much wire for little message", func(t *testing.T) {
		var h helloCollector
		start := record(recordHandshake, clientHello, 0, 0xff, 0xff)
		complete, failure := give(&h, append(start, bytes.Repeat(record(recordHandshake, 0), maxHelloWire)...), 1<<12)
		require.False(t, complete)
		require.NotNil(t, failure)
		assert.EqualValues(t, alertDecodeError, failure.alert)
		assert.Less(t, len(h.wire), 2*maxHelloWire)
	})
}

func TestMalformedClientHello(t *testing.T) {
	wire := record(recordHandshake, append([]byte{clientHello, 0, 0, 60, 3, 3}, bytes.Repeat([]byte{0xff}, 58)...)...)
	err := withClientHello(t.Context(), wire, replayed, func(*tls.ClientHelloInfo) error {
		t.Error("called")
		return nil
	})
	require.ErrorIs(t, err, tlsapi.KindProtocol)
	var alerting *alertingError
	require.ErrorAs(t, err, &alerting)
	assert.EqualValues(t, alertDecodeError, alerting.alert)
}

func FuzzCollectHello(f *testing.F) {
	for _, config := range []*tls.Config{
		{ServerName: "a.example"},
		{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		{ServerName: "b.example", NextProtos: []string{"h2", "http/1.1"}, CurvePreferences: []tls.CurveID{tls.CurveP256}},
	} {
		f.Add(helloOf(f, config), 1000)
	}
	f.Add(record(recordAlert, 2, 40), 1)
	f.Fuzz(func(t *testing.T, wire []byte, reads int) {
		reads = 1 + reads&0xfff
		var whole, pieces helloCollector
		complete, failure := give(&whole, wire, len(wire)+1)
		again, failureAgain := give(&pieces, wire, reads)
		// However it comes, it comes to the same.
		require.Equal(t, complete, again)
		require.Equal(t, failure == nil, failureAgain == nil)
		require.False(t, complete && failure != nil)
		if !complete {
			return
		}
		calls := 0
		if err := withClientHello(t.Context(), whole.wire, replayed, func(*tls.ClientHelloInfo) error { calls++; return nil }); err == nil {
			require.Equal(t, 1, calls)
		} else {
			require.Zero(t, calls)
		}
	})
}

func BenchmarkClientHello(b *testing.B) {
	wire := helloOf(b, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	for b.Loop() {
		var h helloCollector
		if complete, failure := give(&h, wire, len(wire)); !complete || failure != nil {
			b.Fatal("not a ClientHello")
		}
		if err := withClientHello(b.Context(), h.wire, replayed, func(*tls.ClientHelloInfo) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
