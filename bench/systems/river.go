package systems

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// riverQueue is River.
type riverQueue struct {
	tuned  bool
	env    Env
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	picked sync.Map // when the handler of a job began, by the job's number
}

// River is River. Tuned: as many workers as the scenario has slots, and the short fetch intervals of River's own
// benchmark; otherwise 100 workers, as in its documentation's first example, and its defaults.
func River(tuned bool) Info {
	info := Info{
		Name: "river", Version: "v0.51.1", Schema: "public", Scan: "river_job",
		Contract: "job queue; acknowledged per job, sent in batches; priorities, retries, history of each job; each step " +
			"waits for the disk",
		Features: Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Tx: true,
			Library: true},
		New: func() System { return &riverQueue{tuned: tuned} },
	}
	if !tuned {
		info.Name += "-defaults"
	}
	return info
}

func (r *riverQueue) Install(ctx context.Context, url string) error {
	pool, err := open(ctx, url, 4)
	if err != nil {
		return err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (r *riverQueue) Open(ctx context.Context, env Env) (err error) {
	r.env = env
	if r.pool, err = open(ctx, env.URL, env.Enqueue+20); err != nil {
		return err
	}
	config := &river.Config{
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Queues:      map[string]river.QueueConfig{},
		Workers:     river.NewWorkers(),
		RetryPolicy: retryPolicy{},
	}
	queue := river.QueueConfig{MaxWorkers: 100}
	if r.tuned {
		queue.MaxWorkers = max(1, env.Slots/env.Queues)
		config.FetchCooldown, config.FetchPollInterval = 2*time.Millisecond, 20*time.Millisecond
	}
	for q := range env.Queues {
		config.Queues[QueueName(q)] = queue
	}
	river.AddWorker(config.Workers, &riverWorker{queue: r})
	r.client, err = river.NewClient(riverpgxv5.New(r.pool), config)
	return err
}

func (r *riverQueue) Close() { r.pool.Close() }

type riverArgs struct{ raw json.RawMessage }

func (riverArgs) Kind() string                       { return "bench" }
func (a riverArgs) MarshalJSON() ([]byte, error)     { return a.raw, nil }
func (a *riverArgs) UnmarshalJSON(text []byte) error { a.raw = append(a.raw[:0], text...); return nil }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	queue *riverQueue
}

func (w *riverWorker) Work(_ context.Context, job *river.Job[riverArgs]) error {
	j := ParsePayload(job.Args.raw)
	if j.Fails && job.Attempt == 1 {
		return errors.New("it failed")
	}
	w.queue.picked.Store(j.N, Now())
	return nil
}

type retryPolicy struct{}

func (retryPolicy) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(RetryAfter) }

func (r *riverQueue) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	params := make([]river.InsertManyParams, len(jobs))
	for i, j := range jobs {
		options := &river.InsertOpts{Queue: QueueName(j.Queue), Priority: j.Priority}
		if j.Delay > 0 {
			options.ScheduledAt = time.Now().Add(j.Delay)
		}
		params[i] = river.InsertManyParams{Args: riverArgs{Payload(j, r.env.Payload)}, InsertOpts: options}
	}
	var err error
	switch {
	case tx != nil:
		_, err = r.client.InsertManyFastTx(ctx, tx, params)
	case len(jobs) == 1:
		_, err = r.client.Insert(ctx, params[0].Args, params[0].InsertOpts)
	default:
		_, err = r.client.InsertManyFast(ctx, params)
	}
	return err
}

// Work runs the client. It reports jobs when River says that they are completed, in the database.
func (r *riverQueue) Work(ctx context.Context, done Sink) error {
	events, unsubscribe := r.client.SubscribeConfig(&river.SubscribeConfig{
		Kinds: []river.EventKind{river.EventKindJobCompleted}, ChanSize: 1 << 18})
	told := make(chan struct{})
	go func() {
		defer close(told)
		for event := range events {
			j := ParsePayload(event.Job.EncodedArgs)
			picked, _ := r.picked.LoadAndDelete(j.N)
			at, _ := picked.(int64)
			done(ended([]Done{{N: j.N, At: j.At, Picked: at}}))
		}
	}()
	if err := r.client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-ctx.Done()
	err := r.client.Stop(context.WithoutCancel(ctx))
	unsubscribe()
	<-told
	return err
}

func (r *riverQueue) Books(ctx context.Context) (left, ended int64, err error) {
	err = r.pool.QueryRow(ctx, `select count(*) filter (where state <> 'completed'),
		count(*) filter (where state = 'completed') from river_job`).Scan(&left, &ended)
	return left, ended, err
}
