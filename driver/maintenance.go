package driver

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// How often a worker does what. Variables for the sake of tests.
var (
	promoteEvery  = time.Second
	fireEvery     = time.Second
	maintainEvery = 5 * time.Second
)

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

// passes returns what there is to do.
func passes(log *slog.Logger) []*pass {
	return []*pass{
		{trouble: trouble{log: log, what: "deferred jobs are not promoted by this worker"}, every: promoteEvery,
			call: promote},
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
	acquiring, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := pool.Acquire(acquiring)
	if err != nil {
		return err
	}
	defer conn.Release()
	return p.call(ctx, conn, unprepared(conn.Conn().Config()))
}

// promote makes ready what is due, until nothing is left. A call that is under way is finished.
func promote(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) error {
	for {
		var promoted int64
		calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		err := pgx.BeginTxFunc(calling, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			promoted, err = queries.PromoteDue(calling, unpreparedDB{tx, mode}, promoteMax)
			return err
		})
		cancel()
		if err != nil || promoted < promoteMax || ctx.Err() != nil {
			return err
		}
	}
}

// runMaintenance is interrupted at the worker's end, for it may take a while. It commits by itself, so it is in no
// transaction;
// it chooses its isolation level itself, too.
func runMaintenance(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) error {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	return queries.RunMaintenance(ctx, unpreparedDB{conn, mode})
}
