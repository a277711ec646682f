package awatest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/driver/awatest"
)

func TestMain(m *testing.M) { awatest.Main(m) }

type note struct {
	Text string `json:"text"`
}

func (note) Kind() string { return "note" }

type other struct{}

func (other) Kind() string { return "other" }

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Fatal(args ...any)                 { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }

func (r *recorder) fail(text string) {
	r.failure = text
	runtime.Goexit()
}

// failureOf returns what a test says that fails; "" when it passes.
func failureOf(t *testing.T, test func(testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
	}()
	<-done
	return r.failure
}

func enqueue(t *testing.T, client *driver.Client, db driver.DBTX, args driver.Args, opts driver.EnqueueOptions) int64 {
	t.Helper()
	id, err := client.EnqueueTx(t.Context(), db, args, opts)
	require.NoError(t, err)
	return id
}

func TestRequireEnqueued(t *testing.T) {
	pool := awatest.New(t)
	client := driver.NewClient(pool)
	none := failureOf(t, func(t testing.TB) { awatest.RequireEnqueued[note](t, pool) })
	assert.Equal(t, `awatest: 0 jobs of kind "note" wait, not one: there is none`, none)
	assert.Empty(t, failureOf(t, func(t testing.TB) { awatest.RequireNotEnqueued[note](t, pool) }))

	runAt := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	enqueue(t, client, pool, other{}, driver.EnqueueOptions{})
	first := enqueue(t, client, pool, note{"a"},
		driver.EnqueueOptions{Queue: "q", Priority: 3, MaxAttempts: 7, RunAt: runAt, Tags: []string{"x"},
			Metadata: map[string]int{"n": 1}, GroupKey: "g", ExpiresAt: runAt.Add(time.Hour)})
	job := awatest.RequireEnqueued[note](t, pool)
	assert.Equal(t, first, job.ID)
	assert.Equal(t, "q", job.Queue)
	assert.Equal(t, note{"a"}, job.Args)
	assert.Equal(t, "scheduled", job.State)
	assert.Equal(t, 3, job.Priority)
	assert.Zero(t, job.Attempt)
	assert.Equal(t, 7, job.MaxAttempts)
	assert.True(t, runAt.Equal(job.RunAt))
	assert.Equal(t, []string{"x"}, job.Tags)
	assert.JSONEq(t, `{"n": 1}`, string(job.Metadata))
	assert.Equal(t, "g", job.GroupKey)
	assert.True(t, runAt.Add(time.Hour).Equal(*job.ExpiresAt))

	second := enqueue(t, client, pool, note{"b"}, driver.EnqueueOptions{})
	isB := func(job awatest.Enqueued[note]) bool { return job.Args.Text == "b" }
	assert.Equal(t, second, awatest.RequireEnqueued(t, pool, isB).ID)
	two := failureOf(t, func(t testing.TB) { awatest.RequireEnqueued[note](t, pool) })
	assert.Contains(t, two,
		"2 jobs of kind \"note\" wait, not one:\n\tjob 3, available in default: {\"text\":\"b\"}\n\tjob 2, scheduled in q: ")
	assert.Contains(t, failureOf(t, func(t testing.TB) { awatest.RequireNotEnqueued(t, pool, isB) }),
		"1 jobs of kind \"note\" wait, not none")

	_, err := client.Cancel(t.Context(), second, "")
	require.NoError(t, err)
	awatest.RequireNotEnqueued(t, pool, isB)
}

// What a transaction has enqueued is seen inside it alone.
func TestRequireEnqueuedInATransaction(t *testing.T) {
	pool := awatest.New(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	enqueue(t, driver.NewClient(pool), tx, note{}, driver.EnqueueOptions{})
	awatest.RequireEnqueued[note](t, tx)
	awatest.RequireNotEnqueued[note](t, pool)
}

func TestArgumentsOfAnotherShape(t *testing.T) {
	pool := awatest.New(t)
	_, err := pool.Exec(t.Context(), `select awa.enqueue('q', 'note', '{"text": 1}')`)
	require.NoError(t, err)
	assert.Contains(t, failureOf(t, func(t testing.TB) { awatest.RequireEnqueued[note](t, pool) }),
		`arguments of job 1, {"text": 1}: json`)
}

// A thousand jobs that have ended do not hide one that waits.
func TestRequireEnqueuedBehindManyOthers(t *testing.T) {
	pool := awatest.New(t)
	client := driver.NewClient(pool)
	first := enqueue(t, client, pool, note{"waits"}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	args := make([]driver.Args, 2500)
	for i := range args {
		args[i] = note{"ends"}
	}
	_, err := client.EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "update awa.settings set claim_bytes = 10000000")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(),
		"select awa.complete_many(array_agg(job_id), array_agg(receipt)) from awa.claim('default', 2500)")
	require.NoError(t, err)
	assert.Equal(t, first, awatest.RequireEnqueued[note](t, pool).ID)
}

func TestWork(t *testing.T) {
	pool := awatest.New(t)
	client := driver.NewClient(pool)
	boom := errors.New("boom")
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[note]) error {
		switch job.Args.Text {
		case "fail":
			return boom
		case "panic":
			panic("ouch")
		case "snooze":
			return driver.Snooze(time.Hour)
		}
		job.SetOutput(job.Args.Text)
		return nil
	})
	assert.Contains(t, failureOf(t, func(t testing.TB) { awatest.Work(t, pool, handlers, driver.WorkerConfig{}) }),
		`no job is ready in ["default"]; Travel`)

	for _, c := range []struct{ text, state, output string }{
		{"fine", "completed", `"fine"`}, {"fail", "retryable", ""}, {"snooze", "scheduled", ""}, {"panic", "retryable", ""},
	} {
		id := enqueue(t, client, pool, note{c.text}, driver.EnqueueOptions{})
		worked := awatest.Work(t, pool, handlers, driver.WorkerConfig{})
		assert.Equal(t, id, worked.Job.ID)
		assert.Equal(t, c.state, worked.Job.State, c.text)
		if c.output != "" {
			assert.JSONEq(t, c.output, string(worked.Job.Output))
			assert.NoError(t, worked.Err)
		}
		switch c.text {
		case "fail":
			assert.ErrorIs(t, worked.Err, boom)
		case "panic":
			var p *driver.PanicError
			require.ErrorAs(t, worked.Err, &p)
			assert.Equal(t, "ouch", p.Value)
		}
	}

	enqueue(t, client, pool, other{}, driver.EnqueueOptions{Queue: "second"})
	var around []string
	worked := awatest.Work(t, pool, handlers, driver.WorkerConfig{
		Queues: []driver.QueueConfig{{Name: "first"}, {Name: "second"}},
		Middleware: []driver.Middleware{func(ctx context.Context, job *driver.RawJob,
			next func(context.Context) error) error {
			around = append(around, job.Kind)
			return next(ctx)
		}},
	})
	assert.ErrorIs(t, worked.Err, driver.ErrUnknownKind)
	assert.Equal(t, "scheduled", worked.Job.State)
	assert.Zero(t, worked.Job.Attempt)
	assert.Empty(t, around)
}

func TestTravel(t *testing.T) {
	pool := awatest.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, client, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(3 * time.Hour)})
	later := enqueue(t, client, pool, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(5 * time.Hour)})
	state := func(id int64) string {
		job, err := client.Job(t.Context(), id)
		require.NoError(t, err)
		return job.State
	}
	for range 3 { // whatever maintenance has looked at before
		_, err := pool.Exec(t.Context(), "select awa.promote_due()")
		require.NoError(t, err)
	}
	awatest.Travel(t, pool, 2*time.Hour)
	assert.Equal(t, "scheduled", state(id))
	awatest.Travel(t, pool, 2*time.Hour)
	assert.Equal(t, "available", state(id))
	assert.Equal(t, "scheduled", state(later))
	assert.Contains(t, failureOf(t, func(t testing.TB) { awatest.Travel(t, pool, -1) }), "forward only")
}
