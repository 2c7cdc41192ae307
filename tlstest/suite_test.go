package tlstest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faultVariable names the fault that TestFaultyProvider gives its provider.
const faultVariable = "POLYTLS_TLSTEST_FAULT"

// faulty is provider std with a fault.
type faulty struct {
	tlsapi.Provider
	client  func(*tlsapi.ClientConfig)
	server  func(*tlsapi.ServerConfig)
	conn    func(tlsapi.Conn) tlsapi.Conn
	create  func(net.Conn)
	refusal func(error, net.Conn) error
	cells   func([]tlsapi.FeatureSupport) []tlsapi.FeatureSupport
}

func (f faulty) Features() []tlsapi.FeatureSupport {
	cells := f.Provider.Features()
	if f.cells != nil {
		cells = f.cells(cells)
	}
	return cells
}

func (f faulty) Client(transport net.Conn, config *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	if config != nil && f.client != nil {
		changed := *config
		f.client(&changed)
		config = &changed
	}
	conn, err := f.Provider.Client(transport, config)
	return f.wrap(conn, err, transport)
}

func (f faulty) Server(transport net.Conn, config *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	if config != nil && f.server != nil {
		changed := *config
		f.server(&changed)
		config = &changed
	}
	conn, err := f.Provider.Server(transport, config)
	return f.wrap(conn, err, transport)
}

func (f faulty) wrap(conn tlsapi.Conn, err error, transport net.Conn) (tlsapi.Conn, error) {
	if err != nil {
		if f.refusal != nil {
			err = f.refusal(err, transport)
		}
		return nil, err
	}
	if f.create != nil {
		f.create(transport)
	}
	if f.conn != nil {
		conn = f.conn(conn)
	}
	return conn, nil
}

// settings applies a change to both sides.
func settings(change func(*tlsapi.Settings)) faulty {
	return faulty{
		client: func(c *tlsapi.ClientConfig) { change(&c.Settings) },
		server: func(c *tlsapi.ServerConfig) { change(&c.Settings) },
	}
}

func client(change func(*tlsapi.ClientConfig)) faulty { return faulty{client: change} }
func server(change func(*tlsapi.ServerConfig)) faulty { return faulty{server: change} }

// choosing changes what GetConfigForClient returns.
func choosing(change func(first, chosen *tlsapi.ServerConfig)) faulty {
	return server(func(c *tlsapi.ServerConfig) {
		hook := c.GetConfigForClient
		if hook == nil {
			return
		}
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			chosen, err := hook(hello)
			if chosen != nil {
				copied := *chosen
				change(c, &copied)
				chosen = &copied
			}
			return chosen, err
		}
	})
}

// overConn makes connections whose methods a fault replaces.
func overConn(wrap func(tlsapi.Conn) tlsapi.Conn) faulty { return faulty{conn: wrap} }

// putsBack is a cache that keeps what it gives away.
type putsBack struct{ tlsapi.SessionCache }

func (p putsBack) Get(key string) []byte {
	session := p.SessionCache.Get(key)
	if session != nil {
		p.SessionCache.Put(key, bytes.Clone(session))
	}
	return session
}

type cutsOnClose struct{ tlsapi.Conn }

func (c cutsOnClose) Close() error {
	c.NetConn().Close()
	return c.Conn.Close()
}

type closesTwice struct{ tlsapi.Conn }

func (c closesTwice) Close() error {
	c.Conn.Close()
	return nil
}

type hidesCuts struct{ tlsapi.Conn }

func (c hidesCuts) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

type wrapsEOF struct{ tlsapi.Conn }

func (c wrapsEOF) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = &tlsapi.Error{Provider: "std", Op: "read", Kind: tlsapi.KindTransport, Err: io.EOF}
	}
	return n, err
}

type stickyDeadline struct {
	tlsapi.Conn
	failed *error
}

func (c stickyDeadline) Read(p []byte) (int, error) {
	if *c.failed != nil {
		return 0, *c.failed
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		*c.failed = err
	}
	return n, err
}

type ignoresContext struct{ tlsapi.Conn }

func (c ignoresContext) HandshakeContext(context.Context) error { return c.Conn.Handshake() }

type lies struct{ tlsapi.Conn }

func (c lies) Info() tlsapi.ConnectionInfo {
	info := c.Conn.Info()
	info.PeerSerial = strings.ToUpper(info.PeerSerial)
	return info
}

type alwaysVerified struct{ tlsapi.Conn }

func (c alwaysVerified) Info() tlsapi.ConnectionInfo {
	info := c.Conn.Info()
	info.Verified = true
	return info
}

type tearsWrites struct{ tlsapi.Conn }

func (c tearsWrites) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += 300 {
		if _, err := c.Conn.Write(p[i:min(i+300, len(p))]); err != nil {
			return i, err
		}
		time.Sleep(time.Microsecond)
	}
	return len(p), nil
}

type corrupts struct{ tlsapi.Conn }

func (c corrupts) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 4000 {
		p[n-1] ^= 1
	}
	return n, err
}

type kinds struct {
	tlsapi.Conn
	from, to tlsapi.Kind
}

func (c kinds) Handshake() error {
	err := c.Conn.Handshake()
	var e *tlsapi.Error
	if errors.As(err, &e) && e.Kind == c.from {
		changed := *e
		changed.Kind = c.to
		return &changed
	}
	return err
}

// patient says that a peer which sends no data has closed the connection.
type patient struct{ tlsapi.Conn }

func (c patient) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, tlsapi.KindProtocol) {
		return n, io.EOF
	}
	return n, err
}

func unsupported(features ...tlsapi.Feature) func([]tlsapi.FeatureSupport) []tlsapi.FeatureSupport {
	return func(cells []tlsapi.FeatureSupport) []tlsapi.FeatureSupport {
		cells = slices.Clone(cells)
		for i := range cells {
			if slices.Contains(features, cells[i].Feature) {
				cells[i].Support, cells[i].Note = tlsapi.Unsupported, "it is said"
			}
		}
		return cells
	}
}

func native(feature tlsapi.Feature) func([]tlsapi.FeatureSupport) []tlsapi.FeatureSupport {
	return func(cells []tlsapi.FeatureSupport) []tlsapi.FeatureSupport {
		cells = slices.Clone(cells)
		for i := range cells {
			if cells[i].Feature == feature {
				cells[i].Support, cells[i].Note = tlsapi.Native, ""
			}
		}
		return cells
	}
}

// faults are what the suite must find, each with a group of cases that does.
var faults = map[string]struct {
	group    string
	provider faulty
}{
	"verifies nothing":   {"verification", client(func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true })},
	"never checks names": {"verification", client(func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true })},
	"skip name skips everything": {"verification", client(func(c *tlsapi.ClientConfig) {
		c.InsecureSkipVerify = c.InsecureSkipVerify || c.SkipHostnameVerification
	})},
	"no name skips everything": {"verification", client(func(c *tlsapi.ClientConfig) {
		c.InsecureSkipVerify = c.InsecureSkipVerify || c.ServerName == ""
	})},
	"ignores the alternative name": {"verification", client(func(c *tlsapi.ClientConfig) { c.AlternativeName = "" })},
	"alternative name replaces the name": {"verification", client(func(c *tlsapi.ClientConfig) {
		if c.AlternativeName != "" {
			c.ServerName, c.AlternativeName = c.AlternativeName, ""
		}
	})},
	"calls self-signed untrusted": {"verification", overConn(func(c tlsapi.Conn) tlsapi.Conn { return kinds{c, tlsapi.KindSelfSigned, tlsapi.KindUntrusted} })},
	"calls not yet valid expired": {"verification", overConn(func(c tlsapi.Conn) tlsapi.Conn { return kinds{c, tlsapi.KindNotYetValid, tlsapi.KindExpired} })},
	"says verified":               {"verification", overConn(func(c tlsapi.Conn) tlsapi.Conn { return alwaysVerified{c} })},
	"adds the system's roots": {"system-roots", faulty{
		client: func(c *tlsapi.ClientConfig) { c.RootCAs = withSystemRoots(c.RootCAs) },
	}},
	"adds the system's roots for clients": {"system-roots", server(func(c *tlsapi.ServerConfig) { c.ClientCAs = withSystemRoots(c.ClientCAs) })},
	"asks no client":                      {"client-authentication", server(func(c *tlsapi.ServerConfig) { c.ClientAuth = tls.NoClientCert })},
	"accepts any client": {"client-authentication", server(func(c *tlsapi.ServerConfig) {
		if c.ClientAuth == tls.RequireAndVerifyClientCert {
			c.ClientAuth = tls.RequireAnyClientCert
		}
	})},
	"sends no client certificate": {"client-authentication", client(func(c *tlsapi.ClientConfig) { c.Certificate = nil })},
	"first certificate only": {"server-certificates", server(func(c *tlsapi.ServerConfig) {
		if len(c.Certificates) > 1 {
			c.Certificates = c.Certificates[:1]
		}
	})},
	"asks no certificate hook":   {"selection", server(func(c *tlsapi.ServerConfig) { c.GetCertificate = nil })},
	"asks no configuration hook": {"selection", server(func(c *tlsapi.ServerConfig) { c.GetConfigForClient = nil })},
	"lists certificates backwards": {"selection", server(func(c *tlsapi.ServerConfig) {
		c.Certificates = slices.Clone(c.Certificates)
		slices.Reverse(c.Certificates)
	})},
	"forgets what the chosen configuration asks of clients": {"selection", choosing(func(first, chosen *tlsapi.ServerConfig) {
		chosen.ClientAuth = tls.NoClientCert
	})},
	"mixes the first configuration into the chosen one": {"selection", choosing(func(first, chosen *tlsapi.ServerConfig) {
		if chosen.ALPN == nil {
			chosen.ALPN = first.ALPN
		}
	})},
	"reversed protocols": {"alpn", server(func(c *tlsapi.ServerConfig) {
		c.ALPN = slices.Clone(c.ALPN)
		slices.Reverse(c.ALPN)
	})},
	"never strict":        {"alpn", server(func(c *tlsapi.ServerConfig) { c.ALPNStrict = false })},
	"offers no protocols": {"alpn", client(func(c *tlsapi.ClientConfig) { c.ALPN = nil })},
	"own curves":          {"curves", settings(func(s *tlsapi.Settings) { s.Curves = nil })},
	"claims the order":    {"curves", faulty{cells: native(tlsapi.ClientCurves)}},
	"own versions":        {"versions", settings(func(s *tlsapi.Settings) { s.MinVersion, s.MaxVersion = 0, 0 })},
	"own suites":          {"cipher-suites", settings(func(s *tlsapi.Settings) { s.CipherSuites = nil })},
	"own policy":          {"policies", settings(func(s *tlsapi.Settings) { s.SecurityPolicy = "" })},
	"preset without post-quantum group": {"policies", client(func(c *tlsapi.ClientConfig) {
		explicitly(&c.Settings, func(p *tlsapi.Policy) { p.Curves = p.Curves[1:] })
	})},
	"preset with CBC": {"policies", server(func(c *tlsapi.ServerConfig) {
		explicitly(&c.Settings, func(p *tlsapi.Policy) {
			p.CipherSuites = append(p.CipherSuites, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA)
		})
	})},
	"no key log":                 {"key-log", settings(func(s *tlsapi.Settings) { s.KeyLogWriter = nil })},
	"ignores PSKs":               {"options", settings(func(s *tlsapi.Settings) { s.PSKs, s.RequirePSK = nil, false })},
	"ignores the cache":          {"resumption", client(func(c *tlsapi.ClientConfig) { c.SessionCache = nil })},
	"ignores the cache, tickets": {"session-tickets", client(func(c *tlsapi.ClientConfig) { c.SessionCache = nil })},
	"uses sessions twice": {"session-tickets", client(func(c *tlsapi.ClientConfig) {
		if c.SessionCache != nil {
			c.SessionCache = putsBack{c.SessionCache}
		}
	})},
	"resumes across names": {"session-tickets", client(func(c *tlsapi.ClientConfig) {
		// The alternative name is what tells two configurations apart.
		c.AlternativeName = ""
	})},
	"declares less than it is": {"options", faulty{cells: unsupported(tlsapi.ClientALPN)}},
	"sends before it refuses": {"options", faulty{refusal: func(err error, transport net.Conn) error {
		transport.Write([]byte{0})
		return err
	}}},
	"closes what it refuses": {"options", faulty{refusal: func(err error, transport net.Conn) error {
		transport.Close()
		return err
	}}},
	"refuses without a type": {"options", faulty{refusal: func(err error, _ net.Conn) error { return errors.New(err.Error()) }}},
	"short matrix":           {"provider", faulty{cells: func(c []tlsapi.FeatureSupport) []tlsapi.FeatureSupport { return c[1:] }}},
	"no close_notify":        {"close", overConn(func(c tlsapi.Conn) tlsapi.Conn { return cutsOnClose{c} })},
	"closes twice":           {"close", overConn(func(c tlsapi.Conn) tlsapi.Conn { return closesTwice{c} })},
	"hides cuts":             {"close", overConn(func(c tlsapi.Conn) tlsapi.Conn { return hidesCuts{c} })},
	"wraps the end of file":  {"close", overConn(func(c tlsapi.Conn) tlsapi.Conn { return wrapsEOF{c} })},
	"sticky deadline":        {"deadlines", overConn(func(c tlsapi.Conn) tlsapi.Conn { return stickyDeadline{c, new(error)} })},
	"ignores the context":    {"cancellation", overConn(func(c tlsapi.Conn) tlsapi.Conn { return ignoresContext{c} })},
	"ignores the timeout":    {"cancellation", settings(func(s *tlsapi.Settings) { s.HandshakeTimeout = 0 })},
	"serial in capitals":     {"information", overConn(func(c tlsapi.Conn) tlsapi.Conn { return lies{c} })},
	"ignores the hook":       {"hooks", settings(func(s *tlsapi.Settings) { s.VerifyConnection = nil })},
	"calls the hook twice": {"hooks", settings(func(s *tlsapi.Settings) {
		if hook := s.VerifyConnection; hook != nil {
			s.VerifyConnection = func(state tls.ConnectionState) error {
				hook(state)
				return hook(state)
			}
		}
	})},
	"forgets to tell": {"hooks", settings(func(s *tlsapi.Settings) { s.HandshakeFailed = nil })},
	"tears writes":    {"transfer", overConn(func(c tlsapi.Conn) tlsapi.Conn { return tearsWrites{c} })},
	"corrupts data":   {"transfer", overConn(func(c tlsapi.Conn) tlsapi.Conn { return corrupts{c} })},
	"calls HTTP a protocol error": {"bad-input", overConn(func(c tlsapi.Conn) tlsapi.Conn {
		return kinds{c, tlsapi.KindNotTLS, tlsapi.KindProtocol}
	})},
	"works for nothing without end": {"records-without-data", overConn(func(c tlsapi.Conn) tlsapi.Conn { return patient{c} })},
	"ignores ticket keys":           {"resumption", server(func(c *tlsapi.ServerConfig) { c.SessionTicketKeys = nil })},
	"issues no tickets": {"resumption", server(func(c *tlsapi.ServerConfig) {
		c.SessionTicketKeys, c.SessionTicketsDisabled = nil, true
	})},
	"resumes no session": {"resumption", client(func(c *tlsapi.ClientConfig) { c.SessionCache = nil })},
	"tickets cross client authentication": {"resumption", server(func(c *tlsapi.ServerConfig) {
		c.ClientAuth, c.ClientCAs = tls.NoClientCert, nil
	})},
	"ignores revocation lists": {"revocation", settings(func(s *tlsapi.Settings) { s.RevocationLists = nil })},
	"staples nothing": {"stapling", server(func(c *tlsapi.ServerConfig) {
		c.Certificates = slices.Clone(c.Certificates)
		for i := range c.Certificates {
			c.Certificates[i].OCSPStaple = nil
		}
	})},
	"no name, no verification": {"traps", client(func(c *tlsapi.ClientConfig) {
		c.InsecureSkipVerify = c.InsecureSkipVerify || c.ServerName == ""
	})},
	"leaves goroutines": {"provider", faulty{Provider: leaking{stdtls.Provider}}},
}

// explicitly replaces intermediate by what it holds, changed.
func explicitly(s *tlsapi.Settings, change func(*tlsapi.Policy)) {
	if s.SecurityPolicy != tlsapi.PolicyIntermediate {
		return
	}
	policy, _ := tlsapi.LookupPolicy(s.SecurityPolicy)
	change(&policy)
	s.SecurityPolicy = ""
	s.MinVersion, s.MaxVersion = policy.MinVersion, policy.MaxVersion
	s.CipherSuites, s.Curves = policy.CipherSuites, policy.Curves
}

// leaking leaves a goroutine behind when it is asked for its features.
type leaking struct{ tlsapi.Provider }

func (l leaking) Features() []tlsapi.FeatureSupport {
	go func() { select {} }()
	return l.Provider.Features()
}

func withSystemRoots(pool *tlsapi.CertPool) *tlsapi.CertPool {
	if pool == nil {
		return nil
	}
	certs, _ := pool.Certificates()
	added := tlsapi.NewCertPool()
	for _, c := range certs {
		added.AddCert(c)
	}
	added.AddSystemRoots()
	return added
}

// TestFaultyProvider is what TestFaultsAreFound runs in processes of its own.
func TestFaultyProvider(t *testing.T) {
	fault, ok := faults[os.Getenv(faultVariable)]
	if !ok {
		t.Skip("run by TestFaultsAreFound")
	}
	if fault.provider.Provider == nil {
		fault.provider.Provider = stdtls.Provider
	}
	tlstest.Run(t, fault.provider)
}

// A suite that finds nothing proves nothing: every fault must make it fail.
func TestFaultsAreFound(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := exec.CommandContext(t.Context(), program, "-test.run=^TestFaultyProvider$/^"+fault.group+"$", "-test.short", "-test.failfast", "-test.timeout=120s")
			command.Env = append(os.Environ(), faultVariable+"="+name)
			output, err := command.CombinedOutput()
			require.Error(t, err, "the fault was not found: %s", output)
			assert.Contains(t, string(output), "--- FAIL: TestFaultyProvider")
			assert.NotContains(t, string(output), "panic:")
			if name != "leaves goroutines" {
				assert.Contains(t, string(output), "--- FAIL: TestFaultyProvider/"+fault.group+" ")
			}
		})
	}
}
