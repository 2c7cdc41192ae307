// Package certreload keeps the certificates of a running server current: it
// watches certificate, key and CA files and replaces what new connections get.
//
//	files, err := certreload.New(certreload.Options{
//		Certificates: []certreload.KeyPair{{CertFile: "tls.crt", KeyFile: "tls.key"}},
//	})
//	if err != nil {
//		return err
//	}
//	defer files.Close()
//	srv := &httptls.Server{Provider: openssl.Provider, Config: files.ServerConfig()}
//
// All files are read together and replaced together. When one is missing, half
// written or wrong, what was good last goes on being used and the error is
// reported. Connections that are open keep what they began with.
package certreload

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// KeyPair names the files of a certificate chain and of its private key, each
// PEM or DER.
type KeyPair struct{ CertFile, KeyFile string }

// Options say what to watch. They must not be changed after New.
type Options struct {
	// Certificates are those of the server, in the order of
	// ServerConfig.Certificates. At least one is needed, or ClientCAs.
	Certificates []KeyPair
	// ClientCAs are files with the trust anchors for clients. Nil means those
	// of Base, which are not watched.
	ClientCAs []string
	// Base has all other settings; nil means none. Its Certificates and
	// ClientCAs must be nil where files are given for them, and its
	// GetCertificate and GetConfigForClient must be nil.
	Base *tlsapi.ServerConfig
	// Provider, if not nil, is asked about every new configuration before it
	// is used, so that a key which it cannot use is refused here. Nil means
	// that only what is wrong with every provider is.
	Provider tlsapi.Provider
	// PollInterval is how often the files are looked at besides the system's
	// notifications, which do not come from every file system. Zero means one
	// minute.
	PollInterval time.Duration
	// Reloaded, if not nil, is called after every attempt to take over
	// changed files, with nil for success; not for the first one in New. An
	// error is reported once for as long as the files stay the same. Calls
	// come one at a time; it must not call Close.
	Reloaded func(error)
	// Log receives the same. Nil means none.
	Log *slog.Logger
}

// Files is a set of watched files. All methods may be called by many goroutines
// at once.
type Files struct {
	options Options
	current atomic.Pointer[tlsapi.ServerConfig]

	mu      sync.Mutex // one reload at a time
	watcher *Watcher
}

// New reads the files and watches them until Close. What is wrong with them now
// is an error of tlsapi.KindConfig, or the provider's.
func New(options Options) (*Files, error) {
	f := &Files{options: options}
	if err := f.options.check(); err != nil {
		return nil, err
	}
	// Watched before they are read, so that no change is missed.
	f.watcher = Watch(WatchOptions{Paths: f.options.paths, Changed: f.takeOver, PollInterval: options.PollInterval, Log: options.Log})
	if err := f.reload(); err != nil {
		f.watcher.Close()
		return nil, err
	}
	return f, nil
}

// ServerConfig returns a configuration for any provider: that of Base, with the
// certificates and trust anchors that are current when a client comes.
func (f *Files) ServerConfig() *tlsapi.ServerConfig {
	config := *f.current.Load()
	config.GetConfigForClient = f.GetConfigForClient
	return &config
}

// GetConfigForClient is for ServerConfig.GetConfigForClient. It returns the
// configuration that is current; the same one until the files change.
func (f *Files) GetConfigForClient(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
	return f.current.Load(), nil
}

// GetCertificate is for ServerConfig.GetCertificate, and for that of tls.Config,
// where nothing but the certificate shall be replaced. It returns the first one
// that the client can use, or else the first.
func (f *Files) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificates := f.current.Load().Certificates
	if len(certificates) == 0 {
		return nil, errors.New("certreload: there are no certificates among the files")
	}
	for i := range certificates {
		if hello.SupportsCertificate(&certificates[i]) == nil {
			return &certificates[i], nil
		}
	}
	return &certificates[0], nil
}

// Reload reads the files now, for a signal handler. When the error is not nil,
// what was good last stays.
func (f *Files) Reload() error {
	f.watcher.Seen()
	return f.reload()
}

// Close ends the watching; what is current stays. It waits for Reloaded.
func (f *Files) Close() error { return f.watcher.Close() }

func (o *Options) check() error {
	if len(o.Certificates) == 0 && len(o.ClientCAs) == 0 {
		return tlsapi.ConfigError("Certificates", "there are no files to watch")
	}
	if o.Base == nil {
		return nil
	}
	switch {
	case o.Base.GetConfigForClient != nil:
		return tlsapi.ConfigError("GetConfigForClient", "Base must not have one: it is how the files are taken over")
	case o.Base.GetCertificate != nil:
		return tlsapi.ConfigError("GetCertificate", "Base must not have one: it would hide the files")
	case len(o.Certificates) > 0 && o.Base.Certificates != nil:
		return tlsapi.ConfigError("Certificates", "both Base and the files have some")
	case len(o.ClientCAs) > 0 && o.Base.ClientCAs != nil:
		return tlsapi.ConfigError("ClientCAs", "both Base and the files have some")
	}
	return nil
}

func (o *Options) paths() []string {
	var paths []string
	for _, pair := range o.Certificates {
		paths = append(paths, pair.CertFile, pair.KeyFile)
	}
	return append(paths, o.ClientCAs...)
}

// reload takes the files over, whether they have changed or not.
func (f *Files) reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	config, err := f.load()
	if err != nil {
		return err
	}
	f.current.Store(config)
	return nil
}

// load makes a configuration from the files.
func (f *Files) load() (*tlsapi.ServerConfig, error) {
	var config tlsapi.ServerConfig
	if f.options.Base != nil {
		config = *f.options.Base
	}
	for _, pair := range f.options.Certificates {
		cert, err := tlsapi.LoadCertificate(pair.CertFile, pair.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = append(config.Certificates, cert)
	}
	if len(f.options.ClientCAs) > 0 {
		pool, err := tlsapi.CertPoolFromFiles(f.options.ClientCAs...)
		if err != nil {
			return nil, err
		}
		config.ClientCAs = pool
	}
	if f.options.Provider == nil {
		return &config, config.Validate()
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	unused, err := f.options.Provider.Server(near, &config)
	if err != nil {
		return nil, err
	}
	return &config, unused.Close()
}

// takeOver reloads the files after a change.
func (f *Files) takeOver() {
	err := f.reload()
	if f.options.Log != nil {
		if err != nil {
			f.options.Log.Warn("the files have changed and cannot be used; the old ones stay in use", "error", err)
		} else {
			f.options.Log.Info("took over the changed files")
		}
	}
	if f.options.Reloaded != nil {
		f.options.Reloaded(err)
	}
}
