package ui

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What an action is done to.
const (
	ofJob      = "job"
	ofQueue    = "queue"
	ofGroup    = "group"
	ofSchedule = "schedule"
	ofChange   = "change"
	ofArgs     = "args"    // of a job: see edit
	ofNothing  = "nothing" // a new job: see enqueue
)

// action is something that a user may do.
type action struct {
	Name, Text string
	of         string
	function   string   // with the types of its arguments: the right to call it is the right to do this
	states     []string // in which it is offered
	fields     []string // of its form, which are the arguments of the statement after the subject
	statement  string   // with the job's or the change's id, or the queue's name, as $1
	change     string   // the action of start_change; "" for none
	changed    []string // the states of jobs that this changes, where the filter names none; nil for states
}

var (
	live  = []string{"available", "running", "retryable", "scheduled"} // in the order in which a preview counts them
	waits = []string{"available", "retryable", "scheduled"}
	lost  = []string{"dead", "failed", "cancelled"}
)

// actions are all that can be done from a page.
var actions = []action{
	{
		Name: "cancel", Text: "Cancel", of: ofJob, function: "awa.cancel(bigint,text)", states: live,
		fields: []string{"reason"}, statement: `select awa.cancel(job_id => $1, reason => $2)`, change: "cancel",
	},
	{
		Name: "retry", Text: "Retry", of: ofJob, function: "awa.retry(bigint,text,integer,timestamptz)",
		states: append([]string{"scheduled", "retryable"}, lost...), fields: []string{"to_queue", "priority", "run_at"},
		statement: `select awa.retry(job_id => $1, queue => $2, priority => $3, run_at => $4)`,
		change:    "retry", changed: lost,
	},
	{
		Name: "discard", Text: "Make a dead letter", of: ofJob, function: "awa.discard_job(bigint,text)", states: live,
		fields: []string{"reason"}, statement: `select awa.discard_job(job_id => $1, reason => $2)`, change: "discard",
	},
	{
		Name: "move", Text: "Move", of: ofJob, function: "awa.move(bigint,text)", states: waits,
		fields: []string{"to_queue"}, statement: `select awa.move(job_id => $1, queue => $2)`, change: "move",
	},
	{
		Name: "priority", Text: "Set the priority", of: ofJob, function: "awa.set_priority(bigint,integer)", states: waits,
		fields: []string{"priority"}, statement: `select awa.set_priority(job_id => $1, priority => $2)`,
		change: "set_priority",
	},
	{
		Name: "delete", Text: "Delete", of: ofJob, function: "awa.delete_job(bigint)",
		states: append([]string{"completed"}, lost...), statement: `select awa.delete_job(job_id => $1)`, change: "delete",
	},
	{
		Name: "pause", Text: "Pause", of: ofQueue, function: "awa.pause_queue(text)", states: []string{"open"},
		statement: `select awa.pause_queue(queue => $1)`,
	},
	{
		Name: "resume", Text: "Resume", of: ofQueue, function: "awa.resume_queue(text)", states: []string{"paused"},
		statement: `select awa.resume_queue(queue => $1)`,
	},
	{
		Name: "stop", Text: "Stop", of: ofChange, function: "awa.stop_change(bigint)", states: []string{"running"},
		statement: `select awa.stop_change(change_id => $1)`,
	},
	{
		Name: "configure", Text: "Set", of: ofQueue, function: "awa.configure_queue(text,jsonb)",
		states: []string{"open", "paused"}, fields: []string{"setting"},
		statement: `select awa.configure_queue(queue => $1, settings => $2)`,
	},
	{
		Name: "pause_group", Text: "Pause", of: ofGroup, function: "awa.pause_group(text,text,text,timestamptz)",
		states: []string{"open"}, fields: []string{"reason", "until"},
		statement: `select awa.pause_group(queue => $1, group_key => $2, reason => $3, until => $4)`,
	},
	{
		Name: "resume_group", Text: "Resume", of: ofGroup, function: "awa.resume_group(text,text)",
		states: []string{"paused"}, statement: `select awa.resume_group(queue => $1, group_key => $2)`,
	},
	{
		Name: "pause_schedule", Text: "Pause", of: ofSchedule, function: "awa.pause_schedule(text,text)",
		states: []string{"open", "failing"}, fields: []string{"reason"},
		statement: `select awa.pause_schedule(name => $1, reason => $2)`,
	},
	{
		Name: "resume_schedule", Text: "Resume", of: ofSchedule, function: "awa.resume_schedule(text)",
		states: []string{"paused", "failing"}, statement: `select awa.resume_schedule(name => $1)`,
	},
	{
		Name: "trigger_schedule", Text: "Enqueue its job now", of: ofSchedule, function: "awa.trigger_schedule(text)",
		states: []string{"open", "failing", "paused"}, statement: `select awa.trigger_schedule(name => $1)`,
	},
	{
		Name: "edit", Text: "Edit the arguments", of: ofArgs, function: "awa.reschedule(bigint,timestamptz,jsonb)",
		states: append([]string{"available", "scheduled"}, lost...),
	},
	{
		Name: "enqueue", Text: "Enqueue", of: ofNothing,
		function: "awa.enqueue(text,text,jsonb,integer,timestamptz,integer,text[],jsonb,text,timestamptz)",
	},
	{Name: "change", function: "awa.start_change(text,jsonb,jsonb)"}, // of all that match: see start
}

// field is an input of a form.
type field struct {
	Name, Label, Hint string
	IsNeeded          bool
}

// Fields are the inputs of the action's form.
func (a action) Fields() (fields []field) {
	isNeeded := a.Name == "move" || a.Name == "priority"
	for _, name := range a.fields {
		f := field{Name: name, IsNeeded: isNeeded}
		switch name {
		case "reason":
			f.Label = "Reason"
		case "to_queue":
			f.Label, f.Hint = "To queue", "the same"
		case "priority":
			f.Label = "Priority"
		case "run_at":
			f.Label, f.Hint = "Not before (UTC)", "now"
		case "over":
			f.Label, f.Hint = "Spread over", "2 hours"
		case "until":
			f.Label, f.Hint = "Until (UTC)", "it is resumed"
		case "setting":
			f.Label = "Setting"
		}
		if isNeeded {
			f.Hint = ""
		}
		fields = append(fields, f)
	}
	return fields
}

// rights returns the names of the actions that the user's database role may do. None for a user who only reads.
func (p *page) rights(q queryer) ([]string, error) {
	if !p.user.MayChange {
		return nil, nil
	}
	var names, functions []string
	for _, a := range actions {
		names, functions = append(names, a.Name), append(functions, a.function)
	}
	rows, err := rowsOf[struct{ Name string }](q, `
		select a.name
		  from unnest($1::text[], $2::text[]) a(name, function)
		 where has_function_privilege(to_regprocedure(a.function), 'execute')`, names, functions)
	var may []string
	for _, row := range rows {
		may = append(may, row.Name)
	}
	return may, err
}

// offered returns the actions that a user may do to something in a state; "" for any state.
func offered(may []string, of, state string) (offers []action) {
	for _, a := range actions {
		if a.of == of && slices.Contains(may, a.Name) && (state == "" || slices.Contains(a.states, state)) {
			offers = append(offers, a)
		}
	}
	return offers
}

// mostForm bounds the form of an action.
const mostForm = 512 << 10

// refusal is an answer to what is not done.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

func refuse(status int, text string) error { return refusal{status, text} }

// readAction reads the form of an action, and refuses who may not change anything.
func (p *page) readAction(w http.ResponseWriter, r *http.Request) (a action, form url.Values, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := r.ParseForm(); err != nil {
		return a, nil, refuse(http.StatusBadRequest, "This can't be read, or is too long.")
	}
	at := slices.IndexFunc(actions, func(a action) bool { return a.of != "" && a.Name == r.PostForm.Get("action") })
	switch {
	case at < 0:
		return a, nil, refuse(http.StatusBadRequest, "There is no such action.")
	case !p.user.MayChange:
		return a, nil, refuse(http.StatusForbidden, "You may read here, and change nothing.")
	}
	return actions[at], r.PostForm, nil
}

// act does what a form asks for. The form has no key of this process: a request of another site's is known by what the
// browser says of it, so it works with several processes, and after a restart. What the user may not do is refused,
// whether it was offered or not.
func (p *page) act(w http.ResponseWriter, r *http.Request) {
	a, form, err := p.readAction(w, r)
	if err == nil {
		switch form.Get("scope") {
		case "selected":
			err = p.actOnSelected(w, a, form)
		case "all":
			err = p.actOnAll(w, r, a, form)
		default:
			switch a.of {
			case ofArgs:
				err = p.edit(w, r, a, form)
			case ofNothing:
				err = p.enqueue(w, r, a, form)
			default:
				err = p.actOnOne(w, r, a, form)
			}
		}
	}
	if err != nil {
		status, text := failedAction(err)
		p.send(w, status, "message", p.message(text))
	}
}

// log returns a log of an action.
func (p *page) log(a action, pairs ...any) *logger {
	log := p.h.options.Log.With("action", a.Name, "database", p.Database, "user", strconv.Quote(p.user.Name))
	return &logger{p, log.With(pairs...)}
}

// target is what an action is done to.
type target struct {
	subjects []any  // the first arguments of the action's statement
	looked   string // the state of the first of them, as a statement
	seen     string // the state that the user has seen; "" for any
	back     string // the address that shows what became of it
	named    []any  // in the log
}

// target reads from a form what an action is done to.
func (p *page) target(a action, form url.Values) (to target, err error) {
	to.seen = form.Get("seen")
	name := func(field string) string {
		text, e := url.QueryUnescape(form.Get(field))
		if text = clean(text); e != nil || text == "" {
			err = refuse(http.StatusBadRequest, "The "+field+" has no name that can be read.")
		}
		to.subjects = append(to.subjects, text)
		to.named = append(to.named, field, strconv.Quote(text))
		return text
	}
	switch a.of {
	case ofQueue:
		to.looked, to.back = queueStateSQL, p.Link("/queue", "name", name("queue"))
	case ofSchedule:
		to.looked, to.back = scheduleStateSQL, p.Link("/schedule", "name", name("schedule"))
	case ofGroup:
		to.looked, to.back = queueStateSQL, p.Link("/groups", "queue", name("queue"))
		name("group")
	default:
		id, refused := idOf(form.Get(a.of))
		if id == nil || refused != "" {
			return to, refuse(http.StatusBadRequest, "The id of a "+a.of+" is a whole number.")
		}
		to.looked, to.back = jobStateSQL, p.JobLink(*id)
		if a.of == ofChange {
			to.looked, to.back = changeStateSQL, p.ChangeLink(*id)
		}
		to.subjects, to.named = []any{*id}, []any{a.of, *id}
	}
	return to, err
}

// do does an action to one thing, if it is as the user has seen it, and logs that.
func (p *page) do(a action, to target, arguments []any) error {
	err := p.transaction(pgx.ReadWrite, func(q queryer) error {
		if err := expect(q, to.looked, to.subjects[0], to.seen); err != nil {
			return err
		}
		if err := expectQueue(q, a, arguments); err != nil {
			return err
		}
		_, err := q.Exec(q, a.statement, append(to.subjects, arguments...)...)
		return err
	})
	return p.log(a, to.named...).done(err)
}

// actOnOne does an action to a job, a queue, a group, a schedule or a change, and leads back to its page.
func (p *page) actOnOne(w http.ResponseWriter, r *http.Request, a action, form url.Values) error {
	arguments, err := a.arguments(form)
	if err != nil {
		return err
	}
	to, err := p.target(a, form)
	if err != nil {
		return err
	}
	p.patience = 2 // it may wait for claim_wait
	if err := p.do(a, to, arguments); err != nil {
		return err
	}
	if a.Name == "delete" {
		to.back = p.Link("/jobs")
	}
	http.Redirect(w, r, to.back, http.StatusSeeOther)
	return nil
}

// arguments reads the fields of a form, which are nil where nothing is written.
func (a action) arguments(form url.Values) (arguments []any, err error) {
	for _, f := range a.Fields() {
		text := clean(form.Get(f.Name))
		if f.Name != "to_queue" { // whose name may begin with a space
			text = strings.TrimSpace(text)
		}
		if text == "" && f.IsNeeded {
			return nil, refuse(http.StatusBadRequest, f.Label+" is missing.")
		}
		var value any
		switch {
		case f.Name == "setting":
			if value, err = settingOf(text, strings.TrimSpace(clean(form.Get("value")))); err != nil {
				return nil, err
			}
		case text == "":
		case f.Name == "priority":
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 4 {
				return nil, refuse(http.StatusBadRequest, "A priority is a number from 1 to 4.")
			}
			value = n
		case f.Name == "run_at", f.Name == "until":
			at, err := parseTime(text)
			if err != nil {
				return nil, refuse(http.StatusBadRequest, notATime)
			}
			value = at
		default:
			value = text
		}
		arguments = append(arguments, value)
	}
	return arguments, nil
}

// options are the fields of a form as start_change takes them.
func (a action) options(form url.Values) ([]byte, []any, error) {
	if a.change == "retry" {
		a.fields = append(slices.Clone(a.fields), "over")
	}
	arguments, err := a.arguments(form)
	if err != nil {
		return nil, nil, err
	}
	options := map[string]any{}
	for i, name := range a.fields {
		switch value := arguments[i].(type) {
		case nil:
		case time.Time:
			options[name] = value.Format(time.RFC3339Nano)
		default:
			options[strings.TrimPrefix(name, "to_")] = value
		}
	}
	text, err := json.Marshal(options)
	return text, arguments, err
}

const notATime = "A time is written as 2026-12-01 10:30, in UTC."

// settingOf returns a setting of a queue as configure_queue takes it. Without a value, its default holds again.
func settingOf(name, value string) ([]byte, error) {
	if !slices.Contains(shownSettings, name) {
		return nil, refuse(http.StatusBadRequest, "There is no such setting.")
	}
	var as any = json.RawMessage(value) // a number, true, or an object
	if value == "" {
		as = nil
	} else if !json.Valid([]byte(value)) {
		as = value
	}
	return json.Marshal(map[string]any{name: as})
}

// What a job, a queue, a schedule or a change is like; no row where there is none.
const (
	jobStateSQL   = `select j.state::text from awa.job($1) j`
	queueStateSQL = `select case when q.paused_at is null then 'open' else 'paused' end
		  from awa.list_queues() q where q.queue = $1`
	scheduleStateSQL = `select ` + scheduleState + ` from awa.list_schedules() s where s.name = $1`
	scheduleState    = `case when s.paused_at is not null then 'paused'
		       when s.failures > 0 or s.is_ahead then 'failing' else 'open' end`
	changeStateSQL = `select c.state::text from awa.list_changes(before_id => $1 + 1, max_changes => 1) c
		 where c.change_id = $1`
)

// changedError says that a job or a queue is not what the user has seen, or is not there.
type changedError struct{ now string }

func (e changedError) Error() string {
	if e.now == "" {
		return "it is not there"
	}
	return "it is " + e.now + " now"
}

// expect refuses to act on what is not there, or, where the form says what the user has seen, is not so any more: a
// page may be old, and may have changed under the pointer.
func expect(q queryer, sql string, subject any, seen string) error {
	row, err := rowOf[struct{ State string }](q, sql, subject)
	switch {
	case err != nil:
		return err
	case row == nil:
		return changedError{}
	case seen != "" && row.State != seen:
		return changedError{row.State}
	}
	return nil
}

// expectQueue refuses to send jobs to a queue that is not there: the name may be wrong, and would make one.
func expectQueue(q queryer, a action, arguments []any) error {
	at := slices.Index(a.fields, "to_queue")
	if at < 0 || arguments[at] == nil {
		return nil
	}
	row, err := rowOf[struct{ State string }](q, queueStateSQL, arguments[at])
	if err == nil && row == nil {
		err = refuse(http.StatusConflict, "Not done: there is no queue of this name. Write it as the page of queues does.")
	}
	return err
}

// failedAction says why an action was not done.
func failedAction(err error) (status int, text string) {
	var pgErr *pgconn.PgError
	var changed changedError
	var refused refusal
	switch {
	case errors.As(err, &refused):
		return refused.status, refused.text
	case errors.As(err, &changed):
		return http.StatusConflict, "Not done: " + changed.Error() + ". Look again."
	case !errors.As(err, &pgErr):
		return http.StatusServiceUnavailable, "The database can't be reached. Look whether it was done."
	case pgErr.Code == "42501":
		return http.StatusForbidden, "The database role may not do this."
	case pgErr.Code == "57014":
		return http.StatusServiceUnavailable, "It took too long, and was not done."
	}
	return http.StatusConflict, "Not done: " + pgErr.Message + ". " + pgErr.Hint
}
