package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polytls/polytls/internal/measure"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

const benchHelp = `Compares the providers on this machine, in one run and by turns: handshakes
(full and resumed), bulk data, small messages and the memory of idle
connections. Both ends of a connection are the same provider; all use TLS 1.3,
X25519 and TLS_AES_128_GCM_SHA256, and clients verify the server's certificate.
"crypto-tls" is Go's package without Polytls.

What counts is the processor time of both ends as the operating system accounts
it, each provider in a process of its own. "ratio" is std's divided by it: above
1 is better than std. Figures are medians of the rounds.

All measures take about a minute. --measure takes names, or beginnings of names,
separated by commas:
  %s

With --json it prints
  {"date","machine":{"system","processor","cores","go","load"},"rounds",
   "duration_ns","contenders":[{"name","kind","of","library"}],
   "measures":[{"name","title","unit","size","connections"}],
   "results":[{"measure","contender","unsupported","cpu_ns_per_op",
    "cpu_ns_per_op_low","cpu_ns_per_op_high","wall_ns_per_op","allocs_per_op",
    "alloc_bytes_per_op","cgo_calls_per_op","resident_bytes_per_op",
    "heap_bytes_per_op","threads","ratio","wall_ratio","over_floor",
    "samples":[{"ops","bytes","wall_ns","cpu_ns","allocs","alloc_bytes",
     "cgo_calls","resident_bytes","heap_bytes","threads","negotiated"}]}]}
where a result without samples says in "unsupported" why there are none.`

// benchWorker is the command of the processes that "polytls bench" starts.
const benchWorker = "bench-worker"

type benchCommand struct {
	measures, providers string
	rounds              int
}

func newBenchCommand() *cobra.Command {
	b := &benchCommand{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare the speed and memory of the providers on this machine",
		Long:  fmt.Sprintf(benchHelp, wrapWords(measure.Names(), 76)),
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return b.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&b.providers, "providers", "", "providers to compare with std, separated by commas (default: all that are available)")
	flags.StringVar(&b.measures, "measure", "", "measures, separated by commas (default: all)")
	flags.IntVar(&b.rounds, "rounds", measure.Quick().Rounds, "how often every provider has its turn in a measure")
	complete(cmd, "providers", providers.Names())
	complete(cmd, "measure", measure.Names())
	return cmd
}

func (b *benchCommand) run(cmd *cobra.Command) error {
	plan := measure.Quick()
	plan.Progress = cmd.ErrOrStderr()
	var err error
	if plan.Measures, err = measure.Select(b.measures); err != nil {
		return usagef("--measure: %w", err)
	}
	if plan.Rounds = b.rounds; plan.Rounds < 1 {
		return usagef("--rounds: %d is not above zero", b.rounds)
	}
	selected, skipped, err := measure.SelectProviders(b.providers, providers.All())
	var unavailable *tlsapi.Error
	switch {
	case errors.As(err, &unavailable):
		return err
	case err != nil:
		return usagef("--providers: %w", err)
	}
	for _, line := range skipped {
		fmt.Fprintln(cmd.ErrOrStderr(), line)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	add := func(c measure.Contender) {
		c.Command = []string{self, benchWorker, c.Name}
		plan.Contenders = append(plan.Contenders, c)
	}
	for _, p := range selected {
		add(measure.Contender{Name: p.Name(), Kind: measure.KindProvider})
	}
	add(measure.Contender{Name: measure.CryptoTLS().Name(), Kind: measure.KindFloor, Of: measure.Reference})

	report, err := measure.Run(cmd.Context(), plan)
	if cmd.Context().Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), report)
	}
	return report.WriteText(cmd.OutOrStdout())
}

func newBenchWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    benchWorker + " CONTENDER FOLDER",
		Short:  `One of the processes of "polytls bench"`,
		Args:   cobra.ExactArgs(2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			subject := measure.CryptoTLS()
			if args[0] != subject.Name() {
				p, err := providers.Lookup(args[0])
				if err != nil {
					return usagef("%w", err)
				}
				subject = measure.Provider(p)
			}
			return measure.Serve(cmd.InOrStdin(), cmd.OutOrStdout(), subject, args[1])
		},
	}
}

// wrapWords joins words with commas into lines of at most width characters.
func wrapWords(words []string, width int) string {
	var lines []string
	line := ""
	for i, word := range words {
		if i < len(words)-1 {
			word += ","
		}
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return strings.Join(append(lines, line), "\n  ")
}
