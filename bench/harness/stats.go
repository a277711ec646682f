// Package harness runs systems through scenarios, measures them, and reports what it saw.
package harness

import (
	"math"
	"slices"
)

// Histogram counts durations in µs, each with an error of at most 1 %.
type Histogram struct {
	buckets [histogramBuckets]int64
	count   int64
	max     int64
}

const (
	histogramBuckets = 1200
	histogramGrowth  = 1.02 // from a bucket to the next: up to five hours
)

var logGrowth = math.Log(histogramGrowth)

// Add counts a duration. One below 1 µs counts as 1 µs.
func (h *Histogram) Add(us int64) {
	us = max(us, 1)
	h.buckets[min(int(math.Log(float64(us))/logGrowth+0.5), histogramBuckets-1)]++
	h.count++
	h.max = max(h.max, us)
}

// Quantile returns the duration in µs that the share q of all does not exceed, 0 where there are none.
func (h *Histogram) Quantile(q float64) float64 {
	rank := int64(math.Ceil(q * float64(h.count)))
	var seen int64
	for i, n := range h.buckets {
		seen += n
		if n > 0 && seen >= rank {
			return min(math.Pow(histogramGrowth, float64(i)), float64(h.max))
		}
	}
	return 0
}

// Quantiles are those of a duration, in ms.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Quantiles returns the usual ones; nil where nothing was counted.
func (h *Histogram) Quantiles() *Quantiles {
	if h.count == 0 {
		return nil
	}
	ms := func(us float64) float64 { return math.Round(us) / 1000 }
	return &Quantiles{ms(h.Quantile(0.5)), ms(h.Quantile(0.95)), ms(h.Quantile(0.99)), ms(float64(h.max))}
}

// Median returns the median, the mean of the two in the middle where there are two; NaN where there is none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Spread is the median of values, and the least and the greatest of them.
type Spread struct{ Median, Min, Max float64 }

// SpreadOf returns the spread of values; NaN where there are none.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN()}
	}
	return Spread{Median(values), slices.Min(values), slices.Max(values)}
}

// Ratios returns the spread of the ratios of two systems' figures, each of one round: only rounds in which both have a
// figure count.
func Ratios(a, b map[int]float64) Spread {
	var ratios []float64
	for round, x := range a {
		if y, ok := b[round]; ok && y != 0 {
			ratios = append(ratios, x/y)
		}
	}
	return SpreadOf(ratios)
}
