package ui

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
)

// shownBytes is how much of a value a page shows: the rest can be downloaded.
const shownBytes = 64 << 10

// value is a large value of a job: its first characters, and how many bytes it has. Numbers are as they came in, since
// it is a text all the way.
type value struct {
	Name  string
	Text  string
	Bytes int64
	IsCut bool // there is more than what is shown
}

// attemptError is an element of a job's errors.
type attemptError struct {
	Attempt, Error, Details, By *string
	At                          *time.Time
	IsPutOff                    bool
	Omitted                     *string
}

// jobHead is a job without its large values.
type jobHead struct {
	jobRow
	DeadlineAt, HeartbeatAt, ExpiresAt *time.Time
	UniqueKey                          *string
	WorkerID                           *int64
	Receipt                            *int64
	AllTags                            []string
	Explained                          string
}

type oneJob struct {
	jobHead
	Values   []value
	Errors   []attemptError
	Timeline timeline
	Actions  []action
	MayEdit  bool // its arguments
	MayCopy  bool
}

// mask hides what is not to be seen.
func (j *oneJob) mask(masker *mask.Masker) {
	j.Explained = masker.Text(j.Explained)
	for i := range j.Values {
		j.Values[i].Text = string(masker.JSON([]byte(j.Values[i].Text)))
	}
	for i := range j.Errors {
		maskText(masker, j.Errors[i].Error)
		maskText(masker, j.Errors[i].Details)
	}
}

// maskText hides what is not to be seen of a text, in its place.
func maskText(masker *mask.Masker, text *string) {
	if text != nil {
		*text = masker.Text(*text)
	}
}

type jobView struct {
	*page
	ID  int64
	Job panel[*oneJob]
}

const (
	jobSQL = `
		select j.id, j.kind, j.queue, j.state::text, j.priority, j.attempt, j.max_attempts, j.created_at, j.run_at,
		       j.attempted_at, j.finalized_at, '{}'::text[], j.group_key, null::text, null::text,
		       j.deadline_at, j.heartbeat_at, j.expires_at, j.unique_key, j.worker_id, j.receipt, j.tags[1:101],
		       awa.explain_job(j.id)
		  from awa.job($1) j`
	valuesSQL = `
		select v.name, left(v.text, $2), octet_length(v.text)::bigint, char_length(v.text) > $2
		  from awa.job($1) j
		 cross join lateral (values ('args', j.args::text), ('metadata', j.metadata::text),
		          ('progress', j.progress::text), ('output', j.output::text)) v(name, text)
		 where v.text is not null`
	errorsSQL = `
		select e.value ->> 'attempt', left(e.value ->> 'error', 4000), left(e.value ->> 'details', 2000),
		       e.value ->> 'by', (e.value ->> 'at')::timestamptz, coalesce((e.value ->> 'put_off')::boolean, false),
		       e.value ->> 'omitted'
		  from awa.job($1) j
		 cross join lateral jsonb_array_elements(j.errors) with ordinality e(value, n)
		 order by e.n`
	wholeSQL = `
		select case $2 when 'args' then j.args::text when 'metadata' then j.metadata::text
		         when 'progress' then j.progress::text when 'output' then j.output::text
		         when 'errors' then j.errors::text end
		  from awa.job($1) j`
)

// serveJob serves the page of a job, /job/42, or a download of one of its values, /job/42/args.
func (h *Handler) serveJob(w http.ResponseWriter, p *page, rest string) {
	text, part, isDownload := strings.Cut(rest, "/")
	id, refused := idOf(text)
	if id == nil || refused != "" {
		p.send(w, http.StatusNotFound, "message", p.message("There is no such job: its id is a whole number."))
		return
	}
	if isDownload && part == "edit" {
		p.editPage(w, *id)
		return
	}
	if isDownload {
		p.download(w, *id, part)
		return
	}
	p.Title, p.Section = "Job "+text, "jobs"
	v := jobView{page: p, ID: *id}
	v.Job = read(p, "Its values may be very large: call awa.job in psql.", func(q queryer) (*oneJob, error) {
		head, err := rowOf[jobHead](q, jobSQL, *id)
		if err != nil || head == nil {
			return nil, err
		}
		job := &oneJob{jobHead: *head}
		if job.Values, err = rowsOf[value](q, valuesSQL, *id, shownBytes); err != nil {
			return nil, err
		}
		if job.Errors, err = rowsOf[attemptError](q, errorsSQL, *id); err != nil {
			return nil, err
		}
		may, err := p.rights(q)
		if err != nil {
			return nil, err
		}
		job.Actions = offered(may, ofJob, job.State)
		job.MayEdit = slices.Contains(may, "retry") && len(offered(may, ofArgs, job.State)) > 0
		job.MayCopy = slices.Contains(may, "enqueue")
		job.mask(h.masker)
		job.Timeline = newTimeline(job, p.clock())
		return job, nil
	})
	if v.Job.Failed == "" && v.Job.Data == nil {
		p.send(w, http.StatusNotFound, "message", p.message("There is no such job, or it is not kept any more."))
		return
	}
	p.send(w, http.StatusOK, "job", v)
}

// download sends one value of a job whole. It is in memory until it is sent, so few are sent at a time.
func (p *page) download(w http.ResponseWriter, id int64, part string) {
	wait := time.NewTimer(p.h.options.Timeout)
	defer wait.Stop()
	select {
	case p.h.large <- struct{}{}:
		defer func() { <-p.h.large }()
	case <-p.ctx.Done():
		return
	case <-wait.C:
		w.Header().Set("Retry-After", "60")
		p.send(w, http.StatusServiceUnavailable, "message", p.message("Others download now: try again."))
		return
	}
	result := read(p, "Read it in psql.", func(q queryer) (*string, error) {
		text, err := rowOf[struct{ Text *string }](q, wholeSQL, id, part)
		if err != nil || text == nil {
			return nil, err
		}
		return text.Text, nil
	})
	switch {
	case result.Failed != "":
		p.send(w, http.StatusServiceUnavailable, "message", p.message(result.Failed))
	case result.Data == nil:
		p.send(w, http.StatusNotFound, "message", p.message("There is no such value."))
	default:
		header := w.Header()
		header.Set("Content-Type", "application/json; charset=utf-8")
		name := "job-" + strconv.FormatInt(id, 10) + "-" + part + ".json"
		header.Set("Content-Disposition", `attachment; filename="`+name+`"`)
		p.write(w, p.h.masker.JSON([]byte(*result.Data)))
	}
}

// NewLike is the address of the form for a job that is like this one.
func (v jobView) NewLike() string { return v.Link("/new", "like", strconv.FormatInt(v.ID, 10)) }
