//go:build cgo && polytls_faults

package faultinjection

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/internal/native"
	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

const host = "server.example"

var providers = []tlsapi.Provider{openssl.Provider, boringssl.Provider, s2n.Provider}

// scenario is a connection of which every allocation fails in turn.
type scenario struct {
	name   string
	client func(*fixtures, *tlsapi.ClientConfig)
	server func(*fixtures, *tlsapi.ServerConfig)
	// cold says that the native contexts are built again for every connection,
	// and their allocations fail as well.
	cold bool
	// resumed says that a session of an earlier connection is offered, and
	// taken when nothing fails.
	resumed bool
	// expired says that the session is one of a client whose certificate has
	// expired since: the server must not take it.
	expired bool
	// established says that allocations fail from the end of the handshake on.
	established bool
	// clientKind and serverKind, unless zero, say how the ends fail when no
	// allocation does. Whatever fails, they must not succeed.
	clientKind, serverKind tlsapi.Kind
	// scope, unless zero, is what counts.
	scope Scope
	// only are the providers that the scenario is for, if not all.
	only []string
	// long says that CI does without it: each scenario is a process or more.
	long bool
}

func mutual(f *fixtures, c *tlsapi.ClientConfig) { c.Certificate = &f.clientCert }

func demanding(f *fixtures, c *tlsapi.ServerConfig) {
	f.demands = true
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = tlstest.Pool(f.ca)
}

func psks(f *fixtures, s *tlsapi.Settings) {
	psk := tlsapi.PSK{Identity: []byte("identity"), Secret: bytes.Repeat([]byte{7}, 32)}
	if f.provider.Name() == "boringssl" {
		psk.Kind = tlsapi.PSKImported
	}
	s.PSKs, s.RequirePSK = []tlsapi.PSK{psk}, true
}

// remote is a key that only signs.
type remote struct{ crypto.Signer }

func oldPSKs(s *tlsapi.Settings) {
	s.PSKs = []tlsapi.PSK{{Identity: []byte("identity"), Secret: bytes.Repeat([]byte{7}, 32), Kind: tlsapi.PSKTLS12}}
	s.RequirePSK, s.MaxVersion = true, tls.VersionTLS12
}

// scenariosOf returns the scenarios of a provider. With every context s2n reads
// the system's roots, which cold scenarios would do at every point: that is a
// scenario of its own.
func scenariosOf(provider string) []scenario {
	list := slices.DeleteFunc(scenarios(), func(s scenario) bool { return s.only != nil && !slices.Contains(s.only, provider) })
	for i := range list {
		if provider == "s2n" && list[i].scope == Everything {
			list[i].scope = AllButNewContexts
		}
	}
	return list
}

func scenarios() []scenario {
	old := func(s *tlsapi.Settings) { s.MaxVersion = tls.VersionTLS12 }
	// Their tickets of servers that ask for certificates hold the client's
	// chain; s2n has none then.
	withChains := []string{"openssl", "boringssl"}
	return []scenario{
		{name: "handshake"},
		{name: "handshake-cold", cold: true},
		{
			name:   "handshake-tls12-rsa-cold",
			cold:   true,
			client: func(_ *fixtures, c *tlsapi.ClientConfig) { old(&c.Settings) },
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				old(&c.Settings)
				c.Certificates = []tls.Certificate{f.rsaCert}
			},
		},
		{name: "echo", established: true},
		{name: "resumption", resumed: true},
		{
			name: "resumption-tls12", resumed: true,
			client: func(_ *fixtures, c *tlsapi.ClientConfig) { old(&c.Settings) },
			server: func(_ *fixtures, c *tlsapi.ServerConfig) { old(&c.Settings) },
		},
		{name: "mtls", client: mutual, server: demanding},
		{name: "mtls-cold", cold: true, client: mutual, server: demanding},
		{name: "mtls-resumption", only: withChains, resumed: true, client: mutual, server: demanding},
		{
			name: "mtls-resumption-tls12", only: withChains, resumed: true,
			client: func(f *fixtures, c *tlsapi.ClientConfig) { mutual(f, c); old(&c.Settings) },
			server: func(f *fixtures, c *tlsapi.ServerConfig) { demanding(f, c); old(&c.Settings) },
		},
		{
			name: "mtls-resumption-expired", only: withChains, expired: true,
			client: mutual, server: demanding, serverKind: tlsapi.KindExpired,
		},
		{
			name:   "psk-cold",
			cold:   true,
			client: func(f *fixtures, c *tlsapi.ClientConfig) { psks(f, &c.Settings) },
			server: func(f *fixtures, c *tlsapi.ServerConfig) { psks(f, &c.Settings) },
		},
		{
			name:       "untrusted-server",
			client:     func(f *fixtures, c *tlsapi.ClientConfig) { c.RootCAs = tlstest.Pool(f.other) },
			clientKind: tlsapi.KindUntrusted,
		},
		{
			name:       "wrong-name-cold",
			cold:       true,
			client:     func(_ *fixtures, c *tlsapi.ClientConfig) { c.ServerName = "wrong.example" },
			clientKind: tlsapi.KindHostname,
		},
		{
			name:   "untrusted-client-cold",
			cold:   true,
			client: mutual,
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				demanding(f, c)
				c.ClientCAs = tlstest.Pool(f.other)
			},
			serverKind: tlsapi.KindUntrusted,
		},
		{
			// The older list, which does not name it, must not be taken for the
			// newest because the newer one could not be verified.
			name: "revoked-server-cold",
			cold: true,
			client: func(f *fixtures, c *tlsapi.ClientConfig) {
				c.RevocationLists = f.lists(f.intermediate, f.cert.Leaf)
			},
			clientKind: tlsapi.KindRevoked,
		},
		{
			name: "revoked-client-cold", long: true,
			cold:   true,
			client: mutual,
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				demanding(f, c)
				c.RevocationLists = f.lists(f.ca, f.clientCert.Leaf)
			},
			serverKind: tlsapi.KindRevoked,
		},
		{
			name: "chosen-cold", long: true,
			cold: true,
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				chosen := *c
				c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return &chosen, nil }
			},
		},
		{
			name: "chosen-mtls", long: true, client: mutual,
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				chosen := *c
				demanding(f, &chosen)
				c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return &chosen, nil }
			},
		},
		{
			name: "hello-retry-cold", long: true, cold: true, only: []string{"openssl", "boringssl"},
			server: func(_ *fixtures, c *tlsapi.ServerConfig) { c.Curves = []tlsapi.CurveID{tlsapi.CurveP384} },
		},
		{
			name: "psk-tls12", long: true, only: []string{"openssl", "boringssl"},
			client: func(f *fixtures, c *tlsapi.ClientConfig) { oldPSKs(&c.Settings) },
			server: func(f *fixtures, c *tlsapi.ServerConfig) { oldPSKs(&c.Settings) },
		},
		{
			name: "wrong-psk", long: true,
			client: func(f *fixtures, c *tlsapi.ClientConfig) { psks(f, &c.Settings) },
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				psks(f, &c.Settings)
				c.PSKs[0].Secret = bytes.Repeat([]byte{8}, 32)
			},
			serverKind: tlsapi.KindBadPSK,
		},
		{name: "resumption-cold", long: true, cold: true, resumed: true},
		{
			name: "signer", long: true, only: []string{"boringssl", "s2n"},
			server: func(f *fixtures, c *tlsapi.ServerConfig) {
				cert := f.cert
				cert.PrivateKey = remote{cert.PrivateKey.(crypto.Signer)}
				c.Certificates = []tls.Certificate{cert}
			},
		},
		{name: "new-contexts", cold: true, only: []string{"s2n"}, scope: NewContexts},
		{name: "no-client-certificate", server: demanding, serverKind: tlsapi.KindNoCertificate},
	}
}

type fixtures struct {
	t             *testing.T
	provider      tlsapi.Provider
	ca, other     *tlstest.Authority
	intermediate  *tlstest.Authority
	cert, rsaCert tls.Certificate
	clientCert    tls.Certificate
	scenario      scenario
	clientSide    tlsapi.ClientConfig
	serverSide    tlsapi.ServerConfig
	// demands says that the server requires a client's certificate.
	demands bool
}

// replayed is a cache that gives the session of one connection again and again.
type replayed []byte

func (r replayed) Get(string) []byte  { return bytes.Clone(r) }
func (r replayed) Put(string, []byte) {}

func newFixtures(t *testing.T, p tlsapi.Provider, s scenario) *fixtures {
	f := makeFixtures(t, p, s)
	for tries := 0; s.expired && !f.takeSession(); tries++ {
		// The machine may have been away for that long.
		require.Less(t, tries, 20, "no session is made and resumed while the certificate is in date")
		f = makeFixtures(t, p, s)
	}
	return f
}

func makeFixtures(t *testing.T, p tlsapi.Provider, s scenario) *fixtures {
	spec := tlstest.Spec{CommonName: host, DNSNames: []string{host}}
	f := &fixtures{t: t, provider: p, scenario: s}
	f.ca, f.other = tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"}), tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Other"})
	f.intermediate = f.ca.Intermediate(t, tlstest.Spec{CommonName: "Intermediate"})
	f.cert, f.clientCert = f.intermediate.Leaf(t, spec), f.ca.Leaf(t, tlstest.Spec{CommonName: "client"})
	spec.Key = tlstest.RSA
	f.rsaCert = f.ca.Leaf(t, spec)
	f.clientSide = tlsapi.ClientConfig{ServerName: host, RootCAs: tlstest.Pool(f.ca)}
	f.serverSide = tlsapi.ServerConfig{Certificates: []tls.Certificate{f.cert}}
	f.clientSide.MaxBlindingDelay, f.serverSide.MaxBlindingDelay = -1, -1
	f.clientSide.ALPN, f.serverSide.ALPN = []string{"h2"}, []string{"h2"}
	if s.cold {
		f.clientSide.ConfigCacheSize, f.serverSide.ConfigCacheSize = -1, -1
	}
	if s.resumed {
		f.clientSide.SessionCache = tlsapi.NewLRUSessionCache(0)
	}
	if s.expired {
		f.clientCert = f.ca.Leaf(t, tlstest.Spec{CommonName: "client", NotAfter: time.Now().Add(expiry)})
		f.clientSide.SessionCache = tlsapi.NewLRUSessionCache(0)
	}
	if s.client != nil {
		s.client(f, &f.clientSide)
	}
	if s.server != nil {
		s.server(f, &f.serverSide)
	}
	return f
}

// lists are revocation lists of both authorities. The issuer has an older one that
// names nobody, and a newer one that names the certificate.
func (f *fixtures) lists(issuer *tlstest.Authority, revoked *x509.Certificate) []*x509.RevocationList {
	now := time.Now()
	older, newer := now.Add(-3*time.Hour), now.Add(-2*time.Hour)
	return []*x509.RevocationList{
		f.ca.RevocationList(f.t, older, time.Time{}), f.intermediate.RevocationList(f.t, older, time.Time{}),
		issuer.RevocationList(f.t, newer, time.Time{}, revoked),
	}
}

// expiry is how long the certificate of a client is good for a session.
const expiry = 2 * time.Second

// takeSession keeps a session of a client whose certificate is in date, for all
// connections after its end; false when it was too slow for that.
func (f *fixtures) takeSession() bool {
	f.once(func() {})
	if o := f.once(func() {}); o.client != nil || o.server != nil || !o.resumed {
		return false
	}
	session := f.clientSide.SessionCache.Get(f.clientSide.SessionKey(f.provider.Name()))
	if session == nil {
		return false
	}
	f.clientSide.SessionCache = replayed(session)
	time.Sleep(time.Until(f.clientCert.Leaf.NotAfter))
	// Whether it is good for its last second is the library's choice. That it
	// is refused is looked at by whoever uses the fixtures.
	uptime.Eventually(3*time.Second, func() bool { return f.healthy() == "" })
	return true
}

// outcome is what became of one connection.
type outcome struct {
	client, server error
	// wrong says what an end that succeeded tells that is not so.
	wrong string
	// resumed says that both ends have resumed a session.
	resumed bool
	// count are the allocations.
	count int
}

// connect makes one connection of which the allocation failAt fails, if it is
// not 0.
func (f *fixtures) connect(failAt int, trace Trace) outcome {
	var o outcome
	if f.scenario.resumed {
		if fill := f.once(func() {}); fill.client != nil || fill.server != nil || fill.wrong != "" {
			o.wrong = fmt.Sprintf("the connection that gives a session: %v, %v, %s", fill.client, fill.server, fill.wrong)
			return o
		}
	}
	start := func() { Start(failAt, trace) }
	if !f.scenario.established {
		start()
		start = func() {}
	}
	o = f.once(start)
	o.count = Count()
	Stop()
	return o
}

// once makes a connection, echoes and closes it.
func (f *fixtures) once(established func()) outcome {
	var o outcome
	wire, serverWire := tlstest.Pipe()
	defer wire.Close()
	defer serverWire.Close()
	served, handshaken := make(chan error, 1), make(chan struct{})
	var serverWrong string
	var clientResumed, serverResumed bool
	go func() {
		defer close(served)
		server, err := f.provider.Server(serverWire, &f.serverSide)
		if err != nil {
			close(handshaken)
			serverWire.Close()
			served <- err
			return
		}
		defer server.Close()
		err = server.Handshake()
		close(handshaken)
		if err == nil {
			serverWrong, serverResumed = f.checkServer(server), server.Info().Resumed
			_, err = io.Copy(server, server)
		}
		served <- err
	}()
	var clientWrong string
	o.client = func() error {
		client, err := f.provider.Client(wire, &f.clientSide)
		if err != nil {
			wire.Close()
			return err
		}
		defer client.Close()
		if err := client.Handshake(); err != nil {
			return err
		}
		<-handshaken
		clientWrong, clientResumed = f.checkClient(client), client.Info().Resumed
		established()
		message := bytes.Repeat([]byte("echo"), 10000)
		wrote := make(chan error, 1)
		go func() {
			_, err := client.Write(message)
			if err != nil {
				client.Close()
			}
			wrote <- err
		}()
		got := make([]byte, len(message))
		_, err = io.ReadFull(client, got)
		if err != nil {
			client.Close()
		}
		if err := errors.Join(err, <-wrote); err != nil {
			return err
		}
		if !bytes.Equal(got, message) {
			clientWrong = "the echo differs"
		}
		return nil
	}()
	o.server = <-served
	o.wrong, o.resumed = clientWrong+serverWrong, clientResumed && serverResumed
	return o
}

// checkClient says what a client whose handshake has succeeded tells wrong.
func (f *fixtures) checkClient(c tlsapi.Conn) string {
	state, info := c.ConnectionState(), c.Info()
	withPSK := len(f.clientSide.PSKs) > 0
	switch {
	case !state.HandshakeComplete, info.Version == 0, info.CipherSuite == 0:
		return fmt.Sprintf("the client's state is incomplete: %x %x; ", info.Version, info.CipherSuite)
	case !withPSK && (len(state.PeerCertificates) == 0 || !info.Verified || len(state.VerifiedChains) == 0):
		return fmt.Sprintf("the client has %d certificates and %d chains, verified: %v; ", len(state.PeerCertificates), len(state.VerifiedChains), info.Verified)
	case withPSK && string(info.PSKIdentity) != "identity":
		return fmt.Sprintf("the client's PSK is %q; ", info.PSKIdentity)
	case info.ALPN != "h2":
		return fmt.Sprintf("the client's ALPN is %q; ", info.ALPN)
	}
	return ""
}

func (f *fixtures) checkServer(c tlsapi.Conn) string {
	state, info := c.ConnectionState(), c.Info()
	switch {
	case !state.HandshakeComplete, info.Version == 0, info.CipherSuite == 0:
		return fmt.Sprintf("the server's state is incomplete: %x %x; ", info.Version, info.CipherSuite)
	case f.demands && (len(state.PeerCertificates) == 0 || !info.Verified || len(state.VerifiedChains) == 0):
		return fmt.Sprintf("the server has %d certificates and %d chains, verified: %v; ", len(state.PeerCertificates), len(state.VerifiedChains), info.Verified)
	case len(f.serverSide.PSKs) > 0 && string(info.PSKIdentity) != "identity":
		return fmt.Sprintf("the server's PSK is %q; ", info.PSKIdentity)
	case info.ALPN != "h2":
		return fmt.Sprintf("the server's ALPN is %q; ", info.ALPN)
	case info.ServerName != f.clientSide.ServerName:
		return fmt.Sprintf("the server's name is %q; ", info.ServerName)
	}
	return ""
}

// judge returns what is wrong with the outcome of a connection of which one
// allocation has failed.
func (f *fixtures) judge(o outcome) string {
	switch s := f.scenario; {
	case o.wrong != "":
		return o.wrong
	case s.clientKind != 0 && o.client == nil:
		return "the client has accepted what it must refuse"
	case s.serverKind != 0 && o.server == nil:
		return "the server has accepted what it must refuse"
	}
	for _, err := range []error{o.client, o.server} {
		var e *tlsapi.Error
		if err != nil && !errors.As(err, &e) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Sprintf("an error without a kind: %v", err)
		}
	}
	return ""
}

// healthy returns what is wrong with a connection of which no allocation fails.
func (f *fixtures) healthy() string {
	o := f.once(func() {})
	s := f.scenario
	as := func(err error, kind tlsapi.Kind) bool {
		if kind == 0 {
			// An end whose peer refuses fails as well.
			return err == nil || s.clientKind != 0 || s.serverKind != 0
		}
		return errors.Is(err, kind)
	}
	if o.wrong == "" && as(o.client, s.clientKind) && as(o.server, s.serverKind) {
		return ""
	}
	return fmt.Sprintf("the connection after it: %s %v, %v", o.wrong, o.client, o.server)
}

// report is one line of a child: what happened at one point.
type report struct {
	Total int    `json:",omitempty"`
	Point int    `json:",omitempty"`
	Done  bool   `json:",omitempty"`
	Wrong string `json:",omitempty"`
	// Client and Server are the outcome.
	Client string `json:",omitempty"`
	Server string `json:",omitempty"`
	// Leaks are the stacks of what was left behind, Failed is that of the
	// allocation.
	Leaks  [][]uintptr `json:",omitempty"`
	Failed []uintptr   `json:",omitempty"`
	End    bool        `json:",omitempty"`
}

const childVariable = "POLYTLS_FAULTS_CHILD"

// TestChild is the process in which allocations fail. It is one of its own, so
// that a crash is that of a known allocation.
func TestChild(t *testing.T) {
	task := os.Getenv(childVariable)
	if task == "" {
		t.Skip("it is run by TestAllocationFailures")
	}
	var provider, name string
	var from, stride, total int
	_, err := fmt.Sscanf(task, "%s %s %d %d %d", &provider, &name, &from, &stride, &total)
	require.NoError(t, err)
	p := providers[slices.IndexFunc(providers, func(p tlsapi.Provider) bool { return p.Name() == provider })]
	all := scenariosOf(provider)
	s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == name })]

	out := json.NewEncoder(os.Stdout)
	say := func(r report) { require.NoError(t, out.Encode(r)) }
	Limit(s.scope)
	f := newFixtures(t, p, s)
	for range 5 {
		if wrong := f.healthy(); wrong != "" {
			say(report{Wrong: "before anything failed: " + wrong, End: true})
			return
		}
		o := f.connect(0, Trace{})
		if s.resumed && !o.resumed {
			say(report{Wrong: "no session is resumed", End: true})
			return
		}
		total = max(total, o.count)
	}
	say(report{Total: total})
	text := func(err error) string {
		var e *tlsapi.Error
		switch {
		case err == nil:
			return "ok"
		case errors.As(err, &e):
			return e.Kind.Error()
		}
		return err.Error()
	}
	for point := from; point <= total; point += stride {
		say(report{Point: point})
		var watchdog uptime.Timer
		watchdog.Start(30*time.Second, func() {
			stacks := make([]byte, 1<<20)
			say(report{Point: point, Wrong: "hung", Failed: FailedStack()})
			fmt.Fprintf(os.Stderr, "hung at %d:\n%s", point, stacks[:runtime.Stack(stacks, true)])
			os.Exit(97)
		})
		o := f.connect(point, Trace{})
		r := report{Point: point, Done: true, Client: text(o.client), Server: text(o.server), Wrong: f.judge(o)}
		if left := Living(); len(left) > 0 {
			r.Leaks, r.Failed = f.leaks(point, left)
		}
		if r.Wrong != "" {
			r.Failed = FailedStack()
		}
		if wrong := f.healthy(); wrong != "" && r.Wrong == "" {
			r.Wrong, r.Failed = wrong, FailedStack()
		}
		watchdog.Stop()
		say(r)
	}
	say(report{End: true})
}

// leaks repeats a point that has left blocks behind and returns what is left every
// time: what a library keeps for later is left once. No time is spent on what a
// known fault explains.
func (f *fixtures) leaks(point int, blocks []Block) (leaks [][]uintptr, failed []uintptr) {
	trace := StacksLike(blocks)
	for _, limit := range []time.Duration{100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond, 10 * time.Second} {
		f.connect(point, trace)
		if leaks = settled(limit); len(leaks) == 0 {
			return nil, nil
		}
		failed = FailedStack()
		if program, _ := knownLeak(f.provider.Name(), leaks, failed); program != "" {
			break
		}
		trace = Stacks()
	}
	return leaks, failed
}

// settled returns what is left, but for what threads and the pools of buffers keep,
// when what runs in the background has had time.
func settled(limit time.Duration) (left [][]uintptr) {
	uptime.Eventually(limit, func() bool {
		left = nil
		living, pooled := Living(), native.Pooled()
		for _, b := range living {
			if !keptByThread(b.Stack) && !slices.Contains(pooled, b.Address) {
				left = append(left, b.Stack)
			}
		}
		return len(left) == 0
	})
	return left
}

// TestAllocationFailures lets allocations of the scenarios fail, one in each
// connection: every POLYTLS_FAULTS_STRIDE-th, every one with 1.
func TestAllocationFailures(t *testing.T) {
	stride := 149
	if text := os.Getenv("POLYTLS_FAULTS_STRIDE"); text != "" {
		var err error
		stride, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	for _, p := range providers {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			for _, s := range scenariosOf(p.Name()) {
				if s.long && testing.Short() {
					continue
				}
				t.Run(s.name, func(t *testing.T) { runScenario(t, p.Name(), s, stride) })
			}
		})
	}
}

func runScenario(t *testing.T, provider string, s scenario, stride int) {
	total, done, crashes := 0, 0, 0
	outcomes, kinds := map[string]int{}, map[string]int{}
	var wrong []string
	roots := fewRoots(t)
	for from := 1; ; {
		last, reports, stderr, err := runChild(t, roots, provider, s.name, from, stride, total)
		for _, r := range reports {
			total = max(total, r.Total)
			if r.Done {
				done++
				outcomes[r.Client+", "+r.Server]++
			}
			if r.Wrong != "" {
				wrong = append(wrong, fmt.Sprintf("allocation %d: %s\n%s", r.Point, r.Wrong, symbols(r.Failed)))
			}
			if len(r.Leaks) > 0 {
				if where, other := knownLeak(provider, r.Leaks, r.Failed); where != "" {
					kinds[where]++
				} else {
					wrong = append(wrong, fmt.Sprintf("allocation %d: %d blocks are left behind; one of them:\n%sthe allocation that failed:\n%s",
						r.Point, len(r.Leaks), symbols(other), symbols(r.Failed)))
				}
			}
		}
		if err == nil {
			break
		}
		crashes++
		text, crash, failed := crashText(stderr)
		if where := knownCrash(provider, crash, failed); where != "" {
			kinds[where]++
		} else {
			wrong = append(wrong, fmt.Sprintf("allocation %d: the process ended with %v\n%s", last, err, text))
		}
		if last < from || crashes > 2000 {
			break
		}
		from = last + stride
	}
	t.Logf("%d allocations, %d of them failed in turn, %d crashes; outcomes (client, server): %v; faults of the library: %v", total, done, crashes, outcomes, kinds)
	for i, w := range wrong {
		if i == 12 {
			t.Errorf("and %d more", len(wrong)-i)
			break
		}
		t.Error(w)
	}
	assert.NotZero(t, total)
	assert.Positive(t, done)
}

// fewRoots is the environment of a system that trusts two roots: s2n reads them
// all with each of its contexts, every one alike.
func fewRoots(t *testing.T) []string {
	dir := t.TempDir()
	file, hashed := filepath.Join(dir, "roots.pem"), filepath.Join(dir, "hashed")
	var roots []byte
	for _, name := range []string{"Root 1", "Root 2"} {
		roots = append(roots, tlstest.NewAuthority(t, tlstest.Spec{CommonName: name}).PEM()...)
	}
	require.NoError(t, os.WriteFile(file, roots, 0o600))
	require.NoError(t, os.Mkdir(hashed, 0o700))
	return []string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + hashed}
}

// runChild runs points from a number on, up to total at least, and returns the last
// one that was begun.
func runChild(t *testing.T, roots []string, provider, name string, from, stride, total int) (last int, reports []report, stderr string, err error) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run", "^TestChild$", "-test.timeout", "0", fmt.Sprint("-test.short=", testing.Short()))
	cmd.Env = append(append(os.Environ(), roots...), fmt.Sprintf("%s=%s %s %d %d %d", childVariable, provider, name, from, stride, total), "GOMAXPROCS=2",
		// The sanitizer must not end the process for what a library loses.
		"ASAN_OPTIONS=detect_leaks=0")
	var errText bytes.Buffer
	cmd.Stderr = &errText
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<24)
	ended := false
	for lines.Scan() {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // the test binary's own words
		}
		ended = ended || r.End
		last = max(last, r.Point)
		reports = append(reports, r)
	}
	err = cmd.Wait()
	if err == nil && !ended {
		err = errors.New("the process ended early")
	}
	return last, reports, errText.String(), err
}

// crashText returns what a crashed process has said of it, and the functions
// that it names.
func crashText(stderr string) (text string, crash, failed []uintptr) {
	for line := range strings.Lines(stderr) {
		var what string
		var address uintptr
		if n, _ := fmt.Sscanf(strings.TrimSpace(line), "polytls crash %s 0x%x", &what, &address); n < 2 {
			continue
		}
		switch what {
		case "frame":
			crash = append(crash, address)
		case "failed":
			failed = append(failed, address)
		}
	}
	if len(crash) == 0 {
		return stderr[:min(len(stderr), 6000)], nil, nil
	}
	return "in:\n" + symbols(crash) + "the allocation that failed:\n" + symbols(failed), crash, failed
}
