package tlsapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// maxCertificateFile bounds what is read from a file of certificates or keys.
// The largest CA bundles have less than 1 MiB.
const maxCertificateFile = 64 << 20

// CertPool is a set of trust anchors. Every certificate in it is an anchor,
// whether it is a CA's or not (partial chains are allowed). Unlike
// x509.CertPool it can be enumerated, which native libraries need.
//
// A pool must not be modified after it was handed to a provider; reading it
// from many goroutines is safe. The zero value is an empty pool.
type CertPool struct {
	certificates []*x509.Certificate
	seen         map[[32]byte]bool
	system       bool
}

// NewCertPool returns an empty pool.
func NewCertPool() *CertPool { return &CertPool{} }

// CertPoolFromFiles returns a pool with the certificates of the files, each PEM
// or DER.
func CertPoolFromFiles(paths ...string) (*CertPool, error) {
	pool := NewCertPool()
	for _, p := range paths {
		if err := pool.AddFile(p); err != nil {
			return nil, err
		}
	}
	return pool, nil
}

// AddCert adds a certificate; a second one with the same bytes has no effect.
// Certificates are told apart by their whole DER form, never by serial number.
func (p *CertPool) AddCert(cert *x509.Certificate) {
	sum := sha256.Sum256(cert.Raw)
	if p.seen[sum] {
		return
	}
	if p.seen == nil {
		p.seen = make(map[[32]byte]bool)
	}
	p.seen[sum] = true
	p.certificates = append(p.certificates, cert)
}

// AddPEM adds all certificates of a PEM text. Blocks of other types, text
// without a certificate and a block that does not parse are errors; nothing is
// added then.
func (p *CertPool) AddPEM(text []byte) error {
	certs, err := parsePEMCertificates(text)
	if err != nil {
		return &Error{Op: "config", Kind: KindConfig, Option: "RootCAs", Err: err}
	}
	for _, c := range certs {
		p.AddCert(c)
	}
	return nil
}

// AddDER adds one certificate in DER form.
func (p *CertPool) AddDER(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return &Error{Op: "config", Kind: KindConfig, Option: "RootCAs", Err: err}
	}
	p.AddCert(cert)
	return nil
}

// AddFile adds the certificates of a file, PEM or DER. Errors name the file.
func (p *CertPool) AddFile(path string) error {
	certs, err := readCertificates(path)
	if err != nil {
		return &Error{Op: "config", Kind: KindConfig, Option: "RootCAs", Err: err}
	}
	for _, c := range certs {
		p.AddCert(c)
	}
	return nil
}

// AddSystemRoots adds the system's trust anchors. They are loaded once per
// process, when they are first needed: from SSL_CERT_FILE and SSL_CERT_DIR
// when these are set, otherwise from the usual places of the system.
func (p *CertPool) AddSystemRoots() { p.system = true }

// Empty reports whether the pool has neither certificates nor the system's
// roots.
func (p *CertPool) Empty() bool { return p == nil || len(p.certificates) == 0 && !p.system }

// Certificates returns the certificates of the pool, the system's among them
// when they were added. The error is that of loading the system's roots.
func (p *CertPool) Certificates() ([]*x509.Certificate, error) {
	if p == nil {
		return nil, nil
	}
	if !p.system {
		return p.certificates, nil
	}
	system, err := SystemRoots()
	if err != nil {
		return nil, err
	}
	all := &CertPool{}
	for _, list := range [][]*x509.Certificate{p.certificates, system} {
		for _, c := range list {
			all.AddCert(c)
		}
	}
	return all.certificates, nil
}

// Digest identifies the content of the pool: two pools with the same
// certificates have the same digest, in whatever order they were added. The
// system's roots count as one entry, as they are loaded once per process.
func (p *CertPool) Digest() [32]byte {
	if p == nil {
		return [32]byte{}
	}
	sums := make([][]byte, 0, len(p.seen))
	for sum := range p.seen {
		sums = append(sums, bytes.Clone(sum[:]))
	}
	slices.SortFunc(sums, bytes.Compare)
	h := sha256.New()
	fmt.Fprintf(h, "system=%t,n=%d,", p.system, len(sums))
	for _, sum := range sums {
		h.Write(sum)
	}
	return [32]byte(h.Sum(nil))
}

// The places where systems keep their bundles; the first file that exists
// wins, as in crypto/x509. Directories count when there is no such file.
var (
	systemRootFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
	systemRootDirectories = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// SystemRoots returns the system's trust anchors: the same for every provider,
// loaded once per process.
func SystemRoots() ([]*x509.Certificate, error) { return systemRoots() }

var systemRoots = sync.OnceValues(func() ([]*x509.Certificate, error) {
	return loadSystemRoots(os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR"))
})

func loadSystemRoots(file, directories string) ([]*x509.Certificate, error) {
	files, dirs := systemRootFiles, systemRootDirectories
	if file != "" {
		files = []string{file}
	}
	if directories != "" {
		dirs = strings.Split(directories, string(os.PathListSeparator))
	}
	pool := NewCertPool()
	var firstErr error
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			if firstErr == nil && !os.IsNotExist(err) {
				firstErr = err
			}
			continue
		}
		addLenient(pool, text)
		break
	}
	if len(pool.certificates) == 0 || directories != "" {
		for _, d := range dirs {
			entries, err := os.ReadDir(d)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if e.Type()&fs.ModeDir != 0 {
					continue
				}
				if text, err := os.ReadFile(filepath.Join(d, e.Name())); err == nil {
					addLenient(pool, text)
				}
			}
		}
	}
	if len(pool.certificates) == 0 {
		err := firstErr
		if err == nil {
			err = fmt.Errorf("no system roots were found on %s; install ca-certificates, or set SSL_CERT_FILE or RootCAs", runtime.GOOS)
		}
		return nil, &Error{Op: "config", Kind: KindConfig, Option: "RootCAs", Err: err}
	}
	return pool.certificates, nil
}

// addLenient adds what parses: one odd certificate in a system's bundle must
// not take away all the others.
func addLenient(pool *CertPool, text []byte) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			pool.AddCert(cert)
		}
	}
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		cert, err := x509.ParseCertificate(text)
		if err != nil {
			return nil, fmt.Errorf("%s: neither PEM nor a DER certificate: %w", path, err)
		}
		return []*x509.Certificate{cert}, nil
	}
	certs, err := parsePEMCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCertificateFile {
		return nil, fmt.Errorf("%s: has %d bytes; the most is %d", path, info.Size(), maxCertificateFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, fmt.Errorf("%s: is empty", path)
	}
	return text, nil
}

func parsePEMCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := text
	for n := 1; ; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is %q, not a certificate", n, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n, err)
		}
		certs = append(certs, cert)
	}
	if bytes.Contains(rest, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("the PEM block after certificate %d is damaged or truncated", len(certs))
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("there is no PEM certificate in it")
	}
	return certs, nil
}
