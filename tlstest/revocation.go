package tlstest

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Alerts about revocation (RFC 8446 section 6.2).
const (
	alertCertificateRevoked tls.AlertError = 44
	alertCertificateUnknown tls.AlertError = 46
)

// Extensions of revocation lists that say that a list is not complete (RFC 5280
// sections 5.2.4 and 5.2.5), and one that nobody knows.
var (
	oidDeltaCRLIndicator        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidUnknown                  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

// revocationCase is a chain that a peer sends and what the lists make of it.
type revocationCase struct {
	name  string
	lists []*x509.RevocationList
	kind  tlsapi.Kind // 0: accepted
	// anchors are the root by default, cert the leaf under the intermediate.
	anchors *tlsapi.CertPool
	cert    tls.Certificate
}

// revocationCases returns the cases of a root, an intermediate and a leaf.
func revocationCases(t *testing.T) []revocationCase {
	root := NewAuthority(t, Spec{CommonName: "Revocation Root"})
	intermediate := root.Intermediate(t, Spec{CommonName: "Revocation Intermediate"})
	leaf := intermediate.Leaf(t, validSpec(ECDSA))
	impostor := NewAuthority(t, Spec{CommonName: "Revocation Intermediate"})
	silent := root.Intermediate(t, Spec{CommonName: "No Lists", KeyUsage: x509.KeyUsageCertSign})
	silentLeaf := silent.Leaf(t, validSpec(ECDSA))

	var none time.Time
	hour := func(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }
	ofRoot, ofIntermediate := root.RevocationList(t, none, none), intermediate.RevocationList(t, none, none)
	lists := func(l ...*x509.RevocationList) []*x509.RevocationList { return l }
	anchor := func(c *x509.Certificate) *tlsapi.CertPool {
		pool := tlsapi.NewCertPool()
		pool.AddCert(c)
		return pool
	}
	both := anchor(root.Certificate)
	both.AddCert(intermediate.Certificate)
	cases := []revocationCase{
		{name: "nothing revoked", lists: lists(ofRoot, ofIntermediate)},
		{name: "another certificate revoked", lists: lists(ofRoot, intermediate.RevocationList(t, none, none, silentLeaf.Leaf))},
		{name: "leaf revoked", lists: lists(ofRoot, intermediate.RevocationList(t, none, none, leaf.Leaf)), kind: tlsapi.KindRevoked},
		{name: "intermediate revoked", lists: lists(root.RevocationList(t, none, none, intermediate.Certificate), ofIntermediate), kind: tlsapi.KindRevoked},
		{name: "leaf revoked, root's list missing", lists: lists(intermediate.RevocationList(t, none, none, leaf.Leaf)), kind: tlsapi.KindRevoked},
		{name: "same serial of another issuer", lists: lists(root.RevocationList(t, none, none, leaf.Leaf), ofIntermediate)},
		{name: "leaf's list missing", lists: lists(ofRoot), kind: tlsapi.KindRevocationUnknown},
		{name: "intermediate's list missing", lists: lists(ofIntermediate), kind: tlsapi.KindRevocationUnknown},
		{name: "expired", lists: lists(ofRoot, intermediate.RevocationList(t, hour(-4), hour(-2))), kind: tlsapi.KindRevocationUnknown},
		{name: "not yet valid", lists: lists(ofRoot, intermediate.RevocationList(t, hour(2), hour(4))), kind: tlsapi.KindRevocationUnknown},
		{name: "expired and current", lists: lists(ofRoot, intermediate.RevocationList(t, hour(-4), hour(-2), leaf.Leaf), ofIntermediate)},
		{name: "the newest counts", lists: lists(ofRoot, intermediate.RevocationList(t, hour(-2), hour(2), leaf.Leaf), intermediate.RevocationList(t, hour(-3), hour(2))), kind: tlsapi.KindRevoked},
		{name: "forged", lists: lists(ofRoot, impostor.RevocationList(t, none, none)), kind: tlsapi.KindRevocationUnknown},
		{name: "issuer may not", cert: silentLeaf, lists: lists(ofRoot, allowedToList(silent).RevocationList(t, none, none)), kind: tlsapi.KindRevocationUnknown},
		{name: "unknown critical extension", lists: lists(ofRoot, intermediate.list(t, pkix.Extension{Id: oidUnknown, Critical: true, Value: []byte{5, 0}})), kind: tlsapi.KindRevocationUnknown},
		{name: "unknown extension", lists: lists(ofRoot, intermediate.list(t, pkix.Extension{Id: oidUnknown, Value: []byte{5, 0}}))},
		{name: "delta list", lists: lists(ofRoot, intermediate.list(t, pkix.Extension{Id: oidDeltaCRLIndicator, Critical: true, Value: []byte{2, 1, 1}})), kind: tlsapi.KindRevocationUnknown},
		{name: "issuing distribution point", lists: lists(ofRoot, intermediate.list(t, pkix.Extension{Id: oidIssuingDistributionPoint, Critical: true, Value: []byte{0x30, 3, 0x81, 1, 0xff}})), kind: tlsapi.KindRevocationUnknown},
		{name: "intermediate is the anchor", anchors: anchor(intermediate.Certificate), lists: lists(ofIntermediate)},
		{name: "intermediate is an anchor beside the root", anchors: both, lists: lists(ofIntermediate)},
		{name: "leaf is the anchor", anchors: anchor(leaf.Leaf), lists: lists(ofRoot)},
	}
	for i := range cases {
		if cases[i].anchors == nil {
			cases[i].anchors = Pool(root)
		}
		if cases[i].cert.Leaf == nil {
			cases[i].cert = leaf
		}
	}
	return cases
}

// list returns a current, empty list with an extension.
func (a *Authority) list(t *testing.T, extension pkix.Extension) *x509.RevocationList {
	template := &x509.RevocationList{
		Number: randomSerial(), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{extension},
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.Certificate, a.Key)
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	return list
}

// allowedToList returns an authority that makes lists which its certificate does
// not allow it to sign.
func allowedToList(a *Authority) *Authority {
	changed := *a.Certificate
	changed.KeyUsage |= x509.KeyUsageCRLSign
	return &Authority{Certificate: &changed, Key: a.Key}
}

// testRevocationLists tests a verifying client and a verifying server against
// the reference.
func (s *suite) testRevocationLists(t *testing.T) {
	cases := revocationCases(t)
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		s.need(t, r.feature("revocation-lists"))
		for _, x := range cases {
			t.Run(x.name, func(t *testing.T) { s.testRevocationCase(t, r, version, x) })
		}
	})
}

func (s *suite) testRevocationCase(t *testing.T, r role, version uint16, x revocationCase) {
	var d *duo
	if r == client {
		d = s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) { c.RootCAs, c.RevocationLists = x.anchors, x.lists }),
			s.referenceServer(only(version), func(c *tls.Config) { c.Certificates = []tls.Certificate{x.cert} }))
	} else {
		d = s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.ClientAuth, c.ClientCAs, c.RevocationLists = tls.RequireAndVerifyClientCert, x.anchors, x.lists
		}), s.referenceClient(only(version), func(c *tls.Config) {
			// Whatever issuers the server names.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &x.cert, nil }
		}))
	}
	connErr, peerErr := d.handshakes()
	if x.kind == 0 {
		require.NoError(t, errors.Join(connErr, peerErr))
		d.mustEcho(t)
		assert.True(t, d.conn.Info().Verified)
		return
	}
	s.requireKind(t, connErr, x.kind)
	if r == client {
		requireNoLastFlight(t, d.connWire.Written(), version)
	} else if version == tls.VersionTLS13 {
		// The client has finished before the server looks at its certificate.
		require.NoError(t, peerErr)
		_, peerErr = d.peer.Read(make([]byte, 1))
	}
	alert := alertCertificateUnknown
	if x.kind == tlsapi.KindRevoked {
		alert = alertCertificateRevoked
	}
	if s.declares(string(r)+".revocation-lists", "bad_certificate") {
		alert = alertBadCertificate
	}
	s.requireAlertSeen(t, r, certificateStage(version), peerErr, alert)
}

// testOCSPStapling tests that a stapled response gets through.
func (s *suite) testOCSPStapling(t *testing.T) {
	staple := []byte("what a responder has said of the certificate")
	with := func(cert tls.Certificate) tls.Certificate {
		cert.OCSPStaple = staple
		return cert
	}
	t.Run("client", func(t *testing.T) {
		s.need(t, tlsapi.ClientOCSP)
		eachVersion(t, func(t *testing.T, version uint16) {
			for _, want := range [][]byte{staple, nil} {
				cert := s.certs[ECDSA]
				cert.OCSPStaple = want
				d := s.clientDuo(t, s.clientConfig(), s.referenceServer(only(version), func(c *tls.Config) { c.Certificates = []tls.Certificate{cert} }))
				d.mustHandshake(t)
				assert.Equal(t, want, d.conn.ConnectionState().OCSPResponse)
				d.mustEcho(t)
			}
		})
	})
	t.Run("server", func(t *testing.T) {
		s.need(t, tlsapi.ServerOCSP)
		eachVersion(t, func(t *testing.T, version uint16) {
			for _, kind := range []KeyType{ECDSA, RSA} {
				for _, cert := range []tls.Certificate{with(s.certs[kind]), s.certs[kind]} {
					d := s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{cert} }), s.referenceClient(only(version)))
					d.mustHandshake(t)
					assert.Equal(t, cert.OCSPStaple, d.peer.ConnectionState().OCSPResponse)
					d.mustEcho(t)
				}
			}
		})
	})
}
