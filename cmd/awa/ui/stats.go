package ui

import "time"

// statsRow is a minute of queue_stats, with its times in seconds.
type statsRow struct {
	At                          time.Time
	Enqueued, Completed, Failed int64
	WaitP50, WaitP95, WaitP99   *float64
	RunP50, RunP95, RunP99      *float64
}

const statsSQL = `
	select s.at, s.enqueued, s.completed, s.failed,
	       extract(epoch from s.wait_p50)::float8, extract(epoch from s.wait_p95)::float8,
	       extract(epoch from s.wait_p99)::float8, extract(epoch from s.run_p50)::float8,
	       extract(epoch from s.run_p95)::float8, extract(epoch from s.run_p99)::float8
	  from awa.queue_stats(queue => $1) s
	 order by s.at`

// readStats reads the charts of the last hour, of a queue or of all.
func readStats(p *page, queue string) panel[[]chart] {
	hint := "Look at the statistics of one queue, or call awa.queue_stats in psql."
	result := read(p, hint, func(q queryer) ([]chart, error) {
		rows, err := rowsOf[statsRow](q, statsSQL, optional(queue))
		if err != nil {
			return nil, err
		}
		return statsCharts(rows), nil
	})
	result.IsEmpty = result.Failed == "" && len(result.Data) == 0
	return result
}

// statsCharts draws jobs a minute, failures, and times.
func statsCharts(rows []statsRow) []chart {
	if len(rows) == 0 {
		return nil
	}
	times := make([]time.Time, len(rows))
	counts := func(of func(statsRow) int64) []*float64 {
		values := make([]*float64, len(rows))
		for i, row := range rows {
			value := float64(of(row))
			values[i] = &value
		}
		return values
	}
	durations := func(of func(statsRow) *float64) []*float64 {
		values := make([]*float64, len(rows))
		for i, row := range rows {
			values[i] = of(row)
		}
		return values
	}
	for i, row := range rows {
		times[i] = row.At
	}
	count := func(v float64) string { return number(int64(v)) }
	duration := func(v float64) string { return seconds(v) }
	return []chart{
		newChart("jobs", "Jobs a minute", times, count,
			series{"enqueued", counts(func(r statsRow) int64 { return r.Enqueued })},
			series{"completed", counts(func(r statsRow) int64 { return r.Completed })}),
		newChart("failures", "Failed attempts a minute", times, count,
			series{"failed", counts(func(r statsRow) int64 { return r.Failed })}),
		newChart("waits", "Wait before an attempt", times, duration,
			series{"p50", durations(func(r statsRow) *float64 { return r.WaitP50 })},
			series{"p95", durations(func(r statsRow) *float64 { return r.WaitP95 })},
			series{"p99", durations(func(r statsRow) *float64 { return r.WaitP99 })}),
		newChart("runs", "Length of an attempt", times, duration,
			series{"p50", durations(func(r statsRow) *float64 { return r.RunP50 })},
			series{"p95", durations(func(r statsRow) *float64 { return r.RunP95 })},
			series{"p99", durations(func(r statsRow) *float64 { return r.RunP99 })}),
	}
}
