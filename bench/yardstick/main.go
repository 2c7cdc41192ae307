// Command yardstick measures `polytls serve` and `polytls proxy` against nginx
// and HAProxy: the same certificate, the same client, the same backend, by turns
// in one run.
//
//	yardstick --polytls PROGRAM [--providers NAMES] [--only serve|proxy]
//	          [--measure NAMES] [--rounds N] [--duration D] [--write FILE]
//
// It prints two tables, and with --write puts them between the marks of a
// Markdown file. `make yardstick` builds what takes part and runs it.
//
// What counts is the processor time of the terminator (all its processes, user
// and system), as the operating system accounts it, per operation; the client
// checks every answer, and one wrong answer fails the run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/polytls/polytls/providers"
)

type options struct {
	polytls, only, write string
	works                []work
	providers            []string
	rounds               int
	duration             time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "yardstick:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	var names, measures string
	flag.StringVar(&o.polytls, "polytls", "", "the polytls program")
	flag.StringVar(&names, "providers", "", "comma-separated providers; empty means all that are available")
	flag.StringVar(&o.only, "only", "", "serve: files only; proxy: proxying only; empty means both")
	flag.StringVar(&measures, "measure", "new,kept,bytes", "what is measured: connections, requests on kept connections, bytes")
	flag.StringVar(&o.write, "write", "", "Markdown file with the marks "+beginMark+" and "+endMark)
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.DurationVar(&o.duration, "duration", time.Second, "time of one turn")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.polytls == "":
		return fmt.Errorf("--polytls is missing: the program to measure, such as bin/polytls")
	case o.only != "" && o.only != "serve" && o.only != "proxy":
		return fmt.Errorf("--only: %q is neither serve nor proxy", o.only)
	case o.rounds < 1 || o.duration <= 0:
		return fmt.Errorf("--rounds and --duration are above zero")
	}
	for name := range strings.SplitSeq(measures, ",") {
		i := slices.IndexFunc(works, func(w work) bool { return w.name == name })
		if i < 0 {
			return fmt.Errorf("--measure: %q is none of new, kept and bytes", name)
		}
		o.works = append(o.works, works[i])
	}
	for _, p := range providers.All() {
		if names == "" && p.Available() == nil {
			o.providers = append(o.providers, p.Name())
		}
	}
	if names != "" {
		o.providers = strings.Split(names, ",")
	}
	report, err := measureAll(ctx, o)
	if err != nil {
		return err
	}
	text := report.markdown()
	fmt.Println(text)
	if o.write != "" {
		return insert(o.write, text)
	}
	return nil
}
