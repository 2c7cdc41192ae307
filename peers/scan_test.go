package peers

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlstest"
)

// scanned is what a policy must look like to a scanner.
var scanned = map[string]struct{ offered, refused []string }{
	"modern":       {[]string{"TLS1_3"}, []string{"SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"}},
	"intermediate": {[]string{"TLS1_2", "TLS1_3"}, []string{"SSLv2", "SSLv3", "TLS1", "TLS1_1"}},
}

// finding is an entry of testssl.sh's flat JSON.
type finding struct{ ID, Severity, Finding string }

// tolerated are findings above LOW that are not about the server, or that the
// documentation of a preset names.
var tolerated = map[string]string{
	"engine_problem": "testssl.sh about its own openssl",
}

// TestScan lets testssl.sh look at the presets of every provider: nothing above
// LOW in its sections on protocols, ciphers and vulnerabilities.
func TestScan(t *testing.T) {
	needsEverything(t, "scan")
	testssl := program(t, "testssl")
	ecdsa := newFixtures(t, tlstest.ECDSA)
	rsa := newFixtures(t, tlstest.RSA)
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "index.html"), []byte(greeting), 0o644))

	var (
		mu   sync.Mutex
		rows []string
	)
	passed := t.Run("all", func(t *testing.T) {
		for _, p := range available() {
			for policy, want := range scanned {
				t.Run(p.Name()+"/"+policy, func(t *testing.T) {
					s := serve(t, "--provider", p.Name(), "--security-policy", policy, "--root", root,
						"--cert", ecdsa.serverCert, "--key", ecdsa.serverKey, "--cert", rsa.serverCert, "--key", rsa.serverKey,
						// A scanner fails on purpose, and s2n's delay would hold each failure.
						"--max-blinding-delay", "-1s")
					t.Parallel()
					ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
					defer cancel()
					file := filepath.Join(t.TempDir(), "findings.json")
					cmd := exec.CommandContext(ctx, testssl, "--quiet", "--color", "0", "--warnings", "batch", "--add-ca", ecdsa.ca+","+rsa.ca,
						"--ip", "127.0.0.1", "--jsonfile", file, "--protocols", "--standard", "--server-preference", "--vulnerable", hostName+":"+s.port)
					// Its status counts what it found strange; the findings are judged below.
					output, _ := cmd.CombinedOutput()
					text, err := os.ReadFile(file)
					require.NoError(t, err, "%s", output)
					var findings []finding
					require.NoError(t, json.Unmarshal(text, &findings), "%s", output)
					row := judgeFindings(t, findings, want.offered, want.refused)
					s.stop(t)
					mu.Lock()
					defer mu.Unlock()
					rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", policy, p.Name(), row))
				})
			}
		}
	})
	if file := os.Getenv("POLYTLS_SCAN"); file != "" {
		require.True(t, passed, "the table is written when nothing is wrong")
		slices.Sort(rows)
		writeSection(t, file, "scan", fmt.Sprintf("`make scan`, %s, testssl.sh %s:\n\n| preset | provider | findings | above LOW | LOW |\n|---|---|---|---|---|\n%s",
			time.Now().UTC().Format(time.DateOnly), debianVersion(t, "testssl.sh"), strings.Join(rows, "")))
	}
}

// judgeFindings returns the cells of the table.
func judgeFindings(t *testing.T, findings []finding, offered, refused []string) string {
	by := make(map[string]finding)
	var low, above []string
	for _, f := range findings {
		by[f.ID] = f
		switch f.Severity {
		case "OK", "INFO", "DEBUG":
		case "LOW":
			low = append(low, f.ID)
		default: // WARN, MEDIUM, HIGH, CRITICAL, FATAL
			if tolerated[f.ID] == "" {
				above = append(above, f.ID)
				assert.Fail(t, "a finding above LOW", "%s %s: %s", f.Severity, f.ID, f.Finding)
			}
		}
	}
	// It has really looked.
	for _, id := range []string{"heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "BREACH", "POODLE_SSL",
		"FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT"} {
		assert.Contains(t, by, id)
	}
	if slices.Contains(offered, "TLS1_2") {
		// It is about suites of TLS 1.2.
		assert.Contains(t, by, "SWEET32")
	}
	for _, id := range offered {
		assert.True(t, strings.HasPrefix(by[id].Finding, "offered"), "%s: %s", id, by[id].Finding)
	}
	for _, id := range refused {
		assert.True(t, strings.HasPrefix(by[id].Finding, "not offered"), "%s: %s", id, by[id].Finding)
	}
	none := func(ids []string) string {
		if len(ids) == 0 {
			return "none"
		}
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%d | %s | %s", len(findings), none(above), none(low))
}

// sslscanned is the part of sslscan's report that is looked at.
type sslscanned struct {
	Test struct {
		Protocols []struct {
			Type    string `xml:"type,attr"`
			Version string `xml:"version,attr"`
			Enabled int    `xml:"enabled,attr"`
		} `xml:"protocol"`
		Heartbleed []struct {
			Vulnerable int `xml:"vulnerable,attr"`
		} `xml:"heartbleed"`
		Renegotiation struct {
			Secure int `xml:"secure,attr"`
		} `xml:"renegotiation"`
		Compression struct {
			Supported int `xml:"supported,attr"`
		} `xml:"compression"`
		Ciphers []struct {
			Name     string `xml:"cipher,attr"`
			Version  string `xml:"sslversion,attr"`
			Strength string `xml:"strength,attr"`
		} `xml:"cipher"`
	} `xml:"ssltest"`
}

// TestSslscan asks another scanner, which takes seconds.
func TestSslscan(t *testing.T) {
	needsEverything(t, "scan")
	sslscan := program(t, "sslscan")
	f := newFixtures(t, tlstest.ECDSA)
	for _, p := range available() {
		for policy, want := range scanned {
			t.Run(p.Name()+"/"+policy, func(t *testing.T) {
				s := serve(t, "--provider", p.Name(), "--security-policy", policy, "--cert", f.serverCert, "--key", f.serverKey, "--max-blinding-delay", "-1s")
				out, err := exec.CommandContext(t.Context(), sslscan, "--xml=-", "--sni-name="+hostName, s.address).Output()
				require.NoError(t, err, "%s", out)
				var report sslscanned
				require.NoError(t, xml.Unmarshal(out, &report), "%s", out)
				enabled := make(map[string]int)
				for _, protocol := range report.Test.Protocols {
					enabled[protocol.Type+protocol.Version] = protocol.Enabled
				}
				assert.Equal(t, map[string]int{"ssl2": 0, "ssl3": 0, "tls1.0": 0, "tls1.1": 0, "tls1.3": 1, "tls1.2": len(want.offered) - 1}, enabled)
				assert.Equal(t, 0, report.Test.Compression.Supported)
				for _, h := range report.Test.Heartbleed {
					assert.Equal(t, 0, h.Vulnerable)
				}
				assert.NotEmpty(t, report.Test.Ciphers)
				for _, c := range report.Test.Ciphers {
					assert.Contains(t, []string{"strong", "acceptable"}, c.Strength, c.Name)
				}
				s.stop(t)
			})
		}
	}
}

// debianVersion is the version of an installed package.
func debianVersion(t *testing.T, name string) string {
	out, err := exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${source:Upstream-Version}", name).Output()
	if err != nil {
		return "of unknown version"
	}
	return string(out)
}
