package driver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

const (
	// The server sends at most one notification per 5 ms. One that it suppressed is for what is enqueued just after
	// another one, so a worker that was woken looks again for a while.
	awakeFor  = 50 * time.Millisecond
	awakePoll = 5 * time.Millisecond
)

// registration is a worker as the server knows it.
type registration struct {
	id   int64
	open atomic.Int64 // attempts that are not answered yet
}

// work claims jobs and starts their handlers until the context ends.
func (r *run) work(ctx context.Context) {
	trouble := trouble{log: r.log, what: "jobs can't be claimed"}
	var pause backoff
	var awakeUntil time.Time
	idle := time.NewTimer(0)
	defer idle.Stop()
	for ctx.Err() == nil {
		select {
		case <-r.lost: // also while there is always something to claim
			r.nextHeartbeat = time.Now()
		default:
		}
		if !time.Now().Before(r.nextHeartbeat) {
			r.heartbeat(ctx)
		}
		if r.registration == nil {
			if err := r.register(ctx); err != nil {
				trouble.report(ctx, err)
				sleep(ctx, pause.pause())
				continue
			}
		}

		free := r.slots.takeAll()
		if ctx.Err() != nil {
			return // a slot that was freed after the stop is not filled again
		}
		if free == 0 {
			idle.Reset(time.Until(r.nextHeartbeat))
			select {
			case <-ctx.Done():
			case <-r.slots.freed:
			case <-r.lost:
				r.nextHeartbeat = time.Now()
			case <-idle.C:
			}
			continue
		}
		jobs, err := r.claim(ctx, free)
		r.slots.put(free - len(jobs))
		if ctx.Err() == nil || err == nil {
			trouble.report(ctx, err)
		}
		if err != nil {
			sleep(ctx, pause.pause())
			continue
		}
		pause.reset()
		if len(jobs) > 0 {
			// There may be more, also when there were fewer than slots: a claim has a byte budget too.
			r.start(jobs)
			continue
		}

		wait := r.cfg.PollInterval
		if time.Now().Before(awakeUntil) {
			wait = min(wait, awakePoll)
		}
		idle.Reset(min(wait, time.Until(r.nextHeartbeat)))
		select {
		case <-ctx.Done():
		case <-r.wake:
			awakeUntil = time.Now().Add(awakeFor)
		case <-r.lost:
			r.nextHeartbeat = time.Now()
		case <-idle.C:
		}
	}
}

// claim takes up to n jobs. It is never interrupted, so that what it takes is known.
func (r *run) claim(ctx context.Context, n int) ([]gen.AwaClaimedJob, error) {
	params := gen.ClaimParams{Queue: r.cfg.Queue, MaxJobs: int32(n), WorkerID: &r.registration.id}
	if r.cfg.Lease != 0 {
		params.Lease = &r.cfg.Lease
	}
	var jobs []gen.AwaClaimedJob
	unknown, err := r.control.call(ctx, true, func(ctx context.Context, db gen.DBTX) (err error) {
		jobs, err = queries.Claim(ctx, db, params)
		return err
	})
	if err == nil {
		return jobs, nil
	}
	if unknown {
		// The claim may have been committed, and nobody knows what it took. Heartbeats for this registration keep those
		// jobs from everybody, so it gets none of the coming claims, and ends, which gives them back, when the attempts
		// that are known have ended.
		r.retired = append(r.retired, r.registration)
		r.registration = nil
	}
	if hasCode(err, invalidParameter) {
		r.nextHeartbeat = time.Now() // it will tell whether the registration is gone
	}
	return nil, err
}

// register makes the worker known to the server.
func (r *run) register(ctx context.Context) error {
	_, err := r.control.call(ctx, false, func(ctx context.Context, db gen.DBTX) error {
		id, err := queries.RegisterWorker(ctx, db, gen.RegisterWorkerParams{
			Name: r.cfg.Name, Queues: []string{r.cfg.Queue}, Info: info(),
		})
		if err == nil {
			r.registration = &registration{id: id}
			r.mu.Lock()
			r.ids[id] = true
			r.mu.Unlock()
			r.nextHeartbeat = time.Now().Add(r.cfg.HeartbeatEvery)
		}
		return err
	})
	if err == nil {
		r.log.DebugContext(ctx, "registered", keyWorkerID, r.registration.id)
	}
	return err
}

// isMine says whether a worker's id is, or was, one of this run.
func (r *run) isMine(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

// heartbeat says that the worker is alive, and stops handlers whose attempts are no longer the worker's.
func (r *run) heartbeat(ctx context.Context) {
	r.nextHeartbeat = time.Now().Add(r.cfg.HeartbeatEvery)
	if r.registration != nil && !r.beat(ctx, r.registration) {
		r.registration = nil // unknown to the server
	}
	var retired []*registration
	for _, reg := range r.retired {
		if reg.open.Load() == 0 {
			if _, err := r.deregisterOne(ctx, reg); err == nil {
				continue
			}
		} else if !r.beat(ctx, reg) {
			continue
		}
		retired = append(retired, reg)
	}
	r.retired = retired
}

// beat returns false when the server does not know the registration.
func (r *run) beat(ctx context.Context, reg *registration) bool {
	var attempts []gen.AwaLostAttempt
	_, err := r.control.call(ctx, false, func(ctx context.Context, db gen.DBTX) (err error) {
		attempts, err = queries.Heartbeat(ctx, db, reg.id)
		return err
	})
	switch {
	case hasCode(err, invalidParameter):
		r.log.WarnContext(ctx, "the server no longer knows this worker", keyWorkerID, reg.id)
		return false
	case err != nil && ctx.Err() == nil:
		r.log.WarnContext(ctx, "no heartbeat", keyWorkerID, reg.id, keyError, mapError(err))
	}
	for _, lost := range attempts {
		r.mu.Lock()
		cancel := r.running[lost.Receipt]
		if cancel != nil {
			r.running[lost.Receipt] = nil // the server says it for a minute
		}
		r.mu.Unlock()
		if cancel != nil {
			r.log.InfoContext(ctx, "attempt is no longer this worker's: "+lost.Reason, keyJobID, lost.JobID)
			cancel(ErrStaleReceipt)
		}
	}
	return true
}

// deregister ends the worker, and gives back what is still open.
func (r *run) deregister() error {
	ctx, cancel := context.WithTimeout(r.background, windUpTimeout)
	defer cancel()
	registrations := r.retired
	if r.registration != nil {
		registrations = append(registrations, r.registration)
	}
	for _, reg := range registrations {
		var pause backoff
		for {
			released, err := r.deregisterOne(ctx, reg)
			if err == nil {
				if released > 0 {
					r.log.InfoContext(ctx, "attempts were given back", keyJobs, released)
				}
				break
			}
			if !isTemporary(err) || !sleep(ctx, pause.pause()) {
				return mapError(err)
			}
		}
	}
	return nil
}

func (r *run) deregisterOne(ctx context.Context, reg *registration) (released int64, err error) {
	_, err = r.control.call(ctx, false, func(ctx context.Context, db gen.DBTX) (err error) {
		released, err = queries.DeregisterWorker(ctx, db, reg.id)
		return err
	})
	return released, err
}

// control is the worker's own connection. It is made when it is needed, and again when it was lost.
type control struct {
	pool *pgxpool.Pool
	conn *pgx.Conn
}

// call runs f on the connection. The context is for getting the connection alone: what was begun is not interrupted. When
// it returns an error it also says whether it is unknown if f has had an effect.
func (c *control) call(ctx context.Context, lazy bool, f func(context.Context, gen.DBTX) error) (unknown bool, err error) {
	if c.conn == nil || c.conn.IsClosed() {
		if c.conn, err = connect(ctx, c.pool); err != nil {
			return false, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), callTimeout, errors.New("the server does not answer"))
	defer cancel()
	if err = f(ctx, pipeline{conn: c.conn, lazy: lazy}); err == nil {
		return false, nil
	}
	if c.conn.IsClosed() {
		return !pgconn.SafeToRetry(err), err
	}
	if c.conn.PgConn().TxStatus() != 'I' {
		if _, rollbackErr := c.conn.Exec(ctx, "rollback"); rollbackErr != nil {
			c.close(ctx)
		}
		return false, err
	}
	var pg *pgconn.PgError
	return !errors.As(err, &pg), err
}

func (c *control) close(ctx context.Context) {
	if c.conn != nil {
		closeConn(ctx, c.conn)
	}
}

// slots counts the handlers that may be started.
type slots struct {
	freed chan struct{} // some were put back

	mu   sync.Mutex
	free int
}

func newSlots(n int) *slots { return &slots{freed: make(chan struct{}, 1), free: n} }

// takeAll takes all slots that are free.
func (s *slots) takeAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.free
	s.free = 0
	return n
}

func (s *slots) put(n int) {
	s.mu.Lock()
	s.free += n
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
}
