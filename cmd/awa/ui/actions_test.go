package ui

import (
	"context"
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

// post sends a form, as a page of this site or of another one does.
func (s *site) post(address string, form url.Values, header ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest("POST", address, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, request)
	return w
}

// state is that of a job.
func (s *site) state(id string) (state string) {
	s.t.Helper()
	row := s.owner.QueryRow(s.t.Context(), `select state::text from awa.job($1::text::bigint)`, id)
	require.NoError(s.t, row.Scan(&state))
	return state
}

// newTeam returns pages whose user is the one that a header names: a viewer, or an operator.
func newTeam(t *testing.T) *site {
	s := newSite(t, Options{Prefix: "/awa", User: func(r *http.Request) (User, bool) {
		name := r.Header.Get("X-Name")
		user := User{Name: name, MayChange: name != "guest"}
		if name == "ada" || name == "guest" {
			user.Role = operator
		}
		return user, true
	}})
	return s
}

// operator is a role that reads and operates, which tests make.
const operator = "awa_test_ui_operator"

// withOperator makes the role, for all tests that use the server, and lets the pool's login become it.
func (s *site) withOperator() {
	s.t.Cleanup(func() { _, _ = s.owner.Exec(context.Background(), "drop role "+operator) })
	s.execute(`do $$
		begin
		  create role `+operator+`;
		exception when duplicate_object then null;
		end $$`,
		`grant awa_reader, awa_operator, awa_producer to `+operator)
}

// An operator is offered what the job and the role allow, and it is done in the operator's name; nobody else can do it.
func TestActions(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	id := s.enqueue("q", "k", `{}`)
	read := func(name, address string) string {
		request := httptest.NewRequest("GET", address, nil)
		request.Header.Set("X-Name", name)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, request)
		require.Equal(t, http.StatusOK, w.Code)
		return w.Body.String()
	}
	for _, name := range []string{"guest", "viewer"} { // one may only read, though the role may more, and the role of one
		assert.NotContains(t, read(name, "/job/"+id), "/awa/act", name)
		assert.NotContains(t, read(name, "/queue?name=q"), "/awa/act", name)
		for _, form := range []url.Values{
			{"action": {"cancel"}, "job": {id}}, {"action": {"retry"}, "job": {id}},
			{"action": {"pause"}, "queue": {"q"}}, {"action": {"resume"}, "queue": {"q"}},
		} {
			assert.Equal(t, http.StatusForbidden, s.post("/act", form, "X-Name", name).Code, "%s %s", name, form)
		}
	}
	assert.Equal(t, "available", s.state(id))

	job := read("ada", "/job/"+id)
	assert.Contains(t, job, `value="cancel"`)
	assert.NotContains(t, job, `value="retry"`)
	cancel := url.Values{"action": {"cancel"}, "job": {id}, "reason": {"not wanted"}}
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example.com"}, {"Origin", "null"},
	} {
		response := s.post("/awa/act", cancel, append(header, "X-Name", "ada")...)
		assert.Equal(t, http.StatusForbidden, response.Code, header)
	}
	assert.Equal(t, "available", s.state(id))
	done := s.post("/awa/act", cancel, "X-Name", "ada", "Sec-Fetch-Site", "same-origin")
	assert.Equal(t, http.StatusSeeOther, done.Code, done.Body.String())
	assert.Equal(t, "/awa/job/"+id, done.Header().Get("Location"))
	assert.Equal(t, "cancelled", s.state(id))
	assert.Contains(t, read("ada", "/job/"+id), "not wanted")
	assert.Contains(t, read("ada", "/changes"), ">ada</span>")
	again := s.post("/act", cancel, "X-Name", "ada")
	assert.Equal(t, http.StatusConflict, again.Code)

	retry := s.post("/act", url.Values{"action": {"retry"}, "job": {id}}, "X-Name", "ada")
	assert.Equal(t, http.StatusSeeOther, retry.Code)
	assert.Equal(t, "available", s.state(id))
	assert.Contains(t, read("ada", "/queue?name=q"), `value="pause"`)
	pause := s.post("/act", url.Values{"action": {"pause"}, "queue": {"q"}}, "X-Name", "ada")
	assert.Equal(t, "/awa/queue?name=q", pause.Header().Get("Location"))
	paused := read("ada", "/queue?name=q")
	assert.Contains(t, paused, "Paused since")
	assert.Contains(t, paused, `value="resume"`)
	s.post("/act", url.Values{"action": {"resume"}, "queue": {"q"}}, "X-Name", "ada")
	assert.NotContains(t, read("ada", "/queue?name=q"), "Paused since")

	for _, form := range []url.Values{
		{}, {"action": {"drop"}}, {"action": {"cancel"}, "job": {"x"}}, {"action": {"cancel"}},
	} {
		assert.Equal(t, http.StatusBadRequest, s.post("/act", form, "X-Name", "ada").Code, form)
	}
	gone := s.post("/act", url.Values{"action": {"cancel"}, "job": {"999"}}, "X-Name", "ada")
	assert.Equal(t, http.StatusConflict, gone.Code)
	request := httptest.NewRequest("GET", "/act?action=cancel&job="+id, nil)
	request.Header.Set("X-Name", "ada")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, request)
	assert.Equal(t, http.StatusNotFound, w.Code)
	assert.Equal(t, "available", s.state(id))

	// The role ended with each transaction: the next reader of the connection does not have it.
	assert.Equal(t, http.StatusForbidden, s.post("/act", cancel, "X-Name", "viewer").Code)
}

// What the log says of an action names who did what to which job or queue; no action makes a queue, and none is done to
// what has changed since the page was read.
func TestActionsOnWhatWasSeen(t *testing.T) {
	s := newTeam(t)
	s.withOperator()
	id := s.enqueue("q", "k", `{}`)
	s.enqueue("a\nb", "k", `{}`)
	act := func(pairs ...string) int {
		form := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		return s.post("/act", form, "X-Name", "ada").Code
	}
	assert.Equal(t, http.StatusSeeOther, act("action", "pause", "queue", "q"))
	assert.Regexp(t, `action=pause database=awa_test_\w+ user="\\"ada\\"" queue="\\"q\\""`, s.log.String())

	assert.Equal(t, http.StatusConflict, act("action", "pause", "queue", "new"))
	assert.Equal(t, http.StatusNotFound, s.get("/queue?name=new").Code)
	assert.Equal(t, http.StatusBadRequest, act("action", "pause", "queue", ""))
	assert.Equal(t, http.StatusBadRequest, act("action", "pause", "queue", "%zz"))

	// The form of a queue whose name has the end of a line names it as a browser sends it.
	request := httptest.NewRequest("GET", "/queue?name=a%0Ab", nil)
	request.Header.Set("X-Name", "ada")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, request)
	name := regexp.MustCompile(`name="queue" value="([^"]*)"`).FindStringSubmatch(w.Body.String())
	require.NotNil(t, name)
	name[1] = strings.ReplaceAll(html.UnescapeString(name[1]), "\n", "\r\n")
	assert.Equal(t, http.StatusSeeOther, act("action", "pause", "queue", name[1], "seen", "open"))
	assert.Contains(t, s.page("/queue?name=a%0Ab"), "Paused since")

	assert.Equal(t, http.StatusConflict, act("action", "pause", "queue", "q", "seen", "open"))
	assert.Equal(t, http.StatusConflict, act("action", "cancel", "job", id, "seen", "scheduled"))
	assert.Equal(t, "available", s.state(id))
	assert.Equal(t, http.StatusSeeOther, act("action", "cancel", "job", id, "seen", "available"))
	assert.Contains(t, s.log.String(), " job="+id+"\n")
}
