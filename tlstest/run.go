package tlstest

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/require"
)

const (
	// patience is how long a case may take before its transport is broken: some
	// make hundreds of connections, and share the machine with other groups and
	// with whatever else it does.
	patience = 5 * time.Minute
	// promptly is how long an operation may take that must not wait for
	// anything, of the time in which the process runs (internal/uptime). It
	// leaves room for a busy machine.
	promptly = 5 * time.Second
	// tailTime is the 5 s that a connection may use in the background after
	// Close, and room for a busy machine, counted likewise.
	tailTime = 8 * time.Second
)

var versions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// Run tests that a provider does what package tlsapi promises. A provider that
// is not available is skipped. The calling test must not run in parallel with
// others: Run checks that no goroutine is left, and sets the limit on blinded
// connections.
func Run(t *testing.T, p tlsapi.Provider) {
	s := newSuite(t, p)
	t.Run("provider", s.testProvider)
	t.Run("options", s.testOptions)
	t.Run("verification", s.testVerification)
	t.Run("revocation", s.testRevocation)
	t.Run("system-roots", s.testSystemRoots)
	t.Run("key-shares", s.testKeyShares)
	t.Run("signature-schemes", s.testSignatureSchemes)
	t.Run("config-cache", s.testConfigCache)
	t.Run("secrets", s.testSecrets)
	s.runServed(t)
	t.Run("self", func(t *testing.T) { runPair(t, s, s) })
	// These two look at what the others have done.
	t.Run("traps", s.testTraps)
	t.Run("coverage", s.testCoverage)
}

// RunServed runs the part of Run that depends on how a server gets from the
// first byte of a ClientHello to its native object, and on what it does with
// that until it is closed: it is for a second way there of a provider that
// passes Run with its first. Left out is what a client alone or the checks of a
// configuration decide: see the beginning of Run for the names.
func RunServed(t *testing.T, p tlsapi.Provider) { newSuite(t, p).runServed(t) }

func (s *suite) runServed(t *testing.T) {
	t.Run("client-authentication", s.testClientAuthentication)
	t.Run("server-certificates", s.testServerCertificates)
	t.Run("stapling", s.testStapling)
	t.Run("selection", s.testSelection)
	t.Run("alpn", s.testALPN)
	t.Run("curves", s.testCurves)
	t.Run("versions", s.testVersions)
	t.Run("cipher-suites", s.testCipherSuites)
	t.Run("policies", s.testPolicies)
	t.Run("key-log", s.testKeyLog)
	t.Run("psks", s.testPSKs)
	t.Run("information", s.testInformation)
	t.Run("records-without-data", s.testRecordsWithoutData)
	t.Run("key-updates", s.testKeyUpdates)
	// These mostly wait.
	concurrently(t,
		group{"session-tickets", s.testSessionTickets},
		group{"resumption", s.testResumption},
		group{"close", s.testClose},
		group{"deadlines", s.testDeadlines},
		group{"cancellation", s.testCancellation},
		group{"hooks", s.testHooks},
		group{"transfer", s.testTransfer},
		group{"bad-input", s.testBadInput},
		group{"faults", s.testFaults},
	)
	t.Run("blinding", s.testBlinding)
}

type group struct {
	name string
	run  func(*testing.T)
}

// concurrently runs groups that share nothing at the same time and returns when
// all have ended. Tests that call t.Parallel would only begin when the test that
// called Run ends, which is too late for what follows here.
func concurrently(t *testing.T, groups ...group) {
	var all sync.WaitGroup
	for _, g := range groups {
		all.Go(func() { t.Run(g.name, g.run) })
	}
	all.Wait()
}

// RunPair tests a provider's client against another provider's server.
func RunPair(t *testing.T, client, server tlsapi.Provider) {
	runPair(t, newSuite(t, client), newSuite(t, server))
}

// suite is one run over one provider.
type suite struct {
	p     tlsapi.Provider
	cells map[tlsapi.Feature]tlsapi.FeatureSupport
	// ca issued the certificates of certs and clientCert; both hold under the
	// names of validSpec.
	ca         *Authority
	certs      map[KeyType]tls.Certificate
	clientCert tls.Certificate
	// revocationLists are current and revoke nothing.
	revocationLists []*x509.RevocationList
}

// serverName is the name that the suite's valid server certificates have.
const serverName = "server.example"

func newSuite(t *testing.T, p tlsapi.Provider) *suite {
	t.Helper()
	require.NotEmpty(t, p.Name())
	if err := p.Available(); err != nil {
		require.ErrorIs(t, err, tlsapi.KindUnavailable)
		t.Skipf("%s: %v", p.Name(), err)
	}
	leftover.Check(t)
	s := &suite{p: p, cells: make(map[tlsapi.Feature]tlsapi.FeatureSupport), certs: make(map[KeyType]tls.Certificate)}
	for _, cell := range p.Features() {
		s.cells[cell.Feature] = cell
	}
	s.ca = NewAuthority(t, Spec{CommonName: "Polytls Test CA"})
	s.revocationLists = []*x509.RevocationList{s.ca.RevocationList(t, time.Time{}, time.Time{})}
	for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
		s.certs[kind] = s.ca.Leaf(t, validSpec(kind))
	}
	s.clientCert = s.ca.Leaf(t, Spec{CommonName: "client", Organization: "Client Organization", DNSNames: []string{"client.example"}})
	return s
}

func validSpec(kind KeyType) Spec {
	return Spec{
		Key:          kind,
		CommonName:   serverName,
		Organization: "Server Organization",
		DNSNames:     []string{serverName},
		IPAddresses:  []string{"127.0.0.1", "::1"},
	}
}

// native reports whether the provider's library itself has the feature, so
// that it must hold to the letter.
func (s *suite) native(feature tlsapi.Feature) bool {
	return s.cells[feature].Support == tlsapi.Native
}

func (s *suite) supported(feature tlsapi.Feature) bool {
	cell, ok := s.cells[feature]
	return ok && cell.Support != tlsapi.Unsupported
}

// need skips the test when the provider declares one of the features as
// unsupported. That the feature is then refused is tested with the options.
func (s *suite) need(t *testing.T, features ...tlsapi.Feature) {
	t.Helper()
	for _, f := range features {
		if !s.supported(f) {
			t.Skipf("%s declares %s unsupported: %s", s.p.Name(), f, s.cells[f].Note)
		}
	}
}

// declares reports whether the note of one of the provider's features with the
// given prefix ("client.", "server.") names a limit.
func (s *suite) declares(prefix, limit string) bool {
	for f, cell := range s.cells {
		if strings.HasPrefix(string(f), prefix) && strings.Contains(strings.ToLower(cell.Note), strings.ToLower(limit)) {
			return true
		}
	}
	return false
}

// acceptRefusal skips the test when a configuration was refused for a declared
// limit: with an error that matches errors.ErrUnsupported and names an option
// whose feature is not native, or has a note that names one of the values. It
// fails the test with any other error.
func (s *suite) acceptRefusal(t *testing.T, err error, used []tlsapi.FeatureUse, values ...string) {
	t.Helper()
	if err == nil {
		return
	}
	var e *tlsapi.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, tlsapi.KindUnsupported, e.Kind, "the configuration is right, but was refused: %v", err)
	for _, use := range used {
		cell := s.cells[use.Feature]
		named := slices.ContainsFunc(values, func(v string) bool {
			return strings.Contains(strings.ToLower(cell.Note), strings.ToLower(v))
		})
		if use.Option == e.Option && (cell.Support != tlsapi.Native || named) {
			// That is what there is to see of this value.
			passed.Store(t.Name(), true)
			t.Skipf("refused as declared: %v", err)
		}
	}
	require.NoError(t, err, "the refusal is not declared by the provider's features")
}

// clientConfig returns a valid configuration of a client, changed by change.
func (s *suite) clientConfig(change ...func(*tlsapi.ClientConfig)) *tlsapi.ClientConfig {
	c := &tlsapi.ClientConfig{ServerName: serverName, RootCAs: Pool(s.ca)}
	if s.supported(tlsapi.ClientBlinding) {
		// Tests of failures would wait for the default delay.
		c.MaxBlindingDelay = -1
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// serverConfig returns a valid configuration of a server, changed by change.
func (s *suite) serverConfig(change ...func(*tlsapi.ServerConfig)) *tlsapi.ServerConfig {
	c := &tlsapi.ServerConfig{Certificates: []tls.Certificate{s.certs[ECDSA]}}
	if s.supported(tlsapi.ServerBlinding) {
		c.MaxBlindingDelay = -1
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// referenceServer returns crypto/tls's configuration of a server that suits
// clientConfig.
func (s *suite) referenceServer(change ...func(*tls.Config)) *tls.Config {
	c := &tls.Config{Certificates: []tls.Certificate{s.certs[ECDSA]}}
	for _, f := range change {
		f(c)
	}
	return c
}

// referenceClient is the same for a client that suits serverConfig.
func (s *suite) referenceClient(change ...func(*tls.Config)) *tls.Config {
	c := &tls.Config{ServerName: serverName, RootCAs: X509Pool(s.ca)}
	for _, f := range change {
		f(c)
	}
	return c
}

// only restricts crypto/tls to one protocol version.
func only(version uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version }
}

func eachVersion(t *testing.T, f func(t *testing.T, version uint16)) {
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) { f(t, v) })
	}
}

// versionName returns the version without a space, for test names.
func versionName(version uint16) string {
	return strings.ReplaceAll(tlsapi.VersionName(version), " ", "-")
}

// role is the end that the provider under test has.
type role string

const (
	client role = "client"
	server role = "server"
)

func eachRole(t *testing.T, f func(t *testing.T, r role)) {
	for _, r := range []role{client, server} {
		t.Run(string(r), func(t *testing.T) { f(t, r) })
	}
}

func eachRoleAndVersion(t *testing.T, f func(t *testing.T, r role, version uint16)) {
	eachRole(t, func(t *testing.T, r role) {
		eachVersion(t, func(t *testing.T, version uint16) { f(t, r, version) })
	})
}

// feature returns the feature of that name on the role's side.
func (r role) feature(name string) tlsapi.Feature { return tlsapi.Feature(string(r) + "." + name) }
