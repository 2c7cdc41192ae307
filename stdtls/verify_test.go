package stdtls

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func poolOf(t testing.TB, ders ...[]byte) *tlsapi.CertPool {
	pool := tlsapi.NewCertPool()
	for _, der := range ders {
		require.NoError(t, pool.AddDER(der))
	}
	return pool
}

func mustParse(t testing.TB, der []byte) *x509.Certificate {
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

// verificationCase is a server's certificate and what a client makes of it.
type verificationCase struct {
	name  string
	cert  tls.Certificate
	roots *tlsapi.CertPool
	// serverName is "server.test" when empty.
	serverName string
	alternate  string
	kind       tlsapi.Kind // 0: accepted
	// as is an error type that the error must wrap.
	as any
}

func verificationCases(t *testing.T) []verificationCase {
	ca := newAuthority(t, "CA")
	other := newAuthority(t, "Other CA")
	sameName := newAuthority(t, "CA")
	inter := ca.Intermediate(t, tlstest.Spec{CommonName: "Intermediate"})
	deep := inter.Intermediate(t, tlstest.Spec{CommonName: "Deep"})
	withTemplate := func(a *tlstest.Authority, change func(*x509.Certificate)) tls.Certificate {
		return reissued(t, a, leaf(t, a, "server.test"), change)
	}
	withoutChain := leaf(t, inter, "server.test")
	withoutChain.Certificate = withoutChain.Certificate[:1]
	selfSigned := tlstest.SelfSigned(t, leafSpec("server.test"))
	leafAnchor := leaf(t, other, "server.test")

	tampered := tlstest.Tamper(t, leaf(t, ca, "server.test"))

	notCA := tlstest.Issuer(ca.Leaf(t, tlstest.Spec{CommonName: "No CA"}))
	with := func(spec tlstest.Spec) *tlstest.Authority { return ca.Intermediate(t, spec) }
	noCertSign := with(tlstest.Spec{CommonName: "No cert sign", KeyUsage: x509.KeyUsageDigitalSignature})
	expiredInter := with(tlstest.Spec{CommonName: "Expired", NotAfter: time.Now().Add(-time.Minute)})
	clientOnlyInter := with(tlstest.Spec{CommonName: "Clients", ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	constrained := with(tlstest.Spec{CommonName: "Constrained", PermittedDNSDomains: []string{"example.org"}})
	pathZero := with(tlstest.Spec{CommonName: "Path 0", PathLen: -1}).Intermediate(t, tlstest.Spec{CommonName: "Too deep"})
	weakRoot := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Weak CA", Key: tlstest.RSA1024})
	sha1Root := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "RSA CA", Key: tlstest.RSA})
	weakSigned := leaf(t, sha1Root, "server.test")
	weakSigned.Certificate = [][]byte{withSHA1(t, weakSigned.Certificate[0], sha1Root.Key.(*rsa.PrivateKey))}

	critical := withTemplate(ca, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	})

	names := func(names ...string) tls.Certificate { return leaf(t, ca, names...) }
	var (
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		insecure  x509.InsecureAlgorithmError
		critErr   x509.UnhandledCriticalExtension
	)
	cases := []verificationCase{
		{name: "right", cert: names("server.test"), roots: tlstest.Pool(ca)},
		{name: "chain of three", cert: leaf(t, inter, "server.test"), roots: tlstest.Pool(ca)},
		{name: "chain of four", cert: leaf(t, deep, "server.test"), roots: tlstest.Pool(ca)},
		{name: "intermediate missing", cert: withoutChain, roots: tlstest.Pool(ca), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "intermediate as anchor", cert: withoutChain, roots: poolOf(t, inter.Certificate.Raw)},
		{name: "leaf as anchor", cert: leafAnchor, roots: poolOf(t, leafAnchor.Certificate[0])},
		{name: "self-signed leaf as anchor", cert: selfSigned, roots: poolOf(t, selfSigned.Certificate[0])},
		{name: "leaf as anchor, wrong name", cert: leafAnchor, roots: poolOf(t, leafAnchor.Certificate[0]), serverName: "other.test", kind: tlsapi.KindHostname, as: &hostname},
		{name: "anchor among others", cert: names("server.test"), roots: poolOf(t, other.Certificate.Raw, sameName.Certificate.Raw, ca.Certificate.Raw)},

		{name: "untrusted", cert: leaf(t, other, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "untrusted, same CA name", cert: leaf(t, sameName, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "untrusted, root sent", cert: withSent(leaf(t, other, "server.test"), other.Certificate.Raw), roots: tlstest.Pool(ca), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "self-signed", cert: selfSigned, roots: tlstest.Pool(ca), kind: tlsapi.KindSelfSigned, as: &authority},
		{name: "untrusted and expired", cert: withTemplate(other, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: tlstest.Pool(ca), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "self-signed and wrong name", cert: selfSigned, roots: tlstest.Pool(ca), serverName: "other.test", kind: tlsapi.KindSelfSigned, as: &authority},

		{name: "expired", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: tlstest.Pool(ca), kind: tlsapi.KindExpired, as: &invalid},
		{name: "expired and wrong name", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: tlstest.Pool(ca), serverName: "other.test", kind: tlsapi.KindExpired, as: &invalid},
		{name: "not yet valid", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), roots: tlstest.Pool(ca), kind: tlsapi.KindNotYetValid, as: &invalid},
		{name: "expired intermediate", cert: leaf(t, expiredInter, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindExpired, as: &invalid},

		{name: "extended key usage of a client", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), roots: tlstest.Pool(ca), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "extended key usage of the intermediate", cert: leaf(t, clientOnlyInter, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "any extended key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), roots: tlstest.Pool(ca)},
		{name: "no extended key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), roots: tlstest.Pool(ca)},
		{name: "key usage without signatures", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), roots: tlstest.Pool(ca), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "no key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = 0 }), roots: tlstest.Pool(ca)},
		{name: "usage and wrong name", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), roots: tlstest.Pool(ca), serverName: "other.test", kind: tlsapi.KindKeyUsage, as: &invalid},

		{name: "weak anchor", cert: leaf(t, weakRoot, "server.test"), roots: tlstest.Pool(weakRoot), kind: tlsapi.KindWeakKey},
		{name: "SHA-1", cert: weakSigned, roots: tlstest.Pool(sha1Root), kind: tlsapi.KindWeakSignature, as: &insecure},
		{name: "SHA-1 leaf as anchor", cert: weakSigned, roots: poolOf(t, weakSigned.Certificate[0])},
		{name: "bad signature", cert: tampered, roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate},
		{name: "issuer is no CA", cert: leaf(t, notCA, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "issuer may not sign", cert: leaf(t, noCertSign, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "no CA as anchor", cert: leaf(t, notCA, "server.test"), roots: poolOf(t, notCA.Certificate.Raw), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "name constraint", cert: leaf(t, constrained, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "path length", cert: leaf(t, pathZero, "server.test"), roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate},
		{name: "critical extension", cert: critical, roots: tlstest.Pool(ca), kind: tlsapi.KindInvalidCertificate, as: &critErr},

		{name: "name only in the common name", cert: withTemplate(ca, func(c *x509.Certificate) {
			c.DNSNames = nil
			c.Subject.CommonName = "server.test"
		}), roots: tlstest.Pool(ca), kind: tlsapi.KindHostname, as: &hostname},
		{name: "address only in the common name", cert: withTemplate(ca, func(c *x509.Certificate) {
			c.DNSNames = nil
			c.Subject.CommonName = "192.0.2.1"
		}), roots: tlstest.Pool(ca), serverName: "192.0.2.1", kind: tlsapi.KindHostname, as: &hostname},
		{name: "address as DNS name", cert: withTemplate(ca, func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2.1"} }), roots: tlstest.Pool(ca), serverName: "192.0.2.1", kind: tlsapi.KindHostname, as: &hostname},
		{name: "digits are no name", cert: withTemplate(ca, func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2"} }), roots: tlstest.Pool(ca), serverName: "192.0.2", kind: tlsapi.KindHostname},
	}
	for _, n := range []struct {
		san, name string
		match     bool
	}{
		{"server.test", "other.test", false},
		{"server.test", "SERVER.Test", true},
		{"SERVER.test", "server.test", true},
		{"server.test", "server.test.", true},
		{"server.test", "sub.server.test", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", "example.com", false},
		{"f*.example.com", "foo.example.com", false},
		{"f*.example.com", "f*.example.com", false},
		{"*", "server", false},
		{"*.com", "example.com", false},
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::1", true},
		{"2001:db8::1", "2001:0DB8:0::1", true},
		{"2001:db8::1", "2001:db8::2", false},
		{"fe80::1", "fe80::1%eth0", true},
		{"2001:db8::1", "server.test", false},
	} {
		c := verificationCase{name: fmt.Sprintf("%s for %s", n.san, n.name), cert: names(n.san), roots: tlstest.Pool(ca), serverName: n.name}
		if !n.match {
			c.kind, c.as = tlsapi.KindHostname, &hostname
		}
		cases = append(cases, c)
	}
	both := names("alt.test", "192.0.2.7")
	return append(cases,
		verificationCase{name: "alternative DNS name", cert: both, roots: tlstest.Pool(ca), alternate: "alt.test"},
		verificationCase{name: "alternative address", cert: both, roots: tlstest.Pool(ca), alternate: "192.0.2.7"},
		verificationCase{name: "address or alternative name", cert: both, roots: tlstest.Pool(ca), serverName: "192.0.2.8", alternate: "alt.test"},
		verificationCase{name: "neither name", cert: both, roots: tlstest.Pool(ca), alternate: "other.test", kind: tlsapi.KindHostname, as: &hostname},
	)
}

func withSent(cert tls.Certificate, more ...[]byte) tls.Certificate {
	cert.Certificate = append(append([][]byte(nil), cert.Certificate...), more...)
	return cert
}

// withSHA1 signs a certificate anew with SHA-1, which crypto/x509 refuses to do.
func withSHA1(t testing.TB, der []byte, key *rsa.PrivateKey) []byte {
	sha1WithRSA := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, Parameters: asn1.NullRawValue}
	var cert struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	_, err := asn1.Unmarshal(der, &cert)
	require.NoError(t, err)
	var tbs struct {
		Version    int `asn1:"explicit,tag:0"`
		Serial     asn1.RawValue
		Algorithm  pkix.AlgorithmIdentifier
		Issuer     asn1.RawValue
		Validity   asn1.RawValue
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Extensions asn1.RawValue
	}
	_, err = asn1.Unmarshal(cert.TBS.FullBytes, &tbs)
	require.NoError(t, err)
	tbs.Algorithm = sha1WithRSA
	tbsDER, err := asn1.Marshal(tbs)
	require.NoError(t, err)
	digest := sha1.Sum(tbsDER)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, digest[:])
	require.NoError(t, err)
	cert.TBS = asn1.RawValue{FullBytes: tbsDER}
	cert.Algorithm = sha1WithRSA
	cert.Signature = asn1.BitString{Bytes: signature, BitLength: len(signature) * 8}
	out, err := asn1.Marshal(cert)
	require.NoError(t, err)
	require.Equal(t, x509.SHA1WithRSA, mustParse(t, out).SignatureAlgorithm)
	return out
}

func TestVerification(t *testing.T) {
	for _, c := range verificationCases(t) {
		t.Run(c.name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				name := c.serverName
				if name == "" {
					name = "server.test"
				}
				client, server, clientErr, serverErr := connect(t, tcpPair,
					&tlsapi.ClientConfig{ServerName: name, AlternativeName: c.alternate, RootCAs: c.roots},
					&tlsapi.ServerConfig{Settings: tlsapi.Settings{MaxVersion: version}, Certificates: []tls.Certificate{c.cert}})
				if c.kind == 0 {
					require.NoError(t, clientErr)
					require.NoError(t, serverErr)
					require.True(t, client.Info().Verified)
					chains := client.ConnectionState().VerifiedChains
					require.NotEmpty(t, chains)
					require.Equal(t, c.cert.Certificate[0], chains[0][0].Raw)
					client.Close()
					server.Close()
					continue
				}
				requireKind(t, clientErr, c.kind, opHandshake)
				if c.as != nil {
					require.True(t, errors.As(clientErr, c.as), "%v does not wrap a %T", clientErr, c.as)
				}
				var cve *tls.CertificateVerificationError
				require.ErrorAs(t, clientErr, &cve)
				require.ErrorIs(t, clientErr, tls.AlertError(alertBadCertificate))
				require.False(t, client.Info().Verified)
				require.False(t, client.ConnectionState().HandshakeComplete)
				require.Nil(t, client.ConnectionState().VerifiedChains)
				e := requireKind(t, serverErr, tlsapi.KindPeerAlert, opHandshake)
				require.Equal(t, alertBadCertificate, e.Alert)
				server.Close()
			}
		})
	}
}

func TestVerificationSwitches(t *testing.T) {
	ca, other := newAuthority(t, "CA"), newAuthority(t, "Other CA")
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, other, "server.test")}}
	expired := &tlsapi.ServerConfig{Certificates: []tls.Certificate{
		other.Leaf(t, tlstest.Spec{DNSNames: []string{"other.test"}, NotAfter: time.Now().Add(-time.Minute)})}}
	for _, c := range []struct {
		name     string
		client   *tlsapi.ClientConfig
		server   *tlsapi.ServerConfig
		kind     tlsapi.Kind
		verified bool
	}{
		{"skip everything", &tlsapi.ClientConfig{InsecureSkipVerify: true}, expired, 0, false},
		{"skip everything, with a name and roots", &tlsapi.ClientConfig{InsecureSkipVerify: true, ServerName: "x.test", RootCAs: tlstest.Pool(ca)}, server, 0, false},
		{"skip the name", &tlsapi.ClientConfig{SkipHostnameVerification: true, ServerName: "x.test", RootCAs: tlstest.Pool(other)}, server, 0, true},
		{"skip the name without one", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: tlstest.Pool(other)}, server, 0, true},
		{"skip the name, not the chain", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: tlstest.Pool(ca)}, server, tlsapi.KindUntrusted, false},
		{"skip the name, not the dates", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: tlstest.Pool(other)}, expired, tlsapi.KindExpired, false},
		{"system roots", &tlsapi.ClientConfig{ServerName: "server.test"}, server, tlsapi.KindUntrusted, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.client.RootCAs == nil && !c.client.InsecureSkipVerify {
				if _, err := tlsapi.SystemRoots(); err != nil {
					t.Skip(err)
				}
			}
			client, _, clientErr, serverErr := connect(t, tcpPair, c.client, c.server)
			if c.kind != 0 {
				requireKind(t, clientErr, c.kind, opHandshake)
				return
			}
			require.NoError(t, clientErr)
			require.NoError(t, serverErr)
			require.Equal(t, c.verified, client.Info().Verified)
			require.Equal(t, c.verified, len(client.ConnectionState().VerifiedChains) > 0)
		})
	}
}

// A client without names to accept must not become one that accepts all.
func TestVerifierWithoutNamesRefuses(t *testing.T) {
	ca := newAuthority(t, "CA")
	v := newVerifier(newAnchors([]*x509.Certificate{ca.Certificate}), x509.ExtKeyUsageServerAuth)
	_, err := v.verify([]*x509.Certificate{leaf(t, ca, "server.test").Leaf})
	require.ErrorIs(t, err, tlsapi.KindHostname)
}

// Many certificates with the same name must not make the search for the cause
// take exponential time.
func TestExplainIsBounded(t *testing.T) {
	// Without key identifiers each of them may have issued each other.
	same := tlstest.Spec{CommonName: "Same", SubjectKeyID: []byte{}}
	signer := tlstest.NewAuthority(t, same)
	chain := []*x509.Certificate{leaf(t, signer, "server.test").Leaf}
	for range 30 {
		chain = append(chain, signer.Intermediate(t, same).Certificate)
	}
	v := newVerifier(newAnchors([]*x509.Certificate{newAuthority(t, "Other").Certificate}), x509.ExtKeyUsageServerAuth)
	within(t, 5*time.Second, "the verification", func() {
		_, err := v.verify(chain)
		require.ErrorIs(t, err, tlsapi.KindUntrusted)
	})
}

func TestClientAuthentication(t *testing.T) {
	ca, clientCA, other := newAuthority(t, "CA"), newAuthority(t, "Client CA"), newAuthority(t, "Other CA")
	right, wrong, selfSigned := leaf(t, clientCA, "client.test"), leaf(t, other, "client.test"), tlstest.SelfSigned(t, leafSpec("client.test"))
	forServers := clientCA.Leaf(t, tlstest.Spec{DNSNames: []string{"client.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	intermediate := leaf(t, clientCA.Intermediate(t, tlstest.Spec{CommonName: "Intermediate"}), "client.test")

	const none = tlsapi.KindNoCertificate
	for _, mode := range []struct {
		mode tls.ClientAuthType
		// The kind of the server's error for each certificate, 0: accepted.
		noCert, right, wrong, selfSigned, forServers tlsapi.Kind
		asks, verifies                               bool
	}{
		{mode: tls.NoClientCert},
		{mode: tls.RequestClientCert, asks: true},
		{mode: tls.RequireAnyClientCert, noCert: none, asks: true},
		{mode: tls.VerifyClientCertIfGiven, wrong: tlsapi.KindUntrusted, selfSigned: tlsapi.KindSelfSigned, forServers: tlsapi.KindKeyUsage, asks: true, verifies: true},
		{mode: tls.RequireAndVerifyClientCert, noCert: none, wrong: tlsapi.KindUntrusted, selfSigned: tlsapi.KindSelfSigned, forServers: tlsapi.KindKeyUsage, asks: true, verifies: true},
	} {
		for _, c := range []struct {
			name string
			cert *tls.Certificate
			kind tlsapi.Kind
		}{
			{"no certificate", nil, mode.noCert},
			{"right", &right, mode.right},
			{"with intermediate", &intermediate, mode.right},
			{"wrong CA", &wrong, mode.wrong},
			{"self-signed", &selfSigned, mode.selfSigned},
			{"for servers", &forServers, mode.forServers},
		} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				t.Run(fmt.Sprintf("%v/%s/%s", mode.mode, c.name, tlsapi.VersionName(version)), func(t *testing.T) {
					sc := &tlsapi.ServerConfig{
						Settings:     tlsapi.Settings{MaxVersion: version},
						Certificates: []tls.Certificate{leaf(t, ca, "server.test")},
						ClientAuth:   mode.mode,
					}
					if mode.verifies {
						sc.ClientCAs = tlstest.Pool(clientCA)
					}
					cc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: c.cert}
					ct, st := tcpPair(t)
					client, err := Provider.Client(ct, cc)
					require.NoError(t, err)
					server, err := Provider.Server(st, sc)
					require.NoError(t, err)
					clientErr := make(chan error, 1)
					go func() {
						// In TLS 1.3 the verdict comes after the client's
						// handshake, with the first Read.
						_, err := client.Read(make([]byte, 1))
						clientErr <- err
					}()
					serverErr := server.Handshake()
					if c.kind == 0 {
						require.NoError(t, serverErr)
						_, err := server.Write([]byte("x"))
						require.NoError(t, err)
						require.NoError(t, <-clientErr)
						hasPeer := c.cert != nil && mode.asks
						require.Equal(t, hasPeer, len(server.ConnectionState().PeerCertificates) > 0)
						require.Equal(t, hasPeer && mode.verifies, server.Info().Verified)
						require.Equal(t, hasPeer, server.Info().PeerSHA256 != "")
						client.Close()
						server.Close()
						return
					}
					e := requireKind(t, serverErr, c.kind, opHandshake)
					alert := alertBadCertificate
					if c.kind == none {
						alert = alertCertificateRequired
						if version == tls.VersionTLS12 {
							alert = alertHandshakeFailure
						}
					}
					require.True(t, e.HasAlert)
					require.Equal(t, alert, e.Alert)
					got := requireKind(t, <-clientErr, tlsapi.KindPeerAlert, "")
					require.Equal(t, alert, got.Alert, "what the peer says that it sent is what came")
					server.Close()
				})
			}
		}
	}
}

// The client's certificate goes out whatever the server names as its CAs: the
// server decides.
func TestClientCertificateIgnoresCAHints(t *testing.T) {
	ca, a, b := newAuthority(t, "CA"), newAuthority(t, "A"), newAuthority(t, "B")
	cert := leaf(t, b, "client.test")
	_, server := connected(t, tcpPair,
		&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: &cert},
		&tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf(t, ca, "server.test")}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: tlstest.Pool(a)})
	require.Equal(t, cert.Certificate[0], server.ConnectionState().PeerCertificates[0].Raw)
}

// The system's roots must not be trusted for clients.
func TestClientCAsAreNotTheSystems(t *testing.T) {
	_, err := Provider.Server(newRecorder(), &tlsapi.ServerConfig{
		Certificates: []tls.Certificate{leaf(t, newAuthority(t, "CA"), "server.test")},
		ClientAuth:   tls.RequireAndVerifyClientCert,
	})
	requireKind(t, err, tlsapi.KindConfig, "config")
}

// requireKind checks what every error of the provider has.
func requireKind(t testing.TB, err error, kind tlsapi.Kind, op string) *tlsapi.Error {
	t.Helper()
	require.ErrorIs(t, err, kind)
	e, ok := err.(*tlsapi.Error)
	require.True(t, ok, "%T is no *tlsapi.Error: %v", err, err)
	require.Equal(t, kind, e.Kind, "%v", err)
	require.Equal(t, providerName, e.Provider)
	if op != "" {
		require.Equal(t, op, e.Op)
	}
	return e
}
