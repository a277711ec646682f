package systems

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

// awaSQL is Awa through its SQL functions.
type awaSQL struct {
	env    Env
	pool   *pgxpool.Pool
	shards int

	completeMany string           // in place of awa.complete_many: see history.go
	tolerates    func(error) bool // whether maintenance may fail so; nil: it may not
}

// AwaSQL is Awa through its SQL functions, with so many shards in each queue.
func AwaSQL(shards int) Info {
	name := "awa-sql"
	if shards > 1 {
		name += fmt.Sprint("-", shards)
	}
	return Info{
		Name: name, Version: "this checkout", Schema: "awa", Scan: "awa.jobs",
		Contract: "job queue; acknowledged per job, sent per claim; priorities, retries, history of each job; enqueue " +
			"and acknowledgement wait for the disk, the claim does not",
		Features: Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Tx: true,
			Many: shards > 1},
		New: func() System { return &awaSQL{shards: shards} },
	}
}

func (a *awaSQL) Install(ctx context.Context, url string) error {
	_, err := driver.Migrate(ctx, url)
	return err
}

func (a *awaSQL) Open(ctx context.Context, env Env) (err error) {
	a.env = env
	a.pool, err = open(ctx, env.URL, env.Enqueue+env.Workers+4)
	if err != nil || a.shards < 2 {
		return err
	}
	for q := range env.Queues {
		_, err := a.pool.Exec(ctx, "select awa.configure_queue($1, jsonb_build_object('shards', $2::int))", QueueName(q),
			a.shards)
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *awaSQL) Close() { a.pool.Close() }

func (a *awaSQL) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	j := jobs[0]
	var priority *int
	if j.Priority > 0 {
		priority = &j.Priority
	}
	var runAt *time.Time
	if j.Delay > 0 {
		at := time.Now().Add(j.Delay)
		runAt = &at
	}
	sql, args := "select awa.enqueue_many($1, 'bench', $2::jsonb[], $3, $4)", any(payloads(jobs, a.env.Payload))
	if len(jobs) == 1 {
		sql, args = "select awa.enqueue($1, 'bench', $2::jsonb, $3, $4)", Payload(j, a.env.Payload)
	}
	_, err := orPool(tx, a.pool).Exec(ctx, sql, QueueName(j.Queue), args, priority, runAt)
	return err
}

func (a *awaSQL) Work(ctx context.Context, done Sink) error {
	return each(ctx, a.env.Workers+1, func(ctx context.Context, i int) error {
		if i == a.env.Workers {
			return repeat(ctx, time.Second, func(ctx context.Context) error {
				_, err := a.pool.Exec(ctx, "call awa.run_maintenance()")
				if err != nil && a.tolerates != nil && a.tolerates(err) {
					err = nil
				}
				return err
			})
		}
		return a.consume(ctx, i, done)
	})
}

func (a *awaSQL) consume(ctx context.Context, worker int, done Sink) error {
	return poll(ctx, worker, a.env, func(ctx context.Context, queue string) (int, error) {
		rows, err := a.pool.Query(ctx, "select job_id, receipt, attempt, args from awa.claim($1, $2, durable => false)",
			queue, a.env.Batch)
		if err != nil {
			return 0, err
		}
		var ids, receipts []int64
		var attempts []int
		var bodies [][]byte
		var id, receipt int64
		var attempt int
		var body []byte
		_, err = pgx.ForEachRow(rows, []any{&id, &receipt, &attempt, &body}, func() error {
			ids, receipts, attempts = append(ids, id), append(receipts, receipt), append(attempts, attempt)
			bodies = append(bodies, append([]byte(nil), body...))
			return nil
		})
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		good := picked(bodies)
		var failed, failedReceipts []int64
		for i := len(good) - 1; i >= 0; i-- {
			if attempts[i] == 1 && ParsePayload(bodies[i]).Fails {
				failed, failedReceipts = append(failed, ids[i]), append(failedReceipts, receipts[i])
				good = append(good[:i], good[i+1:]...)
				ids = append(ids[:i], ids[i+1:]...)
				receipts = append(receipts[:i], receipts[i+1:]...)
			}
		}
		if err := a.fail(ctx, failed, failedReceipts); err != nil {
			return 0, err
		}
		if err := a.complete(ctx, ids, receipts); err != nil {
			return 0, err
		}
		done(ended(good))
		return len(good) + len(failed), nil
	})
}

func (a *awaSQL) complete(ctx context.Context, ids, receipts []int64) error {
	switch {
	case len(ids) == 0:
		return nil
	case len(ids) == 1 && a.completeMany == "":
		_, err := a.pool.Exec(ctx, "select awa.complete($1, $2)", ids[0], receipts[0])
		return err
	}
	result, err := a.pool.Exec(ctx, "select "+cmp.Or(a.completeMany, "awa.complete_many")+"($1, $2)", ids, receipts)
	if err == nil && result.RowsAffected() > 0 {
		err = errors.New("complete_many refused answers")
	}
	return err
}

func (a *awaSQL) fail(ctx context.Context, ids, receipts []int64) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := a.pool.Exec(ctx, `
		select awa.fail_many($1, $2, array_fill('it failed'::text, array[cardinality($1::bigint[])]),
		         array_fill($3::interval, array[cardinality($1::bigint[])]))`, ids, receipts, RetryAfter)
	return err
}

func (a *awaSQL) Books(ctx context.Context) (left, ended int64, err error) {
	return awaBooks(ctx, a.pool)
}

func awaBooks(ctx context.Context, pool *pgxpool.Pool) (left, ended int64, err error) {
	err = pool.QueryRow(ctx, `
		select coalesce(sum(available + scheduled + retryable + running), 0)::bigint, coalesce(sum(completed), 0)::bigint
		  from awa.queue_counts()`).Scan(&left, &ended)
	return left, ended, err
}

// poll calls a function that takes jobs of a queue and acknowledges them, for the queues that are this worker's, until
// the context ends. Where it finds none, it waits for a moment.
func poll(ctx context.Context, worker int, env Env, take func(ctx context.Context, queue string) (int, error)) error {
	calm := context.WithoutCancel(ctx) // so that what was taken is acknowledged
	for ctx.Err() == nil {
		found := 0
		for q := worker % env.Queues; q < env.Queues; q += env.Workers {
			n, err := take(calm, QueueName(q))
			if err != nil {
				return err
			}
			found += n
		}
		if found == 0 {
			pause(ctx, pollEvery)
		}
	}
	return nil
}

// pollEvery is how long a consumer without a wake-up of its own waits after it has found nothing.
const pollEvery = 2 * time.Millisecond
