package systems

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

// awaGo is Awa through its Go driver.
type awaGo struct {
	env    Env
	pool   *pgxpool.Pool
	client *driver.Client
}

// Awa is Awa through its Go driver.
func Awa() Info {
	return Info{
		Name: "awa", Version: "this checkout", Schema: "awa", Scan: "awa.jobs",
		Contract: "job queue with its Go worker; acknowledged per job; priorities, retries, history of each job; enqueue " +
			"and acknowledgement wait for the disk, the claim does not",
		Features: Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Tx: true,
			Library: true},
		New: func() System { return &awaGo{} },
	}
}

func (a *awaGo) Install(ctx context.Context, url string) error {
	_, err := driver.Migrate(ctx, url)
	return err
}

func (a *awaGo) Open(ctx context.Context, env Env) (err error) {
	a.env = env
	if a.pool, err = open(ctx, env.URL, env.Enqueue+4); err != nil {
		return err
	}
	a.client = driver.NewClient(a.pool)
	return nil
}

func (a *awaGo) Close() { a.pool.Close() }

// rawArgs are arguments that are JSON already.
type rawArgs []byte

func (rawArgs) Kind() string                   { return "bench" }
func (a rawArgs) MarshalJSON() ([]byte, error) { return a, nil }

func (a *rawArgs) UnmarshalJSON(b []byte) error {
	*a = append((*a)[:0], b...)
	return nil
}

func (a *awaGo) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	args := make([]driver.Args, len(jobs))
	for i, j := range jobs {
		args[i] = rawArgs(Payload(j, a.env.Payload))
	}
	j := jobs[0]
	options := driver.EnqueueOptions{Queue: QueueName(j.Queue), Priority: j.Priority}
	if j.Delay > 0 {
		options.RunAt = time.Now().Add(j.Delay)
	}
	var err error
	switch {
	case tx != nil:
		_, err = a.client.EnqueueManyTx(ctx, tx, args, options)
	case len(jobs) == 1:
		_, err = a.client.Enqueue(ctx, args[0], options)
	default:
		_, err = a.client.EnqueueMany(ctx, args, options)
	}
	return err
}

// Work runs the worker. Its handlers know when they have ended; that the server has taken the answer is known from
// Stats, as a number. Answers are sent in the order in which handlers end, so the number tells whose they are.
func (a *awaGo) Work(ctx context.Context, done Sink) error {
	var mu sync.Mutex
	var unanswered []Done
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[rawArgs]) error {
		j := ParsePayload(job.Args)
		if j.Fails && job.Attempt == 1 {
			return driver.RetryAfter(RetryAfter, errors.New("it failed"))
		}
		d := Done{N: j.N, At: j.At, Picked: Now()}
		mu.Lock()
		unanswered = append(unanswered, d)
		mu.Unlock()
		return nil
	})
	queues := make([]driver.QueueConfig, a.env.Queues)
	for i := range queues {
		queues[i].Name = QueueName(i)
	}
	worker, err := driver.NewWorker(a.pool, handlers, driver.WorkerConfig{Queues: queues, Slots: a.env.Slots,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	var told int64
	tell := func() {
		var answered int64
		for _, q := range worker.Stats() {
			answered += q.Completed
		}
		if answered == told {
			return
		}
		mu.Lock()
		n := min(answered-told, int64(len(unanswered)))
		batch := unanswered[:n:n]
		unanswered = unanswered[n:]
		mu.Unlock()
		told += n
		done(ended(batch))
	}
	stopped := make(chan error, 1)
	go func() { stopped <- worker.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-stopped:
			tell()
			return err
		case <-tick.C:
			tell()
		}
	}
}

func (a *awaGo) Books(ctx context.Context) (left, ended int64, err error) {
	return awaBooks(ctx, a.pool)
}
