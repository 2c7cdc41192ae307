package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// defaultHandshakeTimeout keeps a silent peer from holding a command forever.
const defaultHandshakeTimeout = 10 * time.Second

// settingsFlags are the flags of the options that clients and servers share.
type settingsFlags struct {
	provider tlsapi.Provider
	settings tlsapi.Settings

	certFiles, keyFiles []string
	addSystemRoots      bool
	noTickets           bool
	psks, pskFiles      []string
	pskKind             tlsapi.PSKKind
	pskContext          string
	crlFiles            []string
	keyLogFile          string
	keyLog              *os.File // once it is open
}

func (f *settingsFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	standard, err := providers.Lookup("std")
	if err != nil {
		panic(err) // "std" has no build tag: it is always compiled in.
	}
	f.provider = standard
	parsedVar(flags, &f.provider, "provider", "name", "std", providers.Lookup,
		"the TLS library: "+strings.Join(providers.Names(), ", "))
	complete(cmd, "provider", providers.Names())

	s := &f.settings
	parsedVar(flags, &s.ALPN, "alpn", "list", "", parseALPN,
		"application protocols in order of preference, separated by commas; or one of the presets H1, H2, H2H1")
	parsedVar(flags, &s.Curves, "curves", "list", "", tlsapi.ParseCurves,
		"groups for the key exchange in order of preference, separated by colons or commas: X25519MLKEM768:X25519:P-256")
	parsedVar(flags, &s.MinVersion, "min-version", "version", "", tlsapi.ParseVersion,
		"lowest protocol version, 1.2 or 1.3 (default 1.2)")
	parsedVar(flags, &s.MaxVersion, "max-version", "version", "", tlsapi.ParseVersion,
		"highest protocol version, 1.2 or 1.3 (default 1.3)")
	complete(cmd, "min-version", []string{"1.2", "1.3"})
	complete(cmd, "max-version", []string{"1.2", "1.3"})
	parsedVar(flags, &s.CipherSuites, "ciphers", "list", "", tlsapi.ParseCipherSuites,
		"cipher suites by IANA name in order of preference, for TLS 1.2 and 1.3, separated by colons or commas")
	parsedVar(flags, &s.SignatureSchemes, "signature-schemes", "list", "", tlsapi.ParseSignatureSchemes,
		"signature schemes by IANA name in order of preference, separated by colons or commas")
	flags.StringVar(&s.SecurityPolicy, "security-policy", "",
		"policy `name`: intermediate, modern, or with provider s2n the name of one of its policies; not together with versions, suites, curves and schemes")
	complete(cmd, "security-policy", []string{tlsapi.PolicyIntermediate, tlsapi.PolicyModern})
	flags.StringArrayVar(&f.crlFiles, "crl", nil,
		"`file` with certificate revocation lists, PEM or DER, to check the peer's chain with: every certificate then needs a current list of its issuer; may be repeated (default: no check of revocation)")
	flags.DurationVar(&s.MaxBlindingDelay, "max-blinding-delay", 0,
		"longest `time` between a fatal TLS error and the close of the connection, such as 10s; 0 is the provider's default (s2n: 30s, others: none), negative turns it off")
	flags.DurationVar(&s.HandshakeTimeout, "handshake-timeout", defaultHandshakeTimeout,
		"longest `time` for a handshake, such as 500ms; 0 for no limit")
	flags.IntVar(&s.ConfigCacheSize, "config-cache-size", 0,
		"most native contexts that the provider keeps for later connections; 0 is the default of 64, negative keeps none")
	flags.BoolVar(&s.RequirePSK, "require-psk", false, "fail handshakes that do not use one of the pre-shared keys")

	flags.StringArrayVar(&f.pskFiles, "psk-file", nil,
		"`file` with a pre-shared key ID:HEX[:sha256|sha384] per line, # for comments; may be repeated")
	flags.StringArrayVar(&f.psks, "psk", nil,
		"a pre-shared `key`, ID:HEX[:sha256|sha384], the identity percent-encoded; may be repeated. Other users see it in the list of processes: prefer --psk-file")
	parsedVar(flags, &f.pskKind, "psk-kind", "kind", "external", parsePSKKind,
		"kind of the pre-shared keys: external (RFC 8446), imported (RFC 9258) or tls12")
	complete(cmd, "psk-kind", []string{"external", "imported", "tls12"})
	flags.StringVar(&f.pskContext, "psk-context", "", "`context` of pre-shared keys of kind imported: both ends need the same")
	flags.BoolVar(&f.noTickets, "no-tickets", false, "no session tickets, no resumption")
	flags.StringVar(&f.keyLogFile, "key-log", "",
		"append the TLS secrets to this `file` in NSS key log format, for debugging: it breaks the security of the connections")
	markFiles(cmd, "crl", "psk-file", "key-log")
}

// resolve reads the files that the flags name and returns the settings.
func (f *settingsFlags) resolve(cmd *cobra.Command) (tlsapi.Settings, error) {
	settings := f.settings
	var err error
	if settings.PSKs, err = readPSKs(f.psks, f.pskFiles, f.pskKind); err != nil {
		return settings, err
	}
	if len(settings.PSKs) == 0 && cmd.Flags().Changed("psk-kind") {
		return settings, &usageError{optionErrorf("psk-kind", "it says nothing without --psk or --psk-file")}
	}
	if f.pskContext != "" {
		if len(settings.PSKs) == 0 || f.pskKind != tlsapi.PSKImported {
			return settings, &usageError{optionErrorf("psk-context", "only keys of --psk-kind imported have a context")}
		}
		for i := range settings.PSKs {
			settings.PSKs[i].Context = []byte(f.pskContext)
		}
	}
	if settings.RevocationLists, err = readRevocationLists(f.crlFiles); err != nil {
		return settings, &optionError{"crl", err}
	}
	if f.keyLogFile != "" {
		// The file stays open until the process ends: connections write to it
		// to their end.
		if f.keyLog == nil {
			if f.keyLog, err = os.OpenFile(f.keyLogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
				return settings, &optionError{"key-log", err}
			}
		}
		settings.KeyLogWriter = f.keyLog
	}
	return settings, nil
}

// certificates loads the pairs of --cert and --key. Without any --key the keys
// are in the certificate files.
func (f *settingsFlags) certificates() ([]tls.Certificate, error) {
	keys := f.keyFiles
	switch {
	case len(keys) == 0:
		keys = f.certFiles
	case len(f.certFiles) == 0:
		return nil, &usageError{optionErrorf("key", "%s: there is no --cert to go with it", keys[0])}
	case len(keys) != len(f.certFiles):
		return nil, usagef("--cert is given %d times and --key %d times: give one key per certificate, or no --key when the certificate files hold the keys",
			len(f.certFiles), len(keys))
	}
	var certificates []tls.Certificate
	for i, file := range f.certFiles {
		cert, err := tlsapi.LoadCertificate(file, keys[i])
		if err != nil {
			return nil, &entryError{i, &optionError{"cert", cause(err)}}
		}
		certificates = append(certificates, cert)
	}
	return certificates, nil
}

// certPool reads the files of the flag; nil without files and system roots.
func certPool(flag string, files []string, system bool) (*tlsapi.CertPool, error) {
	if len(files) == 0 && !system {
		return nil, nil
	}
	pool, err := tlsapi.CertPoolFromFiles(files...)
	if err != nil {
		return nil, &optionError{flag, cause(err)}
	}
	if system {
		pool.AddSystemRoots()
	}
	return pool, nil
}

// clientFlags are all flags of a TLS client.
type clientFlags struct {
	settingsFlags
	config      tlsapi.ClientConfig
	caFiles     []string
	sessionFile string
	sessions    *sessionFile // once it is open
}

func (f *clientFlags) register(cmd *cobra.Command) {
	f.settingsFlags.register(cmd)
	flags, c := cmd.Flags(), &f.config
	parsedVar(flags, &c.ServerName, "servername", "name", "", parseName,
		"name to send as SNI and to verify (default: the host that is connected to); empty only with one of the two skip switches")
	parsedVar(flags, &c.AlternativeName, "alternative-name", "name", "", parseName,
		"DNS name or IP address that the certificate may hold instead of the server name; the SNI stays")
	flags.BoolVar(&c.InsecureSkipVerify, "insecure-skip-verify", false,
		"verify neither the certificate chain nor the name: anybody can then impersonate the server")
	flags.BoolVar(&c.SkipHostnameVerification, "skip-hostname", false,
		"do not verify the name; the chain is verified still")
	flags.StringArrayVar(&f.caFiles, "ca", nil,
		"`file` with trusted CA certificates, PEM or DER, instead of the system's; may be repeated")
	flags.BoolVar(&f.addSystemRoots, "add-system-roots", false, "trust the system's CAs as well as those of --ca")
	flags.StringArrayVar(&f.certFiles, "cert", nil, "`file` with the client certificate and its chain, PEM or DER")
	flags.StringArrayVar(&f.keyFiles, "key", nil, "`file` with the key of --cert, PEM or DER (default: the file of --cert)")
	parsedVar(flags, &c.SecondKeyShare, "second-key-share", "choice", "default", parseSecondKeyShare,
		"whether the first ClientHello carries a second key share, one post-quantum and one classical: default, on or true, off or false")
	complete(cmd, "second-key-share", []string{"default", "on", "off"})
	flags.StringVar(&f.sessionFile, "session-file", "",
		"`file` that keeps sessions for resumption between runs; it holds secrets")
	markFiles(cmd, "ca", "cert", "key", "session-file")
}

// clientConfig reads the files that the flags name and returns the
// configuration. host is the default server name.
func (f *clientFlags) clientConfig(cmd *cobra.Command, host string) (*tlsapi.ClientConfig, error) {
	config := f.config
	if !cmd.Flags().Changed("servername") {
		config.ServerName = host
	}
	if len(f.certFiles) > 1 {
		return nil, &usageError{optionErrorf("cert", "it is given %d times: a client has one certificate", len(f.certFiles))}
	}
	var err error
	if config.Settings, err = f.resolve(cmd); err != nil {
		return nil, err
	}
	if config.RootCAs, err = certPool("ca", f.caFiles, f.addSystemRoots); err != nil {
		return nil, err
	}
	certificates, err := f.certificates()
	if err != nil {
		return nil, err
	}
	if len(certificates) == 1 {
		config.Certificate = &certificates[0]
	}
	config.SessionTicketsDisabled = f.noTickets
	if f.sessionFile != "" {
		if f.sessions == nil {
			if f.sessions, err = openSessionFile(f.sessionFile, cmd.ErrOrStderr()); err != nil {
				return nil, &optionError{"session-file", err}
			}
		}
		config.SessionCache = f.sessions
	}
	if err := config.Validate(); err != nil {
		return nil, contradiction(err)
	}
	return &config, nil
}

// serverFlags are all flags of a TLS server.
type serverFlags struct {
	settingsFlags
	config        tlsapi.ServerConfig
	clientCAFiles []string
	ocspFiles     []string
	ticketKeyFile string
}

func (f *serverFlags) register(cmd *cobra.Command) {
	f.settingsFlags.register(cmd)
	flags, c := cmd.Flags(), &f.config
	flags.StringArrayVar(&f.certFiles, "cert", nil,
		"`file` with a server certificate and its chain, PEM or DER; may be repeated, each with its --key: the one for a client is chosen by name and key type")
	flags.StringArrayVar(&f.keyFiles, "key", nil, "`file` with the key of --cert, PEM or DER (default: the file of --cert)")
	flags.StringArrayVar(&f.ocspFiles, "ocsp", nil,
		"`file` with the OCSP response to staple, DER; may be repeated: the first belongs to the first --cert, and so on; an empty name leaves a certificate without one")
	parsedVar(flags, &c.ClientAuth, "client-auth", "mode", "none", parseClientAuth,
		"whether clients are asked for a certificate: "+strings.Join(clientAuthWords, ", "))
	complete(cmd, "client-auth", clientAuthWords)
	flags.StringArrayVar(&f.clientCAFiles, "client-ca", nil,
		"`file` with the CA certificates that clients are verified against, PEM or DER; may be repeated. The system's are not trusted for clients")
	flags.BoolVar(&f.addSystemRoots, "add-system-roots", false, "trust the system's CAs for clients, too")
	flags.BoolVar(&c.ALPNStrict, "alpn-strict", false, "refuse clients that offer application protocols, but none of --alpn")
	flags.StringVar(&f.ticketKeyFile, "ticket-key-file", "",
		"`file` with the secrets for session tickets, 64 hexadecimal digits per line: the first encrypts, all decrypt (default: random ones). To rotate them, put a new one in front, drop the last, and send SIGHUP")
	markFiles(cmd, "cert", "key", "ocsp", "client-ca", "ticket-key-file")
}

// serverConfig reads the files that the flags name and returns the
// configuration.
func (f *serverFlags) serverConfig(cmd *cobra.Command) (*tlsapi.ServerConfig, error) {
	config := f.config
	if config.ClientAuth == tls.NoClientCert && (len(f.clientCAFiles) > 0 || f.addSystemRoots) {
		return nil, &usageError{optionErrorf("client-auth", "CAs for clients are given, but clients are not asked for a certificate: choose require-and-verify (or another mode)")}
	}
	var err error
	if config.Settings, err = f.resolve(cmd); err != nil {
		return nil, err
	}
	if config.Certificates, err = f.certificates(); err != nil {
		return nil, err
	}
	if len(f.ocspFiles) > len(config.Certificates) {
		return nil, usagef("--ocsp is given %d times and --cert %d times: a response belongs to a certificate", len(f.ocspFiles), len(config.Certificates))
	}
	for i, file := range f.ocspFiles {
		if config.Certificates[i].OCSPStaple, err = readOCSPResponse(file); err != nil {
			return nil, &entryError{i, &optionError{"ocsp", err}}
		}
	}
	if len(config.Certificates) == 0 && len(config.PSKs) == 0 {
		return nil, usagef("--cert and --key are missing: a server needs a certificate, or pre-shared keys")
	}
	if config.ClientCAs, err = certPool("client-ca", f.clientCAFiles, f.addSystemRoots); err != nil {
		return nil, err
	}
	config.SessionTicketsDisabled = f.noTickets
	if f.ticketKeyFile != "" {
		if config.SessionTicketKeys, err = readTicketKeys(f.ticketKeyFile); err != nil {
			return nil, &optionError{"ticket-key-file", err}
		}
	}
	if err := config.Validate(); err != nil {
		return nil, contradiction(err)
	}
	return &config, nil
}

// optionFlags are the flags behind the options of a configuration. Functions
// have none: they are for programs. The list is also what docs/OPTIONS.md tells
// the flags from.
var optionFlags = map[string]string{
	"ALPN":                     "--alpn",
	"ALPNStrict":               "--alpn-strict",
	"AlternativeName":          "--alternative-name",
	"Certificate":              "--cert",
	"Certificates":             "--cert",
	"CipherSuites":             "--ciphers",
	"ClientAuth":               "--client-auth",
	"ClientCAs":                "--client-ca",
	"ConfigCacheSize":          "--config-cache-size",
	"Curves":                   "--curves",
	"HandshakeTimeout":         "--handshake-timeout",
	"InsecureSkipVerify":       "--insecure-skip-verify",
	"KeyLogWriter":             "--key-log",
	"MaxBlindingDelay":         "--max-blinding-delay",
	"MaxVersion":               "--max-version",
	"MinVersion":               "--min-version",
	"PSKs":                     "--psk",
	"RequirePSK":               "--require-psk",
	"RevocationLists":          "--crl",
	"RootCAs":                  "--ca",
	"SecondKeyShare":           "--second-key-share",
	"SecurityPolicy":           "--security-policy",
	"ServerName":               "--servername",
	"SessionCache":             "--session-file",
	"SessionTicketKeys":        "--ticket-key-file",
	"SessionTicketsDisabled":   "--no-tickets",
	"SignatureSchemes":         "--signature-schemes",
	"SkipHostnameVerification": "--skip-hostname",
}

// contradiction turns a configuration's own error into one about flags.
func contradiction(err error) error {
	var e *tlsapi.Error
	if errors.As(err, &e) && optionFlags[e.Option] != "" {
		return &usageError{&optionError{strings.TrimPrefix(optionFlags[e.Option], "--"), cause(err)}}
	}
	return &usageError{err}
}

// optionError is an error of one option, by the name of its flag.
type optionError struct {
	flag string
	err  error
}

func optionErrorf(flag, format string, args ...any) error {
	return &optionError{flag, fmt.Errorf(format, args...)}
}

func (e *optionError) Error() string { return "--" + e.flag + ": " + e.err.Error() }
func (e *optionError) Unwrap() error { return e.err }

// entryError is an error of one use of a flag that may be repeated. It reads as
// the error itself.
type entryError struct {
	index int
	err   error
}

func (e *entryError) Error() string { return e.err.Error() }
func (e *entryError) Unwrap() error { return e.err }

// cause takes the frame off an error of a parser: the flag's name takes its
// place.
func cause(err error) error {
	var e *tlsapi.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}

var clientAuthWords = []string{"none", "request", "require-any", "verify-if-given", "require-and-verify"}

func parseClientAuth(word string) (tls.ClientAuthType, error) {
	modes := []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert,
		tls.VerifyClientCertIfGiven, tls.RequireAndVerifyClientCert}
	for i, w := range clientAuthWords {
		if w == word {
			return modes[i], nil
		}
	}
	return 0, fmt.Errorf("unknown mode; known are %s", strings.Join(clientAuthWords, ", "))
}

func parseSecondKeyShare(word string) (tlsapi.SecondKeyShare, error) {
	switch word {
	case "default":
		return tlsapi.SecondKeyShareDefault, nil
	case "on", "true":
		return tlsapi.SecondKeyShareOn, nil
	case "off", "false":
		return tlsapi.SecondKeyShareOff, nil
	}
	return 0, errors.New("unknown value; known are default, on, off, true, false")
}

func parsePSKKind(word string) (tlsapi.PSKKind, error) {
	for _, kind := range []tlsapi.PSKKind{tlsapi.PSKExternal, tlsapi.PSKImported, tlsapi.PSKTLS12} {
		if kind.String() == word {
			return kind, nil
		}
	}
	return 0, errors.New("unknown kind; known are external, imported, tls12")
}

func parseALPN(list string) ([]string, error) {
	switch list {
	case "H1":
		return tlsapi.ALPNH1(), nil
	case "H2":
		return tlsapi.ALPNH2(), nil
	case "H2H1":
		return tlsapi.ALPNH2H1(), nil
	}
	protocols := strings.Split(list, ",")
	return protocols, checkAlone(tlsapi.ClientConfig{Settings: tlsapi.Settings{ALPN: protocols}})
}

func parseName(name string) (string, error) {
	return name, checkAlone(tlsapi.ClientConfig{ServerName: name})
}

// checkAlone validates a configuration that holds one option only, so that the
// contract's own rules name the flag that breaks them.
func checkAlone(config tlsapi.ClientConfig) error {
	config.InsecureSkipVerify = true
	return config.Validate()
}

// parsedFlag is a flag whose text is parsed when it is read, so that the error
// names flag and text.
type parsedFlag[T any] struct {
	target *T
	parse  func(string) (T, error)
	kind   string
	text   string
}

// parsedVar adds a flag; initial is what the help shows as the default, the
// value of target is left as it is.
func parsedVar[T any](flags *pflag.FlagSet, target *T, name, kind, initial string, parse func(string) (T, error), usage string) {
	flags.Var(&parsedFlag[T]{target: target, parse: parse, kind: kind, text: initial}, name, usage)
}

func (f *parsedFlag[T]) Set(text string) error {
	value, err := f.parse(text)
	if err != nil {
		return cause(err)
	}
	*f.target, f.text = value, text
	return nil
}

func (f *parsedFlag[T]) String() string { return f.text }
func (f *parsedFlag[T]) Type() string   { return f.kind }

// flagValues is the annotation with the values that complete has been given.
const flagValues = "polytls_values"

// complete makes the shell complete the values of a flag. cobra is told of them by
// registerCompletions: it keeps flags for good, and with them what they have been
// set to, but those of a configuration file end with it.
func complete(cmd *cobra.Command, flag string, values []string) {
	if err := cmd.Flags().SetAnnotation(flag, flagValues, values); err != nil {
		panic(err) // The flag does not exist: a mistake in this package.
	}
}

// registerCompletions makes the shell complete the values of the flags of a command
// and of those below it.
func registerCompletions(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		values, ok := f.Annotations[flagValues]
		if !ok {
			return
		}
		if err := cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // It was registered before: a mistake in this package.
		}
	})
	for _, sub := range cmd.Commands() {
		registerCompletions(sub)
	}
}

// markFiles makes the shell complete the values of flags with file names.
func markFiles(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.MarkFlagFilename(flag); err != nil {
			panic(err) // The flag does not exist: a mistake in this package.
		}
	}
}
