package main

import (
	"context"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("awa_"+name, help, labels, nil)
}

// The metrics, as docs/metrics.md describes them. No label holds a worker, host, job, tag or group: of these there is
// no end.
var (
	descInfo        = description("info", "The version of Awa in the database; always 1.", "version")
	descErrors      = description("read_errors_total", "Readings of the database that failed.")
	descReadSeconds = description("read_seconds", "How long the last reading of the database took.")

	descJobs    = description("jobs", "Jobs that have not ended, by state.", "queue", "state")
	descLimited = description("jobs_limited", "Available jobs that wait for a limit.", "queue")
	descOldest  = description("queue_oldest_ready_age_seconds",
		"Age of the oldest available job, since it could be claimed; 0 when there is none.", "queue")
	descPaused       = description("queue_paused", "1 while the queue is paused, otherwise 0.", "queue")
	descQueueWorkers = description("queue_workers", "Live workers that claim from the queue.", "queue")

	descEnqueued = description("jobs_enqueued_total",
		"Jobs that came into the queue since this program first saw it.", "queue")
	descCompleted = description("jobs_completed_total", "Jobs that completed, since this program first saw the queue.",
		"queue")
	descFailed = description("jobs_failed_total", "Jobs that failed for good, since this program first saw the queue.",
		"queue")
	descDead = description("jobs_dead_total", "Jobs that became dead letters, since this program first saw the queue.",
		"queue")
	descCancelled = description("jobs_cancelled_total",
		"Jobs that were cancelled, since this program first saw the queue.", "queue")

	descWorkers          = description("workers", "Registered workers: live, or overdue with a heartbeat.", "state")
	descSchedules        = description("schedules", "Schedules.")
	descSchedulesPaused  = description("schedules_paused", "Schedules that are paused.")
	descSchedulesFailing = description("schedules_failing", "Schedules that failed to enqueue their last job.")
	descSchedulesOverdue = description("schedules_overdue", "Schedules that should have fired more than a minute ago.")

	descFindings = description("health_findings", "What health() warns of, by topic and level.", "topic", "level")
	descAge      = description("health_finding_age_seconds",
		"How long the oldest finding of a topic has lasted, where health() says it; otherwise 0.", "topic")
	descLate = description("pass_late_seconds", "How long work of a pass of maintenance has been late; 0 when none is.",
		"pass")
	descSegment = description("segment_bytes", "Size of a segment of the log.", "segment")

	descriptions = []*prometheus.Desc{
		descInfo, descErrors, descReadSeconds, descJobs, descLimited, descOldest, descPaused, descQueueWorkers, descEnqueued,
		descCompleted, descFailed, descDead, descCancelled, descWorkers, descSchedules, descSchedulesPaused,
		descSchedulesFailing, descSchedulesOverdue, descFindings, descAge, descLate, descSegment,
	}
)

// totals are the counters of a queue. The counts of the database fall where jobs are retried, purged or moved, and a
// counter that falls is one that began again from 0 to Prometheus. So what has risen from one reading to the next is
// added up here.
type totals struct{ enqueued, completed, failed, dead, cancelled int64 }

func (t *totals) add(from, to queueReading) {
	t.enqueued += max(0, to.enqueued()-from.enqueued())
	t.completed += max(0, to.completed-from.completed)
	t.failed += max(0, to.failed-from.failed)
	t.dead += max(0, to.dead-from.dead)
	t.cancelled += max(0, to.cancelled-from.cancelled)
}

// sample is a reading with the counters at that time.
type sample struct {
	*reading
	totals map[string]totals
}

// exporter reads the database when it is asked, once in a while at most.
type exporter struct {
	ctx     context.Context // of the program
	pool    *pgxpool.Pool
	log     *log.Logger
	every   time.Duration
	timeout time.Duration

	mutex    sync.Mutex // held while it reads: the others want the same
	readAt   time.Time  // when the last reading ended, whether it failed or not
	last     *sample    // nil when it failed
	errors   uint64
	loggedAt time.Time
	queues   map[string]queueReading // as of the last reading that did not fail; nil before the first
	totals   map[string]totals
}

func newExporter(ctx context.Context, pool *pgxpool.Pool, log *log.Logger) *exporter {
	return &exporter{
		ctx: ctx, pool: pool, log: log, every: metricsEvery, timeout: metricsTimeout, totals: map[string]totals{},
	}
}

// sample returns what was read within the last seconds, now if need be, and how many readings have failed so far. The
// sample is nil when the last one did.
func (e *exporter) sample() (*sample, uint64) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if !e.readAt.IsZero() && time.Since(e.readAt) < e.every {
		return e.last, e.errors
	}
	r, err := readMetrics(e.ctx, e.pool, e.timeout)
	e.readAt, e.last = time.Now(), nil
	if err != nil {
		e.errors++
		if e.loggedAt.IsZero() || time.Since(e.loggedAt) > time.Minute {
			e.loggedAt = time.Now()
			e.log.Print(oneLine(explain(err).Error()))
		}
		return nil, e.errors
	}
	e.loggedAt = time.Time{} // the next failure is news
	e.last = &sample{reading: r, totals: e.count(r.queues)}
	return e.last, e.errors
}

// count adds to the counters what has come since the last reading. A queue that was not there then begins at 0; of one
// that the first reading finds, it is not known when its jobs came. A queue that is gone takes its counters along.
func (e *exporter) count(queues []queueReading) map[string]totals {
	now, counted := make(map[string]queueReading, len(queues)), make(map[string]totals, len(queues))
	for _, q := range queues {
		now[q.name] = q
		t := e.totals[q.name]
		if e.queues != nil {
			t.add(e.queues[q.name], q)
		}
		counted[q.name] = t
	}
	e.queues, e.totals = now, counted
	return counted
}

// Describe is for the registry.
func (e *exporter) Describe(to chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		to <- d
	}
}

// Collect sends all metrics, or, when the database can't be read, nothing but how often that was so.
func (e *exporter) Collect(to chan<- prometheus.Metric) {
	s, errors := e.sample()
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter(descErrors, float64(errors))
	if s == nil {
		return
	}
	gauge(descInfo, 1, label(s.version))
	gauge(descReadSeconds, s.took.Seconds())
	for _, q := range s.queues {
		queue, t := label(q.name), s.totals[q.name]
		gauge(descJobs, float64(q.available), queue, "available")
		gauge(descJobs, float64(q.scheduled), queue, "scheduled")
		gauge(descJobs, float64(q.retryable), queue, "retryable")
		gauge(descJobs, float64(q.running), queue, "running")
		gauge(descJobs, float64(q.waitingExternal), queue, "waiting_external")
		gauge(descLimited, float64(q.limited), queue)
		gauge(descOldest, q.oldestReady, queue)
		paused := 0.0
		if q.paused {
			paused = 1
		}
		gauge(descPaused, paused, queue)
		gauge(descQueueWorkers, float64(q.workers), queue)
		counter(descEnqueued, float64(t.enqueued), queue)
		counter(descCompleted, float64(t.completed), queue)
		counter(descFailed, float64(t.failed), queue)
		counter(descDead, float64(t.dead), queue)
		counter(descCancelled, float64(t.cancelled), queue)
	}
	gauge(descWorkers, float64(s.workersLive), "live")
	gauge(descWorkers, float64(s.workersOverdue), "overdue")
	gauge(descSchedules, float64(s.schedules))
	gauge(descSchedulesPaused, float64(s.schedulesPaused))
	gauge(descSchedulesFailing, float64(s.schedulesFailing))
	gauge(descSchedulesOverdue, float64(s.schedulesOverdue))
	for f, count := range s.findings {
		gauge(descFindings, float64(count), f.topic, f.level)
	}
	for topic, age := range s.ages {
		gauge(descAge, age, topic)
	}
	for pass, late := range s.passes {
		gauge(descLate, late, pass)
	}
	for segment, bytes := range s.segments {
		gauge(descSegment, bytes, segment)
	}
}

var unprintable = strings.NewReplacer(`\`, `\u005c`, "\n", `\u000a`, "\t", `\u0009`)

// label returns a name as printable text. Two names never become one, so that no series is there twice: a backslash is
// escaped, too.
func label(name string) string { return string(escaped([]byte(unprintable.Replace(name)))) }
