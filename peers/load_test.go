package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlstest"
)

// TestLoad lets h2load send requests to `polytls serve` over 100 connections at
// once, with HTTP/1.1 and HTTP/2. None may fail. The full run sends 10,000.
func TestLoad(t *testing.T) {
	h2load := program(t, "h2load")
	f := newFixtures(t, tlstest.ECDSA)
	root := t.TempDir()
	// Larger than one TLS record.
	require.NoError(t, os.WriteFile(filepath.Join(root, "file.txt"), []byte(strings.Repeat("a line of text\n", 2000)), 0o644))
	requests := 500
	if everything() {
		requests = 10000
	}
	for _, p := range available() {
		for _, protocol := range []struct {
			name, alpn string
			args       []string
		}{
			{"HTTP/1.1", "http/1.1", []string{"--h1"}},
			{"HTTP/2", "h2", []string{"--max-concurrent-streams", "10"}},
		} {
			t.Run(p.Name()+"/"+protocol.name, func(t *testing.T) {
				s := serve(t, "--provider", p.Name(), "--cert", f.serverCert, "--key", f.serverKey, "--root", root, "--alpn", protocol.alpn)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				args := append([]string{"--requests", fmt.Sprint(requests), "--clients", "100"}, protocol.args...)
				out, err := exec.CommandContext(ctx, h2load, append(args, "https://"+s.address+"/file.txt")...).CombinedOutput()
				require.NoError(t, err, "%s", out)
				assert.Contains(t, string(out), fmt.Sprintf("requests: %[1]d total, %[1]d started, %[1]d done, %[1]d succeeded, 0 failed, 0 errored, 0 timeout", requests))
				assert.Contains(t, string(out), fmt.Sprintf("status codes: %d 2xx, 0 3xx, 0 4xx, 0 5xx", requests))
				assert.Contains(t, string(out), "Application protocol: "+protocol.alpn)
				for line := range strings.Lines(string(out)) {
					if strings.HasPrefix(line, "finished in") {
						t.Log(strings.TrimSpace(line))
					}
				}
				s.stop(t)
				assert.NotContains(t, s.log.String(), "failed")
			})
		}
	}
}
