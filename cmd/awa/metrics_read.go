package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// queueReading is what a queue had when it was read.
type queueReading struct {
	name                                                               string
	available, scheduled, retryable, running, waitingExternal, limited int64
	completed, failed, cancelled, dead                                 int64
	oldestReady                                                        float64 // age in seconds, 0 for none
	paused                                                             bool
	workers                                                            int64
}

// enqueued is how many jobs the queue has had.
func (q queueReading) enqueued() int64 {
	return q.available + q.scheduled + q.retryable + q.running + q.waitingExternal +
		q.completed + q.failed + q.cancelled + q.dead
}

// topicLevel is what findings are counted by.
type topicLevel struct{ topic, level string }

// reading is all that the metrics are made of.
type reading struct {
	version                                                        string
	queues                                                         []queueReading
	workersLive, workersOverdue                                    int64
	schedules, schedulesPaused, schedulesFailing, schedulesOverdue int64
	findings                                                       map[topicLevel]int64
	ages                                                           map[string]float64 // by topic, in seconds
	passes                                                         map[string]float64 // late since, in seconds
	segments                                                       map[string]float64 // bytes
	took                                                           time.Duration
}

// healthTopics are those that have a metric, also where health has nothing to say of them.
var healthTopics = []string{
	"restore", "maintenance", "prune", "claimer", "queue", "group", "failures", "refusals", "schedule", "worker",
	"horizon", "segment", "notifications",
}

// healthRow is what is needed of a row of health. pass and segment are empty where the row is about something else:
// other subjects may be names of sessions, of which there is no end.
type healthRow struct {
	level, topic, pass, segment string
	age, late, bytes            float64
}

const (
	metricsQueues = `
		select queue, available, scheduled, retryable, running, waiting_external, limited,
		       completed, failed, cancelled, dead,
		       greatest(coalesce(extract(epoch from clock_timestamp() - oldest_ready_at), 0), 0)::float8,
		       paused_at is not null, workers
		  from awa.list_queues()`
	metricsWorkers = `
		select count(*) filter (where not overdue), count(*) filter (where overdue) from awa.list_workers()`
	// A schedule is overdue after a minute, as health has it.
	metricsSchedules = `
		select count(*), count(*) filter (where paused_at is not null), count(*) filter (where failures > 0),
		       count(*) filter (where paused_at is null and next_at < clock_timestamp() - interval '1 minute')
		  from awa.list_schedules()`
	metricsHealth = `
		select level, topic,
		       case when topic = 'maintenance' and subject ~ '^[a-z_]+$' then subject else '' end,
		       case when topic = 'segment' then coalesce(substring(subject from '^segment ([0-9]+)$'), '') else '' end,
		       case when level = 'ok' then 0
		            else greatest(coalesce((details ->> 'seconds')::float8, 0),
		              coalesce((details ->> 'late_seconds')::float8, 0),
		              coalesce((details ->> 'silent_seconds')::float8, 0),
		              coalesce((details ->> 'oldest_ready_seconds')::float8, 0)) end,
		       coalesce((details ->> 'late_seconds')::float8, 0), coalesce((details ->> 'bytes')::float8, 0)
		  from awa.health()`
)

// readMetrics reads all in one transaction, which changes nothing and ends in time.
func readMetrics(ctx context.Context, pool *pgxpool.Pool, timeout time.Duration) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	r := &reading{
		findings: map[topicLevel]int64{}, ages: map[string]float64{}, passes: map[string]float64{},
		segments: map[string]float64{},
	}
	for _, topic := range healthTopics {
		r.ages[topic] = 0
		r.findings[topicLevel{topic, levelWarning}], r.findings[topicLevel{topic, levelCritical}] = 0, 0
	}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "set local statement_timeout = "+strconv.FormatInt(timeout.Milliseconds(), 10))
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "select awa.version()").Scan(&r.version); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, metricsWorkers).Scan(&r.workersLive, &r.workersOverdue); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, metricsSchedules).Scan(
			&r.schedules, &r.schedulesPaused, &r.schedulesFailing, &r.schedulesOverdue)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, metricsQueues)
		if err != nil {
			return err
		}
		r.queues, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (q queueReading, err error) {
			err = row.Scan(&q.name, &q.available, &q.scheduled, &q.retryable, &q.running, &q.waitingExternal, &q.limited,
				&q.completed, &q.failed, &q.cancelled, &q.dead, &q.oldestReady, &q.paused, &q.workers)
			return q, err
		})
		if err != nil {
			return err
		}
		return r.readHealth(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	r.took = time.Since(began)
	return r, nil
}

func (r *reading) readHealth(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, metricsHealth)
	if err != nil {
		return err
	}
	var h healthRow
	_, err = pgx.ForEachRow(rows, []any{&h.level, &h.topic, &h.pass, &h.segment, &h.age, &h.late, &h.bytes}, func() error {
		if h.level != levelOK {
			r.findings[topicLevel{h.topic, h.level}]++
		}
		r.ages[h.topic] = max(r.ages[h.topic], h.age)
		if h.pass != "" {
			r.passes[h.pass] = max(r.passes[h.pass], h.late)
		}
		if h.segment != "" {
			r.segments[h.segment] = h.bytes
		}
		return nil
	})
	return err
}
