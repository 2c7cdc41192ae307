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
)

func selfSignedLeaf(t testing.TB, names ...string) tls.Certificate {
	key := ecKey(t)
	template := leafTemplate(t, names...)
	cert := sign(t, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

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
	inter := ca.intermediate(t, "Intermediate")
	deep := inter.intermediate(t, "Deep")
	withTemplate := func(a *authority, change func(*x509.Certificate)) tls.Certificate {
		template := leafTemplate(t, "server.test")
		change(template)
		return a.issue(t, ecKey(t), template)
	}
	withoutChain := inter.leaf(t, "server.test")
	withoutChain.Certificate = withoutChain.Certificate[:1]
	selfSigned := selfSignedLeaf(t, "server.test")
	leafAnchor := other.leaf(t, "server.test")

	tampered := ca.leaf(t, "server.test")
	tampered.Certificate = [][]byte{append([]byte(nil), tampered.Certificate[0]...)}
	tampered.Certificate[0][len(tampered.Certificate[0])-1] ^= 1

	notCA := ca.intermediate(t, "No CA", func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature })
	noCertSign := ca.intermediate(t, "No cert sign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	expiredInter := ca.intermediate(t, "Expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	clientOnlyInter := ca.intermediate(t, "Clients", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	constrained := ca.intermediate(t, "Constrained", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} })
	pathZero := ca.intermediate(t, "Path 0", func(c *x509.Certificate) { c.MaxPathLenZero = true }).intermediate(t, "Too deep")
	weakRoot := newAuthorityWithKey(t, "Weak CA", rsaKey(t, 1024))
	sha1Root := newAuthorityWithKey(t, "RSA CA", rsaKey(t, 2048))
	weakSigned := sha1Root.issue(t, ecKey(t), leafTemplate(t, "server.test"))
	weakSigned.Certificate = [][]byte{withSHA1(t, weakSigned.Certificate[0], sha1Root.key.(*rsa.PrivateKey))}

	critical := withTemplate(ca, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	})

	names := func(names ...string) tls.Certificate { return ca.leaf(t, names...) }
	var (
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		insecure  x509.InsecureAlgorithmError
		critErr   x509.UnhandledCriticalExtension
	)
	cases := []verificationCase{
		{name: "right", cert: names("server.test"), roots: ca.pool()},
		{name: "chain of three", cert: inter.leaf(t, "server.test"), roots: ca.pool()},
		{name: "chain of four", cert: deep.leaf(t, "server.test"), roots: ca.pool()},
		{name: "intermediate missing", cert: withoutChain, roots: ca.pool(), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "intermediate as anchor", cert: withoutChain, roots: poolOf(t, inter.cert.Raw)},
		{name: "leaf as anchor", cert: leafAnchor, roots: poolOf(t, leafAnchor.Certificate[0])},
		{name: "self-signed leaf as anchor", cert: selfSigned, roots: poolOf(t, selfSigned.Certificate[0])},
		{name: "leaf as anchor, wrong name", cert: leafAnchor, roots: poolOf(t, leafAnchor.Certificate[0]), serverName: "other.test", kind: tlsapi.KindHostname, as: &hostname},
		{name: "anchor among others", cert: names("server.test"), roots: poolOf(t, other.cert.Raw, sameName.cert.Raw, ca.cert.Raw)},

		{name: "untrusted", cert: other.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "untrusted, same CA name", cert: sameName.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "untrusted, root sent", cert: withSent(other.leaf(t, "server.test"), other.cert.Raw), roots: ca.pool(), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "self-signed", cert: selfSigned, roots: ca.pool(), kind: tlsapi.KindSelfSigned, as: &authority},
		{name: "untrusted and expired", cert: withTemplate(other, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: ca.pool(), kind: tlsapi.KindUntrusted, as: &authority},
		{name: "self-signed and wrong name", cert: selfSigned, roots: ca.pool(), serverName: "other.test", kind: tlsapi.KindSelfSigned, as: &authority},

		{name: "expired", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: ca.pool(), kind: tlsapi.KindExpired, as: &invalid},
		{name: "expired and wrong name", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), roots: ca.pool(), serverName: "other.test", kind: tlsapi.KindExpired, as: &invalid},
		{name: "not yet valid", cert: withTemplate(ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), roots: ca.pool(), kind: tlsapi.KindNotYetValid, as: &invalid},
		{name: "expired intermediate", cert: expiredInter.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindExpired, as: &invalid},

		{name: "extended key usage of a client", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), roots: ca.pool(), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "extended key usage of the intermediate", cert: clientOnlyInter.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "any extended key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), roots: ca.pool()},
		{name: "no extended key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), roots: ca.pool()},
		{name: "key usage without signatures", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), roots: ca.pool(), kind: tlsapi.KindKeyUsage, as: &invalid},
		{name: "no key usage", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = 0 }), roots: ca.pool()},
		{name: "usage and wrong name", cert: withTemplate(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), roots: ca.pool(), serverName: "other.test", kind: tlsapi.KindKeyUsage, as: &invalid},

		{name: "weak anchor", cert: weakRoot.leaf(t, "server.test"), roots: weakRoot.pool(), kind: tlsapi.KindWeakKey},
		{name: "SHA-1", cert: weakSigned, roots: sha1Root.pool(), kind: tlsapi.KindWeakSignature, as: &insecure},
		{name: "SHA-1 leaf as anchor", cert: weakSigned, roots: poolOf(t, weakSigned.Certificate[0])},
		{name: "bad signature", cert: tampered, roots: ca.pool(), kind: tlsapi.KindInvalidCertificate},
		{name: "issuer is no CA", cert: notCA.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "issuer may not sign", cert: noCertSign.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "no CA as anchor", cert: notCA.leaf(t, "server.test"), roots: poolOf(t, notCA.cert.Raw), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "name constraint", cert: constrained.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindInvalidCertificate, as: &invalid},
		{name: "path length", cert: pathZero.leaf(t, "server.test"), roots: ca.pool(), kind: tlsapi.KindInvalidCertificate},
		{name: "critical extension", cert: critical, roots: ca.pool(), kind: tlsapi.KindInvalidCertificate, as: &critErr},

		{name: "name only in the common name", cert: withTemplate(ca, func(c *x509.Certificate) {
			c.DNSNames = nil
			c.Subject.CommonName = "server.test"
		}), roots: ca.pool(), kind: tlsapi.KindHostname, as: &hostname},
		{name: "address only in the common name", cert: withTemplate(ca, func(c *x509.Certificate) {
			c.DNSNames = nil
			c.Subject.CommonName = "192.0.2.1"
		}), roots: ca.pool(), serverName: "192.0.2.1", kind: tlsapi.KindHostname, as: &hostname},
		{name: "address as DNS name", cert: withTemplate(ca, func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2.1"} }), roots: ca.pool(), serverName: "192.0.2.1", kind: tlsapi.KindHostname, as: &hostname},
		{name: "digits are no name", cert: withTemplate(ca, func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2"} }), roots: ca.pool(), serverName: "192.0.2", kind: tlsapi.KindHostname},
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
		c := verificationCase{name: fmt.Sprintf("%s for %s", n.san, n.name), cert: names(n.san), roots: ca.pool(), serverName: n.name}
		if !n.match {
			c.kind, c.as = tlsapi.KindHostname, &hostname
		}
		cases = append(cases, c)
	}
	both := names("alt.test", "192.0.2.7")
	return append(cases,
		verificationCase{name: "alternative DNS name", cert: both, roots: ca.pool(), alternate: "alt.test"},
		verificationCase{name: "alternative address", cert: both, roots: ca.pool(), alternate: "192.0.2.7"},
		verificationCase{name: "address or alternative name", cert: both, roots: ca.pool(), serverName: "192.0.2.8", alternate: "alt.test"},
		verificationCase{name: "neither name", cert: both, roots: ca.pool(), alternate: "other.test", kind: tlsapi.KindHostname, as: &hostname},
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
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{other.leaf(t, "server.test")}}
	expired := &tlsapi.ServerConfig{Certificates: []tls.Certificate{other.issue(t, ecKey(t), func() *x509.Certificate {
		template := leafTemplate(t, "other.test")
		template.NotAfter = time.Now().Add(-time.Minute)
		return template
	}())}}
	for _, c := range []struct {
		name     string
		client   *tlsapi.ClientConfig
		server   *tlsapi.ServerConfig
		kind     tlsapi.Kind
		verified bool
	}{
		{"skip everything", &tlsapi.ClientConfig{InsecureSkipVerify: true}, expired, 0, false},
		{"skip everything, with a name and roots", &tlsapi.ClientConfig{InsecureSkipVerify: true, ServerName: "x.test", RootCAs: ca.pool()}, server, 0, false},
		{"skip the name", &tlsapi.ClientConfig{SkipHostnameVerification: true, ServerName: "x.test", RootCAs: other.pool()}, server, 0, true},
		{"skip the name without one", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: other.pool()}, server, 0, true},
		{"skip the name, not the chain", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: ca.pool()}, server, tlsapi.KindUntrusted, false},
		{"skip the name, not the dates", &tlsapi.ClientConfig{SkipHostnameVerification: true, RootCAs: other.pool()}, expired, tlsapi.KindExpired, false},
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
	v := newVerifier(newAnchors([]*x509.Certificate{ca.cert}), x509.ExtKeyUsageServerAuth)
	_, err := v.verify([]*x509.Certificate{mustParse(t, ca.leaf(t, "server.test").Certificate[0])})
	require.ErrorIs(t, err, tlsapi.KindHostname)
}

// Many certificates with the same name must not make the search for the cause
// take exponential time.
func TestExplainIsBounded(t *testing.T) {
	// Without key identifiers each of them may have issued each other.
	issuer := caTemplate(t, "Same")
	signer := ecKey(t)
	chain := []*x509.Certificate{sign(t, leafTemplate(t, "server.test"), issuer, ecKey(t).Public(), signer)}
	for range 30 {
		key := ecKey(t)
		other := caTemplate(t, "Same")
		other.SubjectKeyId = []byte{}
		chain = append(chain, sign(t, other, issuer, key.Public(), signer))
	}
	for _, c := range chain[1:] {
		c.SubjectKeyId = nil
	}
	v := newVerifier(newAnchors([]*x509.Certificate{newAuthority(t, "Other").cert}), x509.ExtKeyUsageServerAuth)
	within(t, 5*time.Second, "the verification", func() {
		_, err := v.verify(chain)
		require.ErrorIs(t, err, tlsapi.KindUntrusted)
	})
}

func TestClientAuthentication(t *testing.T) {
	ca, clientCA, other := newAuthority(t, "CA"), newAuthority(t, "Client CA"), newAuthority(t, "Other CA")
	right, wrong, selfSigned := clientCA.leaf(t, "client.test"), other.leaf(t, "client.test"), selfSignedLeaf(t, "client.test")
	forServers := clientCA.issue(t, ecKey(t), func() *x509.Certificate {
		template := leafTemplate(t, "client.test")
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		return template
	}())
	intermediate := clientCA.intermediate(t, "Intermediate").leaf(t, "client.test")

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
						Certificates: []tls.Certificate{ca.leaf(t, "server.test")},
						ClientAuth:   mode.mode,
					}
					if mode.verifies {
						sc.ClientCAs = clientCA.pool()
					}
					cc := &tlsapi.ClientConfig{ServerName: "server.test", RootCAs: ca.pool(), Certificate: c.cert}
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
	cert := b.leaf(t, "client.test")
	_, server := connected(t, tcpPair,
		&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: ca.pool(), Certificate: &cert},
		&tlsapi.ServerConfig{Certificates: []tls.Certificate{ca.leaf(t, "server.test")}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: a.pool()})
	require.Equal(t, cert.Certificate[0], server.ConnectionState().PeerCertificates[0].Raw)
}

// The system's roots must not be trusted for clients.
func TestClientCAsAreNotTheSystems(t *testing.T) {
	_, err := Provider.Server(newRecorder(), &tlsapi.ServerConfig{
		Certificates: []tls.Certificate{newAuthority(t, "CA").leaf(t, "server.test")},
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
