package native

import (
	"fmt"

	"github.com/polytls/polytls/tlsapi"
)

// Support is a provider's capability matrix in a form that is easy to write
// down: a feature stands in exactly one of the three.
type Support struct {
	Native      []tlsapi.Feature
	Emulated    map[tlsapi.Feature]string
	Unsupported map[tlsapi.Feature]string
}

// Cells returns the matrix in the order of tlsapi.AllFeatures. It panics when a
// feature stands nowhere or twice: a mistake of the provider's author that
// shows when the program starts.
func (s Support) Cells() []tlsapi.FeatureSupport {
	var cells []tlsapi.FeatureSupport
	native := make(map[tlsapi.Feature]bool)
	for _, f := range s.Native {
		native[f] = true
	}
	for _, f := range tlsapi.AllFeatures() {
		emulated, isEmulated := s.Emulated[f]
		unsupported, isUnsupported := s.Unsupported[f]
		switch {
		case native[f] && !isEmulated && !isUnsupported:
			cells = append(cells, tlsapi.FeatureSupport{Feature: f, Support: tlsapi.Native})
		case isEmulated && !native[f] && !isUnsupported:
			cells = append(cells, tlsapi.FeatureSupport{Feature: f, Support: tlsapi.Emulated, Note: emulated})
		case isUnsupported && !native[f] && !isEmulated:
			cells = append(cells, tlsapi.FeatureSupport{Feature: f, Support: tlsapi.Unsupported, Note: unsupported})
		default:
			panic(fmt.Sprintf("feature %s must stand in the matrix exactly once", f))
		}
	}
	return cells
}

// LibsslSupport is the matrix of the libssl family, which its members copy and
// change with Move.
func LibsslSupport() Support {
	const (
		notYet  = "not implemented yet"
		engine  = "done by the state machine around the library"
		tickets = "sessions are never resumed: no ticket is issued, offered or accepted"
	)
	return Support{
		Native: []tlsapi.Feature{
			tlsapi.ClientServerName, tlsapi.ClientAlternativeName, tlsapi.ClientInsecureSkipVerify,
			tlsapi.ClientSkipHostname, tlsapi.ClientRootCAs, tlsapi.ClientCertificate, tlsapi.ClientALPN,
			tlsapi.ClientCurves, tlsapi.ClientVersions, tlsapi.ClientCipherSuites, tlsapi.ClientSignatureSchemes,
			tlsapi.ClientSessionTicketsOff, tlsapi.ClientCloseWrite, tlsapi.ClientExporter,
			tlsapi.ServerCertificates, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs, tlsapi.ServerALPN,
			tlsapi.ServerALPNStrict, tlsapi.ServerCurves, tlsapi.ServerVersions, tlsapi.ServerCipherSuites,
			tlsapi.ServerSignatureSchemes, tlsapi.ServerSessionTicketsOff, tlsapi.ServerCloseWrite,
			tlsapi.ServerExporter,
		},
		Emulated: map[tlsapi.Feature]string{
			tlsapi.ClientPolicyPreset:     "set as versions, cipher suites and groups; without the DHE suites of Mozilla's intermediate",
			tlsapi.ServerPolicyPreset:     "set as versions, cipher suites and groups; without the DHE suites of Mozilla's intermediate",
			tlsapi.ClientHandshakeTimeout: engine,
			tlsapi.ServerHandshakeTimeout: engine,
			tlsapi.ClientVerifyConnection: engine,
			tlsapi.ServerVerifyConnection: engine,
			tlsapi.ClientHandshakeHooks:   engine,
			tlsapi.ServerHandshakeHooks:   engine,
		},
		Unsupported: map[tlsapi.Feature]string{
			tlsapi.ClientExternalSigner:     "a private key must be in memory: " + notYet,
			tlsapi.ServerExternalSigner:     "a private key must be in memory: " + notYet,
			tlsapi.ClientSecondKeyShareOn:   notYet,
			tlsapi.ClientSecondKeyShareOff:  notYet,
			tlsapi.ClientPolicyNamed:        "only s2n has named policies; others take intermediate and modern",
			tlsapi.ServerPolicyNamed:        "only s2n has named policies; others take intermediate and modern",
			tlsapi.ClientPSKExternal:        notYet,
			tlsapi.ServerPSKExternal:        notYet,
			tlsapi.ClientPSKImported:        notYet,
			tlsapi.ServerPSKImported:        notYet,
			tlsapi.ClientPSKTLS12:           notYet,
			tlsapi.ServerPSKTLS12:           notYet,
			tlsapi.ClientRequirePSK:         notYet,
			tlsapi.ServerRequirePSK:         notYet,
			tlsapi.ClientBlinding:           notYet,
			tlsapi.ServerBlinding:           notYet,
			tlsapi.ClientConfigCache:        "the cache keeps 64 contexts; its size cannot be set yet",
			tlsapi.ServerConfigCache:        "the cache keeps 64 contexts; its size cannot be set yet",
			tlsapi.ClientSessionCache:       tickets,
			tlsapi.ServerSessionTickets:     tickets,
			tlsapi.ServerSessionTicketKeys:  tickets,
			tlsapi.ClientKeyLog:             notYet,
			tlsapi.ServerKeyLog:             notYet,
			tlsapi.ServerCertificatesByName: "one certificate per server: choosing by name is " + notYet,
			tlsapi.ServerGetCertificate:     notYet,
			tlsapi.ServerGetConfig:          notYet,
		},
	}
}

// Move puts a feature into another place of the matrix.
func (s *Support) Move(to tlsapi.Support, note string, features ...tlsapi.Feature) {
	for _, f := range features {
		for i, n := range s.Native {
			if n == f {
				s.Native = append(s.Native[:i:i], s.Native[i+1:]...)
				break
			}
		}
		delete(s.Emulated, f)
		delete(s.Unsupported, f)
		switch to {
		case tlsapi.Native:
			s.Native = append(s.Native, f)
		case tlsapi.Emulated:
			s.Emulated[f] = note
		case tlsapi.Unsupported:
			s.Unsupported[f] = note
		}
	}
}
