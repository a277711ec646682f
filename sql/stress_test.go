package sql_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
	snoozed   ending = "snoozed"
	discarded ending = "discarded"
	cancelled ending = "cancelled"
	died      ending = "died"
	taken     ending = "taken" // by an operator's cancel: the answer was refused
)

type attempt struct {
	job, receipt int64
	queue, group string
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
	moved     map[int64]bool // jobs that an operator may have changed
	dead      []int64        // workers that died, and that are to be deregistered; others are left to rescue
	unlimited bool           // whether the limit of the groups of a queue is taken away at times

	appended atomic.Int64 // jobs committed since the last rotation
	quiet    sync.RWMutex // held by the pruner when it wants to be alone
}

func (b *book) commit(jobs []int64, attempts []attempt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range jobs {
		b.committed[id] = true
	}
	b.appended.Add(int64(len(jobs)))
	b.attempts = append(b.attempts, attempts...)
}

// move notes that an operator may change a job.
func (b *book) move(job int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moved[job] = true
}

// has says whether an attempt has ended so.
func (b *book) has(e ending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.attempts, func(a attempt) bool { return a.ending == e })
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

	missing []int64 // known jobs that it did not find
}

// One is paused half of the time, so that its jobs and its cursors are carried from segment to segment. Two have
// several shards, of a number that changes all the time, or would; the jobs that are enqueued to one of these have
// groups. The last two have limits: of one they change all the time, the other one has several shards.
var stressQueues = []string{"a", "b", "c", "often paused", "shards", "groups", "limited", "limited groups"}

// Nothing is lost, nothing comes twice, nothing comes out of thin air, and the books balance: 24 producers, 6 workers,
// 4 operators and maintenance, with everything at random that a client may do, while the segments turn every few
// hundred jobs.
func TestStress(t *testing.T) {
	seed := *stressSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -stress.seed=%[1]d", seed)
	stress(t, testdb.URL(t), seed)
}

func stress(t *testing.T, url string, seed uint64) {
	t.Helper()
	books := &book{committed: map[int64]bool{}, moved: map[int64]bool{}, unlimited: seed%2 == 0}
	newClient := func(id int) *client {
		return &client{db: testdb.Connect(t, url), rand: rand.New(rand.NewPCG(seed, uint64(id))), book: books, id: id}
	}
	ctx, cancel := context.WithTimeout(context.Background(), *stressTime+2*patience)
	defer cancel()
	produce, stopProducing := context.WithCancel(ctx)
	defer stopProducing()
	work, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	setUp := newClient(500)
	for i, queue := range stressQueues {
		var job int64
		require.NoError(t,
			setUp.db.QueryRow(ctx, `select awa.enqueue($1, 'k', metadata => '{"producer": 0}')`, queue).Scan(&job))
		books.committed[job] = true
		_, err := setUp.db.Exec(ctx, "select awa.configure_queue($1, $2)", queue,
			map[string]any{"backoff_base": 0.01, "dead_letter": queue == "b", "shards": []int{1, 1, 1, 1, 4, 4, 1, 4}[i]})
		require.NoError(t, err)
	}
	_, err := setUp.db.Exec(ctx, `
		select awa.configure_queue('limited', '{"group_max_running": 4, "max_running": 30}'),
		       awa.configure_queue('limited groups', '{"group_max_running": 2}')`)
	require.NoError(t, err)
	errs := make(chan error, 64)
	run := func(wg *sync.WaitGroup, until context.Context, step func(context.Context) error) {
		wg.Go(func() {
			for until.Err() == nil {
				if err := step(ctx); err != nil {
					var pg *pgconn.PgError
					if errors.As(err, &pg) {
						err = fmt.Errorf("%w: %s %s", err, pg.Detail, pg.Where)
					}
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
	run(&workers, work, books.beside(3, func(ctx context.Context) error { reads++; return reader.checkStates(ctx) }))
	run(&workers, work, keeper.keep)
	_, err = setUp.db.Exec(ctx, "update awa.settings set completed_retention = '0', prune_wait = '100 milliseconds'")
	require.NoError(t, err)
	// Half of the cleanings move what is alive some at a time, as they do where it is much.
	_, err = setUp.db.Exec(ctx, changing("_begin_cleaning", "or cut_off > 0", "or random() < 0.5"))
	require.NoError(t, err)
	// And half of them go lane by lane, as they do where there are very many.
	_, err = setUp.db.Exec(ctx, changing("_begin_cleaning", "count(*) > 500", "count(*) > 0 and random() < 0.5"))
	require.NoError(t, err)
	_, err = setUp.db.Exec(ctx, changing("_clean", "greatest(50 >> least(cut_off, 5), 1)", "5"))
	require.NoError(t, err)
	// A turn whose job an operator is changing waits, and others begin before it. Where the operator rolls back, nobody
	// but the claim knows which job that was.
	_, err = setUp.db.Exec(ctx, "create table public.put_off (job_id bigint); grant insert on public.put_off to public")
	require.NoError(t, err)
	for function, isPutOff := range map[string]string{"_next_turns": "t.size is null", "_next_by_turns": "not t.begins"} {
		_, err = setUp.db.Exec(ctx, changing(function, "), put_back as (", `
			), noted as (
			  insert into public.put_off
			  select w.job_id
			    from turns t
			    join awa.limited_jobs w on w.waiting_id = t.waiting_id
			   where t.is_there and `+isPutOff+`
			), put_back as (`))
		require.NoError(t, err)
	}
	pruner := newClient(202)
	turns := map[string]int{}
	var truncated atomic.Int64
	run(&workers, work, func(ctx context.Context) error {
		err := pruner.prune(ctx, turns)
		truncated.Store(int64(turns["truncated"]))
		return err
	})
	auditor, oldAuditor := newClient(203), newClient(204)
	audits, oldAudits := 0, 0
	run(&workers, work, books.beside(3, func(ctx context.Context) error { audits++; return auditor.audit(ctx) }))
	run(&workers, work, func(ctx context.Context) error { oldAudits++; return oldAuditor.auditThePast(ctx) })
	for i := range 4 {
		run(&producers, produce, books.beside(1, newClient(400+i).operate))
	}

	// On a busy machine the segments turn slowly, and less happens.
	select {
	case <-time.After(*stressTime):
	case <-ctx.Done():
	}
	for ctx.Err() == nil && (truncated.Load() <= int64(stressTime.Seconds()/4) || !books.has(taken)) {
		time.Sleep(20 * time.Millisecond)
	}
	stopProducing()
	producers.Wait()
	settled := newClient(300)
	if _, err := settled.db.Exec(ctx, "select awa.resume_queue($1)", stressQueues[3]); err != nil {
		errs <- err
	}
	open := func() bool {
		var open int64
		err := settled.db.QueryRow(ctx,
			"select coalesce(sum(available + retryable + scheduled + running), 0) from awa.queue_counts()").Scan(&open)
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

	// Every committed job has one end. It completed if, and as often as, somebody was told so: once at most. What did
	// not complete was cancelled or failed.
	completions, answered := map[int64]int{}, map[int64]int{}
	seen, endings := map[int64]bool{}, map[ending]int{}
	for _, a := range books.attempts {
		require.True(t, books.committed[a.job], "job %d was claimed, and its enqueue never committed", a.job)
		require.False(t, seen[a.receipt], "receipt %d was given out twice", a.receipt)
		seen[a.receipt] = true
		endings[a.ending]++
		if a.ending == completed {
			completions[a.job]++
		} else {
			answered[a.job]++
		}
	}
	// A completed job may be pruned by now.
	rows, _ := settled.db.Query(ctx, "select id, state from awa.jobs_compat()")
	states := map[int64]string{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (any, error) {
		var id int64
		var state string
		err := row.Scan(&id, &state)
		require.Empty(t, states[id], "job %d is %s, too", id, state)
		states[id] = state
		return nil, err
	})
	require.NoError(t, err)
	for _, id := range reader.missing {
		require.Equal(t, 1, completions[id], "job %d had no state, and has not completed", id)
	}
	require.NoError(t, settled.audit(ctx))
	var counted int64
	require.NoError(t, settled.db.QueryRow(ctx, "select sum(completed) from awa.queue_counts()").Scan(&counted))
	total := 0
	for _, n := range completions {
		total += n
	}
	require.Equal(t, int64(total), counted, "completed jobs, those included that were pruned")
	require.Less(t, len(states), len(books.committed), "nothing was pruned")
	ends := map[string]int{}
	for id := range books.committed {
		if states[id] == "" && completions[id] == 1 {
			states[id] = "completed"
		}
		ends[states[id]]++
		fine := completions[id] == 0 && (states[id] == "failed" || states[id] == "dead" || states[id] == "cancelled")
		if states[id] == "completed" {
			fine = completions[id] == 1
		}
		if !fine {
			var state string
			_ = settled.db.QueryRow(ctx, "select to_jsonb(j)::text from awa.job($1) j", id).Scan(&state)
			require.Fail(t, "a job was lost, or came twice", "job %d: %d completions; now %s; attempts %v",
				id, completions[id], state, slices.DeleteFunc(books.attempts, func(a attempt) bool { return a.job != id }))
		}
	}
	require.Positive(t, endings[taken], "no attempt was cancelled under its worker: the test tests too little")
	for _, state := range []string{"completed", "failed", "dead", "cancelled"} {
		require.Positive(t, ends[state], "no job is %s: the test tests too little", state)
	}
	var keys, leases, waiting, kept int64
	require.NoError(t,
		settled.db.QueryRow(ctx,
			"select (select count(*) from awa.unique_claims where job_id is not null), (select count(*) from "+
				"awa.leases), (select count(*) from awa.limited_jobs), (select count(*) from awa.turns)").
			Scan(&keys, &leases, &waiting, &kept))
	require.Zero(t, waiting, "jobs that wait for their groups")
	require.Zero(t, keys, "unique keys of jobs that have ended")
	require.Zero(t, leases, "leases of attempts that have ended")

	// First in, first out: what one producer committed one after the other was claimed in that order, lane by lane; or,
	// where the queue has several shards, group by group.
	type stream struct {
		queue, group       string
		priority, producer int
	}
	last := map[stream]int64{}
	putOff, err := settled.list(ctx, "select job_id from public.put_off")
	require.NoError(t, err)
	for _, job := range putOff {
		books.move(job)
	}
	slices.SortFunc(books.attempts, func(a, b attempt) int { return int(a.receipt - b.receipt) })
	for _, a := range books.attempts {
		if a.attempt > 1 || answered[a.job] > 0 || books.moved[a.job] || a.queue == "shards" {
			continue
		}
		s := stream{a.queue, a.group, int(a.priority), a.producer}
		require.Less(t, last[s], a.job, "%v out of order", s)
		last[s] = a.job
	}

	var changed int64
	require.NoError(t, settled.db.QueryRow(ctx, `
		-- cleaning moves entries
		select sum(n_tup_upd + case when starts_with(relname, 'ready') then 0 else n_tup_del end) from pg_stat_user_tables
		 where schemaname = 'awa' and relname ~ '^(ready_entries|lease_claims|lease_claim_closures)_'`).Scan(&changed))
	// Two answers for one item at the very same moment leave a dead row: the one that finds the index entry of the
	// other takes its row back.
	require.LessOrEqual(t, changed, int64(len(books.attempts)/1000), "updates and deletes on the hot families")
	t.Logf("%d jobs committed, %d attempts, %d reads of all states, %d audits and %d of the past, ends %v, of attempts "+
		"%v, turns %v",
		len(books.committed), len(books.attempts), reads, audits, oldAudits, ends, endings, turns)
	require.Positive(t, reads)
	require.Positive(t, audits)
	require.Positive(t, oldAudits)
}

// produce is one transaction of random length, with savepoints, that commits or rolls back.
func (c *client) produce(ctx context.Context) error {
	if c.book.appended.Load() > 400 { // let the segments turn
		time.Sleep(5 * time.Millisecond)
		return nil
	}
	if c.rand.IntN(4) == 0 {
		return c.produceUnique(ctx)
	}
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
			if err := c.rest(ctx, tx, time.Second); err != nil {
				return err
			}
		}
	}
	return c.end(ctx, tx, kept, nil)
}

// produceUnique is for one job of a few: two of them would have to be in the same order everywhere.
func (c *client) produceUnique(ctx context.Context) error {
	tx, err := c.db.Begin(ctx)
	if err != nil {
		return err
	}
	var job int64
	var inserted bool
	delay := time.Duration(c.rand.IntN(2)*c.rand.IntN(200)) * time.Millisecond
	err = tx.QueryRow(ctx, `
		select * from awa.enqueue_unique($1, 'k', metadata => $2, unique_key => $3, run_at => now() + $4::interval)`,
		stressQueues[c.rand.IntN(len(stressQueues))], fmt.Sprintf(`{"producer": %d}`, c.id),
		fmt.Sprint("key ", c.rand.IntN(20)), delay).Scan(&job, &inserted)
	if err != nil {
		return err
	}
	c.book.move(job) // it may start late
	var jobs []int64
	if inserted {
		jobs = []int64{job}
	}
	return c.end(ctx, tx, jobs, nil)
}

func (c *client) enqueue(ctx context.Context, tx pgx.Tx) ([]int64, error) {
	queue := stressQueues[c.rand.IntN(len(stressQueues))]
	priority := 1 + c.rand.IntN(4)
	metadata := fmt.Sprintf(`{"producer": %d}`, c.id)
	var group *string
	if queue == "groups" || queue == "limited groups" || queue == "limited" && c.rand.IntN(4) > 0 {
		group = new(c.group())
	}
	if c.rand.IntN(2) == 0 {
		var id int64
		err := tx.QueryRow(ctx, "select awa.enqueue($1, 'k', priority => $2, metadata => $3, group_key => $4)", queue,
			priority, metadata, group).Scan(&id)
		return []int64{id}, err
	}
	rows, _ := tx.Query(ctx,
		"select awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[$2::int]), priority => $3, metadata => $4, "+
			"group_key => $5)", queue, 1+c.rand.IntN(12), priority, metadata, group)
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

// work claims once and answers for what it got: at once, in the same transaction or another, well or badly, or by
// dying.
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
	dies := c.rand.IntN(30) == 0
	var lease *time.Duration
	claimer := worker
	if dies {
		lease = new(time.Duration)
		*lease = 50 * time.Millisecond
		if c.rand.IntN(2) == 0 {
			claimer = nil
		}
	}
	rows, _ := tx.Query(ctx, `
		select job_id, receipt, queue, coalesce(group_key, ''), (metadata ->> 'producer')::int, priority, attempt, ''
		  from awa.claim($1, $2, $3, $4)`, queue, max, claimer, lease)
	attempts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a attempt, err error) {
		err = row.Scan(&a.job, &a.receipt, &a.queue, &a.group, &a.producer, &a.priority, &a.attempt, &a.ending)
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
	if dies {
		for i := range attempts {
			attempts[i].ending = died
		}
		c.book.commit(nil, attempts)
		if c.rand.IntN(2) == 0 {
			c.book.mu.Lock()
			c.book.dead = append(c.book.dead, *worker)
			c.book.mu.Unlock()
		}
		*worker = 0
		return nil
	}
	return c.answer(ctx, attempts)
}

// answer ends attempts, in random parts and by random forms.
func (c *client) answer(ctx context.Context, attempts []attempt) error {
	c.rand.Shuffle(len(attempts), func(i, j int) { attempts[i], attempts[j] = attempts[j], attempts[i] })
	for len(attempts) > 0 {
		if c.rand.IntN(10) == 0 { // long enough to get a lease row, or to be cancelled
			time.Sleep(time.Duration(c.rand.IntN(100)) * time.Millisecond)
		}
		part := attempts[:1+c.rand.IntN(len(attempts))]
		attempts = attempts[len(part):]
		var jobs, receipts []int64
		for _, a := range part {
			jobs, receipts = append(jobs, a.job), append(receipts, a.receipt)
		}
		var stale []int64
		var err error
		end := completed
		single := func(e ending, sql string, args ...any) {
			end = e
			part, attempts = part[:1], append(attempts, part[1:]...)
			_, err = c.db.Exec(ctx, sql, append([]any{jobs[0], receipts[0]}, args...)...)
		}
		switch form := c.rand.IntN(20); {
		case form < 2:
			end = failed
			texts := make([]string, len(jobs))
			delays := make([]time.Duration, len(jobs))
			stale, err = c.list(ctx, "select awa.fail_many($1, $2, $3, $4)", jobs, receipts, texts, delays)
		case form == 2:
			single(released, "select awa.release($1, $2)")
		case form == 3:
			single(completed, "select awa.complete($1, $2, '{}')")
		case form == 4:
			single(snoozed, "select awa.snooze($1, $2, $3, $4)", time.Duration(c.rand.IntN(50))*time.Millisecond,
				c.rand.IntN(3) == 0)
		case form == 5:
			single(discarded, "select awa.discard($1, $2, 'no')")
		case form == 6:
			single(cancelled, "select awa.cancel_attempt($1, $2)")
		case form == 7: // a lease row, and then something else
			single(died, "select awa.set_progress($1, $2, '1'), awa.extend($1, $2, '1 minute')")
			if err == nil {
				attempts = append(attempts, part[0])
				continue
			}
		case form == 8: // a business transaction that completes its job, and rolls back half of the time
			level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead}[c.rand.IntN(2)]
			var tx pgx.Tx
			if tx, err = c.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: level}); err != nil {
				return err
			}
			part, attempts = part[:1], append(attempts, part[1:]...)
			_, err = tx.Exec(ctx, "select awa.complete($1, $2)", jobs[0], receipts[0])
			if err != nil || c.rand.IntN(2) == 0 {
				if err == nil || sqlState(err) == "40001" {
					attempts = append(attempts, part[0])
					err = nil
				}
				if rollbackErr := tx.Rollback(ctx); rollbackErr != nil {
					return rollbackErr
				}
				if err == nil {
					continue
				}
			} else {
				err = tx.Commit(ctx)
			}
		default:
			stale, err = c.list(ctx, "select awa.complete_many($1, $2)", jobs, receipts)
		}
		if sqlState(err) == "40P01" { // with an operator who changes several jobs in one transaction
			attempts = append(attempts, part...)
			continue
		}
		if sqlState(err) == "JQ001" {
			stale, err = []int64{part[0].job}, nil
		}
		if err != nil {
			return err
		}
		part = slices.Clone(part)
		for i := range part {
			part[i].ending = end
			if slices.Contains(stale, part[i].job) {
				part[i].ending = taken
				if err := c.checkTaken(ctx, part[i]); err != nil {
					return err
				}
			}
		}
		c.book.commit(nil, part)
	}
	return nil
}

// checkTaken makes sure that there was somebody who took an attempt from its worker: its job was cancelled.
func (c *client) checkTaken(ctx context.Context, a attempt) error {
	var outcome *string
	err := c.db.QueryRow(ctx, `
		select coalesce(nullif(min(k.outcome), 'materialized'), min(j.errors -> -1 ->> 'by'), min(e.error ->> 'by'))
		  from awa.lease_claim_closures k, awa.job($1) j
		  left join jsonb_array_elements(j.errors) e(error) on e.error ? 'by'
		 where k.claim_id = $2::bigint >> 12 and (k.item = $2 & 4095 or ($2 & 4095)::smallint = any(k.items))`, a.job,
		a.receipt).Scan(&outcome)
	if err != nil {
		return err
	}
	if outcome == nil || *outcome == string(completed) {
		return fmt.Errorf("refused as stale, though nobody cancelled it: %v", a)
	}
	return nil
}

// operate changes a random job, or several, as operators do; in a transaction that may be open for a while, and may
// roll back.
func (c *client) operate(ctx context.Context) error {
	known := c.book.known()
	if len(known) == 0 {
		return nil
	}
	tx, err := c.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	for range 1 + c.rand.IntN(3) {
		job, form := known[c.rand.IntN(len(known))], c.rand.IntN(19)
		state := []string{"available", "running", "running", "scheduled", "retryable"}[c.rand.IntN(5)]
		var open []int64
		if open, err = c.list(ctx, "select id from awa.list_jobs(state => $1, max_jobs => 100)", state); err != nil {
			return err
		}
		if len(open) > 0 {
			job = open[c.rand.IntN(len(open))]
			if state == "running" {
				form = 0
			}
		}
		c.book.move(job)
		queue := stressQueues[c.rand.IntN(len(stressQueues))]
		switch form {
		case 0, 1:
			_, err = tx.Exec(ctx, "select awa.cancel($1)", job)
		case 2:
			_, err = tx.Exec(ctx,
				"select awa.retry($1, nullif($2, ''), nullif($3, 0), clock_timestamp() + interval '10 milliseconds' * $4)", job,
				[]string{"", "", queue}[c.rand.IntN(3)], c.rand.IntN(5), max(c.rand.IntN(10)-5, 0))
		case 3:
			_, err = tx.Exec(ctx, "select awa.set_priority($1, $2)", job, 1+c.rand.IntN(4))
		case 4:
			_, err = tx.Exec(ctx, "select awa.move($1, $2)", job, queue)
		case 5:
			if err = c.moveEnded(ctx, queue); err == nil {
				_, err = tx.Exec(ctx, "select awa.retry_where(queue => $1, max_jobs => 2)", queue)
			}
		case 6: // another operator may retry what this one has cancelled, and what it has not seen when it looked
			if _, err = tx.Exec(ctx, "select awa.cancel_where(queue => $1, max_jobs => 2)", queue); err == nil {
				err = c.moveEnded(ctx, queue)
			}
		case 7:
			_, err = tx.Exec(ctx, "select awa.pause_queue($1)", stressQueues[3])
		case 8:
			_, err = tx.Exec(ctx, "select awa.resume_queue($1)", stressQueues[3])
		case 9:
			_, err = tx.Exec(ctx, "select awa.reschedule($1, clock_timestamp() + interval '10 milliseconds' * $2)", job,
				c.rand.IntN(10))
		case 10, 11:
			_, err = tx.Exec(ctx, "select awa.configure_queue($1, jsonb_build_object('shards', $2::int))",
				stressQueues[form-6], 1+c.rand.IntN(6))
		case 12, 13:
			most := c.rand.IntN(5)
			if !c.book.unlimited {
				most = max(most, 1)
			}
			_, err = tx.Exec(ctx, `
				select awa.configure_queue('limited', jsonb_build_object('group_max_running', nullif($1::int, 0), 'max_running',
				         nullif($2::int, 0), 'rate', nullif($3, '')::jsonb))`, most, c.rand.IntN(2)*(3+c.rand.IntN(28)),
				[]string{"", "", `{"jobs": 300, "per": "1 second"}`}[c.rand.IntN(3)])
		case 18: // not the other one: by turns, attempts under no limit hold slots, too, and its books count these
			_, err = tx.Exec(ctx, "select awa.configure_queue('limited groups', jsonb_build_object('group_turns', $1::boolean))",
				c.rand.IntN(2) == 0)
		case 14:
			_, err = tx.Exec(ctx, "select awa.pause_group($1, $2, until => clock_timestamp() + interval '1 second' * $3)",
				stressQueues[5+c.rand.IntN(3)], c.group(), c.rand.Float64())
		case 15:
			_, err = tx.Exec(ctx, "select awa.resume_group($1, $2)", stressQueues[5+c.rand.IntN(3)], c.group())
		case 16:
			_, err = tx.Exec(ctx,
				"select awa.configure_group($1, $2, jsonb_build_object('group_max_running', nullif($3::int, 0)))",
				stressQueues[6], c.group(), c.rand.IntN(5))
		case 17:
			_, err = tx.Exec(ctx, "select awa.configure_queue($1, jsonb_build_object('group_rate', nullif($2, '')::jsonb))",
				stressQueues[6+c.rand.IntN(2)], []string{"", `{"jobs": 100, "per": "1 second"}`}[c.rand.IntN(2)])
		}
		if err != nil {
			break
		}
		if c.rand.IntN(10) == 0 {
			err = c.rest(ctx, tx, time.Second/3)
		}
	}
	if err == nil {
		err = c.end(ctx, tx, nil, nil)
	}
	switch sqlState(err) {
	case "40001", "40P01", "JQ003", "JQ005", "23505", "55P03", "55000": // another session was there first
		return nil
	}
	return err
}

// moveEnded notes the jobs of a queue that retry_where may change.
func (c *client) moveEnded(ctx context.Context, queue string) error {
	moved, err := c.list(ctx,
		"select j.id from unnest('{failed,cancelled,dead}'::text[]) s, awa.list_jobs(queue => $1, state => s, max_jobs "+
			"=> 10000) j", queue)
	for _, job := range moved {
		c.book.move(job)
	}
	return err
}

// group is the key of a group.
func (c *client) group() string { return fmt.Sprint("group ", c.rand.IntN(6)) }

// rest keeps a transaction open; some clients with a snapshot, for which the pruner has to wait.
func (c *client) rest(ctx context.Context, tx pgx.Tx, longest time.Duration) error {
	rest := time.Duration(c.rand.Float64() * float64(longest))
	if c.id%8 == 0 {
		_, err := tx.Exec(ctx, "select pg_sleep($1)", rest.Seconds())
		return err
	}
	// until another one comes, a statement with arguments keeps its portal, and so its snapshot
	_, err := tx.Exec(ctx, "select")
	time.Sleep(rest)
	return err
}

// keep is what goes on beside: due retries are promoted, attempts that last get their rows, the jobs of dead workers
// are given back or rescued.
func (c *client) keep(ctx context.Context) error {
	c.book.mu.Lock()
	dead := c.book.dead
	c.book.dead = nil
	c.book.mu.Unlock()
	for _, worker := range dead {
		_, err := c.db.Exec(ctx, "select awa.deregister_worker($1)", worker)
		if sqlState(err) == "40P01" { // with an operator, as in answer: then rescue has to do it
			continue
		}
		if err != nil {
			return err
		}
	}
	_, err := c.db.Exec(ctx,
		"select awa.promote_due(), awa.fold(), awa.materialize('20 milliseconds'), awa.rescue(), awa.forget_workers()")
	time.Sleep(20 * time.Millisecond)
	return err
}

// beside does what has tables locked for long: never while the pruner wants to be alone, and with breaks that are some
// times as long.
func (b *book) beside(breaks time.Duration, step func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		b.quiet.RLock()
		began := time.Now()
		err := step(ctx)
		b.quiet.RUnlock()
		time.Sleep(breaks * time.Since(began))
		return err
	}
}

// prune turns the ring as far as it gets. For some turns it cleans a segment that was left just now, where much is
// alive; for others, the one before. Beside all others at first. When somebody is in its way, operators and readers let
// it pass for a while: one of them has the tables locked at nearly every moment.
func (c *client) prune(ctx context.Context, turns map[string]int) error {
	defer time.Sleep(5 * time.Millisecond)
	for alone := false; ; {
		if c.book.appended.Load() > 100 && turns["rotated"] < turns["truncated"]+1+turns["truncated"]/6%2 {
			var rotated bool
			if err := c.db.QueryRow(ctx, "select rotated from awa.rotate(true)").Scan(&rotated); err != nil {
				return err
			}
			if rotated {
				turns["rotated"]++
				c.book.appended.Store(0)
			}
		}
		var outcome string
		if err := c.db.QueryRow(ctx, "select outcome from awa.prune_oldest($1)",
			alone || c.rand.IntN(4) > 0).Scan(&outcome); err != nil {
			return err
		}
		turns[outcome]++
		switch outcome {
		case "unbalanced":
			return errors.New("the pruner misses rows")
		case "cleaning", "cleaned", "truncating", "truncated":
			if c.rand.IntN(16) == 0 {
				return nil
			}
		case "blocked":
			if alone {
				return nil
			}
			c.book.quiet.Lock()
			defer c.book.quiet.Unlock()
			alone = true
		default:
			return nil
		}
	}
}

// audit checks that the books balance. What begins from the line of a group while it has no limit holds slots, too:
// so where limits are taken away, there may be any number.
func (c *client) audit(ctx context.Context) error {
	var problems *string
	err := c.db.QueryRow(ctx,
		"select string_agg(format('%s: %s', queue, problem), e'\n') from awa.audit() where not balanced").Scan(&problems)
	if err != nil {
		return err
	}
	var groups *string
	err = c.db.QueryRow(ctx, `
		select string_agg(g.group_key, ', ')
		  from (
		    select g.queue_id, g.group_key
		      from (
		        select a.queue_id, a.lane, a.group_key from awa._all_available a
		        union all select r.queue_id, r.lane, r.group_key from awa._running r
		        union all select d.lane >> 9, d.lane, d.group_key from awa.deferred_jobs d
		      ) g
		     where g.group_key is not null
		     group by g.queue_id, g.group_key
		    having count(distinct g.lane >> 3) > 1
		  ) g`).Scan(&groups)
	if err == nil && groups != nil {
		err = fmt.Errorf("jobs in several shards of %s", *groups)
	}
	if err != nil {
		return err
	}
	var over *string
	err = c.db.QueryRow(ctx, `
		select string_agg(format('%s: %s', o.lane, o.n), ', ')
		  from (
		    select o.lane >> 3 as lane, o.group_id, count(*) as n
		      from awa._holders o
		     where o.queue_id = awa._queue_id('limited groups')
		     group by 1, 2
		    having count(*) > 2
		    union all
		    select o.lane >> 3, o.group_id, count(*)
		      from awa._holders o
		     where o.queue_id = awa._queue_id('limited') and o.group_id is not null and not $1
		     group by 1, 2
		    having count(*) > 4
		    union all
		    select 0, 0, count(*)
		      from awa._holders o
		     where o.queue_id = awa._queue_id('limited') and o.holds_queue
		    having count(*) > 30
		  ) o`, c.book.unlimited).Scan(&over)
	if err == nil && over != nil {
		err = fmt.Errorf("more attempts than a limit allows: %s", *over)
	}
	if err == nil && problems != nil {
		err = errors.New(*problems)
	}
	return err
}

// auditThePast checks that the books of a moment ago balance, whatever has been pruned since.
func (c *client) auditThePast(ctx context.Context) error {
	tx, err := c.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "select pg_sleep($1)", c.rand.Float64()/20); err != nil {
		return err
	}
	return c.book.beside(3, func(ctx context.Context) error {
		if err := c.audit(ctx); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})(ctx)
}

// checkStates reads all states in one statement: each job once, none missing that was committed before, unless it
// completed and was pruned, the counts are right, and unique keys are held by the jobs that
// should hold them.
func (c *client) checkStates(ctx context.Context) error {
	known := c.book.known()
	var ids []int64
	var jobs, counts, holders, keys string
	err := c.db.QueryRow(ctx, `
		with jobs as materialized (
		  select id, queue, state, unique_key from awa.jobs_compat()
		), counted as (
		  select queue, state, count(*) as n from jobs where state <> 'completed' group by queue, state
		)
		select (select array_agg(id) from jobs),
		       coalesce((select string_agg(format('%s %s %s', queue, state, n), ', ' order by queue, state) from counted),
		         ''),
		       coalesce((select string_agg(format('%s %s %s', c.queue, s.key, s.value), ', ' order by c.queue, s.key)
		                   from awa.queue_counts() c,
		                     jsonb_each_text(to_jsonb(c) - '{queue,oldest_ready_at,completed,limited}'::text[]) s
		                  where s.value <> '0'), ''),
		       coalesce((select string_agg(unique_key || ' ' || id, ', ' order by unique_key)
		                   from jobs
		                  where unique_key is not null and state in ('available', 'scheduled', 'retryable', 'running')), ''),
		       coalesce((select string_agg(encode(key, 'hex') || ' ' || job_id, ', ' order by key) from awa.unique_claims
		       where job_id is not null), '')`).Scan(&ids, &jobs, &counts, &holders, &keys)
	switch {
	case err != nil:
		return err
	case jobs != counts:
		return fmt.Errorf("the books do not balance: the jobs are %s; the counts say %s", jobs, counts)
	case holders != keys:
		return fmt.Errorf("unique keys should be held by %s; they are held by %s", holders, keys)
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
			c.missing = append(c.missing, id) // completed, and pruned?
		}
	}
	return nil
}

func (c *client) list(ctx context.Context, sql string, args ...any) ([]int64, error) {
	rows, _ := c.db.Query(ctx, sql, args...)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
