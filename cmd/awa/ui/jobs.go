package ui

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
)

// jobRow is a job of a list. Of what a producer or a worker may have made large, it has the beginning.
type jobRow struct {
	ID                             int64
	Kind, Queue, State             string
	Priority, Attempt, MaxAttempts int
	CreatedAt, RunAt               time.Time
	AttemptedAt, FinalizedAt       *time.Time
	Tags                           []string
	GroupKey, Args, Error          *string
}

// jobColumns are of job_summaries, which reads nothing large. Of arguments and errors that are, the size is shown.
const jobColumns = `
	j.id, j.kind, j.queue, j.state, j.priority, j.attempt, j.max_attempts, j.created_at, j.run_at, j.attempted_at,
	j.finalized_at, j.tags[1:6], left(j.group_key, 100),
	coalesce(left(j.args_start, 200), '(' || pg_size_pretty(j.args_bytes) || ')'),
	case when j.errors_bytes <= 16384 then left(j.last_error, 200)
	     else '(' || pg_size_pretty(j.errors_bytes) || ')' end`

const (
	jobsSQL = `
		select ` + jobColumns + `
		  from awa.job_summaries(queue => $1, state => $2, kind => $3, before_id => $4, max_jobs => $5) j`
	// job_summaries does not say where to go on when it has read 100,000 entries and found few of a tag, a group or
	// arguments, and has no filter by time. scan_jobs returns ids.
	scanSQL = `
		select s.next_before_id, coalesce(s.job_ids[1:$3], '{}'), coalesce(cardinality(s.job_ids), 0) > $3
		  from awa.scan_jobs(filter => $1, before_id => $2) s`
	foundSQL = `select ` + jobColumns + ` from awa.job_summaries(job_ids => $1) j`
)

// states are those that a filter offers.
var states = []string{"available", "scheduled", "retryable", "running", "completed", "failed", "cancelled", "dead"}

// jobsLength is how many jobs a page has.
const jobsLength = 50

// filter is what jobs are looked for by. All of it but the arguments is in the address.
type filter struct {
	Queue    *string `json:"queue,omitempty"`
	State    *string `json:"state,omitempty"`
	Kind     *string `json:"kind,omitempty"`
	Before   *string `json:"before,omitempty"`
	Tag      *string `json:"tag,omitempty"`
	GroupKey *string `json:"group_key,omitempty"`
	Cause    *string `json:"cause,omitempty"`

	Args json.RawMessage `json:"args,omitempty"`
}

type jobsView struct {
	*page
	States  []string
	Args    string
	Refused string // what is wrong with the filter
	Many    many
	Jobs    panel[jobsFound]
	Older   string // the address of the next page, or ""
}

// jobsFound is a page of jobs, and the id before which the next page begins, or nil.
type jobsFound struct {
	Rows []jobRow
	Next *int64
	May  []string // what the user may do
}

func jobsPage(p *page) (string, any) {
	p.Title, p.Section = "Jobs", "jobs"
	v := jobsView{page: p, States: states, Args: p.args}
	f := filter{
		Queue: optional(clean(p.Get("queue"))), State: optional(p.Get("state")), Kind: optional(clean(p.Get("kind"))),
		Tag: optional(clean(p.Get("tag"))), GroupKey: optional(clean(p.Get("group"))),
		Cause: optional(clean(p.Get("cause"))),
	}
	before, refused := idOf(p.Get("before"))
	if f.State != nil && !slices.Contains(states, *f.State) {
		refused = "There is no such state."
	}
	if text := strings.TrimSpace(p.Get("until")); text != "" {
		until, err := parseTime(text)
		if err != nil {
			refused = notATime
		}
		f.Before = optional(until.Format(time.RFC3339Nano))
	}
	if args := strings.TrimSpace(p.args); args != "" {
		if !json.Valid([]byte(args)) {
			refused = "The arguments are no JSON."
		}
		f.Args = json.RawMessage(args)
	}
	if v.Refused = refused; refused != "" {
		p.status = 400
		return "jobs", v
	}
	hint := "Narrow the filter: name a state and a queue."
	if f.isDeep() {
		p.patience = 3
	}
	v.Jobs = read(p, hint, func(q queryer) (found jobsFound, err error) {
		if f.isDeep() {
			found, err = f.scan(q, before)
		} else {
			found, err = f.list(q, before)
		}
		if err == nil {
			found.May, err = p.rights(q)
		}
		return found, err
	})
	v.Many = p.newMany(v.Jobs.Data.May, f)
	v.Jobs.Data.mask(p.h.masker)
	if next := v.Jobs.Data.Next; next != nil {
		v.Older = p.Here("before", strconv.FormatInt(*next, 10))
	}
	return "jobs", v
}

// mask hides what is not to be seen.
func (found jobsFound) mask(masker *mask.Masker) {
	for _, row := range found.Rows {
		maskText(masker, row.Args)
		maskText(masker, row.Error)
	}
}

// isDeep says whether nothing indexes what is looked for, so that up to 100,000 entries are read.
func (f filter) isDeep() bool {
	return f.Tag != nil || f.GroupKey != nil || f.Args != nil || f.Before != nil || f.Cause != nil
}

// list returns a page by job_summaries.
func (f filter) list(q queryer, before *int64) (found jobsFound, err error) {
	found.Rows, err = rowsOf[jobRow](q, jobsSQL, f.Queue, f.State, f.Kind, before, jobsLength)
	if n := len(found.Rows); n == jobsLength {
		found.Next = &found.Rows[n-1].ID
	}
	return found, err
}

// scan returns a page of a filter that is deep. It may be empty before the last one.
func (f filter) scan(q queryer, before *int64) (found jobsFound, err error) {
	text, err := json.Marshal(f)
	if err != nil {
		return found, err
	}
	var ids []int64
	var isMore bool
	if err := q.QueryRow(q, scanSQL, text, before, jobsLength).Scan(&found.Next, &ids, &isMore); err != nil {
		return found, err
	}
	if isMore {
		found.Next = &ids[len(ids)-1]
	}
	found.Rows, err = rowsOf[jobRow](q, foundSQL, ids)
	return found, err
}

// idOf reads the id of a job.
func idOf(text string) (id *int64, refused string) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, ""
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return nil, "The id of a job is a whole number."
	}
	return &n, ""
}

// parseTime reads a time in UTC, as people and browsers write it.
func parseTime(text string) (at time.Time, err error) {
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02",
	} {
		if at, err = time.Parse(layout, strings.TrimSuffix(text, " UTC")); err == nil {
			return at.UTC(), nil
		}
	}
	return at, err
}

// MayEnqueue says whether the user may make a job.
func (v jobsView) MayEnqueue() bool { return slices.Contains(v.Jobs.Data.May, "enqueue") }
