package ui

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// text reads one text of the database.
func (s *site) text(sql string, arguments ...any) (text string) {
	s.t.Helper()
	require.NoError(s.t, s.owner.QueryRow(s.t.Context(), sql, arguments...).Scan(&text), sql)
	return text
}

const argsOf = `select j.args::text from awa.job($1::text::bigint) j`

// The arguments of a job that has not begun are edited, and those of one that has ended, which runs again; what is
// hidden stays as it was, and numbers come out as they went in.
func TestEditedArguments(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	const args = `{"id": 12345678901234567890123, "note": "</textarea><script>", "token": "hidden-1"}`
	for _, end := range []string{
		"", `select awa.discard_job($1::text::bigint, 'no')`, `select awa.cancel($1::text::bigint)`,
	} {
		id := s.enqueue("q", "k", args)
		if end != "" {
			s.text(end, id)
		}
		state := s.state(id)
		assert.Contains(t, s.as("ada", "/job/"+id), `/awa/job/`+id+`/edit`)
		page := s.as("ada", "/job/"+id+"/edit")
		assert.NotContains(t, page, "hidden-1")
		assert.NotContains(t, page, "<script>")
		form := formOf(t, page, "/awa/act")
		form.Set("args", strings.Replace(form.Get("args"), `"note"`, `"other"`, 1))
		done := s.post("/act", form, "X-Name", "ada")
		require.Equal(t, http.StatusSeeOther, done.Code, done.Body.String())
		assert.Equal(t, "/awa/job/"+id, done.Header().Get("Location"))
		assert.Equal(t, `{"id": 12345678901234567890123, "other": "</textarea><script>", "token": "hidden-1"}`,
			s.text(argsOf, id), state)
		assert.Equal(t, "available", s.state(id), state)
		assert.Equal(t, http.StatusConflict, s.post("/act", form, "X-Name", "ada").Code, "what was seen has changed")
		assert.Equal(t, "ada", s.text(`select max(c.actor) from awa.list_changes() c where c.action = 'reschedule'
			and c.filter = jsonb_build_object('job_id', $1::text::bigint)`, id))
	}

	id := s.enqueue("q", "k", args)
	form := formOf(t, s.as("ada", "/job/"+id+"/edit"), "/awa/act")
	for edited, status := range map[string]int{
		`{`: 400, `1 2`: 400, `{"other_token": "***"}`: 400, ``: 400, `"` + strings.Repeat("x", mostForm) + `"`: 400,
	} {
		form.Set("args", edited)
		refused := s.post("/act", form, "X-Name", "ada")
		assert.Equal(t, status, refused.Code, edited)
		assert.NotContains(t, refused.Body.String(), "hidden-1")
	}
	form.Set("args", `{"a": 1}`)
	form.Set("run_at", "2131-01-01")
	for _, name := range []string{"guest", "viewer"} {
		assert.NotContains(t, s.as(name, "/job/"+id), "/edit", name)
		assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", name).Code, name)
	}
	assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", "ada", "Sec-Fetch-Site", "cross-site").Code)
	assert.Equal(t, args, s.text(argsOf, id))
	s.text(`select awa.reschedule($1::text::bigint, now(), '{"b": 1}')`, id)
	conflict := s.post("/act", form, "X-Name", "ada")
	assert.Equal(t, http.StatusConflict, conflict.Code)
	assert.Contains(t, conflict.Body.String(), "its arguments are other ones now")
	form.Set("masked", "{\r\n  \"b\": 1\r\n}")
	assert.Equal(t, http.StatusSeeOther, s.post("/act", form, "X-Name", "ada").Code)
	assert.Equal(t, `scheduled {"a": 1}`, s.state(id)+" "+s.text(argsOf, id))
	s.execute(`select awa.complete(job_id, receipt) from awa.claim('q', 1)`)
	for _, address := range []string{"/job/1/edit", "/job/999/edit"} {
		assert.Contains(t, []int{403, 404, 409}, s.get(address).Code)
	}
}

// A new job is enqueued, from nothing or like another one, whose hidden values stay; what is refused can be written
// better.
func TestNewJob(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	assert.Contains(t, s.as("ada", "/jobs"), `href="/awa/new"`)
	form := formOf(t, s.as("ada", "/new"), "/awa/act")
	form.Set("queue", `<script>`)
	form.Set("kind", `k`)
	form.Set("args", `{"n": 12345678901234567890123, "password": "hidden-1"}`)
	form.Set("tags", "a tag, b,,")
	form.Set("group", "g")
	form.Set("run_at", "2131-01-01 10:00")
	form.Set("priority", "9")
	refused := s.post("/act", form, "X-Name", "ada")
	assert.Equal(t, http.StatusConflict, refused.Code)
	assert.Contains(t, refused.Body.String(), "priority must be between 1 and 4")
	assert.NotContains(t, refused.Body.String(), "<script>")
	form = formOf(t, refused.Body.String(), "/awa/act")
	form.Set("priority", "1")
	done := s.post("/act", form, "X-Name", "ada")
	require.Equal(t, http.StatusSeeOther, done.Code, done.Body.String())
	id := strings.TrimPrefix(done.Header().Get("Location"), "/awa/job/")
	assert.Equal(t, `<script> k {"n": 12345678901234567890123, "password": "hidden-1"} 1 {"a tag",b} g `+
		`2131-01-01 10:00:00`,
		s.text(`select concat_ws(' ', j.queue, j.kind, j.args, j.priority, j.tags, j.group_key, j.run_at at time zone 'UTC')
		          from awa.job($1::text::bigint) j`, id))
	assert.Contains(t, s.log.String(), "job="+id)

	page := s.as("ada", "/new?like="+id)
	assert.NotContains(t, page, "hidden-1")
	assert.Contains(t, s.as("ada", "/job/"+id), `href="/awa/new?like=`+id+`"`)
	form = formOf(t, page, "/awa/act")
	form.Set("args", strings.Replace(form.Get("args"), "123,", "124,", 1))
	like := s.post("/act", form, "X-Name", "ada")
	require.Equal(t, http.StatusSeeOther, like.Code, like.Body.String())
	copied := strings.TrimPrefix(like.Header().Get("Location"), "/awa/job/")
	assert.Equal(t, `{"n": 12345678901234567890124, "password": "hidden-1"}`, s.text(argsOf, copied))
	assert.Equal(t, "<script> {\"a tag\",b}", s.text(
		`select concat_ws(' ', j.queue, j.tags) from awa.job($1::text::bigint) j`, copied))

	for _, name := range []string{"guest", "viewer"} {
		assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", name).Code, name)
		assert.NotContains(t, s.as(name, "/jobs"), "/new")
	}
	assert.Equal(t, http.StatusForbidden, s.get("/new").Code)
	assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", "ada", "Origin", "https://evil.example").Code)
	for field, value := range map[string]string{
		"args": "{", "priority": "x", "run_at": "soon", "max_attempts": "1.5", "queue": "", "kind": "",
	} {
		wrong := url.Values{"action": {"enqueue"}, "queue": {"q"}, "kind": {"k"}, "args": {"{}"}}
		wrong.Set(field, value)
		assert.Contains(t, []int{400, 409}, s.post("/act", wrong, "X-Name", "ada").Code, field)
	}
	assert.Equal(t, "2", s.text(`select count(*)::text from awa.jobs`))
}

// Schedules are paused, resumed and triggered, settings are changed, and groups are paused, in the name of the user.
func TestActionsOfSchedulesAndQueues(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	const name = "a\nb<script>"
	s.execute(`select awa.schedule(E'a\nb<script>', E'a\nb<script>', 'k', '0 3 * * *')`,
		`select awa.enqueue(E'a\nb<script>', 'k', group_key => 'g')`)
	address := "/schedule?" + url.Values{"name": {name}}.Encode()
	act := func(form url.Values, pairs ...string) int {
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", "guest").Code, form)
		other := s.post("/act", form, "X-Name", "ada", "Sec-Fetch-Site", "same-site")
		assert.Equal(t, http.StatusForbidden, other.Code)
		viewer := s.post("/act", form, "X-Name", "viewer").Code
		code := s.post("/act", form, "X-Name", "ada").Code
		if code == http.StatusSeeOther {
			assert.Equal(t, http.StatusForbidden, viewer, form)
		}
		assert.GreaterOrEqual(t, viewer, 400)
		return code
	}
	assert.NotContains(t, s.as("viewer", address), "/awa/act")
	page := s.as("ada", address)
	assert.NotContains(t, page, "<script>")
	assert.NotContains(t, page, `value="resume_schedule"`)
	pause := url.Values{"action": {"pause_schedule"}, "schedule": {url.QueryEscape(name)}, "seen": {"open"}}
	assert.Equal(t, http.StatusSeeOther, act(pause, "reason", "not now"))
	assert.Equal(t, http.StatusConflict, act(pause))
	paused := s.as("ada", address)
	assert.Contains(t, paused, "not now")
	assert.NotContains(t, paused, `value="pause_schedule"`)
	pause.Set("seen", "paused")
	assert.Equal(t, http.StatusSeeOther, act(pause, "action", "trigger_schedule"))
	assert.Equal(t, http.StatusSeeOther, act(pause, "action", "resume_schedule"))
	assert.Equal(t, http.StatusConflict, act(pause, "action", "trigger_schedule", "schedule", "none", "seen", ""))
	assert.Equal(t, http.StatusBadRequest, act(pause, "schedule", ""))

	queue := url.Values{"action": {"configure"}, "queue": {url.QueryEscape(name)}}
	for _, one := range [][]string{
		{"lease", "90 seconds"}, {"max_running", "7"}, {"dead_letter", "true"}, {"deadline", ""},
	} {
		assert.Equal(t, http.StatusSeeOther, act(queue, "setting", one[0], "value", one[1]), one)
	}
	assert.Equal(t, http.StatusConflict, act(queue, "setting", "lease", "value", "soon"))
	assert.Equal(t, http.StatusBadRequest, act(queue, "setting", "paused_at", "value", "1"))
	assert.Equal(t, "00:01:30 7 true", s.text(`select concat_ws(' ', q.lease, q.max_running, q.dead_letter::text)
		from awa.list_queues() q`))

	groups := "/groups?" + url.Values{"queue": {name}}.Encode()
	assert.Contains(t, s.as("ada", "/queue?"+url.Values{"name": {name}}.Encode()), "/awa/groups?queue=")
	group := url.Values{"queue": {url.QueryEscape(name)}, "group": {url.QueryEscape("g/" + name)}}
	assert.Equal(t, http.StatusSeeOther, act(group, "action", "pause_group", "reason", "late", "until", "2131-01-01"))
	assert.Equal(t, http.StatusBadRequest, act(group, "until", "soon"))
	closed := s.as("ada", groups)
	assert.Contains(t, closed, "late")
	assert.NotContains(t, closed, "<script>")
	assert.Equal(t, url.QueryEscape("g/"+name), group.Get("group"))
	assert.Contains(t, closed, `value="`+url.QueryEscape("g/"+name)+`"`)
	assert.NotContains(t, s.as("viewer", groups), "/awa/act")
	assert.Equal(t, http.StatusSeeOther, act(group, "action", "resume_group", "until", ""))
	assert.NotContains(t, s.as("ada", groups), "paused</span>")
	assert.Equal(t, http.StatusNotFound, s.get("/groups").Code)

	assert.Equal(t, "pause_schedule, trigger_schedule, resume_schedule, configure_queue, configure_queue, "+
		"configure_queue, configure_queue, pause_group, resume_group",
		s.text(`select string_agg(c.action, ', ' order by c.change_id) from awa.list_changes() c where c.actor = 'ada'`))
	assert.NotContains(t, s.as("ada", "/changes"), "<script>")
}

// A job with large arguments is changed like any other; only these are not edited on a page.
func TestActionsOfLargeJobs(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	id := s.text(`select awa.enqueue('q', 'k', jsonb_build_object('text', repeat('x', 30000000)))::text`)
	ask := func(address string) (int, string) {
		request := httptest.NewRequest("GET", address, nil)
		request.Header.Set("X-Name", "ada")
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, request)
		return w.Code, w.Body.String()
	}
	for _, address := range []string{"/job/" + id + "/edit", "/new?like=" + id} {
		code, text := ask(address)
		assert.Equal(t, http.StatusConflict, code, address)
		assert.Contains(t, text, "too large to be edited")
		assert.Less(t, len(text), 10_000)
	}
	form := url.Values{"action": {"cancel"}, "scope": {"selected"}, "job": {id}}
	shown := s.post("/preview", form, "X-Name", "ada").Body.String()
	assert.Contains(t, shown, "1 job. Nothing was changed.")
	assert.Less(t, len(shown), 10_000)
	done := s.post("/act", formOf(t, shown, "/awa/act"), "X-Name", "ada")
	assert.Contains(t, done.Body.String(), "1 of 1 jobs was changed.")
	for _, action := range []string{"retry", "discard", "delete"} {
		one := url.Values{"action": {action}, "job": {id}}
		assert.Equal(t, http.StatusSeeOther, s.post("/act", one, "X-Name", "ada").Code, action)
	}
}
