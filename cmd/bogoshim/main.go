// Command bogoshim lets BoringSSL's test runner (ssl/test/runner, "BoGo") judge
// a provider. The runner plays the peer; this program is the end under test, a
// client or a server over tlsapi alone, told by flags what to do and what to
// find. `make bogo` runs it.
//
// The provider's name stands in the environment variable BOGO_PROVIDER, because
// the runner hands the flags of its tests on and nothing else. The exit status
// is 0 for success, 89 for a test that asks for what the provider or tlsapi does
// not have, 1 for a failure, with the reason on standard error, and 90 where the
// flags speak against what came about: a test that expects a failure would take
// status 1 for it. What made a test end with 89 is also appended to the file that
// BOGO_UNIMPLEMENTED names, if any, and a crash to the file that BOGO_CRASHES names,
// because a test that expects a failure takes a crash for it, too.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// The runner's signs for a test that does not apply, and for one that fails
// whatever it expects.
const (
	statusUnimplemented = 89
	statusMustFail      = 90
)

func main() {
	err := reportCrashes()
	if err == nil {
		err = run(os.Args[1:])
	}
	// What follows this line on standard error (a race, AddressSanitizer's
	// findings) fails the test even where an error was expected.
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	fmt.Fprintln(os.Stderr, "--- DONE ---")
	var f finding
	switch {
	case err == nil:
	case unimplemented(err):
		record(err)
		os.Exit(statusUnimplemented)
	case errors.As(err, &f):
		os.Exit(statusMustFail)
	default:
		os.Exit(1)
	}
}

// reportCrashes lets the runtime write a crash to the file of BOGO_CRASHES, too.
func reportCrashes() error {
	path := os.Getenv("BOGO_CRASHES")
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return debug.SetCrashOutput(file, debug.CrashOptions{})
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "-is-handshaker-supported" {
		fmt.Println("No")
		return nil
	}
	provider, err := providers.Lookup(os.Getenv("BOGO_PROVIDER"))
	if err != nil {
		return fmt.Errorf("BOGO_PROVIDER: %w", err)
	}
	if err := provider.Available(); err != nil {
		return err
	}
	test, err := parse(args)
	if err != nil {
		return err
	}
	return test.run(provider)
}

// missing is a flag that asks for what tlsapi does not have.
type missing struct{ what string }

func (m missing) Error() string { return "unimplemented: " + m.what }

// unimplemented reports whether a test cannot apply: tlsapi has no such option,
// or it has one and refuses the value before the handshake. A handshake that
// fails is a failure.
func unimplemented(err error) bool {
	var m missing
	if errors.As(err, &m) {
		return true
	}
	var e *tlsapi.Error
	return errors.As(err, &e) && e.Op == "config" && (e.Kind == tlsapi.KindUnsupported || e.Kind == tlsapi.KindConfig)
}

// record appends the reason of a test that does not apply to the file that the
// environment names, so that a run can say which options would open how many
// tests.
func record(err error) {
	path := os.Getenv("BOGO_UNIMPLEMENTED")
	if path == "" {
		return
	}
	file, openErr := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if openErr != nil {
		fmt.Fprintln(os.Stderr, openErr)
		return
	}
	defer file.Close()
	// One write: several shims append at once.
	if _, err := fmt.Fprintf(file, "%v\n", err); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
