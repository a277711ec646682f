package driver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/rawjson"
)

const (
	// firstDistance is how soon a queue is looked at again that was woken, or had jobs; after that, at distances that
	// double, up to the poll interval. The server sends at most one notification per 5 ms, and none for what is enqueued
	// within 5 ms of an enqueue that is committed later, or rolled back.
	firstDistance = 5 * time.Millisecond

	// longestRetry bounds a claim from a queue that could not be claimed from the last time, because another
	// session has locked it, say: the other queues have to wait meanwhile.
	longestRetry = time.Second

	// askAgain is how soon a queue is asked again when something of it may begin, after an answer that there is nothing.
	askAgain = time.Second

	// longestOpening is for how long such an answer counts.
	longestOpening = time.Minute

	// maxClaim is how many jobs the server lets a claim take.
	maxClaim = 10_000
)

// longestDistance is where the distances end, beside the poll interval. A variable for the sake of tests.
var longestDistance = time.Duration(math.MaxInt64)

// work claims jobs and starts their handlers until the context ends. Then it gives back those that have no slot.
func (r *run) work(ctx context.Context) {
	defer func() {
		r.slots.stop()
		r.giveBack(r.background, r.slots.overdue(time.Now()))
	}()
	var pause backoff
	idle := time.NewTimer(0)
	defer idle.Stop()
	for ctx.Err() == nil {
		r.giveBack(ctx, r.slots.overdue(time.Now()))
		registration := r.registrations.get()
		if registration == nil {
			if err := r.register(ctx); err != nil {
				r.trouble.report(ctx, err)
				sleep(ctx, pause.pause())
			}
			continue
		}

		next := r.slots.choose(r.wakeUp())
		if ctx.Err() != nil {
			return // a slot that was freed after the stop is not filled again
		}
		q := next.queue
		if q == nil {
			idle.Reset(time.Until(next.next))
			select {
			case <-ctx.Done():
			case <-r.slots.freed:
			case <-r.wake:
			case <-idle.C:
			}
			continue
		}
		n := min(next.slots+next.ahead, maxClaim)
		if q.most > 0 {
			n = min(n, q.most)
		}
		maxBytes, n := q.link.limit(n, time.Now())
		began := time.Now()
		jobs, err := r.claim(ctx, registration, q, n, maxBytes)
		now := time.Now()
		took := now.Sub(began)
		if len(jobs) > 0 {
			q.claim.add(took.Seconds(), took)
			q.hasLimit = jobs[0].DeadlineAt != nil
		}
		r.slots.deliver(q, next.slots, r.tasks(ctx, registration, q, jobs,
			waitsUntil(began, now, r.cfg.HeartbeatEvery)), now)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			r.trouble.report(ctx, nil)
			q.trouble.report(ctx, nil)
			pause.reset()
			q.pause.reset()
			q.patient = false
			q.link.carried(r.control.carried(), took, tooLarge(jobs))
			if q.most *= 2; q.most > r.cfg.Slots {
				q.most = 0
			}
			// There may be more, also when there were fewer than slots: a claim has a byte budget too.
			q.nextLook = q.lastLook
			if len(jobs) == 0 {
				if q.distance = min(q.distance, r.cfg.PollInterval); q.distance > longestDistance {
					q.distance = r.cfg.PollInterval
				}
				q.nextLook = q.lastLook.Add(q.distance)
				q.distance *= 2
				if opens := r.opensAt(ctx, q, now); !opens.IsZero() && opens.Before(q.nextLook) {
					q.nextLook = opens
				}
			} else {
				q.distance = firstDistance
			}
		case ctx.Err() != nil:
		case hasCode(err, invalidParameter):
			// The server does not know the worker any more, most likely. Then there will be another registration.
			if r.beatOne(ctx, &r.control, registration) != nil || r.registrations.get() != nil {
				r.trouble.report(ctx, err)
			}
			sleep(ctx, pause.pause())
		case errors.As(err, &pg) && r.control.isOpen():
			// The server has refused this claim, because another session has locked the queue, say. It may grant others.
			q.patient = pg.Code == queryCanceled && !strings.Contains(pg.Where, "awa._lock_shard")
			if n > 1 && !isAboutOthers(pg.Code) && (pg.Code != queryCanceled || q.patient) {
				q.most = n / 2 // there may be a job that it can't read, or not in time: those before it go on
				continue
			}
			q.trouble.report(ctx, err)
			q.nextLook = q.lastLook.Add(q.pause.pause())
		default:
			r.trouble.report(ctx, err, keyQueue, q.Name) // it may have been because of this queue
			if received := r.control.cutOff(); received > 0 {
				q.most = 1
				q.link.cutOff(received, time.Since(began), time.Now())
			}
			if errors.Is(err, context.DeadlineExceeded) {
				q.nextLook = q.lastLook.Add(q.pause.pause())
			}
			sleep(ctx, pause.pause())
		}
	}
}

// opensAt returns when the next job of a queue may begin, where none can begin now: its rate, or that of a group, lets
// it begin, the pause of a group is over, or a deferred job is due. It returns the zero time when that is not known.
// It asks the server once for each of these times, and once in a while where there is none.
func (r *run) opensAt(ctx context.Context, q *queue, now time.Time) time.Time {
	if !now.Before(q.askAt) && ctx.Err() == nil {
		q.opens, q.askAt = time.Time{}, now.Add(askAgain)
		_, err := r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			seconds, err := queries.NextReadyIn(ctx, pipeline{conn: conn}, []string{q.Name})
			if seconds > 0 {
				q.opens = time.Now().Add(time.Duration(min(seconds, longestOpening.Seconds()) * float64(time.Second)))
				q.askAt = q.opens
			}
			return err
		})
		if err != nil { // the next claim has the same trouble, and reports it
			return time.Time{}
		}
	}
	return q.opens
}

// wakeUp has the queues looked at that were woken, or may have slots of a limit again, and returns the time. A look
// for the sake of such slots comes in place of the next one, so that there are no more of them.
func (r *run) wakeUp() time.Time {
	now := time.Now()
	for _, q := range r.queues {
		if q.answered.Swap(false) && q.pause.next == 0 && now.Before(q.nextLook) {
			q.nextLook = now
		}
		if q.woken.Swap(false) {
			q.distance = firstDistance
			if q.pause.next == 0 {
				q.nextLook = now
			}
		}
	}
	return now
}

// claim takes up to n jobs of a queue. It is never interrupted, so that what it takes is known.
func (r *run) claim(
	ctx context.Context, registration *registration, q *queue, n int, maxBytes int64,
) (jobs []claimedJob, err error) {
	params := gen.ClaimWithinParams{Queue: q.Name, MaxJobs: int32(n), WorkerID: &registration.id, MaxBytes: maxBytes,
		Durable: new(false)}
	if r.cfg.Lease != 0 {
		params.Lease = &r.cfg.Lease
	}
	unknown, err := r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		db := pipeline{conn: conn}
		switch {
		case q.patient:
			db.timeout = callTimeout // whatever the role's own is
		case q.pause.next > 0:
			db.timeout = longestRetry
		}
		jobs, err = claimJobs(ctx, db, params)
		return err
	})
	if err == nil {
		return jobs, nil
	}
	if unknown {
		// The claim may have been committed, or hang and be committed later, and it is not known what it takes. Heartbeats
		// for this registration keep those jobs from everybody, so it gets none of the coming claims, and is wound down.
		r.registrations.retire(registration)
		signalTo(r.retired)
	}
	return nil, err
}

// claimedJob is a job that was claimed and, where a part of it can't be decoded, why: then that part is missing.
type claimedJob struct {
	gen.AwaClaimedJobRow
	err error
}

// claimJobs takes jobs. One that can't be decoded does not keep the others from being known. Where there is a limit,
// one that has more bytes comes without its body.
func claimJobs(ctx context.Context, db pipeline, params gen.ClaimWithinParams) ([]claimedJob, error) {
	var errs []error
	if params.MaxBytes == 0 {
		claimed, err := queries.Claim(ctx, claimDB{db, &errs},
			gen.ClaimParams{Queue: params.Queue, MaxJobs: params.MaxJobs, WorkerID: params.WorkerID, Lease: params.Lease,
				Durable: params.Durable})
		if err != nil {
			return nil, err
		}
		jobs := make([]claimedJob, len(claimed))
		for i, job := range claimed {
			jobs[i] = claimedJob{job, undecodable(errs[i])}
		}
		return jobs, nil
	}
	claimed, err := queries.ClaimWithin(ctx, claimDB{db, &errs}, params)
	if err != nil {
		return nil, err
	}
	jobs := make([]claimedJob, len(claimed))
	for i, job := range claimed {
		jobs[i] = claimedJob{gen.AwaClaimedJobRow{
			JobID: job.JobID, Receipt: job.Receipt, Queue: job.Queue, Kind: job.Kind, Args: job.Args, Priority: job.Priority,
			Attempt: job.Attempt, MaxAttempts: job.MaxAttempts,
			CreatedAt: job.CreatedAt, ReadyAt: job.ReadyAt, DeadlineAt: job.DeadlineAt, Tags: job.Tags, Metadata: job.Metadata,
			Progress: job.Progress, GroupKey: job.GroupKey, ExpiresAt: job.ExpiresAt,
		}, undecodable(errs[i])}
		if job.Bytes > params.MaxBytes {
			jobs[i].err = fmt.Errorf("%w: it has %d bytes, and only %d came in time when it, or another one, was claimed before",
				ErrTooLarge, job.Bytes, receivedFor(params.MaxBytes))
		}
	}
	return jobs, nil
}

// tooLarge returns how many of some jobs came without their bodies.
func tooLarge(jobs []claimedJob) (n int) {
	for _, job := range jobs {
		if errors.Is(job.err, ErrTooLarge) {
			n++
		}
	}
	return n
}

func undecodable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUndecodable, err)
}

// link is what is known of how much the connection to the server carries in the time of a claim.
type link struct {
	// how many claims were cut off in the middle of their answers, and none has shown since that more is carried
	cutOffs  int
	cutOffAt time.Time // when the last of them was
	rate     float64   // what had come of it, in bytes a second
	most     int64     // bytes of a job; 0 for no limit
	until    time.Time // when the limit ends, so that a job that has more is tried again
	spare    int       // how many jobs may fail before it is found out anew whether there has to be a limit
}

const (
	// linkChances is how many claims in a row are cut off until there is a limit: it may be chance.
	linkChances = 3
	// For how long a limit holds, and for how long a claim that was cut off counts.
	linkLimit  = time.Minute
	linkMemory = time.Hour
)

// cutOff takes note of a claim that was cut off after a while, when so many bytes had come.
func (l *link) cutOff(received int64, took time.Duration, now time.Time) {
	if now.Sub(l.cutOffAt) >= linkMemory {
		l.cutOffs = 0
	}
	l.cutOffs++
	l.cutOffAt, l.rate = now, float64(received)/took.Seconds()
	if l.cutOffs >= linkChances {
		l.most, l.until = limitFor(received), now.Add(linkLimit)
		l.spare = 1 << min(l.cutOffs-linkChances, 9) // each claim that is cut off in vain makes it more certain
	}
}

// carried takes note of a claim that has come to its end, with so many jobs that were too large for the limit.
func (l *link) carried(received int64, took time.Duration, tooLarge int) {
	if received >= headOfAnswer && float64(received)/took.Seconds() >= 4*l.rate {
		*l = link{} // what has cut off the others is over
	}
	if l.spare -= tooLarge; l.spare <= 0 {
		l.most = 0
	}
}

// limit returns how many bytes a job may have to come with its body, 0 for any number, and how many jobs may be
// claimed.
func (l *link) limit(jobs int, now time.Time) (most int64, n int) {
	if !now.Before(l.until) {
		l.most = 0
	}
	if l.most > 0 {
		jobs = min(jobs, l.spare)
	}
	return l.most, jobs
}

// limitFor returns the limit after so many bytes have come. Those are measured on the wire, so some of them are no
// job's.
func limitFor(received int64) int64 { return received / 4 * 3 }

func receivedFor(limit int64) int64 { return limit / 3 * 4 }

// claimDB notes, for each row of a claim, what can't be decoded.
type claimDB struct {
	pipeline
	errs *[]error
}

func (c claimDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := c.pipeline.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return &claimRows{Rows: rows, types: c.conn.TypeMap(), errs: c.errs}, nil
}

type claimRows struct {
	pgx.Rows
	types *pgtype.Map
	plans []pgtype.ScanPlan // of the columns, which are scanned into the same types for each row
	errs  *[]error
}

// Scan fails only when it is not known which attempt the row is of.
func (r *claimRows) Scan(dest ...any) error {
	fields, values := r.FieldDescriptions(), r.RawValues()
	if len(fields) != len(dest) {
		return r.Rows.Scan(dest...)
	}
	var undecoded error
	for i, d := range rawjson.Dest(dest) {
		if i == len(r.plans) {
			r.plans = append(r.plans, r.types.PlanScan(fields[i].DataTypeOID, fields[i].Format, d))
		}
		err := r.plans[i].Scan(values[i], d)
		switch name := fields[i].Name; {
		case err == nil:
		case name == "job_id" || name == "receipt":
			r.Close()
			return err
		default:
			undecoded = errors.Join(undecoded, fmt.Errorf("%s: %w", name, err))
		}
	}
	*r.errs = append(*r.errs, undecoded)
	return nil
}
