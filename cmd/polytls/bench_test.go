package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/measure"
)

const benchKeys = `date machine machine.system machine.processor machine.cores machine.go machine.load rounds duration_ns
	contenders contenders.name contenders.kind contenders.of contenders.library
	measures measures.name measures.title measures.unit measures.size measures.connections
	results results.measure results.contender results.unsupported results.cpu_ns_per_op results.cpu_ns_per_op_low
	results.cpu_ns_per_op_high results.wall_ns_per_op results.allocs_per_op results.alloc_bytes_per_op
	results.cgo_calls_per_op results.resident_bytes_per_op results.heap_bytes_per_op results.threads results.ratio
	results.wall_ratio results.over_floor results.samples results.samples.ops results.samples.bytes results.samples.wall_ns
	results.samples.cpu_ns results.samples.allocs results.samples.alloc_bytes results.samples.cgo_calls
	results.samples.resident_bytes results.samples.heap_bytes results.samples.threads results.samples.negotiated`

func TestBench(t *testing.T) {
	args := []string{"bench", "--providers", "std", "--measure", "handshake-ecdsa-memory,write-1k-memory", "--rounds", "2"}
	r := runPolytls(t, noInput(), append(args, "--json")...)
	require.Equal(t, 0, r.status, r.stderr)
	assert.Equal(t, words(benchKeys), keySet(t, []byte(r.stdout)))
	var report measure.Report
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	require.Len(t, report.Results, 4)
	for _, result := range report.Results {
		assert.Positive(t, result.CPU)
		assert.Len(t, result.Samples, 2)
	}

	r = runPolytls(t, noInput(), args...)
	require.Equal(t, 0, r.status, r.stderr)
	assert.Contains(t, r.stdout, "writes of 1 KiB in memory (write-1k-memory)")
	assert.Contains(t, r.stderr, "write-1k-memory")
}

func TestBenchUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--providers", "nothing"},
		{"--measure", "nothing"},
		{"--rounds", "0"},
		{"argument"},
	} {
		r := runPolytls(t, noInput(), append([]string{"bench"}, args...)...)
		assert.Equal(t, 2, r.status, "%v: %s", args, r.stderr)
		assert.Empty(t, r.stdout)
	}
}
