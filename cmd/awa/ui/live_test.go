package ui

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// eventually waits for what gives no signal.
func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain", what)
		}
	}
}

// stream is a live page as a browser gets it.
type stream struct {
	t      *testing.T
	header http.Header
	lines  *bufio.Scanner
	leave  func()
}

// watching opens a live page.
func (s *site) watching(server *httptest.Server, address string) *stream {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	request, err := http.NewRequestWithContext(ctx, "GET", server.URL+address, nil)
	require.NoError(s.t, err)
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, response.StatusCode)
	leave := func() { cancel(); response.Body.Close() }
	s.t.Cleanup(leave)
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 10<<20)
	return &stream{s.t, response.Header, lines, leave}
}

// refused says whether a page can't be watched now.
func (s *site) refused(server *httptest.Server, address string) bool {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", server.URL+address, nil)
	require.NoError(s.t, err)
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	require.NoError(s.t, err)
	response.Body.Close()
	return response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != ""
}

// next returns the data of the next event of a name.
func (s *stream) next(event string) string {
	s.t.Helper()
	var data []string
	isIt := false
	for s.lines.Scan() {
		switch line := s.lines.Text(); {
		case line == "event: "+event:
			isIt = true
		case isIt && strings.HasPrefix(line, "data:"):
			data = append(data, strings.TrimPrefix(line[len("data:"):], " "))
		case line == "" && isIt:
			return strings.Join(data, "\n")
		}
	}
	require.FailNow(s.t, "the stream has ended")
	return ""
}

// feeds are how many pages are read for watchers.
func (h *Handler) feeds() int {
	h.hub.mutex.Lock()
	defer h.hub.mutex.Unlock()
	return len(h.hub.feeds)
}

// A page that is watched is read once for all who watch it, is sent whole, and is read no more when they have left.
func TestLivePages(t *testing.T) {
	s := newSite(t, Options{Prefix: "/awa"})
	h := s.handler.(*Handler)
	h.every, h.beat = 50*time.Millisecond, 20*time.Millisecond
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	match := regexp.MustCompile(`data-stream="([^"]*)"`).FindStringSubmatch(s.page("/awa/"))
	require.Equal(t, "/awa/live", match[1])
	first, second := s.watching(server, "/awa/live/"), s.watching(server, "/live")
	assert.Equal(t, "text/event-stream", first.header.Get("Content-Type"))
	assert.Equal(t, "no", first.header.Get("X-Accel-Buffering"))
	first.next("beat")
	other := s.watching(server, "/live/queues?search=x")
	assert.Equal(t, 2, h.feeds())
	h.hub.mutex.Lock()
	assert.Len(t, h.hub.feeds[feedKey{base: "/awa", path: "/"}].watchers, 2, "who watch one reading")
	h.hub.mutex.Unlock()
	s.enqueue("a new one", "k", `{}`)
	for _, w := range []*stream{first, second} {
		eventually(t, func() bool { return strings.Contains(w.next("page"), ">a new one</a>") }, "the new queue")
	}
	text := first.next("page")
	for _, id := range []string{"health", "queues", "stats"} {
		assert.Contains(t, text, `<section id="`+id+`" data-panel`)
	}
	for _, match := range links.FindAllStringSubmatch(text, -1) {
		assert.Regexp(t, "^/awa/", match[1])
	}
	assert.Contains(t, other.next("page"), "There is no such queue.")
	first.leave()
	other.leave()
	eventually(t, func() bool { return h.feeds() == 1 }, "one page is watched")
	second.next("page")
	second.leave()
	eventually(t, func() bool { return h.feeds() == 0 }, "no page is watched")
	for _, address := range []string{"/live/audit", "/live/nonsense", "/live/job/1", "/live/assets/awa.js", "/live/live"} {
		assert.Equal(t, http.StatusNotFound, s.get(address).Code, address)
	}
	assert.NotContains(t, s.page("/audit"), "data-stream")
}

// However many different pages are asked for, few are read at a time: the others are told to come again.
func TestLivePagesAreFew(t *testing.T) {
	s := newSite(t, Options{})
	h := s.handler.(*Handler)
	h.every = time.Hour
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	var streams []*stream
	for n := range mostFeeds {
		streams = append(streams, s.watching(server, "/live/queues?search="+strings.Repeat("x", n)))
	}
	assert.True(t, s.refused(server, "/live/queues?search=other"))
	streams = append(streams, s.watching(server, "/live/queues?search=x"))
	streams = append(streams, s.watching(server, "/live/queues?search=x&x=1"))
	streams = append(streams, s.watching(server, "/live/queues?x=2&search=x&search=y&state=dead"))
	assert.Equal(t, mostFeeds, h.feeds())
	for _, w := range streams {
		w.leave()
	}
	eventually(t, func() bool { return h.feeds() == 0 }, "no page is watched")
}

// waiting is how many sessions of the pages wait for a lock.
func (s *site) waiting() (n int) {
	s.t.Helper()
	s.execute(`select pg_stat_clear_snapshot()`) // in a transaction, each look would see what the first one saw
	require.NoError(s.t, s.owner.QueryRow(s.t.Context(), `
		select count(*) from pg_stat_activity
		 where datname = current_database() and pid <> pg_backend_pid() and wait_event_type = 'Lock'`).Scan(&n))
	return n
}

// A reader who leaves cancels what is being read.
func TestReadersWhoLeaveCancel(t *testing.T) {
	s := newSite(t, Options{Timeout: time.Hour})
	s.execute(`begin`, `lock table awa.workers in access exclusive mode`)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, httptest.NewRequest("GET", "/workers", nil).WithContext(ctx))
	}()
	eventually(t, func() bool { return s.waiting() == 1 }, "the page is being read")
	leave()
	<-done
	eventually(t, func() bool { return s.waiting() == 0 }, "it is not read any more")
	s.execute(`rollback`)
	assert.Empty(t, s.log.String())
}

// A panel that takes too long says so, and how to ask for less; the others are shown.
func TestPanelsEndInTime(t *testing.T) {
	s := newSite(t, Options{Timeout: time.Second})
	s.execute(`select awa.schedule('hourly', 'q', 'k', cron => '0 * * * *')`)
	s.page("/schedule?name=hourly") // all is loaded
	s.execute(`create or replace function awa.next_fires(cron text, timezone text default 'UTC',
		  after timestamptz default now(), n int default 5) returns setof timestamptz
		language sql stable as $$ select now() from pg_sleep(1000) $$`)
	response := s.get("/schedule?name=hourly")
	assert.Equal(t, http.StatusOK, response.Code)
	text := response.Body.String()
	assert.Contains(t, text, "It took too long to read.")
	assert.Contains(t, text, "Call awa.explain_schedule in psql.")
	assert.Equal(t, 1, strings.Count(text, `class="failed"`), text)
	assert.Contains(t, text, "at minute 0")
	assert.Contains(t, s.log.String(), "57014", "the server ends it")
}

// One user leaves room for others: for those who watch, and for those who read what is found soon.
func TestOneUserLeavesRoom(t *testing.T) {
	s := newSite(t, Options{Timeout: 20 * time.Second, User: func(r *http.Request) (User, bool) {
		return User{Name: r.URL.Query().Get("user")}, true
	}})
	h := s.handler.(*Handler)
	h.every = time.Hour
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	var streams []*stream
	for n := range mostFeedsOfUser {
		streams = append(streams, s.watching(server, "/live/queues?user=ada&search="+strings.Repeat("x", n)))
	}
	assert.True(t, s.refused(server, "/live/queues?user=ada&search=other"))
	streams = append(streams, s.watching(server, "/live/queues?user=bob&search=other"))
	streams = append(streams, s.watching(server, "/live/queues?user=ada&search=other"))
	for range mostWatchersOfUser - mostFeedsOfUser - 1 {
		streams = append(streams, s.watching(server, "/live/queues?user=ada"))
	}
	assert.True(t, s.refused(server, "/live/queues?user=ada"))
	streams = append(streams, s.watching(server, "/live/queues?user=bob"))
	for _, w := range streams {
		w.leave()
	}
	eventually(t, func() bool { return h.feeds() == 0 }, "no page is watched")
	assert.Empty(t, h.hub.users)

	s.execute(`create or replace function awa.scan_jobs(filter jsonb, before_id bigint default null)
		  returns setof awa.scan_jobs_row language plpgsql stable as $$
		begin
		  perform pg_advisory_xact_lock(7);
		  return query select null::bigint, null::bigint[];
		end $$`, `select pg_advisory_lock(7)`)
	ctx, leave := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for n := range 10 {
		readers.Go(func() {
			request := httptest.NewRequest("GET", "/jobs?tag="+strconv.Itoa(n), nil)
			s.handler.ServeHTTP(httptest.NewRecorder(), request.WithContext(ctx))
		})
	}
	eventually(t, func() bool { return s.waiting() >= mostDeep }, "they are being read")
	for range 10 {
		s.page("/queues")
	}
	assert.Equal(t, mostDeep, s.waiting())
	leave()
	readers.Wait()
	s.execute(`select pg_advisory_unlock(7)`)
}

// A text with any end of a line does not break a stream.
func TestStreamOfCarriageReturns(t *testing.T) {
	s := newSite(t, Options{})
	s.handler.(*Handler).every = 10 * time.Millisecond
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	watcher := s.watching(server, "/live/queues?search=one%0Dtwo%0D%0Athree%0Afour")
	text := watcher.next("page")
	assert.NotContains(t, text, "\r")
	assert.Contains(t, text, "value=\"one\ntwo\nthree\nfour\"")
	watcher.leave()
	eventually(t, func() bool { return s.handler.(*Handler).feeds() == 0 }, "no page is watched")
}
