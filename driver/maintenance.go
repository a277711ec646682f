package driver

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// Variables for the sake of tests.
var (
	// promoteEvery is how long a worker sleeps at most before it looks again whether deferred jobs are due.
	promoteEvery = time.Second
	// fireEvery is how often a worker fires schedules.
	fireEvery = time.Second
	// maintainEvery is how often a worker calls run_maintenance.
	maintainEvery = 5 * time.Second
)

// promotionsApart is how much later a worker looks again when jobs were due, because others may have become due, or
// the worker that promotes them may have failed.
const promotionsApart = 20 * time.Millisecond

// maintainTimeout bounds a whole run of maintenance, in which a large segment may be counted and emptied.
const maintainTimeout = 10 * time.Minute

// promoteMax is how many jobs are promoted at a time, as the function has it by default.
const promoteMax = 4096

// jitter is how much sooner or later a pass is done, as a part of its time: the passes of many workers that were
// started at once spread.
const jitter = 0.2

// pass is something that has to be done now and then. Any number of workers may do so at once.
type pass struct {
	trouble trouble
	every   time.Duration
	call    func(context.Context, *pgxpool.Conn, pgx.QueryExecMode) error
}

// passes returns what there is to do, beside the promotion of deferred jobs.
func passes(log *slog.Logger) []*pass {
	return []*pass{
		{trouble: trouble{log: log, what: "schedules are not fired by this worker"}, every: fireEvery, call: fireDue},
		{trouble: trouble{log: log, what: "maintenance is not done by this worker"}, every: maintainEvery,
			call: runMaintenance},
	}
}

// repeat runs a pass again and again, until the context ends.
func (p *pass) repeat(ctx context.Context, pool *pgxpool.Pool) {
	for sleep(ctx, p.pause(rand.Float64())) {
		err := p.run(ctx, pool)
		if ctx.Err() == nil {
			p.trouble.report(ctx, err)
		}
	}
}

// pause returns the time until the next run. random is between 0 and 1.
func (p *pass) pause(random float64) time.Duration {
	return time.Duration(float64(p.every) * (1 - jitter + 2*jitter*random))
}

// run calls a pass on a connection of the pool.
func (p *pass) run(ctx context.Context, pool *pgxpool.Pool) error {
	return onPool(ctx, pool, func(conn *pgxpool.Conn, mode pgx.QueryExecMode) error { return p.call(ctx, conn, mode) })
}

// onPool calls a function with a connection of the pool.
func onPool(ctx context.Context, pool *pgxpool.Pool, call func(*pgxpool.Conn, pgx.QueryExecMode) error) error {
	acquiring, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := pool.Acquire(acquiring)
	if err != nil {
		return err
	}
	defer conn.Release()
	return call(conn, unprepared(conn.Conn().Config()))
}

// promoteOnTime makes deferred jobs ready when they are due, until the context ends. It sleeps until the next one is
// due, for promoteEvery at most. Jobs that come meanwhile and are due sooner are notified: see [run.hear]. All workers
// wake at that time. The lock of the pass lets one of them promote, and the others look again a little later.
func (r *run) promoteOnTime(ctx context.Context) {
	trouble := trouble{log: r.log, what: "deferred jobs are not promoted by this worker"}
	again := promoteEvery
	for {
		var wait time.Duration
		err := onPool(ctx, r.pool, func(conn *pgxpool.Conn, mode pgx.QueryExecMode) (err error) {
			wait, err = promote(ctx, conn, mode)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		trouble.report(ctx, err)
		pause := min(duePause(wait, err, rand.Float64()), again)
		again = min(2*again, promoteEvery)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.due:
			again = promotionsApart // a job that came just after the notification got none of its own
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// duePause returns how long a worker sleeps before it looks again whether deferred jobs are due, when it has to wait
// for so long for the next one. random is between 0 and 1. Only the longest sleep varies: what is due must not wait.
func duePause(wait time.Duration, err error, random float64) time.Duration {
	switch {
	case err != nil || wait >= promoteEvery:
		return time.Duration(float64(promoteEvery) * (1 - jitter*random))
	case wait <= 0:
		return time.Duration(float64(promotionsApart) * (0.5 + random))
	}
	return wait
}

// promote makes ready what is due, until nothing is left, or leaves that to a worker that is doing it. It returns how
// long it is until the next job is due, 0 when some were. A call that is under way is finished.
func promote(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) (wait time.Duration, err error) {
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	seconds, err := queries.UntilNextReady(calling, unpreparedDB{conn, mode})
	if err != nil || seconds > 0 {
		return time.Duration(min(seconds, maintainTimeout.Seconds()) * float64(time.Second)), err
	}
	for more := true; more && err == nil && ctx.Err() == nil; {
		more, err = promoteSome(ctx, conn, mode)
	}
	return 0, err
}

// promoteSome says whether there may be more that is due.
func promoteSome(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) (more bool, err error) {
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err = pgx.BeginTxFunc(calling, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		more, err = queries.RunPass(calling, unpreparedDB{tx, mode},
			gen.RunPassParams{Pass: "promote_due", MaxJobs: new(int32(promoteMax))})
		return err
	})
	return more, err
}

// runMaintenance is interrupted at the worker's end, for it may take a while. It commits by itself, so it is in no
// transaction;
// it chooses its isolation level itself, too.
func runMaintenance(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) error {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	return queries.RunMaintenance(ctx, unpreparedDB{conn, mode})
}
