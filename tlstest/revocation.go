package tlstest

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
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

// testRevocation checks chains of three with revocation lists, in both roles.
func (s *suite) testRevocation(t *testing.T) {
	eachRole(t, func(t *testing.T, r role) {
		s.need(t, r.feature("revocation-lists"))
		if r == server {
			s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
		}
		for _, c := range newRevocationParties(t).cases(t) {
			t.Run(c.name, func(t *testing.T) {
				eachVersion(t, func(t *testing.T, version uint16) { s.revoke(t, r, version, c) })
			})
		}
		t.Run("lists are part of the configuration", func(t *testing.T) { s.testRevocationIsolation(t, r) })
	})
}

// revocationParties are a chain of three, and an authority that differs from its
// root only by the key.
type revocationParties struct {
	root, intermediate, impostor *Authority
	leaf                         tls.Certificate
}

func newRevocationParties(t *testing.T) *revocationParties {
	t.Helper()
	p := &revocationParties{
		root:     NewAuthority(t, Spec{CommonName: "Revocation Root"}),
		impostor: NewAuthority(t, Spec{CommonName: "Revocation Root"}),
	}
	p.intermediate = p.root.Intermediate(t, Spec{CommonName: "Revocation Intermediate"})
	p.leaf = p.intermediate.Leaf(t, validSpec(ECDSA))
	return p
}

// revocationCase is what lists make of a chain; kind zero means accepted.
type revocationCase struct {
	name    string
	chain   tls.Certificate
	anchors []*Authority
	lists   []*x509.RevocationList
	kind    tlsapi.Kind
}

func (p *revocationParties) cases(t *testing.T) []revocationCase {
	t.Helper()
	now := time.Now()
	var never time.Time
	current := func(a *Authority, revoked ...*x509.Certificate) *x509.RevocationList {
		return a.RevocationList(t, never, never, revoked...)
	}
	roots, goodRoot, goodIntermediate := []*Authority{p.root}, current(p.root), current(p.intermediate)
	revokedLeaf := current(p.intermediate, p.leaf.Leaf)
	expired := p.intermediate.RevocationList(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	expiredRevoking := p.intermediate.RevocationList(t, now.Add(-2*time.Hour), now.Add(-time.Hour), p.leaf.Leaf)
	early := p.intermediate.RevocationList(t, now.Add(time.Hour), now.Add(2*time.Hour))
	otherSerial := p.intermediate.Leaf(t, validSpec(ECDSA))
	sameSerial := validSpec(ECDSA)
	sameSerial.Serial = p.leaf.Leaf.SerialNumber
	foreign := p.root.Leaf(t, sameSerial)
	direct := p.root.Leaf(t, validSpec(ECDSA))
	silent := p.root.Intermediate(t, Spec{CommonName: "No Lists", KeyUsage: x509.KeyUsageCertSign})
	silentLeaf := silent.Leaf(t, validSpec(ECDSA))
	newer := p.intermediate.RevocationList(t, now.Add(-2*time.Hour), now.Add(2*time.Hour), p.leaf.Leaf)
	older := p.intermediate.RevocationList(t, now.Add(-3*time.Hour), now.Add(2*time.Hour))
	// with returns a current list of the intermediate with an extension.
	with := func(critical bool, value []byte, id ...int) *x509.RevocationList {
		return p.list(t, &x509.RevocationList{ExtraExtensions: []pkix.Extension{{Id: id, Critical: critical, Value: value}}})
	}
	list := func(lists ...*x509.RevocationList) []*x509.RevocationList { return lists }

	return []revocationCase{
		{"no lists, no check", p.leaf, roots, nil, 0},
		{"nothing revoked", p.leaf, roots, list(goodRoot, goodIntermediate), 0},
		{"in any order", p.leaf, roots, list(goodIntermediate, goodRoot), 0},
		{"leaf revoked", p.leaf, roots, list(goodRoot, revokedLeaf), tlsapi.KindRevoked},
		{"intermediate revoked", p.leaf, roots, list(current(p.root, p.intermediate.Certificate), goodIntermediate), tlsapi.KindRevoked},
		{"another leaf revoked", p.leaf, roots, list(goodRoot, current(p.intermediate, otherSerial.Leaf)), 0},
		{"the serial number revoked by another issuer", p.leaf, roots, list(current(p.root, foreign.Leaf), goodIntermediate), 0},
		{"leaf's list missing", p.leaf, roots, list(goodRoot), tlsapi.KindRevocationUnknown},
		{"intermediate's list missing", p.leaf, roots, list(goodIntermediate), tlsapi.KindRevocationUnknown},
		{"another authority's lists", p.leaf, roots, list(current(NewAuthority(t, Spec{CommonName: "Another CA"}))), tlsapi.KindRevocationUnknown},
		{"expired", p.leaf, roots, list(goodRoot, expired), tlsapi.KindRevocationUnknown},
		{"expired and a current one", p.leaf, roots, list(goodRoot, expired, goodIntermediate), 0},
		{"not yet valid", p.leaf, roots, list(goodRoot, early), tlsapi.KindRevocationUnknown},
		{"not yet valid and a current one", p.leaf, roots, list(goodRoot, early, goodIntermediate), 0},
		{"expired, with the leaf revoked", p.leaf, roots, list(goodRoot, expiredRevoking), tlsapi.KindRevocationUnknown},
		{"signed by an impostor", p.leaf, roots, list(current(p.impostor), goodIntermediate), tlsapi.KindRevocationUnknown},
		{"revoked by an impostor", p.leaf, roots, list(goodRoot, current(p.impostor, p.intermediate.Certificate), goodIntermediate), 0},
		{"revoked by an impostor since", p.leaf, roots, list(goodRoot,
			p.impostor.RevocationList(t, now.Add(-time.Minute), never, p.intermediate.Certificate), goodIntermediate), 0},
		{"signature changed", p.leaf, roots, list(goodRoot, p.withBadSignature(t)), tlsapi.KindRevocationUnknown},
		{"the newest counts", p.leaf, roots, list(goodRoot, newer, older), tlsapi.KindRevoked},
		{"leaf revoked, root's list missing", p.leaf, roots, list(revokedLeaf), tlsapi.KindRevoked},
		{"issuer may not", silentLeaf, roots, list(goodRoot, current(allowedToList(silent))), tlsapi.KindRevocationUnknown},
		{"unknown critical extension", p.leaf, roots, list(goodRoot, with(true, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 99999, 1)), tlsapi.KindRevocationUnknown},
		{"unknown extension", p.leaf, roots, list(goodRoot, with(false, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 99999, 1)), 0},
		// Lists that do not hold everything (RFC 5280 sections 5.2.4, 5.2.5).
		{"delta list", p.leaf, roots, list(goodRoot, with(true, []byte{2, 1, 1}, 2, 5, 29, 27)), tlsapi.KindRevocationUnknown},
		{"issuing distribution point", p.leaf, roots, list(goodRoot, with(true, []byte{0x30, 3, 0x81, 1, 0xff}, 2, 5, 29, 28)), tlsapi.KindRevocationUnknown},
		{"leaf of the root", direct, roots, list(goodRoot), 0},
		{"leaf of the root, revoked", direct, roots, list(current(p.root, direct.Leaf)), tlsapi.KindRevoked},
		// An anchor is trusted by itself: nobody is asked about it.
		{"intermediate as anchor", p.leaf, []*Authority{p.intermediate}, list(goodIntermediate), 0},
		{"intermediate as anchor beside the root", p.leaf, []*Authority{p.root, p.intermediate}, list(goodIntermediate), 0},
		{"leaf as anchor", p.leaf, []*Authority{Issuer(p.leaf)}, list(goodRoot), 0},
		{"many entries", p.leaf, roots, list(goodRoot, p.withManyEntries(t, p.leaf.Leaf.SerialNumber)), tlsapi.KindRevoked},
	}
}

func (p *revocationParties) withBadSignature(t *testing.T) *x509.RevocationList {
	t.Helper()
	raw := append([]byte(nil), p.intermediate.RevocationList(t, time.Time{}, time.Time{}).Raw...)
	raw[len(raw)-1] ^= 1
	list, err := x509.ParseRevocationList(raw)
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

func (p *revocationParties) withManyEntries(t *testing.T, last *big.Int) *x509.RevocationList {
	t.Helper()
	template := new(x509.RevocationList)
	for i := range 2000 {
		serial := big.NewInt(int64(i + 1))
		if i == 1500 {
			serial = last
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now().Add(-time.Hour)})
	}
	return p.list(t, template)
}

// list signs a list of the intermediate that is current.
func (p *revocationParties) list(t *testing.T, template *x509.RevocationList) *x509.RevocationList {
	t.Helper()
	template.Number, template.ThisUpdate, template.NextUpdate = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateRevocationList(rand.Reader, template, p.intermediate.Certificate, p.intermediate.Key)
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	return list
}

func (s *suite) revoke(t *testing.T, r role, version uint16, c revocationCase) {
	var d *duo
	if r == client {
		d = s.clientDuo(t, s.clientConfig(func(config *tlsapi.ClientConfig) {
			config.RootCAs, config.RevocationLists = Pool(c.anchors...), c.lists
		}), s.referenceServer(only(version), func(config *tls.Config) { config.Certificates = []tls.Certificate{c.chain} }))
	} else {
		d = s.serverDuo(t, s.serverConfig(func(config *tlsapi.ServerConfig) {
			config.ClientAuth, config.ClientCAs, config.RevocationLists = tls.RequireAndVerifyClientCert, Pool(c.anchors...), c.lists
		}), s.referenceClient(only(version), sending(&c.chain)))
	}
	if c.kind == 0 {
		d.mustHandshake(t)
		d.mustEcho(t)
		assert.True(t, d.conn.Info().Verified)
		return
	}
	err, peerErr := d.handshakes()
	s.requireKind(t, err, c.kind)
	assert.False(t, d.conn.Info().Verified)
	if r == client {
		requireNoLastFlight(t, d.clientWire.Written(), version)
	} else if version == tls.VersionTLS13 {
		// The client has finished before the server looks at its certificate.
		require.NoError(t, peerErr)
		_, peerErr = d.peer.Read(make([]byte, 1))
	}
	alert := alertCertificateUnknown
	if c.kind == tlsapi.KindRevoked {
		alert = alertCertificateRevoked
	}
	if s.declares(string(r)+".revocation-lists", "bad_certificate") {
		alert = alertBadCertificate
	}
	s.requireAlertSeen(t, r, certificateStage(version), peerErr, alert)
}

// testRevocationIsolation tests that a list which comes later counts, although
// contexts are shared and sessions kept.
func (s *suite) testRevocationIsolation(t *testing.T, r role) {
	p := newRevocationParties(t)
	good := []*x509.RevocationList{p.root.RevocationList(t, time.Time{}, time.Time{}), p.intermediate.RevocationList(t, time.Time{}, time.Time{})}
	bad := []*x509.RevocationList{good[0], p.intermediate.RevocationList(t, time.Time{}, time.Time{}, p.leaf.Leaf)}
	eachVersion(t, func(t *testing.T, version uint16) {
		cache := tlsapi.NewLRUSessionCache(0)
		connect := func(lists []*x509.RevocationList) (*duo, error) {
			var d *duo
			if r == client {
				d = s.clientDuo(t, s.clientConfig(func(c *tlsapi.ClientConfig) {
					c.RootCAs, c.RevocationLists = Pool(p.root), lists
					if s.supported(tlsapi.ClientSessionCache) {
						c.SessionCache = cache
					}
				}), promiscuousServer(version, p.leaf))
			} else {
				d = s.serverDuo(t, s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.ClientAuth, c.ClientCAs, c.RevocationLists = tls.RequireAndVerifyClientCert, Pool(p.root), lists
				}), s.referenceClient(only(version), sending(&p.leaf)))
			}
			err, _ := d.handshakes()
			if err == nil {
				d.mustEcho(t)
			}
			return d, err
		}
		for range 2 {
			_, err := connect(good)
			require.NoError(t, err)
			d, err := connect(bad)
			s.requireKind(t, err, tlsapi.KindRevoked)
			assert.False(t, d.conn.Info().Resumed)
		}
	})
}
