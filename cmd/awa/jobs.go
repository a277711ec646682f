package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const jobsUsage = `usage: awa jobs [FILTER]... [--limit N] [--before-id ID]
       awa jobs ACTION FILTER... [--yes]

Lists jobs, the newest first: the beginning of their args and of their last error. Or changes all jobs that
match, however many there are: counts them and, with --yes, starts a change that maintenance makes in parts.
ACTION is cancel, retry, discard (dead letters), move, set-priority or delete. To list and to count needs
the role awa_reader, to change awa_operator.

  --queue NAME  --kind NAME  --state STATE  --tag TAG  --group KEY
                   jobs of this queue, kind, state, tag or group. States are available, scheduled, retryable,
                   running, completed, failed, cancelled, dead
  --args JSON      jobs whose args contain this, as '{"customer": 7}'
  --limit N        how many, at most (20; 1 to 1,000)
  --before-id ID   jobs with lower ids: the next page
  --before TIME    of an action: enqueued before or, of jobs that have ended, ended before
` + actFlags + `  --over DURATION  of retry: spread over this time
  --wait           wait until the change has ended
` + viewFlags + `
Exit status: 0 done, shown, or a signal has ended --watch; 1 it failed; 2 the command line is wrong.
`

// jobFilter says which jobs.
type jobFilter struct {
	queue, kind, state, tag, group, args string
}

// define defines the flags of a filter.
func (f *jobFilter) define(flags *flag.FlagSet) {
	name := func(into *string) func(string) error {
		return func(value string) error {
			if value == "" {
				return errors.New("should not be empty")
			}
			*into = value
			return nil
		}
	}
	flags.Func("queue", "", name(&f.queue))
	flags.Func("kind", "", name(&f.kind))
	flags.Func("tag", "", name(&f.tag))
	flags.Func("group", "", name(&f.group))
	flags.Func("state", "", func(value string) error {
		switch f.state = value; value {
		case "available", "scheduled", "retryable", "running", "completed", "failed", "cancelled", "dead":
			return nil
		}
		return errors.New("should be available, scheduled, retryable, running, completed, failed, cancelled or dead")
	})
	flags.Func("args", "", func(value string) error {
		if f.args = value; !json.Valid([]byte(value)) {
			return errors.New(`should be JSON, as '{"customer": 7}'`)
		}
		return nil
	})
}

// optional returns nil for an empty text.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

const (
	payloadStart = 300   // characters of args and errors that lists read
	payloadBytes = 4096  // of args, as they are stored: of larger ones lists read the size alone
	errorsBytes  = 16384 // of the errors of a job, likewise
)

// listed is a job in a list.
type listed struct {
	ID          int64           `json:"id"`
	Queue       string          `json:"queue"`
	Kind        string          `json:"kind"`
	State       string          `json:"state"`
	Priority    int             `json:"priority"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	CreatedAt   time.Time       `json:"created_at"`
	RunAt       time.Time       `json:"run_at"`
	AttemptedAt *time.Time      `json:"attempted_at"`
	FinalizedAt *time.Time      `json:"finalized_at"`
	Args        json.RawMessage `json:"args"`
	ArgsStart   string          `json:"args_start"`
	ArgsBytes   int64           `json:"args_bytes"`
	LastError   string          `json:"last_error"`
}

// listJobsQuery reads a page. Of args and errors it returns the first characters, and args as they are where they are
// no longer than that. someJobsQuery does so for jobs by their ids. Nothing indexes tags, groups and args: scanQuery
// finds the first jobs with these, and where to go on.
var (
	listJobsQuery = briefly(
		"awa.job_summaries(queue => $1, state => $2, kind => $3, before_id => $4, max_jobs => $5) j", "")
	someJobsQuery = briefly("awa.job_summaries(job_ids => $1) j", "")
)

const scanQuery = `
	select s.next_before_id, coalesce(s.job_ids[:$3], '{}'), coalesce(cardinality(s.job_ids), 0) > $3
	  from awa.scan_jobs($1::text::jsonb, $2) s`

// briefly returns a query for jobs of a list, with more columns. The jobs come from job_summaries, which reads nothing
// large.
func briefly(from, more string) string {
	return fmt.Sprintf(`
	select row_to_json(r)
	  from (
	    select j.id, j.queue, j.kind, j.state, j.priority, j.attempt, j.max_attempts, j.created_at, j.run_at,
	           j.attempted_at, j.finalized_at, j.expires_at, j.group_key, j.tags, j.worker_id,
	           case when octet_length(j.args_start) = j.args_bytes then j.args_start::json end as args,
	           case when octet_length(j.args_start) < j.args_bytes then j.args_start end as args_start, j.args_bytes,
	           case when j.errors_bytes <= %[2]d then j.last_error
	                else '(' || pg_size_pretty(j.errors_bytes) || ')' end as last_error%[3]s
	      from %[1]s
	     order by j.id desc
	  ) r`, from, errorsBytes, more)
}

func runJobs(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("jobs", 10*time.Second, "--state, --queue or --limit", stdout, stderr)
	var a act
	if err := v.parse(args, 1, func(flags *flag.FlagSet) { a.define(flags, true); v.actorFlag(flags) }); err != nil {
		return err
	}
	if len(v.operands) == 0 {
		return v.listing(ctx, &a)
	}
	if a.action = v.operands[0]; acts[a.action].name == "" {
		return v.refuse("argument 1 should be %s; awa job takes ids", actNames())
	}
	if err := a.check(v, true); err != nil {
		return err
	}
	return v.all(ctx, &a)
}

// listing lists jobs.
func (v *view) listing(ctx context.Context, a *act) error {
	if err := v.only("a list", append(filterFlags, "limit", "before-id", "watch", "every")...); err != nil {
		return err
	}
	return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		return v.listJobs(ctx, tx, a.filter, a.beforeID, a.limit)
	})
}

// listJobs reads a page of jobs.
func (v *view) listJobs(
	ctx context.Context, tx pgx.Tx, f jobFilter, beforeID int64, limit int,
) (s shown, err error) {
	at, err := now(ctx, tx)
	if err != nil {
		return shown{}, err
	}
	var before *int64
	if beforeID != 0 {
		before = &beforeID
	}
	read := v.listPages
	if f.tag != "" || f.args != "" || f.group != "" {
		read = v.scanJobs
	}
	raw, jobs, next, err := read(ctx, tx, f, before, limit)
	if err != nil {
		return shown{}, err
	}
	s = shown{value: raw, lines: func(width int) []string {
		switch {
		case len(jobs) > 0:
			return jobTable(jobs, at, width)
		case next != nil:
			return []string{"None of the jobs that were looked at match."}
		}
		return []string{"There are no such jobs."}
	}}
	if next != nil {
		s.more = fmt.Sprintf("There may be more: --before-id %d", *next)
		s.isAsked = v.given("limit") && len(jobs) == limit
	}
	return s, nil
}

// listPages reads jobs. It returns, too, before which id there may be more, or nil.
func (v *view) listPages(
	ctx context.Context, tx pgx.Tx, f jobFilter, before *int64, limit int,
) (raw []json.RawMessage, jobs []listed, next *int64, err error) {
	raw, jobs, err = rowsOf[listed](ctx, tx, v.masker, listJobsQuery, optional(f.queue), optional(f.state),
		optional(f.kind), before, limit)
	if err == nil && len(jobs) == limit {
		next = &jobs[limit-1].ID
	}
	return raw, jobs, next, err
}

// scanJobs reads jobs by a filter that nothing indexes, among 100,000 entries. The next id is where to go on, or nil at
// the end.
func (v *view) scanJobs(
	ctx context.Context, tx pgx.Tx, f jobFilter, before *int64, limit int,
) (raw []json.RawMessage, jobs []listed, next *int64, err error) {
	a := act{filter: f}
	encoded, err := json.Marshal(a.object(f.state))
	if err != nil {
		return nil, nil, nil, err
	}
	var ids []int64
	var isMore bool
	if err := tx.QueryRow(ctx, scanQuery, string(encoded), before, limit).Scan(&next, &ids, &isMore); err != nil {
		return nil, nil, nil, err
	}
	if isMore {
		next = &ids[len(ids)-1]
	}
	raw, jobs, err = rowsOf[listed](ctx, tx, v.masker, someJobsQuery, ids)
	return raw, jobs, next, err
}

func jobTable(jobs []listed, now time.Time, width int) []string {
	rows := make([][]string, len(jobs))
	for i, j := range jobs {
		rows[i] = []string{number(j.ID), j.Queue, j.Kind, j.State, fmt.Sprint(j.Priority),
			fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts), j.since(now), j.about()}
	}
	return table([]column{
		{"ID", true, 0}, {"QUEUE", false, 24}, {"KIND", false, 24}, {"STATE", false, 0}, {"PRIORITY", true, 0},
		{"ATTEMPT", true, 0}, {"SINCE", true, 0}, {"LAST ERROR, OR ARGS", false, 0},
	}, rows, width)
}

// since is how long a job has been in its state; or in what time it is due.
func (j listed) since(now time.Time) string {
	switch j.State {
	case "scheduled", "retryable":
		if wait := j.RunAt.Sub(now); wait > 0 {
			return "in " + age(wait)
		}
		return "due"
	case "available":
		return ago(&j.RunAt, now)
	case "running":
		return ago(j.AttemptedAt, now)
	}
	return ago(j.FinalizedAt, now)
}

// about is why a job is as it is, as far as a line says it.
func (j listed) about() string {
	if j.LastError != "" && j.State != "completed" {
		return j.LastError
	}
	if j.ArgsStart != "" {
		return j.ArgsStart + "…"
	}
	if j.ArgsBytes > payloadBytes {
		return fmt.Sprintf("(args of %d kB)", j.ArgsBytes/1000)
	}
	return string(j.Args)
}

const jobUsage = `usage: awa job ID [--explain]
       awa job ACTION ID... [--yes]

Shows a job: why it is not running, or how it ended; its times, args, metadata, progress, output and
errors. On a terminal, of each the first 4,000 characters; as JSON, all. Or changes jobs: shows them and,
with --yes, changes one after the other. ACTION is cancel, retry, discard (dead letters), move, set-priority
or delete. To see jobs needs the role awa_reader, to change them awa_operator.

  --explain        print in words why the job is not running, and nothing else
` + actFlags + viewFlags + `
Exit status: 0 done, shown, or a signal has ended --watch; 1 it failed, there is no such job, or one of them
was not changed; 2 the command line is wrong.
`

// fullJobQuery has all of a job, where $2 is null; otherwise the first characters of what may be long.
const fullJobQuery = `
	select row_to_json(r)
	  from (
	    select j.id, j.queue, j.kind, j.state, awa.explain_job(j.id) as explanation, j.priority, j.attempt,
	           j.max_attempts, j.created_at, j.run_at, j.attempted_at, j.finalized_at, j.deadline_at, j.expires_at,
	           j.heartbeat_at, j.worker_id, j.receipt, j.group_key, j.unique_key, j.tags,
	           case when $2::int is null then to_json(j.args) else to_json(left(j.args::text, $2)) end as args,
	           case when $2::int is null then to_json(j.metadata) else to_json(left(j.metadata::text, $2)) end as metadata,
	           case when $2::int is null then to_json(j.progress) else to_json(left(j.progress::text, $2)) end as progress,
	           case when $2::int is null then to_json(j.output) else to_json(left(j.output::text, $2)) end as output,
	           case when $2::int is null then to_json(j.errors) else (
	             select json_agg(json_build_object('attempt', e.value -> 'attempt', 'at', e.value -> 'at',
	                      'error', left(e.value ->> 'error', $2), 'by', e.value ->> 'by', 'omitted', e.value -> 'omitted')
	                      order by e.position)
	               from jsonb_array_elements(j.errors) with ordinality e(value, position)
	           ) end as errors
	      from awa.job($1) j
	  ) r`

// jobShown is a job as the terminal shows it.
type jobShown struct {
	listed
	Explanation string     `json:"explanation"`
	DeadlineAt  *time.Time `json:"deadline_at"`
	ExpiresAt   *time.Time `json:"expires_at"`
	HeartbeatAt *time.Time `json:"heartbeat_at"`
	WorkerID    *int64     `json:"worker_id"`
	GroupKey    string     `json:"group_key"`
	UniqueKey   string     `json:"unique_key"`
	Tags        []string   `json:"tags"`
	Args        string     `json:"args"`
	Metadata    string     `json:"metadata"`
	Progress    string     `json:"progress"`
	Output      string     `json:"output"`
	Errors      []struct {
		Attempt, At, Error, By, Omitted any
	} `json:"errors"`
}

// most is how many characters of a payload the terminal gets.
const most = 4000

var errNoSuchJob = errors.New("there is no job of this id, or it is not kept any more")

func runJob(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("job", 10*time.Second, "", stdout, stderr)
	var explains bool
	var a act
	err := v.parse(args, 1001, func(flags *flag.FlagSet) {
		flags.BoolVar(&explains, "explain", false, "")
		a.define(flags, false)
		v.actorFlag(flags)
	})
	if err != nil {
		return err
	}
	var id int64
	switch {
	case len(v.operands) == 0:
		return v.refuse("which job? Pass its id")
	case acts[v.operands[0]].name != "":
		a.action = v.operands[0]
		if len(v.operands) == 1 {
			return v.refuse("%s needs the ids of jobs; awa jobs takes a filter", a.action)
		}
		if err := a.takeIDs(v, v.operands[1:], 2); err != nil {
			return err
		}
		if err := a.check(v, false); err != nil {
			return err
		}
		return v.some(ctx, &a)
	}
	if err := v.only("one job", "explain", "watch", "every"); err != nil {
		return err
	}
	if numberFlag(&id, 1, 1<<62)(v.operands[0]) != nil {
		return v.refuse("argument 1 should be the id of a job, or %s", actNames())
	}
	if len(v.operands) > 1 {
		return v.refuse("unexpected argument: argument 2")
	}
	return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		if explains {
			return v.explainJob(ctx, tx, id)
		}
		return v.fullJob(ctx, tx, id)
	})
}

func (v *view) explainJob(ctx context.Context, tx pgx.Tx, id int64) (shown, error) {
	var says string
	err := tx.QueryRow(ctx, "select awa.explain_job($1)", id).Scan(&says)
	says = v.masker.Text(says) // the last error is in it
	return shown{
		value: struct {
			ID          int64  `json:"id"`
			Explanation string `json:"explanation"`
		}{id, says},
		lines: func(int) []string { return []string{oneLine(says)} },
	}, err
}

func (v *view) fullJob(ctx context.Context, tx pgx.Tx, id int64) (shown, error) {
	if v.asJSON {
		raw, _, err := rowsOf[struct{}](ctx, tx, v.masker, fullJobQuery, id, nil)
		if err == nil && len(raw) == 0 {
			err = errNoSuchJob
		}
		if err != nil {
			return shown{}, err
		}
		return shown{value: raw[0]}, nil
	}
	_, jobs, err := rowsOf[jobShown](ctx, tx, v.masker, fullJobQuery, id, most)
	if err == nil && len(jobs) == 0 {
		err = errNoSuchJob
	}
	if err != nil {
		return shown{}, err
	}
	return shown{lines: func(int) []string { return jobs[0].lines() }}, nil
}

func (j jobShown) lines() (lines []string) {
	add := func(name, value string) {
		if value != "" && value != "-" && value != "null" {
			lines = append(lines, fmt.Sprintf("%-12s  %s", name, oneLine(value)))
		}
	}
	payload := func(name, value string) {
		if len([]rune(value)) == most {
			value += "… (--json shows all of it)"
		}
		add(name, value)
	}
	lines = append(lines, oneLine(j.Explanation), "")
	add("id", number(j.ID))
	add("queue", j.Queue)
	add("kind", j.Kind)
	add("state", j.State)
	add("priority", fmt.Sprint(j.Priority))
	add("attempt", fmt.Sprintf("%d of %d", j.Attempt, j.MaxAttempts))
	add("enqueued", atUTC(&j.CreatedAt))
	add("to run at", atUTC(&j.RunAt))
	add("begun", atUTC(j.AttemptedAt))
	add("ended", atUTC(j.FinalizedAt))
	add("deadline", atUTC(j.DeadlineAt))
	add("expires", atUTC(j.ExpiresAt))
	add("heartbeat", atUTC(j.HeartbeatAt))
	if j.WorkerID != nil {
		add("worker", number(*j.WorkerID))
	}
	add("group", j.GroupKey)
	add("unique key", j.UniqueKey)
	add("tags", strings.Join(j.Tags, ", "))
	payload("args", j.Args)
	payload("metadata", j.Metadata)
	payload("progress", j.Progress)
	payload("output", j.Output)
	for _, e := range j.Errors {
		if e.Omitted != nil {
			add("errors", fmt.Sprintf("(%v more)", e.Omitted))
			continue
		}
		text, _ := e.Error.(string)
		if by, _ := e.By.(string); by != "" {
			text = fmt.Sprintf("%s (by %s)", text, by)
		}
		at := cmp.Or(e.At, any("-"))
		payload("error", fmt.Sprintf("attempt %v, %v: %s", e.Attempt, at, text))
	}
	return lines
}
