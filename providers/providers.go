// Package providers knows the providers that are compiled into the program by
// their names, for programs that choose one at run time:
//
//	provider, err := providers.Lookup("boringssl")
//	if err != nil {
//		return err
//	}
//	conn, err := provider.Client(transport, config)
//
// A program that always uses the same provider imports its package instead
// and leaves this one out; the other libraries are then not linked.
//
// # Leaving providers out
//
// The build tags polytls_no_openssl, polytls_no_boringssl and polytls_no_s2n
// leave the provider of that name out of the program, with its library:
//
//	go build -tags polytls_no_boringssl,polytls_no_s2n ./...
//
// Provider "std" has no native code and is always there.
//
// # Providers that are not available
//
// Being compiled in is not the same as being usable. A provider whose native
// library was not there when the program was built (or a program built with
// CGO_ENABLED=0) is listed and found, and its Available method tells why it
// cannot be used and what to do about it; Client and Server return the same
// error.
package providers

import (
	"slices"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// All returns the providers that are compiled in, in the order openssl,
// boringssl, s2n, std; those that are not available among them.
func All() []tlsapi.Provider {
	return slices.Concat(openSSL, boringSSL, s2nTLS, standard)
}

// Names returns the names of All.
func Names() []string {
	var names []string
	for _, p := range All() {
		names = append(names, p.Name())
	}
	return names
}

// Lookup returns the provider of a name. The error is of tlsapi.KindConfig and
// lists the names there are. A provider that is not available is returned all
// the same: ask its Available method.
func Lookup(name string) (tlsapi.Provider, error) {
	for _, p := range All() {
		if p.Name() == name {
			return p, nil
		}
	}
	var omitted string
	if slices.Contains(tagged, name) {
		omitted = "; it was left out by the build tag polytls_no_" + name
	}
	return nil, tlsapi.ConfigError("", "there is no provider %q%s; there are %s", name, omitted, strings.Join(Names(), ", "))
}

// tagged are the providers that have a build tag to leave them out.
var tagged = []string{"openssl", "boringssl", "s2n"}
