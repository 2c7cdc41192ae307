package measure

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
)

// asWorker makes the test binary one of the processes that measure: the value
// says how it behaves.
const asWorker = "POLYTLS_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	fixtures := os.Args[len(os.Args)-1]
	var err error
	switch os.Getenv(asWorker) {
	case "":
		os.Exit(m.Run())
	case "std":
		err = Serve(os.Stdin, os.Stdout, Provider(stdtls.Provider), fixtures)
	case "crypto-tls":
		err = Serve(os.Stdin, os.Stdout, CryptoTLS(), fixtures)
	case "faulty":
		err = Serve(os.Stdin, os.Stdout, corrupting{CryptoTLS()}, fixtures)
	case "dies":
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func contender(t *testing.T, name string, kind Kind, of string) Contender {
	self, err := os.Executable()
	require.NoError(t, err)
	return Contender{Name: name, Kind: kind, Of: of, Command: []string{self}, Env: []string{asWorker + "=" + name}}
}

func tinyPlan(t *testing.T, contenders ...Contender) Plan {
	measures, err := Select("handshake-ecdsa-memory,write-1k-memory,handshake-resumed,idle")
	require.NoError(t, err)
	return Plan{Contenders: contenders, Measures: measures, Rounds: 3, Duration: time.Minute, MaxOps: 2, IdleRounds: 1, IdleConnections: 64}
}

func TestRun(t *testing.T) {
	plan := tinyPlan(t, contender(t, "std", KindProvider, ""), contender(t, "crypto-tls", KindFloor, "std"))
	var progress bytes.Buffer
	plan.Progress = &progress
	report, err := Run(t.Context(), plan)
	require.NoError(t, err)
	require.Len(t, report.Results, 2*len(plan.Measures))
	for _, name := range []string{"handshake-ecdsa-memory", "write-1k-memory"} {
		std, direct := report.Result(name, "std"), report.Result(name, "crypto-tls")
		require.NotNil(t, std)
		require.NotNil(t, direct)
		for _, result := range []*Result{std, direct} {
			assert.Len(t, result.Samples, 3)
			assert.Equal(t, 2, result.Samples[0].Ops)
			assert.LessOrEqual(t, result.CPULow, result.CPU)
			assert.GreaterOrEqual(t, result.CPUHigh, result.CPU)
			assert.Positive(t, result.Ratio)
		}
		assert.Equal(t, 1.0, std.Ratio)
		assert.Positive(t, std.OverFloor)
		assert.Zero(t, direct.OverFloor)
	}
	idle := report.Result("idle-memory", "std")
	require.NotNil(t, idle)
	assert.Len(t, idle.Samples, 1)
	assert.Positive(t, idle.Resident)

	var text bytes.Buffer
	require.NoError(t, report.WriteText(&text))
	for _, m := range plan.Measures {
		assert.Contains(t, text.String(), m.Name)
		assert.Contains(t, progress.String(), m.Name)
	}
	assert.Contains(t, text.String(), "crypto/tls go1.")
}

func TestRunFailures(t *testing.T) {
	for name, want := range map[string]string{
		"dies":   "dies ended without an answer",
		"faulty": "faulty: write-1k-memory: the data that arrived is not what was sent",
	} {
		t.Run(name, func(t *testing.T) {
			plan := tinyPlan(t, contender(t, "std", KindProvider, ""), contender(t, name, KindProvider, ""))
			plan.Measures, _ = Select("write-1k-memory")
			_, err := Run(t.Context(), plan)
			require.ErrorContains(t, err, want)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Run(ctx, tinyPlan(t, contender(t, "std", KindProvider, "")))
	assert.ErrorIs(t, err, context.Canceled)
}

// corrupting flips a bit of what a client reads and of what a server reads.
type corrupting struct{ Subject }

func (c corrupting) Prepare(f Fixtures, s Settings) (*Ends, error) {
	ends, err := c.Subject.Prepare(f, s)
	if err != nil {
		return nil, err
	}
	server, describe := ends.Server, ends.Describe
	ends.Server = func(transport net.Conn) (Conn, error) {
		conn, err := server(transport)
		return flipping{conn}, err
	}
	ends.Describe = func(conn Conn) Negotiated {
		if f, ok := conn.(flipping); ok {
			conn = f.Conn
		}
		return describe(conn)
	}
	return ends, nil
}

type flipping struct{ Conn }

func (f flipping) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// What must not be compared is refused.
func TestFaultySubjects(t *testing.T) {
	f := fixtures(t)
	for _, m := range All() {
		if m.Unit != Record && m.Unit != Round || m.Connections > 1 {
			continue
		}
		_, err := m.Take(corrupting{CryptoTLS()}, f, time.Minute, 1)
		assert.ErrorContains(t, err, "the data that arrived is not what was sent", m.Name)
	}
	for _, m := range All() {
		if m.Connections > 64 {
			continue
		}
		_, err := m.Take(describing{CryptoTLS(), func(n *Negotiated) { n.Version = tls.VersionTLS12 }}, f, time.Minute, 1)
		assert.ErrorContains(t, err, "wanted TLS 1.3", m.Name)
		_, err = m.Take(describing{CryptoTLS(), func(n *Negotiated) { n.CipherSuite = tls.TLS_AES_256_GCM_SHA384 }}, f, time.Minute, 1)
		assert.ErrorContains(t, err, "TLS_AES_256_GCM_SHA384", m.Name)
		_, err = m.Take(describing{CryptoTLS(), func(n *Negotiated) { n.Group = 23 }}, f, time.Minute, 1)
		assert.ErrorContains(t, err, "the comparison is with X25519", m.Name)
	}
	m, ok := Lookup("handshake-resumed-memory")
	require.True(t, ok)
	_, err := m.Take(describing{CryptoTLS(), func(n *Negotiated) { n.Resumed = false }}, f, time.Minute, 1)
	assert.ErrorContains(t, err, "wanted TLS 1.3, resumed true")
}

// describing claims to have negotiated something else.
type describing struct {
	Subject
	change func(*Negotiated)
}

func (d describing) Prepare(f Fixtures, s Settings) (*Ends, error) {
	ends, err := d.Subject.Prepare(f, s)
	if err != nil {
		return nil, err
	}
	describe := ends.Describe
	ends.Describe = func(c Conn) Negotiated {
		n := describe(c)
		d.change(&n)
		return n
	}
	return ends, nil
}

func TestSummary(t *testing.T) {
	samples := func(cpu ...time.Duration) []Sample {
		var list []Sample
		for _, c := range cpu {
			list = append(list, Sample{Ops: 10, CPU: c, Wall: 2 * c, Allocs: 30})
		}
		return list
	}
	r := &Report{
		Contenders: []ContenderReport{{Name: "std", Kind: KindProvider}, {Name: "fast", Kind: KindProvider}, {Name: "fast in C", Kind: KindFloor, Of: "fast"}},
		Results: []Result{
			// The machine was slower in the second round: ratios go by rounds.
			{Measure: "m", Contender: "std", Samples: samples(1000, 4000, 1200)},
			{Measure: "m", Contender: "fast", Samples: samples(500, 2000, 600)},
			{Measure: "m", Contender: "fast in C", Samples: samples(400, 1600, 480)},
			{Measure: "other", Contender: "fast", Unsupported: "because"},
		},
	}
	r.summarize()
	fast := r.Result("m", "fast")
	assert.Equal(t, 60.0, fast.CPU)
	assert.Equal(t, 50.0, fast.CPULow)
	assert.Equal(t, 200.0, fast.CPUHigh)
	assert.Equal(t, 120.0, fast.Wall)
	assert.Equal(t, 3.0, fast.Allocs)
	assert.Equal(t, 2.0, fast.Ratio)
	assert.Equal(t, 1.25, fast.OverFloor)
	assert.Nil(t, r.Result("other", "fast"))

	m := Measure{Name: "m", Unit: Handshake}
	for _, bad := range []Sample{{}, {Ops: 1, Wall: 1}, {Ops: 1, CPU: 1}, {Ops: -1, CPU: 1, Wall: 1}} {
		assert.Error(t, bad.check(&m))
	}
	assert.NoError(t, (&Sample{Ops: 1, CPU: 1, Wall: 1}).check(&m))
	assert.Error(t, (&Sample{Ops: 1, Resident: -1}).check(&Measure{Unit: IdleEnd}))
}

func TestSelect(t *testing.T) {
	list, err := Select("throughput-8,handshake-rsa")
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, "handshake-rsa-memory", list[0].Name)
	for _, bad := range []string{"nothing", "throughput-8,", ",", "throughput-8,x"} {
		_, err := Select(bad)
		assert.ErrorContains(t, err, "there is no measure", bad)
	}
	names := Names()
	for i, name := range names {
		for j, other := range names {
			assert.False(t, i != j && strings.HasPrefix(name, other), "%s begins with %s: Select would take both", name, other)
		}
	}
}

func TestSelectProviders(t *testing.T) {
	unavailable := fakeProvider{stdtls.Provider, "missing", true}
	all := []tlsapi.Provider{fakeProvider{stdtls.Provider, "a", false}, unavailable, fakeProvider{stdtls.Provider, "b", false}, stdtls.Provider}
	selected, skipped, err := SelectProviders("", all)
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b", "std"}, names(selected))
	assert.Len(t, skipped, 1)
	selected, skipped, err = SelectProviders("b", all)
	require.NoError(t, err)
	assert.Equal(t, []string{"b", "std"}, names(selected))
	assert.Empty(t, skipped)
	_, _, err = SelectProviders("missing", all)
	assert.ErrorContains(t, err, "not here")
	_, _, err = SelectProviders("c", all)
	assert.ErrorContains(t, err, `there is no provider "c"; there are a, missing, b, std`)
}

type fakeProvider struct {
	tlsapi.Provider
	name    string
	missing bool
}

func (f fakeProvider) Name() string { return f.name }

func (f fakeProvider) Available() error {
	if f.missing {
		return errors.New("not here")
	}
	return nil
}

func names(list []tlsapi.Provider) []string {
	var names []string
	for _, p := range list {
		names = append(names, p.Name())
	}
	return names
}
