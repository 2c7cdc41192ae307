package tlstest

import (
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// systemRootsVariable tells a process of the test program that its system's
// roots are those of the folder.
const systemRootsVariable = "POLYTLS_TLSTEST_SYSTEM_ROOTS"

// testSystemRoots runs itself in a process of its own: the system's roots are
// read once per process, and a test needs to know a key among them.
func (s *suite) testSystemRoots(t *testing.T) {
	if dir := os.Getenv(systemRootsVariable); dir != "" {
		s.testKnownSystemRoots(t, dir)
		return
	}
	record(t)
	dir := t.TempDir()
	system := NewAuthority(t, Spec{CommonName: "System CA"})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "roots.pem"), system.PEM(), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "none"), 0o700))
	for name, cert := range map[string]tls.Certificate{
		"server": system.Leaf(t, validSpec(ECDSA)),
		"client": system.Leaf(t, Spec{CommonName: "client"}),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".pem"), CertificatePEM(cert), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".key"), KeyPEM(t, cert), 0o600))
	}
	program, err := os.Executable()
	require.NoError(t, err)
	var pattern []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	command := exec.CommandContext(t.Context(), program, "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.timeout=60s")
	command.Env = append(os.Environ(),
		systemRootsVariable+"="+dir,
		"SSL_CERT_FILE="+filepath.Join(dir, "roots.pem"),
		"SSL_CERT_DIR="+filepath.Join(dir, "none"))
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: "+t.Name()+"/server:_default", "the tests did run: %s", output)
	for line := range strings.Lines(string(output)) {
		if strings.Contains(line, "--- SKIP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func (s *suite) testKnownSystemRoots(t *testing.T, dir string) {
	load := func(name string) tls.Certificate {
		cert, err := tlsapi.LoadCertificate(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		require.NoError(t, err)
		return cert
	}
	systemServer, systemClient := load("server"), load("client")
	own := func() *tlsapi.CertPool { return Pool(s.ca) }
	added := func() *tlsapi.CertPool {
		pool := Pool(s.ca)
		pool.AddSystemRoots()
		return pool
	}
	systemOnly := func() *tlsapi.CertPool {
		pool := tlsapi.NewCertPool()
		pool.AddSystemRoots()
		return pool
	}
	for _, c := range []struct {
		name           string
		roots          func() *tlsapi.CertPool
		system, suites bool
	}{
		{"default", func() *tlsapi.CertPool { return nil }, true, false},
		{"replaced", own, false, true},
		{"added", added, true, true},
		{"system only", systemOnly, true, false},
	} {
		for _, p := range []struct {
			issuer  string
			cert    tls.Certificate
			trusted bool
		}{{"system", systemServer, c.system}, {"own", s.certs[ECDSA], c.suites}} {
			t.Run("client: "+c.name+", issued by "+p.issuer, func(t *testing.T) {
				config := s.clientConfig(func(config *tlsapi.ClientConfig) { config.RootCAs = c.roots() })
				d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.Certificates = []tls.Certificate{p.cert} }))
				err, _ := d.handshakes()
				if p.trusted {
					require.NoError(t, err)
					assert.True(t, d.conn.Info().Verified)
					return
				}
				s.requireKind(t, err, tlsapi.KindUntrusted)
			})
		}
	}
	for _, c := range []struct {
		name           string
		pool           *tlsapi.CertPool
		system, suites bool
	}{
		{"default", own(), false, true},
		{"added", added(), true, true},
		{"system only", systemOnly(), true, false},
	} {
		for _, mode := range []tls.ClientAuthType{tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven} {
			for _, p := range []struct {
				issuer  string
				cert    tls.Certificate
				trusted bool
			}{{"system", systemClient, c.system}, {"own", s.clientCert, c.suites}} {
				t.Run("server: "+c.name+", issued by "+p.issuer+", "+mode.String(), func(t *testing.T) {
					s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
					eachVersion(t, func(t *testing.T, version uint16) {
						config := s.serverConfig(func(config *tlsapi.ServerConfig) { config.ClientAuth, config.ClientCAs = mode, c.pool })
						d := s.serverDuo(t, config, s.referenceClient(only(version), sending(&p.cert)))
						if p.trusted {
							d.mustHandshake(t)
							return
						}
						s.requireClientRefused(t, d, version, tlsapi.KindUntrusted)
					})
				})
			}
		}
	}
}
