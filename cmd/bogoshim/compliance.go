package main

import (
	"crypto/tls"
	"slices"

	"github.com/polytls/polytls/tlsapi"
)

// compliance is what a -fips-202205 and its like ask for: BoringSSL's compliance
// policies, said in tlsapi's settings.
type compliance struct {
	minVersion uint16
	suites     []uint16
	curves     []tlsapi.CurveID
	schemes    []tls.SignatureScheme
}

// compliances are the policies by their flags. RSA key exchange, which
// cnsa1-202603 allows, has no place in tlsapi.
var compliances = map[string]compliance{
	"fips-202205": {
		minVersion: tls.VersionTLS12,
		suites: []uint16{
			tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		},
		curves: []tlsapi.CurveID{tlsapi.CurveP256, tlsapi.CurveP384},
		schemes: []tls.SignatureScheme{
			tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512,
			tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384,
			tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512,
		},
	},
	"wpa-202304": {
		minVersion: tls.VersionTLS12,
		suites: []uint16{
			tls.TLS_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		},
		curves: []tlsapi.CurveID{tlsapi.CurveP384},
		schemes: []tls.SignatureScheme{
			tls.PKCS1WithSHA384, tls.PKCS1WithSHA512, tls.ECDSAWithP384AndSHA384, tls.PSSWithSHA384, tls.PSSWithSHA512,
		},
	},
	"cnsa1-202603": {
		minVersion: tls.VersionTLS12,
		suites: []uint16{
			tls.TLS_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		},
		curves:  []tlsapi.CurveID{tlsapi.MLKEM1024, tlsapi.CurveP384},
		schemes: []tls.SignatureScheme{tls.ECDSAWithP384AndSHA384, tls.PSSWithSHA384, tls.PKCS1WithSHA384},
	},
	"cnsa2-202603": {
		minVersion: tls.VersionTLS13,
		suites:     []uint16{tls.TLS_AES_256_GCM_SHA384},
		curves:     []tlsapi.CurveID{tlsapi.MLKEM1024},
		schemes:    []tls.SignatureScheme{tls.ECDSAWithP384AndSHA384, tls.PSSWithSHA384, tls.PKCS1WithSHA384},
	},
	"cnsa-202407": {
		minVersion: tls.VersionTLS12,
		suites: []uint16{
			tls.TLS_AES_256_GCM_SHA384, tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	},
}

// comply puts a policy into the settings. A part of it is what crypto/tls has
// settings for: versions, groups and the suites of TLS 1.2.
func (c *compliance) comply(s *tlsapi.Settings, part bool) {
	s.MinVersion, s.CipherSuites, s.Curves, s.SignatureSchemes = c.minVersion, c.suites, c.curves, c.schemes
	if part {
		s.SignatureSchemes = nil
		if curves := slices.DeleteFunc(slices.Clone(c.curves), func(id tlsapi.CurveID) bool { return id == tlsapi.MLKEM1024 }); len(curves) > 0 {
			s.Curves = curves
		}
		s.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
		for _, id := range c.suites {
			if !tlsapi.CipherSuiteTLS13(id) {
				s.CipherSuites = append(s.CipherSuites, id)
			}
		}
	}
}
