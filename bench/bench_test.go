package main

import (
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/measure"
	"github.com/polytls/polytls/providers"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == workerCommand {
		exit(work(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// script runs one of the build scripts of this folder.
func script(t *testing.T, args ...string) {
	cmd := exec.CommandContext(t.Context(), "bash", args...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", cmd, out)
}

// All contenders that there are take part in a comparison: the providers, the
// plain C programs and the other binding.
func TestComparison(t *testing.T) {
	programs := t.TempDir()
	script(t, "floor/build.sh", programs)
	o := options{floors: programs, out: t.TempDir()}
	if exec.CommandContext(t.Context(), "pkg-config", "--exists", "libssl").Run() == nil {
		o.baseline = filepath.Join(programs, "baseline")
		script(t, "baseline/build.sh", o.baseline)
	} else {
		t.Log("the other binding does not take part: the system has no OpenSSL headers")
	}
	plan := measure.Plan{Rounds: 1, Duration: time.Minute, MaxOps: 2, IdleRounds: 1, IdleConnections: 64}
	var err error
	plan.Measures, err = measure.Select("handshake-,write-,pingpong-")
	require.NoError(t, err)
	plan.Contenders, err = o.contenders()
	require.NoError(t, err)
	report, err := measure.Run(t.Context(), plan)
	require.NoError(t, err)

	for _, p := range providers.All() {
		if p.Available() != nil {
			continue
		}
		for _, name := range []string{"handshake-ecdsa-memory", "handshake-rsa-memory", "write-16k-memory", "write-1k-memory", "pingpong-128-memory"} {
			result := report.Result(name, p.Name())
			require.NotNil(t, result, "%s of %s", name, p.Name())
			assert.Positive(t, result.Ratio)
			assert.Positive(t, result.OverFloor, "there is no floor for %s of %s", name, p.Name())
		}
		if p.Name() != measure.Reference {
			assert.NotNil(t, report.Result("handshake-resumed-memory", p.Name()+" in C"))
		}
	}
	if o.baseline != "" {
		for _, name := range []string{"handshake-ecdsa-tcp", "write-16k-tcp", "pingpong-128-tcp"} {
			require.NotNil(t, report.Result(name, "spacemonkey"))
		}
	}

	require.NoError(t, write(report, o.out))
	for _, name := range []string{"bench.txt", "bench.json"} {
		text, err := os.ReadFile(filepath.Join(o.out, name))
		require.NoError(t, err)
		assert.Contains(t, string(text), "handshake-ecdsa-memory")
	}
	table, err := os.ReadFile(filepath.Join(o.out, "bench.md"))
	require.NoError(t, err)
	rows := strings.Split(strings.TrimSpace(string(table)), "\n")
	require.Len(t, rows, 2+len(plan.Measures))
	for _, row := range rows {
		assert.Equal(t, len(plan.Contenders)+2, strings.Count(row, "|"), row)
	}
	picture, err := os.Open(filepath.Join(o.out, "bench.png"))
	require.NoError(t, err)
	defer picture.Close()
	_, err = png.Decode(picture)
	assert.NoError(t, err)
}

func TestContenders(t *testing.T) {
	_, err := (&options{providers: "nothing"}).contenders()
	assert.ErrorContains(t, err, `there is no provider "nothing"`)
	list, err := (&options{baseline: filepath.Join(t.TempDir(), "missing")}).contenders()
	require.NoError(t, err)
	for _, c := range list {
		assert.NotEqual(t, measure.KindBaseline, c.Kind)
	}
}
