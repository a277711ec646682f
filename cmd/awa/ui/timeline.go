package ui

import (
	"cmp"
	"slices"
	"time"
)

// event is something that happened to a job, or that will.
type event struct {
	At    time.Time
	What  string
	Class string // of its style
	X     float64
}

// stretch is a time in which a job was in one condition.
type stretch struct {
	X, Width float64
	Class    string
	Title    string
}

// timeline is a drawing of what happened to a job, and a list of the same.
type timeline struct {
	Events    []event
	Stretches []stretch
	From, To  time.Time
}

const timelineWidth = 600

// newTimeline draws what is known of a job: when it came, each error, the last attempt, its end, and what comes next.
func newTimeline(job *oneJob, now time.Time) timeline {
	events := []event{{At: job.CreatedAt, What: "enqueued", Class: "wait"}}
	for _, e := range job.Errors {
		if e.At == nil {
			continue
		}
		what := "failed"
		switch {
		case e.IsPutOff:
			what = "put off"
		case e.By != nil:
			what = "cancelled by " + *e.By
		case e.Attempt != nil:
			what = "attempt " + *e.Attempt + " failed"
		}
		events = append(events, event{At: *e.At, What: what, Class: "error"})
	}
	if job.AttemptedAt != nil {
		events = append(events, event{At: *job.AttemptedAt, What: "the last attempt began", Class: "run"})
	}
	if job.FinalizedAt != nil {
		events = append(events, event{At: *job.FinalizedAt, What: job.State, Class: job.State})
	} else {
		events = append(events, event{At: now, What: "now " + job.State, Class: "now"})
	}
	if job.FinalizedAt == nil && job.RunAt.After(now) {
		events = append(events, event{At: job.RunAt, What: "due", Class: "wait"})
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	t := timeline{Events: events, From: events[0].At, To: events[len(events)-1].At}
	whole := t.To.Sub(t.From).Seconds()
	for i := range events {
		if whole > 0 {
			events[i].X = round(events[i].At.Sub(t.From).Seconds() / whole * timelineWidth)
		}
		if i > 0 {
			from := events[i-1]
			t.Stretches = append(t.Stretches, stretch{
				X: from.X, Width: round(events[i].X - from.X), Class: from.Class,
				Title: from.What + ", then for " + seconds(events[i].At.Sub(from.At).Seconds()) + " until: " + events[i].What,
			})
		}
	}
	return t
}
