package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/polytls/polytls/certreload"
	"github.com/polytls/polytls/cmd/polytls/internal/proxy"
)

const proxyHelp = `Listens on ADDR (default 127.0.0.1:8443), terminates TLS, and forwards what comes
to the backends: requests of HTTP/1.1 and HTTP/2, or with --mode tcp bytes.
Connections and requests go to the backends in turn, and to the next one when
one fails and nothing is done twice by it.

The flags describe one listener; a file (--config) describes any number. Its keys
are the names of the flags; docs/PROXY.md has a complete example. With --check
the configuration and every file that it names are read, the providers are asked
whether they honour it, and nothing is served.

SIGHUP, and a change of the file or of any certificate, key or other file that
the configuration names, reads everything again. What is wrong is refused as a
whole, with file, line and field, and what runs goes on. Otherwise new
connections get the new configuration; open ones are not dropped.

SIGTERM and SIGINT stop it: requests and connections under way are finished
within --drain-timeout; a second signal ends it at once.

The addresses that it listens on are printed to stdout, with --json as one line
  {"listeners":[{"name","address","mode","provider","library_version"}],"admin"}
and with --check as {"ok","listeners","error","file","line","field"}.

An option that the provider does not support is refused at the start.`

const proxyExample = `  polytls proxy --provider boringssl --cert server.pem --key server.key --backend 127.0.0.1:8080
  polytls proxy 0.0.0.0:6380 --mode tcp --cert server.pem --client-auth require-and-verify --client-ca ca.pem --backend unix:/run/redis.sock
  polytls proxy --cert server.pem --backend 10.0.0.1:443 --backend-provider openssl --backend-ca internal.pem --backend-servername app.internal
  polytls proxy --config proxy.yaml --check && polytls proxy --config proxy.yaml`

type proxyCommand struct {
	options  proxyOptions
	listener listenerOptions
	backend  backendOptions

	configFile string
	check      bool
	addresses  []string // of backends
	logFormat  string
	logLevel   string

	files *openFiles
	log   *slog.Logger
}

// flagsBesideConfig are those that a configuration file leaves to the command
// line.
var flagsBesideConfig = []string{"config", "check", "json", "log-format", "log-level"}

func newProxyCommand() *cobra.Command {
	c := &proxyCommand{files: newOpenFiles()}
	cmd := &cobra.Command{
		Use:     "proxy [ADDR]",
		Short:   "Terminate TLS and forward to plain or TLS backends",
		Long:    proxyHelp,
		Example: proxyExample,
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.configFile, "config", "", "YAML `file` with the listeners; flags of listeners and backends then have no place")
	flags.BoolVar(&c.check, "check", false, "read and check everything, and exit")
	flags.StringVar(&c.logFormat, "log-format", "text", "`format` of the log on stderr: text or json")
	flags.StringVar(&c.logLevel, "log-level", "info", "`least` that is logged: debug (failed handshakes as well), info, warn or error")
	complete(cmd, "log-format", []string{"text", "json"})
	complete(cmd, "log-level", []string{"debug", "info", "warn", "error"})
	markFiles(cmd, "config")
	c.options.register(cmd)
	c.listener.register(cmd)
	flags.StringArrayVar(&c.addresses, "backend", nil, "`address` of a backend, HOST:PORT or unix:PATH; may be repeated")
	c.registerBackend(cmd)
	return cmd
}

// registerBackend adds the options of a backend as --backend-…; they count for
// every --backend.
func (c *proxyCommand) registerBackend(cmd *cobra.Command) {
	scratch := &cobra.Command{}
	c.backend.register(scratch)
	scratch.Flags().SortFlags = false
	scratch.Flags().VisitAll(func(f *pflag.Flag) {
		alias := *f
		alias.Name = "backend-" + f.Name
		alias.Value = &aliasValue{Value: f.Value, flags: scratch.Flags(), name: f.Name}
		cmd.Flags().AddFlag(&alias)
	})
}

// aliasValue sets a flag of another set.
type aliasValue struct {
	pflag.Value
	flags *pflag.FlagSet
	name  string
}

func (v *aliasValue) Set(text string) error {
	err := v.flags.Set(v.name, text)
	// The frame names the flag, but not by this name.
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func (c *proxyCommand) run(cmd *cobra.Command, args []string) error {
	if err := c.openLog(cmd); err != nil {
		return err
	}
	if c.configFile != "" {
		var extra string
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if !slices.Contains(flagsBesideConfig, f.Name) {
				extra = "--" + f.Name
			}
		})
		if len(args) > 0 {
			extra = args[0]
		}
		if extra != "" {
			return usagef("%s has no place beside --config: say it in the file", extra)
		}
	} else {
		c.listener.listener.Address = append(args, "127.0.0.1:8443")[0]
	}
	loaded, err := c.load(cmd)
	if c.check {
		if loaded != nil && loaded.config.AccessLog != nil {
			err = errors.Join(err, loaded.config.AccessLog.Close())
		}
		return c.reportCheck(cmd, loaded, err)
	}
	if err != nil {
		return err
	}
	collectSeldom()
	metrics := proxy.NewMetrics()
	server, err := proxy.Start(loaded.config, proxy.Options{Log: c.log, Metrics: metrics})
	if err != nil {
		loaded.close()
		return loaded.locate(err)
	}
	stop := c.reloadOnChange(cmd, server, metrics, loaded)
	if err := c.announce(cmd, server, loaded.config); err != nil {
		stop()
		return errors.Join(err, server.Shutdown(cmd.Context()))
	}
	<-cmd.Context().Done()
	c.log.Info("stopping", "drain_timeout", loaded.config.DrainTimeout)
	stop()
	return server.Shutdown(context.Background())
}

func (c *proxyCommand) openLog(cmd *cobra.Command) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return usagef("--log-level: %q is neither debug, info, warn nor error", c.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.logFormat {
	case "text":
		c.log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), options))
	case "json":
		c.log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), options))
	default:
		return usagef("--log-format: %q is neither text nor json", c.logFormat)
	}
	return nil
}

// loadedConfig is a configuration with where it comes from.
type loadedConfig struct {
	config *proxy.Config
	paths  []string
	file   *proxyFile // nil when it comes from flags
}

// close closes what nobody will use.
func (l *loadedConfig) close() {
	if l.config.AccessLog != nil {
		_ = l.config.AccessLog.Close()
	}
}

// locate says where an error of the engine is.
func (l *loadedConfig) locate(err error) error {
	if l.file != nil {
		return l.file.locate(err)
	}
	return flagError(err)
}

// load reads the configuration and all its files. The paths are good when it
// fails, too.
func (c *proxyCommand) load(cmd *cobra.Command) (*loadedConfig, error) {
	if c.configFile != "" {
		file, err := readProxyFile(c.configFile, c.files, cmd.ErrOrStderr())
		return &loadedConfig{config: orEmpty(file.config), paths: file.paths, file: file}, err
	}
	loaded := &loadedConfig{config: &proxy.Config{}, paths: c.flagPaths(cmd)}
	config := &proxy.Config{Admin: c.options.admin, DrainTimeout: c.options.drainTimeout}
	var backends []*proxy.Backend
	for _, address := range c.addresses {
		c.backend.backend.Address = address
		backend, err := c.files.resolveBackend(&c.backend)
		if err != nil {
			return loaded, backendFlag(err)
		}
		backends = append(backends, backend)
	}
	if len(backends) == 0 {
		return loaded, usagef("--backend is missing: where shall it forward to?")
	}
	listener, err := c.files.resolveListener(&c.listener, backends)
	if err != nil {
		return loaded, err
	}
	config.Listeners = []*proxy.Listener{listener}
	if err := config.Check(); err != nil {
		return loaded, flagError(err)
	}
	if config.AccessLog, err = c.options.openAccessLog(cmd.ErrOrStderr()); err != nil {
		return loaded, err
	}
	loaded.config = config
	return loaded, nil
}

func orEmpty(config *proxy.Config) *proxy.Config {
	if config == nil {
		return &proxy.Config{}
	}
	return config
}

// flagPaths are the files of the flags that are read.
func (c *proxyCommand) flagPaths(cmd *cobra.Command) []string {
	var paths []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		name := strings.TrimPrefix(f.Name, "backend-")
		if !isFile(f) || isOutput(name) {
			return
		}
		value := f.Value
		if alias, ok := value.(*aliasValue); ok {
			value = alias.Value
		}
		if list, ok := value.(pflag.SliceValue); ok {
			paths = append(paths, list.GetSlice()...)
		} else {
			paths = append(paths, value.String())
		}
	})
	return slices.DeleteFunc(paths, func(path string) bool { return path == "" })
}

// flagError turns an error of the engine into one about flags. What a provider
// refuses, and an address that cannot be had, are not wrong usage.
func flagError(err error) error {
	var e *proxy.ConfigError
	if !errors.As(err, &e) {
		return err
	}
	option, inner := optionOf(err)
	named := fmt.Errorf("--%s: %w", option, inner)
	if e.Backend >= 0 {
		named = fmt.Errorf("--backend-%s: %w", option, inner)
		if option == "address" {
			named = fmt.Errorf("--backend: %w", inner)
		}
	} else if option == "address" || option == "backends" {
		named = inner
	}
	var wrong *os.SyscallError
	if e.Field == "provider" || e.Field == "tls" || e.Field == "admin" || errors.As(inner, &wrong) {
		return named
	}
	return &usageError{named}
}

// backendFlag adds the prefix of the flag to an error of a backend's option.
func backendFlag(err error) error {
	option, inner := optionOf(err)
	if option == "" {
		return err
	}
	named := fmt.Errorf("--backend-%s: %w", option, inner)
	var usage *usageError
	if errors.As(err, &usage) {
		return &usageError{named}
	}
	return named
}

// checkReport is the JSON form of --check.
type checkReport struct {
	OK        bool   `json:"ok"`
	Listeners int    `json:"listeners"`
	Error     string `json:"error"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Field     string `json:"field"`
}

func (c *proxyCommand) reportCheck(cmd *cobra.Command, loaded *loadedConfig, err error) error {
	report := checkReport{OK: err == nil, Listeners: len(loaded.config.Listeners)}
	if err != nil {
		report.Listeners, report.Error = 0, err.Error()
		var located *fileError
		if errors.As(err, &located) {
			report.File, report.Line, report.Field = located.File, located.Line, located.Field
		}
	}
	if wantsJSON(cmd) {
		return errors.Join(writeJSON(cmd.OutOrStdout(), report), err)
	}
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "the configuration is good: %d listener(s)\n", report.Listeners)
	}
	return err
}

// reloadOnChange reads the configuration again at SIGHUP and when a file has
// changed, until the returned function is called.
func (c *proxyCommand) reloadOnChange(cmd *cobra.Command, server *proxy.Server, metrics *proxy.Metrics, loaded *loadedConfig) (stop func()) {
	var mu sync.Mutex // guards paths
	paths := loaded.paths
	reload := func() {
		fresh, err := c.load(cmd)
		if err == nil {
			if err = server.Apply(fresh.config); err != nil {
				fresh.close()
				err = fresh.locate(err)
			}
		}
		metrics.Reloaded(err)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			// What is mended next may be of either configuration.
			paths = append(slices.Clone(fresh.paths), paths...)
			slices.Sort(paths)
			paths = slices.Compact(paths)
			c.log.Error("the configuration was not taken over, the old one stays", "error", err)
			return
		}
		paths = fresh.paths
		c.log.Info("took over the configuration", "listeners", len(fresh.config.Listeners))
	}
	changes := make(chan struct{}, 1)
	watcher := certreload.Watch(certreload.WatchOptions{
		Paths: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return paths
		},
		Changed: func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		},
		Log: c.log,
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-signals:
				watcher.Seen()
				reload()
			case <-changes:
				reload()
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		<-ended
		watcher.Close()
	}
}

// announce tells where it listens.
func (c *proxyCommand) announce(cmd *cobra.Command, server *proxy.Server, config *proxy.Config) error {
	type listening struct {
		Name           string `json:"name"`
		Address        string `json:"address"`
		Mode           string `json:"mode"`
		Provider       string `json:"provider"`
		LibraryVersion string `json:"library_version"`
	}
	report := struct {
		Listeners []listening `json:"listeners"`
		Admin     string      `json:"admin"`
	}{Admin: server.AdminAddress()}
	for i, l := range config.Listeners {
		report.Listeners = append(report.Listeners, listening{
			l.Name, proxy.AddressOf(server.Address(i)), string(l.Mode), l.Provider.Name(), l.Provider.LibraryVersion(),
		})
	}
	if wantsJSON(cmd) {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
	}
	for _, l := range report.Listeners {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: listening on %s (%s, %s %s)\n", l.Name, l.Address, l.Mode, l.Provider, l.LibraryVersion)
	}
	if report.Admin != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "metrics and health on %s\n", report.Admin)
	}
	return nil
}

// collectSeldom lets the heap of a server grow to five times of what lives, unless
// GOGC says otherwise. What lives is small beside what passes: collecting garbage
// at twice of little is most of the collector's cost.
func collectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
