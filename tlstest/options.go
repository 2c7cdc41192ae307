package tlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// namedPolicy is a policy of s2n-tls that has TLS 1.2 and 1.3 in all its
// versions since 2021.
const namedPolicy = "CloudFront-TLS-1-2-2021"

// settingExamples holds values for every field of tlsapi.Settings, so that a
// new field cannot be forgotten.
func settingExamples() map[string][]func(*tlsapi.Settings) {
	set := func(f ...func(*tlsapi.Settings)) []func(*tlsapi.Settings) { return f }
	psk := func(kind tlsapi.PSKKind) func(*tlsapi.Settings) {
		return func(s *tlsapi.Settings) {
			s.PSKs = []tlsapi.PSK{{Identity: []byte("identity"), Secret: bytes.Repeat([]byte{7}, 32), Kind: kind}}
		}
	}
	return map[string][]func(*tlsapi.Settings){
		"MinVersion": set(
			func(s *tlsapi.Settings) { s.MinVersion = tls.VersionTLS12 },
			func(s *tlsapi.Settings) { s.MinVersion = tls.VersionTLS13 }),
		"MaxVersion": set(
			func(s *tlsapi.Settings) { s.MaxVersion = tls.VersionTLS12 },
			func(s *tlsapi.Settings) { s.MaxVersion = tls.VersionTLS13 }),
		"CipherSuites": set(func(s *tlsapi.Settings) {
			s.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}),
		"Curves":           set(func(s *tlsapi.Settings) { s.Curves = []tlsapi.CurveID{tlsapi.X25519, tlsapi.CurveP256} }),
		"SignatureSchemes": set(func(s *tlsapi.Settings) { s.SignatureSchemes = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256} }),
		"SecurityPolicy": set(
			func(s *tlsapi.Settings) { s.SecurityPolicy = tlsapi.PolicyIntermediate },
			func(s *tlsapi.Settings) { s.SecurityPolicy = tlsapi.PolicyModern },
			func(s *tlsapi.Settings) { s.SecurityPolicy = namedPolicy }),
		"ALPN":       set(func(s *tlsapi.Settings) { s.ALPN = tlsapi.ALPNH2H1() }),
		"PSKs":       set(psk(tlsapi.PSKExternal), psk(tlsapi.PSKImported), psk(tlsapi.PSKTLS12)),
		"RequirePSK": set(func(s *tlsapi.Settings) { psk(tlsapi.PSKExternal)(s); s.RequirePSK = true }),
		"MaxBlindingDelay": set(
			func(s *tlsapi.Settings) { s.MaxBlindingDelay = time.Second },
			func(s *tlsapi.Settings) { s.MaxBlindingDelay = -1 }),
		"ConfigCacheSize": set(
			func(s *tlsapi.Settings) { s.ConfigCacheSize = 3 },
			func(s *tlsapi.Settings) { s.ConfigCacheSize = -1 }),
		"HandshakeTimeout":  set(func(s *tlsapi.Settings) { s.HandshakeTimeout = time.Minute }),
		"KeyLogWriter":      set(func(s *tlsapi.Settings) { s.KeyLogWriter = io.Discard }),
		"VerifyConnection":  set(func(s *tlsapi.Settings) { s.VerifyConnection = func(tls.ConnectionState) error { return nil } }),
		"HandshakeComplete": set(func(s *tlsapi.Settings) { s.HandshakeComplete = func(tlsapi.ConnectionInfo) {} }),
		"HandshakeFailed":   set(func(s *tlsapi.Settings) { s.HandshakeFailed = func(error) {} }),
	}
}

func (s *suite) clientExamples() map[string][]func(*tlsapi.ClientConfig) {
	set := func(f ...func(*tlsapi.ClientConfig)) []func(*tlsapi.ClientConfig) { return f }
	examples := map[string][]func(*tlsapi.ClientConfig){
		"ServerName":               set(func(c *tlsapi.ClientConfig) { c.ServerName = "other.example" }),
		"AlternativeName":          set(func(c *tlsapi.ClientConfig) { c.AlternativeName = "192.0.2.1" }),
		"InsecureSkipVerify":       set(func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }),
		"SkipHostnameVerification": set(func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true }),
		"RootCAs":                  set(func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(s.ca) }),
		"Certificate": set(
			func(c *tlsapi.ClientConfig) { c.Certificate = &s.clientCert },
			func(c *tlsapi.ClientConfig) { c.Certificate = withSigner(s.clientCert) }),
		"GetClientCertificate": set(func(c *tlsapi.ClientConfig) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, nil }
		}),
		"SecondKeyShare": set(
			func(c *tlsapi.ClientConfig) { c.SecondKeyShare = tlsapi.SecondKeyShareOn },
			func(c *tlsapi.ClientConfig) { c.SecondKeyShare = tlsapi.SecondKeyShareOff }),
		"SessionTicketsDisabled": set(func(c *tlsapi.ClientConfig) { c.SessionTicketsDisabled = true }),
		"SessionCache":           set(func(c *tlsapi.ClientConfig) { c.SessionCache = noSessions{} }),
	}
	examples["RevocationLists"] = set(func(c *tlsapi.ClientConfig) { c.RevocationLists = s.revocationLists })
	for name, list := range settingExamples() {
		for _, f := range list {
			examples[name] = append(examples[name], func(c *tlsapi.ClientConfig) { f(&c.Settings) })
		}
	}
	return examples
}

func (s *suite) serverExamples() map[string][]func(*tlsapi.ServerConfig) {
	set := func(f ...func(*tlsapi.ServerConfig)) []func(*tlsapi.ServerConfig) { return f }
	examples := map[string][]func(*tlsapi.ServerConfig){
		"Certificates": set(
			func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{s.certs[RSA]} },
			func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{s.certs[ECDSA], s.certs[RSA]} },
			func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{*withSigner(s.certs[ECDSA])} },
			func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{stapled(s.certs[ECDSA], staple)} }),
		"GetCertificate": set(func(c *tlsapi.ServerConfig) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
		}),
		"GetConfigForClient": set(func(c *tlsapi.ServerConfig) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return nil, nil }
		}),
		"ClientAuth": set(
			func(c *tlsapi.ServerConfig) { c.ClientAuth = tls.RequestClientCert },
			func(c *tlsapi.ServerConfig) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca) }),
		"ClientCAs":              set(func(c *tlsapi.ServerConfig) { c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, Pool(s.ca) }),
		"ALPNStrict":             set(func(c *tlsapi.ServerConfig) { c.ALPN, c.ALPNStrict = tlsapi.ALPNH2(), true }),
		"SessionTicketsDisabled": set(func(c *tlsapi.ServerConfig) { c.SessionTicketsDisabled = true }),
		"SessionTicketKeys":      set(func(c *tlsapi.ServerConfig) { c.SessionTicketKeys = [][32]byte{{1, 2, 3}} }),
	}
	examples["RevocationLists"] = set(func(c *tlsapi.ServerConfig) {
		c.ClientAuth, c.ClientCAs, c.RevocationLists = tls.VerifyClientCertIfGiven, Pool(s.ca), s.revocationLists
	})
	for name, list := range settingExamples() {
		for _, f := range list {
			examples[name] = append(examples[name], func(c *tlsapi.ServerConfig) { f(&c.Settings) })
		}
	}
	return examples
}

// testOptions sets every option and tests that the provider either accepts it
// or refuses it as it declares, before a byte is sent.
func (s *suite) testOptions(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		examples := s.clientExamples()
		for _, field := range fieldNames(reflect.TypeFor[tlsapi.ClientConfig]()) {
			require.NotEmpty(t, examples[field], "there is no example of the option %s", field)
			for _, set := range examples[field] {
				config := s.clientConfig(set)
				t.Run(exampleName(field, config.Features()), func(t *testing.T) {
					require.NoError(t, config.Validate(), "the example is wrong")
					s.requireHonest(t, config.Features(), switchesOff(field, &config.Settings), func(w *Transport) (tlsapi.Conn, error) {
						return s.p.Client(w, config)
					})
				})
			}
		}
	})
	t.Run("server", func(t *testing.T) {
		examples := s.serverExamples()
		for _, field := range fieldNames(reflect.TypeFor[tlsapi.ServerConfig]()) {
			require.NotEmpty(t, examples[field], "there is no example of the option %s", field)
			for _, set := range examples[field] {
				config := s.serverConfig(set)
				t.Run(exampleName(field, config.Features()), func(t *testing.T) {
					require.NoError(t, config.Validate(), "the example is wrong")
					s.requireHonest(t, config.Features(), switchesOff(field, &config.Settings), func(w *Transport) (tlsapi.Conn, error) {
						return s.p.Server(w, config)
					})
				})
			}
		}
	})
	t.Run("wrong", s.testWrongOptions)
}

// switchesOff reports whether the option's value turns something off: a provider
// that does not have it honours that as well as one that refuses it.
func switchesOff(option string, c *tlsapi.Settings) bool {
	return option == "MaxBlindingDelay" && c.MaxBlindingDelay < 0 || option == "ConfigCacheSize" && c.ConfigCacheSize < 0
}

// requireHonest fails the test unless make accepts or refuses the options as
// the provider declares.
func (s *suite) requireHonest(t *testing.T, used []tlsapi.FeatureUse, off bool, make func(*Transport) (tlsapi.Conn, error)) {
	t.Helper()
	wire, _ := newWire(t)
	conn, err := make(wire)
	if i := slices.IndexFunc(used, func(u tlsapi.FeatureUse) bool { return !s.supported(u.Feature) }); i >= 0 && !(off && err == nil) {
		if conn != nil {
			t.Cleanup(func() { conn.Close() })
			require.Fail(t, "an option that is declared as unsupported was accepted", "%v", used[i])
		}
		e := s.requireKind(t, err, tlsapi.KindUnsupported)
		require.True(t, errors.Is(err, errors.ErrUnsupported))
		refused := slices.ContainsFunc(used, func(u tlsapi.FeatureUse) bool {
			return u.Option == e.Option && !s.supported(u.Feature)
		})
		assert.True(t, refused, "the error names option %q, which is supported: %v", e.Option, err)
		requireUntouched(t, wire)
		return
	}
	if err != nil {
		requireUntouched(t, wire)
	}
	var limits []string
	if slices.ContainsFunc(used, func(u tlsapi.FeatureUse) bool { return u.Feature == tlsapi.ClientSecondKeyShareOn }) {
		limits = sharesNotes
	}
	s.acceptRefusal(t, err, used, limits...)
	// A connection that never did a handshake has nothing to say.
	assert.NoError(t, conn.Close())
	assert.Empty(t, wire.Written())
	assert.True(t, isClosed(wire.Closed()))
}

// requireUntouched tests that a transport still belongs to the caller.
func requireUntouched(t *testing.T, wire *Transport) {
	t.Helper()
	assert.Empty(t, wire.Written(), "a refused configuration must not send anything")
	assert.False(t, isClosed(wire.Closed()), "a refused configuration must not close the caller's transport")
}

// requireClientRefusal tests that a client configuration is refused with an
// error that names the option, before anything is sent.
func (s *suite) requireClientRefusal(t *testing.T, config *tlsapi.ClientConfig, kind tlsapi.Kind, option string) {
	t.Helper()
	wire, _ := newWire(t)
	conn, err := s.p.Client(wire, config)
	s.requireRefusal(t, conn, err, wire, kind, option)
}

// requireServerRefusal is the same for a server.
func (s *suite) requireServerRefusal(t *testing.T, config *tlsapi.ServerConfig, kind tlsapi.Kind, option string) {
	t.Helper()
	wire, _ := newWire(t)
	conn, err := s.p.Server(wire, config)
	s.requireRefusal(t, conn, err, wire, kind, option)
}

func (s *suite) requireRefusal(t *testing.T, conn tlsapi.Conn, err error, wire *Transport, kind tlsapi.Kind, option string) {
	t.Helper()
	require.Error(t, err)
	require.Nil(t, conn)
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e)
	if e.Kind == tlsapi.KindUnsupported && kind == tlsapi.KindConfig && !s.supportsOption(option) {
		// That the option is unknown is an answer as good.
		kind = tlsapi.KindUnsupported
	}
	assert.Equal(t, kind, e.Kind, "%v", err)
	assert.Equal(t, option, e.Option, "%v", err)
	assert.Contains(t, err.Error(), option)
	requireUntouched(t, wire)
}

// supportsOption reports whether the provider supports all features of an
// option that its examples use.
func (s *suite) supportsOption(option string) bool {
	var used []tlsapi.FeatureUse
	for _, set := range s.clientExamples()[option] {
		used = append(used, s.clientConfig(set).Features()...)
	}
	for _, set := range s.serverExamples()[option] {
		used = append(used, s.serverConfig(set).Features()...)
	}
	return !slices.ContainsFunc(used, func(u tlsapi.FeatureUse) bool { return u.Option == option && !s.supported(u.Feature) })
}

// testWrongOptions sets values that are mistakes with every provider.
func (s *suite) testWrongOptions(t *testing.T) {
	settings := []struct {
		name, option string
		set          func(*tlsapi.Settings)
	}{
		{"version too low", "MinVersion", func(c *tlsapi.Settings) { c.MinVersion = tls.VersionTLS11 }},
		{"version unknown", "MaxVersion", func(c *tlsapi.Settings) { c.MaxVersion = 0x0305 }},
		{"versions crossed", "MinVersion", func(c *tlsapi.Settings) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS12
		}},
		{"curves empty", "Curves", func(c *tlsapi.Settings) { c.Curves = []tlsapi.CurveID{} }},
		{"curve unknown", "Curves", func(c *tlsapi.Settings) { c.Curves = []tlsapi.CurveID{tlsapi.X25519, 0x1234} }},
		{"curve zero", "Curves", func(c *tlsapi.Settings) { c.Curves = []tlsapi.CurveID{0} }},
		{"curve twice", "Curves", func(c *tlsapi.Settings) {
			c.Curves = []tlsapi.CurveID{tlsapi.CurveP256, tlsapi.X25519, tlsapi.CurveP256}
		}},
		{"suite twice", "CipherSuites", func(c *tlsapi.Settings) {
			c.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}},
		{"suite unsafe", "CipherSuites", func(c *tlsapi.Settings) {
			c.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_RC4_128_SHA}
		}},
		{"no suite for TLS 1.2", "CipherSuites", func(c *tlsapi.Settings) { c.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256} }},
		{"no suite for TLS 1.3", "CipherSuites", func(c *tlsapi.Settings) {
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}},
		{"scheme twice", "SignatureSchemes", func(c *tlsapi.Settings) {
			c.SignatureSchemes = []tls.SignatureScheme{tls.Ed25519, tls.Ed25519}
		}},
		{"scheme unsafe", "SignatureSchemes", func(c *tlsapi.Settings) { c.SignatureSchemes = []tls.SignatureScheme{tls.PKCS1WithSHA1} }},
		{"protocol empty", "ALPN", func(c *tlsapi.Settings) { c.ALPN = []string{"h2", ""} }},
		{"protocol too long", "ALPN", func(c *tlsapi.Settings) { c.ALPN = []string{string(make([]byte, 256))} }},
		{"protocol twice", "ALPN", func(c *tlsapi.Settings) { c.ALPN = []string{"h2", "h2"} }},
		{"negative timeout", "HandshakeTimeout", func(c *tlsapi.Settings) { c.HandshakeTimeout = -1 }},
		{"policy with a version", "SecurityPolicy", func(c *tlsapi.Settings) {
			c.SecurityPolicy, c.MinVersion = tlsapi.PolicyModern, tls.VersionTLS12
		}},
		{"PSK too short", "PSKs", func(c *tlsapi.Settings) {
			c.PSKs = []tlsapi.PSK{{Identity: []byte("a"), Secret: []byte("short")}}
		}},
		{"PSK required without any", "RequirePSK", func(c *tlsapi.Settings) { c.RequirePSK = true }},
	}
	mismatched := s.certs[ECDSA]
	mismatched.PrivateKey = newKey(t, ECDSA)
	keyless := s.certs[ECDSA]
	keyless.PrivateKey = nil
	garbled := s.certs[ECDSA]
	garbled.Certificate = [][]byte{[]byte("garbage")}
	weak := s.ca.Leaf(t, Spec{Key: RSA1024, DNSNames: []string{serverName}})
	badCertificates := map[string]tls.Certificate{
		"empty certificate": {}, "wrong key": mismatched, "no key": keyless, "garbled certificate": garbled, "weak key": weak,
	}
	t.Run("client", func(t *testing.T) {
		for _, c := range settings {
			t.Run(c.name, func(t *testing.T) {
				config := s.clientConfig(func(config *tlsapi.ClientConfig) { c.set(&config.Settings) })
				s.requireClientRefusal(t, config, tlsapi.KindConfig, c.option)
			})
		}
		for name, cert := range badCertificates {
			t.Run(name, func(t *testing.T) {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.Certificate = &cert })
				s.requireClientRefusal(t, config, tlsapi.KindConfig, "Certificate")
			})
		}
		t.Run("nil", func(t *testing.T) { s.requireClientRefusal(t, nil, tlsapi.KindConfig, "") })
	})
	t.Run("server", func(t *testing.T) {
		for _, c := range settings {
			t.Run(c.name, func(t *testing.T) {
				config := s.serverConfig(func(config *tlsapi.ServerConfig) { c.set(&config.Settings) })
				s.requireServerRefusal(t, config, tlsapi.KindConfig, c.option)
			})
		}
		for name, cert := range badCertificates {
			t.Run(name, func(t *testing.T) {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} })
				s.requireServerRefusal(t, config, tlsapi.KindConfig, "Certificates")
			})
		}
		t.Run("no certificate", func(t *testing.T) {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = nil })
			s.requireServerRefusal(t, config, tlsapi.KindConfig, "Certificates")
		})
		t.Run("clients are verified without authorities", func(t *testing.T) {
			for _, mode := range []tls.ClientAuthType{tls.VerifyClientCertIfGiven, tls.RequireAndVerifyClientCert} {
				for _, pool := range []*tlsapi.CertPool{nil, tlsapi.NewCertPool()} {
					config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.ClientAuth, c.ClientCAs = mode, pool })
					s.requireServerRefusal(t, config, tlsapi.KindConfig, "ClientCAs")
				}
			}
		})
		t.Run("strict without protocols", func(t *testing.T) {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.ALPNStrict = true })
			s.requireServerRefusal(t, config, tlsapi.KindConfig, "ALPNStrict")
		})
		t.Run("nil", func(t *testing.T) { s.requireServerRefusal(t, nil, tlsapi.KindConfig, "") })
	})
}

// fieldNames returns the fields of a configuration, those of Settings
// included.
func fieldNames(config reflect.Type) []string {
	var names []string
	for _, field := range reflect.VisibleFields(config) {
		if !field.Anonymous {
			names = append(names, field.Name)
		}
	}
	return names
}

// exampleName names an example by its field and the last feature that it uses
// of this field.
func exampleName(field string, used []tlsapi.FeatureUse) string {
	name := field
	for _, u := range used {
		if u.Option == field {
			name = field + " " + string(u.Feature)
		}
	}
	return name
}

type noSessions struct{}

func (noSessions) Get(string) []byte  { return nil }
func (noSessions) Put(string, []byte) {}
