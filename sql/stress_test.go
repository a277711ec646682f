package sql_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

var (
	stressSeed = flag.Uint64("stress.seed", 0, "seed of the stress test; 0 takes a new one")
	stressTime = flag.Duration("stress.time", 15*time.Second, "how long the stress test produces")
)

// An ending is how one attempt ended that was claimed in a transaction that committed.
type ending string

const (
	completed ending = "completed"
	failed    ending = "failed"
	released  ending = "released"
	died      ending = "died"
)

type attempt struct {
	job, receipt int64
	queue        string
	producer     int
	priority     int32
	attempt      int32
	ending       ending
}

// A book is what the clients know: every commit that they saw succeed.
type book struct {
	mu        sync.Mutex
	committed map[int64]bool
	attempts  []attempt
	dead      []int64 // workers that died and that nobody deregistered yet
}

func (b *book) commit(jobs []int64, attempts []attempt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range jobs {
		b.committed[id] = true
	}
	b.attempts = append(b.attempts, attempts...)
}

func (b *book) known() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := make([]int64, 0, len(b.committed))
	for id := range b.committed {
		known = append(known, id)
	}
	return known
}

// A client is one connection with a random mind of its own.
type client struct {
	db   *pgx.Conn
	rand *rand.Rand
	book *book
	id   int
}

var stressQueues = []string{"a", "b", "c"}

// Nothing is lost, nothing comes twice, nothing comes out of thin air: 24 producers and 6 claimers, with everything at random that a client may do.
func TestStress(t *testing.T) {
	seed := *stressSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -stress.seed=%[1]d", seed)

	url := testdb.URL(t)
	books := &book{committed: map[int64]bool{}}
	newClient := func(id int) *client {
		return &client{db: testdb.Connect(t, url), rand: rand.New(rand.NewPCG(seed, uint64(id))), book: books, id: id}
	}
	ctx, cancel := context.WithTimeout(context.Background(), *stressTime+90*time.Second)
	defer cancel()
	produce, stopProducing := context.WithTimeout(ctx, *stressTime)
	defer stopProducing()
	work, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	errs := make(chan error, 64)
	run := func(wg *sync.WaitGroup, until context.Context, step func(context.Context) error) {
		wg.Go(func() {
			for until.Err() == nil {
				if err := step(ctx); err != nil {
					errs <- err
					cancel()
					return
				}
			}
		})
	}

	var producers, workers sync.WaitGroup
	for i := range 24 {
		run(&producers, produce, newClient(i).produce)
	}
	for i := range 6 {
		c := newClient(100 + i)
		var worker int64
		run(&workers, work, func(ctx context.Context) error { return c.work(ctx, &worker, produce.Err() == nil) })
	}
	reader, keeper := newClient(200), newClient(201)
	reads := 0
	run(&workers, work, func(ctx context.Context) error { reads++; return reader.checkStates(ctx) })
	run(&workers, work, keeper.keep)

	producers.Wait()
	settled := newClient(300)
	open := func() bool {
		var open int64
		err := settled.db.QueryRow(ctx, "select coalesce(sum(available + retryable + scheduled + running), 0) from awa.queue_counts()").Scan(&open)
		return err == nil && open > 0
	}
	for open() {
		time.Sleep(20 * time.Millisecond)
	}
	stopWorking()
	workers.Wait()
	for worker := int64(0); open(); { // what a worker still enqueued at the last moment
		require.NoError(t, settled.work(ctx, &worker, false))
		require.NoError(t, settled.keep(ctx))
	}
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "the jobs were not worked off in time")

	// Every committed job: claimed once and once more for each attempt that did not complete it, completed once, and completed it stays.
	completions, claims, again := map[int64]int{}, map[int64]int{}, map[int64]int{}
	seen := map[int64]bool{}
	for _, a := range books.attempts {
		require.True(t, books.committed[a.job], "job %d was claimed, and its enqueue never committed", a.job)
		require.False(t, seen[a.receipt], "receipt %d was given out twice", a.receipt)
		seen[a.receipt] = true
		claims[a.job]++
		if a.ending == completed {
			completions[a.job]++
		} else {
			again[a.job]++
		}
	}
	for id := range books.committed {
		if completions[id] != 1 || claims[id] != 1+again[id] {
			var state string
			_ = settled.db.QueryRow(ctx, "select to_jsonb(j)::text from awa.job($1) j", id).Scan(&state)
			require.Fail(t, "a job was lost, or came twice", "job %d: %d completions, %d claims; now %s; attempts %v",
				id, completions[id], claims[id], state, slices.DeleteFunc(books.attempts, func(a attempt) bool { return a.job != id }))
		}
	}
	var inView, distinct, done int64
	require.NoError(t, settled.db.QueryRow(ctx,
		"select count(*), count(distinct id), count(*) filter (where state = 'completed') from awa.jobs_compat()").Scan(&inView, &distinct, &done))
	require.Equal(t, []int64{int64(len(books.committed)), int64(len(books.committed)), int64(len(books.committed))}, []int64{inView, distinct, done})

	// First in, first out: what one producer committed one after the other was claimed in that order, lane by lane.
	type stream struct {
		queue              string
		priority, producer int
	}
	last := map[stream]int64{}
	slices.SortFunc(books.attempts, func(a, b attempt) int { return int(a.receipt - b.receipt) })
	for _, a := range books.attempts {
		if a.attempt > 1 || again[a.job] > 0 {
			continue
		}
		s := stream{a.queue, int(a.priority), a.producer}
		require.Less(t, last[s], a.job, "%v out of order", s)
		last[s] = a.job
	}

	var changed int64
	require.NoError(t, settled.db.QueryRow(ctx, `
		select sum(n_tup_upd + n_tup_del) from pg_stat_user_tables
		 where schemaname = 'awa' and relname ~ '^(ready_entries|lease_claims|lease_claim_closures)_'`).Scan(&changed))
	require.Zero(t, changed, "updates and deletes on the hot families")
	t.Logf("%d jobs committed, %d attempts, %d reads of all states", len(books.committed), len(books.attempts), reads)
	require.Positive(t, reads)
}

// produce is one transaction of random length, with savepoints, that commits or rolls back.
func (c *client) produce(ctx context.Context) error {
	tx, err := c.db.Begin(ctx)
	if err != nil {
		return err
	}
	var kept []int64
	for range 1 + c.rand.IntN(6) {
		savepoint := c.rand.IntN(4) == 0
		if savepoint {
			if _, err := tx.Exec(ctx, "savepoint s"); err != nil {
				return err
			}
		}
		ids, err := c.enqueue(ctx, tx)
		if err != nil {
			return err
		}
		switch {
		case savepoint && c.rand.IntN(2) == 0:
			_, err = tx.Exec(ctx, "rollback to s")
		case savepoint:
			_, err = tx.Exec(ctx, "release s")
			kept = append(kept, ids...)
		default:
			kept = append(kept, ids...)
		}
		if err != nil {
			return err
		}
		if c.rand.IntN(40) == 0 { // now and then a long one
			if _, err := tx.Exec(ctx, "select pg_sleep($1)", c.rand.Float64()); err != nil {
				return err
			}
		}
	}
	return c.end(ctx, tx, kept, nil)
}

func (c *client) enqueue(ctx context.Context, tx pgx.Tx) ([]int64, error) {
	queue := stressQueues[c.rand.IntN(len(stressQueues))]
	priority := 1 + c.rand.IntN(4)
	metadata := fmt.Sprintf(`{"producer": %d}`, c.id)
	if c.rand.IntN(2) == 0 {
		var id int64
		err := tx.QueryRow(ctx, "select awa.enqueue($1, 'k', priority => $2, metadata => $3)", queue, priority, metadata).Scan(&id)
		return []int64{id}, err
	}
	rows, _ := tx.Query(ctx, "select awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[$2::int]), priority => $3, metadata => $4)",
		queue, 1+c.rand.IntN(12), priority, metadata)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// end commits, and writes into the book what is true from then on, or rolls back.
func (c *client) end(ctx context.Context, tx pgx.Tx, jobs []int64, attempts []attempt) error {
	if c.rand.IntN(4) == 0 {
		return tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	c.book.commit(jobs, attempts)
	return nil
}

// work claims once and answers for what it got: at once, in the same transaction or another, well or badly, or by dying.
func (c *client) work(ctx context.Context, worker *int64, mayEnqueue bool) error {
	if *worker == 0 {
		if err := c.db.QueryRow(ctx, "select awa.register_worker($1)", fmt.Sprint("worker ", c.id)).Scan(worker); err != nil {
			return err
		}
	}
	tx, err := c.db.Begin(ctx)
	if err != nil {
		return err
	}
	enqueues := mayEnqueue && c.rand.IntN(8) == 0
	var jobs []int64
	if enqueues {
		if jobs, err = c.enqueue(ctx, tx); err != nil {
			return err
		}
	}
	max := 1
	if c.rand.IntN(3) > 0 {
		max = 1 + c.rand.IntN(200)
	}
	queue := stressQueues[c.rand.IntN(len(stressQueues))]
	rows, _ := tx.Query(ctx, `
		select job_id, receipt, queue, (metadata ->> 'producer')::int, priority, attempt, '' from awa.claim($1, $2, $3)`, queue, max, *worker)
	attempts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a attempt, err error) {
		err = row.Scan(&a.job, &a.receipt, &a.queue, &a.producer, &a.priority, &a.attempt, &a.ending)
		return a, err
	})
	if err != nil {
		return err
	}
	if enqueues {
		more, err := c.enqueue(ctx, tx)
		if err != nil {
			return err
		}
		// The claim and the enqueues stand or fall together; the attempts are answered for below.
		before := len(attempts)
		if c.rand.IntN(4) == 0 {
			return tx.Rollback(ctx)
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		c.book.commit(append(jobs, more...), nil)
		attempts = attempts[:before]
	} else if err := tx.Commit(ctx); err != nil {
		return err
	}
	if len(attempts) == 0 {
		return nil
	}
	if c.rand.IntN(30) == 0 {
		for i := range attempts {
			attempts[i].ending = died
		}
		c.book.commit(nil, attempts)
		c.book.mu.Lock()
		c.book.dead = append(c.book.dead, *worker)
		c.book.mu.Unlock()
		*worker = 0
		return nil
	}
	return c.answer(ctx, attempts)
}

// answer ends attempts, in random parts and by random forms.
func (c *client) answer(ctx context.Context, attempts []attempt) error {
	c.rand.Shuffle(len(attempts), func(i, j int) { attempts[i], attempts[j] = attempts[j], attempts[i] })
	for len(attempts) > 0 {
		part := attempts[:1+c.rand.IntN(len(attempts))]
		attempts = attempts[len(part):]
		var jobs, receipts []int64
		for _, a := range part {
			jobs, receipts = append(jobs, a.job), append(receipts, a.receipt)
		}
		var stale []int64
		var err error
		end := completed
		switch form := c.rand.IntN(10); {
		case form == 0:
			end = failed
			errors := make([]string, len(jobs))
			delays := make([]time.Duration, len(jobs))
			stale, err = c.list(ctx, "select awa.fail_many($1, $2, $3, $4)", jobs, receipts, errors, delays)
		case form == 1:
			end = released
			part, attempts = part[:1], append(attempts, part[1:]...)
			_, err = c.db.Exec(ctx, "select awa.release($1, $2)", jobs[0], receipts[0])
		case form == 2:
			part, attempts = part[:1], append(attempts, part[1:]...)
			_, err = c.db.Exec(ctx, "select awa.complete($1, $2, '{}')", jobs[0], receipts[0])
		case form == 3: // a business transaction that completes its job, and rolls back half of the time
			part, attempts = part[:1], append(attempts, part[1:]...)
			level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead}[c.rand.IntN(2)]
			var tx pgx.Tx
			if tx, err = c.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: level}); err != nil {
				return err
			}
			if _, err = tx.Exec(ctx, "select awa.complete($1, $2)", jobs[0], receipts[0]); err != nil {
				return err
			}
			if c.rand.IntN(2) == 0 {
				attempts = append(attempts, part[0])
				if err := tx.Rollback(ctx); err != nil {
					return err
				}
				continue
			}
			err = tx.Commit(ctx)
		default:
			stale, err = c.list(ctx, "select awa.complete_many($1, $2)", jobs, receipts)
		}
		if err != nil {
			return err
		}
		if len(stale) > 0 {
			return fmt.Errorf("refused as stale, though its worker lives: jobs %v", stale)
		}
		part = slices.Clone(part)
		for i := range part {
			part[i].ending = end
		}
		c.book.commit(nil, part)
	}
	return nil
}

// keep is what goes on beside: due retries are promoted, and the jobs of dead workers given back.
func (c *client) keep(ctx context.Context) error {
	c.book.mu.Lock()
	dead := c.book.dead
	c.book.dead = nil
	c.book.mu.Unlock()
	for _, worker := range dead {
		if _, err := c.db.Exec(ctx, "select awa.deregister_worker($1)", worker); err != nil {
			return err
		}
	}
	_, err := c.db.Exec(ctx, "select awa.promote_due(), pg_sleep(0.01)")
	return err
}

// checkStates reads all states in one statement: each job once, and none missing that was committed before.
func (c *client) checkStates(ctx context.Context) error {
	known := c.book.known()
	ids, err := c.list(ctx, "select id from awa.jobs_compat()")
	if err != nil {
		return err
	}
	times := make(map[int64]int, len(ids))
	for _, id := range ids {
		times[id]++
	}
	for id, n := range times {
		if n > 1 {
			return fmt.Errorf("job %d has %d states at once", id, n)
		}
	}
	for _, id := range known {
		if times[id] == 0 {
			return fmt.Errorf("job %d has no state", id)
		}
	}
	return nil
}

func (c *client) list(ctx context.Context, sql string, args ...any) ([]int64, error) {
	rows, _ := c.db.Query(ctx, sql, args...)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
