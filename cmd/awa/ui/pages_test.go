package ui

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// next is the address of the next page of a list.
var next = regexp.MustCompile(`href="([^"]*)" rel="next"`)

// all reads a list page by page, and returns what is found in it, each thing once.
func (s *site) all(address string, what *regexp.Regexp) map[string]bool {
	s.t.Helper()
	found := map[string]bool{}
	for pages := 0; address != "" && pages < 20; pages++ {
		text := s.page(address)
		for _, match := range what.FindAllStringSubmatch(text, -1) {
			assert.False(s.t, found[match[1]], "shown twice: %s", match[1])
			found[match[1]] = true
		}
		address = ""
		if match := next.FindStringSubmatch(text); match != nil {
			address = html.UnescapeString(match[1])
		}
	}
	return found
}

// The lists of schedules, workers, dead letters and changes have pages, and those of what has a name can be searched.
func TestListsArePaged(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(
		`select awa.schedule('schedule ' || lpad(n::text, 3, '0'), 'q', 'k', every => '1 hour')
		   from generate_series(1, 120) n`,
		`select awa.register_worker('worker ' || lpad(n::text, 3, '0'), '{q}') from generate_series(1, 120) n`,
		`select awa.discard_job(awa.enqueue('q', 'k'), 'no') from generate_series(1, 120)`,
		`select awa.start_change('cancel', '{"queue": "nothing"}') from generate_series(1, 120)`)
	assert.Len(t, s.all("/schedules", regexp.MustCompile(`>(schedule \d+)</a>`)), 120)
	assert.Len(t, s.all("/workers", regexp.MustCompile(`<td>(worker \d+)</td>`)), 120)
	assert.Len(t, s.all("/dead", regexp.MustCompile(`<a href="/job/(\d+)">`)), 120)
	assert.Len(t, s.all("/changes", regexp.MustCompile(`<th scope="row"><a href="/change\?id=(\d+)"`)), 120)
	assert.Len(t, s.all("/schedules?search=LE+07", regexp.MustCompile(`>(schedule \d+)</a>`)), 10)
	assert.Len(t, s.all("/workers?search=er+07", regexp.MustCompile(`<td>(worker \d+)</td>`)), 10)
	assert.Empty(t, s.all("/dead?queue=other", regexp.MustCompile(`<a href="/job/(\d+)">`)))
}

// A schedule says when it fires next, and why it does not; a worker what it runs; a change who made it.
func TestWhatPagesSay(t *testing.T) {
	s := newSite(t, Options{})
	s.fill()
	report := s.page("/schedule?name=nightly%2Freport")
	assert.Contains(t, report, "at 03:00")
	assert.Equal(t, 10, strings.Count(report, "<li><time"))
	often := s.page("/schedule?name=often")
	assert.Contains(t, often, "not now")
	assert.Equal(t, 404, s.get("/schedule?name=gone").Code)

	worker := regexp.MustCompile(`href="(/worker\?id=\d+)"`).FindStringSubmatch(s.page("/workers"))
	assert.Regexp(t, `<a href="/job/\d+">\d+</a> <b>kind</b> in q, attempt 1`, s.page(worker[1]))
	assert.Equal(t, 404, s.get("/worker?id=999").Code)
	assert.Equal(t, 404, s.get("/worker?id=x").Code)

	assert.Contains(t, s.page("/dead"), `<p class="error">no</p>`)
	assert.Contains(t, s.page("/changes"), "ada")
	segments := s.page("/segments")
	assert.Equal(t, 4, strings.Count(segments, "<b>segment "))
	assert.Equal(t, 1, strings.Count(segments, `>current</span>`))
	assert.NotContains(t, s.page("/audit"), "No job is missing")
	assert.NotContains(t, s.page("/audit?run=1"), "No job is missing")
	assert.Contains(t, s.post("/audit", nil).Body.String(), "No job is missing")
}

// With 200 queues and 100,000 jobs, all panels are read, and no page is large.
func TestPagesOfManyJobs(t *testing.T) {
	s := newSite(t, Options{Timeout: 20 * time.Second})
	s.execute(
		`select count(*) from generate_series(1, 100) n, lateral (
		   select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', 'queue ' || (m % 200), 'kind', 'k',
		     'args', jsonb_build_object('n', n * m)))) from generate_series(1, 1000) m) e`,
		`select count(awa.complete(c.job_id, c.receipt)) from generate_series(0, 199) q, awa.claim('queue ' || q, 100) c`,
		`select count(awa.discard(c.job_id, c.receipt, 'no')) from generate_series(0, 199) q, awa.claim('queue ' || q, 5) c`,
		`select awa.fold()`)
	for _, address := range []string{
		"/", "/queues", "/queue?name=queue+7", "/jobs", "/jobs?state=available", "/jobs?state=completed&queue=queue+7",
		"/jobs?state=failed", "/jobs?kind=none&state=available",
		"/job/50000", "/dead", "/workers", "/schedules", "/segments", "/changes",
	} {
		began := time.Now()
		text := s.page(address)
		t.Logf("%6d ms %7d bytes %s", time.Since(began).Milliseconds(), len(text), address)
		assert.Less(t, len(text), 150_000, address)
	}
}

// A job with a tag, a group or arguments that few others have is found, however many there are after it: a page without
// jobs says that there are older ones, and leads to them.
func TestFewMatchAmongMany(t *testing.T) {
	s := newSite(t, Options{})
	s.execute(
		`select awa.enqueue('q', 'k', '{"rare": 1}', tags => '{rare}', group_key => 'rare')`,
		`select count(*) from generate_series(1, 105) n, lateral (
		   select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', 'q', 'kind', 'k',
		     'args', jsonb_build_object('n', n + m)))) from generate_series(1, 1000) m) e`,
		`select awa.fold()`)
	id := regexp.MustCompile(`<th scope="row"><a href="/job/(\d+)"`)
	for _, query := range []string{"tag=rare", "group=rare", "tag=rare&state=available&queue=q"} {
		assert.Contains(t, s.page("/jobs?"+query), "There are older ones.", query)
		assert.Len(t, s.all("/jobs?"+query, id), 1, query)
	}
	search := url.Values{"args": {`{"rare": 1}`}}
	first := s.post("/jobs", search).Body.String()
	older := regexp.MustCompile(`action="(/jobs\?before=\d+)"`).FindStringSubmatch(first)
	if assert.NotNil(t, older, first) {
		assert.Regexp(t, id, s.post(older[1], search).Body.String())
	}
}
