package tlstest

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A peer changes its keys again and again and asks this end to do the same, while
// both send: nothing is lost, and an answer stands before the data that is
// encrypted with the new keys.
func (s *suite) testKeyUpdates(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		t.Run("whole records", func(t *testing.T) { s.updateKeys(t, r, 0) })
		t.Run("single bytes", func(t *testing.T) { s.updateKeys(t, r, 1) })
	})
}

func (s *suite) updateKeys(t *testing.T, r role, chunk int) {
	// A server's tickets would stand before its data.
	d, peers, own := s.withRecordKeys(t, r, s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.SessionTicketsDisabled = s.supported(tlsapi.ServerSessionTickets)
	}))
	d.connWire.SetChunk(chunk)
	d.connWire.SetCapacity(4000)
	d.peerWire.SetCapacity(4000)
	messages := func(seed byte) (parts [][]byte, all []byte) {
		for range 60 {
			part := make([]byte, 1+rand.IntN(2000))
			for i := range part {
				part[i] = byte((len(all)+i)*7) + byte((len(all)+i)>>8) + seed
			}
			parts, all = append(parts, part), append(all, part...)
		}
		return parts, all
	}
	toPeer, allToPeer := messages(1)
	toConn, allToConn := messages(2)

	var group sync.WaitGroup
	read := make(chan struct{})
	group.Go(func() {
		last := len(toPeer) - 1
		for i, part := range toPeer {
			if i == last {
				// Everything that asks for an answer has been read by now.
				<-read
			}
			if _, err := d.conn.Write(part); !assert.NoError(t, err) {
				return
			}
		}
	})
	group.Go(func() {
		defer close(read)
		received := make([]byte, len(allToConn))
		_, err := io.ReadFull(d.conn, received)
		assert.NoError(t, err)
		assert.Equal(t, allToConn, received)
	})
	group.Go(func() {
		for i, part := range toConn {
			out := peers.Record(RecordApplicationData, part)
			if i%2 == 0 {
				out = append(out, peers.KeyUpdate(true)...)
			}
			if _, err := d.peerWire.Write(out); !assert.NoError(t, err) {
				return
			}
		}
	})
	updates, received := receiveRecords(t, own, d.peerWire, len(allToPeer))
	if t.Failed() {
		d.peerWire.Close()
	}
	group.Wait()
	require.Equal(t, allToPeer, received)
	assert.Positive(t, updates)
	assert.LessOrEqual(t, updates, len(toConn)/2)
}

// receiveRecords reads records from the other end until it has had so much data, and
// counts the key updates before it.
func receiveRecords(t *testing.T, w *records.Keys, wire io.Reader, size int) (updates int, data []byte) {
	t.Helper()
	for len(data) < size {
		header := make([]byte, 5)
		_, err := io.ReadFull(wire, header)
		if !assert.NoError(t, err) {
			return updates, data
		}
		record := Record{Type: header[0], Payload: make([]byte, binary.BigEndian.Uint16(header[3:]))}
		_, err = io.ReadFull(wire, record.Payload)
		if !assert.NoError(t, err) {
			return updates, data
		}
		kind, content, err := w.Open(record.Type, record.Payload)
		switch {
		case !assert.NoError(t, err, "after %d key updates", updates):
			return updates, data
		case kind == RecordApplicationData:
			data = append(data, content...)
		case kind == RecordHandshake && bytes.Equal(content, []byte{records.MessageKeyUpdate, 0, 0, 1, 0}):
			updates++
			w.Update()
		default:
			assert.Fail(t, "an unexpected record", "type %d: %x", kind, content)
			return updates, data
		}
	}
	return updates, data
}
