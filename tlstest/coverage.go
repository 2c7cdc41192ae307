package tlstest

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
)

// proofs are the cases that observe a feature: regular expressions for the
// beginnings of their names, each of which must have run. A feature that a
// provider does not support is observed by its refusal instead, among the
// options; those that are no options (see noOption) by what the same cases find
// in its place.
var proofs = map[tlsapi.Feature][]string{
	tlsapi.ClientServerName:         {"verification/right_name", "verification/wrong_name", "verification/server_name_indication"},
	tlsapi.ClientAlternativeName:    {"verification/alternative_DNS_name", "verification/alternative_address", "verification/neither_name"},
	tlsapi.ClientInsecureSkipVerify: {"verification/skip_verification"},
	tlsapi.ClientSkipHostname:       {"verification/skip_host_name"},
	tlsapi.ClientRootCAs:            {"verification/untrusted", "verification/contexts_of_different_trust", "system-roots"},
	tlsapi.ClientCertificate:        {"client-authentication/client/sent_when_asked", "self/client_authentication"},
	tlsapi.ClientGetCertificate:     {"client-authentication/hook/.*sees_the_request", "client-authentication/hook/.*error", "client-authentication/hook/.*blocks"},
	tlsapi.ClientExternalSigner:     {"server-certificates/external_signer/client/.*failure", "server-certificates/external_signer/client/.*cancellation"},
	tlsapi.ClientALPN:               {"alpn/client", "self/alpn"},
	tlsapi.ClientCurves:             {"curves/client"},
	tlsapi.ClientSecondKeyShareOn:   {"key-shares/on"},
	tlsapi.ClientSecondKeyShareOff:  {"key-shares/off"},
	tlsapi.ClientVersions:           {"versions/client"},
	tlsapi.ClientCipherSuites:       {"cipher-suites/client"},
	tlsapi.ClientSignatureSchemes:   {"signature-schemes/client"},
	tlsapi.ClientPolicyPreset:       {"policies/intermediate/client", "policies/modern/client"},
	tlsapi.ClientPolicyNamed:        {"policies/named/client"},
	tlsapi.ClientPSKExternal:        {"psks/.*sha256", "psks/.*sha384"},
	tlsapi.ClientPSKImported:        {"psks/imported"},
	tlsapi.ClientPSKTLS12:           {"psks/tls12"},
	tlsapi.ClientRequirePSK:         {"psks/.*required_by_the_client"},
	tlsapi.ClientBlinding:           {"blinding/bad_record/client", "blinding/failed_verification/.*client", "blinding/off/client"},
	tlsapi.ClientConfigCache:        {"config-cache/client/size", "config-cache/client/off"},
	tlsapi.ClientSessionTicketsOff:  {"session-tickets/client/off"},
	tlsapi.ClientSessionCache:       {"resumption/client/.*shared_cache", "resumption/client/.*impostors"},
	tlsapi.ClientOCSP:               {"stapling/.*client"},
	tlsapi.ClientRevocationLists:    {"revocation/client/leaf_revoked", "revocation/client/leaf's_list_missing"},
	tlsapi.ClientHandshakeTimeout:   {"cancellation/client/handshake_timeout"},
	tlsapi.ClientKeyLog:             {"key-log/client"},
	tlsapi.ClientVerifyConnection:   {"hooks/client/.*rejection"},
	tlsapi.ClientHandshakeHooks:     {"hooks/client/.*success"},
	tlsapi.ClientCloseWrite:         {"close/half_close/client"},
	tlsapi.ClientExporter:           {"information/exporter/client"},
	tlsapi.ClientAlerts:             {"verification/wrong_name", "blinding/bad_record/client"},

	tlsapi.ServerCertificates:       {"server-certificates/chain_is_sent", "self/handshake"},
	tlsapi.ServerCertificatesByName: {"server-certificates/chosen_by_name", "server-certificates/chosen_by_key_type"},
	tlsapi.ServerExternalSigner:     {"server-certificates/external_signer/server/.*failure", "server-certificates/external_signer/server/.*cancellation"},
	tlsapi.ServerGetCertificate:     {"server-certificates/hook"},
	tlsapi.ServerGetConfig:          {"server-certificates/configuration_hook"},
	tlsapi.ServerClientAuth:         {"client-authentication/modes"},
	tlsapi.ServerClientCAs:          {"client-authentication/refused_certificates", "client-authentication/authorities_of_the_same_name"},
	tlsapi.ServerALPN:               {"alpn/server", "self/alpn"},
	tlsapi.ServerALPNStrict:         {"alpn/server/strict"},
	tlsapi.ServerCurves:             {"curves/server"},
	tlsapi.ServerVersions:           {"versions/server"},
	tlsapi.ServerCipherSuites:       {"cipher-suites/server"},
	tlsapi.ServerSignatureSchemes:   {"signature-schemes/server"},
	tlsapi.ServerPolicyPreset:       {"policies/intermediate/server", "policies/modern/server"},
	tlsapi.ServerPolicyNamed:        {"policies/named/server"},
	tlsapi.ServerPSKExternal:        {"psks/.*sha256", "psks/.*sha384"},
	tlsapi.ServerPSKImported:        {"psks/imported"},
	tlsapi.ServerPSKTLS12:           {"psks/tls12"},
	tlsapi.ServerRequirePSK:         {"psks/.*required_by_the_server"},
	tlsapi.ServerBlinding:           {"blinding/bad_record/server", "blinding/failed_verification/.*server", "blinding/off/server", "blinding/many"},
	tlsapi.ServerConfigCache:        {"config-cache/server/size", "config-cache/server/off"},
	tlsapi.ServerSessionTicketsOff:  {"session-tickets/server/.*off"},
	tlsapi.ServerSessionTickets:     {"session-tickets/server/.*resumption"},
	tlsapi.ServerSessionTicketKeys:  {"session-tickets/server/.*keys", "resumption/server/.*own_keys"},
	tlsapi.ServerOCSP:               {"stapling/.*server"},
	tlsapi.ServerRevocationLists:    {"revocation/server/leaf_revoked", "revocation/server/leaf's_list_missing"},
	tlsapi.ServerHandshakeTimeout:   {"cancellation/server/handshake_timeout"},
	tlsapi.ServerKeyLog:             {"key-log/server"},
	tlsapi.ServerVerifyConnection:   {"hooks/server/.*rejection"},
	tlsapi.ServerHandshakeHooks:     {"hooks/server/.*success"},
	tlsapi.ServerCloseWrite:         {"close/half_close/server"},
	tlsapi.ServerExporter:           {"information/exporter/server"},
	tlsapi.ServerAlerts:             {"client-authentication/refused_certificates", "blinding/bad_record/server"},
}

// noOption are the features that nobody switches on, and that can thus not be
// refused.
var noOption = []tlsapi.Feature{
	tlsapi.ClientOCSP, tlsapi.ClientCloseWrite, tlsapi.ClientExporter, tlsapi.ClientAlerts,
	tlsapi.ServerSessionTickets, tlsapi.ServerCloseWrite, tlsapi.ServerExporter, tlsapi.ServerAlerts,
}

// passed holds the names of the tests that made a transport and passed.
var passed sync.Map

// record notes a test that passes with neither a failure nor a skip. It is
// called where transports are made: a test without one observes nothing.
func record(t *testing.T) {
	name := t.Name()
	t.Cleanup(func() {
		if !t.Failed() && !t.Skipped() {
			passed.Store(name, true)
		}
	})
}

// recorded returns the names of the cases that have passed so far under the test
// with the given name.
func recorded(root string) []string {
	var names []string
	passed.Range(func(key, _ any) bool {
		if name, ok := strings.CutPrefix(key.(string), root+"/"); ok {
			names = append(names, name)
		}
		return true
	})
	return names
}

// wholeSuite skips the test when only a part of the suite was to run.
func wholeSuite(t *testing.T) {
	t.Helper()
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil {
			value := f.Value.String()
			if name == "test.run" && strings.Contains(value, "/") || name == "test.skip" && value != "" {
				t.Skipf("only a part of the suite was run: -%s=%s", name, value)
			}
		}
	}
}

// testCoverage tests that every cell of the provider's matrix was observed: a
// feature that it has in the cases that prove it, one that it has not in its
// refusal.
func (s *suite) testCoverage(t *testing.T) {
	wholeSuite(t)
	names := recorded(strings.TrimSuffix(t.Name(), "/coverage"))
	for _, feature := range tlsapi.AllFeatures() {
		patterns := proofs[feature]
		assert.NotEmpty(t, patterns, "no case proves %s", feature)
		if !s.supported(feature) && !slices.Contains(noOption, feature) {
			side, _, _ := strings.Cut(string(feature), ".")
			patterns = []string{fmt.Sprintf("options/%s/[^/]*_%s$", side, regexp.QuoteMeta(string(feature)))}
		}
		if !s.supported(feature) && slices.Contains(noOption, feature) {
			// Not all of the cases apply.
			patterns = []string{strings.Join(patterns, "|")}
		}
		for _, pattern := range patterns {
			assert.True(t, anyMatches(names, pattern), "%s, which is %q with %s, was not observed: no case %q has passed",
				feature, s.cells[feature].Support, s.p.Name(), pattern)
		}
	}
	for feature := range proofs {
		assert.Contains(t, tlsapi.AllFeatures(), feature, "there is no such feature")
	}
}

func anyMatches(names []string, pattern string) bool {
	return slices.ContainsFunc(names, regexp.MustCompile("^(?:"+pattern+")").MatchString)
}
