package providers_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// The targets feed bytes to every provider that is compiled in. `go test` runs
// the seeds; `make fuzz` goes on from there.

// fuzzFixtures are what all targets share in a process.
type fuzzFixtures struct {
	providers []tlsapi.Provider
	ca        *tlstest.Authority
	cert      tls.Certificate
}

func newFuzzFixtures(f testing.TB) *fuzzFixtures {
	x := &fuzzFixtures{ca: tlstest.NewAuthority(f, tlstest.Spec{CommonName: "Fuzz CA"})}
	x.cert = x.ca.Leaf(f, tlstest.Spec{CommonName: fuzzHost, DNSNames: []string{fuzzHost}})
	for _, p := range providers.All() {
		if p.Available() == nil {
			x.providers = append(x.providers, p)
		}
	}
	return x
}

const fuzzHost = "server.example"

func (x *fuzzFixtures) clientConfig() *tlsapi.ClientConfig {
	c := &tlsapi.ClientConfig{ServerName: fuzzHost, RootCAs: tlstest.Pool(x.ca)}
	c.MaxBlindingDelay = -1
	return c
}

func (x *fuzzFixtures) serverConfig() *tlsapi.ServerConfig {
	c := &tlsapi.ServerConfig{Certificates: []tls.Certificate{x.cert}}
	c.MaxBlindingDelay = -1
	return c
}

// settings takes the blinding delay away where the provider has none.
func settings(p tlsapi.Provider, s *tlsapi.Settings) {
	if p.Name() == "std" {
		s.MaxBlindingDelay = 0
	}
}

// flights returns what the two ends of a handshake of std and each provider
// send.
func (x *fuzzFixtures) flights(f testing.TB) (fromClient, fromServer [][]byte) {
	for _, p := range x.providers {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			wire, serverWire := tlstest.Pipe()
			client, err := p.Client(wire, x.clientConfig())
			require.NoError(f, err)
			server := tls.Server(serverWire, &tls.Config{Certificates: []tls.Certificate{x.cert}, MinVersion: version, MaxVersion: version})
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			require.NoError(f, client.Handshake())
			require.NoError(f, <-done)
			fromClient, fromServer = append(fromClient, wire.Written()), append(fromServer, serverWire.Written())
			client.Close()
			server.Close()
		}
	}
	return fromClient, fromServer
}

// failUnexpected fails a test with an error that no input may cause.
func failUnexpected(t *testing.T, p tlsapi.Provider, err error) {
	t.Helper()
	var e *tlsapi.Error
	switch {
	case err == nil, err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
	case !errors.As(err, &e):
		t.Errorf("%s: an error without a kind: %v", p.Name(), err)
	case e.Kind == tlsapi.KindInternal, e.Kind == tlsapi.KindConfig, e.Kind == tlsapi.KindUnsupported:
		t.Errorf("%s: %v", p.Name(), err)
	}
}

// promptly runs f and fails the test when it hangs.
func promptly(t *testing.T, p tlsapi.Provider, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs:\n%s", p.Name(), stacks[:runtime.Stack(stacks, true)])
	}
}

// fed runs the handshake of an end whose peer sends the input and closes.
func (x *fuzzFixtures) fed(t *testing.T, p tlsapi.Provider, client bool, input []byte) (answer []byte, err error) {
	t.Helper()
	wire, peer := tlstest.Pipe()
	peer.SetCapacity(len(input) + 1)
	_, writeErr := peer.Write(input)
	require.NoError(t, writeErr)
	peer.Close()
	promptly(t, p, func() {
		var conn tlsapi.Conn
		if client {
			c := x.clientConfig()
			settings(p, &c.Settings)
			conn, err = p.Client(wire, c)
		} else {
			c := x.serverConfig()
			settings(p, &c.Settings)
			conn, err = p.Server(wire, c)
		}
		if err != nil {
			t.Errorf("%s: %v", p.Name(), err)
			return
		}
		err = conn.Handshake()
		conn.Close()
		// On a busy machine the alert goes out in the background.
		<-wire.Closed()
	})
	return wire.Written(), err
}

// FuzzServerFlight gives clients what a server might send.
func FuzzServerFlight(f *testing.F) {
	x := newFuzzFixtures(f)
	_, fromServer := x.flights(f)
	addSeeds(f, fromServer, corpus("s2n_client_fuzz_test", nil))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, p := range x.providers {
			_, err := x.fed(t, p, true, input)
			if err == nil {
				t.Errorf("%s: a handshake with a replay succeeds", p.Name())
			}
			failUnexpected(t, p, err)
		}
	})
}

// FuzzClientFlight gives servers what a client might send.
func FuzzClientFlight(f *testing.F) {
	x := newFuzzFixtures(f)
	fromClient, _ := x.flights(f)
	addSeeds(f, fromClient, corpus("s2n_server_fuzz_test", nil))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, p := range x.providers {
			_, err := x.fed(t, p, false, input)
			if err == nil {
				t.Errorf("%s: a handshake with a replay succeeds", p.Name())
			}
			failUnexpected(t, p, err)
		}
	})
}

// FuzzAfterHandshake gives both ends of an established connection what the
// network might make of it.
func FuzzAfterHandshake(f *testing.F) {
	x := newFuzzFixtures(f)
	record := func(kind byte, payload ...byte) []byte {
		return append([]byte{kind, 3, 3, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	}
	for _, client := range []bool{false, true} {
		for _, tls13 := range []bool{false, true} {
			f.Add(client, tls13, record(23, make([]byte, 40)...))
			f.Add(client, tls13, record(21, 1, 0))
			f.Add(client, tls13, record(22, 0, 0, 0, 0))
			f.Add(client, tls13, record(20, 1))
			f.Add(client, tls13, append(record(23), record(23)...))
		}
	}
	f.Fuzz(func(t *testing.T, client, tls13 bool, input []byte) {
		version := uint16(tls.VersionTLS12)
		if tls13 {
			version = tls.VersionTLS13
		}
		for _, p := range x.providers {
			promptly(t, p, func() { x.injected(t, p, client, version, input) })
		}
	})
}

func (x *fuzzFixtures) injected(t *testing.T, p tlsapi.Provider, client bool, version uint16, input []byte) {
	wire, peerWire := tlstest.Pipe()
	var conn tlsapi.Conn
	var peer *tls.Conn
	var err error
	if client {
		c := x.clientConfig()
		settings(p, &c.Settings)
		conn, err = p.Client(wire, c)
		peer = tls.Server(peerWire, &tls.Config{Certificates: []tls.Certificate{x.cert}, MinVersion: version, MaxVersion: version})
	} else {
		c := x.serverConfig()
		settings(p, &c.Settings)
		conn, err = p.Server(wire, c)
		peer = tls.Client(peerWire, &tls.Config{ServerName: fuzzHost, RootCAs: tlstest.X509Pool(x.ca), MinVersion: version, MaxVersion: version})
	}
	if err != nil {
		t.Errorf("%s: %v", p.Name(), err)
		return
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() { done <- peer.Handshake() }()
	if err := errors.Join(conn.Handshake(), <-done); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
		return
	}
	peerWire.SetCapacity(len(input) + 1<<16)
	if _, err := peerWire.Write(input); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
	peerWire.Close()
	got, err := io.ReadAll(conn)
	if len(got) > 0 || err == nil {
		t.Errorf("%s: %q was taken from bytes that nobody encrypted, %v", p.Name(), got, err)
	}
	failUnexpected(t, p, err)
	_, err = conn.Write([]byte("x"))
	failUnexpected(t, p, err)
}

// fixedCache gives the same session for every key.
type fixedCache struct{ session []byte }

func (c *fixedCache) Get(string) []byte          { return bytes.Clone(c.session) }
func (c *fixedCache) Put(_ string, value []byte) {}

// keepingCache keeps the last session.
type keepingCache struct {
	mu      sync.Mutex
	session []byte
}

func (c *keepingCache) Get(string) []byte { return nil }
func (c *keepingCache) Put(_ string, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = bytes.Clone(value)
}

// FuzzSession gives clients sessions that their caches never had, and servers
// tickets that they never made.
func FuzzSession(f *testing.F) {
	x := newFuzzFixtures(f)
	for _, seed := range corpus("s2n_deserialize_resumption_state_test", nil) {
		f.Add(seed)
	}
	for _, p := range x.providers {
		kept := &keepingCache{}
		c := x.clientConfig()
		settings(p, &c.Settings)
		c.SessionCache = kept
		x.exchange(f, p, c, nil)
		f.Add(kept.session)
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0x5a}, 300))
	f.Fuzz(func(t *testing.T, session []byte) {
		for _, p := range x.providers {
			promptly(t, p, func() {
				c := x.clientConfig()
				settings(p, &c.Settings)
				c.SessionCache = &fixedCache{session}
				x.exchange(t, p, c, nil)
				x.exchange(t, p, nil, session)
			})
		}
	})
}

// exchange makes a connection and echoes one message, with p as the client, or
// as the server to a client with that ticket. It must succeed whatever session
// is offered.
func (x *fuzzFixtures) exchange(t testing.TB, p tlsapi.Provider, client *tlsapi.ClientConfig, ticket []byte) {
	wire, serverWire := tlstest.Pipe()
	var c, s net2
	var err error
	if client != nil {
		c, err = p.Client(wire, client)
		s = tls.Server(serverWire, &tls.Config{Certificates: []tls.Certificate{x.cert}})
	} else {
		config := x.serverConfig()
		settings(p, &config.Settings)
		s, err = p.Server(serverWire, config)
		c = tls.Client(wire, &tls.Config{ServerName: fuzzHost, RootCAs: tlstest.X509Pool(x.ca), ClientSessionCache: x.ticketCache(t, ticket)})
	}
	if err != nil {
		t.Errorf("%s: %v", p.Name(), err)
		return
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(s, s, 1)
		done <- err
	}()
	_, err = c.Write([]byte{1})
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err != nil {
		c.Close()
	}
	if err := errors.Join(err, <-done); err != nil {
		t.Errorf("%s: %v", p.Name(), err)
	}
	c.Close()
	s.Close()
}

type net2 interface {
	io.ReadWriteCloser
	Handshake() error
}

// ticketCache gives crypto/tls's client a session with another ticket.
func (x *fuzzFixtures) ticketCache(t testing.TB, ticket []byte) tls.ClientSessionCache {
	if len(ticket) == 0 || len(ticket) > 1<<15 {
		return nil
	}
	return &forgedTicket{ca: x, ticket: ticket}
}

type forgedTicket struct {
	ca     *fuzzFixtures
	ticket []byte
}

// sessionState is of a connection of crypto/tls with itself.
func (x *fuzzFixtures) sessionState() (*tls.SessionState, error) {
	wire, serverWire := tlstest.Pipe()
	cache := tls.NewLRUClientSessionCache(1)
	client := tls.Client(wire, &tls.Config{ServerName: fuzzHost, RootCAs: tlstest.X509Pool(x.ca), ClientSessionCache: cache})
	server := tls.Server(serverWire, &tls.Config{Certificates: []tls.Certificate{x.cert}})
	go func() {
		_, _ = io.CopyN(server, server, 1)
		server.Close()
	}()
	if _, err := client.Write([]byte{1}); err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, client)
	client.Close()
	session, ok := cache.Get(fuzzHost)
	if !ok {
		return nil, errors.New("crypto/tls kept no session")
	}
	_, state, err := session.ResumptionState()
	return state, err
}

var (
	fuzzStateOnce sync.Once
	fuzzState     []byte
)

func (c *forgedTicket) Get(string) (*tls.ClientSessionState, bool) {
	fuzzStateOnce.Do(func() {
		if state, err := c.ca.sessionState(); err == nil {
			fuzzState, _ = state.Bytes()
		}
	})
	// Each session is one of its own: crypto/tls writes to it.
	state, err := tls.ParseSessionState(fuzzState)
	if err != nil {
		return nil, false
	}
	session, err := tls.NewResumptionState(c.ticket, state)
	return session, err == nil
}

func (c *forgedTicket) Put(string, *tls.ClientSessionState) {}

// FuzzCertificates gives configurations certificates and keys in PEM and DER.
func FuzzCertificates(f *testing.F) {
	x := newFuzzFixtures(f)
	f.Add(tlstest.CertificatePEM(x.cert), tlstest.KeyPEM(f, x.cert))
	f.Add(x.ca.PEM(), []byte{})
	f.Add(x.cert.Certificate[0], x.cert.Certificate[0])
	for _, seed := range append(corpus("s2n_openssl_diff_pem_parsing_test", nil), corpus("s2n_stuffer_pem_fuzz_test", nil)...) {
		f.Add(seed, tlstest.KeyPEM(f, x.cert))
	}
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		_ = tlsapi.NewCertPool().AddPEM(cert)
		pair, pairErr := tls.X509KeyPair(cert, key)
		// What is DER to one is PEM to another.
		der := cert
		if block, _ := pem.Decode(cert); block != nil {
			der = block.Bytes
		}
		parsed, parseErr := x509.ParseCertificate(der)
		for _, p := range x.providers {
			wire, _ := tlstest.Pipe()
			server := x.serverConfig()
			settings(p, &server.Settings)
			if pairErr == nil {
				server.Certificates = []tls.Certificate{pair}
			} else {
				server.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: x.cert.PrivateKey}}
			}
			conn, err := p.Server(wire, server)
			var e *tlsapi.Error
			switch {
			case err == nil:
				conn.Close()
			case !errors.As(err, &e), e.Kind == tlsapi.KindInternal:
				t.Errorf("%s: %v", p.Name(), err)
			}
			if parseErr != nil {
				continue
			}
			client := x.clientConfig()
			settings(p, &client.Settings)
			client.RootCAs = tlsapi.NewCertPool()
			client.RootCAs.AddCert(parsed)
			conn, err = p.Client(wire, client)
			switch {
			case err == nil:
				conn.Close()
			case !errors.As(err, &e), e.Kind == tlsapi.KindInternal:
				t.Errorf("%s: %v", p.Name(), err)
			}
		}
	})
}

// FuzzClientHello gives the same ClientHello to every provider and compares who
// accepts it. Each pair of one that accepts and one that refuses, with its alert,
// is classified once in testdata/clienthello.txt: with POLYTLS_FUZZ_RECORD in the
// environment those that are not go to that file, with an example.
func FuzzClientHello(f *testing.F) {
	x := newFuzzFixtures(f)
	if len(x.providers) < 4 {
		f.Skipf("%d of 4 providers are built in", len(x.providers))
	}
	fromClient, _ := x.flights(f)
	hello := func(body []byte) []byte {
		message := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
		return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
	}
	var variants [][]byte
	for _, flight := range fromClient {
		variants = append(variants, helloVariants(f, flight)...)
	}
	addSeeds(f, fromClient, variants, corpus("s2n_client_hello_recv_fuzz_test", hello))
	text, err := os.ReadFile(filepath.Join("testdata", "clienthello.txt"))
	require.NoError(f, err)
	known := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			known[words[0]] = true
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		records, _ := tlstest.ParseRecords(input)
		if len(records) == 0 || len(records[0].Payload) < 4 {
			return
		}
		// The first record alone: what is behind it is another matter.
		input = input[:5+len(records[0].Payload)]
		var accepted, refused []string
		for _, p := range x.providers {
			answer, _ := x.fed(t, p, false, input)
			switch {
			case len(answer) > 0 && answer[0] == tlstest.RecordHandshake:
				accepted = append(accepted, p.Name())
			case len(answer) == 7 && answer[0] == tlstest.RecordAlert:
				refused = append(refused, fmt.Sprintf("%s:%d", p.Name(), answer[6]))
			default:
				refused = append(refused, p.Name()+":-")
			}
		}
		for _, one := range accepted {
			for _, other := range refused {
				classified(t, known, one+"/"+other, input)
			}
		}
	})
}

// classified fails a test for a pair of providers that differ about an input, or
// records it, when testdata/clienthello.txt does not say why they do.
func classified(t *testing.T, known map[string]bool, pair string, input []byte) {
	if known[pair] {
		return
	}
	path := os.Getenv("POLYTLS_FUZZ_RECORD")
	if path == "" {
		t.Errorf("%s: one accepts and the other refuses, and testdata/clienthello.txt does not say why", pair)
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	fmt.Fprintf(file, "%s: %x\n", pair, input)
	require.NoError(t, file.Close())
}

// helloVariants returns what a ClientHello becomes when a field or an extension
// is left out, comes twice, loses its end or gets a byte too many; all lengths
// around it are right.
func helloVariants(f testing.TB, flight []byte) (list [][]byte) {
	records, _ := tlstest.ParseRecords(flight)
	require.NotEmpty(f, records)
	s := cryptobyte.String(records[0].Payload)
	var version uint16
	var random []byte
	var body, session, suites, compression, extensions cryptobyte.String
	require.True(f, s.Skip(1) && s.ReadUint24LengthPrefixed(&body) && body.ReadUint16(&version) && body.ReadBytes(&random, 32) &&
		body.ReadUint8LengthPrefixed(&session) && body.ReadUint16LengthPrefixed(&suites) &&
		body.ReadUint8LengthPrefixed(&compression) && body.ReadUint16LengthPrefixed(&extensions))
	type extension struct {
		id   uint16
		body []byte
	}
	var all []extension
	for !extensions.Empty() {
		var e extension
		var content cryptobyte.String
		require.True(f, extensions.ReadUint16(&e.id) && extensions.ReadUint16LengthPrefixed(&content))
		e.body = content
		all = append(all, e)
	}
	add := func(version uint16, session, suites, compression []byte, extensions []extension) {
		var b cryptobyte.Builder
		b.AddUint8(tlstest.RecordHandshake)
		b.AddUint16(0x0301)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(1)
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16(version)
				b.AddBytes(random)
				b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(session) })
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(suites) })
				b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(compression) })
				if extensions == nil {
					return
				}
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
					for _, e := range extensions {
						b.AddUint16(e.id)
						b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.body) })
					}
				})
			})
		})
		if out, err := b.Bytes(); err == nil {
			list = append(list, out)
		}
	}
	with := func(i int, replacement ...extension) []extension {
		return append(append(slices.Clone(all[:i]), replacement...), all[i+1:]...)
	}
	for i, e := range all {
		add(version, session, suites, compression, with(i))
		add(version, session, suites, compression, with(i, e, e))
		add(version, session, suites, compression, with(i, extension{e.id, append(slices.Clone(e.body), 0)}))
		add(version, session, suites, compression, with(i, extension{e.id, nil}))
		if len(e.body) > 0 {
			add(version, session, suites, compression, with(i, extension{e.id, e.body[:len(e.body)-1]}))
		}
	}
	unknown := append(slices.Clone(all), extension{0x0a0a, nil}, extension{0xfff1, []byte{1, 2, 3}})
	add(version, session, suites, compression, unknown)
	add(version, session, suites, compression, []extension{})
	add(version, session, suites, compression, nil)
	for _, v := range []uint16{0, 0x0200, 0x0300, 0x0301, 0x0302, 0x0304, 0x0305, 0x7f1c, 0xfefd, 0xffff} {
		add(v, session, suites, compression, all)
	}
	for _, v := range [][]byte{nil, {1}, bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, 33), bytes.Repeat([]byte{1}, 255)} {
		add(version, v, suites, compression, all)
	}
	for _, v := range [][]byte{nil, {1}, {0, 1}, {1, 0}, {0, 0}} {
		add(version, session, suites, v, all)
	}
	for _, v := range [][]byte{nil, {0x13}, suites[:2], append(slices.Clone(suites), 0x13), append(slices.Clone(suites), 0x56, 0),
		append(slices.Clone(suites), 0, 0xff), bytes.Repeat(suites, 8)} {
		add(version, session, v, compression, all)
	}
	return list
}

// addSeeds adds captured flights and what came out of a corpus.
func addSeeds(f *testing.F, lists ...[][]byte) {
	f.Add([]byte{})
	for _, list := range lists {
		for _, seed := range list {
			f.Add(seed)
		}
	}
}

// corpus returns the files of a folder of s2n's fuzz corpus, out of the source
// package that the native build has fetched; none where it was built from
// something else. It is every twentieth, or all with POLYTLS_FUZZ_SEEDS=all in the
// environment. wrap may change each.
func corpus(folder string, wrap func([]byte) []byte) (seeds [][]byte) {
	base := os.Getenv("POLYTLS_CACHE")
	if base == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		base = filepath.Join(cache, "polytls")
	}
	archives, _ := filepath.Glob(filepath.Join(base, "downloads", "aws-crt-python_*.orig.tar.gz"))
	if len(archives) == 0 {
		return nil
	}
	file, err := os.Open(archives[len(archives)-1])
	if err != nil {
		return nil
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return nil
	}
	step := 20
	if os.Getenv("POLYTLS_FUZZ_SEEDS") == "all" {
		step = 1
	}
	entries := tar.NewReader(unzipped)
	for i := 0; ; {
		entry, err := entries.Next()
		if err != nil {
			return seeds
		}
		if entry.Typeflag != tar.TypeReg || !strings.Contains(entry.Name, "/crt/s2n/tests/fuzz/corpus/"+folder+"/") || entry.Size > 1<<16 {
			continue
		}
		if i++; i%step != 0 {
			continue
		}
		content, err := io.ReadAll(entries)
		if err != nil {
			return seeds
		}
		if wrap != nil {
			content = wrap(content)
		}
		seeds = append(seeds, content)
	}
}
