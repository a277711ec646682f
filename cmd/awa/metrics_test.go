package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// scraper asks an exporter for its pages.
type scraper struct {
	t        *testing.T
	exporter *exporter
	handler  http.Handler
	readings *atomic.Int64 // of queues
	log      *bytes.Buffer
}

// tracer counts readings.
type tracer struct{ readings *atomic.Int64 }

func (r tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if data.SQL == metricsQueues {
		r.readings.Add(1)
	}
	return ctx
}

func (tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// newScraper returns a scraper of an exporter that has no rights but those of awa_reader, and that reads each time.
func newScraper(t *testing.T, databaseURL string) *scraper {
	t.Helper()
	s := &scraper{t: t, readings: &atomic.Int64{}, log: &bytes.Buffer{}}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	cfg.MaxConns, cfg.ConnConfig.Tracer = 1, tracer{s.readings}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set role awa_reader")
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s.exporter = newExporter(t.Context(), pool, log.New(s.log, "", 0))
	s.exporter.every = 0
	s.exporter.timeout = patience
	s.handler = s.exporter.handler()
	return s
}

func (s *scraper) get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// scrape returns the series as Prometheus would read them, and their values.
func (s *scraper) scrape() map[string]float64 {
	s.t.Helper()
	response := s.get("/metrics")
	require.Equal(s.t, http.StatusOK, response.Code, response.Body.String())
	return parsed(s.t, response.Body)
}

func parsed(t *testing.T, text io.Reader) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	require.NoError(t, err)
	series := map[string]float64{}
	for name, family := range families {
		assert.NotEmpty(t, family.GetHelp(), name)
		for _, metric := range family.Metric {
			var labels []string
			for _, l := range metric.Label {
				labels = append(labels, fmt.Sprintf("%s=%s", l.GetName(), l.GetValue()))
			}
			series[strings.TrimSpace(name+" "+strings.Join(labels, " "))] =
				metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return series
}

func names(series map[string]float64) (names []string) {
	for s := range series {
		names = append(names, s)
	}
	slices.Sort(names)
	return names
}

func TestMetrics(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	execute(t, conn, `select awa.configure_queue('idle', '{"max_depth": 10}')`)
	s := newScraper(t, databaseURL)
	for range 2 { // as ever, also after a restart
		series := s.scrape()
		for name, value := range map[string]float64{
			"awa_jobs queue=idle state=available": 0, "awa_jobs queue=idle state=running": 0, "awa_jobs_limited queue=idle": 0,
			"awa_queue_oldest_ready_age_seconds queue=idle": 0, "awa_queue_paused queue=idle": 0,
			"awa_queue_workers queue=idle": 0, "awa_jobs_completed_total queue=idle": 0, "awa_workers state=live": 0,
			"awa_schedules": 0, "awa_health_findings level=critical topic=maintenance": 0, "awa_read_errors_total": 0,
		} {
			got, found := series[name]
			assert.True(t, found, name)
			assert.Equal(t, value, got, name)
		}
		s = newScraper(t, databaseURL)
	}
	s.scrape()

	execute(t, conn, `select awa.enqueue('q', 'k', tags => '{a}', group_key => 'g', run_at => now() - interval '1 hour')
		from generate_series(1, 5)`,
		`select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')`,
		`select awa.configure_queue('q', '{"dead_letter": false}')`,
		`select awa.complete(job_id, receipt) from awa.claim('q', 1)`,
		`select awa.discard(job_id, receipt, 'no') from awa.claim('q', 2)`,
		`select awa.claim('q', 1)`, `select awa.pause_queue('q')`,
		`select awa.register_worker('w', '{q}')`, `select awa.schedule('s', 'q', 'k', every => '1 hour')`)
	series := s.scrape()
	for name, value := range map[string]float64{
		"awa_jobs queue=q state=available": 1, "awa_jobs queue=q state=scheduled": 1, "awa_jobs queue=q state=running": 1,
		"awa_jobs_enqueued_total queue=q": 6, "awa_jobs_completed_total queue=q": 1, "awa_jobs_failed_total queue=q": 2,
		"awa_jobs_dead_total queue=q": 0, "awa_queue_paused queue=q": 1, "awa_queue_workers queue=q": 1,
		"awa_workers state=live": 1, "awa_schedules": 1, "awa_schedules_overdue": 0,
	} {
		assert.Equal(t, value, series[name], name)
	}
	assert.Greater(t, series["awa_queue_oldest_ready_age_seconds queue=q"], 0.0)

	// What is retried counts as failed no longer: the counter stays, or it would have begun again to Prometheus.
	execute(t, conn, `select awa.retry_where(queue => 'q', state => 'failed')`)
	assert.Equal(t, 2.0, s.scrape()["awa_jobs_failed_total queue=q"])
	execute(t, conn, `select awa.resume_queue('q')`, `select awa.discard(job_id, receipt, 'no') from awa.claim('q', 1)`)
	series = s.scrape()
	assert.Equal(t, 3.0, series["awa_jobs_failed_total queue=q"])
	assert.Equal(t, 6.0, series["awa_jobs_enqueued_total queue=q"])

	// A new process does not know what came before it.
	assert.Equal(t, 0.0, newScraper(t, databaseURL).scrape()["awa_jobs_failed_total queue=q"])

	execute(t, conn, `select awa.unschedule('s')`, `select awa.drop_queue('q', true)`)
	for name := range s.scrape() {
		assert.NotContains(t, name, "queue=q", "the series of a queue that was dropped")
	}
	execute(t, conn, `select awa.enqueue('q', 'k')`)
	assert.Equal(t, 1.0, s.scrape()["awa_jobs_enqueued_total queue=q"])
}

// Each label of each series is of a kind that does not grow with what goes through the queue.
func TestMetricsDoNotGrow(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	execute(t, conn, `select awa.enqueue('q', 'k')`)
	s := newScraper(t, databaseURL)
	before := names(s.scrape())
	execute(t, conn, `select awa.deregister_worker(awa.register_worker('host-' || n, '{q}'))
		   from generate_series(1, 900) n`,
		`select awa.register_worker('host-' || n, '{q}') from generate_series(1, 100) n`,
		`update awa.workers set heartbeat_at = heartbeat_at - interval '1 day' where worker_id % 2 = 0`,
		`select awa.enqueue('q', 'kind-' || n, tags => array['tag-' || n], group_key => 'group-' || n)
		   from generate_series(1, 1000) n`,
		`select awa.schedule('schedule-' || n, 'q', 'k', every => '1 hour') from generate_series(1, 100) n`)
	after := s.scrape()
	assert.Equal(t, before, names(after))
	assert.Equal(t, 50.0, after["awa_workers state=overdue"])
	for name := range after {
		_, labels, _ := strings.Cut(name, " ")
		for label := range strings.FieldsSeq(labels) {
			label, _, _ = strings.Cut(label, "=")
			assert.Contains(t, []string{"queue", "state", "topic", "level", "pass", "segment", "version"}, label, name)
		}
	}

	var passes []string
	require.NoError(t, conn.QueryRow(t.Context(), `select array_prepend('run_maintenance', awa._passes())`).Scan(&passes))
	for _, pass := range passes {
		assert.Contains(t, after, "awa_pass_late_seconds pass="+pass)
	}
	rows, err := conn.Query(t.Context(), `select distinct topic from awa.health()`)
	require.NoError(t, err)
	topics, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Subset(t, healthTopics, topics)
}

// A finding about a session counts, and does not name it: of sessions there is no end.
func TestMetricsNameNoSessions(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	execute(t, conn, `create or replace function awa._health_maintenance() returns table (
		  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
		) language sql stable as $$
		select 2, 'warning', 'maintenance', 'backend 17 (me, host-7)', 'holds up', 'end it', '{"seconds": 90}'::jsonb $$`)
	series := newScraper(t, databaseURL).scrape()
	assert.Equal(t, 1.0, series["awa_health_findings level=warning topic=maintenance"])
	assert.Equal(t, 90.0, series["awa_health_finding_age_seconds topic=maintenance"])
	for name := range series {
		assert.NotContains(t, name, "17")
		assert.NotContains(t, name, "awa_pass_late_seconds")
	}
}

// While the database can't be read there is nothing but the counter of errors, and no reason is told to those who ask.
func TestMetricsOfFailedReadings(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	s := newScraper(t, databaseURL)
	assert.Contains(t, s.scrape(), "awa_schedules")
	assert.Equal(t, http.StatusOK, s.get("/readyz").Code)
	execute(t, conn, `alter function awa.list_schedules() rename to gone`)
	assert.Equal(t, map[string]float64{"awa_read_errors_total": 1}, s.scrape())
	assert.Equal(t, map[string]float64{"awa_read_errors_total": 2}, s.scrape())
	ready := s.get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, ready.Code)
	assert.Equal(t, "not ready\n", ready.Body.String())
	assert.Equal(t, http.StatusOK, s.get("/healthz").Code)
	assert.Equal(t, 1, strings.Count(s.log.String(), "\n"), "one line a minute: %s", s.log)
	assert.Contains(t, s.log.String(), "list_schedules")
	execute(t, conn, `alter function awa.gone() rename to list_schedules`)
	series := s.scrape()
	assert.Equal(t, 3.0, series["awa_read_errors_total"])
	assert.Contains(t, series, "awa_schedules")

	// A reading that waits for others ends in time.
	s.exporter.timeout = time.Second
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `lock table awa.workers in access exclusive mode`)
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"awa_read_errors_total": 4}, s.scrape())
	require.NoError(t, tx.Rollback(t.Context()))
	s.exporter.timeout = patience
	assert.Contains(t, s.scrape(), "awa_schedules")
}

// However many ask, the database is read once.
func TestMetricsAreReadOnce(t *testing.T) {
	s := newScraper(t, testdb.URL(t))
	s.exporter.every = time.Hour
	var scrapers sync.WaitGroup
	for n := range 200 {
		scrapers.Go(func() { s.get([]string{"/metrics", "/readyz"}[n%2]) })
	}
	scrapers.Wait()
	assert.EqualValues(t, 1, s.readings.Load())
	s.exporter.every = 0
	s.scrape()
	assert.EqualValues(t, 2, s.readings.Load())
}

// Names are shown as printable text, and two of them never as one, which would be the same series twice.
func TestMetricsOfHostileNames(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	queues := []string{
		"a\nb", `a\nb`, `a\u000ab`, "\x1b[2J", `\u001b[2J`, `"} 1`, "x\u202ey", `x\u202ey`, "tab\t", "ж", "</script>",
	}
	for _, q := range queues {
		_, err := conn.Exec(t.Context(), "select awa.enqueue($1, 'k')", q)
		require.NoError(t, err)
	}
	s := newScraper(t, databaseURL)
	response := s.get("/metrics")
	require.Equal(t, http.StatusOK, response.Code)
	for _, r := range response.Body.String() {
		assert.True(t, isPrintable(r), "%U", r)
	}
	var shown []string
	for name, value := range s.scrape() {
		if strings.HasPrefix(name, "awa_jobs ") && strings.HasSuffix(name, "state=available") {
			assert.Equal(t, 1.0, value)
			assert.NotContains(t, name, "\n")
			shown = append(shown, name)
		}
	}
	assert.Len(t, shown, len(queues))
}

// serving runs the command, and returns its address; stop ends it, and returns its exit status and what it logged.
func serving(t *testing.T) (address string, stop func() (int, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() { status <- run(ctx, []string{"metrics", "--listen", "127.0.0.1:0"}, in, &stderr) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	address = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "serving metrics at "), "/metrics")
	return address, func() (int, string) {
		cancel()
		return <-status, stderr.String()
	}
}

// fetch returns the status and the body of a page.
func fetch(t *testing.T, method, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// The command serves, needs no login, and ends at a signal; what it does not serve it does not have.
func TestMetricsCommand(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.URL(t))
	address, stop := serving(t)
	for path, want := range map[string]int{
		"/metrics": 200, "/healthz": 200, "/readyz": 200, "/": 404, "/debug/pprof/": 404, "/metrics/x": 404,
	} {
		status, body := fetch(t, "GET", address+path)
		assert.Equal(t, want, status, path)
		switch path {
		case "/metrics":
			assert.Contains(t, parsed(t, strings.NewReader(body)), "awa_schedules")
		case "/healthz", "/readyz":
			assert.Equal(t, "ok\n", body)
		}
	}
	status, _ := fetch(t, "POST", address+"/metrics")
	assert.Equal(t, http.StatusMethodNotAllowed, status)

	refused, _, message := awa(t.Context(), "metrics", "--listen", strings.TrimPrefix(address, "http://"))
	assert.Equal(t, 1, refused)
	assert.Contains(t, message, "can't listen there")
	status, stderr := stop()
	assert.Zero(t, status)
	assert.Empty(t, stderr)
}

// Without a server the command starts all the same, and its log and its pages show no password.
func TestMetricsWithoutAServer(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://u:hunter2@/db?host=/nowhere")
	address, stop := serving(t)
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 503} {
		status, body := fetch(t, "GET", address+path)
		assert.Equal(t, want, status, path)
		assert.NotContains(t, body, "nowhere")
		if path == "/metrics" {
			series := parsed(t, strings.NewReader(body))
			assert.Len(t, series, 1)
			assert.GreaterOrEqual(t, series["awa_read_errors_total"], 1.0)
		}
	}
	status, stderr := stop()
	assert.Zero(t, status)
	assert.Contains(t, stderr, "Is the server running")
	assert.NotContains(t, stderr, "hunter2")
}
