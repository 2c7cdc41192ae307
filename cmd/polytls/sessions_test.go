package main

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// A session outlives both processes: in the client's file, and by the server's
// ticket key.
func TestResumptionBetweenRuns(t *testing.T) {
	f := files(t)
	keys := writeFile(t, "tickets", strings.Repeat("5c", 32)+"\n")
	rotated := writeFile(t, "rotated", strings.Repeat("c5", 32)+"\n"+strings.Repeat("5c", 32)+"\n")
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ClientSessionCache) || !supports(p, tlsapi.ServerSessionTicketKeys) {
			t.Skipf("%s declares sessions unsupported", p.Name())
		}
		for _, version := range []string{"1.2", "1.3"} {
			t.Run(version, func(t *testing.T) {
				sessions := filepath.Join(t.TempDir(), "sessions")
				resumed := func(keys string) bool {
					s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSACombined, "--ticket-key-file", keys)
					// The name is part of a session's identity, the port is not.
					r := runPolytls(t, strings.NewReader("hello"), "connect", s.address, "--servername", "localhost", "--provider", p.Name(),
						"--ca", f.ca, "--session-file", sessions, "--min-version", version, "--max-version", version, "--json")
					require.Equal(t, exitSuccess, r.status, r.stderr)
					var report connectReport
					require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
					assert.True(t, report.Verified)
					s.stop(t)
					return report.Resumed
				}
				assert.False(t, resumed(keys))
				assert.True(t, resumed(keys))
				assert.True(t, resumed(rotated), "old keys still decrypt")
			})
		}
	})
}

// Each connection but the first resumes; a second run goes on where the first
// has ended.
func TestReconnect(t *testing.T) {
	f := files(t)
	keys := writeFile(t, "tickets", strings.Repeat("5c", 32)+"\n")
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		if !supports(p, tlsapi.ClientSessionCache) {
			t.Skipf("%s declares sessions unsupported", p.Name())
		}
		// Its tickets come after the handshake, not with the first data.
		s := startServer(t, "--provider", "std", "--cert", f.serverECDSACombined, "--ticket-key-file", keys)
		for _, version := range []string{"1.2", "1.3"} {
			t.Run(version, func(t *testing.T) {
				sessions := filepath.Join(t.TempDir(), "sessions")
				args := []string{"connect", s.address, "--servername", "localhost", "--provider", p.Name(), "--ca", f.ca,
					"--min-version", version, "--max-version", version, "--reconnect", "2"}
				resumed := func(args ...string) (of []bool) {
					r := runPolytls(t, strings.NewReader("hello"), append(args, "--json")...)
					require.Equal(t, exitSuccess, r.status, r.stderr)
					for reports := json.NewDecoder(strings.NewReader(r.stdout)); reports.More(); {
						var report connectReport
						require.NoError(t, reports.Decode(&report))
						assert.True(t, report.Verified)
						of = append(of, report.Resumed)
					}
					return of
				}
				assert.Equal(t, []bool{false, true, true}, resumed(args...))
				args = append(args, "--session-file", sessions)
				assert.Equal(t, []bool{false, true, true}, resumed(args...))
				assert.Equal(t, []bool{true, true, true}, resumed(args...))
				info, err := os.Stat(sessions)
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode(), "it holds secrets")

				r := runPolytls(t, strings.NewReader("hello"), args[:len(args)-2]...)
				require.Equal(t, exitSuccess, r.status, r.stderr)
				assert.Equal(t, "hello", r.stdout)
				assert.Equal(t, 3, strings.Count(r.stderr, "connected to "))
				assert.Equal(t, 1, strings.Count(r.stderr, "resumed         no\n"), r.stderr)
				assert.Equal(t, 2, strings.Count(r.stderr, "resumed         yes\n"), r.stderr)
			})
		}
		s.stop(t)
	})
}

func TestReconnectRefuses(t *testing.T) {
	for _, args := range [][]string{{"--reconnect", "-1"}, {"--reconnect", "1", "--no-tickets"}} {
		r := runPolytls(t, noInput(), append([]string{"connect", "127.0.0.1:1"}, args...)...)
		assert.Equal(t, exitUsage, r.status, r.stderr)
		assert.Contains(t, r.stderr, "--reconnect")
	}
}

// A file goes there and comes back whole, and its bytes are told.
func TestSend(t *testing.T) {
	f := files(t)
	data := make([]byte, 5<<20+17)
	rand.Read(data)
	dir := t.TempDir()
	source, copied := filepath.Join(dir, "source"), filepath.Join(dir, "copied")
	require.NoError(t, os.WriteFile(source, data, 0o600))
	eachProvider(t, func(t *testing.T, p tlsapi.Provider) {
		s := startServer(t, "--provider", p.Name(), "--cert", f.serverECDSACombined)
		args := []string{"connect", s.address, "--provider", p.Name(), "--ca", f.ca, "--send", source, "--output", copied}
		r := runPolytls(t, noInput(), append(args, "--json")...)
		require.Equal(t, exitSuccess, r.status, r.stderr)
		reports := json.NewDecoder(strings.NewReader(r.stdout))
		var report connectReport
		require.NoError(t, reports.Decode(&report))
		var transfer transferReport
		require.NoError(t, reports.Decode(&transfer))
		assert.Equal(t, transferReport{uint64(len(data)), uint64(len(data))}, transfer)
		assert.True(t, string(data) == textOf(t, copied), "the file came back changed")

		r = runPolytls(t, noInput(), args...)
		require.Equal(t, exitSuccess, r.status, r.stderr)
		count := strconv.Itoa(len(data)) + " bytes\n"
		assert.Contains(t, r.stderr, "sent            "+count)
		assert.Contains(t, r.stderr, "received        "+count)
		assert.Empty(t, r.stdout)
		s.stop(t)
	})
	r := runPolytls(t, noInput(), "connect", "127.0.0.1:1", "--send", filepath.Join(dir, "missing"))
	assert.Equal(t, exitFailure, r.status)
	assert.Contains(t, r.stderr, "--send")
}
