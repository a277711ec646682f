package harness

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
)

// cell is one scenario, phase and system, over all rounds.
type cell struct{ scenario, phase, system string }

// table looks up samples.
type table struct {
	scenarios []string            // in the order in which they were run
	phases    map[string][]string // of a scenario, in order
	systems   []string
	samples   map[cell][]Sample
	failures  []Sample
}

func tabulate(r *Results) *table {
	t := &table{phases: map[string][]string{}, samples: map[cell][]Sample{}}
	for _, s := range r.Header.Systems {
		t.systems = append(t.systems, s.Name)
	}
	for _, s := range r.Samples {
		if s.Error != "" {
			t.failures = append(t.failures, s)
			continue
		}
		if !slices.Contains(t.scenarios, s.Scenario) {
			t.scenarios = append(t.scenarios, s.Scenario)
		}
		if !slices.Contains(t.phases[s.Scenario], s.Phase) {
			t.phases[s.Scenario] = append(t.phases[s.Scenario], s.Phase)
		}
		c := cell{s.Scenario, s.Phase, s.System}
		t.samples[c] = append(t.samples[c], s)
	}
	return t
}

// figures returns a figure of each round.
func (t *table) figures(c cell, figure func(Sample) (float64, bool)) map[int]float64 {
	byRound := map[int]float64{}
	for _, s := range t.samples[c] {
		if x, ok := figure(s); ok {
			byRound[s.Round] = x
		}
	}
	return byRound
}

func (t *table) spread(c cell, figure func(Sample) (float64, bool)) Spread {
	return SpreadOf(slices.Collect(maps.Values(t.figures(c, figure))))
}

func rate(s Sample) (float64, bool) { return s.Rate, true }

func quantile(of func(Sample) *Quantiles, q func(Quantiles) float64) func(Sample) (float64, bool) {
	return func(s Sample) (float64, bool) {
		if of(s) == nil {
			return 0, false
		}
		return q(*of(s)), true
	}
}

func endToEnd(s Sample) *Quantiles { return s.EndToEnd }
func pickUp(s Sample) *Quantiles   { return s.PickUp }
func p50(q Quantiles) float64      { return q.P50 }
func p95(q Quantiles) float64      { return q.P95 }
func p99(q Quantiles) float64      { return q.P99 }

func plainly(x func(Sample) float64) func(Sample) (float64, bool) {
	return func(s Sample) (float64, bool) { return x(s), x(s) >= 0 }
}

// Report writes the results as Markdown, with headings below the given one, which may be "#". Plots, by scenario, are
// the names of files that it shows.
func Report(w io.Writer, r *Results, scenarios []Scenario, plots map[string]string, heading string) {
	t := tabulate(r)
	h := r.Header
	loads, rounds := []float64{}, 0
	for _, s := range r.Samples {
		loads, rounds = append(loads, s.Load), max(rounds, s.Round)
	}
	load := SpreadOf(loads)
	var settings []string
	for _, name := range slices.Sorted(maps.Keys(h.Settings)) {
		settings = append(settings, fmt.Sprintf("`%s = %s`", name, h.Settings[name]))
	}
	fmt.Fprintf(w, "%s UTC. %s. %s; %s, durable, else its defaults. Jobs of %d bytes. Rounds: %d, "+
		"systems in turn within each; medians, and the range in parentheses; ratios are of figures of one round. Load "+
		"average before the runs: %.1f (%.1f to %.1f).\n\n", h.Began.Format("2006-01-02 15:04"), h.Machine, h.Server,
		strings.Join(settings, ", "), payload, rounds, load.Median, load.Min, load.Max)
	fmt.Fprint(w, "| system | version | what an acknowledged job means |\n| --- | --- | --- |\n")
	for _, s := range h.Systems {
		fmt.Fprintf(w, "| %s | %s | %s |\n", s.Name, s.Version, s.Contract)
	}
	fmt.Fprintln(w)
	for _, s := range h.LeftOut {
		fmt.Fprintf(w, "- Left out: **%s**: %s\n", s.Name, oneLine(s.Reason))
	}
	for _, s := range t.failures {
		fmt.Fprintf(w, "- Round %d of %s, **%s**, counts for nothing: %s\n", s.Round, s.Scenario, s.System,
			oneLine(s.Error))
	}
	for c, samples := range t.samples {
		for _, s := range samples {
			if s.Doubled > 0 && s.Phase == t.phases[c.scenario][0] {
				fmt.Fprintf(w, "- Round %d of %s, **%s**: %d jobs were acknowledged more than once\n", s.Round, s.Scenario,
					s.System, s.Doubled)
			}
		}
	}
	for _, name := range t.scenarios {
		what := name
		if i := slices.IndexFunc(scenarios, func(s Scenario) bool { return s.Name == name }); i >= 0 {
			what = name + ": " + scenarios[i].What
		}
		fmt.Fprintf(w, "\n%s# %s\n", heading, what)
		var unfit []string
		for _, s := range h.Unfit {
			if s.Scenario == name {
				unfit = append(unfit, fmt.Sprintf("%s (%s)", s.Name, s.Reason))
			}
		}
		if len(unfit) > 0 {
			fmt.Fprintf(w, "\nNot in it: %s.\n", strings.Join(unfit, ", "))
		}
		if file := plots[name]; file != "" {
			fmt.Fprintf(w, "\n![%s](%s)\n", name, file)
		}
		if len(t.phases[name]) > 1 {
			t.reportPhases(w, name)
		}
		for _, phase := range t.phases[name] {
			t.reportPhase(w, name, phase, heading)
		}
	}
}

// Fill puts text into a page, in place of what is in a section, between two comments.
func Fill(page, section, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- results %s -->\n", section), fmt.Sprintf("<!-- end %s -->", section)
	before, rest, found := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return "", fmt.Errorf("the page has no section between %q and %q", strings.TrimSpace(begin), end)
	}
	return before + begin + "\n" + strings.Trim(text, "\n") + "\n\n" + end + after, nil
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// reportPhase writes a line for each system, the fastest first.
func (t *table) reportPhase(w io.Writer, scenario, phase, heading string) {
	at := func(system string) cell { return cell{scenario, phase, system} }
	var names []string
	for _, system := range t.systems {
		if len(t.samples[at(system)]) > 0 {
			names = append(names, system)
		}
	}
	if len(names) == 0 {
		return
	}
	sort.SliceStable(names, func(i, j int) bool {
		return t.spread(at(names[i]), rate).Median > t.spread(at(names[j]), rate).Median
	})
	if len(t.phases[scenario]) > 1 {
		fmt.Fprintf(w, "\n%s## %s\n", heading, phase)
	}
	columns := []string{"system", "jobs/s", "÷ floor", "awa-sql is ×", "awa is ×", "end to end p50 / p95 / p99, ms",
		"pick-up p50 / p95 / p99, ms", "depth", "WAL, B/job", "commits/job", "CPU of the server, µs/job", "of the client",
		"dead tuples", "MiB", "waits"}
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
	for _, name := range names {
		c := at(name)
		rates := t.figures(c, rate)
		versus := func(other string, upon bool) string {
			a, b := rates, t.figures(at(other), rate)
			if upon {
				a, b = b, a
			}
			if other == name {
				return ""
			}
			return ratio(Ratios(a, b))
		}
		triple := func(of func(Sample) *Quantiles) string {
			return millis(t.spread(c, quantile(of, p50)).Median) + " / " + millis(t.spread(c, quantile(of, p95)).Median) +
				" / " + millis(t.spread(c, quantile(of, p99)).Median)
		}
		median := func(x func(Sample) float64) float64 { return t.spread(c, plainly(x)).Median }
		samples := t.samples[c]
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name,
			spread(t.spread(c, rate)), versus("floor", false), versus("awa-sql", true), versus("awa", true),
			triple(endToEnd), triple(pickUp), whole(median(func(s Sample) float64 { return float64(max(s.Depth, 0)) })),
			whole(median(func(s Sample) float64 { return s.WAL })),
			short(median(func(s Sample) float64 { return s.Commits })),
			short(median(func(s Sample) float64 { return s.ServerCPU })),
			short(median(func(s Sample) float64 { return s.ClientCPU })), deadTuples(samples),
			short(median(func(s Sample) float64 { return float64(s.Size) / (1 << 20) })), topWaits(samples))
	}
}

// reportPhases writes what each phase is of the clean one, in the same run.
func (t *table) reportPhases(w io.Writer, scenario string) {
	phases := t.phases[scenario]
	fmt.Fprintf(w, "\nJobs per second in each phase as a share of those of the phase before all others, in the same run; "+
		"of *readers*, as a share of *readers elsewhere*.\n\n| system | %s |\n|%s\n", strings.Join(phases[1:], " | "),
		strings.Repeat(" --- |", len(phases)))
	for _, system := range t.systems {
		if len(t.samples[cell{scenario, phases[0], system}]) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |", system)
		for _, phase := range phases[1:] {
			base := phases[0]
			if phase == "readers" {
				base = "readers elsewhere"
			}
			s := Ratios(t.figures(cell{scenario, phase, system}, rate), t.figures(cell{scenario, base, system}, rate))
			fmt.Fprintf(w, " %s |", percent(s))
		}
		fmt.Fprintln(w)
	}
}

// deadTuples names the two tables with the most, of the last round, after the sum.
func deadTuples(samples []Sample) string {
	dead := samples[len(samples)-1].Dead
	var sum int64
	for _, n := range dead {
		sum += n
	}
	names := slices.SortedFunc(maps.Keys(dead), func(a, b string) int {
		return cmp.Or(cmp.Compare(dead[b], dead[a]), cmp.Compare(a, b))
	})
	text := whole(float64(sum))
	if len(names) > 0 {
		text += " (" + strings.Join(names[:min(len(names), 2)], ", ") + ")"
	}
	return text
}

// topWaits names the three most frequent, of all rounds.
func topWaits(samples []Sample) string {
	shares := map[string]float64{}
	for _, s := range samples {
		for event, share := range s.Waits {
			shares[event] += share / float64(len(samples))
		}
	}
	events := slices.SortedFunc(maps.Keys(shares), func(a, b string) int {
		return cmp.Or(cmp.Compare(shares[b], shares[a]), cmp.Compare(a, b))
	})
	var texts []string
	for _, e := range events[:min(len(events), 3)] {
		texts = append(texts, fmt.Sprintf("%s %.0f %%", e, 100*shares[e]))
	}
	return strings.Join(texts, ", ")
}

// whole writes a number without decimals, in groups of three digits.
func whole(x float64) string {
	if math.IsNaN(x) {
		return ""
	}
	text := fmt.Sprintf("%.0f", x)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// short writes a number with three digits or so.
func short(x float64) string {
	switch {
	case math.IsNaN(x):
		return ""
	case math.Abs(x) >= 100:
		return whole(x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	case math.Abs(x) >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func millis(x float64) string {
	switch {
	case math.IsNaN(x):
		return "-"
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return whole(x)
}

func spread(s Spread) string {
	if math.IsNaN(s.Median) {
		return ""
	}
	return fmt.Sprintf("%s (%s to %s)", whole(s.Median), whole(s.Min), whole(s.Max))
}

func ratio(s Spread) string {
	if math.IsNaN(s.Median) {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Min, s.Max)
}

func percent(s Spread) string {
	if math.IsNaN(s.Median) {
		return ""
	}
	return fmt.Sprintf("%.0f %% (%.0f to %.0f)", 100*s.Median, 100*s.Min, 100*s.Max)
}
