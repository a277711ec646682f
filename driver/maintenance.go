package driver

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// How often a worker does what. Variables for the sake of tests.
var (
	promoteEvery = time.Second
	rescueEvery  = 5 * time.Second
	expireEvery  = time.Minute
)

// At most so many jobs at a time, as the functions have it by default.
const (
	promoteMax = 4096
	rescueMax  = 1000
	expireMax  = 10_000
)

// pass is a function of the server that has to be called now and then. Any number of workers may do so at once.
type pass struct {
	trouble trouble
	every   time.Duration
	next    time.Time
	full    int64 // when it did so much there may be more to do
	call    func(context.Context, gen.DBTX) (int64, error)
}

// maintain does what is due, until the context ends.
func maintain(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	maxJobs := int32(rescueMax)
	passes := []*pass{
		{trouble: trouble{what: "deferred jobs are not promoted by this worker"}, every: promoteEvery, full: promoteMax,
			call: func(ctx context.Context, db gen.DBTX) (int64, error) { return queries.PromoteDue(ctx, db, promoteMax) }},
		{trouble: trouble{what: "overdue attempts are not ended by this worker"}, every: rescueEvery, full: rescueMax,
			call: func(ctx context.Context, db gen.DBTX) (int64, error) { return queries.Rescue(ctx, db, &maxJobs) }},
		{trouble: trouble{what: "attempts that last get no rows of their own by this worker"}, every: rescueEvery, full: rescueMax,
			call: func(ctx context.Context, db gen.DBTX) (int64, error) {
				return queries.Materialize(ctx, db, gen.MaterializeParams{MaxJobs: &maxJobs})
			}},
		{trouble: trouble{what: "history is not removed by this worker"}, every: expireEvery, full: expireMax,
			call: queries.ExpireHistory},
	}
	for _, p := range passes {
		p.trouble.log = log
		p.next = time.Now().Add(p.every)
	}
	for sleep(ctx, promoteEvery) {
		for _, p := range passes {
			if !time.Now().Before(p.next) {
				p.next = time.Now().Add(p.every)
				p.run(ctx, pool)
			}
		}
	}
}

// run calls the function until nothing is left to do.
func (p *pass) run(ctx context.Context, pool *pgxpool.Pool) {
	for ctx.Err() == nil {
		done, err := p.once(ctx, pool)
		if ctx.Err() == nil {
			p.trouble.report(ctx, err)
		}
		if err != nil || done < p.full {
			return
		}
	}
}

// once is interrupted only while it waits for a connection.
func (p *pass) once(ctx context.Context, pool *pgxpool.Pool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return p.call(ctx, pipeline{conn: conn.Conn()})
}
