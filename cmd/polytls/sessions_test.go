package main

import (
	"encoding/json"
	"path/filepath"
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
