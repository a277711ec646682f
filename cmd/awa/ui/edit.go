package ui

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// argsText is the arguments of a job as text.
type argsText struct {
	State string
	Text  string
	Bytes int64
}

const argsSQL = `
	select j.state::text, coalesce(left(a.text, $2), ''), coalesce(octet_length(a.text), pg_column_size(j.args))::bigint
	  from awa.job($1) j
	 cross join lateral (select case when pg_column_size(j.args) < $2 then j.args::text end) a(text)`

// maskedArgs are the arguments of a job as a form shows them: in lines, with what is hidden hidden. It refuses large
// ones.
func (p *page) maskedArgs(args argsText) (string, error) {
	if args.Bytes > shownBytes {
		return "", refuse(http.StatusConflict, "These arguments are too large to be edited here: use psql.")
	}
	var lines bytes.Buffer
	if err := json.Indent(&lines, p.h.masker.JSON([]byte(args.Text)), "", "  "); err != nil {
		return "", err
	}
	return lines.String(), nil
}

// unmasked puts back what was hidden in edited arguments.
func (p *page) unmasked(edited string, original []byte) ([]byte, error) {
	args, err := p.h.masker.Restore([]byte(clean(edited)), original)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "Not done: the arguments are "+strings.TrimPrefix(err.Error(), "no JSON: ")+
			". Write JSON, and leave *** where a hidden value is to stay.")
	}
	return args, nil
}

// editView is the form for the arguments of a job.
type editView struct {
	*page
	ID      int64
	Seen    string // the state of the job
	Masked  string // its arguments as they were shown
	Args    string // as they are written in the form
	RunAt   string
	Refused string
}

// editPage shows the form for the arguments of a job.
func (p *page) editPage(w http.ResponseWriter, id int64) {
	p.Title, p.Section = "Job "+strconv.FormatInt(id, 10)+": arguments", "jobs"
	v := editView{page: p, ID: id}
	err := p.transaction(pgx.ReadOnly, func(q queryer) error {
		if err := p.mayDo(q, "edit", "retry"); err != nil {
			return err
		}
		args, err := rowOf[argsText](q, argsSQL, id, shownBytes+1)
		if err != nil {
			return err
		}
		if args == nil {
			return refuse(http.StatusNotFound, "There is no such job, or it is not kept any more.")
		}
		v.Seen = args.State
		if !slices.Contains(actionOf("edit").states, v.Seen) {
			return refuse(http.StatusConflict, "The arguments of a job in this state can't be edited.")
		}
		v.Masked, err = p.maskedArgs(*args)
		v.Args = v.Masked
		return err
	})
	if err != nil {
		status, text := failedAction(err)
		p.send(w, status, "message", p.message(text))
		return
	}
	p.send(w, http.StatusOK, "edit", v)
}

// actionOf returns the action of a name.
func actionOf(name string) action {
	return actions[slices.IndexFunc(actions, func(a action) bool { return a.Name == name })]
}

// edit gives a job other arguments: one that has not begun at its time, and one that has ended runs again.
func (p *page) edit(w http.ResponseWriter, r *http.Request, a action, form url.Values) error {
	id, refused := idOf(form.Get("job"))
	if id == nil || refused != "" {
		return refuse(http.StatusBadRequest, "The id of a job is a whole number.")
	}
	v := editView{
		page: p, ID: *id, Seen: form.Get("seen"), Masked: lines(form.Get("masked")), Args: form.Get("args"),
		RunAt: strings.TrimSpace(form.Get("run_at")),
	}
	var runAt *time.Time
	if v.RunAt != "" {
		at, err := parseTime(v.RunAt)
		if err != nil {
			return refuse(http.StatusBadRequest, notATime)
		}
		runAt = &at
	}
	p.patience = 2
	err := p.transaction(pgx.ReadWrite, func(q queryer) error {
		if err := p.mayDo(q, "edit", "retry"); err != nil {
			return err
		}
		if err := expect(q, jobStateSQL, *id, v.Seen); err != nil {
			return err
		}
		before, err := rowOf[argsText](q, argsSQL, *id, shownBytes+1)
		if err != nil || before == nil {
			return cmpError(err, changedError{})
		}
		masked, err := p.maskedArgs(*before)
		if err != nil {
			return err
		}
		if masked != v.Masked {
			return refuse(http.StatusConflict, "Not done: its arguments are other ones now. Look again.")
		}
		args, err := p.unmasked(v.Args, []byte(before.Text))
		if err != nil {
			return err
		}
		if slices.Contains(lost, before.State) { // it is scheduled first, since only what has not begun gets other arguments
			const soon = `select awa.retry(job_id => $1, run_at => clock_timestamp() + interval '1 minute')`
			if _, err := q.Exec(q, soon, *id); err != nil {
				return err
			}
			_, err = q.Exec(q, `select awa.reschedule(job_id => $1, run_at => coalesce($2, clock_timestamp()), args => $3)`,
				*id, runAt, args)
			return err
		}
		_, err = q.Exec(q, `
			select awa.reschedule(job_id => j.id, run_at => coalesce($2, j.run_at), args => $3) from awa.job($1) j`,
			*id, runAt, args)
		return err
	})
	if p.log(a, "job", *id).done(err) != nil {
		p.Title, p.Section = "Job "+strconv.FormatInt(*id, 10)+": arguments", "jobs"
		var status int
		status, v.Refused = failedAction(err)
		p.send(w, status, "edit", v)
		return nil
	}
	http.Redirect(w, r, p.JobLink(*id), http.StatusSeeOther)
	return nil
}

// lines returns a text of a form with the ends of lines that it had: a browser makes CR LF of them.
func lines(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

// newJobView is the form for a new job.
type newJobView struct {
	*page
	Like    string // the id of a job whose hidden values stay
	Queue   string
	Kind    string
	Args    string
	Refused string

	Priority, RunAt, MaxAttempts, Tags, Group string
}

// newJobPage shows the form for a new job, which may be like another one.
func newJobPage(p *page) (string, any) {
	p.Title, p.Section = "New job", "jobs"
	v := newJobView{page: p, Like: p.Get("like"), Args: "{}"}
	err := p.transaction(pgx.ReadOnly, func(q queryer) error {
		if err := p.mayDo(q, "enqueue"); err != nil || v.Like == "" {
			return err
		}
		id, refused := idOf(v.Like)
		if id == nil || refused != "" {
			return refuse(http.StatusNotFound, "There is no such job: its id is a whole number.")
		}
		head, err := rowOf[jobHead](q, jobSQL, *id)
		if err != nil {
			return err
		}
		args, err := rowOf[argsText](q, argsSQL, *id, shownBytes+1)
		if err != nil {
			return err
		}
		if head == nil || args == nil {
			return refuse(http.StatusNotFound, "There is no such job, or it is not kept any more.")
		}
		v.Queue, v.Kind, v.Group = head.Queue, head.Kind, deref(head.GroupKey)
		v.Priority, v.MaxAttempts = strconv.Itoa(head.Priority), strconv.Itoa(head.MaxAttempts)
		v.Tags = strings.Join(head.AllTags, ", ")
		v.Args, err = p.maskedArgs(*args)
		return err
	})
	if err != nil {
		var text string
		p.status, text = failedAction(err)
		return "message", p.message(text)
	}
	return "new", v
}

const enqueueSQL = `
	select awa.enqueue(queue => $1, kind => $2, args => $3, priority => $4, run_at => $5, max_attempts => $6,
	  tags => $7, group_key => $8)`

// enqueue enqueues a new job, and leads to its page. What is refused is shown again, to be written better.
func (p *page) enqueue(w http.ResponseWriter, r *http.Request, a action, form url.Values) error {
	get := func(name string) string { return strings.TrimSpace(clean(form.Get(name))) }
	v := newJobView{
		page: p, Like: get("like"), Queue: clean(form.Get("queue")), Kind: clean(form.Get("kind")), Args: form.Get("args"),
		Priority: get("priority"), RunAt: get("run_at"), MaxAttempts: get("max_attempts"), Tags: get("tags"),
		Group: clean(form.Get("group")),
	}
	p.Title, p.Section, p.patience = "New job", "jobs", 2
	var id int64
	err := p.transaction(pgx.ReadWrite, func(q queryer) (err error) {
		if err := p.mayDo(q, "enqueue"); err != nil {
			return err
		}
		arguments, err := v.arguments(q)
		if err != nil {
			return err
		}
		return q.QueryRow(q, enqueueSQL, arguments...).Scan(&id)
	})
	if p.log(a, "job", id, "queue", strconv.Quote(v.Queue)).done(err) != nil {
		var status int
		status, v.Refused = failedAction(err)
		p.send(w, status, "new", v)
		return nil
	}
	http.Redirect(w, r, p.JobLink(id), http.StatusSeeOther)
	return nil
}

// arguments are those of enqueueSQL.
func (v newJobView) arguments(q queryer) ([]any, error) {
	number := func(text string) (any, error) {
		if text == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "Not done: a priority, and a number of attempts, are whole numbers.")
		}
		return n, nil
	}
	priority, err := number(v.Priority)
	if err != nil {
		return nil, err
	}
	attempts, err := number(v.MaxAttempts)
	if err != nil {
		return nil, err
	}
	var runAt *time.Time
	if v.RunAt != "" {
		at, err := parseTime(v.RunAt)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, notATime)
		}
		runAt = &at
	}
	var tags []string
	for tag := range strings.SplitSeq(v.Tags, ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	original := []byte("null")
	if like, _ := idOf(v.Like); like != nil {
		before, err := rowOf[argsText](q, argsSQL, *like, shownBytes+1)
		if err != nil {
			return nil, err
		}
		if before != nil && before.Bytes <= shownBytes {
			original = []byte(before.Text)
		}
	}
	args, err := v.unmasked(v.Args, original)
	return []any{v.Queue, v.Kind, args, priority, runAt, attempts, tags, optional(v.Group)}, err
}

// IsWaiting says whether the job has not begun.
func (v editView) IsWaiting() bool { return !slices.Contains(lost, v.Seen) }

// Newline is what a browser leaves out at the beginning of a text of many lines: without it, it would leave out the
// first one of the text.
func (v editView) Newline() string { return "\n" }

// Newline is as that of editView.
func (v newJobView) Newline() string { return "\n" }
