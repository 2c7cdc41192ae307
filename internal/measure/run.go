package measure

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"
)

// Kind is what a contender is in the comparison.
type Kind string

// The kinds.
const (
	// KindProvider is a provider of Polytls.
	KindProvider Kind = "provider"
	// KindFloor is the library without Polytls: what a provider cannot beat.
	KindFloor Kind = "floor"
	// KindBaseline is another Go binding.
	KindBaseline Kind = "baseline"
)

// Reference is the provider whose costs are 1.
const Reference = "std"

// Contender is a program that answers requests as Serve does.
type Contender struct {
	Name string
	Kind Kind
	// Of is the provider that a floor belongs to.
	Of string
	// Command is the program with its arguments; the folder of the fixtures is
	// added as the last.
	Command []string
	// Env is added to this process's environment.
	Env []string
}

// Plan is a comparison.
type Plan struct {
	Contenders []Contender
	Measures   []Measure
	// Rounds is how often everybody has a turn in a measure.
	Rounds int
	// Duration is about how long a turn takes, without what prepares it.
	Duration time.Duration
	// MaxOps, when it is above 0, limits the operations of a turn.
	MaxOps int
	// IdleRounds and IdleConnections are the rounds and connections of memory
	// measures, which take long and vary little.
	IdleRounds, IdleConnections int
	// Progress, if not nil, is told what happens.
	Progress io.Writer
}

// Quick is a comparison that takes under a minute with all measures.
func Quick() Plan {
	return Plan{Rounds: 3, Duration: 50 * time.Millisecond, IdleRounds: 1, IdleConnections: 1000}
}

// Thorough is one that takes a few minutes.
func Thorough() Plan {
	return Plan{Rounds: 5, Duration: 100 * time.Millisecond, IdleRounds: 1, IdleConnections: 5000}
}

// Run lets the contenders take turns: in every round of a measure each has one,
// and the order changes from round to round, so that what else the machine does
// meets them all. A contender that cannot do a measure is reported as such; one
// that fails is an error.
func Run(ctx context.Context, plan Plan) (*Report, error) {
	fixtures, err := os.MkdirTemp("", "polytls-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(fixtures)
	if err := WriteFixtures(fixtures); err != nil {
		return nil, err
	}
	report := newReport(plan)
	workers := make([]*worker, len(plan.Contenders))
	defer func() {
		for _, w := range workers {
			w.stop()
		}
	}()
	for i, c := range plan.Contenders {
		if workers[i], err = start(ctx, c, fixtures); err != nil {
			return nil, err
		}
		report.Contenders = append(report.Contenders, ContenderReport{Name: c.Name, Kind: c.Kind, Of: c.Of, Library: workers[i].library})
	}
	for _, m := range plan.Measures {
		if err := report.take(ctx, plan, m, workers, fixtures); err != nil {
			return nil, err
		}
	}
	report.summarize()
	return report, nil
}

// take runs all rounds of a measure.
func (r *Report) take(ctx context.Context, plan Plan, m Measure, workers []*worker, fixtures string) error {
	results := make([]Result, len(workers))
	for i, w := range workers {
		results[i] = Result{Measure: m.Name, Contender: w.contender.Name, Samples: []Sample{}}
	}
	rounds := plan.Rounds
	if m.Fresh() {
		rounds = plan.IdleRounds
	}
	begin := time.Now()
	for round := range rounds {
		for turn := range workers {
			i := (turn + round) % len(workers)
			if results[i].Unsupported != "" {
				continue
			}
			reply, err := workers[i].take(ctx, plan, m, fixtures)
			if err != nil {
				return err
			}
			if reply.Unsupported != "" {
				results[i].Unsupported = reply.Unsupported
				continue
			}
			results[i].Samples = append(results[i].Samples, *reply.Sample)
		}
	}
	r.Results = append(r.Results, results...)
	if plan.Progress != nil {
		fmt.Fprintf(plan.Progress, "%-26s %5.1f s\n", m.Name, time.Since(begin).Seconds())
	}
	return nil
}

// take has one turn.
func (w *worker) take(ctx context.Context, plan Plan, m Measure, fixtures string) (Reply, error) {
	duration, most := plan.Duration, plan.MaxOps
	if m.Connections > 1 {
		// Long enough for every connection to have its share.
		duration *= 2
	}
	if m.Fresh() {
		most = plan.IdleConnections
		fresh, err := start(ctx, w.contender, fixtures)
		if err != nil {
			return Reply{}, err
		}
		defer fresh.stop()
		w = fresh
	}
	return w.ask(m, duration, most)
}

// worker is a contender's process.
type worker struct {
	contender Contender
	library   string
	cmd       *exec.Cmd
	requests  io.WriteCloser
	replies   *bufio.Reader
}

// stuckTime is how long after its duration a turn may take.
const stuckTime = 2 * time.Minute

func start(ctx context.Context, c Contender, fixtures string) (*worker, error) {
	w := &worker{contender: c}
	args := append(slices.Clone(c.Command[1:]), fixtures)
	w.cmd = exec.CommandContext(ctx, c.Command[0], args...)
	w.cmd.Env = append(os.Environ(), c.Env...)
	w.cmd.Stderr = os.Stderr
	w.cmd.WaitDelay = time.Second
	var err error
	if w.requests, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.replies = bufio.NewReader(stdout)
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	var greeting Greeting
	if err := w.receive(&greeting, stuckTime); err != nil {
		w.stop()
		return nil, err
	}
	if greeting.Error != "" {
		w.stop()
		return nil, fmt.Errorf("%s: %s", c.Name, greeting.Error)
	}
	w.library = greeting.Library
	return w, nil
}

func (w *worker) ask(m Measure, duration time.Duration, maxOps int) (Reply, error) {
	if _, err := fmt.Fprintf(w.requests, "%s %d %d\n", m.Name, duration.Nanoseconds(), maxOps); err != nil {
		return Reply{}, fmt.Errorf("%s: %s: %w", w.contender.Name, m.Name, err)
	}
	var reply Reply
	if err := w.receive(&reply, duration+stuckTime); err != nil {
		return Reply{}, fmt.Errorf("%s: %w", m.Name, err)
	}
	switch {
	case reply.Error != "":
		return Reply{}, fmt.Errorf("%s: %s", w.contender.Name, reply.Error)
	case reply.Sample == nil && reply.Unsupported == "":
		return Reply{}, fmt.Errorf("%s: %s: an empty answer", w.contender.Name, m.Name)
	case reply.Sample != nil:
		return reply, reply.Sample.check(&m)
	}
	return reply, nil
}

// receive reads one line of JSON.
func (w *worker) receive(value any, limit time.Duration) error {
	timer := time.AfterFunc(limit, func() { w.cmd.Process.Kill() })
	line, err := w.replies.ReadBytes('\n')
	if !timer.Stop() {
		return fmt.Errorf("%s has not answered for %v", w.contender.Name, limit)
	}
	if err != nil {
		return fmt.Errorf("%s ended without an answer: %w", w.contender.Name, errors.Join(err, w.cmd.Wait()))
	}
	return json.Unmarshal(line, value)
}

// stop ends the process, which goes when there is nothing more to read.
func (w *worker) stop() {
	if w == nil || w.cmd.ProcessState != nil {
		return
	}
	w.requests.Close()
	_ = w.cmd.Wait()
}
