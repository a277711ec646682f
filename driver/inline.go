package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/gen"
)

// Ran says what became of an attempt that [Worker.RunOne] has run.
type Ran struct {
	JobID int64
	Err   error // what the handler, or the middleware around it, has returned, or why it was not called
	// Stale says that the answer was refused: the attempt was no longer the caller's. An answer that was sent twice, since
	// the connection was lost meanwhile, is taken for one that was taken the first time.
	Stale bool
}

// RunOne claims one job of the worker's queues, of the first that has any, runs it in the calling goroutine, and
// answers for it, on a connection that it makes for this alone. It returns nil when no job is ready. It is for tests,
// and for programs that are started when there is something to do; it does no maintenance, and sends no heartbeats: the
// attempt is the caller's for the lease, or for as long as the handler says by [RawJob.Extend].
//
// When the context ends, so does the handler's; an attempt that then returns an error is given back, and does not
// count.
// It returns an error when it could not claim, or not answer: then the job runs again when its lease is over, as it
// does when the handler ends the goroutine, by [testing.T.FailNow] say.
func (w *Worker) RunOne(ctx context.Context) (*Ran, error) {
	c := newCompleter(w.pool, w.log)
	c.warnings = &w.warnings
	defer c.db.close(ctx)
	for _, q := range w.cfg.Queues {
		jobs, err := w.claimOne(ctx, &c.db, q.Name)
		if err != nil {
			return nil, fmt.Errorf("run one job: %w", mapError(err))
		}
		if len(jobs) > 0 {
			return w.runInline(ctx, c, jobs[0], w.stats[q.Name])
		}
	}
	return nil, nil
}

func (w *Worker) claimOne(ctx context.Context, db *dedicated, queue string) (jobs []claimedJob, err error) {
	params := gen.ClaimWithinParams{Queue: queue, MaxJobs: 1, Durable: new(false)}
	if w.cfg.Lease != 0 {
		params.Lease = &w.cfg.Lease
	}
	var l link
	for {
		began := time.Now()
		_, err = db.call(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			jobs, err = claimJobs(ctx, pipeline{conn: conn}, params)
			return err
		})
		received := db.cutOff()
		if err == nil || received == 0 || params.MaxBytes > 0 || ctx.Err() != nil {
			return jobs, err
		}
		l.cutOff(received, time.Since(began), time.Now())
		params.MaxBytes, _ = l.limit(1, time.Now())
	}
}

func (w *Worker) runInline(ctx context.Context, c *completer, claimed claimedJob, stats *queueStats) (*Ran, error) {
	job := newRawJob(claimed.AwaClaimedJobRow, w.db)
	a := &attempt{jobID: job.ID, receipt: job.Receipt, stats: stats}
	a.stats.claimed.Add(1)
	result := answer{attempt: a}
	ran := &Ran{JobID: job.ID}
	if claimed.err != nil {
		result = judge(ctx, w.log, a, job, claimed.err)
		ran.Err = claimed.err
	} else if handler := w.handlers.of(job.Kind); handler != nil {
		handling, stopTimer := untilDeadline(ctx, job)
		defer stopTimer()
		a.stats.running.Add(1)
		handler.call(handling, job, func(err error) {
			ran.Err = err
			a.stats.running.Add(-1)
		})
		if ran.Err != nil && ctx.Err() != nil {
			result.outcome = released
		} else {
			result = judge(ctx, w.log, a, job, ran.Err)
		}
	} else {
		ran.Err = fmt.Errorf("%w: %q", ErrUnknownKind, job.Kind)
		result.outcome, result.delay = unknownKind, new(putOffDelay(job))
	}

	answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), windUpTimeout)
	defer cancel()
	c.db.closeLost(answering)
	c.sendAll(answering, []answer{result})
	ran.Stale = c.stale > 0
	if c.lost > 0 {
		return ran, fmt.Errorf("job %d was run, but its answer could not be sent", job.ID)
	}
	return ran, nil
}

// putOffDelay is for how long to put off a job for which there is no handler: as long as it is old, so that a worker
// that has one may take it.
func putOffDelay(job *RawJob) time.Duration {
	return min(max(time.Since(job.CreatedAt), shortestPutOff), longestPutOff)
}
