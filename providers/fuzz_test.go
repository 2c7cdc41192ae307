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
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// The targets feed bytes to every provider that is compiled in. `go test` runs
// the seeds; `make fuzz` goes on from there.

// fuzzFixtures are what all targets share in a process. Configurations are made
// once: what they come to would be worked out anew for each.
type fuzzFixtures struct {
	providers []tlsapi.Provider
	ca        *tlstest.Authority
	cert      tls.Certificate
	clients   map[string]*tlsapi.ClientConfig
	servers   map[string]*tlsapi.ServerConfig
}

func newFuzzFixtures(f testing.TB) *fuzzFixtures {
	x := &fuzzFixtures{
		ca:      tlstest.NewAuthority(f, tlstest.Spec{CommonName: "Fuzz CA"}),
		clients: make(map[string]*tlsapi.ClientConfig),
		servers: make(map[string]*tlsapi.ServerConfig),
	}
	x.cert = x.ca.Leaf(f, tlstest.Spec{CommonName: fuzzHost, DNSNames: []string{fuzzHost}})
	for _, p := range providers.All() {
		if p.Available() == nil {
			x.providers = append(x.providers, p)
			x.clients[p.Name()], x.servers[p.Name()] = x.clientConfig(p), x.serverConfig(p)
		}
	}
	return x
}

const fuzzHost = "server.example"

func (x *fuzzFixtures) clientConfig(p tlsapi.Provider) *tlsapi.ClientConfig {
	c := &tlsapi.ClientConfig{ServerName: fuzzHost, RootCAs: tlstest.Pool(x.ca)}
	c.MaxBlindingDelay = noBlinding(p)
	return c
}

func (x *fuzzFixtures) serverConfig(p tlsapi.Provider) *tlsapi.ServerConfig {
	c := &tlsapi.ServerConfig{Certificates: []tls.Certificate{x.cert}}
	c.MaxBlindingDelay = noBlinding(p)
	return c
}

// noBlinding is the MaxBlindingDelay that takes the delay away where the provider
// has one.
func noBlinding(p tlsapi.Provider) time.Duration {
	if p.Name() == "std" {
		return 0
	}
	return -1
}

// peerGroups spare the other end, crypto/tls, the work for a post-quantum share.
// The certificate's key is on the second.
var peerGroups = []tls.CurveID{tls.X25519, tls.CurveP256}

func (x *fuzzFixtures) peerServer(version uint16) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{x.cert}, MinVersion: version, MaxVersion: version, CurvePreferences: peerGroups}
}

func (x *fuzzFixtures) peerClient(version uint16) *tls.Config {
	return &tls.Config{ServerName: fuzzHost, RootCAs: tlstest.X509Pool(x.ca), MinVersion: version, MaxVersion: version, CurvePreferences: peerGroups}
}

// flights returns what the two ends of a handshake of std and each provider
// send.
func (x *fuzzFixtures) flights(f testing.TB) (fromClient, fromServer [][]byte) {
	for _, p := range x.providers {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			wire, serverWire := tlstest.Pipe()
			client, err := p.Client(wire, x.clients[p.Name()])
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
func failUnexpected(t testing.TB, p tlsapi.Provider, err error) {
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
func promptly(t testing.TB, p tlsapi.Provider, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	if _, ok := uptime.Receive(done, time.Minute); !ok {
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs:\n%s", p.Name(), stacks[:runtime.Stack(stacks, true)])
	}
}

// fed runs the handshake of an end whose peer sends the input and closes.
func fed(t testing.TB, p tlsapi.Provider, open func(wire net.Conn) (tlsapi.Conn, error), input []byte) (answer []byte, err error) {
	t.Helper()
	wire, peer := tlstest.Pipe()
	peer.SetCapacity(len(input) + 1)
	_, writeErr := peer.Write(input)
	require.NoError(t, writeErr)
	peer.Close()
	promptly(t, p, func() {
		var conn tlsapi.Conn
		if conn, err = open(wire); err != nil {
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

func (x *fuzzFixtures) fedClient(t testing.TB, p tlsapi.Provider, input []byte) (answer []byte, err error) {
	t.Helper()
	return fed(t, p, func(wire net.Conn) (tlsapi.Conn, error) { return p.Client(wire, x.clients[p.Name()]) }, input)
}

func (x *fuzzFixtures) fedServer(t testing.TB, p tlsapi.Provider, input []byte) (answer []byte, err error) {
	t.Helper()
	return fed(t, p, func(wire net.Conn) (tlsapi.Conn, error) { return p.Server(wire, x.servers[p.Name()]) }, input)
}

// FuzzServerFlight gives clients what a server might send.
func FuzzServerFlight(f *testing.F) {
	x := newFuzzFixtures(f)
	_, fromServer := x.flights(f)
	addSeeds(f, fromServer, corpus(f, "s2n_client_fuzz_test", nil))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, p := range x.providers {
			_, err := x.fedClient(t, p, input)
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
	addSeeds(f, fromClient, corpus(f, "s2n_server_fuzz_test", nil))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, p := range x.providers {
			_, err := x.fedServer(t, p, input)
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
	peers := make(map[bool]map[bool]*tls.Config)
	for _, client := range []bool{false, true} {
		peer := x.peerClient
		if client {
			peer = x.peerServer
		}
		peers[client] = map[bool]*tls.Config{false: peer(tls.VersionTLS12), true: peer(tls.VersionTLS13)}
		for _, config := range peers[client] {
			config.InsecureSkipVerify = true // Verifying takes long, and is not what is tested.
		}
	}
	f.Fuzz(func(t *testing.T, client, tls13 bool, input []byte) {
		for _, p := range x.providers {
			promptly(t, p, func() { x.injected(t, p, client, peers[client][tls13], input) })
		}
	})
}

func (x *fuzzFixtures) injected(t *testing.T, p tlsapi.Provider, client bool, config *tls.Config, input []byte) {
	wire, peerWire := tlstest.Pipe()
	var conn tlsapi.Conn
	var peer *tls.Conn
	var err error
	if client {
		conn, err = p.Client(wire, x.clients[p.Name()])
		peer = tls.Server(peerWire, config)
	} else {
		conn, err = p.Server(wire, x.servers[p.Name()])
		peer = tls.Client(peerWire, config)
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

// FuzzCertificates gives configurations certificates and keys in PEM and DER.
func FuzzCertificates(f *testing.F) {
	x := newFuzzFixtures(f)
	f.Add(tlstest.CertificatePEM(x.cert), tlstest.KeyPEM(f, x.cert))
	f.Add(x.ca.PEM(), []byte{})
	f.Add(x.cert.Certificate[0], x.cert.Certificate[0])
	for _, seed := range append(corpus(f, "s2n_openssl_diff_pem_parsing_test", nil), corpus(f, "s2n_stuffer_pem_fuzz_test", nil)...) {
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
			server := x.serverConfig(p)
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
			client := x.clientConfig(p)
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
// environment those that are not go to that file, with a few examples.
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
	addSeeds(f, fromClient, variants, corpus(f, "s2n_client_hello_recv_fuzz_test", hello))
	text, err := os.ReadFile(filepath.Join("testdata", "clienthello.txt"))
	require.NoError(f, err)
	known, recorded := make(map[string]bool), make(map[string]int)
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
			answer, _ := x.fedServer(t, p, input)
			switch alert, ok := alertIn(answer); {
			case ok:
				refused = append(refused, fmt.Sprintf("%s:%d", p.Name(), alert))
			case len(answer) > 0:
				accepted = append(accepted, p.Name())
			default:
				refused = append(refused, p.Name()+":-")
			}
		}
		for _, one := range accepted {
			for _, other := range refused {
				classified(t, known, recorded, one+"/"+other, input)
			}
		}
	})
}

// alertIn returns the alert in the clear that ends what a server has sent. It may
// come behind messages: some find out late that they cannot go on.
func alertIn(answer []byte) (alert byte, ok bool) {
	records, _ := tlstest.ParseRecords(answer)
	for _, r := range records {
		if r.Type == tlstest.RecordAlert && len(r.Payload) == 2 {
			return r.Payload[1], true
		}
	}
	return 0, false
}

// classified fails a test for a pair of providers that differ about an input, or
// records it, when testdata/clienthello.txt does not say why they do.
func classified(t *testing.T, known map[string]bool, recorded map[string]int, pair string, input []byte) {
	const examples = 8
	if known[pair] || recorded[pair] == examples {
		return
	}
	path := os.Getenv("POLYTLS_FUZZ_RECORD")
	if path == "" {
		t.Errorf("%s: one accepts and the other refuses, and testdata/clienthello.txt does not say why", pair)
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	recorded[pair]++
	fmt.Fprintf(file, "%s: %x\n", pair, input)
	require.NoError(t, file.Close())
}

// rawHello is a ClientHello whose parts can be changed; all lengths around them
// are right when it is put together again.
type rawHello struct {
	version                              uint16
	random, session, suites, compression []byte
	extensions                           []rawExtension
}

type rawExtension struct {
	id   uint16
	body []byte
}

// splitHello reads the ClientHello that a client's first record holds; false when
// it is not whole.
func splitHello(flight []byte) (h rawHello, ok bool) {
	records, _ := tlstest.ParseRecords(flight)
	if len(records) == 0 {
		return h, false
	}
	s := cryptobyte.String(records[0].Payload)
	var body, session, suites, compression, extensions cryptobyte.String
	if !s.Skip(1) || !s.ReadUint24LengthPrefixed(&body) || !body.ReadUint16(&h.version) || !body.ReadBytes(&h.random, 32) ||
		!body.ReadUint8LengthPrefixed(&session) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&compression) || !body.ReadUint16LengthPrefixed(&extensions) {
		return h, false
	}
	h.session, h.suites, h.compression = session, suites, compression
	for !extensions.Empty() {
		var e rawExtension
		var content cryptobyte.String
		if !extensions.ReadUint16(&e.id) || !extensions.ReadUint16LengthPrefixed(&content) {
			return h, false
		}
		e.body = content
		h.extensions = append(h.extensions, e)
	}
	return h, true
}

// record returns the record that holds the ClientHello, without a field for
// extensions where they are nil; false when it is too large.
func (h rawHello) record() ([]byte, bool) {
	var b cryptobyte.Builder
	b.AddUint8(tlstest.RecordHandshake)
	b.AddUint16(0x0301)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(1)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(h.version)
			b.AddBytes(h.random)
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.session) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.suites) })
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.compression) })
			if h.extensions == nil {
				return
			}
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				for _, e := range h.extensions {
					b.AddUint16(e.id)
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.body) })
				}
			})
		})
	})
	record, err := b.Bytes()
	return record, err == nil && len(record) <= 5+1<<14
}

// helloVariants returns what a ClientHello becomes when a field or an extension
// is left out, comes twice, loses its end or gets a byte too many.
func helloVariants(f testing.TB, flight []byte) (list [][]byte) {
	original, ok := splitHello(flight)
	require.True(f, ok)
	all, suites := original.extensions, original.suites
	add := func(change func(h *rawHello)) {
		h := original
		change(&h)
		if record, ok := h.record(); ok {
			list = append(list, record)
		}
	}
	for i, e := range all {
		with := func(replacement ...rawExtension) {
			add(func(h *rawHello) { h.extensions = slices.Concat(all[:i], replacement, all[i+1:]) })
		}
		with()
		with(e, e)
		with(rawExtension{e.id, append(slices.Clone(e.body), 0)})
		with(rawExtension{e.id, nil})
		if len(e.body) > 0 {
			with(rawExtension{e.id, e.body[:len(e.body)-1]})
		}
	}
	unknown := []rawExtension{{0x0a0a, nil}, {0xfff1, []byte{1, 2, 3}}}
	for _, v := range [][]rawExtension{slices.Concat(all, unknown), {}, nil} {
		add(func(h *rawHello) { h.extensions = v })
	}
	for _, v := range []uint16{0, 0x0200, 0x0300, 0x0301, 0x0302, 0x0304, 0x0305, 0x7f1c, 0xfefd, 0xffff} {
		add(func(h *rawHello) { h.version = v })
	}
	for _, v := range [][]byte{nil, {1}, bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, 33), bytes.Repeat([]byte{1}, 255)} {
		add(func(h *rawHello) { h.session = v })
	}
	for _, v := range [][]byte{nil, {1}, {0, 1}, {1, 0}, {0, 0}} {
		add(func(h *rawHello) { h.compression = v })
	}
	for _, v := range [][]byte{nil, {0x13}, suites[:2], append(slices.Clone(suites), 0x13), append(slices.Clone(suites), 0x56, 0),
		append(slices.Clone(suites), 0, 0xff), bytes.Repeat(suites, 8)} {
		add(func(h *rawHello) { h.suites = v })
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
func corpus(f testing.TB, folder string, wrap func([]byte) []byte) (seeds [][]byte) {
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
		if err == io.EOF && i == 0 {
			f.Fatalf("s2n's corpus has no folder %s", folder)
		}
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
