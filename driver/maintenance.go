package driver

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// Variables for the sake of tests.
var (
	// lookEvery is how long a worker sleeps at most before it looks again whether deferred jobs or schedules are due.
	lookEvery = time.Second
	// maintainEvery is how often a worker calls run_passes.
	maintainEvery = 5 * time.Second
)

// looksApart is how much later a worker looks again when something was due, because more may have become due, or the
// worker that does it may have failed.
const looksApart = 20 * time.Millisecond

// longestLook is how much later it looks again at most while schedules stay due: another session may hold one of them.
const longestLook = 16 * looksApart

// maintainTimeout bounds a whole run of maintenance, in which a large segment may be counted and emptied.
const maintainTimeout = 10 * time.Minute

// promoteMax is how many jobs are promoted at a time, as the function has it by default.
const promoteMax = 4096

// fireMax is how many schedules are fired at a time: others see the jobs when all of them have fired.
const fireMax = 250

// jitter is how much sooner or later a pass is done, as a part of its time: the passes of many workers that were
// started at once spread.
const jitter = 0.2

// pass is something that has to be done now and then. Any number of workers may do so at once.
type pass struct {
	trouble trouble
	every   time.Duration
	call    func(context.Context, *pgxpool.Conn, pgx.QueryExecMode) error
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

// duty is a pass that is run when something is due: a deferred job, or a schedule.
type duty struct {
	trouble trouble
	pass    string
	maxJobs *int32
	longest time.Duration // between two looks while it stays due
	apart   time.Duration // the next time
	more    bool          // whether its last batch has left some
}

// beOnTime makes deferred jobs ready, and fires schedules, when they are due, until the context ends. It sleeps until
// the next one is due, for lookEvery at most. A job that comes meanwhile and is due sooner is notified: see [run.hear].
// All workers wake at that time. The lock of the pass lets one of them run it, and the others look again a little
// later. The two passes take turns, a batch each: a backlog of one does not keep the other one waiting.
func (r *run) beOnTime(ctx context.Context) {
	promote := &duty{pass: "promote_due", maxJobs: new(int32(promoteMax)), longest: looksApart,
		trouble: trouble{log: r.log, what: "deferred jobs are not promoted by this worker"}}
	fire := &duty{pass: "fire_due", maxJobs: new(int32(fireMax)), longest: longestLook,
		trouble: trouble{log: r.log, what: "schedules are not fired by this worker"}}
	again := lookEvery
	for {
		pause := again
		err := onPool(ctx, r.pool, func(conn *pgxpool.Conn, mode pgx.QueryExecMode) error {
			waits, err := untilDue(ctx, conn, mode)
			if err != nil {
				return err
			}
			// schedules first: they are few
			pause = min(pause, fire.perform(ctx, conn, mode, waits.FireDue))
			pause = min(pause, promote.perform(ctx, conn, mode, waits.PromoteDue))
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		promote.trouble.report(ctx, err)
		if err != nil {
			pause = longestSleep(rand.Float64())
		}
		again = min(2*again, lookEvery)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.due:
			again = looksApart // what came just after the notification got none of its own
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// untilDue returns how many seconds it is until something is due.
func untilDue(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) (gen.UntilPassesAreDueRow, error) {
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return queries.UntilPassesAreDue(calling, unpreparedDB{conn, mode})
}

// perform runs a batch of the pass when it is due, or leaves that to a worker that is doing it. It returns how long to
// sleep then: not at all where the batch has left some. A call that is under way is finished.
func (d *duty) perform(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode, seconds float64) time.Duration {
	var err error
	if seconds <= 0 || d.more {
		d.more, err = d.performSome(ctx, conn, mode)
		d.more = d.more && err == nil
	}
	if ctx.Err() == nil {
		d.trouble.report(ctx, err)
	}
	if d.more {
		return 0
	}
	return d.pause(time.Duration(min(seconds, maintainTimeout.Seconds())*float64(time.Second)), err, rand.Float64())
}

// performSome says whether there may be more that is due.
func (d *duty) performSome(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) (more bool, err error) {
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err = pgx.BeginTxFunc(calling, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		more, err = queries.RunPass(calling, unpreparedDB{tx, mode}, gen.RunPassParams{Pass: d.pass, MaxJobs: d.maxJobs})
		return err
	})
	return more, err
}

// pause returns how long a worker sleeps before it looks again, when it has to wait for so long. random is between 0
// and 1. Only the longest sleep varies: a pass that is due must not wait. One that stays due is looked at less and less
// often.
func (d *duty) pause(wait time.Duration, err error, random float64) time.Duration {
	switch {
	case err != nil || wait >= lookEvery:
		d.apart = 0
		return longestSleep(random)
	case wait <= 0:
		d.apart = min(max(2*d.apart, looksApart), d.longest)
		return time.Duration(float64(d.apart) * (0.5 + random))
	}
	d.apart = 0
	return wait
}

func longestSleep(random float64) time.Duration {
	return time.Duration(float64(lookEvery) * (1 - jitter*random))
}

// runMaintenance calls run_passes. It is interrupted at the worker's end, for it may take a while. The procedure
// commits by itself, so it is called in no transaction, and chooses its isolation level itself, too.
func runMaintenance(ctx context.Context, conn *pgxpool.Conn, mode pgx.QueryExecMode) error {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	return queries.RunMaintenance(ctx, unpreparedDB{conn, mode})
}
