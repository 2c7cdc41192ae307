package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/polytls/polytls/providers"
)

// The tables stand between these lines of the document.
const (
	beginMark = "<!-- yardstick -->"
	endMark   = "<!-- end of yardstick -->"
)

// report is what was measured: samples by kind, terminator and work.
type report struct {
	options options
	kinds   []*kindReport
	load    string
}

type kindReport struct {
	title       string
	terminators []*terminator
	samples     map[string]map[string][]sample // by terminator and work
}

func measureAll(ctx context.Context, o options) (*report, error) {
	dir, err := os.MkdirTemp("", "polytls-yardstick-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := newSite(dir)
	if err != nil {
		return nil, err
	}
	c, err := newClient(s)
	if err != nil {
		return nil, err
	}
	r := &report{options: o, load: "unknown"}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.load, _, _ = strings.Cut(string(text), " ")
	}
	if o.only != "proxy" {
		k, err := measureKind(ctx, o, c, "Files of a folder", s.startServers)
		if err != nil {
			return nil, err
		}
		r.kinds = append(r.kinds, k)
	}
	if o.only != "serve" {
		k, err := measureKind(ctx, o, c, "Forwarding to a backend with plain HTTP/1.1", s.startProxies)
		if err != nil {
			return nil, err
		}
		r.kinds = append(r.kinds, k)
	}
	return r, nil
}

// startProxies starts what forwards to a backend, which is an nginx without TLS.
// The backend is the last and not measured.
func (s *site) startProxies(ctx context.Context, o options) (started []*terminator, err error) {
	backend, err := s.startNginx(ctx, "", true)
	if err != nil {
		return []*terminator{backend}, err
	}
	backend.name = ""
	starts := []func() (*terminator, error){
		func() (*terminator, error) { return s.startNginx(ctx, backend.address, false) },
		func() (*terminator, error) { return s.startHAProxy(ctx, backend.address) },
	}
	for _, p := range o.providers {
		starts = append(starts, func() (*terminator, error) { return s.startPolytlsProxy(ctx, o.polytls, p, backend.address) })
	}
	started, err = startAll(starts)
	return append(started, backend), err
}

// startServers starts what serves files.
func (s *site) startServers(ctx context.Context, o options) (started []*terminator, err error) {
	starts := []func() (*terminator, error){
		func() (*terminator, error) { return s.startNginx(ctx, "", false) },
		func() (*terminator, error) { return s.startHAProxy(ctx, "") },
	}
	for _, p := range o.providers {
		starts = append(starts, func() (*terminator, error) { return s.startPolytls(ctx, o.polytls, p) })
	}
	return startAll(starts)
}

func startAll(starts []func() (*terminator, error)) (started []*terminator, err error) {
	for _, start := range starts {
		t, err := start()
		started = append(started, t)
		if err != nil {
			return started, err
		}
	}
	return started, nil
}

// measureKind measures terminators by turns; the order changes with the round.
func measureKind(ctx context.Context, o options, c *client, title string, start func(context.Context, options) ([]*terminator, error)) (*kindReport, error) {
	started, err := start(ctx, o)
	defer func() {
		for _, t := range started {
			t.stop()
		}
	}()
	if err != nil {
		return nil, err
	}
	terminators := slices.DeleteFunc(slices.Clone(started), func(t *terminator) bool { return t.name == "" })
	k := &kindReport{title, terminators, make(map[string]map[string][]sample)}
	for _, t := range terminators {
		k.samples[t.name] = make(map[string][]sample)
		for _, w := range o.works {
			if k.can(t, w) {
				// What is set up with the first requests is no part of any.
				if _, err := c.turn(ctx, t, w, 100*time.Millisecond); err != nil {
					return nil, err
				}
			}
		}
	}
	for round := range o.rounds {
		for _, w := range o.works {
			for i := range terminators {
				t := terminators[(i+round)%len(terminators)]
				if !k.can(t, w) {
					continue
				}
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				got, err := c.turn(ctx, t, w, o.duration)
				if err != nil {
					return nil, err
				}
				k.samples[t.name][w.name] = append(k.samples[t.name][w.name], got)
			}
		}
	}
	return k, nil
}

func (k *kindReport) can(t *terminator, w work) bool { return t.most == 0 || w.name != "bytes" }

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "`make yardstick`, %s, %s with %d cores, load %s at the start, %s, %s; %d rounds of %v; %d clients at once, TLS 1.3, ECDSA P-256, X25519, %d bytes a request.\n",
		time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), r.load, runtime.Version(), strings.Join(r.versions(), ", "),
		r.options.rounds, r.options.duration, clients, smallSize)
	for _, k := range r.kinds {
		fmt.Fprintf(&b, "\n%s:\n\n| terminator |", k.title)
		for _, w := range r.options.works {
			fmt.Fprintf(&b, " CPU per %s | p50 | p99 |", w.unit)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|---|---|", len(r.options.works)) + "\n")
		for _, t := range k.terminators {
			fmt.Fprintf(&b, "| %s |", t.name)
			for _, w := range r.options.works {
				b.WriteString(" " + k.cell(t, w) + " |")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// cell has the median over the rounds, and that of the ratios to nginx within a
// round.
func (k *kindReport) cell(t *terminator, w work) string {
	samples, yardstick := k.samples[t.name][w.name], k.samples[k.terminators[0].name][w.name]
	if len(samples) == 0 {
		return "serves no files | | "
	}
	var ratios []float64
	for i := range samples {
		ratios = append(ratios, float64(samples[i].cpu)/float64(yardstick[i].cpu))
	}
	of := func(get func(sample) time.Duration) time.Duration {
		values := make([]time.Duration, len(samples))
		for i, s := range samples {
			values[i] = get(s)
		}
		return median(values)
	}
	cpu := fmt.Sprintf("%d µs", of(func(s sample) time.Duration { return s.cpu }).Microseconds())
	if t != k.terminators[0] {
		cpu += fmt.Sprintf(" (%.2f)", median(ratios))
	}
	return fmt.Sprintf("%s | %.2f ms | %.2f ms", cpu,
		of(func(s sample) time.Duration { return s.p50 }).Seconds()*1e3, of(func(s sample) time.Duration { return s.p99 }).Seconds()*1e3)
}

func median[T cmp.Ordered](values []T) T {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// versions are those of all programs that take part.
func (r *report) versions() (all []string) {
	number := regexp.MustCompile(`\d+\.\d+\.\d+`)
	for _, p := range []struct{ name, flag string }{{"nginx", "-v"}, {"haproxy", "-v"}} {
		out, _ := exec.Command(program(p.name), p.flag).CombinedOutput()
		all = append(all, p.name+" "+string(number.Find(out)))
	}
	for _, name := range r.options.providers {
		if p, err := providers.Lookup(name); err == nil && name != "std" {
			all = append(all, p.Library()+" "+p.LibraryVersion())
		}
	}
	return all
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// insert replaces what stands between the marks.
func insert(file, text string) error {
	document, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(document, []byte(beginMark+"\n"))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark+"\n"))
	if !ok || !ok2 {
		return errors.New(file + ": the lines " + beginMark + " and " + endMark + " are missing")
	}
	return os.WriteFile(file, slices.Concat(before, []byte(beginMark+"\n"), []byte(text), []byte(endMark+"\n"), after), 0o644)
}
