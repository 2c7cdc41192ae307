package peers

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// check is one thing that a peer and a provider do with each other.
type check string

const (
	full    check = "full"
	resumed check = "resumed"
	mTLS    check = "mTLS"
	alpn    check = "ALPN"
)

var checks = []check{full, resumed, mTLS, alpn}

// session is one conversation: what both ends are told to do.
type session struct {
	*fixtures
	t       testing.TB
	version string // "1.2" or "1.3"
	check   check
	port    string // where the server listens, or shall listen
	scratch string // a folder
}

// pick returns the first text for TLS 1.2 and the second for TLS 1.3.
func (s *session) pick(tls12, tls13 string) string {
	if s.version == "1.2" {
		return tls12
	}
	return tls13
}

// when returns args if the session is about c.
func (s *session) when(c check, args ...string) []string {
	if s.check == c {
		return args
	}
	return nil
}

// request is what clients send and servers understand.
const request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// interopPeer is a program of another TLS implementation, in one role.
type interopPeer struct {
	name     string
	programs []string // the first one is asked for its version
	version  []string // its arguments for that
	protocol string   // what is negotiated in check alpn; empty means http/1.1
	// cannot has the reasons why a check is not possible with any provider.
	cannot map[check]string
	// client connects to s.port, sends a request, or two in two connections
	// for check resumed, and returns what it tells. Nil: the peer is a server.
	client func(ctx context.Context, s *session) (string, error)
	// server starts a server on s.port that answers requests.
	server func(ctx context.Context, s *session) (*daemon, error)
	// quick peers take part in every test run, the others in the full one.
	quick bool
}

// outcome is a cell of the table for one check: nil if it was as it should be.
type outcome struct {
	err    error
	reason string // why it was not tried
}

type cellKey struct {
	peer, role, version, provider string
	check                         check
}

// TestInterop lets every provider talk to the programs of other TLS
// implementations in both roles. With POLYTLS_INTEROP=FILE it writes the table.
func TestInterop(t *testing.T) {
	f := newFixtures(t, tlstest.ECDSA)
	var (
		mu       sync.Mutex
		outcomes = make(map[cellKey]outcome)
		present  []interopPeer
	)
	passed := t.Run("all", func(t *testing.T) {
		for _, peer := range interopPeers {
			if !peer.quick && !everything() {
				continue
			}
			present = append(present, peer)
			t.Run(peer.name+", "+peer.role(), func(t *testing.T) {
				for _, name := range peer.programs {
					program(t, name)
				}
				t.Parallel()
				for _, p := range available() {
					for _, version := range []string{"1.2", "1.3"} {
						for _, c := range checks {
							// The short run has the older version once.
							if !everything() && version == "1.2" && c != full {
								continue
							}
							key := cellKey{peer.name, peer.role(), version, p.Name(), c}
							var result outcome
							if result.reason = reasonFor(&peer, p, version, c); result.reason == "" {
								t.Run(fmt.Sprintf("%s/TLS %s/%s", p.Name(), version, c), func(t *testing.T) {
									result.err = peer.try(t, p, f, version, c)
									require.NoError(t, result.err)
								})
							}
							mu.Lock()
							outcomes[key] = result
							mu.Unlock()
						}
					}
				}
			})
		}
	})
	if file := os.Getenv("POLYTLS_INTEROP"); file != "" {
		require.True(t, everything(), "the table needs POLYTLS_PEERS=all")
		require.True(t, passed, "the table is written when all that can be is")
		writeSection(t, file, "interop", interopTable(t, present, outcomes))
	}
}

func (p *interopPeer) role() string {
	if p.client != nil {
		return "client"
	}
	return "server"
}

func reasonFor(peer *interopPeer, p tlsapi.Provider, version string, c check) string {
	if reason := peer.cannot[c]; reason != "" {
		return reason
	}
	for _, e := range exceptions {
		if (e.provider == "" || e.provider == p.Name()) && (e.peer == "" || e.peer == peer.name) && (e.role == "" || e.role == peer.role()) &&
			(e.version == "" || e.version == version) && e.check == c {
			return e.reason
		}
	}
	return ""
}

// try runs one cell. A connection can fail for reasons of the machine (a port
// that was taken meanwhile), so a daemon that does not start is tried again;
// nothing else is.
func (peer *interopPeer) try(t *testing.T, p tlsapi.Provider, f *fixtures, version string, c check) error {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s := &session{fixtures: f, t: t, version: version, check: c, scratch: t.TempDir()}
	protocol := peer.protocol
	if protocol == "" {
		protocol = "http/1.1"
	}
	if peer.client != nil {
		return tryClient(ctx, s, p, peer, protocol)
	}
	var (
		d   *daemon
		err error
	)
	for range 3 {
		s.port = freePort(t)
		if d, err = peer.server(ctx, s); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return tryServer(ctx, s, p, protocol, d)
}

// tryClient lets the peer connect to a server of ours.
func tryClient(ctx context.Context, s *session, p tlsapi.Provider, peer *interopPeer, protocol string) error {
	config := &tlsapi.ServerConfig{Settings: settings(s), Certificates: []tls.Certificate{s.server}}
	// s2n's delay would keep a failed peer waiting.
	config.MaxBlindingDelay = -1
	if s.check == mTLS {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, tlstest.Pool(s.authority)
	}
	if s.check == alpn || protocol == "h2" {
		config.ALPN = []string{protocol, "other"}
	}
	var (
		mu     sync.Mutex
		states []tls.ConnectionState
		errs   []error
	)
	config.HandshakeFailed = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &httptls.Server{Provider: p, Config: config}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		states = append(states, *r.TLS)
		mu.Unlock()
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, greeting+"\n")
	})
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(inner, "", "") }()
	defer func() {
		server.Close()
		<-served
	}()
	_, s.port, _ = net.SplitHostPort(inner.Addr().String())

	output, err := peer.client(ctx, s)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case err != nil:
		return fmt.Errorf("the client: %w; our server: %w\n%s", err, errors.Join(errs...), output)
	case len(errs) > 0:
		return fmt.Errorf("our server: %w\n%s", errors.Join(errs...), output)
	case len(states) == 0:
		return fmt.Errorf("our server got no request:\n%s", output)
	}
	last := states[len(states)-1]
	if err := judge(s, last, protocol); err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	if s.check == mTLS && (len(last.VerifiedChains) == 0 || last.PeerCertificates[0].Subject.Organization[0] != "Client Ltd") {
		return errors.New("the client's certificate was not verified")
	}
	return nil
}

// tryServer connects to the peer with a client of ours.
func tryServer(ctx context.Context, s *session, p tlsapi.Provider, protocol string, d *daemon) error {
	config := &tlsapi.ClientConfig{Settings: settings(s), ServerName: hostName, RootCAs: tlstest.Pool(s.authority), SessionCache: tlsapi.NewLRUSessionCache(1)}
	config.MaxBlindingDelay = -1
	if s.check == mTLS {
		config.Certificate = &s.client
	}
	if s.check == alpn {
		config.ALPN = []string{"other", protocol}
	}
	connections := 1
	if s.check == resumed {
		connections = 2
	}
	var state tls.ConnectionState
	for range connections {
		var err error
		if state, err = exchange(ctx, p, config, d.address); err != nil {
			return fmt.Errorf("%w\nthe server: %s", err, d.output)
		}
	}
	if len(state.VerifiedChains) == 0 {
		return errors.New("the server's certificate was not verified")
	}
	return judge(s, state, protocol)
}

func settings(s *session) tlsapi.Settings {
	version := uint16(tls.VersionTLS13)
	if s.version == "1.2" {
		version = tls.VersionTLS12
	}
	return tlsapi.Settings{MinVersion: version, MaxVersion: version, HandshakeTimeout: 10 * time.Second}
}

// judge compares what was negotiated, as our end sees it, with the session.
func judge(s *session, state tls.ConnectionState, protocol string) error {
	switch {
	case tls.VersionName(state.Version) != "TLS "+s.version:
		return fmt.Errorf("it negotiated %s", tls.VersionName(state.Version))
	case state.DidResume != (s.check == resumed):
		return fmt.Errorf("resumed is %v", state.DidResume)
	case s.check == alpn && state.NegotiatedProtocol != protocol:
		return fmt.Errorf("it negotiated protocol %q", state.NegotiatedProtocol)
	}
	return nil
}

// exchange connects, sends a request and reads the answer to its end.
func exchange(ctx context.Context, p tlsapi.Provider, config *tlsapi.ClientConfig, address string) (tls.ConnectionState, error) {
	conn, err := httptls.DialContext(ctx, "tcp", address, p, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return tls.ConnectionState{}, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return tls.ConnectionState{}, fmt.Errorf("the answer: %w", err)
	}
	if !strings.HasPrefix(line, "HTTP/1.") || !strings.Contains(line, " 200 ") {
		return tls.ConnectionState{}, fmt.Errorf("the answer is %q", line)
	}
	return conn.ConnectionState(), nil
}

// interopTable renders what was seen.
func interopTable(t *testing.T, present []interopPeer, outcomes map[cellKey]outcome) string {
	var b, versions strings.Builder
	names := make([]string, 0, 4)
	for _, p := range available() {
		names = append(names, p.Name())
		fmt.Fprintf(&versions, ", %s %s", p.Library(), strings.TrimPrefix(p.LibraryVersion(), "go"))
	}
	fmt.Fprintf(&b, "`make interop`, %s%s.\n\n"+
		"**F** a full handshake with the certificate verified, a request and its answer. **R** the second of two connections resumed the session of the first. "+
		"**M** both ends verified the other's certificate. **A** a protocol was negotiated with ALPN. All certificates are ECDSA P-256. "+
		"In place of a letter, a number in brackets leads to the reason why that cannot be.\n\n", time.Now().UTC().Format(time.DateOnly), versions.String())
	var reasons []string
	for _, role := range []string{"client", "server"} {
		ours := "Servers of Polytls, clients of others"
		if role == "server" {
			ours = "Clients of Polytls, servers of others"
		}
		fmt.Fprintf(&b, "## %s\n\n| %s | TLS | %s |\n|---|---|%s\n", ours, role, strings.Join(names, " | "), strings.Repeat("---|", len(names)))
		for _, peer := range present {
			if peer.role() != role {
				continue
			}
			for _, version := range []string{"1.2", "1.3"} {
				fmt.Fprintf(&b, "| %s | %s |", peer.name+peer.versionText(t), version)
				for _, name := range names {
					for _, c := range checks {
						o, ok := outcomes[cellKey{peer.name, role, version, name, c}]
						require.True(t, ok && o.err == nil, "%s %s %s %s %s: %v", peer.name, role, version, name, c, o.err)
						if o.reason == "" {
							fmt.Fprintf(&b, " %s", strings.ToUpper(string(c[:1])))
							continue
						}
						i := slices.Index(reasons, o.reason)
						if i < 0 {
							i = len(reasons)
							reasons = append(reasons, o.reason)
						}
						fmt.Fprintf(&b, " [%d]", i+1)
					}
					b.WriteString(" |")
				}
				b.WriteString("\n")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("## What cannot be, and why\n\n")
	for i, reason := range reasons {
		fmt.Fprintf(&b, "%d. %s\n", i+1, reason)
	}
	return b.String()
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)*[a-z]?`)

// versionText is the peer's version, asked from it or from its package.
func (p *interopPeer) versionText(t *testing.T) string {
	if len(p.version) == 0 {
		return ""
	}
	args := p.version
	out, _ := exec.CommandContext(t.Context(), program(t, args[0]), args[1:]...).CombinedOutput()
	if v := versionNumber.Find(out); v != nil {
		return " " + string(v)
	}
	return ""
}
