package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/tlsapi"
)

const connectHelp = `Connects to HOST:PORT, runs the handshake, and tells what was negotiated and the
verified certificate chain. Then it sends stdin to the peer and writes what the
peer sends to stdout, until the peer closes.

At the end of stdin the sending side of the connection is closed (TLS
close_notify) and the command goes on reading until the peer closes, too. A
provider that cannot half-close (see client.close-write in "polytls providers")
waits until nothing has come for the time of --linger instead, by default 1s,
and then closes. With --session-file the end of stdin waits up to 0.5s for a
session to keep. A peer that ends the connection without close_notify makes the
command fail: the data may be incomplete.

--send takes the data from a file instead of stdin, of any size, and tells at the
end how many bytes have gone each way. --reconnect N makes N connections first,
one after the other, that wait for a session and close; each that follows offers
the session of the one before, and it is told which were resumed. What the peer
sends over these is dropped. With --session-file the first offers one of an
earlier run as well. These connections are silent: a server that sends its TLS
1.3 tickets with its first data, as BoringSSL does, has none for them.

What was negotiated goes to stderr, or with --json to stdout as
  {"provider","library_version","version","cipher_suite","group","alpn",
   "resumed","server_name","verified","hello_retry_request","key_shares",
   "psk_identity","ocsp":{"status","this_update","next_update","verified"},
   "revocation_checked","peer":{"subject","organization","serial","sha256",
   "not_after","dns_names","ip_addresses"}}
"peer" is null when the peer has no certificate, "ocsp" when it stapled no OCSP
response; what the response says is told and not acted upon.
"revocation_checked" is true when the chain was held against --crl. With
--reconnect there is one such object for each connection; with --send,
  {"sent_bytes","received_bytes"}
follows at the end. With --json received data is written to the file of --output,
or dropped.

An option that the provider does not support is refused before anything is
sent.`

const connectExample = `  polytls connect example.com:443 --provider openssl --alpn H2H1 </dev/null
  printf 'GET / HTTP/1.0\r\nHost: localhost\r\n\r\n' | polytls connect localhost:4433 --ca ca.pem
  polytls connect 127.0.0.1:4433 --servername internal.example --ca ca.pem --cert client.pem --key client.key
  polytls connect localhost:4433 --ca ca.pem --send backup.tar --output echoed.tar
  polytls connect example.com:443 --provider s2n --reconnect 5 --session-file sessions </dev/null
  polytls connect example.com:443 --provider boringssl --curves X25519MLKEM768:X25519 --json </dev/null`

// defaultLinger is how long to wait for a peer that cannot be told that
// nothing more comes.
const defaultLinger = time.Second

// ticketTime is how long the end of stdin waits for a session to keep.
const ticketTime = 500 * time.Millisecond

// connectReport is the JSON form of what the handshake came to.
type connectReport struct {
	connectionReport
	RevocationChecked bool `json:"revocation_checked"`
}

type connectCommand struct {
	flags       clientFlags
	dialTimeout time.Duration
	linger      time.Duration
	output      string
	input       string
	reconnect   int
}

// transferReport is the JSON form of what --send has come to.
type transferReport struct {
	SentBytes     uint64 `json:"sent_bytes"`
	ReceivedBytes uint64 `json:"received_bytes"`
}

func newConnectCommand() *cobra.Command {
	c := &connectCommand{}
	cmd := &cobra.Command{
		Use:     "connect HOST:PORT",
		Short:   "Connect as a TLS client and pipe stdin and stdout",
		Long:    connectHelp,
		Example: connectExample,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	c.flags.register(cmd)
	cmd.Flags().DurationVar(&c.dialTimeout, "connect-timeout", 10*time.Second, "longest time to find and reach the host; 0 for no limit")
	cmd.Flags().DurationVar(&c.linger, "linger", 0,
		"at the end of stdin, close when nothing has come for this long; 0: wait for the peer, or 1s where the provider cannot half-close")
	cmd.Flags().StringVar(&c.output, "output", "", "write received data to this `file` instead of stdout")
	cmd.Flags().StringVar(&c.input, "send", "", "send this `file` instead of stdin, and tell how many bytes went each way")
	cmd.Flags().IntVar(&c.reconnect, "reconnect", 0, "connect this many times before, each time with the session of the time before")
	markFiles(cmd, "output", "send")
	return cmd
}

func (c *connectCommand) run(cmd *cobra.Command, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return usagef("%q is not of the form HOST:PORT; an IPv6 address goes into brackets: [::1]:443", address)
	}
	for flag, d := range map[string]time.Duration{"--connect-timeout": c.dialTimeout, "--linger": c.linger} {
		if d < 0 {
			return usagef("%s: %v is negative", flag, d)
		}
	}
	switch {
	case c.reconnect < 0:
		return usagef("--reconnect: %d is negative", c.reconnect)
	case c.reconnect > 0 && c.flags.noTickets:
		return usagef("--reconnect: there is nothing to resume with --no-tickets")
	}
	config, err := c.flags.clientConfig(cmd, defaultServerName(host))
	if err != nil {
		return err
	}
	if c.reconnect > 0 && config.SessionCache == nil {
		config.SessionCache = tlsapi.NewLRUSessionCache(0)
	}
	if config.SessionCache != nil {
		config.SessionCache = &announcingCache{SessionCache: config.SessionCache, stored: make(chan struct{}, 1)}
	}
	provider := c.flags.provider
	if err := provider.Available(); err != nil {
		return err
	}
	// Client would refuse as well, but the peer need not even be bothered.
	if err := tlsapi.CheckFeatures(provider, config.Features()); err != nil {
		return err
	}
	input := cmd.InOrStdin()
	if c.input != "" {
		file, err := os.Open(c.input)
		if err != nil {
			return fmt.Errorf("--send: %w", err)
		}
		defer file.Close()
		input = file
	}
	output, closeOutput, err := c.openOutput(cmd)
	if err != nil {
		return err
	}
	for range c.reconnect {
		if err := c.fetchSession(cmd, provider, config, address); err != nil {
			return errors.Join(err, closeOutput())
		}
	}
	err = c.talk(cmd, provider, config, address, input, output)
	return errors.Join(err, closeOutput())
}

// defaultServerName is the host without the zone of an IPv6 address, which
// means something on this machine only, and without the root's dot, which no
// certificate holds.
func defaultServerName(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").String()
	}
	if host != "." && host[len(host)-1] == '.' {
		return host[:len(host)-1]
	}
	return host
}

func (c *connectCommand) openOutput(cmd *cobra.Command) (io.Writer, func() error, error) {
	switch {
	case c.output != "":
		file, err := os.Create(c.output)
		if err != nil {
			return nil, nil, fmt.Errorf("--output: %w", err)
		}
		return file, file.Close, nil
	case wantsJSON(cmd):
		return io.Discard, func() error { return nil }, nil
	default:
		return cmd.OutOrStdout(), func() error { return nil }, nil
	}
}

// connected dials, runs the handshake and reports it.
func (c *connectCommand) connected(cmd *cobra.Command, provider tlsapi.Provider, config *tlsapi.ClientConfig, address string) (tlsapi.Conn, error) {
	ctx := cmd.Context()
	if cache, ok := config.SessionCache.(*announcingCache); ok {
		cache.forget()
	}
	dialer := net.Dialer{Timeout: c.dialTimeout}
	transport, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := provider.Client(transport, config)
	if err != nil {
		return nil, errors.Join(err, transport.Close())
	}
	err = conn.HandshakeContext(ctx)
	if err == nil {
		err = c.report(cmd, config, conn, transport.RemoteAddr())
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *connectCommand) report(cmd *cobra.Command, config *tlsapi.ClientConfig, conn tlsapi.Conn, remote net.Addr) error {
	// The handshake would have failed otherwise.
	checked := len(config.RevocationLists) > 0 && conn.Info().Verified
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), connectReport{describeConnection(conn), checked})
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%-15s %s\n", "connected to", remote)
	writeConnection(cmd.ErrOrStderr(), conn)
	if c.reconnect > 0 && !conn.Info().Resumed {
		fmt.Fprintf(cmd.ErrOrStderr(), "%-15s %s\n", "resumed", "no")
	}
	if checked {
		fmt.Fprintf(cmd.ErrOrStderr(), "%-15s %s\n", "revocation", "checked with the lists of --crl")
	}
	return nil
}

// fetchSession connects, waits for a session for at most ticketTime, and closes.
func (c *connectCommand) fetchSession(cmd *cobra.Command, provider tlsapi.Provider, config *tlsapi.ClientConfig, address string) error {
	conn, err := c.connected(cmd, provider, config, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(ticketTime)); err != nil {
		return err
	}
	// A ticket of TLS 1.3 is found by a Read. That none comes, or that the peer
	// closes, shows in what the next connection says.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	select {
	case <-config.SessionCache.(*announcingCache).stored:
	case <-ended:
	case <-cmd.Context().Done():
		return errors.New("interrupted")
	}
	return nil
}

// announcingCache tells of sessions that are stored.
type announcingCache struct {
	tlsapi.SessionCache
	stored chan struct{}
}

// Put implements tlsapi.SessionCache.
func (c *announcingCache) Put(key string, session []byte) {
	c.SessionCache.Put(key, session)
	select {
	case c.stored <- struct{}{}:
	default:
	}
}

// forget makes stored wait for the next session.
func (c *announcingCache) forget() {
	select {
	case <-c.stored:
	default:
	}
}

func (c *connectCommand) talk(cmd *cobra.Command, provider tlsapi.Provider, config *tlsapi.ClientConfig, address string, input io.Reader, output io.Writer) error {
	ctx := cmd.Context()
	meter := new(metrics.Meter)
	conn, err := c.connected(cmd, meter.Provider(provider), config, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if sessions, ok := config.SessionCache.(*announcingCache); ok && c.flags.sessionFile != "" {
		// A ticket of TLS 1.3 comes after the handshake, and not every library
		// takes one when it has closed its sending side.
		input = io.MultiReader(input, endAfter(sessions.stored, ticketTime))
	}
	err = pipe(conn, input, output, c.linger)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if c.input != "" {
		err = errors.Join(err, reportTransfer(cmd, meter))
	}
	return err
}

func reportTransfer(cmd *cobra.Command, meter *metrics.Meter) error {
	var report transferReport
	for _, c := range meter.Snapshot().Connections {
		report.SentBytes += c.BytesWritten
		report.ReceivedBytes += c.BytesRead
	}
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), report)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%-15s %d bytes\n%-15s %d bytes\n", "sent", report.SentBytes, "received", report.ReceivedBytes)
	return nil
}

// endAfter is an input without data that ends when the event has come, or when
// the time is over.
func endAfter(event <-chan struct{}, limit time.Duration) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		select {
		case <-event:
		case <-time.After(limit):
		}
		return 0, io.EOF
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// pipe sends input to conn and writes what comes to output, until the peer
// closes. After the end of the input it gives up when nothing has come for the
// time of linger; zero means to wait for the peer, or defaultLinger where conn
// cannot half-close.
func pipe(conn tlsapi.Conn, input io.Reader, output io.Writer, linger time.Duration) error {
	receiver := &receiver{conn: conn}
	sent := make(chan error, 1)
	received := make(chan error, 1)
	go func() { sent <- send(conn, input, receiver, linger) }()
	go func() {
		_, err := io.Copy(output, receiver)
		received <- err
	}()

	select {
	case err := <-received:
		return err
	case err := <-sent:
		if err == nil {
			return <-received
		}
		// The peer's alert tells more than the failed write.
		receiver.giveUpAfter(defaultLinger)
		if readErr := <-received; readErr != nil {
			return readErr
		}
		return err
	}
}

func send(conn tlsapi.Conn, input io.Reader, receiver *receiver, linger time.Duration) error {
	if _, err := io.Copy(conn, input); err != nil {
		return err
	}
	// Without a half-close the peer is not told that nothing more comes. A
	// connection that failed meanwhile is for the receiver to tell.
	if err := conn.CloseWrite(); err != nil && linger == 0 {
		linger = defaultLinger
	}
	if linger > 0 {
		receiver.giveUpAfter(linger)
	}
	return nil
}

// receiver reads from a connection; once giveUpAfter was called, a time
// without data is its end.
type receiver struct {
	conn tlsapi.Conn
	idle atomic.Int64
}

func (r *receiver) Read(p []byte) (int, error) {
	r.extend()
	n, err := r.conn.Read(p)
	if r.idle.Load() > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

func (r *receiver) giveUpAfter(idle time.Duration) {
	r.idle.Store(int64(idle))
	r.extend()
}

func (r *receiver) extend() {
	if idle := r.idle.Load(); idle > 0 {
		// A failure shows at the next Read.
		_ = r.conn.SetReadDeadline(time.Now().Add(time.Duration(idle)))
	}
}
