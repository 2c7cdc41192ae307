// Command polytls shows, tries and serves TLS with every provider of Polytls.
//
// Run "polytls help" for its commands. Every command takes --json for
// machine-readable output on stdout and keeps diagnostics on stderr. The exit
// status is 0 for success, 1 when the operation failed, 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitSuccess = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	setTimerSlack(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once: the first one may wait for
	// connections to finish.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitSuccess
	}
	// Cobra has no type for its own errors. They all come before the command
	// begins.
	var usage *usageError
	if errors.As(err, &usage) || !begun(command) {
		fmt.Fprintf(stderr, "polytls: %v\nRun '%s --help' for usage.\n", err, command.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "polytls: %v\n", err)
	return exitFailure
}

// usageError is a command line that is wrong by itself, whatever the state of
// files, peers and libraries.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
