package ui

import (
	"encoding/json"
	"slices"
	"time"
)

// causeRow is what failed for one cause.
type causeRow struct {
	Kind, Cause             string
	Failed, Dead, Retryable int64
	FirstAt, LastAt         *time.Time
	LastJobID               *int64
	LastError               *string
	CountedSince            *time.Time
}

const causesSQL = `
	select c.kind, c.cause, c.failed::bigint, c.dead::bigint, c.retryable::bigint, c.first_at, c.last_at,
	       c.last_job_id::bigint, left(c.last_error, 200), c.counted_since
	  from awa.failure_causes(queue => $1, since => $2::text::interval, kind => $3, max_causes => $4) c`

// sinces are the times for which failures are counted; the second one is the default.
var sinces = []string{"1 hour", "1 day", "7 days", "30 days"}

type failuresView struct {
	*page
	Since    string
	Sinces   []string
	Causes   panel[[]causeRow]
	MayRetry bool
}

// failuresPage counts what failed by kinds and causes, the most frequent first.
func failuresPage(p *page) (string, any) {
	p.Title, p.Section = "Failures", "failures"
	v := failuresView{page: p, Since: p.Get("since"), Sinces: sinces}
	if !slices.Contains(sinces, v.Since) {
		v.Since = sinces[1]
	}
	p.patience = 3
	queue, kind := optional(clean(p.Get("queue"))), optional(clean(p.Get("kind")))
	v.Causes = read(p, "Name a queue and a kind.", func(q queryer) ([]causeRow, error) {
		rows, err := rowsOf[causeRow](q, causesSQL, queue, v.Since, kind, pageLength+1)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			maskText(p.h.masker, rows[i].LastError)
		}
		may, err := p.rights(q)
		v.MayRetry = slices.Contains(may, "retry") && slices.Contains(may, "change")
		return rows, err
	})
	if rows := v.Causes.Data; len(rows) > pageLength {
		v.Causes.Data, v.Causes.IsMore = rows[:pageLength], true
	}
	return "failures", v
}

// CountedSince is since when all failures are counted: nil where that is as long as was asked for.
func (v failuresView) CountedSince() *time.Time {
	for _, row := range v.Causes.Data {
		return row.CountedSince
	}
	return nil
}

// Jobs is the address of the jobs of a cause.
func (v failuresView) Jobs(row causeRow) string {
	return v.Link("/jobs", "kind", row.Kind, "cause", row.Cause, "queue", v.Get("queue"))
}

// Filter is the filter of the jobs of a cause, in a state if that is named, for a form.
func (v failuresView) Filter(row causeRow, state string) (string, error) {
	f := filter{Queue: optional(clean(v.Get("queue"))), State: optional(state), Kind: &row.Kind, Cause: &row.Cause}
	text, err := json.Marshal(f)
	return string(text), err
}

// Shown is a cause as it is shown.
func (v failuresView) Shown(row causeRow) string { return v.h.masker.Text(row.Cause) }
