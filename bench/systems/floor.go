package systems

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// floor is no queue: a bare table with the row and the index that Awa has, batch insert, and an ordered read by a
// cursor that the reader remembers. Nothing that keeps jobs in a table can be much faster.
type floor struct {
	env  Env
	pool *pgxpool.Pool
	read int64
}

// Floor is the floor.
func Floor() Info {
	return Info{
		Name: "floor", Version: "1", Schema: "floor", Scan: "floor.entries",
		Contract: "no queue: insert, and an ordered read by one reader; nothing is acknowledged, and a crash of the " +
			"reader forgets its place; inserts wait for the disk",
		Features: Features{Consume: true, Tx: true, Solo: true},
		New:      func() System { return &floor{} },
	}
}

func (f *floor) Install(ctx context.Context, url string) error {
	return runSQL(ctx, url, `
		create schema floor;
		create sequence floor.job_ids;
		create table floor.entries (
		  segment      smallint not null,
		  lane         bigint not null,
		  max_attempts smallint not null,
		  attempt      smallint not null,
		  xid          xid8 not null default pg_current_xact_id(),
		  job_id       bigint not null default nextval('floor.job_ids'),
		  enqueued_at  timestamptz not null default clock_timestamp(),
		  kind         text not null,
		  args         jsonb not null
		) with (autovacuum_enabled = off);
		create unique index on floor.entries (lane, xid, job_id);`)
}

func (f *floor) Open(ctx context.Context, env Env) (err error) {
	f.env = env
	f.pool, err = open(ctx, env.URL, env.Enqueue+4)
	return err
}

func (f *floor) Close() { f.pool.Close() }

func (f *floor) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	_, err := orPool(tx, f.pool).Exec(ctx, `
		insert into floor.entries (segment, lane, max_attempts, attempt, kind, args)
		select 0, 1, 25, 1, 'bench', a from unnest($1::jsonb[]) a`, payloads(jobs, f.env.Payload))
	return err
}

// Work reads with one reader, whatever the number of workers: a second one would need a claim.
func (f *floor) Work(ctx context.Context, done Sink) error {
	xid, id := "0", int64(0)
	calm := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		rows, err := f.pool.Query(calm, `
			select e.xid::text, job_id, args
			  from floor.entries e
			 where lane = 1 and (e.xid, job_id) > ($1::text::xid8, $2) and e.xid < pg_snapshot_xmin(pg_current_snapshot())
			 order by e.xid, job_id
			 limit $3`, xid, id, f.env.Batch)
		if err != nil {
			return err
		}
		var bodies [][]byte
		var body []byte
		_, err = pgx.ForEachRow(rows, []any{&xid, &id, &body}, func() error {
			bodies = append(bodies, append([]byte(nil), body...))
			return nil
		})
		if err != nil {
			return err
		}
		if len(bodies) == 0 {
			pause(ctx, time.Millisecond)
			continue
		}
		f.read += int64(len(bodies))
		done(ended(picked(bodies)))
	}
	return nil
}

func (f *floor) Books(ctx context.Context) (left, ended int64, err error) {
	all, err := count(ctx, f.pool, "select count(*) from floor.entries")
	return all - f.read, f.read, err
}
