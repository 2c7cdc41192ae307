package stdtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

const (
	minRSABits = 2048
	minECBits  = 224

	// maxSignatureChecks bounds the search for the cause of a refusal, as
	// crypto/x509 bounds its own search: a peer may send many certificates
	// with one name.
	maxSignatureChecks = 100
)

// verifier decides over certificate chains. crypto/x509 builds and checks the
// chain; what it leaves out (short keys, the key usage of the leaf, several
// names) is added. A refusal has the same kind as with every provider.
type verifier struct {
	anchors *anchors
	// usage is ExtKeyUsageServerAuth or ExtKeyUsageClientAuth.
	usage x509.ExtKeyUsage
	// names are accepted, any of them. They are not checked when skipNames is
	// set; it is for clients' certificates, too, which have no name to check.
	names     []string
	skipNames bool
	// revocations are the lists to check the chain with, if any.
	revocations revocations
	now         func() time.Time
}

func newVerifier(a *anchors, usage x509.ExtKeyUsage) *verifier {
	return &verifier{anchors: a, usage: usage, now: time.Now}
}

// verify returns the chains from the leaf to an anchor, or an *tlsapi.Error.
func (v *verifier) verify(sent []*x509.Certificate) ([][]*x509.Certificate, error) {
	leaf, now := sent[0], v.now()
	intermediates := x509.NewCertPool()
	for _, c := range sent[1:] {
		intermediates.AddCert(c)
	}
	candidates, refusal := leaf.Verify(x509.VerifyOptions{
		Roots:         v.anchors.pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{v.usage},
	})
	if refusal != nil {
		return nil, refused(sent, v.explain(sent, now, refusal))
	}

	var accepted [][]*x509.Certificate
	var worst *problem
	for _, chain := range candidates {
		if p := v.chainProblem(chain, now); p == nil {
			accepted = append(accepted, chain)
		} else if worst == nil || p.rank > worst.rank {
			worst = p
		}
	}
	if len(accepted) == 0 {
		return nil, refused(sent, worst)
	}
	if !v.skipNames && !slices.ContainsFunc(v.names, func(n string) bool { return matchesName(leaf, n) }) {
		return nil, refused(sent, &problem{rankHostname, tlsapi.KindHostname, v.hostnameError(leaf)})
	}
	return accepted, nil
}

// problem is why a chain is refused. Of the problems of one chain the one with
// the lowest rank is reported; of several chains the one that got farthest.
type problem struct {
	rank rank
	kind tlsapi.Kind
	err  error
}

type rank int

const (
	rankUntrusted rank = iota
	rankIssuer
	rankDates
	rankUsage
	rankWeak
	rankOther
	rankRevocationUnknown
	rankRevoked
	rankHostname
)

func refused(sent []*x509.Certificate, p *problem) error {
	return &tlsapi.Error{
		Provider: providerName,
		Op:       opHandshake,
		Kind:     p.kind,
		Alert:    alertBadCertificate,
		HasAlert: true,
		Err:      &tls.CertificateVerificationError{UnverifiedCertificates: sent, Err: p.err},
	}
}

// explain finds the cause of a refusal by crypto/x509, which reports the first
// failure it meets, not the gravest. The refusal stands whatever comes out.
func (v *verifier) explain(sent []*x509.Certificate, now time.Time, refusal error) *problem {
	leaf := sent[0]
	unknown := func(kind tlsapi.Kind) *problem {
		err := refusal
		if !errors.As(err, new(x509.UnknownAuthorityError)) {
			err = x509.UnknownAuthorityError{Cert: leaf}
		}
		return &problem{rankUntrusted, kind, err}
	}
	if selfSigned(leaf) && !v.anchors.contains(leaf) {
		return unknown(tlsapi.KindSelfSigned)
	}

	best := unknown(tlsapi.KindUntrusted)
	checks := 0
	var search func(chain []*x509.Certificate, broken *problem)
	search = func(chain []*x509.Certificate, broken *problem) {
		last := chain[len(chain)-1]
		if v.anchors.contains(last) {
			p := broken
			if p == nil {
				p = v.chainProblem(chain, now)
			}
			if p == nil {
				p = &problem{rankOther, tlsapi.KindInvalidCertificate, refusal}
			}
			if p.rank > best.rank {
				best = p
			}
			return
		}
		for _, candidates := range [][]*x509.Certificate{v.anchors.certificates, sent[1:]} {
			for _, issuer := range candidates {
				if !mayHaveIssued(issuer, last) || slices.ContainsFunc(chain, issuer.Equal) {
					continue
				}
				if checks++; checks > maxSignatureChecks {
					return
				}
				b := broken
				err := last.CheckSignatureFrom(issuer)
				if err != nil && b == nil && !errors.As(err, new(x509.InsecureAlgorithmError)) {
					b = &problem{rankIssuer, tlsapi.KindInvalidCertificate, issuerError(last, issuer, err)}
				}
				search(append(slices.Clone(chain), issuer), b)
			}
		}
	}
	search([]*x509.Certificate{leaf}, nil)
	return best
}

func issuerError(cert, issuer *x509.Certificate, err error) error {
	if errors.As(err, new(x509.ConstraintViolationError)) {
		return x509.CertificateInvalidError{Cert: issuer, Reason: x509.NotAuthorizedToSign}
	}
	return fmt.Errorf("the signature of %q does not verify with the key of %q: %w", cert.Subject, issuer.Subject, err)
}

// mayHaveIssued compares names and key identifiers (RFC 5280 section 4.2.1.1).
func mayHaveIssued(issuer, cert *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return false
	}
	return len(cert.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 ||
		bytes.Equal(cert.AuthorityKeyId, issuer.SubjectKeyId)
}

func selfSigned(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, c.RawSubject) {
		return false
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	return err == nil || errors.As(err, new(x509.InsecureAlgorithmError))
}

// chainProblem returns the first problem of a chain that ends at an anchor.
func (v *verifier) chainProblem(chain []*x509.Certificate, now time.Time) *problem {
	for _, c := range chain {
		if now.After(c.NotAfter) || now.Before(c.NotBefore) {
			return datesProblem(c, now)
		}
	}
	for i, c := range chain {
		if !v.allowsUsage(c, i == 0) {
			return &problem{rankUsage, tlsapi.KindKeyUsage, x509.CertificateInvalidError{Cert: c, Reason: x509.IncompatibleUsage}}
		}
	}
	for i, c := range chain {
		// The signature of an anchor is not relied upon.
		if i < len(chain)-1 && weakSignature(c.SignatureAlgorithm) {
			return &problem{rankWeak, tlsapi.KindWeakSignature, x509.InsecureAlgorithmError(c.SignatureAlgorithm)}
		}
		if err := keyError(c); err != nil {
			return &problem{rankWeak, tlsapi.KindWeakKey, err}
		}
	}
	return v.revocations.problem(chain, now)
}

func datesProblem(c *x509.Certificate, now time.Time) *problem {
	kind := tlsapi.KindExpired
	detail := fmt.Sprintf("current time %s is after %s", now.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	if now.Before(c.NotBefore) {
		kind = tlsapi.KindNotYetValid
		detail = fmt.Sprintf("current time %s is before %s", now.Format(time.RFC3339), c.NotBefore.Format(time.RFC3339))
	}
	return &problem{rankDates, kind, x509.CertificateInvalidError{Cert: c, Reason: x509.Expired, Detail: detail}}
}

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

// allowsUsage checks the extended key usage of every certificate, and the key
// usage of the leaf; crypto/x509 leaves the latter out.
func (v *verifier) allowsUsage(c *x509.Certificate, leaf bool) bool {
	restricted := len(c.ExtKeyUsage) > 0 || len(c.UnknownExtKeyUsage) > 0
	if restricted && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.Contains(c.ExtKeyUsage, v.usage) {
		return false
	}
	if !leaf {
		return true
	}
	// TLS 1.3 and the forward-secret suites of TLS 1.2 always sign.
	hasKeyUsage := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	return !hasKeyUsage || c.KeyUsage&x509.KeyUsageDigitalSignature != 0
}

func weakSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

func keyError(c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSABits {
			return fmt.Errorf("the RSA key of %q has %d bits; the least is %d", c.Subject, n, minRSABits)
		}
	case *ecdsa.PublicKey:
		if n := key.Curve.Params().BitSize; n < minECBits {
			return fmt.Errorf("the EC key of %q has %d bits; the least is %d", c.Subject, n, minECBits)
		}
	}
	return nil
}

func (v *verifier) hostnameError(leaf *x509.Certificate) error {
	if len(v.names) == 0 {
		return x509.HostnameError{Certificate: leaf}
	}
	var err error = x509.HostnameError{Certificate: leaf, Host: v.names[0]}
	for _, n := range v.names[1:] {
		err = fmt.Errorf("%w; nor for the alternative name %s", err, n)
	}
	return err
}

// matchesName matches IP literals with IP SANs and DNS names with DNS SANs,
// never the common name.
func matchesName(c *x509.Certificate, name string) bool {
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return matchesDNSName(c, name)
	}
	addr = addr.Unmap().WithZone("")
	for _, ip := range c.IPAddresses {
		if san, ok := netip.AddrFromSlice(ip); ok && san.Unmap() == addr {
			return true
		}
	}
	return false
}

// matchesDNSName is crypto/x509's matching, and as strict as OpenSSL's where
// that is stricter: a wildcard has two labels behind it, and a name that looks
// like an address or a pattern matches nothing.
func matchesDNSName(c *x509.Certificate, name string) bool {
	if strings.Trim(name, "0123456789.") == "" || strings.ContainsAny(name, "*:") {
		return false
	}
	names := &x509.Certificate{}
	for _, san := range c.DNSNames {
		if !strings.HasPrefix(san, "*.") || strings.Count(san, ".") >= 2 {
			names.DNSNames = append(names.DNSNames, san)
		}
	}
	return names.VerifyHostname(name) == nil
}

// anchors are trust anchors in the forms that building and explaining need.
type anchors struct {
	pool         *x509.CertPool
	certificates []*x509.Certificate
}

func newAnchors(certificates []*x509.Certificate) *anchors {
	a := &anchors{pool: x509.NewCertPool(), certificates: certificates}
	for _, c := range certificates {
		a.pool.AddCert(c)
	}
	return a
}

func (a *anchors) contains(c *x509.Certificate) bool {
	return slices.ContainsFunc(a.certificates, c.Equal)
}

// systemAnchors are the system's roots.
var systemAnchors = sync.OnceValues(func() (*anchors, error) {
	certificates, err := tlsapi.SystemRoots()
	if err != nil {
		return nil, err
	}
	return newAnchors(certificates), nil
})

// knownAnchors keeps the converted form of each pool as long as the pool lives.
var knownAnchors converted[tlsapi.CertPool, *anchors]

// anchorsOf converts a pool; nil means the system's roots.
func anchorsOf(pool *tlsapi.CertPool) (*anchors, error) {
	if pool == nil {
		return systemAnchors()
	}
	return knownAnchors.of(pool, func(p *tlsapi.CertPool) (*anchors, error) {
		certificates, err := p.Certificates()
		if err != nil {
			return nil, err
		}
		return newAnchors(certificates), nil
	})
}

// until returns how long verified chains hold: to the end of the chain that
// lasts longest, for which all certificates and their lists must be in date.
// The zero time is no limit.
func (v *verifier) until(chains [][]*x509.Certificate) time.Time {
	var latest time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for i, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
			if i == len(chain)-1 {
				break
			}
			if list := v.revocations.current(chain[i+1], v.now()); list != nil && !list.NextUpdate.IsZero() && list.NextUpdate.Before(end) {
				end = list.NextUpdate
			}
		}
		if end.After(latest) {
			latest = end
		}
	}
	return latest
}
