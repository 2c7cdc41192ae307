package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// settings are the options of both ends.
func (c *connection) settings(server bool) (tlsapi.Settings, error) {
	// The runner waits for alerts: no blinding.
	s := tlsapi.Settings{MaxBlindingDelay: -1, Curves: c.curves, CipherSuites: c.suites}
	if err := c.setVersions(&s); err != nil {
		return s, err
	}
	if c.suites != nil {
		minimum, maximum := s.Versions()
		// An expression of OpenSSL's is about TLS 1.2 and leaves the suites of
		// TLS 1.3 alone.
		if maximum == tls.VersionTLS13 && !slices.ContainsFunc(c.suites, tlsapi.CipherSuiteTLS13) {
			if minimum == tls.VersionTLS13 {
				s.CipherSuites = nil
			} else {
				s.CipherSuites = append([]uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}, c.suites...)
			}
		}
	}
	if err := c.setSchemes(&s, server); err != nil {
		return s, err
	}
	if c.pskSecret != nil {
		s.PSKs = append(s.PSKs, tlsapi.PSK{Identity: c.pskIdentity, Secret: c.pskSecret, Kind: tlsapi.PSKTLS12})
	}
	for _, cred := range c.credentials {
		if cred.psk != nil {
			s.PSKs = append(s.PSKs, *cred.psk)
			// A client of BoringSSL that verifies nothing takes no certificate in
			// place of its PSK.
			s.RequirePSK = !server && !c.verifyPeer
		}
	}
	s.VerifyConnection = c.verify
	if c.compliance != nil {
		c.compliance.comply(&s, c.partlyCompliant)
	}
	return s, nil
}

// setVersions turns the flags into a range. TLS 1.2 is the least version of
// tlsapi: a test that needs an older one does not apply.
func (c *connection) setVersions(s *tlsapi.Settings) error {
	s.MinVersion, s.MaxVersion = c.minVersion, c.maxVersion
	if s.MinVersion != 0 && s.MinVersion < tls.VersionTLS12 {
		s.MinVersion = tls.VersionTLS12
	}
	if s.MaxVersion != 0 && s.MaxVersion < tls.VersionTLS12 {
		return missing{"versions below TLS 1.2"}
	}
	if c.noVersion[tls.VersionTLS13] {
		if c.noVersion[tls.VersionTLS12] {
			return missing{"versions below TLS 1.2"}
		}
		s.MaxVersion = tls.VersionTLS12
	}
	if c.noVersion[tls.VersionTLS12] {
		s.MinVersion = tls.VersionTLS13
	}
	return nil
}

// secondKeyShare turns -key-shares into tlsapi's setting: the first group, or the
// first and the first of the other kind. Without the flag BoringSSL sends shares of
// the first classical and the first post-quantum group.
func (c *connection) secondKeyShare() (tlsapi.SecondKeyShare, error) {
	var pair []tlsapi.CurveID
	for _, group := range c.curves {
		if len(pair) == 0 || len(pair) == 1 && tlsapi.PostQuantum(group) != tlsapi.PostQuantum(pair[0]) {
			pair = append(pair, group)
		}
	}
	switch {
	case c.keyShares == nil && len(pair) == 2 && c.oneShareByDefault:
		return tlsapi.SecondKeyShareOn, nil
	case c.keyShares == nil:
		return tlsapi.SecondKeyShareDefault, nil
	case len(pair) == 2 && slices.Equal(c.keyShares, pair):
		return tlsapi.SecondKeyShareOn, nil
	case len(pair) > 0 && slices.Equal(c.keyShares, pair[:1]):
		return tlsapi.SecondKeyShareOff, nil
	}
	return 0, missing{"-key-shares other than the first of each kind"}
}

// setSchemes turns the preferences for signing and for verifying into tlsapi's
// one list: what the test is about first, and behind it what the other half of
// the handshake needs. Where the provider has no such list, -signing-prefs goes
// to the certificate.
func (c *connection) setSchemes(s *tlsapi.Settings, server bool) error {
	var signing []tls.SignatureScheme
	for _, cred := range append(slices.Clone(c.credentials), c.certificate) {
		if cred.signingPrefs == nil || c.schemesPerCertificate {
			continue
		}
		if signing != nil {
			return missing{"-signing-prefs for several certificates"}
		}
		signing = cred.signingPrefs
	}
	signs := c.certificate.certFile != "" || len(c.credentials) > 0
	verifies := !server || c.requireClient || c.verifyPeer
	switch {
	case signing != nil && c.verifyPrefs != nil && !slices.Equal(signing, c.verifyPrefs):
		return missing{"-signing-prefs beside other -verify-prefs"}
	case signing != nil:
		s.SignatureSchemes = signing
		if verifies && c.verifyPrefs == nil {
			s.SignatureSchemes = union(signing, tls.PSSWithSHA256, tls.ECDSAWithP256AndSHA256, tls.PKCS1WithSHA256)
		}
	case c.verifyPrefs != nil && c.fixed(c.verifyPrefs):
		// What the peer may not use then, the library allows; a test that wants it
		// refused is disabled.
	case c.verifyPrefs != nil:
		s.SignatureSchemes = c.verifyPrefs
		if signs && verifies && server {
			// The key of the runner's default certificate is RSA.
			s.SignatureSchemes = union(c.verifyPrefs, tls.PSSWithSHA256)
		}
	}
	return nil
}

// cryptoTLSSchemes are the signature schemes that crypto/tls verifies.
var cryptoTLSSchemes = []tls.SignatureScheme{
	tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512,
	tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512,
	tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512,
	tls.Ed25519,
}

// fixed reports whether the library has the schemes without being told.
func (c *connection) fixed(schemes []tls.SignatureScheme) bool {
	for _, scheme := range schemes {
		if !slices.Contains(c.fixedSchemes, scheme) {
			return false
		}
	}
	return true
}

// union returns the schemes and behind them those that are not among them.
func union(schemes []tls.SignatureScheme, more ...tls.SignatureScheme) []tls.SignatureScheme {
	all := slices.Clone(schemes)
	for _, scheme := range more {
		if !slices.Contains(all, scheme) {
			all = append(all, scheme)
		}
	}
	return all
}

// Alerts of RFC 8446 section 6.
const (
	alertHandshakeFailure             = 40
	alertCertificateUnknown           = 46
	alertBadCertificateStatusResponse = 113
)

// verify is the hook that -verify-fail makes fail. BoringSSL's is not called for
// a peer without certificates, and for resumed sessions only when asked.
func (c *connection) verify(state tls.ConnectionState) error {
	if c.failOCSP && !c.server {
		return fmt.Errorf("the test wants the stapled response to be refused: %w", tls.AlertError(alertBadCertificateStatusResponse))
	}
	if !c.verifyFail || !c.verifyPeer && !c.customVerify {
		return nil
	}
	if len(state.PeerCertificates) == 0 || state.DidResume && !c.reverify {
		return nil
	}
	// The defaults of BoringSSL's two callbacks.
	alert := tls.AlertError(alertHandshakeFailure)
	if c.customVerify {
		alert = alertCertificateUnknown
	}
	return fmt.Errorf("the test wants the verification to fail: %w", alert)
}

// certificates are those of the flags, in their order of preference.
func (c *connection) certificates() ([]tls.Certificate, error) {
	var certs []tls.Certificate
	for _, cred := range append(slices.Clone(c.credentials), c.certificate) {
		if cred.psk != nil || cred.certFile == "" && cred.keyFile == "" {
			continue
		}
		if cred.certFile == "" || cred.keyFile == "" {
			return nil, missing{"a certificate or a key without the other"}
		}
		cert, err := tlsapi.LoadCertificate(cred.certFile, cred.keyFile)
		if err != nil {
			return nil, err
		}
		cert.OCSPStaple = cred.ocspResponse
		if c.schemesPerCertificate {
			cert.SupportedSignatureAlgorithms = cred.signingPrefs
		}
		if cert.SignedCertificateTimestamps, err = timestampList(cred.scts); err != nil {
			return nil, err
		}
		if c.useOCSPCallback && c.declineOCSP {
			cert.OCSPStaple = nil
		}
		if cred.mustMatchIssuer {
			if c.server {
				return nil, missing{"-must-match-issuer of a server"}
			}
			if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
				return nil, err
			}
			c.matchIssuers = append(c.matchIssuers, cert.Leaf)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

func (c *connection) clientConfig(sessions tlsapi.SessionCache) (*tlsapi.ClientConfig, error) {
	settings, err := c.settings(false)
	if err != nil {
		return nil, err
	}
	config := &tlsapi.ClientConfig{
		Settings:                 settings,
		ServerName:               c.hostName,
		SkipHostnameVerification: true,
		SessionTicketsDisabled:   c.noTicket,
	}
	if !c.noTicket {
		config.SessionCache = sessions
	}
	config.ALPN = c.advertiseALPN
	if config.SecondKeyShare, err = c.secondKeyShare(); err != nil {
		return nil, err
	}
	if c.noLegacyServers && !c.refusesLegacyServers {
		return nil, missing{"-no-legacy-server-connect"}
	}
	if config.RootCAs, err = c.trust(); err != nil {
		return nil, err
	}
	config.InsecureSkipVerify = config.RootCAs == nil
	certs, err := c.certificates()
	if err != nil {
		return nil, err
	}
	switch {
	case c.failCertCallback:
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return nil, errors.New("the test wants the hook to fail")
		}
	case len(certs) == 1 && c.noCertificateHook && c.expectVerifyPrefs == nil && c.expectClientCAs == nil && len(c.matchIssuers) == 0:
		config.Certificate = &certs[0]
	case len(certs) > 1 || len(certs) > 0 && (c.hookPresents || c.expectVerifyPrefs != nil || c.expectClientCAs != nil) || c.presentsCredentials():
		config.GetClientCertificate = c.chooseCertificate(certs)
	case len(certs) == 1:
		config.Certificate = &certs[0]
	}
	return config, nil
}

func (c *connection) serverConfig() (*tlsapi.ServerConfig, error) {
	settings, err := c.settings(true)
	if err != nil {
		return nil, err
	}
	config := &tlsapi.ServerConfig{Settings: settings, SessionTicketsDisabled: c.noTicket, SessionTicketKeys: c.ticketKeys}
	switch {
	case c.selectALPN != "":
		config.ALPN = []string{c.selectALPN}
	case c.rejectALPN:
		config.ALPN, config.ALPNStrict = []string{"a protocol that nobody offers"}, true
	}
	if config.ClientCAs, err = c.trust(); err != nil {
		return nil, err
	}
	if len(c.clientCAs) > 0 {
		if c.verifyPeer {
			return nil, missing{"-use-client-ca-list beside -verify-peer"}
		}
		if config.ClientCAs, err = named(c.clientCAs); err != nil {
			return nil, err
		}
	}
	switch {
	case c.requireClient && c.verifyPeer && config.ClientCAs != nil:
		config.ClientAuth = tls.RequireAndVerifyClientCert
	case c.requireClient:
		config.ClientAuth = tls.RequireAnyClientCert
	case c.verifyPeer && config.ClientCAs != nil:
		config.ClientAuth = tls.VerifyClientCertIfGiven
	case c.verifyPeer:
		config.ClientAuth = tls.RequestClientCert
	}
	if config.Certificates, err = c.certificates(); err != nil {
		return nil, err
	}
	if c.expectAdvertisedALPN != nil || c.expectVerifyPrefs != nil || c.earlyCallback || c.failEarlyCallback || c.hookFails {
		config.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tlsapi.ServerConfig, error) {
			switch {
			case c.failEarlyCallback:
				return nil, fmt.Errorf("the test wants the hook to fail: %w", tls.AlertError(alertHandshakeFailure))
			case c.hookFails:
				return nil, errors.New("the test wants the hook to fail")
			}
			return nil, found(c.hello(info))
		}
	}
	// The staple is the certificate's: choosing it for a connection is choosing the
	// certificate.
	if c.failCertCallback || c.failOCSP {
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, errors.New("the test wants the hook to fail")
		}
	}
	return config, nil
}

// presentsCredentials reports whether certificates come from -new-x509-credential:
// BoringSSL then ends the handshake when none suits.
func (c *connection) presentsCredentials() bool {
	return slices.ContainsFunc(c.credentials, func(cred credential) bool { return cred.psk == nil })
}

// chooseCertificate is the hook that chooses the first certificate that suits the
// server, as BoringSSL does by itself.
func (c *connection) chooseCertificate(certs []tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if c.expectVerifyPrefs != nil && !slices.Equal(request.SignatureSchemes, c.expectVerifyPrefs) {
			return nil, found(fmt.Errorf("the server asks for signature schemes %v, expected %v", request.SignatureSchemes, c.expectVerifyPrefs))
		}
		if c.expectClientCAs != nil && !slices.EqualFunc(request.AcceptableCAs, c.expectClientCAs, bytes.Equal) {
			return nil, found(fmt.Errorf("the server asks for CAs %x, expected %x", request.AcceptableCAs, c.expectClientCAs))
		}
		for _, cert := range certs {
			// Only -must-match-issuer heeds the names of CAs.
			asked := *request
			if !slices.Contains(c.matchIssuers, cert.Leaf) {
				asked.AcceptableCAs = nil
			}
			if asked.SupportsCertificate(&cert) != nil {
				continue
			}
			if c.hookSchemesSettled {
				cert.SupportedSignatureAlgorithms = nil
			}
			return &cert, nil
		}
		// BoringSSL ends the handshake then. So does a library that is given a
		// certificate with which it cannot sign.
		if (c.presentsCredentials() || c.hookPresents) && len(c.matchIssuers) == 0 {
			return &certs[0], nil
		}
		if c.presentsCredentials() {
			return nil, fmt.Errorf("no certificate suits the server: %w", tls.AlertError(alertHandshakeFailure))
		}
		return &tls.Certificate{}, nil
	}
}

// trust is the pool of -trust-cert, nil without one.
func (c *connection) trust() (*tlsapi.CertPool, error) {
	if c.trustCert == "" {
		return nil, nil
	}
	return tlsapi.CertPoolFromFiles(c.trustCert)
}

// named is a pool of certificates with the given subjects.
func named(subjects [][]byte) (*tlsapi.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pool := tlsapi.NewCertPool()
	for _, subject := range subjects {
		template := &x509.Certificate{
			RawSubject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		if err := pool.AddDER(der); err != nil {
			return nil, err
		}
	}
	return pool, nil
}

// chain reads the DER form of a file's certificates.
func chain(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certs, nil
		}
		certs = append(certs, block.Bytes)
	}
}

// timestampList splits a list of signed certificate timestamps (RFC 6962 section
// 3.3).
func timestampList(list []byte) ([][]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) < 2 || int(binary.BigEndian.Uint16(list)) != len(list)-2 {
		return nil, missing{"a malformed list of signed certificate timestamps"}
	}
	var timestamps [][]byte
	for list = list[2:]; len(list) > 0; {
		if len(list) < 2 || len(list)-2 < int(binary.BigEndian.Uint16(list)) {
			return nil, missing{"a malformed list of signed certificate timestamps"}
		}
		n := int(binary.BigEndian.Uint16(list))
		timestamps, list = append(timestamps, list[2:2+n]), list[2+n:]
	}
	return timestamps, nil
}

// timestamps is the inverse of timestampList.
func timestamps(entries [][]byte) []byte {
	var body []byte
	for _, e := range entries {
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(e))), e...)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}
