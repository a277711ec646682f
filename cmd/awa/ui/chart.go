package ui

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// The size of a chart, in the units of its picture.
const (
	chartWidth  = 600
	chartHeight = 120
	chartTop    = 6 // room above the highest value
)

// series is a line of a chart. A value is nil where there was none.
type series struct {
	Name   string
	values []*float64
}

// line is a series as it is drawn.
type line struct {
	Name   string
	Class  string // of its style
	Path   string
	Latest string
}

// slot is a step of time of a chart: the tooltip over it, and a row of its table.
type slot struct {
	X, Width float64
	At       time.Time
	Title    string
	Values   []string
}

// chart is a drawing of the values of some series over time, and a table of the same.
type chart struct {
	ID, Title     string
	Lines         []line
	Slots         []slot
	Top           string // the value at the upper edge
	From, To      time.Time
	Width, Height int
}

// newChart draws series that begin at zero.
func newChart(id, title string, times []time.Time, label func(float64) string, all ...series) chart {
	c := chart{ID: id, Title: title, From: times[0], To: times[len(times)-1], Width: chartWidth, Height: chartHeight}
	top := 0.0
	for _, s := range all {
		for _, v := range s.values {
			if v != nil {
				top = math.Max(top, *v)
			}
		}
	}
	c.Top = label(top)
	step := float64(chartWidth) / float64(len(times))
	for i, at := range times {
		s := slot{X: round(float64(i) * step), Width: round(step), At: at}
		words := []string{at.UTC().Format("15:04 UTC")}
		for _, of := range all {
			value := "–"
			if of.values[i] != nil {
				value = label(*of.values[i])
			}
			s.Values = append(s.Values, value)
			words = append(words, of.Name+" "+value)
		}
		s.Title = strings.Join(words, ", ")
		c.Slots = append(c.Slots, s)
	}
	for n, of := range all {
		l := line{Name: of.Name, Class: fmt.Sprintf("line%d", n), Latest: "–"}
		var path strings.Builder
		isDrawing := false
		for i, v := range of.values {
			if v == nil {
				isDrawing = false
				continue
			}
			l.Latest = label(*v)
			y := float64(chartHeight)
			if top > 0 {
				y -= *v / top * (chartHeight - chartTop)
			}
			from, to := round(float64(i)*step), round(float64(i+1)*step)
			if isDrawing {
				fmt.Fprintf(&path, "L%g %g H%g", from, round(y), to)
			} else {
				fmt.Fprintf(&path, "M%g %g H%g", from, round(y), to)
			}
			isDrawing = true
		}
		l.Path = path.String()
		c.Lines = append(c.Lines, l)
	}
	return c
}

func round(v float64) float64 { return math.Round(v*10) / 10 }
