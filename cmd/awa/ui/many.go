package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// logger logs what becomes of an action.
type logger struct {
	p   *page
	log *slog.Logger
}

// done logs that an action was done, or why it was not, which it returns.
func (l *logger) done(err error) error {
	if err != nil {
		l.log.WarnContext(l.p.ctx, "an action failed", "error", err)
		return err
	}
	l.log.InfoContext(l.p.ctx, "an action was done")
	return nil
}

// many is the form below which actions on the jobs of a list are asked for: it leads to a preview.
type many struct {
	Page    *page
	Actions []action
	Filter  string // of the list, as JSON; "" where a change of all that match is not offered
}

// newMany returns the form of a list, whose user may do something.
func (p *page) newMany(may []string, f filter) many {
	m := many{Page: p, Actions: offered(may, ofJob, deref(f.State))}
	if slices.Contains(may, "change") && !f.isEmpty() {
		if text, err := json.Marshal(f); err == nil {
			m.Filter = string(text)
		}
	}
	return m
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// isEmpty says whether a filter would match all jobs.
func (f filter) isEmpty() bool {
	return f.Queue == nil && f.State == nil && f.Kind == nil && f.Before == nil && f.Tag == nil && f.GroupKey == nil &&
		f.Args == nil && f.Cause == nil
}

// readFilter reads the filter of a form of the pages.
func readFilter(text string) (f filter, err error) {
	decoder := json.NewDecoder(bytes.NewReader([]byte(clean(text))))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&f)
	if string(f.Args) == "null" {
		f.Args = nil
	}
	if err != nil || decoder.More() || f.isEmpty() ||
		f.State != nil && !slices.Contains(states, *f.State) {
		return f, refuse(http.StatusBadRequest, "The filter can't be read, or names nothing.")
	}
	return f, nil
}

const (
	mostSelected  = 200              // jobs of one form
	mostCounted   = 10_000           // jobs, or few more, that a preview counts
	mostCounting  = 10 * time.Second // that it counts
	mostPreviewed = 20               // jobs that the preview of a change of all shows
	mostDoing     = time.Minute      // after which no other one of selected jobs is begun
)

// selected reads which jobs a form names, and the state that the user has seen of each, if it says so.
func selected(form url.Values) (ids []int64, seen map[int64]string, err error) {
	seen = map[int64]string{}
	states := form["seen"] // in the order of the jobs
	for i, text := range form["job"] {
		id, refused := idOf(text)
		if id == nil || refused != "" {
			return nil, nil, refuse(http.StatusBadRequest, "The id of a job is a whole number.")
		}
		if _, is := seen[*id]; is {
			continue
		}
		ids, seen[*id] = append(ids, *id), ""
		if i < len(states) {
			seen[*id] = states[i]
		}
	}
	switch {
	case len(ids) == 0:
		return nil, nil, refuse(http.StatusBadRequest, "No job is selected.")
	case len(ids) > mostSelected:
		return nil, nil, refuse(http.StatusBadRequest, "These are too many jobs: filter, and change all that match.")
	}
	return ids, seen, nil
}

// previewView is what an action would be done to.
type previewView struct {
	*page
	Action action
	Scope  string
	Filter string // as the form has it
	Shown  string // as people see it
	Jobs   panel[previewed]
}

// previewed are the jobs of a preview.
type previewed struct {
	Rows   []jobRow // those that would be changed, or some of them
	Left   []jobRow // those that are in no state for it
	Found  int64
	IsMore bool // than found
}

// preview shows what an action would be done to, and asks for what it needs, before it is done.
func (p *page) preview(w http.ResponseWriter, r *http.Request) {
	a, form, err := p.readAction(w, r)
	if err == nil && a.of != ofJob {
		err = refuse(http.StatusBadRequest, "There is no such action.")
	}
	v := previewView{page: p, Action: a, Scope: form.Get("scope")}
	if err == nil && v.Scope == "all" {
		err = p.previewAll(&v, form)
	} else if err == nil {
		v.Scope = "selected"
		err = p.previewSelected(&v, form)
	}
	if err != nil {
		status, text := failedAction(err)
		p.send(w, status, "message", p.message(text))
		return
	}
	for _, rows := range [][]jobRow{v.Jobs.Data.Rows, v.Jobs.Data.Left} {
		jobsFound{Rows: rows}.mask(p.h.masker)
	}
	p.Title, p.Section = v.Action.Text, "jobs"
	p.send(w, http.StatusOK, "preview", v)
}

// mayDo refuses what the user's role may not do.
func (p *page) mayDo(q queryer, names ...string) error {
	may, err := p.rights(q)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(may, name) {
			return refuse(http.StatusForbidden, "The database role may not do this.")
		}
	}
	return nil
}

func (p *page) previewSelected(v *previewView, form url.Values) error {
	ids, _, err := selected(form)
	if err != nil {
		return err
	}
	var refused refusal
	v.Jobs = read(p, "Select fewer jobs.", func(q queryer) (found previewed, err error) {
		if err := p.mayDo(q, v.Action.Name); err != nil {
			errors.As(err, &refused)
			return found, err
		}
		rows, err := rowsOf[jobRow](q, foundSQL, ids)
		for _, row := range rows {
			if slices.Contains(v.Action.states, row.State) {
				found.Rows = append(found.Rows, row)
			} else {
				found.Left = append(found.Left, row)
			}
		}
		found.Found = int64(len(found.Rows))
		return found, err
	})
	if refused.text != "" {
		return refused
	}
	return nil
}

func (p *page) previewAll(v *previewView, form url.Values) error {
	f, err := readFilter(form.Get("filter"))
	if err != nil {
		return err
	}
	if f.State != nil && !slices.Contains(v.Action.states, *f.State) {
		return refuse(http.StatusConflict, "Jobs in this state can't be changed so.")
	}
	v.Filter = form.Get("filter")
	v.Shown = p.h.masker.Text(string(p.h.masker.JSON([]byte(v.Filter))))
	if v.Action.change == "retry" {
		v.Action.fields = append(slices.Clone(v.Action.fields), "over")
	}
	p.patience = 3
	v.Jobs = panel[previewed]{At: time.Now()}
	err = p.inTurn(func() error {
		err := p.transaction(pgx.ReadOnly, func(q queryer) error { return p.mayDo(q, v.Action.Name, "change") })
		if err != nil {
			return err
		}
		v.Jobs.Data, err = p.count(v.Action, f)
		v.Jobs.At = p.now
		return err
	})
	var refused refusal
	if errors.As(err, &refused) {
		return refused
	}
	if err != nil {
		v.Jobs.Failed, v.Jobs.Hint = inWords(err, "Narrow the filter.")
	}
	return nil
}

// count counts the jobs that a change would find, and reads some of them. It ends early where these are many.
func (p *page) count(a action, f filter) (found previewed, err error) {
	var ids []int64
	began := time.Now()
	in := a.changed
	if in == nil {
		in = a.states
	}
	if f.State != nil {
		in = []string{*f.State}
	}
	for _, state := range in {
		if f.isPlain() && slices.Contains(live, state) {
			err := p.transaction(pgx.ReadOnly, func(q queryer) error { return f.countLive(q, state, &found, &ids) })
			if err != nil {
				return found, err
			}
			continue
		}
		one := f
		one.State = &state
		text, err := json.Marshal(one)
		if err != nil {
			return found, err
		}
		for before := (*int64)(nil); ; {
			var n int64
			var some []int64
			err := p.transaction(pgx.ReadOnly, func(q queryer) error {
				return q.QueryRow(q, countSQL, text, before, mostPreviewed).Scan(&before, &some, &n)
			})
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) && pgErr.Code == "57014" && p.ctx.Err() == nil {
				found.IsMore = true // it takes too long
				break
			}
			if err != nil {
				return found, err
			}
			ids = append(ids, some...)
			found.Found += n
			if before == nil {
				break
			}
			if found.Found > mostCounted || time.Since(began) > mostCounting {
				found.IsMore = true
				break
			}
		}
		if found.IsMore {
			break
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	err = p.transaction(pgx.ReadOnly, func(q queryer) error {
		found.Rows, err = rowsOf[jobRow](q, foundSQL, ids[:min(len(ids), mostPreviewed)])
		return err
	})
	return found, err
}

// isPlain says whether a filter names no more than a queue and a state, of which there are exact counts.
func (f filter) isPlain() bool {
	f.Queue, f.State = nil, nil
	return f.isEmpty()
}

// countLive counts the jobs of a plain filter in a state that is not an end, and reads the ids of some.
func (f filter) countLive(q queryer, state string, found *previewed, ids *[]int64) error {
	var n int64
	var some []int64
	err := q.QueryRow(q, countLiveSQL, f.Queue, state, mostPreviewed).Scan(&n, &some)
	found.Found += n
	*ids = append(*ids, some...)
	return err
}

const countLiveSQL = `
	select coalesce((select sum((to_jsonb(c) ->> $2)::bigint)::bigint from awa.queue_counts(queue => $1) c), 0),
	       array(select j.id from awa.job_summaries(queue => $1, state => $2, max_jobs => $3) j)`

const countSQL = `
	select s.next_before_id, coalesce(s.job_ids[1:$3], '{}'), coalesce(cardinality(s.job_ids), 0)::bigint
	  from awa.scan_jobs(filter => $1, before_id => $2) s`

// doneView says what became of each of the jobs that were selected.
type doneView struct {
	*page
	Action  action
	Results []result
	Failed  int
}

// result is what became of one job.
type result struct {
	ID     int64
	Failed string // why it was not changed; "" when it was
}

// actOnSelected changes jobs one by one, each in a transaction of its own.
func (p *page) actOnSelected(w http.ResponseWriter, a action, form url.Values) error {
	ids, seen, err := selected(form)
	if err != nil || a.of != ofJob {
		return cmpError(err, refuse(http.StatusBadRequest, "There is no such action."))
	}
	arguments, err := a.arguments(form)
	if err != nil {
		return err
	}
	p.patience = 2
	v := doneView{page: p, Action: a}
	status := http.StatusOK
	began := time.Now()
	for _, id := range ids {
		r := result{ID: id}
		if p.ctx.Err() != nil || time.Since(began) > mostDoing {
			r.Failed = "Not done: the jobs before it took too long."
		} else if err := p.do(a, jobTarget(id, seen[id]), arguments); err != nil {
			status, r.Failed = failedAction(err)
			if status == http.StatusForbidden {
				return err // nor may it be done to the others
			}
			r.Failed = p.h.masker.Text(r.Failed)
		}
		if r.Failed != "" {
			v.Failed++
		}
		v.Results = append(v.Results, r)
	}
	if v.Failed < len(ids) {
		status = http.StatusOK
	}
	p.Title, p.Section = a.Text, "jobs"
	p.send(w, status, "done", v)
	return nil
}

// jobTarget is a job that is in a state, or in any.
func jobTarget(id int64, seen string) target {
	return target{subjects: []any{id}, looked: jobStateSQL, seen: seen, named: []any{"job", id}}
}

// cmpError returns the first of two errors that there is.
func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// actOnAll starts a change of all jobs that match, and leads to its page.
func (p *page) actOnAll(w http.ResponseWriter, r *http.Request, a action, form url.Values) error {
	if a.change == "" {
		return refuse(http.StatusBadRequest, "There is no such action.")
	}
	f, err := readFilter(form.Get("filter"))
	if err != nil {
		return err
	}
	options, arguments, err := a.options(form)
	if err != nil {
		return err
	}
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	p.patience = 2
	var id int64
	log := p.log(a, "scope", "all")
	err = p.transaction(pgx.ReadWrite, func(q queryer) error {
		if err := p.mayDo(q, a.Name, "change"); err != nil {
			return err
		}
		if err := expectQueue(q, a, arguments); err != nil {
			return err
		}
		const sql = `select awa.start_change(action => $1, filter => $2, options => $3)`
		return q.QueryRow(q, sql, a.change, text, options).Scan(&id)
	})
	log.log = log.log.With("change", id)
	if log.done(err) != nil {
		return err
	}
	http.Redirect(w, r, p.ChangeLink(id), http.StatusSeeOther)
	return nil
}

// ChangeLink returns the address of a change.
func (p *page) ChangeLink(id int64) string { return p.Link("/change", "id", strconv.FormatInt(id, 10)) }

// briefList is a short list of jobs.
type briefList struct {
	Page *page
	Rows []jobRow
}

// Brief returns a short list of jobs.
func (v previewView) Brief(rows []jobRow) briefList { return briefList{v.page, rows} }

// Done is how many jobs were changed.
func (v doneView) Done() int { return len(v.Results) - v.Failed }
