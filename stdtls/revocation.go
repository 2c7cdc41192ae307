package stdtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// revocations are the revocation lists of a configuration. Nil means that there
// is no check of revocation.
type revocations []*revocationList

// revocationList is a list (RFC 5280 section 5) in the form in which it is
// searched. It holds no pointer to the caller's struct: see converted.
type revocationList struct {
	x509.RevocationList
	// bySerial are the entries in the order of their serial numbers.
	bySerial []*x509.RevocationListEntry
	// unusable is set when what the list says cannot be understood in full.
	unusable bool

	mu sync.Mutex
	// signers are digests of certificates whose key has made the signature.
	signers [][sha256.Size]byte
}

// knownLists keeps the searchable form of each list as long as the list lives.
var knownLists converted[x509.RevocationList, *revocationList]

func revocationsOf(lists []*x509.RevocationList) revocations {
	var r revocations
	for _, list := range lists {
		// The conversion cannot fail.
		known, _ := knownLists.of(list, func(l *x509.RevocationList) (*revocationList, error) {
			return newRevocationList(l), nil
		})
		r = append(r, known)
	}
	return r
}

func newRevocationList(list *x509.RevocationList) *revocationList {
	r := &revocationList{RevocationList: *list}
	r.unusable = slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool {
		return e.Critical && !e.Id.Equal(oidAuthorityKeyID) && !e.Id.Equal(oidCRLNumber)
	})
	for i := range r.RevokedCertificateEntries {
		entry := &r.RevokedCertificateEntries[i]
		r.bySerial = append(r.bySerial, entry)
		for _, e := range entry.Extensions {
			// A certificateIssuer makes all entries behind it another CA's.
			if e.Id.Equal(oidCertificateIssuer) ||
				e.Critical && !e.Id.Equal(oidReasonCode) && !e.Id.Equal(oidInvalidityDate) {
				r.unusable = true
			}
		}
	}
	slices.SortStableFunc(r.bySerial, func(a, b *x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) })
	return r
}

// The extensions of lists and entries that are understood. All others that are
// critical make a list unusable: deltaCRLIndicator and issuingDistributionPoint
// say that it does not hold everything.
var (
	oidAuthorityKeyID    = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLNumber         = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReasonCode        = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate    = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
)

// problem returns what the lists say against a chain that ends at an anchor.
// The anchor itself needs no list.
func (r revocations) problem(chain []*x509.Certificate, now time.Time) *problem {
	if r == nil {
		return nil
	}
	var unknown *problem
	for i, cert := range chain[:len(chain)-1] {
		list := r.current(chain[i+1], now)
		if list == nil {
			if unknown == nil {
				unknown = &problem{rankRevocationUnknown, tlsapi.KindRevocationUnknown, fmt.Errorf(
					"RevocationLists holds no current and usable list of %q, the issuer of %q", chain[i+1].Subject, cert.Subject)}
			}
			continue
		}
		if entry := list.find(cert.SerialNumber); entry != nil {
			return &problem{rankRevoked, tlsapi.KindRevoked, fmt.Errorf(
				"%q, serial number %x, was revoked by %q on %s (reason %d)", cert.Subject, cert.SerialNumber,
				chain[i+1].Subject, entry.RevocationTime.Format(time.RFC3339), entry.ReasonCode)}
		}
	}
	return unknown
}

// current returns the newest list of an issuer that counts now, or nil.
func (r revocations) current(issuer *x509.Certificate, now time.Time) *revocationList {
	var newest *revocationList
	for _, list := range r {
		if list.unusable || !bytes.Equal(list.RawIssuer, issuer.RawSubject) || !list.inDate(now) || !list.signedBy(issuer) {
			continue
		}
		if newest == nil || list.ThisUpdate.After(newest.ThisUpdate) {
			newest = list
		}
	}
	return newest
}

// inDate reports whether the list holds now. One that does not say when the
// next comes holds for good, as in the native libraries.
func (l *revocationList) inDate(now time.Time) bool {
	return !now.Before(l.ThisUpdate) && (l.NextUpdate.IsZero() || !now.After(l.NextUpdate))
}

// maxSigners bounds what is remembered of a list: CAs with the same name and
// the same key.
const maxSigners = 8

// signedBy reports whether the issuer's key has signed the list, and may.
func (l *revocationList) signedBy(issuer *x509.Certificate) bool {
	if len(l.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(l.AuthorityKeyId, issuer.SubjectKeyId) ||
		weakSignature(l.SignatureAlgorithm) {
		return false
	}
	digest := sha256.Sum256(issuer.Raw)
	l.mu.Lock()
	known := slices.Contains(l.signers, digest)
	l.mu.Unlock()
	if known {
		return true
	}
	if l.CheckSignatureFrom(issuer) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.signers) < maxSigners {
		l.signers = append(l.signers, digest)
	}
	return true
}

// find returns the entry that revokes a certificate, or nil.
func (l *revocationList) find(serial *big.Int) *x509.RevocationListEntry {
	// RFC 5280 section 5.3.1: the certificate is not revoked any more.
	const removeFromCRL = 8
	i, _ := slices.BinarySearchFunc(l.bySerial, serial, func(e *x509.RevocationListEntry, n *big.Int) int { return e.SerialNumber.Cmp(n) })
	for ; i < len(l.bySerial) && l.bySerial[i].SerialNumber.Cmp(serial) == 0; i++ {
		if l.bySerial[i].ReasonCode != removeFromCRL {
			return l.bySerial[i]
		}
	}
	return nil
}
