package stdtls

import (
	"crypto/tls"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

func BenchmarkConns(b *testing.B) {
	ca := tlstest.NewAuthority(b, tlstest.Spec{CommonName: "CA"})
	mid := ca.Intermediate(b, tlstest.Spec{CommonName: "Intermediate"})
	leaf := mid.Leaf(b, tlstest.Spec{DNSNames: []string{"server.test"}})
	pool := tlstest.Pool(ca)
	system := tlsapi.NewCertPool()
	system.AddSystemRoots()
	big := tlsapi.NewCertPool()
	roots, _ := tlsapi.SystemRoots()
	for _, r := range roots {
		big.AddCert(r)
	}
	for name, c := range map[string]*tlsapi.ClientConfig{
		"plain": {ServerName: "server.test", RootCAs: pool},
		"mtls":  {ServerName: "server.test", RootCAs: pool, Certificate: &leaf},
		"big":   {ServerName: "server.test", RootCAs: big, Certificate: &leaf},
	} {
		b.Run("client/"+name, func(b *testing.B) {
			b.ReportAllocs()
			t := newRecorder()
			for b.Loop() {
				if _, err := Provider.Client(t, c); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("digest/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Digest()
			}
		})
	}
	sc := &tlsapi.ServerConfig{Certificates: []tls.Certificate{leaf}}
	b.Run("server", func(b *testing.B) {
		b.ReportAllocs()
		t := newRecorder()
		for b.Loop() {
			if _, err := Provider.Server(t, sc); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("server digest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sc.Digest()
		}
	})
}
