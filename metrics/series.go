package metrics

import (
	"crypto/tls"
	"errors"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// series are the counters of one provider and role.
type series struct {
	provider string
	role     Role

	complete  [versionCount][2]atomic.Uint64 // full, resumed
	failures  kindCounter
	refused   kindCounter
	broken    kindCounter
	alerts    [256]atomic.Uint64
	durations [durationCount]histogram

	handshaking, open  atomic.Int64
	blinded, forgotten atomic.Uint64

	// stripes share the bytes out, so that processors seldom want the same
	// memory; a connection keeps the one that it has got.
	stripes []stripe
	next    atomic.Uint32
}

// maxStripes bounds the memory: 128 bytes each.
const maxStripes = 64

func newSeries(provider string, role Role) *series {
	n := min(1<<bits.Len(uint(runtime.GOMAXPROCS(0)-1)), maxStripes)
	return &series{provider: provider, role: role, stripes: make([]stripe, n)}
}

// stripe is as large as the two cache lines that processors fetch at once.
type stripe struct {
	read, written atomic.Uint64
	_             [128 - 16]byte
}

func (s *series) stripe() *stripe { return &s.stripes[s.next.Add(1)%uint32(len(s.stripes))] }

// The indices of series.complete.
const (
	version12 = iota
	version13
	versionOther
	versionCount
)

var versionsByIndex = [versionCount]uint16{version12: tls.VersionTLS12, version13: tls.VersionTLS13}

// The indices of series.durations.
const (
	durationFull = iota
	durationResumed
	durationFailed
	durationCount
)

func (s *series) countComplete(info *tlsapi.ConnectionInfo, d time.Duration) {
	version := versionOther
	switch info.Version {
	case tls.VersionTLS12:
		version = version12
	case tls.VersionTLS13:
		version = version13
	}
	resumed := durationFull
	if info.Resumed {
		resumed = durationResumed
	}
	s.complete[version][resumed].Add(1)
	s.durations[resumed].observe(d)
}

// countAlert counts the peer's alert if that is what err tells of.
func (s *series) countAlert(err error) {
	var e *tlsapi.Error
	if errors.As(err, &e) && e.Kind == tlsapi.KindPeerAlert && e.HasAlert {
		s.alerts[e.Alert].Add(1)
	}
}

func (s *series) snapshot() Connections {
	c := Connections{
		Provider:    s.provider,
		Role:        s.role,
		Failed:      s.failures.snapshot(),
		Refused:     s.refused.snapshot(),
		Broken:      s.broken.snapshot(),
		Alerts:      make(map[tls.AlertError]uint64),
		Handshaking: max(s.handshaking.Load(), 0),
		Open:        max(s.open.Load(), 0),
		Blinded:     s.blinded.Load(),
		Forgotten:   s.forgotten.Load(),
	}
	for i := range s.complete {
		h := Handshakes{Version: versionsByIndex[i], Full: s.complete[i][0].Load(), Resumed: s.complete[i][1].Load()}
		// There is no other version yet: that row appears when it must.
		if i != versionOther || h.Full+h.Resumed > 0 {
			c.Complete = append(c.Complete, h)
		}
	}
	for i := range s.alerts {
		if n := s.alerts[i].Load(); n > 0 {
			c.Alerts[tls.AlertError(i)] = n
		}
	}
	c.FullDuration = s.durations[durationFull].snapshot()
	c.ResumedDuration = s.durations[durationResumed].snapshot()
	c.FailedDuration = s.durations[durationFailed].snapshot()
	for i := range s.stripes {
		c.BytesRead += s.stripes[i].read.Load()
		c.BytesWritten += s.stripes[i].written.Load()
	}
	return c
}

// kindCounter counts by tlsapi.Kind. What is no known kind counts as zero.
type kindCounter [tlsapi.KindInvalidCertificate + 1]atomic.Uint64

func (k *kindCounter) add(kind tlsapi.Kind) {
	if int(kind) >= len(k) {
		kind = 0
	}
	k[kind].Add(1)
}

func (k *kindCounter) snapshot() map[tlsapi.Kind]uint64 {
	counts := make(map[tlsapi.Kind]uint64)
	for kind := range k {
		if n := k[kind].Load(); n > 0 {
			counts[tlsapi.Kind(kind)] = n
		}
	}
	return counts
}

// bucketBounds are the upper bounds of the buckets of durations: a handshake in
// the same data centre takes about a millisecond, one around the world with a
// retry about a second.
var bucketBounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

type histogram struct {
	buckets [len(bucketBounds) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bucketBounds) && d > bucketBounds[i] {
		i++
	}
	h.sum.Add(int64(d))
	h.buckets[i].Add(1)
}

func (h *histogram) snapshot() Histogram {
	out := Histogram{Buckets: make([]Bucket, len(bucketBounds))}
	for i, bound := range bucketBounds {
		out.Count += h.buckets[i].Load()
		out.Buckets[i] = Bucket{UpTo: bound, Count: out.Count}
	}
	out.Count += h.buckets[len(bucketBounds)].Load()
	out.Sum = time.Duration(h.sum.Load())
	return out
}
