package tlstest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/uptime"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	alertDecodeError      tls.AlertError = 50
	alertAccessDenied     tls.AlertError = 49
	alertInternalError    tls.AlertError = 80
	alertUnrecognizedName tls.AlertError = 112
)

// testSelection is about servers that choose certificate and configuration for
// each connection; what they choose by is tested with the certificates.
func (s *suite) testSelection(t *testing.T) {
	t.Run("order of the list", s.testCertificateOrder)
	t.Run("fields of a certificate", s.testCertificateFields)
	t.Run("client hello", s.testClientHelloInfo)
	t.Run("client hello in pieces", s.testFragmentedHello)
	t.Run("bad client hello", s.testBadHello)
	t.Run("another name in the second client hello", s.testChangedName)
	t.Run("odd names", s.testOddNames)
	t.Run("blocked hook", s.testBlockedHook)
	t.Run("failing hook", s.testFailingHook)
	t.Run("chosen configuration", s.testChosenConfiguration)
	t.Run("refused configuration", s.testRefusedConfiguration)
	t.Run("refused certificate", s.testRefusedCertificate)
	t.Run("external signer", s.testSignerOfHook)
	t.Run("replacement", s.testReplacement)
	t.Run("tickets of a chosen configuration", s.testChosenTickets)
}

// testCertificateOrder: the first of the list whose key the client can verify.
func (s *suite) testCertificateOrder(t *testing.T) {
	s.need(t, tlsapi.ServerCertificatesByName)
	for _, kinds := range [][]KeyType{{ECDSA, RSA}, {RSA, ECDSA}} {
		t.Run(kinds[0].String()+" first", func(t *testing.T) {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.Certificates = []tls.Certificate{s.certs[kinds[0]], s.certs[kinds[1]]}
			})
			eachVersion(t, func(t *testing.T, version uint16) {
				d := s.serverDuo(t, config, s.referenceClient(only(version)))
				d.mustHandshake(t)
				assert.Equal(t, s.certs[kinds[0]].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
			})
			t.Run("schemes of the client", func(t *testing.T) {
				s.need(t, tlsapi.ClientSignatureSchemes)
				for kind, scheme := range map[KeyType]tls.SignatureScheme{ECDSA: tls.ECDSAWithP256AndSHA256, RSA: tls.PSSWithSHA256} {
					clientConfig := s.clientConfig(func(c *tlsapi.ClientConfig) {
						c.SignatureSchemes = []tls.SignatureScheme{scheme}
						c.MinVersion = tls.VersionTLS13
					})
					clientWire, serverWire := newWire(t)
					c, err := s.p.Client(clientWire, clientConfig)
					// The authority signs with ECDSA: without its scheme some
					// libraries do not take the chain.
					s.acceptRefusal(t, err, clientConfig.Features())
					v, err := s.p.Server(serverWire, config)
					require.NoError(t, err)
					both := &session{clientWire, serverWire, c, v}
					both.closeWith(t)
					both.handshake()
					if chain := c.ConnectionState().PeerCertificates; assert.NotEmpty(t, chain) {
						assert.Equal(t, s.certs[kind].Certificate[0], chain[0].Raw)
					}
				}
			})
		})
	}
}

// testCertificateFields: what a tls.Certificate holds besides chain and key is
// honoured or refused.
func (s *suite) testCertificateFields(t *testing.T) {
	timestamps, schemes := s.certs[ECDSA], s.certs[ECDSA]
	timestamps.SignedCertificateTimestamps = [][]byte{[]byte("a timestamp")}
	schemes.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.ECDSAWithP384AndSHA384}
	connect := func(t *testing.T, cert tls.Certificate, field string) *duo {
		clientWire, serverWire := newWire(t)
		conn, err := s.p.Server(serverWire, s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} }))
		if err != nil {
			e := s.requireKind(t, err, tlsapi.KindUnsupported)
			assert.Equal(t, "Certificates", e.Option)
			assert.Empty(t, serverWire.Written())
			require.True(t, s.declares("server.certificates", field), "the refusal is not declared")
			t.Skipf("refused as declared: %v", err)
		}
		peer := tls.Client(clientWire, s.referenceClient(only(tls.VersionTLS13)))
		d := &duo{session: &session{clientWire, serverWire, peer, conn}, conn: conn, peer: peer, connWire: serverWire, peerWire: clientWire}
		d.closeWith(t)
		return d
	}
	t.Run("timestamps", func(t *testing.T) {
		d := connect(t, timestamps, "SignedCertificateTimestamps")
		d.mustHandshake(t)
		assert.Equal(t, timestamps.SignedCertificateTimestamps, d.peer.ConnectionState().SignedCertificateTimestamps)
	})
	t.Run("schemes", func(t *testing.T) {
		// In TLS 1.3 the key, on P-256, has no other scheme.
		err, _ := connect(t, schemes, "SupportedSignatureAlgorithms").handshakes()
		require.Error(t, err)
		rsa := s.certs[RSA]
		rsa.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PSSWithSHA512}
		d := connect(t, rsa, "SupportedSignatureAlgorithms")
		d.mustHandshake(t)
		d.mustEcho(t)
	})
	t.Run("timestamps of the peer", func(t *testing.T) {
		// Only what the library asks for can come.
		d := s.clientDuo(t, s.clientConfig(), s.referenceServer(func(c *tls.Config) { c.Certificates = []tls.Certificate{timestamps} }))
		d.mustHandshake(t)
		d.mustEcho(t)
		if got := d.conn.ConnectionState().SignedCertificateTimestamps; got != nil {
			assert.Equal(t, timestamps.SignedCertificateTimestamps, got)
		} else {
			assert.Contains(t, s.cells[tlsapi.ClientCertificate].Note, "SignedCertificateTimestamps", "the provider sends none and asks for none")
		}
	})
}

// testClientHelloInfo compares what hooks see with what is on the wire.
func (s *suite) testClientHelloInfo(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig, tlsapi.ServerGetCertificate)
	eachVersion(t, func(t *testing.T, version uint16) {
		var forConfig, forCertificate *tls.ClientHelloInfo
		var during error
		config := s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.ALPN = []string{"two"}
			c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
				forConfig = hello
				return nil, nil
			}
			c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				forCertificate = hello
				during = hello.Context().Err()
				return nil, nil
			}
		})
		d := s.serverDuo(t, config, s.referenceClient(only(version), func(c *tls.Config) { c.NextProtos = []string{"one", "two"} }))
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.Equal(t, "two", d.conn.Info().ALPN)

		wire := d.hello(t)
		for hook, hello := range map[string]*tls.ClientHelloInfo{"GetConfigForClient": forConfig, "GetCertificate": forCertificate} {
			require.NotNil(t, hello, "%s was not called", hook)
			assert.Equal(t, wire.ServerName, hello.ServerName)
			assert.Equal(t, serverName, hello.ServerName)
			assert.Equal(t, wire.CipherSuites, hello.CipherSuites)
			assert.Equal(t, wire.Groups, hello.SupportedCurves)
			assert.Equal(t, wire.SignatureSchemes, hello.SignatureSchemes)
			assert.Equal(t, []string{"one", "two"}, hello.SupportedProtos)
			assert.Equal(t, wire.Extensions, hello.Extensions)
			assert.Equal(t, version, slices.Max(hello.SupportedVersions))
			assert.Equal(t, []uint8{0}, hello.SupportedPoints)
			assert.Same(t, d.connWire, hello.Conn, "the transport is the caller's")
			require.NotNil(t, hello.Context())
			cert := s.certs[ECDSA]
			assert.NoError(t, hello.SupportsCertificate(&cert), "the methods work")
		}
		assert.NoError(t, during, "the context lives as long as the handshake")
		assert.Error(t, forCertificate.Context().Err(), "and no longer")
	})
}

// refragment puts what the first Write sends into records of size bytes each.
type refragment struct {
	net.Conn
	size int
	once sync.Once
}

func (c *refragment) Write(p []byte) (int, error) {
	var records []byte
	c.once.Do(func() {
		for body := p[5:]; len(body) > 0; {
			n := min(c.size, len(body))
			records = append(records, p[0], p[1], p[2], 0, byte(n))
			records = append(records, body[:n]...)
			body = body[n:]
		}
	})
	if records == nil {
		return c.Conn.Write(p)
	}
	_, err := c.Conn.Write(records)
	return len(p), err
}

// testFragmentedHello: hooks see the ClientHello however it comes.
func (s *suite) testFragmentedHello(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	other := s.ca.Leaf(t, Spec{DNSNames: []string{"other.example"}})
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "other.example" {
				return &other, nil
			}
			return nil, nil
		}
	})
	eachVersion(t, func(t *testing.T, version uint16) {
		for _, c := range []struct {
			name          string
			record, chunk int
		}{
			{"records of 100 bytes", 100, 0},
			{"records of 7 bytes", 7, 0},
			{"byte by byte", 0, 1},
			{"records of 50 bytes in pieces", 50, 33},
		} {
			t.Run(c.name, func(t *testing.T) {
				clientWire, serverWire := newWire(t)
				serverWire.SetChunk(c.chunk)
				conn, err := s.p.Server(serverWire, config)
				require.NoError(t, err)
				var transport net.Conn = clientWire
				if c.record > 0 {
					transport = &refragment{Conn: clientWire, size: c.record}
				}
				peer := tls.Client(transport, s.referenceClient(only(version), func(r *tls.Config) { r.ServerName = "other.example" }))
				both := &session{clientWire, serverWire, peer, conn}
				both.closeWith(t)
				both.mustHandshake(t)
				both.mustEcho(t)
				assert.Equal(t, other.Certificate[0], peer.ConnectionState().PeerCertificates[0].Raw)
			})
		}
	})
}

// testChangedName tests that a client cannot be chosen a configuration for by one
// name and then be taken for a client of another: the second ClientHello, after a
// HelloRetryRequest, must not change what the hooks have seen (RFC 8446 section
// 4.1.2).
func (s *suite) testChangedName(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	const other = "admins.example"
	require.Len(t, other, len(serverName))
	chosen := ""
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.Curves = []tlsapi.CurveID{tlsapi.CurveP384}
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			chosen = hello.ServerName
			return nil, nil
		}
	})
	// The client's one share is of a group that the server does not have.
	offered := []tls.CurveID{tls.CurveP256, tls.CurveP384}
	scratch, _ := newWire(t)
	if conn, err := s.p.Server(scratch, config); errors.Is(err, errors.ErrUnsupported) {
		config.Curves, offered = nil, []tls.CurveID{tls.X25519MLKEM768, tls.CurveP256}
	} else {
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	d := s.serverDuo(t, config, s.referenceClient(only(tls.VersionTLS13), func(r *tls.Config) {
		r.ServerName, r.InsecureSkipVerify, r.CurvePreferences = serverName, true, offered
	}))
	hellos := 0
	d.peerWire.Tamper(func(b []byte) {
		if at := bytes.Index(b, []byte(serverName)); at >= 0 {
			if hellos++; hellos == 2 {
				copy(b[at:], other)
			}
		}
	})
	connErr, peerErr := d.handshakes()
	require.Error(t, connErr)
	require.Error(t, peerErr)
	require.Equal(t, 2, hellos, "there was no HelloRetryRequest")
	assert.Equal(t, serverName, chosen)
	assert.NotEqual(t, other, d.conn.Info().ServerName)
	assert.NotEqual(t, other, d.conn.ConnectionState().ServerName)
}

// testOddNames tests that a hook and the connection never have different names of
// one client: what a library that thinks in C takes for the end of a name is a
// byte like others to crypto/tls, which parses the ClientHello for the hooks.
func (s *suite) testOddNames(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	eachVersion(t, func(t *testing.T, version uint16) {
		for _, name := range []string{serverName + "\x00.other.example", "\x00" + serverName, "SERVER.example", strings.Repeat("long.", 60) + "example"} {
			for _, hook := range []bool{false, true} {
				t.Run(fmt.Sprintf("%.20q, hook %t", name, hook), func(t *testing.T) {
					seen := name
					d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
						if hook {
							c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
								seen = hello.ServerName
								return nil, nil
							}
						}
					}), s.referenceClient(only(version), func(r *tls.Config) { r.ServerName, r.InsecureSkipVerify = name, true }))
					err, _ := d.handshakes()
					if err != nil {
						s.requireKinds(t, err, tlsapi.KindProtocol)
						return
					}
					assert.Equal(t, seen, d.conn.Info().ServerName)
					assert.Equal(t, seen, d.conn.ConnectionState().ServerName)
				})
			}
		}
	})
}

// plainAlert returns the first alert in the clear of what an end has written.
func plainAlert(t *testing.T, wire []byte) (alert tls.AlertError, ok bool) {
	t.Helper()
	records, err := ParseRecords(wire)
	require.NoError(t, err)
	for _, r := range records {
		if r.Type == RecordAlert && len(r.Payload) == 2 {
			return tls.AlertError(r.Payload[1]), true
		}
	}
	return 0, false
}

// requirePlainAlert fails the test unless the alert, and nothing before it, is
// what the end has written.
func requirePlainAlert(t *testing.T, wire *Transport, alerts ...tls.AlertError) {
	t.Helper()
	require.True(t, uptime.Eventually(promptly, func() bool { return len(wire.Written()) > 0 }), "nothing was sent")
	records, err := ParseRecords(wire.Written())
	require.NoError(t, err)
	require.EqualValues(t, RecordAlert, records[0].Type, "the first record")
	got, ok := plainAlert(t, wire.Written())
	require.True(t, ok)
	require.Contains(t, alerts, got)
}

func (s *suite) testBadHello(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	var calls atomic.Int32
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			calls.Add(1)
			return nil, nil
		}
	})
	handshake := func(message []byte) []byte {
		return append([]byte{RecordHandshake, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
	}
	part := handshake(append([]byte{1, 0, 0x40, 0}, make([]byte, 1000)...))
	for name, input := range map[string][]byte{
		"malformed":          handshake(append([]byte{1, 0, 0, 50, 3, 3}, bytes.Repeat([]byte{0xff}, 48)...)),
		"without extensions": handshake(append([]byte{1, 0, 0, 35, 3, 3}, make([]byte, 33)...)),
		"too long":           handshake([]byte{1, 0xff, 0xff, 0xff, 3, 3}),
		"another message":    handshake([]byte{2, 0, 0, 2, 3, 3}),
		"cut":                slices.Concat(part, part),
	} {
		t.Run(name, func(t *testing.T) {
			calls.Store(0)
			clientWire, serverWire := newWire(t)
			conn, err := s.p.Server(serverWire, config)
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			_, err = clientWire.Write(input)
			require.NoError(t, err)
			if name == "cut" {
				require.NoError(t, clientWire.Close())
			}
			err = within(t, "Handshake", conn.Handshake)
			s.requireKinds(t, err, tlsapi.KindProtocol, tlsapi.KindTransport, tlsapi.KindInternal)
			assert.Zero(t, calls.Load(), "the hook was asked about what is no ClientHello")
			if name != "cut" {
				_, ok := plainAlert(t, serverWire.Written())
				assert.True(t, ok, "there is no alert")
			}
		})
	}
}

// testBlockedHook: who waits for a hook is not kept by it. The hook ends when
// its context does; where the provider does not depend on that, it does not
// look at it.
func (s *suite) testBlockedHook(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	for _, obeys := range []bool{true, false} {
		name := map[bool]string{true: "that watches its context", false: "that does not"}[obeys]
		t.Run(name, func(t *testing.T) {
			if !obeys && s.declares("server.get-certificate", "a hook that blocks keeps the handshake") {
				t.Skipf("declared: %s", s.cells[tlsapi.ServerGetCertificate].Note)
			}
			blocked := func(t *testing.T, change ...func(*tlsapi.ServerConfig)) (*duo, chan struct{}) {
				entered, release := make(chan struct{}), make(chan struct{})
				t.Cleanup(func() { close(release) })
				config := s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
						close(entered)
						if obeys {
							<-hello.Context().Done()
							return nil, hello.Context().Err()
						}
						<-release
						return nil, nil
					}
					for _, f := range change {
						f(c)
					}
				})
				d := s.serverDuo(t, config, s.referenceClient())
				go d.peer.Handshake()
				return d, entered
			}
			s.testWaiting(t, tlsapi.ServerHandshakeTimeout, func(t *testing.T, timeout time.Duration) (*duo, chan struct{}) {
				return blocked(t, func(c *tlsapi.ServerConfig) { c.HandshakeTimeout = timeout })
			})
			t.Run("timeout of the chosen configuration", func(t *testing.T) {
				s.need(t, tlsapi.ServerHandshakeTimeout, tlsapi.ServerGetConfig)
				d, _ := blocked(t, func(c *tlsapi.ServerConfig) {
					chosen := *c
					chosen.HandshakeTimeout = shortly
					c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return &chosen, nil }
				})
				s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
			})
		})
	}
	t.Run("for a while", func(t *testing.T) {
		config := s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				time.Sleep(shortly)
				return nil, nil
			}
		})
		d := s.serverDuo(t, config, s.referenceClient())
		d.mustHandshake(t)
		d.mustEcho(t)
	})
}

// testWaiting ends handshakes that wait for a hook. blocked begins one with that
// HandshakeTimeout; the channel is closed when the hook is called.
func (s *suite) testWaiting(t *testing.T, timeouts tlsapi.Feature, blocked func(*testing.T, time.Duration) (*duo, chan struct{})) {
	t.Run("close", func(t *testing.T) {
		d, entered := blocked(t, 0)
		done := make(chan error, 1)
		go func() { done <- d.conn.Handshake() }()
		<-entered
		require.NoError(t, within(t, "Close", d.conn.Close))
		s.requireKind(t, result(t, "Handshake", done), tlsapi.KindClosed)
	})
	t.Run("context", func(t *testing.T) {
		d, entered := blocked(t, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.conn.HandshakeContext(ctx) }()
		<-entered
		cancel()
		s.requireKind(t, result(t, "HandshakeContext", done), tlsapi.KindCanceled)
		assert.True(t, isClosed(d.connWire.Closed()), "the transport is closed")
	})
	t.Run("timeout", func(t *testing.T) {
		s.need(t, timeouts)
		d, _ := blocked(t, shortly)
		s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
	})
}

func (s *suite) testFailingHook(t *testing.T) {
	hooks := map[tlsapi.Feature]func(*tlsapi.ServerConfig, error){
		tlsapi.ServerGetCertificate: func(c *tlsapi.ServerConfig, err error) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, err }
		},
		tlsapi.ServerGetConfig: func(c *tlsapi.ServerConfig, err error) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return nil, err }
		},
	}
	for feature, install := range hooks {
		t.Run(string(feature), func(t *testing.T) {
			s.need(t, feature)
			onlyInternal := strings.Contains(s.cells[feature].Note, "internal_error")
			for _, c := range []struct {
				name  string
				err   error
				alert tls.AlertError
			}{
				{"plain error", errors.New("no such customer"), alertInternalError},
				{"alert", alertUnrecognizedName, alertUnrecognizedName},
				{"wrapped alert", errors.Join(errors.New("not you"), alertAccessDenied), alertAccessDenied},
				{"alert that ends nothing", tls.AlertError(0), alertInternalError},
				{"error of another connection", &tlsapi.Error{Kind: tlsapi.KindPeerAlert, Alert: alertUnrecognizedName, HasAlert: true}, alertInternalError},
			} {
				t.Run(c.name, func(t *testing.T) {
					eachVersion(t, func(t *testing.T, version uint16) {
						var calls hookCalls
						config := s.serverConfig(func(config *tlsapi.ServerConfig) {
							if s.supported(tlsapi.ServerHandshakeHooks) && s.supported(tlsapi.ServerVerifyConnection) {
								calls.install(nil)(&config.Settings)
							}
							install(config, c.err)
						})
						d := s.serverDuo(t, config, s.referenceClient(only(version)))
						err, peerErr := d.handshakes()
						e := s.requireKind(t, err, tlsapi.KindRejected)
						require.ErrorIs(t, err, c.err)
						require.Error(t, peerErr)
						want := c.alert
						if onlyInternal {
							want = alertInternalError
						}
						requirePlainAlert(t, d.connWire, want)
						assert.True(t, e.HasAlert)
						assert.Equal(t, want, e.Alert)
						if config.HandshakeFailed != nil {
							calls.require(t, 0, 0, 1)
						}
					})
				})
			}
			t.Run("blinded", func(t *testing.T) {
				s.need(t, tlsapi.ServerBlinding)
				config := s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.MaxBlindingDelay = blindingDelay
					install(c, errors.New("no"))
				})
				d := s.serverDuo(t, config, s.referenceClient())
				done := make(chan error, 1)
				begin := time.Now()
				go func() { done <- d.peer.Handshake() }()
				s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindRejected)
				assertWhileBlinded(t, begin, func() bool { return d.conn.Info().BlindingPending }, "it is blinded")
				assertWhileBlinded(t, begin, func() bool { return len(d.connWire.Written()) == 0 }, "the alert waits for the delay")
				require.Error(t, result(t, "the peer's handshake", done))
				requirePlainAlert(t, d.connWire, alertInternalError)
			})
		})
	}
}

// testChosenConfiguration: everything that the chosen configuration says holds,
// and nothing else.
func (s *suite) testChosenConfiguration(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	// choosing returns a configuration from which the hook leads to another.
	choosing := func(chosen *tlsapi.ServerConfig, change ...func(*tlsapi.ServerConfig)) *tlsapi.ServerConfig {
		first := s.serverConfig(change...)
		first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return chosen, nil }
		return first
	}
	t.Run("versions", func(t *testing.T) {
		s.need(t, tlsapi.ServerVersions)
		old := func(c *tlsapi.ServerConfig) { c.MaxVersion = tls.VersionTLS12 }
		for _, c := range []struct {
			name          string
			first, chosen *tlsapi.ServerConfig
			want          uint16
		}{
			{"down", s.serverConfig(), s.serverConfig(old), tls.VersionTLS12},
			{"up", s.serverConfig(old), s.serverConfig(), tls.VersionTLS13},
		} {
			t.Run(c.name, func(t *testing.T) {
				d := s.serverDuo(t, choosing(c.chosen, func(f *tlsapi.ServerConfig) { *f = *c.first }), s.referenceClient())
				d.mustHandshake(t)
				assert.Equal(t, c.want, d.conn.Info().Version)
			})
		}
	})
	eachVersion(t, func(t *testing.T, version uint16) {
		t.Run("client authentication on", func(t *testing.T) {
			s.need(t, tlsapi.ServerClientAuth)
			chosen := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
			})
			d := s.serverDuo(t, choosing(chosen), s.referenceClient(only(version), sending(&s.clientCert)))
			d.mustHandshake(t)
			require.NotEmpty(t, d.conn.ConnectionState().PeerCertificates)
			assert.Equal(t, s.clientCert.Leaf.Raw, d.conn.ConnectionState().PeerCertificates[0].Raw)
			assert.True(t, d.conn.Info().Verified)

			d = s.serverDuo(t, choosing(chosen), s.referenceClient(only(version)))
			err, _ := d.handshakes()
			s.requireKind(t, err, tlsapi.KindNoCertificate)
		})
		t.Run("client authentication off", func(t *testing.T) {
			s.need(t, tlsapi.ServerClientAuth)
			d := s.serverDuo(t, choosing(s.serverConfig(), func(c *tlsapi.ServerConfig) {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
			}), s.referenceClient(only(version)))
			d.mustHandshake(t)
			assert.Empty(t, d.conn.ConnectionState().PeerCertificates)
		})
		t.Run("protocols", func(t *testing.T) {
			s.need(t, tlsapi.ServerALPN)
			for _, c := range []struct{ first, chosen, want string }{{"first", "second", "second"}, {"first", "", ""}, {"", "second", "second"}} {
				list := func(protocol string) func(*tlsapi.ServerConfig) {
					return func(s *tlsapi.ServerConfig) {
						if protocol != "" {
							s.ALPN = []string{protocol}
						}
					}
				}
				d := s.serverDuo(t, choosing(s.serverConfig(list(c.chosen)), list(c.first)),
					s.referenceClient(only(version), func(r *tls.Config) { r.NextProtos = []string{"first", "second"} }))
				d.mustHandshake(t)
				assert.Equal(t, c.want, d.conn.Info().ALPN)
			}
		})
		t.Run("hooks", func(t *testing.T) {
			s.need(t, tlsapi.ServerVerifyConnection, tlsapi.ServerHandshakeHooks)
			for _, verdict := range []error{nil, errors.New("not on the list")} {
				var of, other hookCalls
				chosen := s.serverConfig()
				of.install(verdict)(&chosen.Settings)
				d := s.serverDuo(t, choosing(chosen, func(c *tlsapi.ServerConfig) { other.install(errors.New("never"))(&c.Settings) }),
					s.referenceClient(only(version)))
				err, _ := d.handshakes()
				require.ErrorIs(t, err, verdict)
				other.require(t, 0, 0, 0)
				if verdict == nil {
					of.require(t, 1, 1, 0)
				} else {
					of.require(t, 1, 0, 1)
				}
			}
		})
		t.Run("key log", func(t *testing.T) {
			s.need(t, tlsapi.ServerKeyLog)
			var of, other bytes.Buffer
			d := s.serverDuo(t, choosing(s.serverConfig(func(c *tlsapi.ServerConfig) { c.KeyLogWriter = &of }),
				func(c *tlsapi.ServerConfig) { c.KeyLogWriter = &other }), s.referenceClient(only(version)))
			d.mustHandshake(t)
			assert.NotEmpty(t, of.String())
			assert.Empty(t, other.String())
		})
		t.Run("its certificate hook", func(t *testing.T) {
			s.need(t, tlsapi.ServerGetCertificate)
			chosen := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.Certificates = nil
				c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					cert := s.certs[RSA]
					return &cert, nil
				}
			})
			d := s.serverDuo(t, choosing(chosen), s.referenceClient(only(version)))
			d.mustHandshake(t)
			assert.Equal(t, s.certs[RSA].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
		})
		t.Run("its blinding delay", func(t *testing.T) {
			s.need(t, tlsapi.ServerBlinding, tlsapi.ServerVerifyConnection)
			chosen := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.MaxBlindingDelay = blindingDelay
				c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
			})
			d := s.serverDuo(t, choosing(chosen), s.referenceClient(only(version)))
			begin := time.Now()
			go d.peer.Handshake()
			s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindRejected)
			assertWhileBlinded(t, begin, func() bool { return d.conn.Info().BlindingPending }, "it is blinded")
		})
	})
	t.Run("the first one needs no certificate", func(t *testing.T) {
		d := s.serverDuo(t, choosing(s.serverConfig(), func(c *tlsapi.ServerConfig) { c.Certificates = nil }), s.referenceClient())
		d.mustHandshake(t)
		d.mustEcho(t)
	})
	t.Run("its own hook is not called", func(t *testing.T) {
		chosen := choosing(nil)
		chosen.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			return nil, errors.New("called")
		}
		s.serverDuo(t, choosing(chosen), s.referenceClient()).mustHandshake(t)
	})
}

func (s *suite) testRefusedConfiguration(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig)
	for _, c := range []struct {
		name   string
		kind   tlsapi.Kind
		option string
		change func(*tlsapi.ServerConfig)
	}{
		{"wrong", tlsapi.KindConfig, "Curves", func(c *tlsapi.ServerConfig) { c.Curves = []tlsapi.CurveID{} }},
		{"no certificate", tlsapi.KindConfig, "Certificates", func(c *tlsapi.ServerConfig) { c.Certificates = nil }},
		{"unsupported", tlsapi.KindUnsupported, "SecurityPolicy", func(c *tlsapi.ServerConfig) { c.SecurityPolicy = "no such policy" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen := s.serverConfig(c.change)
			config := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return chosen, nil }
			})
			d := s.serverDuo(t, config, s.referenceClient())
			err, peerErr := d.handshakes()
			e := s.requireKinds(t, err, c.kind, tlsapi.KindConfig)
			assert.Equal(t, c.option, e.Option)
			require.Error(t, peerErr)
			requirePlainAlert(t, d.connWire, alertInternalError)
		})
	}
}

func (s *suite) testRefusedCertificate(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	mismatched := s.certs[ECDSA]
	mismatched.PrivateKey = s.certs[RSA].PrivateKey
	for name, cert := range map[string]*tls.Certificate{
		"empty":                        {},
		"another key":                  &mismatched,
		"none, and none is configured": nil,
	} {
		t.Run(name, func(t *testing.T) {
			config := s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.Certificates = nil
				c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
			})
			d := s.serverDuo(t, config, s.referenceClient())
			err, peerErr := d.handshakes()
			e := s.requireKind(t, err, tlsapi.KindConfig)
			assert.Contains(t, []string{"GetCertificate", "Certificates"}, e.Option)
			require.Error(t, peerErr)
			requirePlainAlert(t, d.connWire, alertInternalError, alertHandshakeFailure)
		})
	}
}

// slowSigner is an external signer that does what a test says.
type slowSigner struct {
	crypto.Signer
	sign func() error
}

func (s slowSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := s.sign(); err != nil {
		return nil, err
	}
	return s.Signer.Sign(random, digest, opts)
}

// testSignerOfHook: a hook's certificate may have an external signer where a
// configured one may, and the signer may block and fail.
func (s *suite) testSignerOfHook(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	for _, kind := range []KeyType{ECDSA, RSA} {
		config := func(sign func() error) *tlsapi.ServerConfig {
			cert := s.certs[kind]
			cert.PrivateKey = slowSigner{cert.PrivateKey.(crypto.Signer), sign}
			return s.serverConfig(func(c *tlsapi.ServerConfig) {
				c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
			})
		}
		t.Run(kind.String(), func(t *testing.T) {
			eachVersion(t, func(t *testing.T, version uint16) {
				if !s.supported(tlsapi.ServerExternalSigner) {
					d := s.serverDuo(t, config(func() error { return nil }), s.referenceClient(only(version)))
					err, _ := d.handshakes()
					e := s.requireKind(t, err, tlsapi.KindUnsupported)
					assert.Equal(t, "GetCertificate", e.Option)
					requirePlainAlert(t, d.connWire, alertInternalError)
					return
				}
				t.Run("signs", func(t *testing.T) {
					var calls atomic.Int32
					d := s.serverDuo(t, config(func() error { calls.Add(1); return nil }), s.referenceClient(only(version)))
					d.mustHandshake(t)
					d.mustEcho(t)
					assert.EqualValues(t, 1, calls.Load())
					assert.Equal(t, s.certs[kind].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
				})
				t.Run("fails", func(t *testing.T) {
					errDevice := errors.New("the device is gone")
					d := s.serverDuo(t, config(func() error { return errDevice }), s.referenceClient(only(version)))
					err, peerErr := d.handshakes()
					require.Error(t, peerErr)
					require.Error(t, err)
					if s.declares("server.external-signer", "only the error's text") {
						require.ErrorContains(t, err, errDevice.Error())
						return
					}
					s.requireKind(t, err, tlsapi.KindRejected)
					require.ErrorIs(t, err, errDevice)
				})
				t.Run("blocks", func(t *testing.T) {
					if s.declares("server.get-certificate", "a hook that blocks keeps the handshake") {
						t.Skipf("declared: %s", s.cells[tlsapi.ServerGetCertificate].Note)
					}
					entered, release := make(chan struct{}), make(chan struct{})
					t.Cleanup(func() { close(release) })
					d := s.serverDuo(t, config(func() error { close(entered); <-release; return nil }), s.referenceClient(only(version)))
					go d.peer.Handshake()
					done := make(chan error, 1)
					go func() { done <- d.conn.Handshake() }()
					<-entered
					require.NoError(t, within(t, "Close", d.conn.Close))
					s.requireKind(t, result(t, "Handshake", done), tlsapi.KindClosed)
				})
			})
		})
	}
}

// testReplacement: new connections have what the hooks give now, old ones live
// on with what they began with.
func (s *suite) testReplacement(t *testing.T) {
	s.need(t, tlsapi.ServerGetCertificate)
	certs := []tls.Certificate{s.ca.Leaf(t, validSpec(ECDSA)), s.ca.Leaf(t, validSpec(ECDSA)), s.ca.Leaf(t, validSpec(RSA))}
	var current atomic.Pointer[tls.Certificate]
	config := s.serverConfig(func(c *tlsapi.ServerConfig) {
		c.Certificates = nil
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	})
	eachVersion(t, func(t *testing.T, version uint16) {
		var open []*duo
		for i := range certs {
			current.Store(&certs[i])
			d := s.serverDuo(t, config, s.referenceClient(only(version)))
			d.mustHandshake(t)
			open = append(open, d)
			for j, d := range open {
				d.mustEcho(t)
				assert.Equal(t, certs[j].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
			}
		}
	})
}

// testChosenTickets: tickets are the chosen configuration's alone.
func (s *suite) testChosenTickets(t *testing.T) {
	s.need(t, tlsapi.ServerGetConfig, tlsapi.ServerSessionTicketsOff)
	without := s.serverConfig(func(c *tlsapi.ServerConfig) { c.SessionTicketsDisabled = true })
	choosing := func(first tlsapi.ServerConfig, chosen *tlsapi.ServerConfig) *tlsapi.ServerConfig {
		first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return chosen, nil }
		return &first
	}
	eachVersion(t, func(t *testing.T, version uint16) {
		connect := func(t *testing.T, config *tlsapi.ServerConfig, cache tls.ClientSessionCache) *duo {
			d := s.serverDuo(t, config, s.referenceClient(only(version), func(c *tls.Config) { c.ClientSessionCache = cache }))
			d.mustHandshake(t)
			d.mustEcho(t)
			return d
		}
		t.Run("off where the first has them", func(t *testing.T) {
			cache := newCountingCache()
			for range 2 {
				d := connect(t, choosing(*s.serverConfig(), without), cache)
				assert.False(t, d.conn.Info().Resumed)
			}
			assert.Zero(t, cache.issued())
		})
		t.Run("on where the first has none", func(t *testing.T) {
			s.need(t, tlsapi.ServerSessionTickets)
			cache, config := newCountingCache(), choosing(*without, s.serverConfig())
			connect(t, config, cache)
			require.NotZero(t, cache.issued())
			assert.True(t, connect(t, config, cache).conn.Info().Resumed)
		})
		t.Run("not across certificates", func(t *testing.T) {
			s.need(t, tlsapi.ServerSessionTickets)
			other := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{s.ca.Leaf(t, validSpec(ECDSA))} })
			cache := newCountingCache()
			connect(t, choosing(*s.serverConfig(), s.serverConfig()), cache)
			assert.False(t, connect(t, choosing(*s.serverConfig(), other), cache).conn.Info().Resumed)
		})
	})
}
