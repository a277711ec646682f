package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// actFlags is how to use what all actions on jobs have in common.
const actFlags = `  --yes            do it; without it, what would be changed is shown, and nothing is changed
  --reason TEXT    of cancel and discard
  --to-queue NAME  of move; of retry: in this queue
  --priority N     of set-priority, 1 (first) to 4; of retry: with this priority
  --run-at TIME    of retry: not before, as 2031-05-01T09:00:00Z
  --actor NAME     for whom: awa changes shows it beside the login
`

// act is what the command line of a list of jobs, or of one job, asks for.
type act struct {
	action                         string // one of acts; "" to show
	yes, wait                      bool
	reason, toQueue, runAt, before string
	priority                       int // 0 for none
	over                           time.Duration
	filter                         jobFilter
	beforeID                       int64
	limit                          int
	ids                            []int64
	isOfDead                       bool // of dead letters alone
}

// acts are the actions, each with the states of the jobs that it changes, its flags, and its call for one job.
var acts = map[string]struct {
	name   string // of start_change
	states []string
	flags  []string
	call   string
	done   string
}{
	"cancel":  {"cancel", liveStates, []string{"reason"}, "awa.cancel($1, $2)", "cancelled"},
	"discard": {"discard", liveStates, []string{"reason"}, "awa.discard_job($1, $2)", "dead"},
	"retry": {"retry", []string{"failed", "cancelled", "dead"}, []string{"to-queue", "priority", "run-at"},
		"awa.retry($1, queue => $3, priority => $4, run_at => $5::text::timestamptz)", "to run again"},
	"move": {"move", waitingStates, []string{"to-queue"}, "awa.move($1, $3)", "moved"},
	"set-priority": {"set_priority", waitingStates, []string{"priority"}, "awa.set_priority($1, $4)",
		"in the line of its new priority"},
	"delete": {"delete", []string{"completed", "failed", "cancelled", "dead"}, nil, "awa.delete_job($1)", "deleted"},
}

var (
	liveStates    = []string{"scheduled", "available", "running", "retryable"}
	waitingStates = []string{"scheduled", "available", "retryable"}
)

func actNames() string {
	names := slices.Sorted(maps.Keys(acts))
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// define defines the flags of lists and actions.
func (a *act) define(flags *flag.FlagSet, isList bool) {
	timeFlag := func(into *string) func(string) error {
		return func(value string) error {
			if _, err := time.Parse(time.RFC3339, value); err != nil {
				return errors.New("should be a time as 2031-05-01T09:00:00Z")
			}
			*into = value
			return nil
		}
	}
	name := func(into *string) func(string) error {
		return func(value string) error {
			if *into = value; value == "" {
				return errors.New("should not be empty")
			}
			return nil
		}
	}
	flags.BoolVar(&a.yes, "yes", false, "")
	flags.StringVar(&a.reason, "reason", "", "")
	flags.Func("to-queue", "", name(&a.toQueue))
	flags.Func("priority", "", numberFlag(&a.priority, 1, 4))
	flags.Func("run-at", "", timeFlag(&a.runAt))
	if !isList {
		return
	}
	a.filter.define(flags)
	flags.Func("before", "", timeFlag(&a.before))
	flags.Func("over", "", durationFlag(&a.over))
	flags.BoolVar(&a.wait, "wait", false, "")
	a.limit = 20
	flags.Func("limit", "", numberFlag(&a.limit, 1, 1000))
	flags.Func("before-id", "", numberFlag(&a.beforeID, 1, 1<<62))
}

var filterFlags = []string{"queue", "kind", "state", "tag", "group", "args"}

// check refuses what does not fit together.
func (a *act) check(v *view, isOfMany bool) error {
	known := append([]string{"yes", "actor"}, acts[a.action].flags...)
	if isOfMany {
		known = append(append(known, filterFlags...), "before", "wait")
		if a.action == "retry" {
			known = append(known, "over")
		}
	}
	if err := v.only(a.action, known...); err != nil {
		return err
	}
	switch {
	case a.action == "move" && a.toQueue == "":
		return v.refuse("move needs --to-queue")
	case a.action == "set-priority" && a.priority == 0:
		return v.refuse("set-priority needs --priority")
	case isOfMany && a.filter == (jobFilter{}) && a.before == "":
		return v.refuse("%s needs a filter, such as --queue or --kind", a.action)
	case isOfMany && a.filter.state != "" && !slices.Contains(acts[a.action].states, a.filter.state) &&
		!(a.action == "retry" && (a.filter.state == "scheduled" || a.filter.state == "retryable")):
		return v.refuse("--state should be one that %s changes: %s", a.action, strings.Join(acts[a.action].states, ", "))
	case a.wait && !a.yes:
		return v.refuse("--wait has no meaning without --yes")
	}
	return nil
}

// takeIDs reads ids of jobs from operands.
func (a *act) takeIDs(v *view, operands []string, first int) error {
	for i, operand := range operands {
		var id int64
		if numberFlag(&id, 1, 1<<62)(operand) != nil {
			return v.refuse("argument %d should be the id of a job", first+i)
		}
		if !slices.Contains(a.ids, id) {
			a.ids = append(a.ids, id)
		}
	}
	return nil
}

// object is the filter, as start_change takes it.
func (a *act) object(state string) map[string]any {
	filter := map[string]any{}
	for key, value := range map[string]string{
		"queue": a.filter.queue, "kind": a.filter.kind, "state": state, "before": a.before, "tag": a.filter.tag,
		"group_key": a.filter.group,
	} {
		if value != "" {
			filter[key] = value
		}
	}
	if a.filter.args != "" {
		filter["args"] = json.RawMessage(a.filter.args)
	}
	return filter
}

func (a *act) options() map[string]any {
	options := map[string]any{}
	for key, value := range map[string]string{"reason": a.reason, "queue": a.toQueue, "run_at": a.runAt} {
		if value != "" {
			options[key] = value
		}
	}
	if a.priority != 0 {
		options["priority"] = a.priority
	}
	if a.over != 0 {
		options["over"] = a.over.Seconds()
	}
	return options
}

// some changes jobs one by one, or shows them.
func (v *view) some(ctx context.Context, a *act) error {
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	if !a.yes {
		return v.previewOfSome(ctx, a)
	}
	type result struct {
		ID    int64  `json:"id"`
		Was   string `json:"was,omitempty"`
		Error string `json:"error,omitempty"`
	}
	results := []result{}
	failed := 0
	var interrupted error
	for _, id := range a.ids {
		r := result{ID: id}
		err := v.inWords(ctx, v.transaction(ctx, pgx.ReadWrite, func(ctx context.Context, tx pgx.Tx) error {
			query := "select $2::text is null and $3::text is null and $4::int is null and $5::text is null, " +
				acts[a.action].call
			var rest bool
			var priority *int
			if a.priority != 0 {
				priority = &a.priority
			}
			err := tx.QueryRow(ctx, query, id, optional(a.reason), optional(a.toQueue), priority, optional(a.runAt)).
				Scan(&rest, &r.Was)
			if err == nil && a.isOfDead && r.Was != "dead" { // it is rolled back
				err = errNotDead(r.Was)
			}
			return err
		}))
		if interrupted = ctx.Err(); interrupted != nil {
			break
		}
		if err != nil {
			r.Error, r.Was = v.masker.Text(err.Error()), ""
			failed++
		}
		results = append(results, r)
		if v.asJSON {
			continue
		}
		if err != nil {
			fmt.Fprintf(v.stderr, "awa: job %d: %s\n", id, oneLine(r.Error))
		} else {
			fmt.Fprintf(v.stdout, "Job %d was %s, and is %s.\n", id, r.Was, acts[a.action].done)
		}
	}
	if v.asJSON {
		if err := v.printJSON(results, "  "); err != nil {
			return err
		}
	}
	if interrupted != nil {
		return interrupted
	}
	if failed > 0 {
		return fmt.Errorf("%s not changed", count(int64(failed), "job was", "jobs were"))
	}
	return nil
}

// errNotDead says that a job is no dead letter.
func errNotDead(state string) error {
	return fmt.Errorf("it is no dead letter, but %s: awa job changes jobs in other states", state)
}

// previewOfSome shows the jobs that would be changed.
func (v *view) previewOfSome(ctx context.Context, a *act) error {
	s, err := v.read(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		at, err := now(ctx, tx)
		if err != nil {
			return shown{}, err
		}
		raw, jobs, err := rowsOf[listed](ctx, tx, v.masker, someJobsQuery, a.ids)
		if err == nil && len(jobs) < len(a.ids) {
			for _, id := range a.ids {
				if !slices.ContainsFunc(jobs, func(j listed) bool { return j.ID == id }) {
					err = fmt.Errorf("job %d: %w", id, errNoSuchJob)
					break
				}
			}
		}
		for _, j := range jobs {
			if err == nil && a.isOfDead && j.State != "dead" {
				err = fmt.Errorf("job %d: %w", j.ID, errNotDead(j.State))
			}
		}
		return shown{
			value: preview{Action: a.action, Options: a.options(), Jobs: raw, Count: int64(len(raw)), IsExact: true},
			lines: func(width int) []string {
				return append(jobTable(jobs, at, width), "",
					fmt.Sprintf("%s: %s. Nothing was changed; --yes does it.", a.action, count(int64(len(jobs)), "job", "jobs")))
			}}, err
	})
	if err != nil {
		return err
	}
	return v.print(s)
}

// preview is what would be changed, as JSON.
type preview struct {
	Action  string            `json:"action"`
	Filter  map[string]any    `json:"filter,omitempty"`
	Options map[string]any    `json:"options"`
	Count   int64             `json:"count"`
	IsExact bool              `json:"is_exact"`
	Jobs    []json.RawMessage `json:"jobs,omitempty"`
}

// all starts a change of all jobs that match, or counts them.
func (v *view) all(ctx context.Context, a *act) error {
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	filter := a.object(a.filter.state)
	if !a.yes {
		found, isExact, err := v.countMatching(ctx, a)
		if err != nil {
			return err
		}
		if args, ok := filter["args"].(json.RawMessage); ok {
			filter["args"] = json.RawMessage(v.masker.JSON(args))
		}
		p := preview{Action: a.action, Filter: filter, Options: a.options(), Count: found, IsExact: isExact}
		if v.asJSON {
			return v.printJSON(p, "  ")
		}
		number := count(found, "job", "jobs")
		if !isExact {
			number = "at least " + number + " (the count ended early)"
		}
		fmt.Fprintf(v.stdout, "%s: %s. Nothing was changed; --yes starts it.\n", a.action, number)
		return nil
	}
	encoded, err := json.Marshal(filter)
	if err != nil {
		return err
	}
	options, err := json.Marshal(a.options())
	if err != nil {
		return err
	}
	var id int64
	err = v.transaction(ctx, pgx.ReadWrite, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "select awa.start_change($1, $2::text::jsonb, $3::text::jsonb)", acts[a.action].name,
			string(encoded), string(options)).Scan(&id)
	})
	if err != nil {
		return v.inWords(ctx, err)
	}
	if a.wait {
		return v.waitFor(ctx, id)
	}
	if v.asJSON {
		return v.printJSON(struct {
			ChangeID int64 `json:"change_id"`
		}{id}, "  ")
	}
	fmt.Fprintf(v.stdout, "Change %d has begun. awa changes shows how far it is; awa changes stop %[1]d stops it.\n", id)
	return nil
}

const (
	countMost  = 10000 // jobs, or few more, that a preview counts
	countPages = 10    // of 100,000 entries that it reads
)

// countMatching counts jobs that a change would find, and says whether these are all.
func (v *view) countMatching(ctx context.Context, a *act) (found int64, isExact bool, err error) {
	states := acts[a.action].states
	if a.filter.state != "" {
		states = []string{a.filter.state}
	}
	isPlain := a.before == "" && a.filter == jobFilter{queue: a.filter.queue, state: a.filter.state}
	pages := 0
	for _, state := range states {
		if isPlain && slices.Contains(liveStates, state) { // counted exactly, and at once
			var n int64
			err := v.transaction(ctx, pgx.ReadOnly, func(ctx context.Context, tx pgx.Tx) error {
				return tx.QueryRow(ctx, `select coalesce(sum((to_jsonb(c) ->> $2)::bigint), 0)::bigint
					from awa.queue_counts($1) c`, optional(a.filter.queue), state).Scan(&n)
			})
			if err != nil {
				return 0, false, v.inWords(ctx, err)
			}
			found += n
			continue
		}
		encoded, err := json.Marshal(a.object(state))
		if err != nil {
			return 0, false, err
		}
		var before *int64
		for {
			var n int64
			err := v.transaction(ctx, pgx.ReadOnly, func(ctx context.Context, tx pgx.Tx) error {
				const query = `
					select s.next_before_id, cardinality(s.job_ids) from awa.scan_jobs($1::text::jsonb, $2) s`
				return tx.QueryRow(ctx, query, string(encoded), before).Scan(&before, &n)
			})
			var pg *pgconn.PgError
			if errors.As(err, &pg) && pg.Code == "57014" && ctx.Err() == nil { // query_canceled
				return found, false, nil
			}
			if err != nil {
				return 0, false, v.inWords(ctx, err)
			}
			found += n
			if pages++; before == nil {
				break
			}
			if found > countMost || pages >= countPages {
				return found, false, nil
			}
		}
	}
	return found, true, nil
}

// change is a row of list_changes.
type change struct {
	ChangeID  int64           `json:"change_id"`
	Action    string          `json:"action"`
	Filter    json.RawMessage `json:"filter"`
	Options   json.RawMessage `json:"options"`
	StartedBy string          `json:"started_by"`
	Actor     string          `json:"actor"`
	StartedAt time.Time       `json:"started_at"`
	State     string          `json:"state"`
	Changed   int64           `json:"changed"`
	Skipped   int64           `json:"skipped"`
	LastError string          `json:"last_error"`
}

// waitFor shows how far a change is until it has ended.
func (v *view) waitFor(ctx context.Context, id int64) error {
	for {
		var raw []json.RawMessage
		var changes []change
		err := v.transaction(ctx, pgx.ReadOnly, func(ctx context.Context, tx pgx.Tx) (err error) {
			raw, changes, err = rowsOf[change](ctx, tx, v.masker, changesQuery, nil, id+1, 1)
			return err
		})
		switch {
		case err != nil:
			return v.inWords(ctx, err)
		case len(changes) == 0 || changes[0].ChangeID != id:
			return errors.New("there is no such change any more")
		case changes[0].State != "running":
			if v.asJSON {
				return v.printJSON(raw[0], "  ")
			}
			c := changes[0]
			fmt.Fprintf(v.stdout, "Change %d is %s: %s changed, %d skipped.\n", id, c.State, count(c.Changed, "job", "jobs"),
				c.Skipped)
			if c.LastError != "" {
				fmt.Fprintln(v.stdout, "The last error:", oneLine(c.LastError))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(v.stderr, "awa: change %d goes on; awa changes stop %[1]d stops it\n", id)
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// An error, and a filter, may be long.
var changesQuery = fmt.Sprintf(`
	select row_to_json(r)
	  from (
	    select c.change_id, c.action, case when length(c.filter::text) <= %[1]d then c.filter end as filter,
	           case when length(c.filter::text) > %[1]d then left(c.filter::text, %[1]d) end as filter_start,
	           case when length(c.options::text) <= %[1]d then c.options end as options, c.started_by, c.actor,
	           c.started_at, c.state, c.found, c.changed, c.skipped, left(c.last_error, %[1]d) as last_error, c.ended_at
	      from awa.list_changes(state => $1, before_id => $2, max_changes => $3) c
	  ) r`, payloadStart)
