package ui

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Failures are counted by kind and cause, and the jobs of a cause can be listed, and retried all at once.
func TestFailuresByCause(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	s.execute(`select awa.enqueue('q', case n % 2 when 0 then 'mail' else '<script>' end) from generate_series(1, 20) n`,
		`select awa.discard(job_id, receipt, format('user %s: dial tcp 10.0.0.%s:443: <refused>', job_id, job_id))
		   from awa.claim('q', 20)`,
		`select awa.enqueue('q', 'mail')`,
		`select awa.discard(job_id, receipt, '{"token": hidden-1}') from awa.claim('q', 1)`)
	page := s.as("ada", "/failures")
	assert.Contains(t, page, "user ?: dial tcp ?: &lt;refused&gt;")
	assert.NotContains(t, page, "<script>")
	assert.NotContains(t, page, "hidden-1")
	assert.Equal(t, 3, strings.Count(page, `<th scope="row">`))
	assert.Equal(t, 2, strings.Count(s.as("ada", "/failures?kind=mail&queue=q&since=1+hour"), `<th scope="row">`))
	assert.Contains(t, s.as("ada", "/failures?queue=none"), "Nothing failed.")
	assert.NotContains(t, s.as("viewer", "/failures"), "/awa/preview")

	link := regexp.MustCompile(`href="(/awa/jobs\?cause=user[^"]*kind=mail[^"]*)"`).FindStringSubmatch(page)
	require.NotNil(t, link)
	list := s.as("ada", html.UnescapeString(link[1]))
	assert.Equal(t, 10, strings.Count(list, `name="job"`))
	form := formOf(t, s.as("ada", "/failures?kind=mail"), "/awa/preview")
	assert.Equal(t, `{"kind":"mail","cause":"user ?: dial tcp ?: \u003crefused\u003e"}`, form.Get("filter"))
	form.Set("action", "retry")
	shown := s.post("/preview", form, "X-Name", "ada")
	assert.Contains(t, shown.Body.String(), "10 jobs. Nothing was changed.")
	begun := s.post("/act", formOf(t, shown.Body.String(), "/awa/act"), "X-Name", "ada")
	require.Equal(t, http.StatusSeeOther, begun.Code, begun.Body.String())
	s.execute(`select awa.apply_changes()`, `select awa.apply_changes()`)
	s.execute(`select awa.enqueue('slow', 'wait')`,
		`select awa.fail(job_id, receipt, 'no', '1 hour') from awa.claim('slow', 1)`)
	waiting := formOf(t, s.as("ada", "/failures?queue=slow"), "/awa/preview")
	assert.Equal(t, `{"queue":"slow","state":"retryable","kind":"wait","cause":"no"}`, waiting.Get("filter"))
	assert.Equal(t, "10", s.text(`select count(*)::text from awa.jobs j where j.state = 'available' and j.kind = 'mail'`))
}

// The page of a schedule draws its last jobs, and how long they ran.
func TestLastTimesOfASchedule(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(`select awa.schedule('mine', 'q', 'k', '0 3 * * *')`, `select awa.schedule('other', 'q', 'k', '0 4 * * *')`,
		`select awa.trigger_schedule('other')`, `select awa.enqueue('q', 'k')`,
		`select awa.trigger_schedule('mine') from generate_series(1, 40)`,
		`select awa.complete(job_id, receipt) from awa.claim('q', 12)`,
		`select awa.discard(job_id, receipt, 'no') from awa.claim('q', 1)`,
		`select from awa.claim('q', 1)`)
	page := s.page("/schedule?name=mine")
	assert.Equal(t, mostRuns, strings.Count(page, `<rect class="bar `))
	assert.Equal(t, 1, strings.Count(page, `<rect class="bar failed"`))
	assert.Equal(t, 1, strings.Count(page, `<rect class="bar running"`))
	assert.Regexp(t, `UTC: running, \d`, page)
	assert.NotRegexp(t, ` (x|y|height)="-`, page)
	assert.Equal(t, 1, strings.Count(s.page("/schedule?name=other"), `<rect class="bar `))
	h := s.handler.(*Handler)
	p := h.newPage(t.Context(), "", User{})
	p.query, p.isFeed = url.Values{"name": {"mine"}}, true
	_, read := schedulePage(p)
	assert.Empty(t, read.(scheduleView).Runs.Data, "they are read for watchers")
	s.execute(`select awa.schedule('new', 'q', 'another', '0 4 * * *')`)
	assert.Contains(t, s.page("/schedule?name=new"), "None is among the newest jobs")
}
