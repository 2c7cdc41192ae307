package stdtls

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// issueList signs a list that the fixtures of tlstest have no form for.
func issueList(t testing.TB, issuer *tlstest.Authority, change func(*x509.RevocationList)) *x509.RevocationList {
	template := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
	}
	change(template)
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer.Certificate, issuer.Key)
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	return list
}

func TestRevocation(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	sameName := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	inter := ca.Intermediate(t, tlstest.Spec{CommonName: "Intermediate"})
	noCRLSign := ca.Intermediate(t, tlstest.Spec{CommonName: "No CRLs", KeyUsage: x509.KeyUsageCertSign})
	names := tlstest.Spec{DNSNames: []string{"server.test"}}
	direct, deep, unsignable := ca.Leaf(t, names), inter.Leaf(t, names), noCRLSign.Leaf(t, names)
	now := time.Time{}

	type lists = []*x509.RevocationList
	ofCA, ofInter := ca.RevocationList(t, now, now), inter.RevocationList(t, now, now)
	entry := func(c *x509.Certificate, change func(*x509.RevocationListEntry)) func(*x509.RevocationList) {
		e := x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)}
		change(&e)
		return func(l *x509.RevocationList) { l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, e) }
	}
	extended := func(id asn1.ObjectIdentifier, critical bool, value []byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: value}}
		}
	}
	entryExtended := func(c *x509.Certificate, id asn1.ObjectIdentifier, critical bool, value []byte) func(*x509.RevocationList) {
		return entry(c, func(e *x509.RevocationListEntry) {
			e.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: value}}
		})
	}
	someOther := &x509.Certificate{SerialNumber: big.NewInt(77)}
	null := []byte{5, 0}

	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		lists lists
		kind  tlsapi.Kind // 0: accepted
	}{
		{"no lists", direct, nil, 0},
		{"nothing revoked", direct, lists{ofCA}, 0},
		{"chain of three", deep, lists{ofInter, ofCA}, 0},
		{"leaf revoked", direct, lists{ca.RevocationList(t, now, now, direct.Leaf)}, tlsapi.KindRevoked},
		{"leaf of an intermediate revoked", deep, lists{ofCA, inter.RevocationList(t, now, now, deep.Leaf)}, tlsapi.KindRevoked},
		{"intermediate revoked", deep, lists{ofInter, ca.RevocationList(t, now, now, inter.Certificate)}, tlsapi.KindRevoked},
		{"intermediate revoked, no list for the leaf", deep, lists{ca.RevocationList(t, now, now, inter.Certificate)}, tlsapi.KindRevoked},
		{"others revoked", direct, lists{ca.RevocationList(t, now, now, deep.Leaf, someOther)}, 0},
		{"the same serial number of another issuer", direct, lists{ofCA, sameName.RevocationList(t, now, now, direct.Leaf)}, 0},
		{"anchor revoked by itself", direct, lists{ca.RevocationList(t, now, now, ca.Certificate)}, 0},

		{"no list of the root", deep, lists{ofInter}, tlsapi.KindRevocationUnknown},
		{"no list of the intermediate", deep, lists{ofCA}, tlsapi.KindRevocationUnknown},
		{"list of another CA", direct, lists{ofInter}, tlsapi.KindRevocationUnknown},
		{"list of a CA with the same name", direct, lists{sameName.RevocationList(t, now, now)}, tlsapi.KindRevocationUnknown},
		{"out of date", direct, lists{ca.RevocationList(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))}, tlsapi.KindRevocationUnknown},
		{"out of date and revoked", direct, lists{ca.RevocationList(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), direct.Leaf)}, tlsapi.KindRevocationUnknown},
		{"not yet in date", direct, lists{ca.RevocationList(t, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))}, tlsapi.KindRevocationUnknown},
		{"out of date and in date", direct, lists{ca.RevocationList(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)), ofCA}, 0},
		{"issuer may not sign lists", unsignable, lists{ofCA, signedWithout(t, noCRLSign)}, tlsapi.KindRevocationUnknown},
		{"bad signature", direct, lists{withBadSignature(t, ofCA)}, tlsapi.KindRevocationUnknown},

		{"the newer list holds", direct, lists{
			ca.RevocationList(t, time.Now().Add(-3*time.Hour), now, direct.Leaf), ca.RevocationList(t, time.Now().Add(-time.Hour), now)}, 0},
		{"the newer list revokes", direct, lists{
			ca.RevocationList(t, time.Now().Add(-time.Hour), now, direct.Leaf), ca.RevocationList(t, time.Now().Add(-3*time.Hour), now)}, tlsapi.KindRevoked},

		{"removed from the list", direct, lists{issueList(t, ca, entry(direct.Leaf, func(e *x509.RevocationListEntry) { e.ReasonCode = 8 }))}, 0},
		{"on hold", direct, lists{issueList(t, ca, entry(direct.Leaf, func(e *x509.RevocationListEntry) { e.ReasonCode = 6 }))}, tlsapi.KindRevoked},
		{"issuing distribution point", direct, lists{issueList(t, ca, extended(asn1.ObjectIdentifier{2, 5, 29, 28}, true, []byte{0x30, 3, 0x84, 1, 0xff}))}, tlsapi.KindRevocationUnknown},
		{"delta list", direct, lists{issueList(t, ca, extended(asn1.ObjectIdentifier{2, 5, 29, 27}, true, []byte{2, 1, 1}))}, tlsapi.KindRevocationUnknown},
		{"unknown critical extension", direct, lists{issueList(t, ca, extended(asn1.ObjectIdentifier{1, 2, 3}, true, null))}, tlsapi.KindRevocationUnknown},
		{"unknown extension", direct, lists{issueList(t, ca, extended(asn1.ObjectIdentifier{1, 2, 3}, false, null))}, 0},
		{"unknown critical extension of an entry", direct, lists{issueList(t, ca, entryExtended(someOther, asn1.ObjectIdentifier{1, 2, 3}, true, null))}, tlsapi.KindRevocationUnknown},
		{"unknown extension of an entry", direct, lists{issueList(t, ca, entryExtended(someOther, asn1.ObjectIdentifier{1, 2, 3}, false, null))}, 0},
		{"entries of another issuer", direct, lists{issueList(t, ca, entryExtended(someOther, oidCertificateIssuer, true, null))}, tlsapi.KindRevocationUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := tlsapi.Settings{RevocationLists: c.lists}
			cc := &tlsapi.ClientConfig{Settings: settings, ServerName: "server.test", RootCAs: tlstest.Pool(ca)}
			client, _, clientErr, serverErr := connect(t, tcpPair, cc, &tlsapi.ServerConfig{Certificates: []tls.Certificate{c.cert}})
			if c.kind == 0 {
				require.NoError(t, clientErr)
				require.NoError(t, serverErr)
				require.True(t, client.Info().Verified)
			} else {
				e := requireKind(t, clientErr, c.kind, opHandshake)
				require.Equal(t, alertBadCertificate, e.Alert)
				require.ErrorAs(t, clientErr, new(*tls.CertificateVerificationError))
				requireKind(t, serverErr, tlsapi.KindPeerAlert, opHandshake)
			}

			// The same for a server and its clients.
			sc := &tlsapi.ServerConfig{Settings: settings, Certificates: []tls.Certificate{direct},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: tlstest.Pool(ca)}
			_, server, _, serverErr := connect(t, tcpPair,
				&tlsapi.ClientConfig{ServerName: "server.test", RootCAs: tlstest.Pool(ca), Certificate: &c.cert}, sc)
			if c.kind == 0 {
				require.NoError(t, serverErr)
				require.True(t, server.Info().Verified)
				return
			}
			requireKind(t, serverErr, c.kind, opHandshake)
		})
	}
}

// Of several chains one that is not revoked is enough.
func TestRevocationOfOneOfTwoChains(t *testing.T) {
	left := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Left"})
	right := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Right"})
	inter := left.Intermediate(t, tlstest.Spec{CommonName: "Intermediate"})
	leaf := inter.Leaf(t, tlstest.Spec{DNSNames: []string{"server.test"}})
	template := *inter.Certificate
	template.SerialNumber, template.AuthorityKeyId = big.NewInt(4711), nil
	crossDER, err := x509.CreateCertificate(rand.Reader, &template, right.Certificate, inter.Certificate.PublicKey, right.Key)
	require.NoError(t, err)
	cross, err := x509.ParseCertificate(crossDER)
	require.NoError(t, err)

	now := time.Time{}
	sent := []*x509.Certificate{leaf.Leaf, inter.Certificate, cross}
	verify := func(lists ...*x509.RevocationList) ([][]*x509.Certificate, error) {
		v := newVerifier(newAnchors([]*x509.Certificate{left.Certificate, right.Certificate}), x509.ExtKeyUsageServerAuth)
		v.names = []string{"server.test"}
		v.revocations = revocationsOf(lists)
		return v.verify(sent)
	}
	ofInter := inter.RevocationList(t, now, now)
	chains, err := verify(ofInter, left.RevocationList(t, now, now, inter.Certificate), right.RevocationList(t, now, now))
	require.NoError(t, err)
	require.Len(t, chains, 1)
	require.Equal(t, cross.Raw, chains[0][1].Raw)
	chains, err = verify(ofInter, left.RevocationList(t, now, now), right.RevocationList(t, now, now))
	require.NoError(t, err)
	require.Len(t, chains, 2)
	_, err = verify(ofInter, left.RevocationList(t, now, now, inter.Certificate), right.RevocationList(t, now, now, cross))
	require.ErrorIs(t, err, tlsapi.KindRevoked)
	_, err = verify(ofInter, left.RevocationList(t, now, now, inter.Certificate))
	require.ErrorIs(t, err, tlsapi.KindRevoked, "more is known than nothing")
}

// signedWithout signs a list with a key that may not.
func signedWithout(t testing.TB, issuer *tlstest.Authority) *x509.RevocationList {
	may := *issuer.Certificate
	may.KeyUsage |= x509.KeyUsageCRLSign
	return issueList(t, &tlstest.Authority{Certificate: &may, Key: issuer.Key}, func(*x509.RevocationList) {})
}

func withBadSignature(t testing.TB, list *x509.RevocationList) *x509.RevocationList {
	der := append([]byte(nil), list.Raw...)
	der[len(der)-1] ^= 1
	changed, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	return changed
}
