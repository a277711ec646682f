package harness

import (
	"fmt"
	"io"
	"slices"
)

// Compare writes, for each cell that two files have in common, what has changed from the first to the second.
func Compare(w io.Writer, a, b *Results) {
	ta, tb := tabulate(a), tabulate(b)
	fmt.Fprintf(w, "A: %s, %s, %s\nB: %s, %s, %s\n\n", a.Header.Began.Format("2006-01-02 15:04"), a.Header.Server,
		a.Header.Machine, b.Header.Began.Format("2006-01-02 15:04"), b.Header.Server, b.Header.Machine)
	if a.Header.Machine != b.Header.Machine || a.Header.Server != b.Header.Server {
		fmt.Fprint(w, "**Machine or server differ: compare the columns \"÷ floor\" only.**\n\n")
	}
	fmt.Fprint(w, "| scenario | phase | system | jobs/s, A | B | B ÷ A | ÷ floor, A | B | p99 B ÷ A | WAL B ÷ A | |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, scenario := range ta.scenarios {
		for _, phase := range ta.phases[scenario] {
			for _, system := range ta.systems {
				c := cell{scenario, phase, system}
				if len(ta.samples[c]) == 0 || len(tb.samples[c]) == 0 {
					continue
				}
				before, after := ta.spread(c, rate), tb.spread(c, rate)
				change := func(figure func(Sample) (float64, bool)) string {
					x, y := ta.spread(c, figure).Median, tb.spread(c, figure).Median
					if x == 0 {
						return ""
					}
					return short(y / x)
				}
				fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.2f | %s | %s | %s | %s | %s |\n", scenario, phase, system,
					spread(before), spread(after), after.Median/before.Median, ta.toFloor(c), tb.toFloor(c),
					change(quantile(endToEnd, p99)), change(plainly(func(s Sample) float64 { return s.WAL })),
					verdict(before, after))
			}
		}
	}
	for _, s := range tb.systems {
		if !slices.Contains(ta.systems, s) {
			fmt.Fprintf(w, "\nOnly in B: %s\n", s)
		}
	}
}

func (t *table) toFloor(c cell) string {
	if c.system == "floor" {
		return ""
	}
	return ratio(Ratios(t.figures(c, rate), t.figures(cell{c.scenario, c.phase, "floor"}, rate)))
}

// verdict says whether two ranges overlap: where they do, the difference may be the machine's.
func verdict(before, after Spread) string {
	switch {
	case after.Min > before.Max:
		return "faster"
	case after.Max < before.Min:
		return "slower"
	}
	return "within the spread"
}
