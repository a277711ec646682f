package ui

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// as returns a page as a user of newTeam sees it.
func (s *site) as(name, address string) string {
	s.t.Helper()
	request := httptest.NewRequest("GET", address, nil)
	request.Header.Set("X-Name", name)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, request)
	require.Equal(s.t, http.StatusOK, w.Code, address)
	return w.Body.String()
}

// formOf reads the inputs of the form on a page that leads to an address, as a browser would send them.
func formOf(t *testing.T, page, to string) url.Values {
	t.Helper()
	form := regexp.MustCompile(`(?s)<form[^>]* action="` + regexp.QuoteMeta(to) + `"[^>]*>.*?</form>`).FindString(page)
	require.NotEmpty(t, form, "no form to %s: %s", to, page)
	values := url.Values{}
	for _, input := range regexp.MustCompile(`<input[^>]*>`).FindAllString(form, -1) {
		name := regexp.MustCompile(` name="([^"]*)"`).FindStringSubmatch(input)
		value := regexp.MustCompile(` value="([^"]*)"`).FindStringSubmatch(input)
		if name != nil && value != nil {
			values.Add(name[1], html.UnescapeString(value[1]))
		}
	}
	areas := regexp.MustCompile(`(?s)<textarea name="(\w+)"[^>]*>\n(.*?)</textarea>`)
	for _, area := range areas.FindAllStringSubmatch(form, -1) {
		values.Add(area[1], strings.ReplaceAll(html.UnescapeString(area[2]), "\n", "\r\n"))
	}
	return values
}

// Each action of jobs is done to one, with what it needs, and recorded with the name of the user.
func TestActionsOfJobs(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	s.execute(`select awa.configure_queue('other', '{}')`)
	id := s.enqueue("q", "k", `{}`)
	act := func(action string, pairs ...string) *httptest.ResponseRecorder {
		form := url.Values{"action": {action}, "job": {id}}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		return s.post("/act", form, "X-Name", "ada")
	}
	one := func(column string) (value string) {
		row := s.owner.QueryRow(t.Context(), `select to_jsonb(j) ->> $1 from awa.job($2::text::bigint) j`, column, id)
		require.NoError(t, row.Scan(&value))
		return value
	}
	page := s.as("ada", "/job/"+id)
	for action, isOffered := range map[string]bool{
		"cancel": true, "retry": false, "discard": true, "move": true, "priority": true, "delete": false,
	} {
		assert.Equal(t, isOffered, strings.Contains(page, `name="action" value="`+action+`"`), action)
	}
	assert.Equal(t, http.StatusBadRequest, act("move").Code)
	assert.Equal(t, http.StatusBadRequest, act("priority").Code)
	assert.Equal(t, http.StatusBadRequest, act("priority", "priority", "9").Code)
	unknown := act("move", "to_queue", "mistyped")
	assert.Equal(t, http.StatusConflict, unknown.Code)
	assert.Contains(t, unknown.Body.String(), "there is no queue of this name")
	assert.Equal(t, http.StatusNotFound, s.get("/queue?name=mistyped").Code)
	assert.Equal(t, http.StatusSeeOther, act("move", "to_queue", "other").Code)
	assert.Equal(t, "other", one("queue"))
	assert.Equal(t, http.StatusSeeOther, act("priority", "priority", "4").Code)
	assert.Equal(t, "4", one("priority"))
	assert.Equal(t, http.StatusConflict, act("delete").Code)
	assert.Equal(t, http.StatusSeeOther, act("discard", "reason", "broken").Code)
	assert.Equal(t, "dead", one("state"))
	assert.Equal(t, http.StatusBadRequest, act("retry", "run_at", "soon").Code)
	assert.Equal(t, http.StatusConflict, act("retry", "to_queue", "mistyped").Code)
	assert.Equal(t, http.StatusSeeOther,
		act("retry", "to_queue", "q", "priority", "1", "run_at", "2131-05-01 09:00").Code)
	assert.Equal(t, "scheduled q 1", one("state")+" "+one("queue")+" "+one("priority"))
	assert.Equal(t, "2131-05-01T09:00:00+00:00", one("run_at"))
	act("cancel", "reason", "not wanted")
	deleted := act("delete")
	assert.Equal(t, "/awa/jobs", deleted.Header().Get("Location"))
	assert.Equal(t, http.StatusNotFound, s.get("/job/"+id).Code)

	var recorded string
	row := s.owner.QueryRow(t.Context(), `select string_agg(c.action || ' ' || c.actor, ', ' order by c.change_id)
		from awa.list_changes() c where c.filter ->> 'job_id' = $1`, id)
	require.NoError(t, row.Scan(&recorded))
	assert.Equal(t, "move ada, set_priority ada, discard ada, retry ada, cancel ada, delete ada", recorded)
}

// The jobs that were selected are shown first, and then changed one by one; one that is not as it was shown is left.
func TestSelectedJobs(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	var ids []string
	for range 4 {
		ids = append(ids, s.enqueue("q", "k", `{"token": "hidden-1"}`))
	}
	list := s.as("ada", "/jobs?queue=q")
	assert.Equal(t, 4, strings.Count(list, `name="job"`))
	assert.Equal(t, `{"queue":"q"}`, formOf(t, list, "/awa/preview").Get("filter"))
	s.execute(`select awa.cancel(` + ids[0] + `)`)
	form := url.Values{"action": {"cancel"}, "scope": {"selected"}, "job": ids}
	shown := s.post("/preview", form, "X-Name", "ada")
	assert.Equal(t, http.StatusOK, shown.Code)
	assert.Contains(t, shown.Body.String(), "3 jobs. Nothing was changed.")
	assert.Contains(t, shown.Body.String(), "Left as they are")
	assert.NotContains(t, shown.Body.String(), "hidden-1")
	assert.Equal(t, "available", s.state(ids[1]))

	do := formOf(t, shown.Body.String(), "/awa/act")
	assert.Len(t, do["job"], 3)
	assert.Equal(t, []string{"available", "available", "available"}, do["seen"])
	s.execute(`select awa.reschedule(` + ids[1] + `, '2131-01-01')`)
	done := s.post("/act", do, "X-Name", "ada")
	assert.Equal(t, http.StatusOK, done.Code, done.Body.String())
	assert.Contains(t, done.Body.String(), "2 of 3 jobs were changed.")
	assert.Contains(t, done.Body.String(), "Not done: it is scheduled now.")
	assert.Equal(t, "scheduled cancelled cancelled", s.state(ids[1])+" "+s.state(ids[2])+" "+s.state(ids[3]))
	again := s.post("/act", do, "X-Name", "ada")
	assert.Equal(t, http.StatusConflict, again.Code)

	many := make([]string, mostSelected+1)
	for n := range many {
		many[n] = fmt.Sprint(n + 1)
	}
	for _, jobs := range [][]string{nil, {"x"}, many} {
		for _, path := range []string{"/preview", "/act"} {
			form := url.Values{"action": {"cancel"}, "scope": {"selected"}, "job": jobs}
			assert.Equal(t, http.StatusBadRequest, s.post(path, form, "X-Name", "ada").Code)
		}
	}
}

// All that match are counted first, and then changed by maintenance, with progress and a stop; dead letters are retried
// in another queue, with another priority, and over a time.
func TestAllThatMatch(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	s.execute(`select awa.configure_queue('slow', '{}')`,
		`select awa.discard_job(awa.enqueue('q', 'k', jsonb_build_object('customer', n % 2)), 'no')
		   from generate_series(1, 30) n`,
		`select awa.enqueue('q', 'k', '{"customer": 1}')`)
	dead := s.as("ada", "/dead?queue=q")
	form := formOf(t, dead, "/awa/preview")
	assert.Equal(t, `{"queue":"q","state":"dead"}`, form.Get("filter"))
	assert.NotContains(t, dead, `value="cancel"`)
	form.Set("action", "retry")
	form.Set("scope", "all")
	shown := s.post("/preview", form, "X-Name", "ada")
	require.Equal(t, http.StatusOK, shown.Code)
	assert.Contains(t, shown.Body.String(), "30 jobs. Nothing was changed.")
	assert.Contains(t, shown.Body.String(), "The first of them")
	do := formOf(t, shown.Body.String(), "/awa/act")
	do.Set("to_queue", "slow")
	do.Set("priority", "4")
	do.Set("over", "2 hours")
	begun := s.post("/act", do, "X-Name", "ada")
	require.Equal(t, http.StatusSeeOther, begun.Code, begun.Body.String())
	change := begun.Header().Get("Location")
	running := s.as("ada", change)
	assert.Contains(t, running, "0 changed, 0 skipped, so far")
	assert.Contains(t, running, `value="stop"`)
	assert.NotContains(t, s.as("viewer", change), `value="stop"`)
	s.execute(`select awa.apply_changes()`, `select awa.apply_changes()`)
	finished := s.as("ada", change)
	assert.Contains(t, finished, "30 changed, 0 skipped")
	assert.Contains(t, finished, "ada")
	assert.NotContains(t, finished, `value="stop"`)
	var n int
	row := s.owner.QueryRow(t.Context(), `select count(*) from awa.jobs j
		where j.queue = 'slow' and j.priority = 4 and j.state = 'scheduled'`)
	require.NoError(t, row.Scan(&n))
	assert.Greater(t, n, 20)

	// A filter by arguments stays out of addresses, and its values are not shown.
	found := s.post("/jobs?state=scheduled", url.Values{"args": {`{"customer": 1}`}}, "X-Name", "ada").Body.String()
	form = formOf(t, found, "/awa/preview")
	form.Set("action", "cancel")
	form.Set("scope", "all")
	shown = s.post("/preview", form, "X-Name", "ada")
	do = formOf(t, shown.Body.String(), "/awa/act")
	begun = s.post("/act", do, "X-Name", "ada")
	change = begun.Header().Get("Location")
	id := strings.TrimPrefix(change, "/awa/change?id=")
	stop := url.Values{"action": {"stop"}, "change": {id}, "seen": {"running"}}
	assert.Equal(t, http.StatusForbidden, s.post("/act", stop, "X-Name", "viewer").Code)
	assert.Equal(t, http.StatusForbidden, s.post("/act", stop, "X-Name", "ada", "Sec-Fetch-Site", "cross-site").Code)
	stopped := s.post("/act", stop, "X-Name", "ada")
	assert.Equal(t, change, stopped.Header().Get("Location"))
	assert.Contains(t, s.as("ada", change), "stopped</span>")
	assert.Equal(t, http.StatusConflict, s.post("/act", stop, "X-Name", "ada").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/change?id=999").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/change?id=x").Code)
}

// Who may only read is offered no form, and refused each of them; a filter that would match all is not taken, nor one
// that the pages did not write; and a name in a preview is text.
func TestAllThatMatchIsRefused(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	const script = `"'><script>alert(1)</script>`
	id := s.enqueue(script, script, `{}`)
	address := "/jobs?" + url.Values{"queue": {script}}.Encode()
	for _, name := range []string{"guest", "viewer"} {
		list := s.as(name, address)
		assert.NotContains(t, list, "/awa/preview", name)
		assert.NotContains(t, list, `type="checkbox"`, name)
	}
	selected := url.Values{"scope": {"selected"}, "job": {id}}
	all := url.Values{"scope": {"all"}, "filter": {`{"kind":"k"}`}}
	for _, a := range actions {
		if a.of != ofJob {
			continue
		}
		for _, form := range []url.Values{selected, all} {
			form.Set("action", a.Name)
			form.Set("to_queue", script)
			form.Set("priority", "1")
			for _, path := range []string{"/preview", "/act"} {
				for _, name := range []string{"guest", "viewer"} {
					assert.Equal(t, http.StatusForbidden, s.post(path, form, "X-Name", name).Code, "%s %s %s", path, a.Name, form)
				}
				other := s.post(path, form, "X-Name", "ada", "Sec-Fetch-Site", "cross-site")
				assert.Equal(t, http.StatusForbidden, other.Code)
			}
		}
	}
	assert.Equal(t, "available", s.state(id))
	for _, filter := range []string{
		"", "{}", "[]", `{"state":"gone"}`, `{"queue":"q","x":1}`, `{"queue":"q"}{}`, `{"args":null}`,
	} {
		form := url.Values{"action": {"cancel"}, "scope": {"all"}, "filter": {filter}}
		for _, path := range []string{"/preview", "/act"} {
			assert.Equal(t, http.StatusBadRequest, s.post(path, form, "X-Name", "ada").Code, filter)
		}
	}
	assert.Empty(t, formOf(t, s.as("ada", "/jobs"), "/awa/preview").Get("filter"))
	pause := url.Values{"action": {"pause"}, "scope": {"all"}, "filter": {`{"kind":"k"}`}, "job": {id}}
	assert.Equal(t, http.StatusBadRequest, s.post("/act", pause, "X-Name", "ada").Code)
	pause.Set("scope", "selected")
	assert.Equal(t, http.StatusBadRequest, s.post("/act", pause, "X-Name", "ada").Code)

	form := formOf(t, s.as("ada", address), "/awa/preview")
	form.Set("action", "cancel")
	form.Set("scope", "all")
	shown := s.post("/preview", form, "X-Name", "ada").Body.String()
	assert.NotContains(t, shown, "<script>")
	assert.Contains(t, shown, "1 job. Nothing was changed.")
	begun := s.post("/act", formOf(t, shown, "/awa/act"), "X-Name", "ada")
	require.Equal(t, http.StatusSeeOther, begun.Code)
	assert.NotContains(t, s.as("ada", begun.Header().Get("Location")), "<script>")
	s.execute(`select awa.apply_changes()`)
	assert.Equal(t, "cancelled", s.state(id))
}

// A preview of very many jobs counts some of them, and says that there are more.
func TestPreviewOfManyJobs(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	s.execute(`select count(*) from generate_series(1, 120) n, lateral (
		   select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', 'q', 'kind', 'k',
		     'args', jsonb_build_object('n', n + m)))) from generate_series(1, 1000) m) e`,
		`select awa.fold()`)
	for filter, want := range map[string]string{
		`{"queue":"q"}`:                       `: 120,000 jobs\. Nothing was changed\.`,
		`{"queue":"q","state":"available"}`:   `: 120,000 jobs\. Nothing was changed\.`,
		`{"kind":"k"}`:                        `: more than \d+,\d\d\d jobs\. Nothing was changed\.`,
		`{"kind":"none","state":"available"}`: `: 0 jobs\.|none was found in the time for the count`,
	} {
		form := url.Values{"action": {"cancel"}, "scope": {"all"}, "filter": {filter}}
		shown := s.post("/preview", form, "X-Name", "ada").Body.String()
		assert.Regexp(t, want, shown, filter)
		assert.Less(t, len(shown), 20_000)
	}
}
