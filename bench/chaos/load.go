//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	loadName   = "chaos load" // the application_name of what faults are for
	lease      = 10 * time.Second
	mostAtOnce = 200
	depth      = 3000 // jobs on their way, about
	retryEvery = 10 * time.Millisecond
	callTime   = 20 * time.Second // then the client hangs up
)

// client is a session of the load, and opens another one when it is lost.
type client struct {
	*rig
	conn *pgx.Conn
	rand *rand.Rand
}

// connected returns a session, as soon as there is one.
func (c *client) connected(ctx context.Context) *pgx.Conn {
	for ctx.Err() == nil {
		if c.conn != nil && !c.conn.IsClosed() {
			return c.conn
		}
		cfg, err := pgx.ParseConfig(c.clientURL())
		if err == nil {
			cfg.RuntimeParams["application_name"] = loadName
			cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // behind a pooler, too
			cfg.ConnectTimeout = 5 * time.Second
			c.conn, err = pgx.ConnectConfig(ctx, cfg)
		}
		if err == nil {
			return c.conn
		}
		c.conn = nil
		c.failed(ctx, err)
	}
	return nil
}

// failed counts an error, and waits for a moment.
func (c *client) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.count(err)
		time.Sleep(retryEvery)
	}
}

// transaction sends statements as one transaction in one round trip, and notes what is known of it then. While the gate
// is closed it waits.
func (c *client) transaction(
	ctx context.Context, end string, queue func(*pgx.Batch), note func(f fate, began time.Time),
) (f fate, err error) {
	conn := c.connected(ctx)
	c.book.gate.RLock()
	defer c.book.gate.RUnlock()
	if conn == nil || ctx.Err() != nil {
		note(refused, time.Now())
		return refused, ctx.Err()
	}
	// A call is not cut off by the end of the load: its outcome would not be known.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	var batch pgx.Batch
	batch.Queue("begin isolation level read committed")
	if t := c.timeout(c.rand); t != "" {
		batch.Queue("set local statement_timeout = " + t)
	}
	queue(&batch)
	batch.Queue(end)
	began := time.Now()
	err = conn.SendBatch(ctx, &batch).Close()
	defer func() { note(f, began) }()
	if err == nil && end == "rollback" {
		return refused, nil
	}
	if err == nil {
		return held, nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Severity == "ERROR" {
		f = refused
	} else {
		f = unknown
		conn.Close(ctx)
	}
	if conn.PgConn().TxStatus() != 'I' && !conn.IsClosed() {
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			conn.Close(ctx)
		}
	}
	c.failed(ctx, err)
	return f, err
}

// produce enqueues until the context ends.
func (c *client) produce(ctx context.Context, q queue) {
	for ctx.Err() == nil {
		if c.book.onTheirWay(q) > depth {
			time.Sleep(time.Millisecond)
			continue
		}
		jobs := 1
		if q != orders {
			jobs += c.rand.IntN(mostAtOnce)
		}
		if q == worker {
			jobs = 1 + jobs/10
		}
		first := c.book.offer(q, jobs)
		var runAt *time.Time
		if c.rand.IntN(50) == 0 {
			runAt = new(time.Now().Add(time.Second))
		}
		end := "commit"
		if c.rand.IntN(20) == 0 {
			end = "rollback"
		}
		c.transaction(ctx, end, func(b *pgx.Batch) {
			b.Queue("insert into chaos.sent values ($1, $2)", first, jobs)
			b.Queue(`
				select count(*) from awa.enqueue_many($1, 'chaos', array(
				  select jsonb_build_object('n', n) from generate_series($2::bigint, $2::bigint + $3::bigint - 1) n
				), run_at => $4)`, string(q), first, int64(jobs), runAt)
		}, func(f fate, began time.Time) { c.book.enqueue(first, jobs, f, began) })
	}
}

// claim claims jobs, and returns them when the claim was acknowledged.
func (c *client) claim(ctx context.Context, q queue, most int) []claim {
	var claims []claim
	durable := c.rand.IntN(4) == 0
	f, _ := c.transaction(ctx, "commit", func(b *pgx.Batch) {
		b.Queue("select (args ->> 'n')::bigint, job_id, receipt, attempt from awa.claim($1, $2, lease => $3::interval, "+
			"durable => $4)", string(q), int32(most), lease.String(), durable).Query(func(rows pgx.Rows) (err error) {
			claims, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (j claim, err error) {
				err = row.Scan(&j.n, &j.id, &j.receipt, &j.attempt)
				return j, err
			})
			return err
		})
	}, func(f fate, _ time.Time) {
		if f == held {
			c.book.run(claims, durable)
		}
	})
	if f != held {
		return nil
	}
	return claims
}

// work claims jobs and completes them in batches, but for some that fail.
func (c *client) work(ctx context.Context) {
	for ctx.Err() == nil {
		claims := c.claim(ctx, bulk, 1+c.rand.IntN(mostAtOnce))
		if len(claims) == 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		failing := claims[:0]
		if c.rand.IntN(20) == 0 {
			failing = claims[:len(claims)/4]
		}
		for len(failing) > 0 && !c.answer(ctx, "fail_many", failing) {
		}
		for !c.answer(ctx, "complete_many", claims[len(failing):]) {
		}
	}
}

// answer answers for attempts, again until it is acknowledged: it returns false where it has to be sent again.
func (c *client) answer(ctx context.Context, form string, claims []claim) bool {
	ctx = context.WithoutCancel(ctx) // what was claimed is answered
	var numbers, ids, receipts []int64
	for _, j := range claims {
		numbers, ids, receipts = append(numbers, j.n), append(ids, j.id), append(receipts, j.receipt)
	}
	if len(claims) == 0 {
		return true
	}
	stale := map[int64]bool{}
	var others []claim
	f, _ := c.transaction(ctx, "commit", func(b *pgx.Batch) {
		sql := "select awa.complete_many($1::bigint[], $2::bigint[])"
		if form == "fail_many" {
			sql = "select awa.fail_many($1::bigint[], $2::bigint[], array_fill('no'::text, array[cardinality($1::bigint[])]))"
		} else {
			b.Queue("insert into chaos.answered values ($1::bigint[])", numbers)
		}
		b.Queue(sql, ids, receipts).Query(func(rows pgx.Rows) error {
			refused, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			for _, id := range refused {
				stale[id] = true
			}
			return err
		})
	}, func(f fate, began time.Time) {
		var answered []int64
		for _, j := range claims {
			if stale[j.id] && f == held {
				others = append(others, j)
			} else {
				answered = append(answered, j.n)
			}
		}
		if f == refused {
			return
		}
		if form == "fail_many" { // when the answer is lost, it may hold or not
			c.book.fail(answered)
			others = nil
			return
		}
		c.book.end(answered, f, began)
	})
	c.learn(ctx, others)
	return f == held
}

// learn asks what became of jobs whose answers were refused as stale: an answer of before may have held whose
// acknowledgement was lost. A completed job may be in no history any more.
func (c *client) learn(ctx context.Context, claims []claim) {
	if len(claims) == 0 {
		return
	}
	numbers := map[int64]int64{}
	var ids []int64
	for _, j := range claims {
		numbers[j.id], ids = j.n, append(ids, j.id)
	}
	for f := unknown; f != held; {
		var ended []int64
		f, _ = c.transaction(ctx, "commit", func(b *pgx.Batch) {
			b.Queue("select x.id from unnest($1::bigint[]) x(id) left join lateral awa.job(x.id) j on true "+
				"where j.id is null or j.state = 'completed'", ids).Query(func(rows pgx.Rows) (err error) {
				ended, err = pgx.CollectRows(rows, pgx.RowTo[int64])
				return err
			})
		}, func(f fate, began time.Time) {
			if f == held {
				for i, id := range ended {
					ended[i] = numbers[id]
				}
				c.book.end(ended, learnt, began)
			}
		})
	}
}

// fulfil claims orders, and completes each in a transaction that has an effect.
func (c *client) fulfil(ctx context.Context) {
	for ctx.Err() == nil {
		claims := c.claim(ctx, orders, 1+c.rand.IntN(20))
		if len(claims) == 0 {
			time.Sleep(time.Millisecond)
		}
		for _, j := range claims {
			for !c.complete(context.WithoutCancel(ctx), j) {
			}
		}
	}
}

// complete ends one job in a transaction that has an effect; it returns false where it has to be sent again.
func (c *client) complete(ctx context.Context, j claim) bool {
	f, err := c.transaction(ctx, "commit", func(b *pgx.Batch) {
		b.Queue("insert into chaos.effects values ($1)", j.n)
		b.Queue("select awa.complete($1, $2)", j.id, j.receipt)
	}, func(f fate, began time.Time) {
		if f != refused {
			c.book.end([]int64{j.n}, f, began)
		}
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "JQ001" {
		c.learn(ctx, []claim{j})
		return true
	}
	return f == held
}

// maintain calls maintenance, as workers do.
func (c *client) maintain(ctx context.Context) {
	for ctx.Err() == nil {
		if conn := c.connected(ctx); conn != nil {
			if _, err := conn.Exec(context.WithoutCancel(ctx), "call awa.run_maintenance()"); err != nil {
				c.failed(ctx, fmt.Errorf("maintenance: %w", err))
				var pg *pgconn.PgError
				if !errors.As(err, &pg) {
					conn.Close(ctx)
				}
			}
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// start begins the load, and returns a function that ends it.
func (r *rig) startLoad(ctx context.Context) (stop func()) {
	producing, stopProducing := context.WithCancel(ctx)
	working, stopWorking := context.WithCancel(ctx)
	var producers, workers sync.WaitGroup
	n := uint64(0)
	session := func(wg *sync.WaitGroup, ctx context.Context, do func(*client, context.Context)) {
		n++
		c := &client{rig: r, rand: rand.New(rand.NewPCG(r.seed, n))}
		wg.Go(func() {
			do(c, ctx)
			if c.conn != nil {
				c.conn.Close(context.WithoutCancel(ctx))
			}
		})
	}
	for _, q := range []queue{bulk, bulk, orders, worker} {
		session(&producers, producing, func(c *client, ctx context.Context) { c.produce(ctx, q) })
	}
	for range 2 {
		session(&workers, working, func(c *client, ctx context.Context) { c.work(ctx) })
		session(&workers, working, func(c *client, ctx context.Context) { c.fulfil(ctx) })
	}
	session(&workers, working, func(c *client, ctx context.Context) { c.maintain(ctx) })
	r.stopProducing = func() { stopProducing(); producers.Wait() }
	return func() {
		r.stopProducing()
		stopWorking()
		workers.Wait()
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
