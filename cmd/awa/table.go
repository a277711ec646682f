package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// column is one of a table. On a terminal that is too narrow, its cells are cut to most characters, if that is not 0;
// the last column is cut to what is left.
type column struct {
	name  string
	right bool // its cells stand at the right, as numbers do
	most  int
}

// table lays out rows of cells, in lines of so many characters at most, where that is not 0.
func table(columns []column, rows [][]string, width int) (lines []string) {
	header := make([]string, len(columns))
	for i, c := range columns {
		header[i] = c.name
	}
	all := append([][]string{header}, rows...)
	widths := make([]int, len(columns))
	for r, row := range all {
		row = append([]string(nil), row...)
		for i, cell := range row {
			row[i] = string(escaped([]byte(oneLine(cell))))
			widths[i] = max(widths[i], uniseg.StringWidth(row[i]))
		}
		all[r] = row
	}
	if total := 2 * (len(columns) - 1); width > 0 {
		for i, w := range widths {
			if i < len(widths)-1 {
				total += w
			}
		}
		if total+widths[len(widths)-1] > width {
			for i, c := range columns[:len(columns)-1] {
				if c.most > 0 && widths[i] > c.most {
					total -= widths[i] - c.most
					widths[i] = c.most
				}
			}
			last := len(columns) - 1
			widths[last] = max(min(widths[last], width-total), 10)
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			cell = cut(cell, widths[i])
			space := strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell))
			switch {
			case columns[i].right:
				line.WriteString(space + cell)
			case i == len(row)-1:
				line.WriteString(cell)
			default:
				line.WriteString(cell + space)
			}
			if i < len(row)-1 {
				line.WriteString("  ")
			}
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return lines
}

// cut shortens a text that is wider than so many characters, where that is not 0.
func cut(text string, width int) string {
	if width <= 0 || uniseg.StringWidth(text) <= width {
		return text
	}
	var b strings.Builder
	left := width - 1
	for state, rest := -1, text; rest != ""; {
		var cluster string
		var w int
		cluster, rest, w, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if left -= w; left < 0 {
			break
		}
		b.WriteString(cluster)
	}
	return b.String() + "…"
}

// age is a length of time in a few characters.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + age(-d)
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// ago is how long ago a time is, or "-" for none.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return age(max(now.Sub(*t), 0))
}

// atUTC is a time as it is in UTC.
func atUTC(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// count is a number with what is counted, as in "1 job" and "2 jobs".
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}
