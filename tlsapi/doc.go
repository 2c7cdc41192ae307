// Package tlsapi is the contract of Polytls: one API for TLS connections over
// several TLS libraries. It is pure Go and holds no TLS implementation; the
// providers (packages openssl, boringssl, s2n and stdtls) implement it.
//
// A [Provider] makes a [Conn] from a net.Conn and a [ClientConfig] or
// [ServerConfig]. An option of a configuration has one meaning with every
// provider. A provider that cannot honour an option that is set refuses the
// configuration, before a byte is sent, with an [*Error] that matches
// errors.ErrUnsupported and names provider and option. Nothing is ignored.
//
// The zero value of every configuration field is the safe default.
package tlsapi
