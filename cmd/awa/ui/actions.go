package ui

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// action is something that a user may do to a job or a queue.
type action struct {
	Name, Text string
	isOfQueue  bool
	function   string   // with the types of its arguments: the right to call it is the right to do this
	states     []string // of jobs for which it is offered
	statement  string   // with the job's id, or the queue's name, as $1
	takeReason bool
}

// actions are all that can be done from a page.
var actions = []action{
	{
		Name: "cancel", Text: "Cancel", function: "awa.cancel(bigint,text)",
		states:    []string{"scheduled", "retryable", "available", "running"},
		statement: `select awa.cancel(job_id => $1, reason => $2)`, takeReason: true,
	},
	{
		Name: "retry", Text: "Retry now", function: "awa.retry(bigint,text,integer,timestamptz)",
		states:    []string{"failed", "dead", "cancelled", "scheduled", "retryable"},
		statement: `select awa.retry(job_id => $1)`,
	},
	{
		Name: "pause", Text: "Pause", isOfQueue: true, function: "awa.pause_queue(text)",
		statement: `select awa.pause_queue(queue => $1)`,
	},
	{
		Name: "resume", Text: "Resume", isOfQueue: true, function: "awa.resume_queue(text)",
		statement: `select awa.resume_queue(queue => $1)`,
	},
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

// offered returns the actions of a job in a state.
func offered(may []string, state string) (offers []action) {
	for _, a := range actions {
		if !a.isOfQueue && slices.Contains(may, a.Name) && slices.Contains(a.states, state) {
			offers = append(offers, a)
		}
	}
	return offers
}

// offeredOfQueue returns the actions of a queue.
func offeredOfQueue(may []string, isPaused bool) (offers []action) {
	for _, a := range actions {
		if a.isOfQueue && slices.Contains(may, a.Name) && (a.Name == "resume") == isPaused {
			offers = append(offers, a)
		}
	}
	return offers
}

// TakesReason says whether a form has a field for a reason.
func (a action) TakesReason() bool { return a.takeReason }

// act does what a form asks for, and leads back to the page of the job or the queue. The form has no key of this
// process: a request of another site's is known by what the browser says of it, so it works with several processes, and
// after a restart. What the user may not do is refused, whether it was offered or not.
func (p *page) act(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) { p.send(w, status, "message", p.message(text)) }
	r.Body = http.MaxBytesReader(w, r.Body, 128<<10)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "This can't be read, or is too long.")
		return
	}
	form := r.PostForm
	at := slices.IndexFunc(actions, func(a action) bool { return a.Name == form.Get("action") })
	if at < 0 {
		refuse(http.StatusBadRequest, "There is no such action.")
		return
	}
	if !p.user.MayChange {
		refuse(http.StatusForbidden, "You may read here, and change nothing.")
		return
	}
	a := actions[at]
	queue, err := url.QueryUnescape(form.Get("queue"))
	if queue = clean(queue); a.isOfQueue && (err != nil || queue == "") {
		refuse(http.StatusBadRequest, "The queue has no name that can be read.")
		return
	}
	back, subject, looked := p.Link("/queue", "name", queue), any(queue), queueStateSQL
	if !a.isOfQueue {
		id, refused := idOf(form.Get("job"))
		if id == nil || refused != "" {
			refuse(http.StatusBadRequest, "The id of a job is a whole number.")
			return
		}
		back, subject, looked = p.JobLink(*id), *id, jobStateSQL
	}
	arguments := []any{subject}
	if a.takeReason {
		arguments = append(arguments, optional(clean(strings.TrimSpace(form.Get("reason")))))
	}
	p.patience = 2 // it may wait for claim_wait
	log := p.h.options.Log.With("action", a.Name, "database", p.Database, "user", strconv.Quote(p.user.Name))
	if a.isOfQueue {
		log = log.With("queue", strconv.Quote(queue))
	} else {
		log = log.With("job", subject)
	}
	err = p.transaction(pgx.ReadWrite, func(q queryer) error {
		if err := expect(q, looked, subject, form.Get("seen")); err != nil {
			return err
		}
		_, err := q.Exec(q, a.statement, arguments...)
		return err
	})
	if err != nil {
		status, text := failedAction(err)
		log.WarnContext(p.ctx, "an action failed", "error", err)
		refuse(status, text)
		return
	}
	log.InfoContext(p.ctx, "an action was done")
	http.Redirect(w, r, back, http.StatusSeeOther)
}

// What a job or a queue is like; no row where there is none.
const (
	jobStateSQL   = `select j.state::text from awa.job($1) j`
	queueStateSQL = `select case when q.paused_at is null then 'open' else 'paused' end
		  from awa.list_queues() q where q.queue = $1`
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

// failedAction says why an action was not done.
func failedAction(err error) (status int, text string) {
	var pgErr *pgconn.PgError
	var changed changedError
	switch {
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
