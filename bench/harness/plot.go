package harness

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

var (
	awaColor   = color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	peerColor  = color.RGBA{0xb0, 0xb0, 0xb0, 0xff}
	phaseColor = []color.Color{awaColor, color.RGBA{0xff, 0x7f, 0x0e, 0xff}, color.RGBA{0x2c, 0xa0, 0x2c, 0xff},
		color.RGBA{0xd6, 0x27, 0x28, 0xff}, color.RGBA{0x94, 0x67, 0xbd, 0xff}, color.RGBA{0x8c, 0x56, 0x4b, 0xff}}
)

// Plot draws, for each scenario, the jobs per second of each system, and returns the names of the files, which are in
// the directory. Where there are several phases, each system has a bar for each.
func Plot(r *Results, dir string) (map[string]string, error) {
	t := tabulate(r)
	files := map[string]string{}
	for _, scenario := range t.scenarios {
		name := scenario + ".svg"
		if err := t.plot(scenario, filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[scenario] = name
	}
	return files, nil
}

func (t *table) plot(scenario, file string) error {
	phases := t.phases[scenario]
	var names []string
	for _, system := range t.systems {
		if len(t.samples[cell{scenario, phases[0], system}]) > 0 {
			names = append(names, system)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		x, y := t.spread(cell{scenario, phases[0], a}, rate), t.spread(cell{scenario, phases[0], b}, rate)
		return int(math.Copysign(1, y.Median-x.Median))
	})
	p := plot.New()
	p.Title.Text = scenario
	p.Y.Label.Text = "jobs/s, median; the lines are the range"
	p.Y.Min = 0
	p.Y.Tick.Marker = plot.TickerFunc(thousands)
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = -1, -0.5
	width := vg.Points(28 / float64(len(phases)))
	for i, phase := range phases {
		offset := width * vg.Length(float64(i)-float64(len(phases)-1)/2)
		for at, system := range names {
			s := t.spread(cell{scenario, phase, system}, rate)
			if math.IsNaN(s.Median) {
				continue
			}
			bar, err := plotter.NewBarChart(plotter.Values{s.Median}, width)
			if err != nil {
				return err
			}
			bar.XMin, bar.Offset, bar.LineStyle.Width = float64(at), offset, 0
			bar.Color = phaseColor[i%len(phaseColor)]
			if own := system == "awa" || strings.HasPrefix(system, "awa-sql"); len(phases) == 1 && !own {
				bar.Color = peerColor
			}
			p.Add(bar)
			if at == 0 && len(phases) > 1 {
				p.Legend.Add(phase, bar)
			}
			if len(phases) == 1 {
				lines, err := plotter.NewYErrorBars(interval{s, float64(at)})
				if err != nil {
					return err
				}
				p.Add(lines)
			}
		}
	}
	p.Legend.Top = true
	inches := max(5, 0.7*float64(len(names)))
	return p.Save(vg.Length(inches)*vg.Inch, 3.5*vg.Inch, file)
}

// interval is a range, for plotter.NewYErrorBars.
type interval struct {
	s Spread
	x float64
}

func (i interval) Len() int                       { return 1 }
func (i interval) XY(int) (x, y float64)          { return i.x, i.s.Median }
func (i interval) YError(int) (low, high float64) { return i.s.Median - i.s.Min, i.s.Max - i.s.Median }

// thousands labels the usual ticks without exponents.
func thousands(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = whole(ticks[i].Value)
		}
	}
	return ticks
}
