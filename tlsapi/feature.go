package tlsapi

import (
	"crypto/tls"
	"slices"
)

// Feature is one row of the capability matrix: an option, or a value of one, of
// the client ("client.alpn") or of the server ("server.alpn").
type Feature string

// The features, in the order of the matrix.
const (
	ClientServerName         Feature = "client.server-name"
	ClientAlternativeName    Feature = "client.alternative-name"
	ClientInsecureSkipVerify Feature = "client.insecure-skip-verify"
	ClientSkipHostname       Feature = "client.skip-hostname"
	ClientRootCAs            Feature = "client.root-cas"
	ClientCertificate        Feature = "client.certificate"
	ClientGetCertificate     Feature = "client.get-client-certificate"
	ClientExternalSigner     Feature = "client.external-signer"
	ClientALPN               Feature = "client.alpn"
	ClientCurves             Feature = "client.curves"
	ClientSecondKeyShareOn   Feature = "client.second-key-share-on"
	ClientSecondKeyShareOff  Feature = "client.second-key-share-off"
	ClientVersions           Feature = "client.versions"
	ClientCipherSuites       Feature = "client.cipher-suites"
	ClientSignatureSchemes   Feature = "client.signature-schemes"
	ClientPolicyPreset       Feature = "client.policy-preset"
	ClientPolicyNamed        Feature = "client.policy-named"
	ClientPSKExternal        Feature = "client.psk-external"
	ClientPSKImported        Feature = "client.psk-imported"
	ClientPSKTLS12           Feature = "client.psk-tls12"
	ClientRequirePSK         Feature = "client.require-psk"
	ClientBlinding           Feature = "client.max-blinding-delay"
	ClientConfigCache        Feature = "client.config-cache-size"
	ClientSessionTicketsOff  Feature = "client.session-tickets-off"
	ClientSessionCache       Feature = "client.session-cache"
	// ClientOCSP is no option: a client asks for a stapled OCSP response, which
	// ConnectionState then holds.
	ClientOCSP             Feature = "client.ocsp-stapling"
	ClientRevocationLists  Feature = "client.revocation-lists"
	ClientHandshakeTimeout Feature = "client.handshake-timeout"
	ClientKeyLog           Feature = "client.key-log"
	ClientVerifyConnection Feature = "client.verify-connection"
	ClientHandshakeHooks   Feature = "client.handshake-hooks"
	ClientCloseWrite       Feature = "client.close-write"
	ClientExporter         Feature = "client.exporter"
	// ClientAlerts is no option: the fatal alert of a failed handshake
	// reaches the peer in a form that it can read.
	ClientAlerts Feature = "client.alerts"

	ServerCertificates       Feature = "server.certificates"
	ServerCertificatesByName Feature = "server.certificates-by-name"
	ServerExternalSigner     Feature = "server.external-signer"
	ServerGetCertificate     Feature = "server.get-certificate"
	ServerGetConfig          Feature = "server.get-config-for-client"
	ServerClientAuth         Feature = "server.client-auth"
	ServerClientCAs          Feature = "server.client-cas"
	ServerALPN               Feature = "server.alpn"
	ServerALPNStrict         Feature = "server.alpn-strict"
	ServerCurves             Feature = "server.curves"
	ServerVersions           Feature = "server.versions"
	ServerCipherSuites       Feature = "server.cipher-suites"
	ServerSignatureSchemes   Feature = "server.signature-schemes"
	ServerPolicyPreset       Feature = "server.policy-preset"
	ServerPolicyNamed        Feature = "server.policy-named"
	ServerPSKExternal        Feature = "server.psk-external"
	ServerPSKImported        Feature = "server.psk-imported"
	ServerPSKTLS12           Feature = "server.psk-tls12"
	ServerRequirePSK         Feature = "server.require-psk"
	ServerBlinding           Feature = "server.max-blinding-delay"
	ServerConfigCache        Feature = "server.config-cache-size"
	ServerSessionTicketsOff  Feature = "server.session-tickets-off"
	ServerSessionTickets     Feature = "server.session-tickets"
	ServerSessionTicketKeys  Feature = "server.session-ticket-keys"
	ServerOCSP               Feature = "server.ocsp-stapling"
	ServerRevocationLists    Feature = "server.revocation-lists"
	ServerHandshakeTimeout   Feature = "server.handshake-timeout"
	ServerKeyLog             Feature = "server.key-log"
	ServerVerifyConnection   Feature = "server.verify-connection"
	ServerHandshakeHooks     Feature = "server.handshake-hooks"
	ServerCloseWrite         Feature = "server.close-write"
	ServerExporter           Feature = "server.exporter"
	ServerAlerts             Feature = "server.alerts"
)

// AllFeatures returns every feature in the order of the matrix.
func AllFeatures() []Feature { return slices.Clone(allFeatures) }

var allFeatures = []Feature{
	ClientServerName, ClientAlternativeName, ClientInsecureSkipVerify, ClientSkipHostname, ClientRootCAs,
	ClientCertificate, ClientGetCertificate, ClientExternalSigner, ClientALPN, ClientCurves, ClientSecondKeyShareOn,
	ClientSecondKeyShareOff, ClientVersions, ClientCipherSuites, ClientSignatureSchemes, ClientPolicyPreset,
	ClientPolicyNamed, ClientPSKExternal, ClientPSKImported, ClientPSKTLS12, ClientRequirePSK, ClientBlinding,
	ClientConfigCache, ClientSessionTicketsOff, ClientSessionCache, ClientOCSP, ClientRevocationLists, ClientHandshakeTimeout, ClientKeyLog,
	ClientVerifyConnection, ClientHandshakeHooks, ClientCloseWrite, ClientExporter, ClientAlerts,
	ServerCertificates, ServerCertificatesByName, ServerExternalSigner, ServerGetCertificate, ServerGetConfig,
	ServerClientAuth, ServerClientCAs, ServerALPN, ServerALPNStrict, ServerCurves, ServerVersions,
	ServerCipherSuites, ServerSignatureSchemes, ServerPolicyPreset, ServerPolicyNamed, ServerPSKExternal,
	ServerPSKImported, ServerPSKTLS12, ServerRequirePSK, ServerBlinding, ServerConfigCache,
	ServerSessionTicketsOff, ServerSessionTickets, ServerSessionTicketKeys, ServerOCSP, ServerRevocationLists, ServerHandshakeTimeout,
	ServerKeyLog, ServerVerifyConnection, ServerHandshakeHooks, ServerCloseWrite, ServerExporter, ServerAlerts,
}

// Support says how a provider has a feature.
type Support string

const (
	// Native is done by the library itself.
	Native Support = "native"
	// Emulated is done by Polytls around the library, or with the deviation
	// that the note describes.
	Emulated Support = "emulated"
	// Unsupported is refused; the note has the reason.
	Unsupported Support = "unsupported"
)

// FeatureSupport is one cell of the capability matrix.
type FeatureSupport struct {
	Feature Feature `json:"feature"`
	Support Support `json:"support"`
	Note    string  `json:"note"`
}

// CheckFeatures returns an error of KindUnsupported for the first of the used
// features that provider does not support, nil otherwise. Providers call it
// with the result of ClientConfig.Features or ServerConfig.Features, so that
// no option is ignored.
func CheckFeatures(provider Provider, used []FeatureUse) error {
	// Once per connection: a configuration uses few features, and a map of all
	// would cost more than looking for them.
	cells := provider.Features()
	for _, use := range used {
		i := slices.IndexFunc(cells, func(cell FeatureSupport) bool { return cell.Feature == use.Feature })
		if i < 0 {
			return UnsupportedError(provider.Name(), use.Option, "%s is not in the provider's list of features", use.Feature)
		}
		if cells[i].Support == Unsupported {
			return UnsupportedError(provider.Name(), use.Option, "%s: %s", use.Feature, cells[i].Note)
		}
	}
	return nil
}

// FeatureUse is a feature that a configuration uses, with the option (the
// field's name) that uses it.
type FeatureUse struct {
	Feature Feature
	Option  string
}

// Features returns the features that the options that are set use.
func (c *ClientConfig) Features() []FeatureUse {
	var u featureUses
	u.add(c.ServerName != "", ClientServerName, "ServerName")
	u.add(c.AlternativeName != "", ClientAlternativeName, "AlternativeName")
	u.add(c.InsecureSkipVerify, ClientInsecureSkipVerify, "InsecureSkipVerify")
	u.add(c.SkipHostnameVerification, ClientSkipHostname, "SkipHostnameVerification")
	u.add(c.RootCAs != nil, ClientRootCAs, "RootCAs")
	u.add(c.Certificate != nil, ClientCertificate, "Certificate")
	u.add(c.Certificate != nil && externalSigner(c.Certificate.PrivateKey), ClientExternalSigner, "Certificate")
	u.add(c.GetClientCertificate != nil, ClientGetCertificate, "GetClientCertificate")
	u.add(c.SecondKeyShare == SecondKeyShareOn, ClientSecondKeyShareOn, "SecondKeyShare")
	u.add(c.SecondKeyShare == SecondKeyShareOff, ClientSecondKeyShareOff, "SecondKeyShare")
	u.add(c.SessionTicketsDisabled, ClientSessionTicketsOff, "SessionTicketsDisabled")
	u.add(c.SessionCache != nil, ClientSessionCache, "SessionCache")
	u.settings(&c.Settings, "client.")
	return u
}

// Features returns the features that the options that are set use.
func (c *ServerConfig) Features() []FeatureUse {
	var u featureUses
	u.add(len(c.Certificates) > 0, ServerCertificates, "Certificates")
	u.add(len(c.Certificates) > 1, ServerCertificatesByName, "Certificates")
	u.add(slices.ContainsFunc(c.Certificates, func(cert tls.Certificate) bool { return externalSigner(cert.PrivateKey) }),
		ServerExternalSigner, "Certificates")
	u.add(slices.ContainsFunc(c.Certificates, func(cert tls.Certificate) bool { return len(cert.OCSPStaple) > 0 }),
		ServerOCSP, "Certificates")
	u.add(c.GetCertificate != nil, ServerGetCertificate, "GetCertificate")
	u.add(c.GetConfigForClient != nil, ServerGetConfig, "GetConfigForClient")
	u.add(c.ClientAuth != tls.NoClientCert, ServerClientAuth, "ClientAuth")
	u.add(c.ClientCAs != nil, ServerClientCAs, "ClientCAs")
	u.add(c.ALPNStrict, ServerALPNStrict, "ALPNStrict")
	u.add(c.SessionTicketsDisabled, ServerSessionTicketsOff, "SessionTicketsDisabled")
	u.add(len(c.SessionTicketKeys) > 0, ServerSessionTicketKeys, "SessionTicketKeys")
	u.settings(&c.Settings, "server.")
	return u
}

type featureUses []FeatureUse

func (u *featureUses) add(set bool, feature Feature, option string) {
	if set {
		*u = append(*u, FeatureUse{feature, option})
	}
}

// settings adds the features of the shared options; side is "client." or
// "server.".
func (u *featureUses) settings(s *Settings, side Feature) {
	u.add(s.MinVersion != 0, side+"versions", "MinVersion")
	u.add(s.MaxVersion != 0, side+"versions", "MaxVersion")
	u.add(s.CipherSuites != nil, side+"cipher-suites", "CipherSuites")
	u.add(s.Curves != nil, side+"curves", "Curves")
	u.add(s.SignatureSchemes != nil, side+"signature-schemes", "SignatureSchemes")
	_, preset := LookupPolicy(s.SecurityPolicy)
	u.add(preset, side+"policy-preset", "SecurityPolicy")
	u.add(s.SecurityPolicy != "" && !preset, side+"policy-named", "SecurityPolicy")
	u.add(s.ALPN != nil, side+"alpn", "ALPN")
	for _, psk := range s.PSKs {
		u.add(true, side+"psk-"+Feature(psk.Kind.String()), "PSKs")
	}
	u.add(s.RequirePSK, side+"require-psk", "RequirePSK")
	u.add(s.MaxBlindingDelay != 0, side+"max-blinding-delay", "MaxBlindingDelay")
	u.add(s.ConfigCacheSize != 0, side+"config-cache-size", "ConfigCacheSize")
	u.add(s.HandshakeTimeout != 0, side+"handshake-timeout", "HandshakeTimeout")
	u.add(len(s.RevocationLists) > 0, side+"revocation-lists", "RevocationLists")
	u.add(s.KeyLogWriter != nil, side+"key-log", "KeyLogWriter")
	u.add(s.VerifyConnection != nil, side+"verify-connection", "VerifyConnection")
	u.add(s.HandshakeComplete != nil, side+"handshake-hooks", "HandshakeComplete")
	u.add(s.HandshakeFailed != nil, side+"handshake-hooks", "HandshakeFailed")
}
