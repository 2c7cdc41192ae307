package native

import (
	"fmt"

	"github.com/polytls/polytls/tlsapi"
)

// Matrix is a provider's capability matrix in a form that is easy to write
// down.
type Matrix map[tlsapi.Feature]tlsapi.FeatureSupport

// Set gives features their place in the matrix, replacing an older one.
func (m Matrix) Set(support tlsapi.Support, note string, features ...tlsapi.Feature) {
	for _, f := range features {
		m[f] = tlsapi.FeatureSupport{Feature: f, Support: support, Note: note}
	}
}

// Cells returns the matrix in the order of tlsapi.AllFeatures. It panics when a
// feature is missing: a mistake of the provider's author that shows when the
// program starts.
func (m Matrix) Cells() []tlsapi.FeatureSupport {
	var cells []tlsapi.FeatureSupport
	for _, f := range tlsapi.AllFeatures() {
		cell, ok := m[f]
		if !ok {
			panic(fmt.Sprintf("feature %s is missing in the matrix", f))
		}
		cells = append(cells, cell)
	}
	return cells
}

// CertificateNote is about the fields of a tls.Certificate.
const CertificateNote = "certificates with SignedCertificateTimestamps are refused"

// Notes on policy presets: what a library's preset has less or otherwise than
// tlsapi.LookupPolicy.
const (
	PresetNote = "set as versions, cipher suites and groups; a server chooses by its own list, where the guidelines leave the choice to the client"
	// PresetWithoutMLKEM is for libraries without post-quantum groups.
	PresetWithoutMLKEM = "without X25519MLKEM768, which the library at hand lacks"
)

// LibsslMatrix is the matrix of the libssl family; its members change it with
// Set.
func LibsslMatrix() Matrix {
	const (
		stateMachine = "done by the state machine around the library"
		noSessions   = "neither kept nor resumed by configurations with PSKs"
		noTickets    = "a ticket is for one server name; a client's chain is in it and verified again; none is issued or accepted by configurations with PSKs: their handshakes are always full"
		named        = "only s2n has named policies; others take intermediate and modern"
		cacheSize    = "the cache around the library; a place for each context, not for each configuration"
		memory       = "a private key must be in memory: the library's handshake cannot wait for an external signer"
	)
	m := make(Matrix)
	m.Set(tlsapi.Native, "",
		tlsapi.ClientServerName, tlsapi.ClientAlternativeName, tlsapi.ClientInsecureSkipVerify,
		tlsapi.ClientSkipHostname, tlsapi.ClientRootCAs, tlsapi.ClientCertificate, tlsapi.ClientALPN,
		tlsapi.ClientCurves, tlsapi.ClientSecondKeyShareOn, tlsapi.ClientSecondKeyShareOff, tlsapi.ClientVersions, tlsapi.ClientCipherSuites, tlsapi.ClientSignatureSchemes,
		tlsapi.ClientSessionTicketsOff, tlsapi.ClientKeyLog, tlsapi.ClientCloseWrite, tlsapi.ClientExporter, tlsapi.ClientAlerts,
		tlsapi.ServerCertificates, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs, tlsapi.ServerALPN,
		tlsapi.ServerALPNStrict, tlsapi.ServerCurves, tlsapi.ServerVersions, tlsapi.ServerCipherSuites,
		tlsapi.ServerSignatureSchemes, tlsapi.ServerSessionTicketsOff, tlsapi.ServerKeyLog, tlsapi.ServerCloseWrite,
		tlsapi.ServerExporter, tlsapi.ServerAlerts)
	m.Set(tlsapi.Native, "the library waits for the hook; the alert for an error is always internal_error", tlsapi.ClientGetCertificate)
	m.Set(tlsapi.Native, CertificateNote, tlsapi.ClientCertificate, tlsapi.ServerCertificates)
	m.Set(tlsapi.Emulated, PresetNote, tlsapi.ClientPolicyPreset, tlsapi.ServerPolicyPreset)
	m.Set(tlsapi.Emulated, stateMachine,
		tlsapi.ClientHandshakeTimeout, tlsapi.ServerHandshakeTimeout,
		tlsapi.ClientHandshakeHooks, tlsapi.ServerHandshakeHooks)
	m.Set(tlsapi.Emulated, stateMachine+"; no delay by default", tlsapi.ClientBlinding, tlsapi.ServerBlinding)
	m.Set(tlsapi.Emulated, stateMachine+"; a rejection closes the connection without an alert",
		tlsapi.ClientVerifyConnection, tlsapi.ServerVerifyConnection)
	m.Set(tlsapi.Unsupported, memory, tlsapi.ClientExternalSigner, tlsapi.ServerExternalSigner)
	m.Set(tlsapi.Unsupported, named, tlsapi.ClientPolicyNamed, tlsapi.ServerPolicyNamed)
	m.Set(tlsapi.Emulated, cacheSize, tlsapi.ClientConfigCache, tlsapi.ServerConfigCache)
	m.Set(tlsapi.Native, noSessions, tlsapi.ClientSessionCache)
	m.Set(tlsapi.Native, noTickets, tlsapi.ServerSessionTickets)
	m.Set(tlsapi.Native, "", tlsapi.ServerSessionTicketKeys)
	m.Set(tlsapi.Emulated, "chosen from the ClientHello, which is read before the library gets it", tlsapi.ServerCertificatesByName)
	m.Set(tlsapi.Emulated, "called with the ClientHello before the library gets it; a ClientHello that crypto/tls does not take is refused",
		tlsapi.ServerGetCertificate)
	m.Set(tlsapi.Emulated, "called with the ClientHello before the library gets it; a ClientHello that crypto/tls does not take is refused; the GetConfigForClient of the chosen configuration is not called",
		tlsapi.ServerGetConfig)
	m.Set(tlsapi.Native, "", tlsapi.ClientOCSP, tlsapi.ServerOCSP, tlsapi.ClientRequirePSK, tlsapi.ServerRequirePSK,
		tlsapi.ClientPSKExternal, tlsapi.ServerPSKExternal, tlsapi.ClientPSKImported, tlsapi.ServerPSKImported)
	m.Set(tlsapi.Native, "lists for a part of the certificates (delta lists, those with an issuing distribution point, indirect ones) count as missing",
		tlsapi.ClientRevocationLists, tlsapi.ServerRevocationLists)
	const suites = "ECDHE_PSK suites only: ChaCha20-Poly1305, and CBC behind it unless CipherSuites or SecurityPolicy is set; where TLS 1.3 is enabled and no PSK is required, its certificates go first"
	m.Set(tlsapi.Native, "one PSK, as in the protocol; "+suites, tlsapi.ClientPSKTLS12)
	m.Set(tlsapi.Native, "no fallback to certificates for an unknown identity, which comes after the choice of the suite; "+suites,
		tlsapi.ServerPSKTLS12)
	return m
}
