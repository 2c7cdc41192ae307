package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/polytls/polytls/cmd/polytls/internal/proxy"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// What can be said of a proxy is registered as flags once. The command line and
// the configuration file both set these: the key of an option in the file is the
// name of its flag, so neither has one that the other lacks.

// proxyOptions are those that are not of a listener.
type proxyOptions struct {
	admin         string
	drainTimeout  time.Duration
	accessLog     string
	accessFormat  string
	accessQueries bool
}

func (o *proxyOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.admin, "admin", "",
		"`address` for /metrics and /healthz over plain HTTP, HOST:PORT or unix:PATH; keep it from the public (default: none)")
	flags.DurationVar(&o.drainTimeout, "drain-timeout", 30*time.Second,
		"how long connections may go on after SIGTERM; what is in use then is cut off")
	flags.StringVar(&o.accessLog, "access-log", "",
		"append a line for each request, or connection of mode tcp, to this `file`; stderr for standard error. SIGHUP opens it again (default: none)")
	flags.StringVar(&o.accessFormat, "access-log-format", "text", "`format` of the access log: text or json")
	flags.BoolVar(&o.accessQueries, "access-log-queries", false, "show the queries of URLs in the access log: they may hold secrets")
	complete(cmd, "access-log-format", []string{"text", "json"})
	markFiles(cmd, "access-log")
}

// openAccessLog returns nil when none is wanted.
func (o *proxyOptions) openAccessLog(stderr io.Writer) (*proxy.AccessLog, error) {
	if o.accessFormat != "text" && o.accessFormat != "json" {
		return nil, &usageError{optionErrorf("access-log-format", "%q is neither text nor json", o.accessFormat)}
	}
	path := o.accessLog
	switch path {
	case "":
		return nil, nil
	case "stderr":
		path = ""
	}
	log, err := proxy.NewAccessLog(path, stderr, o.accessFormat)
	if err != nil {
		return nil, &optionError{"access-log", err}
	}
	log.Queries = o.accessQueries
	return log, nil
}

// listenerOptions are those of a listener, with all options of a TLS server.
type listenerOptions struct {
	serverFlags
	cmd      *cobra.Command // whose flags they are
	listener proxy.Listener
	mode     string
	accept   string
	trusted  []string
}

func (o *listenerOptions) register(cmd *cobra.Command) {
	o.cmd = cmd
	flags, l := cmd.Flags(), &o.listener
	flags.StringVar(&o.mode, "mode", "http", "`what` is forwarded: http (requests of HTTP/1.1 and HTTP/2) or tcp (bytes)")
	flags.StringVar(&l.Name, "name", "", "`name` of the listener in logs and metrics (default: its address)")
	flags.IntVar(&l.MaxConnections, "max-connections", 10000,
		"most connections at a time; with that many, further clients wait in the system's queue")
	flags.DurationVar(&l.HeaderTimeout, "header-timeout", 10*time.Second, "longest time for the header of a request to come; 0 for no limit")
	flags.DurationVar(&l.IdleTimeout, "idle-timeout", 5*time.Minute,
		"longest time between two requests of a connection, and in mode tcp and after an upgrade without a byte in either direction; 0 for no limit")
	flags.DurationVar(&l.StallTimeout, "stall-timeout", time.Minute, "longest time that a client may take none of what is sent to it, or send no more of a request's body; 0 for no limit")
	flags.DurationVar(&l.ConnectTimeout, "connect-timeout", 5*time.Second, "longest time to reach a backend, its TLS handshake included; 0 for no limit")
	flags.DurationVar(&l.ResponseTimeout, "response-timeout", time.Minute, "longest time for the header of a backend's response to come; 0 for no limit")
	flags.DurationVar(&l.RetryAfter, "retry-after", 10*time.Second, "how long a backend that has failed is passed over while there are others")
	flags.IntVar(&l.MaxHeaderBytes, "max-header-bytes", 0, "most bytes of a request's header; 0 is the default of 1 MiB")
	flags.StringVar(&o.accept, "accept-proxy", "off",
		"from `whom` a PROXY protocol header, version 1 or 2, is expected: off, trusted (the addresses of --trusted-proxies, which must send one) or always (everybody must: whoever reaches the port can claim any address)")
	flags.StringArrayVar(&o.trusted, "trusted-proxies", nil,
		"`address` or network in CIDR form whose X-Forwarded headers, and with --accept-proxy trusted PROXY headers, are believed; may be repeated")
	flags.BoolVar(&l.ReusePort, "reuse-port", false, "let other processes listen on the address as well, so that a new proxy can start before the old one stops")
	complete(cmd, "mode", []string{"http", "tcp"})
	complete(cmd, "accept-proxy", []string{"off", "trusted", "always"})
	o.serverFlags.register(cmd)
}

// resolve reads the files of the options.
func (o *listenerOptions) resolve(backends []*proxy.Backend) (*proxy.Listener, error) {
	l := o.listener
	l.Mode, l.AcceptProxy, l.Backends, l.Provider = proxy.Mode(o.mode), proxy.AcceptProxy(o.accept), backends, o.provider
	if l.Name == "" {
		l.Name = l.Address
	}
	for _, text := range o.trusted {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, &usageError{&optionError{"trusted-proxies", err}}
		}
		l.TrustedProxies = append(l.TrustedProxies, prefix)
	}
	var err error
	l.TLS, err = o.serverConfig(o.cmd)
	return &l, err
}

func parsePrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Masked(), nil
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", text)
	}
	return netip.PrefixFrom(ip, ip.BitLen()), nil
}

// backendOptions are those of a backend, with all options of a TLS client.
type backendOptions struct {
	clientFlags
	cmd       *cobra.Command
	backend   proxy.Backend
	sendProxy string
}

func (o *backendOptions) register(cmd *cobra.Command) {
	o.cmd = cmd
	flags, b := cmd.Flags(), &o.backend
	flags.BoolVar(&b.H2C, "h2c", false, "speak HTTP/2 without TLS to the backend")
	flags.StringVar(&o.sendProxy, "send-proxy", "off",
		"`version` of the PROXY protocol header that connections to the backend begin with: off, 1 or 2 (with the properties of the client's TLS connection); in mode http every request then has a connection of its own")
	flags.IntVar(&b.MaxIdle, "max-idle", 0, "most connections without a request that are kept; 0 is the default of 1024")
	complete(cmd, "send-proxy", []string{"off", "1", "2"})
	o.clientFlags.register(cmd)
	// Without it there is no TLS to the backend.
	provider := flags.Lookup("provider")
	provider.DefValue = ""
	provider.Usage = "the TLS library towards the backend: " + strings.Join(providers.Names(), ", ") + " (default: no TLS)"
}

// resolve reads the files of the options.
func (o *backendOptions) resolve() (*proxy.Backend, error) {
	b := o.backend
	if o.sendProxy != "off" {
		version, err := strconv.Atoi(o.sendProxy)
		if err != nil || version < 1 || version > 2 {
			return nil, &usageError{optionErrorf("send-proxy", "%q is neither off, 1 nor 2", o.sendProxy)}
		}
		b.SendProxy = version
	}
	flags := o.cmd.Flags()
	if !flags.Changed("provider") {
		var err error
		flags.Visit(func(f *pflag.Flag) {
			if err == nil && tlsFlag(f.Name) {
				err = &usageError{optionErrorf(f.Name, "it has no meaning without a provider for TLS to the backend")}
			}
		})
		return &b, err
	}
	var err error
	b.Provider = o.provider
	b.TLS, err = o.clientConfig(o.cmd, proxy.HostOf(b.Address))
	return &b, err
}

// tlsFlag reports whether a flag is one of a TLS client's.
func tlsFlag(name string) bool {
	scratch := &cobra.Command{}
	new(clientFlags).register(scratch)
	return scratch.Flags().Lookup(name) != nil
}

// isOutput reports whether the file of a flag is written.
func isOutput(flag string) bool {
	return flag == "key-log" || flag == "session-file" || flag == "access-log"
}

// isFile reports whether the values of a flag name files.
func isFile(f *pflag.Flag) bool {
	_, marked := f.Annotations[cobra.BashCompFilenameExt]
	return marked
}

// openFiles are those that stay open from one configuration to the next:
// connections write to them to their end.
type openFiles struct {
	keyLogs  map[string]*os.File
	sessions map[string]*sessionFile
}

func newOpenFiles() *openFiles {
	return &openFiles{make(map[string]*os.File), make(map[string]*sessionFile)}
}

// lend gives options what is open of their files; keep remembers what they
// have opened.
func (f *openFiles) lend(s *settingsFlags) { s.keyLog = f.keyLogs[s.keyLogFile] }

func (f *openFiles) keep(s *settingsFlags) {
	if s.keyLog != nil {
		f.keyLogs[s.keyLogFile] = s.keyLog
	}
}

func (f *openFiles) resolveListener(o *listenerOptions, backends []*proxy.Backend) (*proxy.Listener, error) {
	f.lend(&o.settingsFlags)
	defer f.keep(&o.settingsFlags)
	return o.resolve(backends)
}

func (f *openFiles) resolveBackend(o *backendOptions) (*proxy.Backend, error) {
	f.lend(&o.settingsFlags)
	o.sessions = f.sessions[o.sessionFile]
	defer func() {
		f.keep(&o.settingsFlags)
		if o.sessions != nil {
			f.sessions[o.sessionFile] = o.sessions
		}
	}()
	return o.resolve()
}

// optionOf returns the name of the option that an error is about, and the error
// without it.
func optionOf(err error) (string, error) {
	var config *proxy.ConfigError
	if errors.As(err, &config) {
		if option, inner := optionOf(config.Err); option != "" {
			return option, inner
		}
		return config.Field, config.Err
	}
	var option *optionError
	if errors.As(err, &option) {
		return option.flag, option.err
	}
	var refused *tlsapi.Error
	if errors.As(err, &refused) && optionFlags[refused.Option] != "" {
		return strings.TrimPrefix(optionFlags[refused.Option], "--"), err
	}
	return "", err
}
