package providers_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// netConnCases are the cases of nettest.TestConn.
var netConnCases = []string{
	"BasicIO", "PingPong", "RacyRead", "RacyWrite", "ReadTimeout", "WriteTimeout",
	"PastTimeout", "PresentTimeout", "FutureTimeout", "CloseTimeout", "ConcurrentMethods",
}

const fatalTimeout = "; a Write that has timed out is fatal, as in crypto/tls: a part of a record may be out, what follows would be read as its rest, " +
	"and nobody knows how much of the data the peer will have"

// netConnExceptions are the cases that connections of this project fail, with
// what is to be read in their output, and why that is right. One may pass by chance.
var netConnExceptions = map[string]struct {
	output, reason string
	chance         bool
}{
	"PastTimeout":   {"roundtrip Write error: .*i/o timeout", "it writes with a deadline in the past, and then once more" + fatalTimeout, false},
	"FutureTimeout": {"unexpected Write error: .*i/o timeout", "it writes until the deadline ends a Write, and then goes on" + fatalTimeout, false},
	"ConcurrentMethods": {"unexpected Write error: .*i/o timeout", "a hundred of its Writes may meet the deadlines that it sets meanwhile, " +
		"and then it goes on" + fatalTimeout, true},
}

// netConnTransports make the two ends that the connections are over.
var netConnTransports = map[string]func(*testing.T) (net.Conn, net.Conn){
	"TCP": func(t *testing.T) (net.Conn, net.Conn) { return dialed(t, "tcp", "127.0.0.1:0") },
	"Unix": func(t *testing.T) (net.Conn, net.Conn) {
		// Not below t.TempDir: names of sockets are short.
		dir, err := os.MkdirTemp("", "nettest")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		return dialed(t, "unix", filepath.Join(dir, "s"))
	},
	"Pipe": func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() },
}

func dialed(t *testing.T, network, address string) (one, two net.Conn) {
	t.Helper()
	listener, err := net.Listen(network, address)
	require.NoError(t, err)
	defer listener.Close()
	one, err = net.Dial(network, listener.Addr().String())
	require.NoError(t, err)
	two, err = listener.Accept()
	require.NoError(t, err)
	return one, two
}

// netConnVariable makes TestNetConnInProcess run; its value, when not empty, is
// after how long its connections are torn down, for cases that would wait.
const netConnVariable = "POLYTLS_NETTEST"

// TestNetConn runs nettest.TestConn over every provider and transport. A case
// that is an exception must fail, but for one that may pass by chance, and for its
// reason; Go has no test that is expected to fail, so they run in processes of
// their own.
func TestNetConn(t *testing.T) {
	var passing, failing []string
	for _, name := range netConnCases {
		if _, ok := netConnExceptions[name]; ok {
			failing = append(failing, name)
		} else {
			passing = append(passing, name)
		}
	}
	require.Len(t, failing, len(netConnExceptions), "an exception to no case")
	require.GreaterOrEqual(t, len(passing), 8, "crypto/tls passes 8")

	var available []string
	for _, p := range providers.All() {
		if p.Available() == nil {
			available = append(available, p.Name())
		}
	}
	for _, run := range []struct {
		name, outcome, limit string
		cases                []string
	}{
		{"passing", "PASS", "1m", passing},
		{"exceptions", "FAIL", "2s", failing},
	} {
		t.Run(run.name, func(t *testing.T) {
			t.Parallel()
			output := netConnProcess(t, run.limit, run.cases)
			for _, provider := range available {
				for transport := range netConnTransports {
					for _, name := range run.cases {
						path := fmt.Sprintf("TestNetConnInProcess/%s/%s/%s", provider, transport, name)
						outcome, exception := outcomeOf(output, path), netConnExceptions[name]
						if exception.chance && outcome == "PASS" {
							continue
						}
						assert.Equal(t, run.outcome, outcome, "%s", path)
						if exception.output != "" {
							assert.Regexp(t, exception.output, messagesOf(output, path), "%s", path)
						}
					}
				}
			}
			if t.Failed() {
				t.Logf("%s", output)
			}
		})
	}
}

// netConnProcess runs some of the cases and returns what go test -v writes.
func netConnProcess(t *testing.T, limit string, cases []string) []byte {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, "-test.v", "-test.parallel=12", "-test.timeout=4m",
		"-test.run=^TestNetConnInProcess$/././^("+strings.Join(cases, "|")+")$")
	command.Env = append(os.Environ(), netConnVariable+"="+limit)
	output, err := command.CombinedOutput()
	if err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", output)
	}
	require.NotContains(t, string(output), "panic:")
	require.NotContains(t, string(output), "DATA RACE")
	return output
}

// outcomeOf returns PASS, FAIL or SKIP, or nothing for a test that did not run.
func outcomeOf(output []byte, test string) string {
	found := regexp.MustCompile(`--- (\w+): ` + regexp.QuoteMeta(test) + ` \(`).FindSubmatch(output)
	if found == nil {
		return ""
	}
	return string(found[1])
}

// messagesOf returns what go test -v writes behind the outcome of a test, or,
// as it does for tests that run in parallel, while it runs.
func messagesOf(output []byte, test string) string {
	var messages []byte
	own := false
	for line := range bytes.Lines(output) {
		if name, ok := bytes.CutPrefix(bytes.TrimLeft(line, " "), []byte("=== ")); ok {
			fields := bytes.Fields(name)
			own = len(fields) == 2 && string(fields[1]) == test
		} else if own {
			messages = append(messages, line...)
		}
	}
	return string(messages)
}

// TestNetConnInProcess is what TestNetConn runs.
func TestNetConnInProcess(t *testing.T) {
	value, ok := os.LookupEnv(netConnVariable)
	if !ok {
		t.Skip("run by TestNetConn")
	}
	limit, err := time.ParseDuration(value)
	require.NoError(t, err)
	client, server := pairConfigs(t)
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			for name, transport := range netConnTransports {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
						one, two := transport(t)
						c1, c2 := handshaken(t, p, one, two, client, server)
						timer := new(uptime.Timer)
						timer.Start(limit, func() { one.Close(); two.Close() })
						return c1, c2, func() { timer.Stop(); c1.Close(); c2.Close() }, nil
					})
				})
			}
		})
	}
}

// pairConfigs returns configurations of a client and a server that trust each
// other.
func pairConfigs(t testing.TB) (*tlsapi.ClientConfig, *tlsapi.ServerConfig) {
	t.Helper()
	const host = "server.example"
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{CommonName: host, DNSNames: []string{host}})
	return &tlsapi.ClientConfig{ServerName: host, RootCAs: tlstest.Pool(ca)},
		&tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}}
}

// handshaken returns the two ends of a connection after the handshake.
func handshaken(t testing.TB, p tlsapi.Provider, one, two net.Conn, client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) (c, s tlsapi.Conn) {
	t.Helper()
	c, err := p.Client(one, client)
	require.NoError(t, err)
	s, err = p.Server(two, server)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	require.NoError(t, c.Handshake())
	require.NoError(t, <-done)
	return c, s
}
