package ui

import (
	"bytes"
	"context"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m, func() error { return goleak.Find() }) }

// patience is how long a test waits for what should happen soon, on a machine that may be very busy.
const patience = 2 * time.Minute

// site is a handler on a database of its own.
type site struct {
	t       *testing.T
	handler http.Handler
	owner   *pgx.Conn // who may do everything
	log     *bytes.Buffer
}

// newSite returns the pages of a database, read with no rights but those of awa_reader.
func newSite(t *testing.T, options Options) *site {
	t.Helper()
	databaseURL := testdb.URL(t)
	s := &site{t: t, owner: testdb.Connect(t, databaseURL), log: &bytes.Buffer{}}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	cfg.MaxConns = 4
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set role awa_reader")
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	if options.Timeout == 0 {
		options.Timeout = patience
	}
	options.Log = slog.New(slog.NewTextHandler(s.log, nil))
	s.handler, err = New(pool, options)
	require.NoError(t, err)
	return s
}

// execute runs statements as the owner.
func (s *site) execute(statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		_, err := s.owner.Exec(s.t.Context(), statement)
		require.NoError(s.t, err, statement)
	}
}

// enqueue returns the id of a new job, as text.
func (s *site) enqueue(queue, kind string, args string) (id string) {
	s.t.Helper()
	row := s.owner.QueryRow(s.t.Context(), `select awa.enqueue($1, $2, $3::text::jsonb)::text`, queue, kind, args)
	err := row.Scan(&id)
	require.NoError(s.t, err)
	return id
}

// get returns an answer.
func (s *site) get(address string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("GET", address, nil))
	return w
}

// page returns the text of a page, which has to be there, with all of its panels.
func (s *site) page(address string) string {
	s.t.Helper()
	response := s.get(address)
	require.Equal(s.t, http.StatusOK, response.Code, "%s: %s", address, response.Body)
	text := response.Body.String()
	require.False(s.t, strings.Contains(text, `class="failed"`), "%s: %s", address, s.log)
	require.Contains(s.t, text, "</html>", address)
	return text
}

// links are the addresses on a page.
var links = regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)

// crawl reads all pages that can be reached, and returns their addresses; each has to be below a prefix.
func (s *site) crawl(prefix string) (pages []string) {
	s.t.Helper()
	queue, seen := []string{prefix + "/"}, map[string]bool{}
	for len(queue) > 0 {
		address := queue[0]
		queue = queue[1:]
		if seen[address] {
			continue
		}
		seen[address] = true
		response := s.get(address)
		require.Equal(s.t, http.StatusOK, response.Code, address)
		pages = append(pages, address)
		if !strings.HasPrefix(response.Header().Get("Content-Type"), "text/html") {
			continue
		}
		require.False(s.t, strings.Contains(response.Body.String(), `class="failed"`), "%s: %s", address, s.log)
		for _, match := range links.FindAllStringSubmatch(response.Body.String(), -1) {
			link := html.UnescapeString(match[1])
			if strings.HasPrefix(link, "#") {
				continue
			}
			require.True(s.t, strings.HasPrefix(link, prefix+"/"), "%s on %s", link, address)
			if link != prefix+"/job" { // it needs an id
				queue = append(queue, link)
			}
		}
	}
	return pages
}

// fill makes a job in each state.
func (s *site) fill() {
	s.t.Helper()
	s.execute(
		`select awa.configure_queue('q', '{"dead_letter": true}')`,
		`select awa.enqueue('q', 'kind', '{"n": 1}', tags => array['a tag', 'b'], group_key => 'g/1')
		   from generate_series(1, 5)`,
		`select awa.complete(job_id, receipt, output => '{"out": 1}') from awa.claim('q', 1)`,
		`select awa.fail(job_id, receipt, 'it broke') from awa.claim('q', 1)`,
		`select awa.discard(job_id, receipt, 'no') from awa.claim('q', 1)`,
		`select from awa.claim('q', 1, awa.register_worker('host', '{q}'))`,
		`select awa.cancel(awa.enqueue('q', 'later', run_at => now() + interval '1 hour'), 'not wanted')`,
		`select awa.enqueue('q', 'later', run_at => now() + interval '1 hour')`,
		`select awa.enqueue('other', 'kind')`,
		`select awa.schedule('nightly/report', 'q', 'report', cron => '0 3 * * *', timezone => 'Europe/Paris')`,
		`select awa.schedule('often', 'q', 'report', every => '5 minutes')`,
		`select awa.pause_schedule('often', 'not now')`,
		`select set_config('awa.actor', 'ada', false)`,
		`select awa.set_priority(awa.enqueue('other', 'kind'), 1)`,
		`select awa.start_change('cancel', '{"queue": "nothing"}')`,
		`select awa.fold()`)
}

// Every page can be read, without jobs and with some in each state, and every address leads to one.
func TestPages(t *testing.T) {
	s := newSite(t, Options{})
	assert.Less(t, len(s.crawl("")), 20)
	s.fill()
	pages := s.crawl("")
	assert.Greater(t, len(pages), 40)
	assert.Contains(t, s.page("/"), `>other<`)
	assert.Contains(t, s.page("/jobs?state=dead"), "no")
	assert.Contains(t, s.page("/jobs?tag=a+tag"), "a tag")
	assert.Empty(t, s.log.String())
}

// The pages are below their prefix, whether a proxy has removed it from the path or not, with a slash at the end or
// not, and whatever is accepted.
func TestPrefix(t *testing.T) {
	s := newSite(t, Options{Prefix: "/admin/queue/"})
	s.fill()
	assert.Greater(t, len(s.crawl("/admin/queue")), 40)
	for _, address := range []string{
		"/admin/queue", "/admin/queue/", "/", "/jobs", "/jobs/", "/admin/queue/jobs/",
		"/admin/queue/jobs?state=dead", "//jobs",
	} {
		for _, accept := range []string{"", "*/*", "application/json", "text/html"} {
			request := httptest.NewRequest("GET", "/", nil)
			request.URL, _ = url.Parse("http://example.com" + address)
			request.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, request)
			assert.Equal(t, http.StatusOK, w.Code, address)
			for _, match := range links.FindAllStringSubmatch(w.Body.String(), -1) {
				assert.Regexp(t, "^(/admin/queue/|#main)", match[1], address)
			}
		}
	}
	assert.Equal(t, "/admin/queue/job/7", s.get("/job?id=+7").Header().Get("Location"))
	assert.Equal(t, http.StatusNotFound, s.get("/job?id=%2F%2Fexample.com").Code+
		s.get(s.get("/job?id=%2F%2Fexample.com").Header().Get("Location")).Code-http.StatusSeeOther)
	assert.Equal(t, http.StatusNotFound, s.get("/admin/queues").Code)
	for _, prefix := range []string{"/jobs", "/job/x", "/assets", "x", "/a//b", "/a/../b", "/a b", "/a\"", "//a", `/\a`} {
		_, err := New(s.handler.(*Handler).pool, Options{Prefix: prefix})
		assert.Error(t, err, prefix)
	}

	forwarded := newSite(t, Options{Prefix: "/a", PrefixOf: func(r *http.Request) string { return r.Header.Get("X-P") }})
	for prefix, want := range map[string]string{"/b/c": "/b/c/jobs", "": "/a/jobs", "//evil": "/a/jobs", "x": "/a/jobs"} {
		request := httptest.NewRequest("GET", "/", nil)
		request.Header.Set("X-P", prefix)
		w := httptest.NewRecorder()
		forwarded.handler.ServeHTTP(w, request)
		assert.Contains(t, w.Body.String(), `href="`+want+`"`)
	}
}

// A page holds no code, and says so; it can't be changed, framed or stored.
func TestHeaders(t *testing.T) {
	s := newSite(t, Options{})
	s.fill()
	for _, address := range s.crawl("") {
		response := s.get(address)
		header := response.Header()
		assert.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'", address)
		assert.NotContains(t, header.Get("Content-Security-Policy"), "unsafe")
		assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		if !strings.Contains(address, "/assets/") {
			assert.Equal(t, "no-store", header.Get("Cache-Control"), address)
		}
		if strings.HasPrefix(header.Get("Content-Type"), "text/html") {
			text := response.Body.String()
			assert.NotRegexp(t, `(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script>|https?://`, text, address)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, httptest.NewRequest(method, "/queues", nil))
		assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
	}
	refused := newSite(t, Options{User: func(*http.Request) (User, bool) { return User{}, false }})
	assert.Equal(t, http.StatusForbidden, refused.get("/").Code)
	assert.Equal(t, http.StatusForbidden, refused.get("/job/1/args").Code)
}

// Whatever producers and workers have written is shown as text.
func TestHostileTexts(t *testing.T) {
	s := newSite(t, Options{})
	const script = `"'><script>alert(1)</script>{{.}}`
	quoted := strings.ReplaceAll(script, "'", "''")
	s.execute(
		`select awa.enqueue('`+quoted+`', '`+quoted+`', jsonb_build_object('`+quoted+`', '`+quoted+`'),
		   tags => array['`+quoted+`'], group_key => '`+quoted+`', metadata => jsonb_build_object('a', '`+quoted+`'))
		   from generate_series(1, 2)`,
		`select awa.fail(job_id, receipt, '`+quoted+"\u202e\x1b"+`', details => jsonb_build_object('a', '`+quoted+`'))
		   from awa.claim('`+quoted+`', 1)`,
		`select awa.pause_queue('`+quoted+`')`,
		`select awa.schedule('`+quoted+`', '`+quoted+`', '`+quoted+`', every => '1 hour',
		   args => jsonb_build_object('a', '`+quoted+`'))`,
		`select awa.pause_schedule('`+quoted+`', '`+quoted+`')`,
		`select awa.register_worker('`+quoted+`', array['`+quoted+`'], info => jsonb_build_object('a', '`+quoted+`'))`,
		`select set_config('awa.actor', '`+quoted+`', false)`,
		`select awa.discard_job(awa.enqueue('`+quoted+`', 'k'), '`+quoted+`')`)
	shown := 0
	for _, address := range s.crawl("") {
		response := s.get(address)
		if !strings.HasPrefix(response.Header().Get("Content-Type"), "text/html") {
			continue
		}
		text := response.Body.String()
		assert.NotContains(t, text, "<script>", address)
		assert.NotContains(t, text, "\u202e", address)
		assert.NotContains(t, text, "\x1b", address)
		shown += strings.Count(text, "&lt;script&gt;")
	}
	assert.Greater(t, shown, 20)
	for _, name := range []string{"search", "after", "queue", "kind", "tag", "group", "state", "until", "before"} {
		for _, value := range []string{script, "\x00", "\xff", strings.Repeat("x", 5000)} {
			for _, page := range []string{"/queues", "/jobs", "/queue"} {
				response := s.get(page + "?" + url.Values{name: {value}}.Encode())
				assert.Contains(t, []int{200, 400, 404}, response.Code)
				assert.NotContains(t, response.Body.String(), "<script>")
			}
		}
	}
}

// Numbers come out as they went in, on the page and in the download.
func TestNumbersStayAsTheyAre(t *testing.T) {
	s := newSite(t, Options{})
	const args = `{"id": 12345678901234567890123, "price": 1.10}`
	id := s.enqueue("q", "k", args)
	for _, address := range []string{"/jobs", "/job/" + id} {
		assert.Contains(t, s.page(address), "12345678901234567890123", address)
		assert.Contains(t, s.page(address), "1.10", address)
	}
	download := s.get("/job/" + id + "/args")
	assert.Equal(t, args, download.Body.String())
	assert.Equal(t, `attachment; filename="job-`+id+`-args.json"`, download.Header().Get("Content-Disposition"))
	assert.Equal(t, http.StatusNotFound, s.get("/job/"+id+"/output").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/job/"+id+"/receipt").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/job/999/args").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/job/999").Code)
	assert.Equal(t, http.StatusNotFound, s.get("/job/x").Code)
}

// Lists show of large values how large they are, and the page of a job the first 64 KiB of them.
func TestLargeValues(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(`select awa.enqueue('q', 'k', jsonb_build_object('text', (select string_agg(md5(n::text), '')
		  from generate_series(1, 60000) n))) from generate_series(1, 3)`,
		`select awa.fail(job_id, receipt, repeat('e', 20000)) from awa.claim('q', 1)`)
	list := s.page("/jobs")
	assert.Less(t, len(list), 20_000)
	assert.Contains(t, list, "kB)")
	job := s.page("/job/1")
	assert.Contains(t, job, "The first 64 KiB of 1.8 MiB.")
	assert.Less(t, len(job), 100_000)
	assert.Greater(t, s.get("/job/1/args").Body.Len(), 1_900_000)
}

// Filters are in the address, but for the arguments, which are sent in a form.
func TestFilters(t *testing.T) {
	s := newSite(t, Options{})
	s.fill()
	secret := s.enqueue("q", "secret", `{"name": "jones-secret"}`)
	ids := func(text string) []string {
		var ids []string
		for _, match := range regexp.MustCompile(`<th scope="row"><a href="/job/(\d+)"`).FindAllStringSubmatch(text, -1) {
			ids = append(ids, match[1])
		}
		return ids
	}
	all := ids(s.page("/jobs"))
	assert.Len(t, all, 10)
	for query, want := range map[string]int{
		"state=dead": 1, "state=running": 1, "state=available": 4, "state=retryable": 1, "state=cancelled": 1,
		"state=completed": 1, "state=scheduled": 1, "kind=later": 2, "queue=other": 2, "tag=b": 5, "group=g%2F1": 5,
		"before=3": 2, "until=2000-01-01": 0, "until=2100-01-01+10:00": 10, "until=2100-01-01T10:00&kind=kind": 7,
	} {
		assert.Len(t, ids(s.page("/jobs?"+query)), want, query)
	}
	assert.Equal(t, http.StatusBadRequest, s.get("/jobs?state=nonsense").Code)
	assert.Equal(t, http.StatusBadRequest, s.get("/jobs?until=nonsense").Code)

	search := func(address, args string) *httptest.ResponseRecorder {
		request := httptest.NewRequest("POST", address, strings.NewReader(url.Values{"args": {args}}.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, request)
		return w
	}
	found := search("/jobs?queue=q", `{"name": "jones-secret"}`)
	assert.Equal(t, []string{secret}, ids(found.Body.String()))
	assert.NotRegexp(t, `(href|action)="[^"]*jones`, found.Body.String())
	assert.Equal(t, http.StatusBadRequest, search("/jobs", `{`).Code)
	assert.Equal(t, http.StatusBadRequest, search("/jobs", strings.Repeat("x", 200<<10)).Code)
	assert.NotContains(t, s.log.String(), "jones")

	// Pages follow each other, with the filter.
	s.execute(`select awa.enqueue('many', 'k') from generate_series(1, 120)`)
	assert.Len(t, s.all("/jobs?queue=many", regexp.MustCompile(`<th scope="row"><a href="/job/(\d+)"`)), 120)
}

// A list of queues has pages, in which one can search.
func TestQueuesArePaged(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(`select awa.enqueue('queue ' || lpad(n::text, 3, '0'), 'k') from generate_series(1, 120) n`)
	assert.Len(t, s.all("/queues", regexp.MustCompile(`>(queue \d+)</a>`)), 120)
	assert.Equal(t, pageLength+1, strings.Count(s.page("/queues"), "<tr>"))
	found := s.page("/queues?search=E+07")
	assert.Equal(t, 11, strings.Count(found, "<tr>"))
	assert.Contains(t, s.page("/"), "All 120 queues")
}

// A panel that can't be read leaves the others; what it says holds nothing of the database's address.
func TestPanelsFailAlone(t *testing.T) {
	s := newSite(t, Options{})
	s.fill()
	s.execute(`revoke execute on function awa.health() from awa_reader`)
	response := s.get("/")
	assert.Equal(t, http.StatusOK, response.Code)
	text := response.Body.String()
	assert.Contains(t, text, "The database role may not read this.")
	assert.Contains(t, text, ">other<")
	assert.Equal(t, 1, strings.Count(text, `class="failed"`))
	s.execute(`grant execute on function awa.health() to awa_reader`)

	gone, err := pgxpool.New(t.Context(), "postgres://u:hunter2@/db?host=/nowhere")
	require.NoError(t, err)
	defer gone.Close()
	s.handler, err = New(gone, Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	text = s.get("/").Body.String()
	assert.Equal(t, 3, strings.Count(text, "The database can&#39;t be reached."))
	assert.NotContains(t, text, "nowhere")
	assert.NotContains(t, text, "hunter2")
}

// Values of keys that are hidden are on no page, and in no download.
func TestMasking(t *testing.T) {
	s := newSite(t, Options{Mask: []string{"*phone*"}})
	s.execute(`select awa.enqueue('q', 'k', '{"phone": "hidden-1", "shown": 7, "deep": {"api_key": "hidden-2"}}',
		  metadata => '{"password": "hidden-3"}')`,
		`select awa.fail(job_id, receipt, 'sent {"token": "hidden-4"}', details => '{"phone": "hidden-5"}')
		   from awa.claim('q', 1)`)
	s.execute(`create or replace function awa.health() returns setof awa.health_row language sql stable as $$
		select 'warning', 'segment', 's', '{"token": "hidden-6"}', '{"phone": "hidden-7"}', '{}'::jsonb
		union all
		select 'warning', 'prune', 's', '{"token": "hidden-8"}', '{"phone": "hidden-9"}', '{}'::jsonb $$`,
		`create or replace function awa.health_of(topics text[] default null) returns setof awa.health_row
		language sql stable as $$ select * from awa.health() h where h.topic = any(topics) $$`)
	for _, address := range append(s.crawl(""), "/job/1/errors", "/job/1/metadata") {
		assert.NotContains(t, s.get(address).Body.String(), "hidden-", address)
	}
	assert.Contains(t, s.page("/job/1"), `&#34;shown&#34;: 7`)
	assert.Contains(t, s.get("/job/1/args").Body.String(), `"phone": "***"`)
}

// A page of another site's can lead here, and has nothing read otherwise; a link counts no jobs.
func TestRequestsOfOtherSites(t *testing.T) {
	s := newSite(t, Options{})
	s.enqueue("q", "k", `{}`)
	ask := func(address string, header ...string) int {
		request := httptest.NewRequest("GET", address, nil)
		for i, name := range []string{"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"}[:len(header)] {
			request.Header.Set(name, header[i])
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, request)
		assert.NotContains(t, w.Body.String(), "No job is missing")
		return w.Code
	}
	for _, address := range []string{"/", "/jobs?tag=x", "/audit?run=1", "/job/1/args", "/queues"} {
		for _, site := range []string{"cross-site", "same-site"} {
			for _, mode := range []string{"no-cors", "cors", "", "websocket"} {
				assert.Equal(t, http.StatusForbidden, ask(address, site, mode, "empty"), "%s %s %s", address, site, mode)
			}
			assert.Equal(t, http.StatusForbidden, ask(address, site, "navigate", "iframe"), address)
		}
	}
	for _, address := range []string{"/", "/jobs?tag=x", "/audit?run=1"} {
		assert.Equal(t, http.StatusOK, ask(address, "cross-site", "navigate", "document"), address)
		assert.Equal(t, http.StatusOK, ask(address, "same-origin", "cors", "empty"), address)
		assert.Equal(t, http.StatusOK, ask(address, "none", "navigate", "document"), address)
		assert.Equal(t, http.StatusOK, ask(address), address)
	}
	for _, path := range []string{"/audit", "/jobs"} {
		refused := s.post(path, nil, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
		assert.Equal(t, http.StatusForbidden, refused.Code)
	}
}

// Values that are downloaded are in memory until they are sent: few at a time, and a reader that takes nothing is left.
func TestDownloadsAreFew(t *testing.T) {
	s := newSite(t, Options{Timeout: 20 * time.Second})
	s.execute(`select awa.enqueue('q', 'k', jsonb_build_object('text', repeat('x', 30000000)))`)
	h := s.handler.(*Handler)
	another, err := New(h.pool, Options{Timeout: patience, Log: h.options.Log})
	require.NoError(t, err)
	h.patience, another.patience = time.Hour, 100*time.Millisecond
	// stall makes readers who take nothing, and returns when what they ask for is being sent.
	stall := func(h *Handler, readers int) {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		for range readers {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			_, err = io.WriteString(conn, "GET /job/1/args HTTP/1.1\r\nHost: localhost\r\n\r\n")
			require.NoError(t, err)
			_, err = io.ReadFull(conn, make([]byte, 100))
			require.NoError(t, err)
		}
	}
	stall(h, mostLarge)
	hasty, err := New(h.pool, Options{Timeout: time.Second, Log: h.options.Log})
	require.NoError(t, err)
	hasty.large, s.handler = h.large, hasty
	third := s.get("/job/1/args")
	assert.Equal(t, http.StatusServiceUnavailable, third.Code)
	assert.NotEmpty(t, third.Header().Get("Retry-After"))

	stall(another, mostLarge+1)
	s.handler = another
	assert.Equal(t, 30_000_012, s.get("/job/1/args").Body.Len())
}

// All times are in UTC, those in words of the database, too, and are compared with its clock.
func TestTimesAreOfOneZone(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(`do $$
		begin
		  execute format('alter database %I set timezone = %L', current_database(), 'Asia/Tokyo');
		  execute format('alter database %I set datestyle = %L', current_database(), 'German');
		end $$`)
	h := s.handler.(*Handler)
	h.pool.Reset()
	s.execute(`select awa.enqueue('q', 'k', run_at => '2100-01-01 00:00+00')`,
		`select awa.schedule('nightly', 'q', 'k', cron => '0 3 * * *')`)
	explained := regexp.MustCompile(`(?s)class="explained">.*?</p>`)
	assert.Contains(t, explained.FindString(s.page("/job/1")), "at 2100-01-01 00:00:00&#43;00.")
	assert.Contains(t, explained.FindString(s.page("/schedule?name=nightly")), " 03:00")

	p := h.newPage(t.Context(), "", User{})
	read(p, "", func(queryer) (int, error) { return 0, nil })
	assert.False(t, p.now.IsZero(), "the clock of the database is not read")
	p.now = time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC)
	assert.Contains(t, p.Ago(p.now.Add(-3*time.Second)), ">3.0 s ago<")
	assert.Contains(t, p.Ago(p.now.Add(3*time.Second)), ">in 3.0 s<")
}

// What is not shown of a long list is said to be there.
func TestWhatIsLeftOut(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(
		`select awa.register_worker('busy', array(select 'queue ' || n from generate_series(1, 21) n))`,
		`select awa.register_worker('other', array(select 'queue ' || n from generate_series(1, 20) n))`,
		`select awa.enqueue('queue 1', 'k', tags => array['a', 'b', 'c', 'd', 'e', 'the sixth'])`,
		`select awa.enqueue('queue 1', 'k') from generate_series(1, 119)`,
		`select count(*) from awa.claim('queue 1', 120, (select worker_id from awa.list_workers() where name = 'busy'))`,
		`create or replace function awa.health() returns setof awa.health_row language sql stable as $$
		   select 'warning', 'maintenance', 'finding ' || n, 'm', 'h', '{}'::jsonb from generate_series(1, 60) n $$`,
		`create or replace function awa.health_of(topics text[] default null) returns setof awa.health_row
		   language sql stable as $$ select * from awa.health() h where h.topic = any(topics) $$`)
	workers := s.page("/workers")
	assert.Equal(t, 1, strings.Count(workers, "…"))
	assert.NotContains(t, workers, "queue 21")
	worker := regexp.MustCompile(`href="(/worker\?id=\d+)"[^…]*…`).FindStringSubmatch(workers)
	require.NotNil(t, worker)
	assert.Contains(t, s.page(worker[1]), "… These are the newest 100 of 120.")
	jobs := s.page("/jobs?before=2")
	assert.Contains(t, jobs, "…")
	assert.NotContains(t, jobs, "the sixth")
	for _, address := range []string{"/", "/segments"} {
		page := s.page(address)
		assert.Equal(t, mostFindings, strings.Count(page, "<b>finding "), address)
		assert.Contains(t, page, "… There are more", address)
	}
	// However many jobs others run that are newer.
	s.execute(`select count(awa.enqueue('queue 2', 'k')) from generate_series(1, 1000)`,
		`select count(*) from awa.claim('queue 2', 1000)`)
	assert.Contains(t, s.page(worker[1]), "… These are the newest 100 of 120.")
}
