package stdtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/polytls/polytls/internal/selection"
	"github.com/polytls/polytls/tlsapi"
)

// checkClient refuses what is wrong with every provider and what this one
// cannot honour.
func checkClient(config *tlsapi.ClientConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if err := checkFeatures(config.Features(), &config.Settings); err != nil {
		return err
	}
	if err := checkSettings(&config.Settings); err != nil {
		return err
	}
	if config.Certificate != nil {
		if err := checkKeyType("Certificate", config.Certificate); err != nil {
			return err
		}
	}
	p := parametersOf(&config.Settings)
	if p.maxVersion == tls.VersionTLS12 && slices.ContainsFunc(p.curves, tlsapi.PostQuantum) {
		return unsupportedOption("Curves", "crypto/tls does not offer post-quantum groups when TLS 1.2 is the highest version")
	}
	if config.SecondKeyShare == tlsapi.SecondKeyShareDefault {
		return nil
	}
	second := offered(p.curves, p.maxVersion).secondShare()
	switch {
	case config.SecondKeyShare == tlsapi.SecondKeyShareOn && !second:
		return unsupportedOption("SecondKeyShare", "crypto/tls sends a second share only when the first group in its own order is post-quantum and its classical half is in Curves, too")
	case config.SecondKeyShare == tlsapi.SecondKeyShareOff && second:
		return unsupportedOption("SecondKeyShare", "crypto/tls always sends a second share with these Curves; leave out the post-quantum group or its classical half")
	}
	return nil
}

func checkServer(config *tlsapi.ServerConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if err := checkFeatures(config.Features(), &config.Settings); err != nil {
		return err
	}
	if err := checkSettings(&config.Settings); err != nil {
		return err
	}
	for i := range config.Certificates {
		if err := checkKeyType("Certificates", &config.Certificates[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkFeatures is tlsapi.CheckFeatures, except that switching something off
// which this provider does not have is no use of it.
func checkFeatures(used []tlsapi.FeatureUse, s *tlsapi.Settings) error {
	used = slices.DeleteFunc(used, func(u tlsapi.FeatureUse) bool {
		return u.Option == "ConfigCacheSize" && s.ConfigCacheSize < 0
	})
	return tlsapi.CheckFeatures(Provider, used)
}

func checkSettings(s *tlsapi.Settings) error {
	p := parametersOf(s)
	if p.curves != nil {
		known := offered(nil, tls.VersionTLS13).groups
		for _, c := range p.curves {
			if !slices.Contains(known, c) {
				return unsupportedOption("Curves", "crypto/tls does not offer %s; it has %s", tlsapi.CurveName(c), curveNames(known))
			}
		}
	}
	if p.maxVersion == tls.VersionTLS12 && p.curves != nil && !slices.ContainsFunc(p.curves, func(c tlsapi.CurveID) bool { return !tlsapi.PostQuantum(c) }) {
		return tlsapi.ConfigError("Curves", "TLS 1.2 has no post-quantum groups; add a classical one or allow TLS 1.3")
	}
	for _, id := range p.cipherSuites {
		if !slices.Contains(suites13, id) && !slices.Contains(suites12, id) {
			return unsupportedOption("CipherSuites", "crypto/tls has no %s", tlsapi.CipherSuiteName(id))
		}
	}
	if p.cipherSuites != nil && p.maxVersion >= tls.VersionTLS13 {
		for _, id := range suites13 {
			if !slices.Contains(p.cipherSuites, id) {
				return unsupportedOption("CipherSuites", "crypto/tls cannot leave out %s: list all three suites of TLS 1.3, or set MaxVersion to TLS 1.2", tlsapi.CipherSuiteName(id))
			}
		}
	}
	return nil
}

func curveNames(curves []tlsapi.CurveID) string {
	var names []string
	for _, c := range curves {
		names = append(names, tlsapi.CurveName(c))
	}
	return strings.Join(names, ", ")
}

var (
	suites13 = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
	suites12 = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
)

// checkKeyType refuses keys that crypto/tls cannot sign handshakes with.
func checkKeyType(option string, cert *tls.Certificate) error {
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return tlsapi.ConfigError(option, "the certificate does not parse: %w", err)
	}
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey, ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return unsupportedOption(option, "crypto/tls cannot sign with a key on curve %s", key.Curve.Params().Name)
	}
	return unsupportedOption(option, "crypto/tls cannot sign with a key of type %T", leaf.PublicKey)
}

func unsupportedOption(option, format string, args ...any) error {
	return tlsapi.UnsupportedError(providerName, option, format, args...)
}

// parameters are the protocol parameters of a configuration with its security
// policy filled in.
type parameters struct {
	minVersion, maxVersion uint16
	cipherSuites           []uint16
	curves                 []tlsapi.CurveID
}

func parametersOf(s *tlsapi.Settings) parameters {
	if policy, ok := tlsapi.LookupPolicy(s.SecurityPolicy); ok {
		return parameters{policy.MinVersion, policy.MaxVersion, policy.CipherSuites, policy.Curves}
	}
	minimum, maximum := s.Versions()
	return parameters{minimum, maximum, s.CipherSuites, s.Curves}
}

// baseConfig returns what clients and servers share. Resumption is switched on
// for each connection.
func baseConfig(s *tlsapi.Settings) *tls.Config {
	p := parametersOf(s)
	config := &tls.Config{
		MinVersion:             p.minVersion,
		MaxVersion:             p.maxVersion,
		CurvePreferences:       p.curves,
		NextProtos:             s.ALPN,
		SessionTicketsDisabled: true,
		// conn.writeTLS has to know where records end.
		DynamicRecordSizingDisabled: blindingDelay(s) > 0,
	}
	if p.cipherSuites != nil {
		// Not nil even when empty: nil would mean crypto/tls's default.
		config.CipherSuites = []uint16{}
		for _, id := range p.cipherSuites {
			if !tlsapi.CipherSuiteTLS13(id) {
				config.CipherSuites = append(config.CipherSuites, id)
			}
		}
	}
	if s.KeyLogWriter != nil {
		config.KeyLogWriter = keyLog{s.KeyLogWriter}
	}
	return config
}

// clientPlan is what the configuration of a client is converted to. It is shared
// by connections and does not change.
type clientPlan struct {
	config   *tlsapi.ClientConfig
	standard *tls.Config
	verifier *verifier
	// sessionKey is that of the session cache, if there is one.
	sessionKey string
}

func newClientPlan(c *tlsapi.ClientConfig) (*clientPlan, error) {
	if err := checkClient(c); err != nil {
		return nil, err
	}
	v, err := clientVerifier(c)
	if err != nil {
		return nil, err
	}
	plan := &clientPlan{config: c, standard: clientTLSConfig(c), verifier: v}
	if c.SessionCache != nil {
		plan.sessionKey = c.SessionKey(providerName)
	}
	return plan, nil
}

func clientTLSConfig(c *tlsapi.ClientConfig) *tls.Config {
	config := baseConfig(&c.Settings)
	config.ServerName = c.ServerName
	// The chain and the name are verified in VerifyConnection, by verifier.
	config.InsecureSkipVerify = true
	if c.GetClientCertificate != nil {
		config.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return hookCertificate(c, request)
		}
	} else if c.Certificate != nil {
		config.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			// The server's list of CAs is a hint: the certificate goes out
			// whenever the server can check a signature with its key.
			anyCA := *request
			anyCA.AcceptableCAs = nil
			if anyCA.SupportsCertificate(c.Certificate) != nil {
				return new(tls.Certificate), nil
			}
			return c.Certificate, nil
		}
	}
	return config
}

// hookCertificate asks the hook and holds what it gives to the rules of Certificate.
func hookCertificate(c *tlsapi.ClientConfig, request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	cert, err := waitForHook(request.Context(), func() (*tls.Certificate, error) { return c.GetClientCertificate(request) })
	switch {
	case err != nil:
		return nil, rejected(alertInternalError, fmt.Errorf("GetClientCertificate: %w", err))
	case cert == nil && c.Certificate != nil:
		return c.Certificate, nil
	case cert == nil || len(cert.Certificate) == 0:
		return new(tls.Certificate), nil
	}
	if err := checkHookCertificate("GetClientCertificate", cert); err != nil {
		return nil, err
	}
	return cert, nil
}

func clientVerifier(c *tlsapi.ClientConfig) (*verifier, error) {
	if c.InsecureSkipVerify {
		return nil, nil
	}
	anchors, err := anchorsOf(c.RootCAs)
	if err != nil {
		return nil, err
	}
	v := newVerifier(anchors, x509.ExtKeyUsageServerAuth)
	v.skipNames = c.SkipHostnameVerification
	v.revocations = revocationsOf(c.RevocationLists)
	for _, name := range []string{c.ServerName, c.AlternativeName} {
		if name != "" {
			v.names = append(v.names, name)
		}
	}
	return v, nil
}

// serverPlan is what the configuration of a server is converted to. It is
// shared by connections and does not change.
type serverPlan struct {
	config   *tlsapi.ServerConfig
	standard *tls.Config
	verifier *verifier
	// binding is the TicketBinding of the configuration.
	binding [32]byte
	// chosen are those for the certificates of GetCertificate.
	chosen plans[tls.Certificate, [32]byte]
}

func newServerPlan(c *tlsapi.ServerConfig) (*serverPlan, error) {
	if err := checkServer(c); err != nil {
		return nil, err
	}
	v, err := serverVerifier(c)
	if err != nil {
		return nil, err
	}
	standard, err := serverTLSConfig(c)
	if err != nil {
		return nil, err
	}
	plan := &serverPlan{config: c, standard: standard, verifier: v}
	if c.GetCertificate != nil {
		plan.chosen = newPlans[tls.Certificate, [32]byte]()
	}
	if !c.SessionTicketsDisabled {
		plan.binding = c.TicketBinding()
	}
	return plan, nil
}

// serverTLSConfig leaves the checks of client certificates to verifier:
// crypto/tls asks for one and requires it, no more.
func serverTLSConfig(c *tlsapi.ServerConfig) (*tls.Config, error) {
	config := baseConfig(&c.Settings)
	switch c.ClientAuth {
	case tls.RequestClientCert, tls.VerifyClientCertIfGiven:
		config.ClientAuth = tls.RequestClientCert
	case tls.RequireAnyClientCert, tls.RequireAndVerifyClientCert:
		config.ClientAuth = tls.RequireAnyClientCert
	}
	if c.ClientAuth != tls.NoClientCert && c.ClientCAs != nil {
		anchors, err := anchorsOf(c.ClientCAs)
		if err != nil {
			return nil, err
		}
		// For the names in the CertificateRequest.
		config.ClientCAs = anchors.pool
	}
	return config, nil
}

func serverVerifier(c *tlsapi.ServerConfig) (*verifier, error) {
	if c.ClientAuth != tls.VerifyClientCertIfGiven && c.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, nil
	}
	anchors, err := anchorsOf(c.ClientCAs)
	if err != nil {
		return nil, err
	}
	v := newVerifier(anchors, x509.ExtKeyUsageClientAuth)
	v.skipNames = true
	v.revocations = revocationsOf(c.RevocationLists)
	return v, nil
}

// chooseCertificate asks the hook, then chooses among the certificates of the
// configuration. It returns the TicketBinding, too.
func (p *serverPlan) chooseCertificate(handshake context.Context, hello *tls.ClientHelloInfo) (*tls.Certificate, [32]byte, error) {
	if p.config.GetCertificate != nil {
		cert, err := waitForHook(handshake, func() (*tls.Certificate, error) { return p.config.GetCertificate(hello) })
		if err != nil {
			return nil, [32]byte{}, rejected(alertInternalError, fmt.Errorf("GetCertificate: %w", err))
		}
		if cert != nil {
			binding, err := p.chosen.of(cert, p.checkChosen)
			return cert, binding, err
		}
	}
	candidates := selection.Candidates(p.config.Certificates, hello, selection.ParametersOf(&p.config.Settings))
	if len(candidates) == 0 {
		return nil, [32]byte{}, tlsapi.ConfigError("Certificates", "there is none, and the hooks gave none")
	}
	return candidates[0], p.binding, nil
}

// checkChosen holds a hook's certificate to the rules for configured ones, and
// returns the TicketBinding of the configuration with it.
func (p *serverPlan) checkChosen(cert *tls.Certificate) ([32]byte, error) {
	if err := checkHookCertificate("GetCertificate", cert); err != nil {
		return [32]byte{}, err
	}
	if p.config.SessionTicketsDisabled {
		return [32]byte{}, nil
	}
	chosen := *p.config
	chosen.Certificates = []tls.Certificate{*cert}
	return chosen.TicketBinding(), nil
}

func checkHookCertificate(hook string, cert *tls.Certificate) error {
	err := (&tlsapi.ServerConfig{Certificates: []tls.Certificate{*cert}}).Validate()
	if err == nil {
		err = checkKeyType(hook, cert)
	}
	var e *tlsapi.Error
	if errors.As(err, &e) {
		e.Option = hook
	}
	return err
}

// negotiableALPN returns the list that makes crypto/tls do what the contract
// says when client and server have no protocol in common: go on without one,
// or fail when strict.
func negotiableALPN(c *tlsapi.ServerConfig, offered []string) []string {
	common := slices.ContainsFunc(c.ALPN, func(p string) bool { return slices.Contains(offered, p) })
	if common || len(offered) == 0 {
		return c.ALPN
	}
	if !c.ALPNStrict {
		return nil
	}
	// crypto/tls lets a client with http/1.1 through to a server with h2 as if
	// there were no ALPN. A name that the client has not offered has no such
	// exception.
	name := "none in common"
	for slices.Contains(offered, name) {
		name += "."
	}
	return []string{name}
}

// keyLog makes a failing key log tell apart from a failing peer.
type keyLog struct{ io.Writer }

func (l keyLog) Write(line []byte) (int, error) {
	n, err := l.Writer.Write(line)
	if err != nil {
		return n, &tlsapi.Error{Provider: providerName, Op: opHandshake, Kind: tlsapi.KindInternal, Option: "KeyLogWriter", Err: err}
	}
	return n, nil
}
