//go:build !linux

package measure

import (
	"runtime/metrics"
	"time"
)

// cpuTime is what Go accounts: an estimate where the operating system's own
// account is not read.
func cpuTime() time.Duration {
	sample := []metrics.Sample{{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(sample)
	return time.Duration((sample[0].Value.Float64() - sample[1].Value.Float64()) * float64(time.Second))
}

// residentBytes is Go's memory only: native memory is not known here.
func residentBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

func threads() int { return 0 }

func fileLimit() int { return 256 }
