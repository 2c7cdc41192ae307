package stdtls

import "github.com/polytls/polytls/tlsapi"

// Features returns the provider's column of the matrix.
func (provider) Features() []tlsapi.FeatureSupport {
	all := tlsapi.AllFeatures()
	out := make([]tlsapi.FeatureSupport, 0, len(all))
	for _, f := range all {
		cell := cells[f]
		out = append(out, tlsapi.FeatureSupport{Feature: f, Support: cell.support, Note: cell.note})
	}
	return out
}

type cell struct {
	support tlsapi.Support
	note    string
}

const (
	noteVerification = "verified by crypto/x509 outside of crypto/tls; a refused certificate always gets alert bad_certificate"
	noteCurves       = "the set is honoured; crypto/tls orders it by its own preference; X448 and MLKEM1024 are refused"
	noteCipherSuites = "the TLS 1.2 suites are honoured as a set, in crypto/tls's own order; the TLS 1.3 suites must be all three, as crypto/tls cannot restrict them; DHE suites are refused"
	noteShare        = "crypto/tls decides from the curves: a post-quantum group first in its order brings its classical half as a second share when that is in the list; the other value is refused"
	noteSchemes      = "crypto/tls has no setting for signature schemes"
	notePolicyPreset = "suites and groups in its own order, by which a server chooses, too, where the guidelines leave the choice to the client"
	notePolicyNamed  = "only intermediate and modern; the other names are s2n's"
	notePSK          = "crypto/tls has no external pre-shared keys"
	noteBlinding     = "the transport below crypto/tls holds the alert and the close back; no delay by default; a Read whose alert waits behind a blocked Write returns when that does"
	noteConfigCache  = "there are no native contexts to keep; what the 64 configurations that were used last are converted to is kept, and a negative value, which is accepted, keeps none"
	noteTimeout      = "a timer around the handshake that closes the transport"
	noteHooks        = "called by the connection around crypto/tls's handshake"
	noteExporter     = "TLS 1.2 needs a peer with extended master secret; without it the call matches errors.ErrUnsupported"
	noteH2Only       = "the check for a client that offers only h2 is made beside the certificate's and ends with alert bad_certificate"
	noteVerdict      = "the alert of a rejection is always bad_certificate"
	noteServerVerify = noteVerdict + "; in TLS 1.3 crypto/tls has sent the server's flight, Finished included, before the hook runs; the connection is usable only after it"
	noteRevocation   = "checked by crypto/x509 outside of crypto/tls, with alert bad_certificate; lists with an issuing distribution point or another unknown critical extension count as missing"
	noteSigner       = "of a signer that fails only the error's text is passed on"
	noteClientHook   = "the alert for an error is always internal_error; in TLS 1.3 none is sent"
	noteHook         = "the alert for an error is always internal_error"
)

var (
	native      = cell{support: tlsapi.Native}
	emulated    = func(note string) cell { return cell{tlsapi.Emulated, note} }
	unsupported = func(note string) cell { return cell{tlsapi.Unsupported, note} }
)

var cells = map[tlsapi.Feature]cell{
	tlsapi.ClientServerName:         emulated(noteVerification),
	tlsapi.ClientAlternativeName:    emulated(noteVerification),
	tlsapi.ClientInsecureSkipVerify: native,
	tlsapi.ClientSkipHostname:       emulated(noteVerification),
	tlsapi.ClientRootCAs:            emulated(noteVerification),
	tlsapi.ClientCertificate:        native,
	tlsapi.ClientGetCertificate:     {tlsapi.Native, noteClientHook},
	tlsapi.ClientExternalSigner:     native,
	tlsapi.ClientALPN:               emulated(noteH2Only),
	tlsapi.ClientCurves:             emulated(noteCurves),
	tlsapi.ClientSecondKeyShareOn:   emulated(noteShare),
	tlsapi.ClientSecondKeyShareOff:  emulated(noteShare),
	tlsapi.ClientVersions:           native,
	tlsapi.ClientCipherSuites:       emulated(noteCipherSuites),
	tlsapi.ClientSignatureSchemes:   unsupported(noteSchemes),
	tlsapi.ClientPolicyPreset:       emulated(notePolicyPreset),
	tlsapi.ClientPolicyNamed:        unsupported(notePolicyNamed),
	tlsapi.ClientPSKExternal:        unsupported(notePSK),
	tlsapi.ClientPSKImported:        unsupported(notePSK),
	tlsapi.ClientPSKTLS12:           unsupported(notePSK),
	tlsapi.ClientRequirePSK:         unsupported(notePSK),
	tlsapi.ClientBlinding:           emulated(noteBlinding),
	tlsapi.ClientConfigCache:        unsupported(noteConfigCache),
	tlsapi.ClientSessionTicketsOff:  native,
	tlsapi.ClientSessionCache:       native,
	tlsapi.ClientOCSP:               native,
	tlsapi.ClientRevocationLists:    emulated(noteRevocation),
	tlsapi.ClientHandshakeTimeout:   emulated(noteTimeout),
	tlsapi.ClientKeyLog:             native,
	tlsapi.ClientVerifyConnection:   {tlsapi.Native, noteVerdict},
	tlsapi.ClientHandshakeHooks:     emulated(noteHooks),
	tlsapi.ClientCloseWrite:         native,
	tlsapi.ClientExporter:           {tlsapi.Native, noteExporter},
	tlsapi.ClientAlerts:             native,

	tlsapi.ServerCertificates:       native,
	tlsapi.ServerCertificatesByName: native,
	tlsapi.ServerExternalSigner:     {tlsapi.Native, noteSigner},
	tlsapi.ServerGetCertificate:     {tlsapi.Native, noteHook},
	tlsapi.ServerGetConfig:          {tlsapi.Native, noteHook + "; the GetConfigForClient of the chosen configuration is not called"},
	tlsapi.ServerClientAuth:         emulated(noteVerification),
	tlsapi.ServerClientCAs:          emulated(noteVerification),
	tlsapi.ServerALPN:               emulated("crypto/tls fails without a protocol in common; the list is withheld from it then"),
	tlsapi.ServerALPNStrict:         emulated("crypto/tls lets http/1.1 clients through to h2 servers; that exception is switched off"),
	tlsapi.ServerCurves:             emulated(noteCurves),
	tlsapi.ServerVersions:           native,
	tlsapi.ServerCipherSuites:       emulated(noteCipherSuites),
	tlsapi.ServerSignatureSchemes:   unsupported(noteSchemes),
	tlsapi.ServerPolicyPreset:       emulated(notePolicyPreset),
	tlsapi.ServerPolicyNamed:        unsupported(notePolicyNamed),
	tlsapi.ServerPSKExternal:        unsupported(notePSK),
	tlsapi.ServerPSKImported:        unsupported(notePSK),
	tlsapi.ServerPSKTLS12:           unsupported(notePSK),
	tlsapi.ServerRequirePSK:         unsupported(notePSK),
	tlsapi.ServerBlinding:           emulated(noteBlinding),
	tlsapi.ServerConfigCache:        unsupported(noteConfigCache),
	tlsapi.ServerSessionTicketsOff:  native,
	tlsapi.ServerSessionTickets:     native,
	tlsapi.ServerSessionTicketKeys:  native,
	tlsapi.ServerOCSP:               native,
	tlsapi.ServerRevocationLists:    emulated(noteRevocation),
	tlsapi.ServerHandshakeTimeout:   emulated(noteTimeout),
	tlsapi.ServerKeyLog:             native,
	tlsapi.ServerVerifyConnection:   emulated(noteServerVerify),
	tlsapi.ServerHandshakeHooks:     emulated(noteHooks),
	tlsapi.ServerCloseWrite:         native,
	tlsapi.ServerExporter:           {tlsapi.Native, noteExporter},
	tlsapi.ServerAlerts:             native,
}
