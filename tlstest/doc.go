// Package tlstest is the conformance suite of Polytls: what package tlsapi
// promises, as tests that any provider runs with one call.
//
//	func TestConformance(t *testing.T) { tlstest.Run(t, openssl.Provider) }
//
// [Run] tests one provider, as client and as server, against crypto/tls and
// against itself; [RunPair] tests two providers against each other. What a
// provider declares as unsupported in its list of features must be refused
// before a byte is sent, and the cases that need it are skipped. A value of an
// option that the provider refuses is a failure, unless the feature is declared
// as emulated or its note names the value.
//
// The package also holds what such tests are made of: certificates
// ([Authority]), an in-memory connection that records and misbehaves ([Pipe]),
// and a parser for what a client really sent ([ParseClientHello]).
package tlstest
