package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/polytls/polytls/internal/measure"
)

// clients is how many work at once: more than the machine has processors, few
// enough that the p99 is not one of queues.
const clients = 8

// work is what the clients do in one turn.
type work struct {
	name, unit string
	file       string
	want       func(*site) []byte
	keep       bool // the connections are kept
	// size is how many units one request is.
	size float64
}

var works = []work{
	{"new", "new connection with one request", "/small.bin", func(s *site) []byte { return s.small }, false, 1},
	{"kept", "request on a kept connection", "/small.bin", func(s *site) []byte { return s.small }, true, 1},
	{"bytes", "MiB", "/large.bin", func(s *site) []byte { return s.large }, true, largeSize >> 20},
}

// sample is one turn of one terminator.
type sample struct {
	count    int
	cpu      time.Duration // of the terminator, per unit
	p50, p99 time.Duration // of one request, for new connections with its connection
	perSec   float64
}

// client is what all clients have in common.
type client struct {
	site   *site
	config *tls.Config
}

func newClient(s *site) (*client, error) {
	_, _, root := measure.CertificateFiles(s.dir, measure.Settings{})
	text, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate", root)
	}
	return &client{s, &tls.Config{
		ServerName: measure.ServerName, RootCAs: pool, MinVersion: tls.VersionTLS13,
		// One group, so that all terminators do the same work: not all have
		// the post-quantum one.
		CurvePreferences: []tls.CurveID{tls.X25519},
		NextProtos:       []string{"http/1.1"},
	}}, nil
}

// turn lets all clients work for some time.
func (c *client) turn(ctx context.Context, t *terminator, w work, d time.Duration) (sample, error) {
	before, err := processorTime(t.process.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	var (
		wg        sync.WaitGroup
		mu        sync.Mutex
		latencies []time.Duration
		failure   error
	)
	start := time.Now()
	for range clients {
		wg.Go(func() {
			own, err := c.loop(ctx, t.address, w, start.Add(d))
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
			failure = errors.Join(failure, err)
		})
	}
	wg.Wait()
	took := time.Since(start)
	if failure != nil {
		return sample{}, fmt.Errorf("%s: %s: %w", t.name, w.unit, failure)
	}
	// Its last connections end.
	time.Sleep(20 * time.Millisecond)
	after, err := processorTime(t.process.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	n := len(latencies)
	slices.Sort(latencies)
	return sample{
		count: n, cpu: time.Duration(float64(after-before) / (float64(n) * w.size)),
		p50: latencies[n/2], p99: latencies[n*99/100], perSec: float64(n) * w.size / took.Seconds(),
	}, nil
}

// loop is one client.
func (c *client) loop(ctx context.Context, address string, w work, end time.Time) (latencies []time.Duration, err error) {
	want := w.want(c.site)
	request := "GET " + w.file + " HTTP/1.1\r\nHost: " + measure.ServerName + "\r\n"
	if !w.keep {
		request += "Connection: close\r\n"
	}
	message := []byte(request + "\r\n")
	received := make([]byte, len(want))
	var (
		conn *tls.Conn
		in   *bufio.Reader
	)
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for len(latencies) == 0 || time.Now().Before(end) {
		start := time.Now()
		if conn == nil {
			if conn, err = c.connect(ctx, address); err != nil {
				return latencies, err
			}
			if w.keep {
				// The handshake is not what is measured.
				start = time.Now()
			}
			in = bufio.NewReaderSize(conn, 32<<10)
		}
		if _, err := conn.Write(message); err != nil {
			return latencies, err
		}
		if err := readAnswer(in, received, want); err != nil {
			return latencies, err
		}
		latencies = append(latencies, time.Since(start))
		if !w.keep {
			conn.Close()
			conn = nil
		}
	}
	return latencies, nil
}

func (c *client) connect(ctx context.Context, address string) (*tls.Conn, error) {
	transport, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(transport, c.config)
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		transport.Close()
		return nil, err
	}
	if got := conn.ConnectionState().Version; got != tls.VersionTLS13 {
		conn.Close()
		return nil, fmt.Errorf("it negotiated %s", tls.VersionName(got))
	}
	return conn, nil
}

// readAnswer reads one answer of HTTP/1.1 into received and compares it.
func readAnswer(in *bufio.Reader, received, want []byte) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("the answer is %q", status)
	}
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); http.CanonicalHeaderKey(string(name)) == "Content-Length" {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != len(want) {
		return fmt.Errorf("the answer has %d bytes instead of %d", length, len(want))
	}
	if _, err := io.ReadFull(in, received); err != nil {
		return err
	}
	if !bytes.Equal(received, want) {
		return errors.New("the answer has other contents")
	}
	return nil
}
