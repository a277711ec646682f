package systems

import (
	"context"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgmq is the message queue of that name, from its install file.
type pgmq struct {
	file string
	env  Env
	pool *pgxpool.Pool
}

// Pgmq is pgmq, which the file installs: pgmq-extension/sql/pgmq.sql of its repository.
func Pgmq(file string) Info {
	info := Info{
		Name: "pgmq", Version: fileVersion(file), Schema: "pgmq", Scan: "pgmq.q_q0",
		Contract: "message queue; acknowledged per message, archived; no priorities, no count or backoff of retries " +
			"(a message comes back after its visibility timeout); each step waits for the disk",
		Features: Features{Consume: true, Queues: true, Delay: true, Retry: true, Tx: true},
		New:      func() System { return &pgmq{file: file} },
	}
	if file == "" {
		info.Missing = "-pgmq names no install file"
	}
	return info
}

func (m *pgmq) Install(ctx context.Context, url string) error {
	script, err := os.ReadFile(m.file)
	if err != nil {
		return err
	}
	return runSQL(ctx, url, "create schema if not exists pgmq;\n"+string(script))
}

func (m *pgmq) Open(ctx context.Context, env Env) (err error) {
	m.env = env
	if m.pool, err = open(ctx, env.URL, env.Enqueue+env.Workers+4); err != nil {
		return err
	}
	for q := range env.Queues {
		if _, err := m.pool.Exec(ctx, "select pgmq.create($1)", QueueName(q)); err != nil {
			return err
		}
	}
	return nil
}

func (m *pgmq) Close() { m.pool.Close() }

func (m *pgmq) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	db, queue, delay := orPool(tx, m.pool), QueueName(jobs[0].Queue), int(jobs[0].Delay/time.Second)
	if len(jobs) == 1 {
		_, err := db.Exec(ctx, "select pgmq.send($1, $2::jsonb, $3::int)", queue, Payload(jobs[0], m.env.Payload), delay)
		return err
	}
	_, err := db.Exec(ctx, "select pgmq.send_batch($1, $2::jsonb[], $3::int)", queue, payloads(jobs, m.env.Payload), delay)
	return err
}

func (m *pgmq) Work(ctx context.Context, done Sink) error {
	return each(ctx, m.env.Workers, func(ctx context.Context, i int) error {
		return poll(ctx, i, m.env, func(ctx context.Context, queue string) (int, error) {
			rows, err := m.pool.Query(ctx, "select msg_id, read_ct, message from pgmq.read($1, 60, $2)", queue, m.env.Batch)
			if err != nil {
				return 0, err
			}
			var ids []int64
			var bodies [][]byte
			var id int64
			var reads, n int
			var body []byte
			_, err = pgx.ForEachRow(rows, []any{&id, &reads, &body}, func() error {
				n++
				if reads == 1 && ParsePayload(body).Fails {
					_, err := m.pool.Exec(ctx, "select pgmq.set_vt($1, $2, $3)", queue, id, int(RetryAfter/time.Second))
					return err
				}
				ids, bodies = append(ids, id), append(bodies, append([]byte(nil), body...))
				return nil
			})
			if err != nil || len(ids) == 0 {
				return n, err
			}
			jobs := picked(bodies)
			if len(ids) == 1 {
				_, err = m.pool.Exec(ctx, "select pgmq.archive($1, $2::bigint)", queue, ids[0])
			} else {
				_, err = m.pool.Exec(ctx, "select pgmq.archive($1, $2::bigint[])", queue, ids)
			}
			if err == nil {
				done(ended(jobs))
			}
			return n, err
		})
	})
}

func (m *pgmq) Books(ctx context.Context) (left, ended int64, err error) {
	for q := range m.env.Queues {
		waiting, err := count(ctx, m.pool, "select count(*) from pgmq.q_"+QueueName(q))
		if err != nil {
			return 0, 0, err
		}
		archived, err := count(ctx, m.pool, "select count(*) from pgmq.a_"+QueueName(q))
		if err != nil {
			return 0, 0, err
		}
		left, ended = left+waiting, ended+archived
	}
	return left, ended, nil
}
