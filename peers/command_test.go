package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	buildCommand sync.Once
	commandPath  string
)

// polytls builds the command of this source tree and returns its path.
func polytls(t *testing.T) string {
	buildCommand.Do(func() {
		dir, err := os.MkdirTemp("", "polytls-peers-")
		require.NoError(t, err)
		commandPath = filepath.Join(dir, "polytls")
		must(t, "go", "build", "-C", filepath.Join("..", "cmd", "polytls"), "-o", commandPath, ".")
	})
	require.NotEmpty(t, commandPath, "the command was not built")
	return commandPath
}

func TestMain(m *testing.M) {
	status := m.Run()
	if commandPath != "" {
		os.RemoveAll(filepath.Dir(commandPath))
	}
	os.Exit(status)
}

// serving is a running `polytls serve` or `polytls proxy`.
type serving struct {
	address, port string
	cmd           *exec.Cmd
	log           *syncBuffer
	exited        chan error
}

// serve starts `polytls serve` with the certificates on a port that the system
// chooses. It ends with the test.
func serve(t *testing.T, args ...string) *serving {
	t.Helper()
	var announced struct{ Address string }
	s := start(t, &announced, append([]string{"serve", "127.0.0.1:0"}, args...)...)
	s.listensOn(t, announced.Address)
	return s
}

// forward starts `polytls proxy` in the same way.
func forward(t *testing.T, args ...string) *serving {
	t.Helper()
	var announced struct{ Listeners []struct{ Address string } }
	s := start(t, &announced, append([]string{"proxy", "127.0.0.1:0"}, args...)...)
	require.Len(t, announced.Listeners, 1)
	s.listensOn(t, announced.Listeners[0].Address)
	return s
}

// start starts a command and takes what it announces.
func start(t *testing.T, announced any, args ...string) *serving {
	t.Helper()
	s := &serving{log: &syncBuffer{}, exited: make(chan error, 1)}
	s.cmd = exec.CommandContext(context.Background(), polytls(t), append(args, "--json")...)
	stdout, writer, err := os.Pipe()
	require.NoError(t, err)
	defer stdout.Close()
	s.cmd.Stdout, s.cmd.Stderr = writer, s.log
	require.NoError(t, s.cmd.Start())
	writer.Close()
	go func() { s.exited <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("%s\n%.4000s", s.cmd, s.log)
		}
	})
	require.NoError(t, stdout.SetReadDeadline(time.Now().Add(30*time.Second)))
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, "%s\n%s", s.cmd, s.log)
	require.NoError(t, json.Unmarshal(line, announced))
	return s
}

func (s *serving) listensOn(t *testing.T, address string) {
	t.Helper()
	var err error
	s.address = address
	_, s.port, err = net.SplitHostPort(address)
	require.NoError(t, err)
}

// stop ends the command, which must end well.
func (s *serving) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-s.exited:
		assert.NoError(t, err, "%.4000s", s.log)
	case <-time.After(30 * time.Second):
		t.Errorf("%s did not end", s.cmd)
	}
}
