package systems

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// dbosQueue is DBOS Transact with its queues: a job is a workflow without steps.
type dbosQueue struct {
	env    Env
	pool   *pgxpool.Pool
	client dbos.Client
}

const dbosApp, dbosWorkflow = "bench", "bench"

// DBOS is DBOS Transact for Go.
func DBOS() Info {
	return Info{
		Name: "dbos", Version: "v1.8.0", Schema: "dbos", Scan: "dbos.workflow_status",
		Contract: "durable workflows, by a queue, one without steps for each job; enqueued one by one, a batch in one " +
			"transaction; acknowledged per job, reported when the handler has ended; priorities, recovery, history of each job",
		Features: Features{Consume: true, Queues: true, Delay: true, Tx: true, Library: true},
		New:      func() System { return &dbosQueue{} },
	}
}

var dbosLog = slog.New(slog.DiscardHandler)

func (d *dbosQueue) Install(ctx context.Context, url string) error {
	return dbos.Migrate(ctx, url, dbos.WithMigrateLogger(dbosLog))
}

func (d *dbosQueue) Open(ctx context.Context, env Env) (err error) {
	d.env = env
	if d.pool, err = open(ctx, env.URL, env.Enqueue+2); err != nil {
		return err
	}
	// the client and the worker have pools of their own, which they close
	d.client, err = dbos.NewClient(ctx, dbos.ClientConfig{DatabaseURL: env.URL, AppName: dbosApp, Logger: dbosLog})
	return err
}

func (d *dbosQueue) Close() {
	dbos.Shutdown(d.client, 10*time.Second)
	d.pool.Close()
}

func (d *dbosQueue) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	if tx == nil && len(jobs) > 1 {
		return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error { return d.Enqueue(ctx, tx, jobs) })
	}
	for _, j := range jobs {
		var options []dbos.EnqueueOption
		if tx != nil {
			options = append(options, dbos.WithEnqueueTransaction(tx))
		}
		if j.Delay > 0 {
			options = append(options, dbos.WithEnqueueDelay(j.Delay))
		}
		_, err := dbos.Enqueue[bool](d.client, QueueName(j.Queue), dbosWorkflow,
			json.RawMessage(Payload(j, d.env.Payload)), options...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dbosQueue) Work(ctx context.Context, done Sink) error {
	worker, err := dbos.NewContext(context.WithoutCancel(ctx), dbos.Config{AppName: dbosApp, DatabaseURL: d.env.URL,
		Logger: dbosLog})
	if err != nil {
		return err
	}
	work := func(_ dbos.Context, args json.RawMessage) (bool, error) {
		j := ParsePayload(args)
		now := Now()
		done([]Done{{N: j.N, At: j.At, Picked: now, Ended: now}})
		return true, nil
	}
	dbos.RegisterWorkflow(worker, work, dbos.WithWorkflowName(dbosWorkflow))
	for q := range d.env.Queues {
		_, err := dbos.RegisterQueue(worker, QueueName(q), dbos.WithWorkerConcurrency(max(1, d.env.Slots/d.env.Queues)),
			dbos.WithQueueBasePollingInterval(10*time.Millisecond))
		if err != nil {
			return err
		}
	}
	if err := dbos.Launch(worker); err != nil {
		return err
	}
	<-ctx.Done()
	return dbos.Shutdown(worker, 30*time.Second)
}

func (d *dbosQueue) Books(ctx context.Context) (left, ended int64, err error) {
	err = d.pool.QueryRow(ctx, `select count(*) filter (where status <> 'SUCCESS'),
		count(*) filter (where status = 'SUCCESS') from dbos.workflow_status`).Scan(&left, &ended)
	return left, ended, err
}
