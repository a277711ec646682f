package driver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// enqueueMany enqueues so many jobs with a text.
func enqueueMany(t *testing.T, pool *pgxpool.Pool, queue, text string, n int) {
	t.Helper()
	_, err := driver.NewClient(pool).EnqueueMany(t.Context(), slices.Repeat([]driver.Args{note{text}}, n),
		driver.EnqueueOptions{Queue: queue})
	require.NoError(t, err)
}

// flow counts what a worker sends where it sends answers.
type flow struct {
	mu       sync.Mutex
	sends    int
	returned map[int64]int // by job: how many there were when its handler returned,
	last     map[int64]int // and with the last one that had its id
}

// tapFlow returns a pool for a worker whose answers are counted.
func tapFlow(t *testing.T, pool *pgxpool.Pool) (*flow, *pgxpool.Pool) {
	t.Helper()
	f := &flow{returned: map[int64]int{}, last: map[int64]int{}}
	tap := &wiretap{onWrite: func(c *tappedConn, sent []byte) (func() error, error) {
		if !c.answers {
			return nil, nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sends++
		for id := range f.returned {
			if bytes.Contains(sent, binary.BigEndian.AppendUint64([]byte{0, 0, 0, 8}, uint64(id))) { // in an array
				f.last[id] = f.sends
			}
		}
		return nil, nil
	}}
	return f, tap.pool(t, pool.Config().ConnString())
}

func (f *flow) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sends
}

func (f *flow) returns(id int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.returned[id] = f.sends
}

// require enqueues jobs in another queue, and requires that each is answered soon after its handler has returned,
// whatever is held: the worker sends little before that.
func (f *flow) require(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	var sends []int
	for range n {
		id := enqueue(t, pool, note{"good"}, driver.EnqueueOptions{Queue: "good"})
		waitForState(t, pool, id, "completed")
		f.mu.Lock()
		require.Contains(t, f.last, id)
		sends = append(sends, f.last[id]-f.returned[id])
		f.mu.Unlock()
	}
	slices.Sort(sends)
	t.Log("sent from the return of a handler to the end of its job:", sends)
	require.LessOrEqual(t, sends[len(sends)/2], 12, "answers are held up")
	require.Less(t, sends[len(sends)-1], 100, "one was held up") // a handler that has returned may wait for a processor
}

// holdAnswers runs a worker of two queues, and returns when a transaction has cancelled n jobs whose handlers return
// then.
func holdAnswers(
	t *testing.T, pool *pgxpool.Pool, n int,
) (f *flow, stop func() error, end func(context.Context) error) {
	t.Helper()
	enqueueMany(t, pool, "bad", "bad", n)
	began, goOn := make(chan bool, n), make(chan struct{})
	f, tapped := tapFlow(t, pool)
	stop = runWorker(t, tapped, handle(func(_ context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "bad" {
			began <- true
			<-goOn
			return nil
		}
		f.returns(job.ID)
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Slots: n + 10, StopTimeout: time.Minute,
		Logger: logger(t),
		Queues: []driver.QueueConfig{{Name: "bad"}, {Name: "good"}}})
	for range n {
		receive(t, began)
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	var cancelled int
	require.NoError(t, tx.QueryRow(t.Context(),
		"select awa.cancel_where('bad', state => 'running', max_jobs => 10000)").Scan(&cancelled))
	require.Equal(t, n, cancelled)
	close(goOn)
	return f, stop, tx.Commit
}

// Answers that wait for a transaction that holds their attempts keep no others waiting, however many there are, and go
// when it ends.
func TestManyAnswersBesideAnOpenTransaction(t *testing.T) {
	for _, n := range []int{30, 300, 1100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			pool := testdb.New(t)
			flow, stop, commit := holdAnswers(t, pool, n)
			flow.require(t, pool, 30)
			require.NoError(t, commit(t.Context()))
			before := flow.count()
			flow.require(t, pool, 5)
			require.NoError(t, stop())
			t.Log("sent from the commit on:", flow.count()-before)
			assert.Less(t, flow.count()-before, n/2+30, "each is sent by itself")
			assert.Equal(t, 35, queryValue[int](t, pool, "select completed from awa.queue_counts('good')"))
			assert.Equal(t, n, queryValue[int](t, pool, "select cancelled from awa.queue_counts('bad')"))
		})
	}
}

// So do answers for jobs of a claim which a transaction is answering for, where the functions themselves say that
// another session holds it: also after the time in which other refusals are given up, each ends as its handler said.
func TestAnswersBesideAnOpenBatch(t *testing.T) {
	const n = 20
	patience := 500 * time.Millisecond
	driver.SetRefusalPatience(t, patience)
	pool := testdb.New(t)
	enqueueMany(t, pool, "bad", "bad", n)
	began, goOn := make(chan bool, n), make(chan struct{})
	flow, tapped := tapFlow(t, pool)
	runWorker(t, tapped, handle(func(_ context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "bad" {
			began <- true
			<-goOn
			return nil
		}
		flow.returns(job.ID)
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Slots: n + 10, Logger: logger(t),
		Queues: []driver.QueueConfig{{Name: "bad"}, {Name: "good"}}})
	for range n {
		receive(t, began)
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	// one job of each claim
	_, err = tx.Exec(t.Context(), `
		select awa.complete_many(array_agg(c.id), array_agg(c.receipt))
		  from (select min(j.id) as id, min(j.receipt) as receipt
		          from (select id from awa.list_jobs('bad')) l cross join lateral awa.job(l.id) j
		         group by j.receipt >> 12) c`)
	require.NoError(t, err)
	close(goOn)
	flow.require(t, pool, 5)
	for held := time.Now(); time.Since(held) < 8*patience; {
		require.Zero(t, queryValue[int](t, pool, `select count(*) from pg_stat_activity where datname = current_database()
			and state = 'active' and query ~ 'awa\.(fail|discard|put_off)' and pid <> pg_backend_pid()`),
			"something else is sent in place of an answer that waits")
	}
	flow.require(t, pool, 5)
	require.NoError(t, tx.Commit(t.Context()))
	waitFor(t, func() bool { return queryValue[int](t, pool, "select running from awa.queue_counts('bad')") == 0 },
		"they are not taken")
	assert.Equal(t, n, queryValue[int](t, pool, "select completed from awa.queue_counts('bad')"))
}

// Those that are with them in one batch, or part of it, pass soon, too.
func TestManyAnswersAmongOthers(t *testing.T) {
	pool := testdb.New(t)
	enqueueMany(t, pool, "mixed", "bad", 150)
	enqueueMany(t, pool, "mixed", "good", 150)
	began, goOn := make(chan bool, 300), make(chan struct{})
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		began <- true
		<-goOn
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Slots: 300, Queues: []driver.QueueConfig{{Name: "mixed"}}})
	for range 300 {
		receive(t, began)
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	_, err = tx.Exec(t.Context(), `select awa.cancel_where('mixed', state => 'running', args => '{"text": "bad"}')`)
	require.NoError(t, err)
	close(goOn)
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select completed from awa.queue_counts('mixed')") == 150
	}, "others do not pass")
	require.NoError(t, tx.Commit(t.Context()))
	waitFor(t, func() bool {
		return queryValue[int](t, pool, "select cancelled from awa.queue_counts('mixed')") == 150
	}, "they are not cancelled")
}

// A worker that is stopped sends what is held as soon as it can, until its time is over; then it says how much is left.
func TestStopBesideManyHeldAnswers(t *testing.T) {
	driver.SetTimeouts(t, time.Minute, 3*time.Second, time.Minute)
	for name, ends := range map[string]bool{"that ends": true, "that stays": false} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			flow, stop, commit := holdAnswers(t, pool, 300)
			flow.require(t, pool, 3)
			stopped := make(chan error, 1)
			go func() { stopped <- stop() }()
			if !ends {
				assert.ErrorContains(t, receive(t, stopped), "300 answers could not be sent")
				return
			}
			waitFor(t, func() bool { // the worker has nothing else to do than to send them
				return queryValue[bool](t, pool, "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "+
					"and datname = current_database() and query like '%complete%')")
			}, "they are not sent again")
			require.NoError(t, commit(t.Context()))
			require.NoError(t, receive(t, stopped))
		})
	}
}

// However many answers the server refuses, the others flow; and all of them end as a single one would, in about the
// same time.
func TestManyAnswersThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		tables      []string
		n           int
		maxAttempts int
		state       string // that the jobs have in the end
	}{
		"put off":   {[]string{"awa.done_entries"}, 300, 1, "scheduled"},
		"discarded": {[]string{"awa.deferred_jobs"}, 300, 5, "failed"},
		"held":      {[]string{"awa.deferred_jobs", "awa.done_entries"}, 3000, 5, "running"},
	} {
		t.Run(name, func(t *testing.T) {
			driver.SetRefusalPatience(t, 2*time.Second)
			pool := testdb.New(t)
			for _, table := range c.tables {
				refuse(t, pool, table, "new.args->>'text' = 'bad'", "P0001")
			}
			_, err := driver.NewClient(pool).EnqueueMany(t.Context(), slices.Repeat([]driver.Args{note{"bad"}}, c.n),
				driver.EnqueueOptions{Queue: "bad", MaxAttempts: c.maxAttempts})
			require.NoError(t, err)
			flow, tapped := tapFlow(t, pool)
			w, err := driver.NewWorker(tapped, handle(func(_ context.Context, job *driver.Job[note]) error {
				if strings.HasPrefix(job.Args.Text, "bad") {
					return errors.New("boom")
				}
				flow.returns(job.ID)
				return nil
			}), driver.WorkerConfig{NoMaintenance: true, Logger: logger(t),
				Queues: []driver.QueueConfig{{Name: "bad"}, {Name: "good"}}})
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- w.Run(ctx) }()
			defer func() { stop(); receive(t, result) }()
			waitFor(t, func() bool { return w.Stats()[0].Claimed >= int64(min(c.n, 900)) }, "the worker does not work")
			flow.require(t, pool, 30)
			if c.state == "running" {
				assert.LessOrEqual(t, w.Stats()[0].Claimed, int64(driver.AnswersOnTheirWay+100),
					"it goes on to claim what it can't answer for")
				return
			}
			began := time.Now()
			waitFor(t, func() bool {
				return queryValue[int](t, pool, "select "+c.state+" from awa.queue_counts('bad')") == c.n
			}, "they have not ended")
			t.Log("they ended", time.Since(began), "later")
			flow.require(t, pool, 3)
		})
	}
}

// wrap has what a worker sends by a function go through a check first, in PL/pgSQL, which may count in the sequence
// public.counted. It returns what undoes that.
func wrap(t *testing.T, pool *pgxpool.Pool, function, params, args, check string) (unwrap func()) {
	t.Helper()
	execute(t, pool, "create sequence public.counted minvalue 0 start 0")
	execute(t, pool, fmt.Sprintf(`
		alter function awa.%[1]s rename to %[1]s_itself;
		create function awa.%[1]s(%[2]s) returns setof bigint language plpgsql as $$
		begin
		  %[4]s
		  return query select * from awa.%[1]s_itself(%[3]s);
		end $$`, function, params, args, check))
	return func() {
		execute(t, pool, fmt.Sprintf("drop function awa.%[1]s; alter function awa.%[1]s_itself rename to %[1]s", function))
	}
}

// While answers of a queue are refused, the coming ones are not sent with those of others, which would be refused with
// them again and again.
func TestRefusedAnswersKeepToTheirQueue(t *testing.T) {
	const rounds, others = 30, 5
	pool := testdb.New(t)
	enqueueMany(t, pool, "bad", "bad", rounds)
	last := queryValue[int64](t, pool, "select max(id) from awa.list_jobs('bad')")
	unwrap := wrap(t, pool, "complete_many", "job_ids bigint[], receipts bigint[], outputs jsonb[] default null",
		"job_ids, receipts, outputs", fmt.Sprintf(`
		  if exists (select from unnest(job_ids) id where id <= %[1]d) then
		    if exists (select from unnest(job_ids) id where id > %[1]d) then perform nextval('public.counted'); end if;
		    raise exception using errcode = '40001', message = 'not this one'; -- which is not given up for a minute
		  end if;`, last))
	began := make(chan bool, rounds+others)
	goOn := map[string]chan bool{"bad": make(chan bool), "good": make(chan bool)}
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		began <- true
		<-goOn[job.Args.Text]
		return nil
	}), driver.WorkerConfig{NoMaintenance: true, Logger: logger(t),
		Queues: []driver.QueueConfig{{Name: "bad"}, {Name: "good"}}})
	for range rounds {
		receive(t, began)
	}
	for i := range rounds {
		enqueueMany(t, pool, "good", "good", others)
		for range others {
			receive(t, began)
		}
		for range others {
			goOn["good"] <- true
		}
		goOn["bad"] <- true
		waitFor(t, func() bool {
			return queryValue[int](t, pool, "select completed from awa.queue_counts('good')") == (i+1)*others
		}, "round %d: others do not pass", i)
	}
	assert.LessOrEqual(t, queryValue[int](t, pool, "select last_value from public.counted"), 1,
		"others are sent with those that are refused")
	unwrap()
	require.NoError(t, stop())
	assert.Equal(t, rounds, queryValue[int](t, pool, "select completed from awa.queue_counts('bad')"))
}

// Thousands of answers that are refused, in ever smaller parcels, have no other queue's wait until each was sent.
func TestManyRefusalsBesideOneAnswer(t *testing.T) {
	driver.SetRefusalPatience(t, time.Hour)
	const n = 2000
	pool := testdb.New(t)
	enqueueMany(t, pool, "bad", "bad", n)
	last := queryValue[int64](t, pool, "select max(id) from awa.list_jobs('bad', max_jobs => 10000)")
	enqueue(t, pool, note{"good"}, driver.EnqueueOptions{Queue: "good", MaxAttempts: 1})
	execute(t, pool, "create table public.passed (calls bigint)")
	unwrap := wrap(t, pool, "fail_many",
		"job_ids bigint[], receipts bigint[], errors text[], retry_after interval[] default null",
		"job_ids, receipts, errors, retry_after", fmt.Sprintf(`
		  perform nextval('public.counted');
		  if exists (select from unnest(job_ids) id where id <= %d) then
		    raise exception using errcode = '53100', message = 'not this one';
		  end if;
		  insert into public.passed select last_value from public.counted;`, last))
	began := make(chan bool, n+1)
	goOn := map[string]chan bool{"bad": make(chan bool), "good": make(chan bool)}
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		began <- true
		<-goOn[job.Args.Text]
		return errors.New("boom")
	}), driver.WorkerConfig{NoMaintenance: true, Slots: n + 1,
		Queues: []driver.QueueConfig{{Name: "bad"}, {Name: "good"}}, Logger: slog.New(slog.DiscardHandler)})
	for range n + 1 {
		receive(t, began)
	}
	close(goOn["bad"])
	waitFor(t, func() bool { return queryValue[int](t, pool, "select last_value from public.counted") >= 3 },
		"nothing is sent")
	before := queryValue[int](t, pool, "select last_value from public.counted")
	close(goOn["good"])
	waitFor(t, func() bool { return queryValue[bool](t, pool, "select exists (select from public.passed)") },
		"the other one does not pass")
	assert.Less(t, queryValue[int](t, pool, "select min(calls) from public.passed")-before, 100,
		"it has waited for the others")
	unwrap()
	require.NoError(t, stop())
}
