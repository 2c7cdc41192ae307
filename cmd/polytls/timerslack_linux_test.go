package main

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// showsTimerSlack makes the test's binary a program that calls setTimerSlack and
// says what has come of it.
const showsTimerSlack = "POLYTLS_TEST_SHOWS_TIMER_SLACK"

func init() {
	if os.Getenv(showsTimerSlack) == "" {
		return
	}
	setTimerSlack(os.Args[1:])
	// A thread that runs init is one that has inherited it.
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	_, marked := os.LookupEnv(timerSlackSet)
	name, _ := os.ReadFile("/proc/self/comm")
	fmt.Println(slack, err, marked, os.Getpid(), os.Args[1:], strings.TrimSpace(string(name)))
	os.Exit(0)
}

func TestTimerSlackOfServers(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	for _, c := range []struct {
		args string
		want int
	}{
		{"serve", timerSlack},
		{"--json proxy --check serve", timerSlack},
		{"connect serve", before},
		{"--json", before},
		{"", before},
	} {
		t.Run(c.args, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), commandTime)
			defer cancel()
			cmd := exec.CommandContext(ctx, self, strings.Fields(c.args)...)
			cmd.Env = append(os.Environ(), showsTimerSlack+"=1")
			output, err := cmd.Output()
			require.NoError(t, err)
			// The same process, arguments and name, and nothing left in the
			// environment. The system cuts names after 15 bytes.
			name := filepath.Base(self)
			assert.Equal(t, fmt.Sprintln(c.want, nil, false, cmd.Process.Pid, strings.Fields(c.args), name[:min(15, len(name))]), string(output))
		})
	}
}

// interpreter returns the loader that a program asks for, empty for none.
func interpreter(t *testing.T, program string) string {
	file, err := elf.Open(program)
	require.NoError(t, err)
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			path, err := io.ReadAll(p.Open())
			require.NoError(t, err)
			return strings.TrimRight(string(path), "\x00")
		}
	}
	return ""
}

// Bundles start programs by their loader, which the system takes for the program.
func TestTimerSlackIsLeftAloneUnderALoader(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	loader := interpreter(t, self)
	if loader == "" {
		t.Skip("the program is linked statically: it needs no loader")
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, loader, self, "serve")
	cmd.Env = append(os.Environ(), showsTimerSlack+"=1")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	name := filepath.Base(loader)
	assert.Equal(t, fmt.Sprintln(before, nil, false, cmd.Process.Pid, []string{"serve"}, name[:min(15, len(name))]), string(output))
}
