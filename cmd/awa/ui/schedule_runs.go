package ui

import (
	"math"
	"time"
)

// scheduleRun is a job that a schedule has enqueued, and its bar in a drawing.
type scheduleRun struct {
	ID                       int64
	State                    string
	At                       time.Time // for which it was enqueued
	AttemptedAt, FinalizedAt *time.Time
	X, Y, Height             float64
	Seconds                  *float64 // that its last attempt has run
}

const (
	mostRuns   = 30
	runsWidth  = 20 // of a bar, and what is beside it
	runsHeight = 60
)

// The jobs of a schedule are among those of its kind in its queue. The newest 100 of these are looked at, of the newest
// 100,000 entries: list_jobs would read on where there are few of the kind.
const runsSQL = `
	select j.id, j.state::text, coalesce((j.metadata -> 'schedule' ->> 'at')::timestamptz, j.created_at), j.attempted_at,
	       j.finalized_at, 0::float8, 0::float8, 0::float8, null::float8
	  from awa.list_schedules() s
	 cross join lateral awa.scan_jobs(jsonb_build_object('queue', s.queue, 'kind', s.kind)) f
	 cross join lateral unnest(f.job_ids[1:100]) i(id)
	 cross join lateral awa.job(i.id) j
	 where s.name = $1 and j.metadata -> 'schedule' ->> 'name' = s.name
	 order by j.id desc
	 limit $2`

// drawRuns draws a bar for each job, as high as it has run long.
func drawRuns(runs []scheduleRun, now time.Time) {
	longest := 0.0
	for i := range runs {
		r := &runs[i]
		if r.AttemptedAt == nil {
			continue
		}
		until := now
		if r.FinalizedAt != nil {
			until = *r.FinalizedAt
		} else if r.State != "running" {
			continue
		}
		ran := math.Max(0, until.Sub(*r.AttemptedAt).Seconds())
		r.Seconds, longest = &ran, math.Max(longest, ran)
	}
	for i := range runs {
		r := &runs[i]
		r.Height = 4
		if r.Seconds != nil && longest > 0 {
			r.Height = math.Max(4, *r.Seconds/longest*runsHeight)
		}
		r.X, r.Y = float64(i*runsWidth), runsHeight-r.Height
	}
}
