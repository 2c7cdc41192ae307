package native

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// vet makes sure that what the library refuses is refused before the first byte,
// although the contexts are made later: it makes one context for each kind of
// key among the certificates.
func (p *Provider) vet(config *tlsapi.ServerConfig) error {
	return p.vetted.Check(config, func() error { return p.makeExamples(config) })
}

func (p *Provider) makeExamples(config *tlsapi.ServerConfig) error {
	examples, err := keyExamples(config.Certificates)
	if err != nil {
		return p.named(err)
	}
	for _, example := range examples {
		effective := *config
		effective.Certificates = []tls.Certificate{example}
		ctx, err := p.context(p.serverContext(&effective))
		if err != nil {
			return err
		}
		ctx.release()
	}
	return nil
}

// keyExamples returns the first certificate of each kind that a library may
// refuse, by key and fields, or a certificate that nobody ever sees when there is
// none: libraries want one.
func keyExamples(certificates []tls.Certificate) ([]tls.Certificate, error) {
	var examples []tls.Certificate
	seen := make(map[string]bool)
	for _, c := range certificates {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			return nil, tlsapi.ConfigError("Certificates", "the certificate does not parse: %w", err)
		}
		// What else libraries refuse certificates for: see contextBuilder.certificate.
		kind := fmt.Sprintf("%T %t %t %t ", leaf.PublicKey, externalSigner(c.PrivateKey) != nil,
			len(c.SignedCertificateTimestamps) > 0, c.SupportedSignatureAlgorithms != nil)
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); ok {
			kind += key.Params().Name
		}
		if !seen[kind] {
			seen[kind] = true
			examples = append(examples, c)
		}
	}
	if len(examples) == 0 {
		example, err := exampleCertificate()
		if err != nil {
			return nil, err
		}
		examples = append(examples, example)
	}
	return examples, nil
}

var exampleCertificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"example.invalid"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
})
