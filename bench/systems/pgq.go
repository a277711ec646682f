package systems

import (
	"cmp"
	"context"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgq is PgQ, or PgQue: the same log and the same interface under another schema.
type pgq struct {
	schema string
	file   string // installs it; "" for the extension
	tick   time.Duration
	env    Env
	pool   *pgxpool.Pool
	acked  atomic.Int64
}

const pgqContract = "event queue; one consumer, acknowledged per batch of a tick; no priorities; insert and " +
	"acknowledgement wait for the disk"

// PgQ is PgQ, from its Debian package. Its daemon pgqd is replaced by sessions that call what it calls, more often than
// its default of once a second.
func PgQ() Info {
	return Info{
		Name: "pgq", Ask: "select extversion from pg_extension where extname = 'pgq'", Schema: "pgq", Scan: "pgq.event_1",
		Contract: pgqContract + "; ticks every 10 ms",
		Features: Features{Consume: true, Tx: true, Solo: true},
		New:      func() System { return &pgq{schema: "pgq", tick: 10 * time.Millisecond} },
	}
}

// PgQue is PgQue, which the file installs: sql/pgque.sql of its repository. Its documentation calls a tick of 10 ms the
// fast setting, and 100 ms is the default.
func PgQue(file string, tick time.Duration) Info {
	info := Info{
		Name: "pgque", Ask: "select pgque.version()", Schema: "pgque", Scan: "pgque.event_1",
		Contract: pgqContract + "; ticks every " + tick.String(),
		Features: Features{Consume: true, Tx: true, Solo: true},
		New:      func() System { return &pgq{schema: "pgque", file: file, tick: tick} },
	}
	if tick == 100*time.Millisecond {
		info.Name += "-defaults"
	}
	if file == "" {
		info.Missing = "-pgque names no install file"
	}
	return info
}

// sql puts the schema into a statement that is written for PgQ.
func (q *pgq) sql(text string) string { return strings.ReplaceAll(text, "pgq.", q.schema+".") }

func (q *pgq) Install(ctx context.Context, url string) error {
	script := "create extension pgq;"
	if q.file != "" {
		text, err := os.ReadFile(q.file)
		if err != nil {
			return err
		}
		script = string(text)
	}
	script += q.sql(`
		select pgq.create_queue('q0');
		select pgq.register_consumer('q0', 'bench');`)
	return runSQL(ctx, url, script)
}

func (q *pgq) Open(ctx context.Context, env Env) (err error) {
	q.env = env
	if q.pool, err = open(ctx, env.URL, env.Enqueue+6); err != nil {
		return err
	}
	_, err = q.pool.Exec(ctx, q.sql("select pgq.set_queue_config('q0', 'ticker_max_lag', $1)"),
		q.tick.String())
	return err
}

func (q *pgq) Close() { q.pool.Close() }

func (q *pgq) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	db := orPool(tx, q.pool)
	var err error
	switch {
	case len(jobs) == 1 && q.schema == "pgque":
		_, err = db.Exec(ctx, "select pgque.send('q0', $1::jsonb)", Payload(jobs[0], q.env.Payload))
	case q.schema == "pgque":
		_, err = db.Exec(ctx, "select pgque.send_batch('q0', $1::jsonb[])", payloads(jobs, q.env.Payload))
	default:
		_, err = db.Exec(ctx, "select pgq.insert_event('q0', 'bench', e) from unnest($1::text[]) e",
			payloads(jobs, q.env.Payload))
	}
	return err
}

// Work runs the ticker, maintenance, and one consumer, whatever the number of workers.
func (q *pgq) Work(ctx context.Context, done Sink) error {
	tasks := []func(context.Context) error{
		func(ctx context.Context) error {
			return repeat(ctx, q.tick, func(ctx context.Context) error {
				_, err := q.pool.Exec(ctx, q.sql("select pgq.ticker()"))
				return err
			})
		},
		func(ctx context.Context) error { return repeat(ctx, 30*time.Second, q.maintain) },
		func(ctx context.Context) error {
			return poll(ctx, 0, Env{Workers: 1, Queues: 1}, func(ctx context.Context, _ string) (int, error) {
				return q.consume(ctx, done)
			})
		},
	}
	return each(ctx, len(tasks), func(ctx context.Context, i int) error { return tasks[i](ctx) })
}

// maintain does what pgqd, or the scheduler of PgQue, does.
func (q *pgq) maintain(ctx context.Context) error {
	if q.schema == "pgque" {
		_, err := q.pool.Exec(ctx, "select pgque.maint()")
		return err
	}
	rows, err := q.pool.Query(ctx, "select func_name, func_arg from pgq.maint_operations()")
	if err != nil {
		return err
	}
	type operation struct{ Name, Arg *string }
	operations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[operation])
	for _, o := range operations {
		if err != nil {
			return err
		}
		switch {
		case o.Name == nil:
		case *o.Name == "vacuum":
			_, err = q.pool.Exec(ctx, "vacuum "+*o.Arg)
		case o.Arg == nil:
			_, err = q.pool.Exec(ctx, "select "+*o.Name+"()")
		default:
			_, err = q.pool.Exec(ctx, "select "+*o.Name+"($1)", *o.Arg)
		}
	}
	return err
}

func (q *pgq) consume(ctx context.Context, done Sink) (int, error) {
	var batch *int64
	var bodies [][]byte
	var body []byte
	var rows pgx.Rows
	var err error
	if q.schema == "pgque" {
		rows, err = q.pool.Query(ctx, "select batch_id, payload from pgque.receive('q0', 'bench', 1000000)")
	} else {
		err = q.pool.QueryRow(ctx, "select pgq.next_batch('q0', 'bench')").Scan(&batch)
		if err != nil || batch == nil {
			return 0, err
		}
		rows, err = q.pool.Query(ctx, "select $1::bigint, ev_data from pgq.get_batch_events($1)", *batch)
	}
	if err != nil {
		return 0, err
	}
	_, err = pgx.ForEachRow(rows, []any{&batch, &body}, func() error {
		bodies = append(bodies, append([]byte(nil), body...))
		return nil
	})
	if err != nil || batch == nil {
		return 0, err
	}
	jobs := picked(bodies)
	finish := "select pgq.finish_batch($1)"
	if q.schema == "pgque" {
		finish = "select pgque.ack($1)"
	}
	if _, err := q.pool.Exec(ctx, finish, *batch); err != nil {
		return 0, err
	}
	q.acked.Add(int64(len(jobs)))
	done(ended(jobs))
	return cmp.Or(len(jobs), 1), nil // a batch may be empty, and another one there
}

// Books counts the events. Which of them the consumer has acknowledged is known by ticks only, so the harness's count
// stands for that.
func (q *pgq) Books(ctx context.Context) (left, ended int64, err error) {
	all, err := count(ctx, q.pool, q.sql("select count(*) from pgq.event_1"))
	return all - q.acked.Load(), q.acked.Load(), err
}
