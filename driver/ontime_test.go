package driver_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A worker that looks for deferred jobs once an hour wakes when one is due.
func TestWorkerWakesWhenAJobIsDue(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	ran := newTally()
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(200 * time.Millisecond)})
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	job := waitForState(t, pool, id, "completed")
	require.NotNil(t, job.AttemptedAt)
	assert.False(t, job.AttemptedAt.Before(job.RunAt))
}

// So it does for a job that comes while it sleeps, and is due within a second.
func TestWorkerWakesForAJobThatComes(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	ran := newTally()
	runWorker(t, pool, handle(ran.handle), driver.WorkerConfig{})
	waitFor(t, func() bool {
		return queryValue[bool](t, pool, "select exists (select from pg_stat_activity where datname = current_database() "+
			"and query like '%heartbeat%')")
	}, "it does not listen yet")
	for range 3 {
		id := enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)})
		waitForState(t, pool, id, "completed")
	}
}

// And for one that comes when it has looked for the first time, and does not listen yet.
func TestWorkerWakesForAJobThatCameBeforeItListened(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	admin := testdb.New(t)
	var once sync.Once
	var id atomic.Int64
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if bytes.Contains(sent, []byte(`listen "awa_due"`)) {
			once.Do(func() {
				waitFor(t, func() bool {
					return queryValue[bool](t, admin, "select exists (select from pg_stat_activity "+
						"where datname = current_database() and query like '%pass_due_at%' and state = 'idle' "+
						"and pid <> pg_backend_pid())")
				}, "it does not look")
				id.Store(enqueue(t, admin, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)}))
			})
		}
		return nil, nil
	}}
	runWorker(t, tap.pool(t, admin.Config().ConnString()), handle(newTally().handle), driver.WorkerConfig{})
	waitFor(t, func() bool { return id.Load() != 0 }, "it does not listen")
	waitForState(t, admin, id.Load(), "completed")
}

// A schedule fires when it is due, also one that is made while the worker sleeps; and the next one while another
// session holds the first one.
func TestWorkerWakesWhenAScheduleIsDue(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	make := func(name string) {
		require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: name, Every: time.Second, Args: note{}}))
	}
	fired := func(name string, times int) {
		t.Helper()
		waitFor(t, func() bool {
			return queryValue[bool](t, pool, "select count(distinct metadata #>> '{schedule,at}') >= $2 from awa.jobs "+
				"where metadata #>> '{schedule,name}' = $1 and state = 'completed'", name, times)
		}, name+" did not fire")
	}
	make("before")
	runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{})
	fired("before", 2)
	make("meanwhile")
	fired("meanwhile", 2)

	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, client.PauseScheduleTx(t.Context(), tx, "before", ""))
	make("beside")
	fired("beside", 3)
	require.NoError(t, tx.Rollback(t.Context()))
	fired("before", 4)
}

// A schedule that stays due, since another session holds it, is looked at less and less often, three times a second in
// the end; and fires soon after it is free.
func TestWorkerBesideAScheduleThatStaysDue(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	admin := testdb.New(t)
	client := driver.NewClient(admin)
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "held", Every: time.Second, Args: note{}}))
	tx, err := admin.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, client.PauseScheduleTx(t.Context(), tx, "held", ""))
	waitFor(t, func() bool {
		return queryValue[bool](t, admin, "select awa.pass_due_at('fire_due') < clock_timestamp()")
	}, "it is not due")

	var mu sync.Mutex
	var looks []time.Time
	tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
		if bytes.Contains(sent, []byte("fire_due")) && bytes.Contains(sent, []byte("run_pass")) {
			mu.Lock()
			defer mu.Unlock()
			looks = append(looks, time.Now())
		}
		return nil, nil
	}}
	runWorker(t, tap.pool(t, admin.Config().ConnString()), handle(newTally().handle), driver.WorkerConfig{})
	waitFor(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		n := len(looks)
		if n < 6 {
			return false
		}
		for i := n - 4; i < n; i++ {
			if looks[i].Sub(looks[i-1]) < 150*time.Millisecond {
				return false
			}
		}
		return true
	}, "it looks all the time")
	require.NoError(t, tx.Rollback(t.Context()))
	waitFor(t, func() bool {
		return queryValue[bool](t, admin, "select exists (select from awa.jobs where state = 'completed')")
	}, "it does not fire")
}

// While one of the two passes has more to do after each batch, the other one has its turn between two of them.
func TestABacklogKeepsNoOtherPassWaiting(t *testing.T) {
	driver.SetMaintenance(t, time.Hour)
	for _, backlog := range []string{"fire_due", "promote_due"} {
		t.Run(backlog, func(t *testing.T) {
			pool := testdb.New(t)
			execute(t, pool, "alter function awa.run_pass(text, int, boolean) rename to run_pass_once")
			execute(t, pool, `create table awa.batches (pass text)`)
			execute(t, pool, `create function awa.run_pass(pass text, max_jobs int default null, if_due boolean default false)
				returns boolean language sql security definer as $$
				insert into awa.batches values ($1);
				select awa.run_pass_once($1, $2, $3) or $1 = '`+backlog+`' $$`)
			runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{})
			client := driver.NewClient(pool)
			begins := map[string]func(){
				"fire_due": func() {
					require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "s", Every: time.Second, Args: note{}}))
				},
				"promote_due": func() {
					enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(50 * time.Millisecond)})
				},
			}
			begins[backlog]()
			waitFor(t, func() bool {
				return queryValue[bool](t, pool, "select count(*) > 3 from awa.batches where pass = $1", backlog)
			}, "there is no backlog")
			for pass, begin := range begins {
				if pass != backlog {
					begin()
				}
			}
			waitFor(t, func() bool {
				return queryValue[bool](t, pool, "select exists (select from awa.jobs where state = 'completed' "+
					"and (metadata ? 'schedule') is not true) and exists (select from awa.jobs where state = 'completed' "+
					"and metadata ? 'schedule')")
			}, backlog+" keeps the other one waiting")
		})
	}
}

func TestNextReadyAt(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	at, err := client.NextReadyAt(t.Context())
	require.NoError(t, err)
	assert.True(t, at.IsZero())
	due := time.Now().Add(time.Hour).Truncate(time.Second)
	enqueue(t, pool, note{}, driver.EnqueueOptions{RunAt: due, Queue: "q"})
	for _, queues := range [][]string{nil, {"q"}, {"q", "other"}} {
		at, err = client.NextReadyAt(t.Context(), queues...)
		require.NoError(t, err)
		assert.True(t, due.Equal(at))
	}
	at, err = client.NextReadyAt(t.Context(), "other")
	require.NoError(t, err)
	assert.True(t, at.IsZero())
}
