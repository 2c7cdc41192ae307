package main

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

const rootHelp = `polytls shows, tries and serves TLS with several TLS libraries in one program:
OpenSSL, BoringSSL, s2n-tls and Go's crypto/tls, each behind the same options.

Every command takes --json for machine-readable output on stdout and keeps
diagnostics on stderr. The exit status is 0 for success, 1 when the operation
failed (a file that cannot be read, a refused option, a failed handshake), and
2 for wrong usage (an unknown flag, a malformed value, options that contradict
each other).`

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "polytls",
		Short:   "TLS with several libraries behind one set of options",
		Long:    rootHelp,
		Version: buildVersion().String(),
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				cmd.SetOut(cmd.ErrOrStderr())
				if err := cmd.Help(); err != nil {
					return err
				}
				return usagef("a command is missing")
			}
			var hint string
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef("unknown command %q%s", args[0], hint)
		},
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Annotations == nil {
				cmd.Annotations = make(map[string]string)
			}
			cmd.Annotations[begunAnnotation] = "true"
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages |", "Flags.FlagUsagesWrapped 100 |"))
	root.PersistentFlags().Bool("json", false, "machine-readable output on stdout")
	root.AddCommand(
		newProvidersCommand(),
		newMatrixCommand(),
		newConnectCommand(),
		newServeCommand(),
		newProxyCommand(),
		newBenchCommand(),
		newBenchWorkerCommand(),
		newVersionCommand(),
	)
	for _, cmd := range root.Commands() {
		// In the order of their registration related flags stand together.
		cmd.Flags().SortFlags = false
	}
	registerCompletions(root)
	return root
}

// begunAnnotation marks a command whose flags and arguments were accepted.
const begunAnnotation = "polytls-begun"

func begun(cmd *cobra.Command) bool { return cmd.Annotations[begunAnnotation] != "" }

// wantsJSON reports whether --json was given.
func wantsJSON(cmd *cobra.Command) bool {
	want, err := cmd.Flags().GetBool("json")
	return err == nil && want
}

// writeJSON writes one indented JSON value.
func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
