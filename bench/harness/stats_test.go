package harness

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/awa-pg/awa/bench/systems"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	assert.Nil(t, h.Quantiles())
	for us := int64(1); us <= 100_000; us++ {
		h.Add(us)
	}
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99} {
		assert.InEpsilon(t, q*100_000, h.Quantile(q), 0.011, "%v", q)
	}
	assert.Equal(t, 100.0, h.Quantiles().Max)
	assert.LessOrEqual(t, h.Quantile(1), 100_000.0)
	h.Add(-5) // the clock may step
	h.Add(math.MaxInt64)
	assert.InEpsilon(t, 50_000, h.Quantile(0.5), 0.011)
}

func TestMedianAndSpread(t *testing.T) {
	assert.True(t, math.IsNaN(Median(nil)))
	assert.Equal(t, 3.0, Median([]float64{9, 1, 3}))
	assert.Equal(t, 2.5, Median([]float64{4, 1, 2, 3}))
	assert.Equal(t, Spread{3, 1, 9}, SpreadOf([]float64{9, 1, 3}))
	assert.True(t, math.IsNaN(SpreadOf(nil).Max))
}

// A ratio is one of figures of the same round, so that a machine that changes its speed does not show in it.
func TestRatiosAreOfOneRound(t *testing.T) {
	fast := map[int]float64{1: 200, 2: 20, 3: 2, 4: 7}
	slow := map[int]float64{1: 100, 2: 10, 3: 1, 5: 9}
	assert.Equal(t, Spread{2, 2, 2}, Ratios(fast, slow))
	assert.True(t, math.IsNaN(Ratios(fast, nil).Median))
	assert.True(t, math.IsNaN(Ratios(fast, map[int]float64{1: 0}).Median))
}

func TestTracker(t *testing.T) {
	tr := NewTracker()
	first := tr.Take(3)
	assert.Equal(t, first+3, tr.Take(2))
	tr.Enqueued(5, nil)
	tr.Enqueued(7, assert.AnError)
	tr.Done([]systems.Done{{N: 0, At: 10, Picked: 20, Ended: 30}, {N: 4, At: 10, Ended: 1010}})
	tr.Done([]systems.Done{{N: 4, At: 10, Ended: 2010}, {N: 1000, At: 1, Picked: 2, Ended: 3}})
	assert.Equal(t, Tally{Enqueued: 5, Completed: 3, Doubled: 1, Unsure: 7}, tr.Tally())
	assert.Equal(t, int64(2), tr.Depth())
	endToEnd, pickUp := tr.Latencies()
	assert.Equal(t, int64(3), endToEnd.count, "a job counts once")
	assert.Equal(t, int64(2), pickUp.count)
	endToEnd, _ = tr.Latencies()
	assert.Zero(t, endToEnd.count)
}

func TestParseStat(t *testing.T) {
	p, ok := parseStat("42 (a name) with ( in it) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 30 20 20 0 1 0 99 0 0\n")
	assert.True(t, ok)
	assert.Equal(t, process{parent: 7, own: 200 * tick, children: 50 * tick}, p)
	for _, bad := range []string{"", "42", "42 (x) S 7", "42 (x) S y 42 42 0 -1 4194304 1 2 3 4 150 50 30 20 20 0"} {
		_, ok := parseStat(bad)
		assert.False(t, ok, bad)
	}
}

func TestDescends(t *testing.T) {
	all := map[int]process{10: {parent: 1}, 11: {parent: 10}, 12: {parent: 11}, 20: {parent: 10}, 21: {parent: 20}}
	assert.True(t, descends(all, 12, 10, 20))
	assert.True(t, descends(all, 10, 10, 20))
	assert.False(t, descends(all, 21, 10, 20), "the server's")
	assert.False(t, descends(all, 30, 10, 20))
}

func TestWaits(t *testing.T) {
	var w Waits
	assert.Empty(t, w.Take())
	w.add([]string{"CPU", "CPU", "IO:WALSync"})
	w.add([]string{"CPU"})
	assert.Equal(t, map[string]float64{"CPU": 0.75, "IO:WALSync": 0.25}, w.Take())
	assert.Empty(t, w.Take())
}
