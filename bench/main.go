// Command bench compares the providers of Polytls with each other, with the
// plain C libraries below them and with another Go binding: on this machine, in
// one run, by turns.
//
//	bench [--quick] [--measure NAMES] [--providers NAMES] [--floors FOLDER]
//	      [--baseline PROGRAM] --out FOLDER
//
// It writes FOLDER/bench.txt (which it also prints), bench.json, bench.png and
// bench.md, the ratios as a table.
// `make bench` builds all the programs that take part and runs it.
//
//	bench --profile FILE --measure NAME --providers NAME
//
// measures one provider alone and writes where its processor time goes, for
// `go tool pprof`.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/polytls/polytls/internal/measure"
	"github.com/polytls/polytls/providers"
)

// workerCommand makes this program one of the processes that measure: "bench
// worker NAME FIXTURES".
const workerCommand = "worker"

// baselineConfig makes the system's OpenSSL of the other binding negotiate what
// all are compared with.
//
//go:embed baseline/openssl.cnf
var baselineConfig []byte

func main() {
	if len(os.Args) == 4 && os.Args[1] == workerCommand {
		exit(work(os.Args[2], os.Args[3]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(compare(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work(name, fixtures string) error {
	s, err := subject(name)
	if err != nil {
		return err
	}
	return measure.Serve(os.Stdin, os.Stdout, s, fixtures)
}

func subject(name string) (measure.Subject, error) {
	if s := measure.CryptoTLS(); s.Name() == name {
		return s, nil
	}
	p, err := providers.Lookup(name)
	if err != nil {
		return nil, err
	}
	return measure.Provider(p), nil
}

type options struct {
	quick               bool
	measures, providers string
	floors, baseline    string
	out, profile        string
	rounds              int
	duration            time.Duration
}

func compare(ctx context.Context) error {
	var o options
	flag.BoolVar(&o.quick, "quick", false, "a minute's run: fewer and shorter rounds")
	flag.StringVar(&o.measures, "measure", "", "comma-separated names, or beginnings of names, of measures; empty means all")
	flag.StringVar(&o.providers, "providers", "", "comma-separated providers; empty means all that are available; std is always measured")
	flag.StringVar(&o.floors, "floors", "", "folder of the plain C programs (bench/floor/build.sh)")
	flag.StringVar(&o.baseline, "baseline", "", "program of bench/baseline")
	flag.StringVar(&o.out, "out", "", "folder for the results: bench.txt, bench.md, bench.json and bench.png")
	flag.StringVar(&o.profile, "profile", "", "write a processor profile of one provider and measure to this file")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds; 0 means 5, or 3 with --quick")
	flag.DurationVar(&o.duration, "duration", 0, "time of one turn; 0 means 100ms, or 50ms with --quick")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	plan := measure.Thorough()
	if o.quick {
		plan = measure.Quick()
	}
	if o.rounds > 0 {
		plan.Rounds = o.rounds
	}
	if o.duration > 0 {
		plan.Duration = o.duration
	}
	var err error
	if plan.Measures, err = measure.Select(o.measures); err != nil {
		return err
	}
	if o.profile != "" {
		return profile(o, plan)
	}
	if o.out == "" {
		return errors.New("--out is missing: a folder for the results")
	}
	if plan.Contenders, err = o.contenders(); err != nil {
		return err
	}
	plan.Progress = os.Stderr
	report, err := measure.Run(ctx, plan)
	if err != nil {
		return err
	}
	return write(report, o.out)
}

func (o *options) contenders() ([]measure.Contender, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	selected, skipped, err := measure.SelectProviders(o.providers, providers.All())
	if err != nil {
		return nil, err
	}
	var list []measure.Contender
	for _, p := range selected {
		list = append(list, measure.Contender{Name: p.Name(), Kind: measure.KindProvider, Command: []string{self, workerCommand, p.Name()}})
	}
	for _, line := range skipped {
		fmt.Fprintln(os.Stderr, line)
	}
	std := measure.CryptoTLS().Name()
	floors := []measure.Contender{{Name: std, Kind: measure.KindFloor, Of: measure.Reference, Command: []string{self, workerCommand, std}}}
	if o.floors != "" {
		for _, c := range list {
			program := filepath.Join(o.floors, "floor-"+c.Name)
			if _, err := os.Stat(program); err == nil {
				floors = append(floors, measure.Contender{Name: c.Name + " in C", Kind: measure.KindFloor, Of: c.Name, Command: []string{program}})
			}
		}
	}
	if o.baseline == "" {
		return append(list, floors...), nil
	}
	if _, err := os.Stat(o.baseline); err != nil {
		fmt.Fprintf(os.Stderr, "without the other binding: %v\n", err)
		return append(list, floors...), nil
	}
	config := filepath.Join(o.out, "openssl.cnf")
	if err := errors.Join(os.MkdirAll(o.out, 0o755), os.WriteFile(config, baselineConfig, 0o644)); err != nil {
		return nil, err
	}
	if config, err = filepath.Abs(config); err != nil {
		return nil, err
	}
	list = append(list, measure.Contender{
		Name: "spacemonkey", Kind: measure.KindBaseline, Command: []string{o.baseline}, Env: []string{"OPENSSL_CONF=" + config},
	})
	return append(list, floors...), nil
}

// write leaves the report in a folder and prints it.
func write(report *measure.Report, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var text, markdown strings.Builder
	if err := errors.Join(report.WriteText(&text), report.WriteMarkdown(&markdown)); err != nil {
		return err
	}
	fmt.Print(text.String())
	encoded, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(folder, "bench.txt"), []byte(text.String()), 0o644),
		os.WriteFile(filepath.Join(folder, "bench.md"), []byte(markdown.String()), 0o644),
		os.WriteFile(filepath.Join(folder, "bench.json"), append(encoded, '\n'), 0o644),
		plotRatios(report, filepath.Join(folder, "bench.png")),
	)
}

// profile measures in this process.
func profile(o options, plan measure.Plan) error {
	if len(plan.Measures) != 1 {
		return fmt.Errorf("--profile needs one measure, and --measure %q is %d", o.measures, len(plan.Measures))
	}
	s, err := subject(o.providers)
	if err != nil {
		return fmt.Errorf("--profile needs one provider: %w", err)
	}
	fixtures, err := os.MkdirTemp("", "polytls-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fixtures)
	if err := measure.WriteFixtures(fixtures); err != nil {
		return err
	}
	f, err := measure.LoadFixtures(fixtures)
	if err != nil {
		return err
	}
	file, err := os.Create(o.profile)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	sample, err := plan.Measures[0].Take(s, f, time.Duration(plan.Rounds)*plan.Duration, 0)
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d operations, %.2f µs of processor time each\n", plan.Measures[0].Name, sample.Ops, float64(sample.CPU.Nanoseconds())/float64(sample.Ops)/1000)
	return file.Close()
}
