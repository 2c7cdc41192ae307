package tlstest

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// verificationCase is one certificate and what a client makes of it.
type verificationCase struct {
	name string
	cert tls.Certificate
	// configure changes the client's valid configuration.
	configure func(*tlsapi.ClientConfig)
	// kind is the outcome; zero means accepted.
	kind tlsapi.Kind
	// kinds are the outcomes of a certificate that some libraries do not get as
	// far as verifying, because they cannot parse it.
	kinds []tlsapi.Kind
	// mended says that what the client tells of the certificate is not what
	// was sent.
	mended bool
	// unverified says that the connection is accepted without verification.
	unverified bool
}

func (s *suite) testVerification(t *testing.T) {
	cases := append(s.verificationCases(t), s.forgedCertificates(t)...)
	requireManyRefusals(t, cases)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachVersion(t, func(t *testing.T, version uint16) { s.verify(t, version, c) })
		})
	}
	t.Run("contexts of different trust are kept apart", s.testTrustIsolation)
	t.Run("names refused before anything is sent", s.testRefusedNames)
	t.Run("server name indication", s.testServerNameIndication)
	t.Run("a failed handshake stays failed", s.testFailureIsFinal)
}

// requireManyRefusals keeps the list from shrinking unseen: most of what there is
// to know of a verification is what it refuses.
func requireManyRefusals(t *testing.T, cases []verificationCase) {
	t.Helper()
	refused, kinds := 0, make(map[tlsapi.Kind]bool)
	for _, c := range cases {
		if c.kind != 0 || len(c.kinds) > 0 {
			refused++
			kinds[c.kind] = true
		}
	}
	require.GreaterOrEqual(t, refused, 90)
	for _, kind := range []tlsapi.Kind{tlsapi.KindHostname, tlsapi.KindUntrusted, tlsapi.KindExpired, tlsapi.KindNotYetValid, tlsapi.KindSelfSigned, tlsapi.KindKeyUsage} {
		require.True(t, kinds[kind], "no certificate is refused with %v alone", kind)
	}
}

func (s *suite) verify(t *testing.T, version uint16, c verificationCase) {
	config := s.clientConfig()
	if c.configure != nil {
		c.configure(config)
	}
	reference := s.referenceServer(only(version), func(r *tls.Config) { r.Certificates = []tls.Certificate{c.cert} })
	d := s.clientDuo(t, config, reference)
	err, peerErr := d.handshakes()
	if len(c.kinds) > 0 {
		s.requireKinds(t, err, c.kinds...)
		requireNoLastFlight(t, d.clientWire.Written(), version)
		assert.False(t, d.conn.ConnectionState().HandshakeComplete)
		return
	}
	if c.kind != 0 {
		s.requireKind(t, err, c.kind)
		requireNoLastFlight(t, d.clientWire.Written(), version)
		s.requireAlertSeen(t, client, certificateStage(version), peerErr, certificateAlerts...)
		assert.False(t, d.conn.Info().Verified)
		assert.False(t, d.conn.ConnectionState().HandshakeComplete)
		return
	}
	require.NoError(t, err)
	require.NoError(t, peerErr)
	d.mustEcho(t)
	state := d.conn.ConnectionState()
	require.NotEmpty(t, state.PeerCertificates)
	if c.mended {
		assert.NotEqual(t, c.cert.Certificate[0], state.PeerCertificates[0].Raw)
		return
	}
	assert.Equal(t, c.cert.Certificate[0], state.PeerCertificates[0].Raw)
	assert.Equal(t, !c.unverified, d.conn.Info().Verified)
	if c.unverified {
		assert.Empty(t, state.VerifiedChains)
		return
	}
	require.NotEmpty(t, state.VerifiedChains)
	for _, chain := range state.VerifiedChains {
		assert.Equal(t, c.cert.Certificate[0], chain[0].Raw)
	}
}

// requireNoLastFlight fails the test when a client that refused its server's
// certificate has written more than its ClientHello, the meaningless
// change_cipher_spec of TLS 1.3 and one alert.
func requireNoLastFlight(t *testing.T, wire []byte, version uint16) {
	t.Helper()
	records, err := ParseRecords(wire)
	require.NoError(t, err)
	require.NotEmpty(t, records)
	require.EqualValues(t, RecordHandshake, records[0].Type)
	alerts := 0
	for i, r := range records[1:] {
		switch {
		case r.Type == RecordAlert:
			alerts++
			require.Len(t, r.Payload, 2, "record %d: an alert that is encrypted: the keys were changed", i+2)
		case version == tls.VersionTLS13 && r.Type == RecordChangeCipherSpec:
		case version == tls.VersionTLS13 && r.Type == RecordApplicationData:
			alerts++
			// An alert of 2 bytes, the content type and the tag. A Finished
			// has 53 bytes at least.
			require.LessOrEqual(t, len(r.Payload), 2+1+16, "record %d is more than an alert", i+2)
		default:
			require.Fail(t, "the client went on", "record %d has type %d and %d bytes", i+2, r.Type, len(r.Payload))
		}
	}
	require.LessOrEqual(t, alerts, 1)
}

func (s *suite) verificationCases(t *testing.T) []verificationCase {
	t.Helper()
	var (
		now    = time.Now()
		past   = now.Add(-time.Minute)
		future = now.Add(time.Hour)

		ca           = s.ca
		intermediate = ca.Intermediate(t, Spec{CommonName: "Intermediate"})
		other        = NewAuthority(t, Spec{CommonName: "Another CA"})
		// twin has the name of the suite's CA and another key.
		twin = NewAuthority(t, Spec{CommonName: ca.Certificate.Subject.CommonName})

		name = []string{serverName}
	)
	leaf := func(change func(*Spec)) tls.Certificate {
		spec := Spec{CommonName: serverName, DNSNames: name}
		change(&spec)
		return ca.Leaf(t, spec)
	}
	valid := s.certs[ECDSA]
	under := func(a *Authority) tls.Certificate { return a.Leaf(t, Spec{DNSNames: name}) }
	trust := func(a ...*Authority) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(a...) }
	}
	anchor := func(cert tls.Certificate) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) {
			c.RootCAs = tlsapi.NewCertPool()
			c.RootCAs.AddCert(cert.Leaf)
		}
	}
	as := func(name string) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) { c.ServerName = name }
	}
	asEither := func(name, alternative string) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) { c.ServerName, c.AlternativeName = name, alternative }
	}
	skipAll := func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }
	skipName := func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true }
	both := func(fs ...func(*tlsapi.ClientConfig)) func(*tlsapi.ClientConfig) {
		return func(c *tlsapi.ClientConfig) {
			for _, f := range fs {
				f(c)
			}
		}
	}

	var (
		wildcard    = ca.Leaf(t, Spec{DNSNames: []string{"*.example.com"}})
		partial     = ca.Leaf(t, Spec{DNSNames: []string{"f*.example.com"}})
		commonName  = ca.Leaf(t, Spec{CommonName: serverName})
		expired     = leaf(func(c *Spec) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), past })
		notYet      = leaf(func(c *Spec) { c.NotBefore = future })
		selfSigned  = SelfSigned(t, Spec{CommonName: serverName, DNSNames: name})
		clientOnly  = leaf(func(c *Spec) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		anyUsage    = leaf(func(c *Spec) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
		noUsage     = leaf(func(c *Spec) { c.ExtKeyUsage = []x509.ExtKeyUsage{} })
		wrongUsage  = leaf(func(c *Spec) { c.KeyUsage = x509.KeyUsageCRLSign })
		ipInCN      = ca.Leaf(t, Spec{CommonName: "127.0.0.1", DNSNames: name})
		ipOnlyInCN  = ca.Leaf(t, Spec{CommonName: "127.0.0.1"})
		ipAsDNS     = ca.Leaf(t, Spec{DNSNames: []string{"127.0.0.1"}})
		dnsOnly     = ca.Leaf(t, Spec{DNSNames: name})
		v4          = ca.Leaf(t, Spec{IPAddresses: []string{"192.0.2.7"}})
		v6          = ca.Leaf(t, Spec{IPAddresses: []string{"2001:db8::7"}})
		mixedCase   = ca.Leaf(t, Spec{DNSNames: []string{"Server.EXAMPLE"}})
		severalName = ca.Leaf(t, Spec{DNSNames: []string{"a.example", "b.example"}, IPAddresses: []string{"192.0.2.1", "192.0.2.2"}})

		chain          = under(intermediate)
		expiredMiddle  = under(ca.Intermediate(t, Spec{CommonName: "Expired", NotBefore: now.Add(-2 * time.Hour), NotAfter: past}))
		futureMiddle   = under(ca.Intermediate(t, Spec{CommonName: "Future", NotBefore: future}))
		clientMiddle   = under(ca.Intermediate(t, Spec{CommonName: "Clients", ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}))
		leafMiddle     = under(Issuer(leaf(func(*Spec) {})))
		noSignMiddle   = under(ca.Intermediate(t, Spec{CommonName: "No signatures", KeyUsage: x509.KeyUsageCRLSign}))
		shortRoot      = NewAuthority(t, Spec{CommonName: "Short", PathLen: -1})
		tooLong        = under(shortRoot.Intermediate(t, Spec{CommonName: "Too long"}))
		constrained    = NewAuthority(t, Spec{CommonName: "Constrained", PermittedDNSDomains: []string{"allowed.example"}})
		outOfBounds    = under(constrained)
		withinBounds   = constrained.Leaf(t, Spec{DNSNames: []string{"www.allowed.example"}})
		expiredRoot    = NewAuthority(t, Spec{CommonName: "Expired root", NotBefore: now.Add(-2 * time.Hour), NotAfter: past})
		underExpired   = under(expiredRoot)
		rsaRoot        = NewAuthority(t, Spec{CommonName: "RSA", Key: RSA})
		sha1Leaf       = rsaRoot.Leaf(t, Spec{DNSNames: name, Signature: x509.SHA1WithRSA})
		sha1ECDSALeaf  = leaf(func(c *Spec) { c.Signature = x509.ECDSAWithSHA1 })
		sha1Middle     = under(rsaRoot.Intermediate(t, Spec{CommonName: "SHA-1", Signature: x509.SHA1WithRSA}))
		sha1Root       = NewAuthority(t, Spec{CommonName: "SHA-1 root", Signature: x509.ECDSAWithSHA1})
		underSHA1Root  = under(sha1Root)
		weakLeaf       = ca.Leaf(t, Spec{Key: RSA1024, DNSNames: name})
		weakMiddle     = under(ca.Intermediate(t, Spec{Key: RSA1024, CommonName: "Weak"}))
		tampered       = Tamper(t, leaf(func(*Spec) {}))
		underTwin      = under(twin)
		twoLevels      = under(intermediate.Intermediate(t, Spec{CommonName: "Intermediate 2"}))
		expiredSelf    = SelfSigned(t, Spec{DNSNames: name, NotBefore: now.Add(-2 * time.Hour), NotAfter: past})
		untrusted      = under(other)
		rootSent       = valid
		unrelatedSent  = valid
		disorderedSent = twoLevels
	)
	rootSent.Certificate = append([][]byte{valid.Certificate[0]}, ca.Certificate.Raw)
	unrelatedSent.Certificate = [][]byte{valid.Certificate[0], other.Certificate.Raw}
	disorderedSent.Certificate = [][]byte{twoLevels.Certificate[0], twoLevels.Certificate[2], twoLevels.Certificate[1]}

	return []verificationCase{
		// Names.
		{name: "right name", cert: valid},
		{name: "wrong name", cert: valid, configure: as("wrong.example"), kind: tlsapi.KindHostname},
		{name: "name without regard to case", cert: mixedCase},
		{name: "server name without regard to case", cert: valid, configure: as("SERVER.Example")},
		{name: "trailing dot", cert: valid, configure: as(serverName + ".")},
		{name: "a suffix is not a match", cert: valid, configure: as("evil" + serverName), kind: tlsapi.KindHostname},
		{name: "a subdomain is not a match", cert: valid, configure: as("sub." + serverName), kind: tlsapi.KindHostname},
		{name: "common name only", cert: commonName, kind: tlsapi.KindHostname},
		{name: "second of several names", cert: severalName, configure: as("b.example")},
		{name: "none of several names", cert: severalName, configure: as("c.example"), kind: tlsapi.KindHostname},
		{name: "wildcard matches one label", cert: wildcard, configure: as("www.example.com")},
		{name: "wildcard does not match two labels", cert: wildcard, configure: as("a.www.example.com"), kind: tlsapi.KindHostname},
		{name: "wildcard does not match no label", cert: wildcard, configure: as("example.com"), kind: tlsapi.KindHostname},
		{name: "partial wildcard", cert: partial, configure: as("foo.example.com"), kind: tlsapi.KindHostname},
		{name: "partial wildcard and its own text", cert: partial, configure: as("f.example.com"), kind: tlsapi.KindHostname},

		// Addresses.
		{name: "IPv4 address", cert: v4, configure: as("192.0.2.7")},
		{name: "IPv6 address", cert: v6, configure: as("2001:db8::7")},
		{name: "IPv6 address in another spelling", cert: v6, configure: as("2001:0DB8:0:0::7")},
		{name: "second of several addresses", cert: severalName, configure: as("192.0.2.2")},
		{name: "wrong IPv4 address", cert: v4, configure: as("192.0.2.8"), kind: tlsapi.KindHostname},
		{name: "wrong IPv6 address", cert: v6, configure: as("2001:db8::8"), kind: tlsapi.KindHostname},
		{name: "address against a certificate of DNS names", cert: dnsOnly, configure: as("127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "address in the common name", cert: ipInCN, configure: as("127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "address only in the common name", cert: ipOnlyInCN, configure: as("127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "address as a DNS name", cert: ipAsDNS, configure: as("127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "DNS name against a certificate of addresses", cert: v4, kind: tlsapi.KindHostname},

		// Alternative names.
		{name: "alternative DNS name", cert: valid, configure: asEither("wrong.example", serverName)},
		{name: "alternative name beside the right name", cert: valid, configure: asEither(serverName, "wrong.example")},
		{name: "neither name", cert: valid, configure: asEither("wrong.example", "wrong2.example"), kind: tlsapi.KindHostname},
		{name: "alternative address", cert: v4, configure: asEither("wrong.example", "192.0.2.7")},
		{name: "alternative IPv6 address", cert: v6, configure: asEither("wrong.example", "2001:db8::7")},
		{name: "alternative DNS name to an address", cert: dnsOnly, configure: asEither("192.0.2.9", serverName)},
		{name: "alternative address to an address", cert: v4, configure: asEither("192.0.2.9", "192.0.2.7")},
		{name: "address beside an alternative DNS name", cert: v4, configure: asEither("192.0.2.7", serverName)},
		{name: "neither name nor address", cert: v4, configure: asEither(serverName, "192.0.2.9"), kind: tlsapi.KindHostname},
		{name: "alternative address as a DNS name", cert: ipAsDNS, configure: asEither(serverName, "127.0.0.1"), kind: tlsapi.KindHostname},
		{name: "alternative name under an untrusted authority", cert: untrusted, configure: asEither("wrong.example", serverName), kind: tlsapi.KindUntrusted},

		// Trust.
		{name: "untrusted", cert: untrusted, kind: tlsapi.KindUntrusted},
		{name: "untrusted authority of the same name", cert: underTwin, kind: tlsapi.KindUntrusted},
		{name: "one of two trusted authorities", cert: untrusted, configure: trust(ca, other)},
		{name: "two trusted authorities of the same name", cert: underTwin, configure: trust(ca, twin)},
		{name: "self-signed", cert: selfSigned, kind: tlsapi.KindSelfSigned},
		{name: "self-signed and trusted", cert: selfSigned, configure: anchor(selfSigned)},
		{name: "self-signed, trusted, wrong name", cert: selfSigned, configure: both(anchor(selfSigned), as("wrong.example")), kind: tlsapi.KindHostname},
		{name: "self-signed, trusted and expired", cert: expiredSelf, configure: anchor(expiredSelf), kind: tlsapi.KindExpired},
		{name: "the leaf itself is trusted", cert: valid, configure: anchor(valid)},
		{name: "tampered signature", cert: tampered, kind: tlsapi.KindInvalidCertificate},

		// Validity.
		{name: "expired", cert: expired, kind: tlsapi.KindExpired},
		{name: "not yet valid", cert: notYet, kind: tlsapi.KindNotYetValid},
		{name: "expired intermediate", cert: expiredMiddle, kind: tlsapi.KindExpired},
		{name: "intermediate not yet valid", cert: futureMiddle, kind: tlsapi.KindNotYetValid},
		{name: "expired root", cert: underExpired, configure: trust(expiredRoot), kind: tlsapi.KindExpired},

		// Usage.
		{name: "extended key usage of clients", cert: clientOnly, kind: tlsapi.KindKeyUsage},
		{name: "any extended key usage", cert: anyUsage},
		{name: "no extended key usage", cert: noUsage},
		{name: "wrong key usage", cert: wrongUsage, kind: tlsapi.KindKeyUsage},
		{name: "intermediate for clients", cert: clientMiddle, kind: tlsapi.KindKeyUsage},

		// Chains.
		{name: "intermediate sent", cert: chain},
		{name: "intermediate missing", cert: LeafOnly(chain), kind: tlsapi.KindUntrusted},
		{name: "two intermediates", cert: twoLevels},
		{name: "two intermediates in the wrong order", cert: disorderedSent},
		{name: "root sent, too", cert: rootSent},
		{name: "unrelated certificate sent, too", cert: unrelatedSent},
		{name: "intermediate is trusted", cert: LeafOnly(chain), configure: trust(intermediate)},
		{name: "intermediate is trusted and sent", cert: chain, configure: trust(intermediate)},
		{name: "issuer that is not an authority", cert: leafMiddle, kind: tlsapi.KindInvalidCertificate},
		{name: "issuer that may not sign certificates", cert: noSignMiddle, kind: tlsapi.KindInvalidCertificate},
		{name: "chain longer than the root allows", cert: tooLong, configure: trust(shortRoot), kind: tlsapi.KindInvalidCertificate},
		{name: "name constraint violated", cert: outOfBounds, configure: trust(constrained), kind: tlsapi.KindInvalidCertificate},
		{name: "name constraint kept", cert: withinBounds, configure: both(trust(constrained), as("www.allowed.example"))},

		// Strength.
		{name: "RSA key of 1024 bits", cert: weakLeaf, kind: tlsapi.KindWeakKey},
		{name: "intermediate with an RSA key of 1024 bits", cert: weakMiddle, kind: tlsapi.KindWeakKey},
		{name: "RSA with SHA-1", cert: sha1Leaf, configure: trust(rsaRoot), kind: tlsapi.KindWeakSignature},
		{name: "ECDSA with SHA-1", cert: sha1ECDSALeaf, kind: tlsapi.KindWeakSignature},
		{name: "intermediate signed with SHA-1", cert: sha1Middle, configure: trust(rsaRoot), kind: tlsapi.KindWeakSignature},
		// A root's signature of itself says nothing.
		{name: "root signed with SHA-1", cert: underSHA1Root, configure: trust(sha1Root)},

		// Switches.
		{name: "skip verification, untrusted", cert: untrusted, configure: skipAll, unverified: true},
		{name: "skip verification, wrong name", cert: valid, configure: both(skipAll, as("wrong.example")), unverified: true},
		{name: "skip verification, expired", cert: expired, configure: skipAll, unverified: true},
		{name: "skip verification, self-signed", cert: selfSigned, configure: skipAll, unverified: true},
		{name: "skip verification, no name", cert: valid, configure: both(skipAll, as("")), unverified: true},
		{name: "skip verification, empty pool", cert: valid, configure: both(skipAll, trust()), unverified: true},
		{name: "skip host name, wrong name", cert: valid, configure: both(skipName, as("wrong.example"))},
		{name: "skip host name, no name", cert: valid, configure: both(skipName, as(""))},
		{name: "skip host name, common name only", cert: commonName, configure: skipName},
		{name: "skip host name, wrong alternative name", cert: valid, configure: both(skipName, asEither("wrong.example", "wrong2.example"))},
		{name: "skip host name, untrusted", cert: untrusted, configure: skipName, kind: tlsapi.KindUntrusted},
		{name: "skip host name, expired", cert: expired, configure: skipName, kind: tlsapi.KindExpired},
		{name: "skip host name, wrong usage", cert: clientOnly, configure: skipName, kind: tlsapi.KindKeyUsage},
		{name: "skip host name, self-signed", cert: selfSigned, configure: both(skipName, as("")), kind: tlsapi.KindSelfSigned},
	}
}

// testTrustIsolation connects with configurations that differ only in what a
// careless cache key would leave out.
func (s *suite) testTrustIsolation(t *testing.T) {
	serial := big.NewInt(0x1234)
	issuer := Spec{CommonName: "Same CA", Organization: "Same", Serial: serial}
	leaf := Spec{CommonName: serverName, DNSNames: []string{serverName}, Serial: serial}
	first, second := NewAuthority(t, issuer), NewAuthority(t, issuer)
	certs := map[*Authority]tls.Certificate{first: first.Leaf(t, leaf), second: second.Leaf(t, leaf)}

	attempt := func(t *testing.T, trusted, presented *Authority) {
		t.Helper()
		config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.RootCAs = Pool(trusted) })
		d := s.clientDuo(t, config, s.referenceServer(func(r *tls.Config) { r.Certificates = []tls.Certificate{certs[presented]} }))
		err, _ := d.handshakes()
		if trusted == presented {
			require.NoError(t, err)
			return
		}
		s.requireKind(t, err, tlsapi.KindUntrusted)
	}
	t.Run("authorities with equal names and serials", func(t *testing.T) {
		for range 2 {
			attempt(t, first, first)
			attempt(t, second, first)
			attempt(t, second, second)
			attempt(t, first, second)
		}
	})
	t.Run("switches", func(t *testing.T) {
		untrusted := s.referenceServer(func(r *tls.Config) { r.Certificates = []tls.Certificate{certs[first]} })
		for range 2 {
			d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true }), untrusted)
			d.mustHandshake(t)
			err, _ := s.clientDuo(t, s.clientConfig(), untrusted).handshakes()
			s.requireKind(t, err, tlsapi.KindUntrusted)
			err, _ = s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.SkipHostnameVerification = true }), untrusted).handshakes()
			s.requireKind(t, err, tlsapi.KindUntrusted)
		}
	})
	t.Run("names", func(t *testing.T) {
		for range 2 {
			s.clientDuo(t, s.clientConfig(), s.referenceServer()).mustHandshake(t)
			err, _ := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.ServerName = "wrong.example" }), s.referenceServer()).handshakes()
			s.requireKind(t, err, tlsapi.KindHostname)
		}
	})
	t.Run("server certificates with equal serials", func(t *testing.T) {
		for range 2 {
			for _, a := range []*Authority{first, second} {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{certs[a]} })
				d := s.serverDuo(t, config, s.referenceClient(func(r *tls.Config) { r.RootCAs = X509Pool(a) }))
				d.mustHandshake(t)
				assert.Equal(t, certs[a].Certificate[0], d.peer.ConnectionState().PeerCertificates[0].Raw)
			}
		}
	})
}

func (s *suite) testRefusedNames(t *testing.T) {
	for _, c := range []struct {
		name, option string
		configure    func(*tlsapi.ClientConfig)
	}{
		{"no name", "ServerName", func(c *tlsapi.ClientConfig) { c.ServerName = "" }},
		{"only an alternative name", "ServerName", func(c *tlsapi.ClientConfig) {
			c.ServerName, c.AlternativeName = "", serverName
		}},
		{"NUL byte", "ServerName", func(c *tlsapi.ClientConfig) { c.ServerName = serverName + "\x00.evil.example" }},
		{"space", "ServerName", func(c *tlsapi.ClientConfig) { c.ServerName = "server example" }},
		{"too long", "ServerName", func(c *tlsapi.ClientConfig) { c.ServerName = string(make([]byte, 300)) }},
		{"NUL byte in the alternative name", "AlternativeName", func(c *tlsapi.ClientConfig) {
			c.AlternativeName = serverName + "\x00"
		}},
		{"empty pool", "RootCAs", func(c *tlsapi.ClientConfig) { c.RootCAs = tlsapi.NewCertPool() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.requireClientRefusal(t, s.clientConfig(c.configure), tlsapi.KindConfig, c.option)
		})
	}
}

func (s *suite) testServerNameIndication(t *testing.T) {
	for _, c := range []struct{ name, serverName, alternative, sni string }{
		{"DNS name", serverName, "", serverName},
		{"IPv4 address", "127.0.0.1", "", ""},
		{"IPv6 address", "::1", "", ""},
		{"empty", "", "", ""},
		{"trailing dot", serverName + ".", "", serverName},
		{"alternative DNS name is not sent", serverName, "alternative.example", serverName},
		{"alternative DNS name to an address is not sent", "127.0.0.1", "alternative.example", ""},
		{"alternative address is not sent", serverName, "127.0.0.1", serverName},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := s.clientDuo(t, s.clientConfig(func(config *tlsapi.ClientConfig) {
				config.ServerName, config.AlternativeName = c.serverName, c.alternative
				config.SkipHostnameVerification = c.serverName == ""
			}), s.referenceServer())
			d.mustHandshake(t)
			hello := d.hello(t)
			assert.Equal(t, c.sni, hello.ServerName)
			assert.Equal(t, c.sni != "", hello.Has(extensionServerName))
			assert.Equal(t, c.sni, d.conn.Info().ServerName)
		})
	}
}

func (s *suite) testFailureIsFinal(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		d := s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.ServerName = "wrong.example" }), s.referenceServer(only(version)))
		go d.peer.Handshake()
		first := d.conn.Handshake()
		s.requireKind(t, first, tlsapi.KindHostname)
		wire := len(d.connWire.Written())
		s.requireKind(t, d.conn.Handshake(), tlsapi.KindHostname)
		_, err := d.conn.Write([]byte("secret"))
		s.requireKind(t, err, tlsapi.KindHostname)
		_, err = d.conn.Read(make([]byte, 1))
		s.requireKind(t, err, tlsapi.KindHostname)
		assert.Len(t, d.connWire.Written(), wire, "nothing is sent after the failure")
	})
}
