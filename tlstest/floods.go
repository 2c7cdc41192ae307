package tlstest

import (
	"crypto/tls"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// flood is what a peer can send without end and at little cost.
type flood struct {
	name string
	// role is that of the provider's end, both if empty; version that of the
	// connection, both if zero.
	role    role
	version uint16
	record  func(*records.Keys) []byte
}

var floods = []flood{
	{name: "empty records", record: func(k *records.Keys) []byte { return k.Record(records.ApplicationData, nil) }},
	{name: "key updates", version: tls.VersionTLS13, record: func(k *records.Keys) []byte { return k.KeyUpdate(false) }},
	{name: "requests for key updates", version: tls.VersionTLS13, record: func(k *records.Keys) []byte { return k.KeyUpdate(true) }},
	{name: "warnings", record: func(k *records.Keys) []byte { return k.Record(records.Alert, []byte{1, alertUserCanceled}) }},
	{name: "requests for renegotiation", role: client, version: tls.VersionTLS12, record: func(k *records.Keys) []byte {
		return k.Record(records.Handshake, []byte{0, 0, 0, 0})
	}},
	{name: "renegotiations", role: server, version: tls.VersionTLS12, record: func(k *records.Keys) []byte {
		hello := append([]byte{1, 0, 0, 43, 3, 3}, make([]byte, 32)...)
		return k.Record(records.Handshake, append(hello, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0))
	}},
	{name: "refusals of renegotiation", version: tls.VersionTLS12, record: func(k *records.Keys) []byte {
		return k.Record(records.Alert, []byte{1, alertNoRenegotiation})
	}},
}

const (
	alertUserCanceled    = 90
	alertNoRenegotiation = 100
	// floodLimit is how many records of a flood are too many.
	floodLimit = 20_000
	// floodPatience is how long a Read may work on them.
	floodPatience = 3 * time.Second
)

// testFloods lets a peer that takes nothing send records of a kind that bring no
// data, without end: the connection fails before long, or waits with its answers
// for the peer to take them until a deadline, so that they do not pile up.
func (s *suite) testFloods(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		for _, f := range floods {
			if f.role != "" && f.role != r || f.version != 0 && f.version != version {
				continue
			}
			t.Run(f.name, func(t *testing.T) { s.flooded(t, r, version, f) })
		}
	})
}

// keyedDuo is a connection after its handshake, and the keys with which the peer
// writes.
func (s *suite) keyedDuo(t *testing.T, r role, version uint16) (*duo, *records.Keys) {
	var log keyLog
	var d *duo
	if r == client {
		d = s.clientDuo(t, s.clientConfig(), s.referenceServer(only(version), func(c *tls.Config) {
			c.KeyLogWriter, c.SessionTicketsDisabled = &log, true
		}))
	} else {
		d = s.serverDuo(t, s.serverConfig(), s.referenceClient(only(version), func(c *tls.Config) { c.KeyLogWriter = &log }))
	}
	d.mustHandshake(t)
	keys, err := records.FromKeyLog(version, d.peer.ConnectionState().CipherSuite, log.all(), d.serverWire.Written(), r == server)
	require.NoError(t, err)
	return d, keys
}

func (s *suite) flooded(t *testing.T, r role, version uint16, f flood) {
	d, keys := s.keyedDuo(t, r, version)
	d.connWire.SetCapacity(64)

	var sender sync.WaitGroup
	sent := 0
	sender.Go(func() {
		for ; sent < floodLimit; sent++ {
			if _, err := d.peerWire.Write(f.record(keys)); err != nil {
				return
			}
		}
		_, _ = d.peerWire.Write(keys.Record(records.ApplicationData, []byte("late")))
	})
	require.NoError(t, d.conn.SetDeadline(time.Now().Add(floodPatience)))
	var n int
	err := within(t, "Read", func() (err error) {
		n, err = d.conn.Read(make([]byte, 10))
		return err
	})
	assert.Zero(t, n, "data behind a flood")
	// crypto/tls loses count of the keys when an answer has timed out.
	s.requireKinds(t, err, tlsapi.KindProtocol, tlsapi.KindTimeout, tlsapi.KindBadRecord)
	assert.NoError(t, within(t, "Close", d.conn.Close))
	d.peerWire.Close()
	sender.Wait()
	t.Logf("%d records until %v", sent, err)
}

// testLoneWarning lets a peer send one warning and nothing behind it: the
// connection waits on, and takes the data that comes later.
func (s *suite) testLoneWarning(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		d, keys := s.keyedDuo(t, r, version)
		for _, data := range []string{"first", "second"} {
			_, err := d.peerWire.Write(keys.Record(records.Alert, []byte{1, alertUserCanceled}))
			require.NoError(t, err)
			require.NoError(t, d.conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			buf := make([]byte, 10)
			_, err = d.conn.Read(buf)
			s.requireKinds(t, err, tlsapi.KindTimeout)

			require.NoError(t, d.conn.SetReadDeadline(time.Time{}))
			_, err = d.peerWire.Write(keys.Record(records.ApplicationData, []byte(data)))
			require.NoError(t, err)
			var n int
			err = within(t, "Read", func() (err error) {
				n, err = d.conn.Read(buf)
				return err
			})
			require.NoError(t, err)
			require.Equal(t, data, string(buf[:n]))
		}
	})
}
