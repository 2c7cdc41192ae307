package providers_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/internal/records"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// attackOf is set for the process that attacks: to the attack, a comma, the
// address of the server, a comma, and how many half-open peers it shall be.
const attackOf = "POLYTLS_ATTACK"

// target is a server that good clients and attackers connect to.
type target struct {
	t        *testing.T
	provider tlsapi.Provider
	client   *tlsapi.ClientConfig
	listener net.Listener
	served   sync.WaitGroup
}

func newTarget(t *testing.T, p tlsapi.Provider) *target {
	f := newFuzzFixtures(t)
	x := &target{t: t, provider: p}
	x.client = f.clientConfig(p)
	server := f.serverConfig(p)
	var err error
	x.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x.served.Go(func() {
		for {
			c, err := x.listener.Accept()
			if err != nil {
				return
			}
			x.served.Go(func() {
				conn, err := p.Server(c, server)
				if err != nil {
					t.Error(err)
					c.Close()
					return
				}
				// What attackers cause is the server's error here.
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	return x
}

func (x *target) stop() {
	require.NoError(x.t, x.listener.Close())
	x.served.Wait()
}

// good makes good connections one after the other, at least so many and for so
// long, and returns how long each has taken.
func (x *target) good(count int, length time.Duration) []time.Duration {
	var times []time.Duration
	for end := time.Now().Add(length); len(times) < count || time.Now().Before(end); {
		begin := time.Now()
		c, err := net.Dial("tcp", x.listener.Addr().String())
		require.NoError(x.t, err)
		client, err := x.provider.Client(c, x.client)
		require.NoError(x.t, err)
		require.NoError(x.t, roundTrip(client))
		require.NoError(x.t, client.Close())
		times = append(times, time.Since(begin))
	}
	return times
}

// attackers are in a process of their own.
type attackers struct {
	t       *testing.T
	address string
	// state is of a session of crypto/tls, for forged tickets.
	state   []byte
	stopped atomic.Bool
}

// reference is crypto/tls's client. Attackers do not look who they attack.
func (x *attackers) reference() *tls.Config {
	return &tls.Config{ServerName: fuzzHost, InsecureSkipVerify: true}
}

// attacks are what an attacker does again and again. The first leaves the server
// alone: what good clients lose by it is what the machine takes, which they share
// with the attackers.
var attacks = []struct {
	name string
	once func(x *attackers, c net.Conn)
}{
	{"bytes to each other", func(_ *attackers, _ net.Conn) { talkToOthers() }},
	{"empty records, TLS 1.2", floodWith(tls.VersionTLS12, func(k *records.Keys) []byte { return k.Record(records.ApplicationData, nil) })},
	{"empty records, TLS 1.3", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.Record(records.ApplicationData, nil) })},
	{"warnings", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.Record(records.Alert, []byte{1, 90}) })},
	{"key updates", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.KeyUpdate(false) })},
	{"requests for key updates", floodWith(tls.VersionTLS13, func(k *records.Keys) []byte { return k.KeyUpdate(true) })},
	{"renegotiations", floodWith(tls.VersionTLS12, func(k *records.Keys) []byte {
		hello := append([]byte{1, 0, 0, 43, 3, 3}, make([]byte, 32)...)
		return k.Record(records.Handshake, append(hello, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0))
	})},
	{"a ClientHello of 16 MiB", func(_ *attackers, c net.Conn) { hugeHello(c) }},
	{"tickets from elsewhere", func(x *attackers, c net.Conn) {
		config := x.reference()
		ticket := make([]byte, 12000)
		_, _ = rand.Read(ticket)
		config.ClientSessionCache = &forgedTicket{state: x.state, ticket: ticket}
		client := tls.Client(c, config)
		_, _ = client.Write([]byte("x"))
		_, _ = client.Read(make([]byte, 1))
	}},
	{"garbage", func(_ *attackers, c net.Conn) {
		junk := make([]byte, 20000)
		_, _ = rand.Read(junk)
		_, _ = c.Write(junk)
	}},
}

// transcript keeps what a connection receives first.
type transcript struct {
	net.Conn
	received []byte
}

func (c *transcript) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.received) < 1<<12 {
		c.received = append(c.received, p[:n]...)
	}
	return n, err
}

// floodWith makes a connection and sends such records without end, and reads
// nothing.
func floodWith(version uint16, record func(*records.Keys) []byte) func(*attackers, net.Conn) {
	return func(x *attackers, c net.Conn) {
		var log bytes.Buffer
		config := x.reference()
		config.MinVersion, config.MaxVersion, config.KeyLogWriter = version, version, &log
		seen := &transcript{Conn: c}
		client := tls.Client(seen, config)
		if client.Handshake() != nil {
			return
		}
		keys, err := records.FromKeyLog(version, client.ConnectionState().CipherSuite, strings.Split(log.String(), "\n"), seen.received, true)
		if err != nil {
			x.t.Error(err)
			return
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		for range 500 {
			var out []byte
			for range 100 {
				out = append(out, record(keys)...)
			}
			if _, err := c.Write(out); err != nil || x.stopped.Load() {
				return
			}
		}
	}
}

// talkToOthers sends to somebody who takes everything, for as long as floodWith
// does at most.
func talkToOthers() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return
	}
	var taker sync.WaitGroup
	taker.Go(func() {
		_, _ = io.Copy(io.Discard, in)
		in.Close()
	})
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		_, _ = out.Write(make([]byte, 2700))
	}
	out.Close()
	taker.Wait()
}

// hugeHello sends a ClientHello that says it has 16 MiB, until nobody takes it.
func hugeHello(c net.Conn) (sent int) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	fragment := append([]byte{records.Handshake, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
	copy(fragment[5:], []byte{1, 0xff, 0xff, 0xff, 3, 3})
	for range 1024 {
		n, err := c.Write(fragment)
		sent += n
		if err != nil {
			break
		}
		copy(fragment[5:], make([]byte, 6))
	}
	return sent
}

// TestAttackers lets good clients connect while attackers do what they can: all
// of them are served, and how much slower than without attackers is reported.
// Attackers would have computers of their own: they have a process of their own
// here, and the processors' time that server and good clients leave.
func TestAttackers(t *testing.T) {
	if order := os.Getenv(attackOf); order != "" {
		attack(t, order)
		return
	}
	leftover.Check(t)
	count := max(20, int(soakScale(t)*1000))
	if testing.Short() {
		count = 5
	}
	halfOpen := withDescriptors(t, max(50, int(soakScale(t)*5000)), 1)
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		x := newTarget(t, p)
		defer x.stop()
		length := time.Duration(soakScale(t) * float64(5*time.Second))
		x.good(20, 0)
		idle := x.good(count, length)
		t.Logf("%s: good connections without attackers: median %v, p99 %v", p.Name(), microseconds(idle, 50), microseconds(idle, 99))
		for _, a := range attacks {
			t.Run(a.name, func(t *testing.T) { x.attacked(t, a.name, 0, idle, length) })
		}
		t.Run(halfOpenPeers, func(t *testing.T) { x.attacked(t, halfOpenPeers, halfOpen, idle, length) })
	})
}

// halfOpenPeers is the attack of peers that say nothing, or a byte now and then.
const halfOpenPeers = "half-open peers"

func microseconds(times []time.Duration, percent int) time.Duration {
	return percentile(times, percent).Round(10 * time.Microsecond)
}

// attacked makes good connections beside an attack, for as long as they were made
// without, and at least half as many.
func (x *target) attacked(t *testing.T, name string, halfOpen int, idle []time.Duration, length time.Duration) {
	before, threads := resident(t), threadsOf(t)
	process := exec.Command(os.Args[0], "-test.run=^TestAttackers$", "-test.v", "-test.timeout=0")
	process.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", attackOf, name, x.listener.Addr(), halfOpen))
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output strings.Builder
	process.Stderr = os.Stderr
	stop, err := process.StdinPipe()
	require.NoError(t, err)
	said, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	lines := bufio.NewScanner(said)
	ended := sync.OnceFunc(func() {
		stop.Close()
		for lines.Scan() {
			output.WriteString(lines.Text() + "\n")
		}
		if err := process.Wait(); err != nil {
			t.Errorf("the attackers: %v\n%s", err, output.String())
		}
	})
	defer ended()
	require.NoError(t, syscall.Setpriority(syscall.PRIO_PGRP, process.Process.Pid, 19))
	for lines.Scan() && lines.Text() != attackBegun {
		output.WriteString(lines.Text() + "\n")
	}
	busy := x.good(len(idle)/2, length)
	grown := resident(t) - before
	busyThreads := threadsOf(t)
	ended()
	_, attacks, _ := strings.Cut(output.String(), attacksMade)
	attacks, _, _ = strings.Cut(attacks, "\n")
	t.Logf("%s, %s: median %v, p99 %v, %.1f times that without; beside %s attacks; resident memory grew by %d KiB; %d threads, %d before",
		x.provider.Name(), name, microseconds(busy, 50), microseconds(busy, 99), float64(percentile(busy, 99))/float64(percentile(idle, 99)),
		attacks, grown>>10, busyThreads, threads)
	if !instrumented {
		// A half-open connection has little, and what the test has for it.
		assert.Less(t, grown, 64<<20+halfOpen*100<<10, "resident memory")
	}
}

const (
	attackBegun = "the attack has begun"
	attacksMade = "attacks made: "
)

// attack is the process of the attackers: until its input ends.
func attack(t *testing.T, order string) {
	fields := strings.Split(order, ",")
	n := len(fields)
	require.GreaterOrEqual(t, n, 3)
	name := strings.Join(fields[:n-2], ",")
	halfOpen, err := strconv.Atoi(fields[n-1])
	require.NoError(t, err)
	x := &attackers{t: t, address: fields[n-2], state: newFuzzFixtures(t).sessionState(t)}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		x.stopped.Store(true)
	}()
	if name == halfOpenPeers {
		x.silentPeers(halfOpen)
		return
	}
	for _, a := range attacks {
		if a.name == name {
			x.again(a.once)
			return
		}
	}
	t.Fatalf("there is no attack %q", name)
}

// again lets 4 attackers do it again and again.
func (x *attackers) again(once func(*attackers, net.Conn)) {
	var all sync.WaitGroup
	var rounds atomic.Int64
	begun := sync.OnceFunc(func() { fmt.Println(attackBegun) })
	for range 4 {
		all.Go(func() {
			for !x.stopped.Load() {
				c, err := net.Dial("tcp", x.address)
				if err != nil {
					x.t.Error(err)
					return
				}
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				begun()
				once(x, c)
				_ = c.Close()
				rounds.Add(1)
			}
		})
	}
	all.Wait()
	begun()
	fmt.Printf("%s%d\n", attacksMade, rounds.Load())
}

// slowByte is how long a half-open peer takes for the next byte.
const slowByte = 250 * time.Millisecond

// silentPeers holds connections open that say nothing but a ClientHello that never
// ends, byte by byte.
func (x *attackers) silentPeers(count int) {
	peers := make([]net.Conn, count)
	for i := range peers {
		var err error
		peers[i], err = net.Dial("tcp", x.address)
		require.NoError(x.t, err)
		defer peers[i].Close()
	}
	fmt.Println(attackBegun)
	hello := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3}, make([]byte, 3000)...)
	sent := 0
	for round := 0; !x.stopped.Load(); {
		begin := time.Now()
		for _, p := range peers {
			if round < len(hello) && !x.stopped.Load() {
				_, _ = p.Write(hello[round : round+1])
				sent++
			}
		}
		round++
		for !x.stopped.Load() && time.Since(begin) < slowByte {
			time.Sleep(time.Millisecond)
		}
	}
	fmt.Printf("%s%d bytes of %d peers as\n", attacksMade, sent, count)
}

// A message that is larger than any can be is refused before it is there, in
// both roles: what it says of its size is no reason to take memory.
func TestHugeMessages(t *testing.T) {
	eachNamed(t, "", func(t *testing.T, p tlsapi.Provider) {
		f := newFuzzFixtures(t)
		t.Run("ClientHello", func(t *testing.T) {
			config := f.serverConfig(p)
			wire, serverWire := tlstest.Pipe()
			conn, err := p.Server(serverWire, config)
			require.NoError(t, err)
			refusedHuge(t, conn, wire, nil)
		})
		t.Run("Certificate", func(t *testing.T) {
			config := f.clientConfig(p)
			config.MaxVersion = tls.VersionTLS12
			wire, serverWire := tlstest.Pipe()
			conn, err := p.Client(wire, config)
			require.NoError(t, err)
			server := tls.Server(serverWire, &tls.Config{MaxVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: hugeChain(f.cert), PrivateKey: f.cert.PrivateKey}, nil
			}})
			refusedHuge(t, conn, serverWire, server)
		})
	})
}

// hugeChain is a chain of 12 MiB.
func hugeChain(cert tls.Certificate) (chain [][]byte) {
	for range 12 << 20 / len(cert.Certificate[0]) {
		chain = append(chain, cert.Certificate[0])
	}
	return chain
}

// refusedHuge requires that an end refuses what its peer sends: a ClientHello of
// 16 MiB, or what the server says.
func refusedHuge(t *testing.T, conn tlsapi.Conn, peer *tlstest.Transport, server *tls.Conn) {
	var all sync.WaitGroup
	all.Go(func() {
		if server != nil {
			_ = server.Handshake()
			return
		}
		hugeHello(peer)
	})
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	err := conn.Handshake()
	// A transport that is closed takes the rest, as sockets do.
	taken := len(peer.Written())
	require.NoError(t, conn.Close())
	peer.Close()
	all.Wait()
	t.Logf("refused after %d KiB with %v", taken>>10, err)
	require.Error(t, err)
	assert.NotErrorIs(t, err, tlsapi.KindTimeout)
	assert.Less(t, taken, 2<<20, "bytes that were taken")
}
