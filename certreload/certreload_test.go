package certreload_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/certreload"
	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/stdtls"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func TestMain(m *testing.M) { leftover.Main(m) }

type fixture struct {
	authority *tlstest.Authority
	dir       string
	reloads   chan error
	options   certreload.Options
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{
		authority: tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"}),
		dir:       t.TempDir(),
		reloads:   make(chan error, 100),
	}
	f.options = certreload.Options{
		Certificates: []certreload.KeyPair{{CertFile: f.path("tls.crt"), KeyFile: f.path("tls.key")}},
		Provider:     stdtls.Provider,
		Reloaded:     func(err error) { f.reloads <- err },
	}
	return f
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) write(t *testing.T, name string, text []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(f.path(name), text, 0o600))
}

// issue returns a certificate with its name in the common name.
func (f *fixture) issue(t *testing.T, name string) tls.Certificate {
	return f.authority.Leaf(t, tlstest.Spec{CommonName: name, DNSNames: []string{"localhost"}, IPAddresses: []string{"127.0.0.1"}})
}

// writePair puts a certificate and its key in place, each of them whole at any
// time: a busy machine may look at what is half written, and report that.
func (f *fixture) writePair(t *testing.T, cert tls.Certificate) {
	t.Helper()
	for name, text := range map[string][]byte{"tls.crt": tlstest.CertificatePEM(cert), "tls.key": tlstest.KeyPEM(t, cert)} {
		f.write(t, "new", text)
		require.NoError(t, os.Rename(f.path("new"), f.path(name)))
	}
}

func (f *fixture) start(t *testing.T) *certreload.Files {
	t.Helper()
	files, err := certreload.New(f.options)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, files.Close()) })
	return files
}

// await waits for the next report that is an error, or that is none.
func (f *fixture) await(t *testing.T, wantError bool) error {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case err := <-f.reloads:
			if (err != nil) == wantError {
				return err
			}
		case <-deadline:
			t.Fatal("the change was not reported")
		}
	}
}

func current(t *testing.T, files *certreload.Files) string {
	t.Helper()
	config, err := files.GetConfigForClient(nil)
	require.NoError(t, err)
	return config.Certificates[0].Leaf.Subject.CommonName
}

// New connections get the new certificate, old ones live on.
func TestConnections(t *testing.T) {
	for _, p := range providers.All() {
		t.Run(p.Name(), func(t *testing.T) {
			if err := p.Available(); err != nil {
				t.Skip(err)
			}
			f := newFixture(t)
			f.options.Provider = p
			f.writePair(t, f.issue(t, "first"))
			files := f.start(t)
			l, err := httptls.Listen("tcp", "127.0.0.1:0", p, files.ServerConfig())
			require.NoError(t, err)
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						_, _ = io.Copy(conn, conn)
						conn.Close()
					}()
				}
			}()
			dial := func() tlsapi.Conn {
				conn, err := httptls.Dial("tcp", l.Addr().String(), p, &tlsapi.ClientConfig{RootCAs: tlstest.Pool(f.authority)})
				require.NoError(t, err)
				return conn
			}
			name := func(conn tlsapi.Conn) string { return conn.ConnectionState().PeerCertificates[0].Subject.CommonName }
			old := dial()
			defer old.Close()
			assert.Equal(t, "first", name(old))

			f.writePair(t, f.issue(t, "second"))
			f.await(t, false)
			fresh := dial()
			defer fresh.Close()
			assert.Equal(t, "second", name(fresh))
			for _, conn := range []net.Conn{old, fresh} {
				_, err := io.WriteString(conn, "alive")
				require.NoError(t, err)
				echoed := make([]byte, 5)
				_, err = io.ReadFull(conn, echoed)
				require.NoError(t, err)
				assert.Equal(t, "alive", string(echoed))
			}
		})
	}
}

// As Kubernetes does it: tls.crt -> ..data/tls.crt, ..data -> ..2026_1, and the
// middle link is replaced by renaming.
func TestKubernetesSwap(t *testing.T) {
	f := newFixture(t)
	version := func(name string) {
		require.NoError(t, os.Mkdir(f.path(".."+name), 0o700))
		cert := f.issue(t, name)
		f.write(t, "../"+filepath.Base(f.dir)+"/.."+name+"/tls.crt", tlstest.CertificatePEM(cert))
		f.write(t, "../"+filepath.Base(f.dir)+"/.."+name+"/tls.key", tlstest.KeyPEM(t, cert))
		require.NoError(t, os.Symlink(".."+name, f.path("..data_tmp")))
		require.NoError(t, os.Rename(f.path("..data_tmp"), f.path("..data")))
	}
	version("first")
	require.NoError(t, os.Symlink("..data/tls.crt", f.path("tls.crt")))
	require.NoError(t, os.Symlink("..data/tls.key", f.path("tls.key")))
	files := f.start(t)
	assert.Equal(t, "first", current(t, files))
	for _, name := range []string{"second", "third"} {
		version(name)
		assert.NoError(t, f.await(t, false))
		assert.Equal(t, name, current(t, files))
	}
	require.NoError(t, os.RemoveAll(f.path("..first")))
}

// The last good files stay in use through every kind of damage, which is
// reported; then the next good ones are taken over.
func TestDamage(t *testing.T) {
	f := newFixture(t)
	f.writePair(t, f.issue(t, "first"))
	// Of another type: leaves of one type share their key in tests.
	other := f.authority.Leaf(t, tlstest.Spec{Key: tlstest.RSA, CommonName: "other"})
	files := f.start(t)
	whole := tlstest.CertificatePEM(other)
	for _, c := range []struct {
		name   string
		damage func()
		want   string
	}{
		{"half written", func() { f.write(t, "tls.crt", whole[:len(whole)/2]) }, "tls.crt"},
		{"empty", func() { f.write(t, "tls.crt", nil) }, "is empty"},
		{"key of another", func() { f.write(t, "tls.crt", whole) }, "does not belong"},
		{"no key", func() { require.NoError(t, os.Remove(f.path("tls.key"))) }, "tls.key"},
		{"key is a certificate", func() { f.write(t, "tls.key", whole) }, "no private key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := current(t, files)
			c.damage()
			err := f.await(t, true)
			assert.ErrorIs(t, err, tlsapi.KindConfig)
			assert.ErrorContains(t, err, c.want)
			assert.Equal(t, before, current(t, files))
			assert.Error(t, files.Reload())
			assert.Equal(t, before, current(t, files))

			next := "after " + c.name
			f.writePair(t, f.issue(t, next))
			f.await(t, false)
			require.Eventually(t, func() bool { return current(t, files) == next }, 20*time.Second, 10*time.Millisecond)
		})
	}
}

func TestClientCAs(t *testing.T) {
	f := newFixture(t)
	f.writePair(t, f.issue(t, "server"))
	f.write(t, "ca.pem", f.authority.PEM())
	f.options.ClientCAs = []string{f.path("ca.pem")}
	f.options.Base = &tlsapi.ServerConfig{ClientAuth: tls.RequireAndVerifyClientCert}
	files := f.start(t)
	pool := func() [32]byte {
		config, err := files.GetConfigForClient(nil)
		require.NoError(t, err)
		assert.Equal(t, tls.RequireAndVerifyClientCert, config.ClientAuth)
		return config.ClientCAs.Digest()
	}
	assert.Equal(t, tlstest.Pool(f.authority).Digest(), pool())
	next := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Next CA"})
	f.write(t, "ca.pem", next.PEM())
	f.await(t, false)
	assert.Equal(t, tlstest.Pool(next).Digest(), pool())
}

// A change that the system does not tell of: the folder is not there when the
// watching begins, and is put in place at once.
func TestPolling(t *testing.T) {
	f := newFixture(t)
	folder := f.path("mounted")
	require.NoError(t, os.Mkdir(folder, 0o700))
	f.options.Certificates = []certreload.KeyPair{{CertFile: folder + "/tls.crt", KeyFile: folder + "/tls.key"}}
	f.options.PollInterval = 20 * time.Millisecond
	first := f.issue(t, "first")
	put := func(cert tls.Certificate) {
		fresh := f.path("fresh")
		require.NoError(t, os.Mkdir(fresh, 0o700))
		require.NoError(t, os.WriteFile(fresh+"/tls.crt", tlstest.CertificatePEM(cert), 0o600))
		require.NoError(t, os.WriteFile(fresh+"/tls.key", tlstest.KeyPEM(t, cert), 0o600))
		require.NoError(t, os.Rename(folder, f.path("gone "+cert.Leaf.Subject.CommonName)))
		require.NoError(t, os.Rename(fresh, folder))
	}
	put(first)
	files := f.start(t)
	for _, name := range []string{"second", "third"} {
		put(f.issue(t, name))
		require.Eventually(t, func() bool { return current(t, files) == name }, 20*time.Second, 5*time.Millisecond)
	}
}

func TestGetCertificate(t *testing.T) {
	f := newFixture(t)
	f.writePair(t, f.issue(t, "first"))
	files := f.start(t)
	near, far := net.Pipe()
	server := tls.Server(near, &tls.Config{GetCertificate: files.GetCertificate})
	client := tls.Client(far, &tls.Config{RootCAs: tlstest.X509Pool(f.authority), ServerName: "localhost"})
	ended := make(chan error, 1)
	go func() { ended <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-ended)
	assert.Equal(t, "first", client.ConnectionState().PeerCertificates[0].Subject.CommonName)
	near.Close()
	far.Close()
}

func TestNewRefuses(t *testing.T) {
	f := newFixture(t)
	_, err := certreload.New(certreload.Options{})
	assert.ErrorIs(t, err, tlsapi.KindConfig)
	_, err = certreload.New(f.options)
	assert.ErrorIs(t, err, os.ErrNotExist)
	f.writePair(t, f.issue(t, "first"))
	for _, base := range []*tlsapi.ServerConfig{
		{Certificates: []tls.Certificate{f.issue(t, "another")}},
		{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }},
		{GetConfigForClient: func(*tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) { return nil, nil }},
		{ClientAuth: tls.RequireAndVerifyClientCert}, // without CAs
	} {
		f.options.Base = base
		_, err := certreload.New(f.options)
		assert.ErrorIs(t, err, tlsapi.KindConfig)
	}
}
