package measure

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the outcome of a comparison.
type Report struct {
	Date    time.Time `json:"date"`
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	// Duration is that of a turn, in nanoseconds.
	Duration   time.Duration     `json:"duration_ns"`
	Contenders []ContenderReport `json:"contenders"`
	Measures   []Measure         `json:"measures"`
	Results    []Result          `json:"results"`
}

// Machine is where it ran.
type Machine struct {
	System    string `json:"system"`
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	Go        string `json:"go"`
	// Load is the machine's load when the comparison began: with more than a
	// little, times of day say nothing, and processor time is less exact.
	Load string `json:"load"`
}

// ContenderReport describes a contender.
type ContenderReport struct {
	Name    string `json:"name"`
	Kind    Kind   `json:"kind"`
	Of      string `json:"of"`
	Library string `json:"library"`
}

// Result is what one contender came to in one measure. All figures are medians
// over the samples.
type Result struct {
	Measure   string `json:"measure"`
	Contender string `json:"contender"`
	// Unsupported says why there are no samples.
	Unsupported string `json:"unsupported"`

	// CPU and Wall are nanoseconds per operation; CPULow and CPUHigh the
	// smallest and largest sample.
	CPU     float64 `json:"cpu_ns_per_op"`
	CPULow  float64 `json:"cpu_ns_per_op_low"`
	CPUHigh float64 `json:"cpu_ns_per_op_high"`
	Wall    float64 `json:"wall_ns_per_op"`
	// Allocs, AllocBytes and CgoCalls are Go's, per operation.
	Allocs     float64 `json:"allocs_per_op"`
	AllocBytes float64 `json:"alloc_bytes_per_op"`
	CgoCalls   float64 `json:"cgo_calls_per_op"`
	// Resident and Heap are bytes per operation of a memory measure.
	Resident float64 `json:"resident_bytes_per_op"`
	Heap     float64 `json:"heap_bytes_per_op"`
	Threads  int     `json:"threads"`

	// Ratio is the reference's cost divided by this contender's, round by
	// round: above 1 is better than the reference. The cost is processor time,
	// or resident memory; WallRatio is of the time of day. Zero when there is
	// nothing to compare with.
	Ratio     float64 `json:"ratio"`
	WallRatio float64 `json:"wall_ratio"`
	// OverFloor is the cost divided by that of the plain library: 1.1 is 10 %
	// above it. Zero when there is no floor.
	OverFloor float64 `json:"over_floor"`

	Samples []Sample `json:"samples"`
}

func newReport(plan Plan) *Report {
	return &Report{
		Date: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(),
		Rounds: plan.Rounds, Duration: plan.Duration, Measures: plan.Measures,
		Contenders: []ContenderReport{}, Results: []Result{},
	}
}

func thisMachine() Machine {
	m := Machine{System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), Processor: "unknown", Load: "unknown"}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if load, _, ok := strings.Cut(string(text), " "); ok {
			m.Load = load
		}
	}
	return m
}

// summarize computes the figures from the samples.
func (r *Report) summarize() {
	for i := range r.Results {
		r.Results[i].medians()
	}
	for i := range r.Results {
		result := &r.Results[i]
		if reference := r.Result(result.Measure, Reference); reference != nil {
			result.Ratio = pairedRatio(reference, result, cost)
			result.WallRatio = pairedRatio(reference, result, func(s Sample) float64 { return float64(s.Wall) / float64(s.Ops) })
		}
		if floor := r.Result(result.Measure, r.floorOf(result.Contender)); floor != nil {
			result.OverFloor = pairedRatio(result, floor, cost)
		}
	}
}

// cost is what a sample is compared by.
func cost(s Sample) float64 {
	if s.Resident != 0 {
		return float64(s.Resident) / float64(s.Ops)
	}
	return float64(s.CPU) / float64(s.Ops)
}

func (result *Result) medians() {
	of := func(value func(Sample) float64) float64 {
		return median(result.Samples, func(s Sample) float64 { return value(s) / float64(s.Ops) })
	}
	cpu := func(s Sample) float64 { return float64(s.CPU) }
	result.CPU = of(cpu)
	result.Wall = of(func(s Sample) float64 { return float64(s.Wall) })
	result.Allocs = of(func(s Sample) float64 { return float64(s.Allocs) })
	result.AllocBytes = of(func(s Sample) float64 { return float64(s.AllocBytes) })
	result.CgoCalls = of(func(s Sample) float64 { return float64(s.CgoCalls) })
	result.Resident = of(func(s Sample) float64 { return float64(s.Resident) })
	result.Heap = of(func(s Sample) float64 { return float64(s.Heap) })
	for i, s := range result.Samples {
		one := cpu(s) / float64(s.Ops)
		if i == 0 {
			result.CPULow, result.CPUHigh = one, one
		}
		result.CPULow, result.CPUHigh = min(result.CPULow, one), max(result.CPUHigh, one)
		result.Threads = max(result.Threads, s.Threads)
	}
}

// pairedRatio is the median over the rounds of a's cost divided by b's.
func pairedRatio(a, b *Result, cost func(Sample) float64) float64 {
	var ratios []float64
	for i := range min(len(a.Samples), len(b.Samples)) {
		if divisor := cost(b.Samples[i]); divisor > 0 {
			ratios = append(ratios, cost(a.Samples[i])/divisor)
		}
	}
	return median(ratios, func(v float64) float64 { return v })
}

// median is 0 for an empty list.
func median[T any](list []T, value func(T) float64) float64 {
	if len(list) == 0 {
		return 0
	}
	var values []float64
	for _, v := range list {
		values = append(values, value(v))
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// Result returns what a contender came to, or nil.
func (r *Report) Result(measure, contender string) *Result {
	i := slices.IndexFunc(r.Results, func(result Result) bool {
		return result.Measure == measure && result.Contender == contender && len(result.Samples) > 0
	})
	if i < 0 {
		return nil
	}
	return &r.Results[i]
}

func (r *Report) floorOf(provider string) string {
	i := slices.IndexFunc(r.Contenders, func(c ContenderReport) bool { return c.Kind == KindFloor && c.Of == provider })
	if i < 0 {
		return ""
	}
	return r.Contenders[i].Name
}

func (r *Report) kind(contender string) Kind {
	i := slices.IndexFunc(r.Contenders, func(c ContenderReport) bool { return c.Name == contender })
	return r.Contenders[i].Kind
}

// WriteText writes the report as a table for people.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s, %d cores, %s, load %s at the start, %s\n", r.Machine.Processor, r.Machine.System, r.Machine.Cores, r.Machine.Go, r.Machine.Load, r.Date.Format(time.RFC3339))
	fmt.Fprintf(w, "medians of %d rounds of %v each, by turns; both ends are the same contender\n", r.Rounds, r.Duration)
	fmt.Fprintln(w, "cpu: processor time of both ends per operation; ratio: std's divided by it, above 1 is better than std")
	fmt.Fprintln(w, "over floor: above the plain library without Polytls, sockets and (but for std) Go")
	for _, c := range r.Contenders {
		fmt.Fprintf(w, "  %-20s %s\n", c.Name, c.Library)
	}
	for _, m := range r.Measures {
		fmt.Fprintf(w, "\n%s (%s)\n", m.Title, m.Name)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		if m.Unit == IdleEnd {
			fmt.Fprintln(table, "\tKiB per end\tratio\tof it Go heap\t")
		} else {
			fmt.Fprintf(table, "\tcpu/%s\tspread\tratio\twall\twall ratio\tover floor\tallocs\tcgo calls\tthreads\t\n", m.Unit)
		}
		for _, result := range r.Results {
			if result.Measure == m.Name {
				result.writeRow(table, m.Unit)
			}
		}
		if err := table.Flush(); err != nil {
			return err
		}
		for _, result := range r.Results {
			if result.Measure == m.Name && result.Unsupported != "" && r.kind(result.Contender) != KindFloor {
				fmt.Fprintf(w, "  %s: %s\n", result.Contender, result.Unsupported)
			}
		}
	}
	return nil
}

func (result *Result) writeRow(w io.Writer, unit Unit) {
	if len(result.Samples) == 0 {
		return
	}
	name := result.Contender
	if unit == IdleEnd {
		fmt.Fprintf(w, "%s\t%.1f\t%s\t%.1f\t\n", name, result.Resident/kibi, ratioText(result.Ratio), result.Heap/kibi)
		return
	}
	floor := "-"
	if result.OverFloor > 0 {
		floor = fmt.Sprintf("%+.0f %%", 100*(result.OverFloor-1))
	}
	spread := fmt.Sprintf("%+.0f/%+.0f %%", 100*(result.CPULow/result.CPU-1), 100*(result.CPUHigh/result.CPU-1))
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%.1f\t%d\t\n", name, micros(result.CPU), spread, ratioText(result.Ratio),
		micros(result.Wall), ratioText(result.WallRatio), floor, result.Allocs, result.CgoCalls, result.Threads)
}

func ratioText(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio)
}

func micros(ns float64) string { return fmt.Sprintf("%.2f µs", ns/1000) }

// WriteMarkdown writes the ratios to std as a table: measures down, contenders
// across.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var shown []ContenderReport
	head, line := "| measure |", "|---|"
	for _, c := range r.Contenders {
		if c.Name == Reference {
			continue
		}
		shown = append(shown, c)
		head += " " + c.Name + " |"
		line += "---|"
	}
	text := head + " std |\n" + line + "---|\n"
	for _, m := range r.Measures {
		text += "| " + m.Title + " |"
		for _, c := range shown {
			result := r.Result(m.Name, c.Name)
			switch {
			case result == nil:
				text += " |"
			case result.Ratio == 0:
				text += fmt.Sprintf(" (%s) |", result.costText(m.Unit))
			case result.OverFloor > 0:
				text += fmt.Sprintf(" %.2f (%+.0f %%) |", result.Ratio, 100*(result.OverFloor-1))
			default:
				text += fmt.Sprintf(" %.2f |", result.Ratio)
			}
		}
		if std := r.Result(m.Name, Reference); std != nil {
			text += " " + std.costText(m.Unit)
		}
		text += " |\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// costText is what an operation costs.
func (result *Result) costText(unit Unit) string {
	if unit == IdleEnd {
		return fmt.Sprintf("%.1f KiB", result.Resident/kibi)
	}
	return micros(result.CPU)
}
