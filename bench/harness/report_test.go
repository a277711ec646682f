package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// results are those of a floor and of Awa, whose rates by round are given.
func results(floor, awa []float64) *Results {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &Results{Header: Header{Kind: "header", Began: began, Machine: "M", Server: "S",
		Settings: map[string]string{"shared_buffers": "1GB"}, Rounds: len(floor), Systems: []SystemRecord{
			{Name: "floor", Version: "1", Contract: "none"}, {Name: "awa-sql", Version: "2", Contract: "all"}},
		LeftOut: []SystemRecord{{Name: "absent", Reason: "no\nfile"}},
		Unfit:   []SystemRecord{{Name: "solo", Scenario: "bulk", Reason: "one consumer"}}}}
	for i := range floor {
		for name, x := range map[string]float64{"floor": floor[i], "awa-sql": awa[i]} {
			r.Samples = append(r.Samples, Sample{Kind: "sample", Round: i + 1, Scenario: "bulk", System: name, Phase: "clean",
				Rate: x, WAL: 400, EndToEnd: &Quantiles{1, 2, 3, 4}, Dead: map[string]int64{"t": 1234},
				Waits: map[string]float64{"CPU": 0.5}, Load: 2})
		}
	}
	return r
}

func TestReport(t *testing.T) {
	r := results([]float64{1000, 4000, 2000}, []float64{500, 2000, 1500})
	r.Samples = append(r.Samples, Sample{Kind: "sample", Round: 3, Scenario: "bulk", System: "awa-sql", Phase: "run",
		Error: "5 jobs are lost"})
	var out bytes.Buffer
	Report(&out, r, Main(0, 0), map[string]string{"bulk": "bulk.svg"}, "##")
	text := out.String()
	assert.Contains(t, text, "2026-01-02 03:04 UTC")
	assert.Contains(t, text, "| floor | 1 | none |")
	assert.Contains(t, text, "Left out: **absent**: no file")
	assert.Contains(t, text, "Not in it: solo (one consumer).")
	assert.Contains(t, text, "Round 3 of bulk, **awa-sql**, counts for nothing: 5 jobs are lost")
	assert.Contains(t, text, "\n### bulk: 2 producers")
	assert.Contains(t, text, "![bulk](bulk.svg)")
	assert.Contains(t, text, "| awa-sql | 1,500 (500 to 2,000) | 0.50 (0.50 to 0.75) |  |  | 1.0 / 2.0 / 3.0 |")
	assert.Contains(t, text, "1,234 (t)")
	assert.Contains(t, text, "CPU 50 %")
	assert.Less(t, strings.Index(text, "| floor | 2,000"), strings.Index(text, "| awa-sql | 1,500"), "fastest first")
}

func TestReportOfPhases(t *testing.T) {
	r := results(nil, nil)
	for round, rates := range [][]float64{{100, 98, 50, 49}, {200, 190, 80, 80}} {
		for i, phase := range []string{"clean", "idle transaction", "readers elsewhere", "readers"} {
			r.Samples = append(r.Samples, Sample{Round: round + 1, Scenario: "phases", System: "awa-sql", Phase: phase,
				Rate: rates[i]})
		}
	}
	var out bytes.Buffer
	Report(&out, r, nil, nil, "#")
	assert.Contains(t, out.String(), "| system | idle transaction | readers elsewhere | readers |")
	assert.Contains(t, out.String(), "| awa-sql | 96 % (95 to 98) | 45 % (40 to 50) | 99 % (98 to 100) |")
}

func TestCompare(t *testing.T) {
	a := results([]float64{1000, 1000}, []float64{500, 510})
	b := results([]float64{1005, 995}, []float64{700, 720})
	b.Header.Systems = append(b.Header.Systems, SystemRecord{Name: "new"})
	var out bytes.Buffer
	Compare(&out, a, b)
	assert.Contains(t, out.String(), "| bulk | clean | floor | 1,000 (1,000 to 1,000) | 1,000 (995 to 1,005) | 1.00 |")
	assert.Contains(t, out.String(), "within the spread")
	assert.Contains(t, out.String(), "| bulk | clean | awa-sql | 505 (500 to 510) | 710 (700 to 720) | 1.41 |")
	assert.Contains(t, out.String(), "| faster |")
	assert.Contains(t, out.String(), "Only in B: new")
	assert.NotContains(t, out.String(), "differ")
	b.Header.Machine = "another"
	out.Reset()
	Compare(&out, b, a)
	assert.Contains(t, out.String(), "| slower |")
	assert.Contains(t, out.String(), "differ")
}

func TestResultsAreWrittenAndRead(t *testing.T) {
	r := results([]float64{1000, 4000}, []float64{500, 2000})
	var file bytes.Buffer
	w := Writer{&file}
	require.NoError(t, w.Write(r.Header))
	for _, s := range r.Samples {
		require.NoError(t, w.Write(s))
	}
	file.WriteString(`{"kind": "sample", "rou`) // the run was cut off
	again, err := Read(bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, r, again)
	for _, bad := range []string{"", "{}\n", "no JSON\n", `{"kind": "other"}` + "\n"} {
		_, err := Read(strings.NewReader(bad))
		assert.Error(t, err, "%q", bad)
	}
}

func TestNumbers(t *testing.T) {
	for want, x := range map[string]float64{"0": 0, "999": 999, "1,000": 1000, "-1,234,567": -1234567, "12": 12.4} {
		assert.Equal(t, want, whole(x))
	}
	for want, x := range map[string]float64{"0.012": 0.0123, "1.23": 1.234, "12.3": 12.34, "1,234": 1234.5} {
		assert.Equal(t, want, short(x))
	}
}

func TestPlot(t *testing.T) {
	dir := t.TempDir()
	files, err := Plot(results([]float64{1000, 4000}, []float64{500, 2000}), dir)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"bulk": "bulk.svg"}, files)
	text, err := os.ReadFile(filepath.Join(dir, "bulk.svg"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "awa-sql")
}

func TestFill(t *testing.T) {
	const page = "# Page\n<!-- results a -->\nold\n<!-- end a -->\nmore\n<!-- results b -->\n<!-- end b -->\n"
	filled, err := Fill(page, "a", "new\n")
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(page, "old\n", "\nnew\n\n", 1), filled)
	again, err := Fill(filled, "a", "new\n")
	require.NoError(t, err)
	assert.Equal(t, filled, again)
	_, err = Fill(page, "c", "")
	assert.ErrorContains(t, err, "<!-- results c -->")
}
