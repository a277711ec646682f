package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/sql"
)

// registration is a worker as the server knows it.
type registration struct {
	id int64

	mu   sync.Mutex
	open map[*attempt]bool // attempts that are not answered yet: whether the handler runs, or is to run
	gone bool              // the server no longer knows it, and nothing is this worker's that was claimed under it
}

// attempt is what a worker knows of an attempt until that is answered. Two of them may have the same job and receipt,
// when a crash has forgotten the claim of the first.
type attempt struct {
	jobID, receipt int64
	registration   *registration // nil for a caller without one
	stats          *queueStats
	queue          *queue                  // nil for a caller without one
	cancel         context.CancelCauseFunc // ends the handler's context; nil before it runs; guarded by registration
	lost           bool                    // it is no longer the worker's; guarded by registration
	group          group                   // of its job
	left           chan struct{}           // closed when its handler has returned, or will not run; nil without a group
}

// opened takes note of an attempt that was claimed, and says whether it is still this worker's.
func (r *registration) opened(a *attempt) (mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return false
	}
	r.open[a] = true
	return true
}

// begins takes note that a handler is about to run, and says whether the attempt is still this worker's.
func (a *attempt) begins(cancel context.CancelCauseFunc) (mine bool) {
	a.registration.mu.Lock()
	defer a.registration.mu.Unlock()
	if a.lost {
		delete(a.registration.open, a)
		return false
	}
	a.cancel = cancel
	return true
}

// lose marks an attempt as lost, and ends the handler's context. The caller has locked the registration.
func (a *attempt) lose() {
	a.lost = true
	if a.cancel != nil {
		a.cancel(ErrStaleReceipt)
	}
}

// returned takes note that a handler has returned, and says whether the attempt was lost before.
func (a *attempt) returned() (lost bool) {
	a.registration.mu.Lock()
	defer a.registration.mu.Unlock()
	if a.lost {
		delete(a.registration.open, a)
	} else {
		a.registration.open[a] = false
	}
	return a.lost
}

// answered takes note that the server has taken an answer, or that none comes: the job is given back.
func (a *attempt) answered() {
	if a.registration != nil {
		a.registration.mu.Lock()
		defer a.registration.mu.Unlock()
		delete(a.registration.open, a)
	}
}

// lose ends the contexts of handlers whose attempts are lost, and returns whether there was any: the server says it for
// a minute.
func (r *registration) lose(jobID, receipt int64) (found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, runs := range r.open {
		if runs && !a.lost && a.jobID == jobID && a.receipt == receipt {
			a.lose()
			found = true
		}
	}
	return found
}

// loseAll ends the contexts of all handlers, and returns how many: another session has ended the worker, and so all its
// attempts.
func (r *registration) loseAll() (running int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	for a, runs := range r.open {
		if runs && !a.lost {
			a.lose()
			running++
		}
	}
	return running
}

// known returns the attempts that are not answered yet.
func (r *registration) known() (jobIDs, receipts []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	jobIDs, receipts = []int64{}, []int64{}
	for a := range r.open {
		jobIDs, receipts = append(jobIDs, a.jobID), append(receipts, a.receipt)
	}
	return jobIDs, receipts
}

// registrations are those of a run. They are safe for concurrent use.
type registrations struct {
	mu      sync.Mutex
	current *registration // that of the coming claims; nil when there is none
	// retired are others with attempts that are not answered: those that had a claim whose answer was lost.
	retired []*registration
	ids     map[int64]bool // of all there were
}

func (r *registrations) get() *registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *registrations) add(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = &registration{id: id, open: map[*attempt]bool{}}
	r.ids[id] = true
}

// retire has the coming claims made under another registration.
func (r *registrations) retire(reg *registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == reg {
		r.current = nil
		r.retired = append(r.retired, reg)
	}
}

// forget drops a registration that the server no longer knows.
func (r *registrations) forget(reg *registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == reg {
		r.current = nil
	}
	var retired []*registration
	for _, other := range r.retired {
		if other != reg {
			retired = append(retired, other)
		}
	}
	r.retired = retired
}

// all returns the current registration, nil when there is none, and the retired ones.
func (r *registrations) all() (current *registration, retired []*registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, append([]*registration{}, r.retired...)
}

// isMine says whether an id is, or was, one of these.
func (r *registrations) isMine(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

// register makes the worker known to the server.
func (r *run) register(ctx context.Context) error {
	params := gen.RegisterWorkerParams{Name: r.cfg.Name, Info: info()}
	if r.cfg.MemberOf != "" {
		params.MemberOf = &r.cfg.MemberOf
	}
	for _, q := range r.queues {
		params.Queues = append(params.Queues, q.Name)
	}
	_, err := r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := checkVersion(ctx, pipeline{conn: conn}); err != nil {
			return err
		}
		id, err := queries.RegisterWorker(ctx, pipeline{conn: conn}, params)
		if err == nil {
			r.registrations.add(id)
			r.log.DebugContext(ctx, "registered", keyWorkerID, id)
		}
		return err
	})
	return err
}

// checkVersion refuses a database that is too old.
func checkVersion(ctx context.Context, db gen.DBTX) error {
	installed, err := queries.Version(ctx, db)
	if err == nil && olderVersion(installed, sql.Version) {
		return fmt.Errorf("%w: it has Awa %s, and this is %s; run awa migrate of this version on it", ErrDatabaseTooOld,
			installed, sql.Version)
	}
	return err
}

// olderVersion says whether version a, as in 0.10.2, comes before version b in its first two numbers: versions that
// differ in the third work together, in any order. A text that is no version is not older.
func olderVersion(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs), 2) {
		x, errA := strconv.Atoi(as[i])
		y, errB := strconv.Atoi(bs[i])
		if errA != nil || errB != nil {
			return false
		}
		if x != y {
			return x < y
		}
	}
	return false
}

// info is what register_worker gets to know about the process.
func info() json.RawMessage {
	host, _ := os.Hostname()
	encoded, _ := json.Marshal(map[string]any{"host": host, "pid": os.Getpid(), "runtime": runtime.Version()})
	return encoded
}

// leaseExpired is the reason that heartbeat gives for an attempt whose lease was over.
const leaseExpired = "lease expired"

// beat says to the server that the worker is alive, stops handlers whose attempts are no longer the worker's, and gives
// back what claims have taken whose answers were lost.
func (r *run) beat(ctx context.Context, db *dedicated) error {
	current, retired := r.registrations.all()
	if current != nil {
		if err := r.beatOne(ctx, db, current); err != nil {
			return err
		}
	}
	for _, reg := range retired {
		if err := r.windDown(ctx, db, reg); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) beatOne(ctx context.Context, db *dedicated, reg *registration) error {
	var attempts []gen.AwaLostAttemptRow
	_, err := db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		attempts, err = queries.Heartbeat(ctx, pipeline{conn: conn}, reg.id)
		return err
	})
	if hasCode(err, invalidParameter) {
		running := reg.loseAll()
		const what = "the server no longer knows this worker: its attempts are no worker's or another one's, and it begins " +
			"anew"
		r.warnings.warn(ctx, r.log, slog.LevelWarn, what, what, keyWorkerID, reg.id, keyJobs, running)
		r.registrations.forget(reg)
		signalTo(r.wake)
		return nil
	}
	var expired []int64
	for _, lost := range attempts {
		switch found := reg.lose(lost.JobID, lost.Receipt); {
		case found && lost.Reason == leaseExpired:
			expired = append(expired, lost.JobID)
		case found:
			r.log.InfoContext(ctx, "attempt is no longer this worker's", keyJobID, lost.JobID, keyReason, lost.Reason)
		}
	}
	if n := len(expired); n > 0 {
		r.warnings.warn(ctx, r.log, slog.LevelWarn, leaseExpired,
			"attempts are no longer this worker's: their lease ended before a heartbeat came. HeartbeatEvery has to be "+
				"shorter than the lease, also than that of the queue",
			keyJobs, n, keyJobIDs, expired[:min(n, 10)])
	}
	return err
}

// giveBack releases jobs that were claimed and not started, uncounted.
func (r *run) giveBack(ctx context.Context, tasks []*task) {
	byRegistration := map[*registration]int{}
	for _, t := range tasks {
		t.answered()
		ofProcess.leave(&t.attempt)
		byRegistration[t.registration]++
	}
	for reg, n := range byRegistration {
		err := errors.New("it is being wound down")
		if r.registrations.get() == reg {
			jobIDs, receipts := reg.known()
			_, err = r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
				_, err = queries.ReleaseUnknown(ctx, awayFrom(conn, longestRetry),
					gen.ReleaseUnknownParams{WorkerID: reg.id, JobIds: jobIDs, Receipts: receipts})
				return err
			})
		}
		if err != nil { // with the next heartbeats, then
			r.registrations.retire(reg)
			signalTo(r.retired)
		}
		r.log.DebugContext(ctx, "jobs that were claimed ahead are given back", keyQueue, tasks[0].queue.Name, keyJobs, n)
	}
}

// windDown keeps the attempts of a retired registration that are known alive, and gives back all others, also what a
// claim takes that was on its way for so long. When none is left it ends the registration. It leaves for the next time
// what would keep it waiting.
func (r *run) windDown(ctx context.Context, db *dedicated, reg *registration) error {
	jobIDs, receipts := reg.known()
	var released int64
	var err error
	if len(jobIDs) == 0 {
		released, err = r.deregisterOne(ctx, db, reg, longestRetry)
	} else if err = r.beatOne(ctx, db, reg); err == nil {
		_, err = db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			released, err = queries.ReleaseUnknown(ctx, awayFrom(conn, longestRetry),
				gen.ReleaseUnknownParams{WorkerID: reg.id, JobIds: jobIDs, Receipts: receipts})
			return err
		})
	}
	if released > 0 {
		r.log.InfoContext(ctx, "attempts were given back whose claim was lost", keyJobs, released)
	}
	if (hasCode(err, queryCanceled) || hasCode(err, lockNotAvailable)) && db.isOpen() {
		return nil
	}
	return err
}

// awayFrom runs a query that gives attempts back. Those that another session keeps are left out after a fourth of the
// time: otherwise the whole query would be cancelled beside one of them.
func awayFrom(conn *pgx.Conn, timeout time.Duration) pipeline {
	return pipeline{conn: conn, timeout: timeout, lockTimeout: timeout / 4}
}

// deregister ends the worker, and gives back what is still open. One registration that can't be ended, because a claim
// of it hangs, does not keep the others from it.
func (r *run) deregister() error {
	ctx, cancel := context.WithTimeout(r.background, deregisterTimeout)
	defer cancel()
	current, retired := r.registrations.all()
	all := retired
	if current != nil {
		all = append([]*registration{current}, retired...)
	}
	var pause backoff
	for {
		var left []*registration
		var failure error
		for _, reg := range all {
			released, err := r.deregisterOne(ctx, &r.control, reg, deregisterTimeout/4)
			if released > 0 {
				r.log.InfoContext(ctx, "attempts were given back", keyJobs, released)
			}
			if err != nil {
				left, failure = append(left, reg), err
			}
		}
		switch {
		case failure == nil:
			return nil
		case !isTemporary(failure) || !sleep(ctx, pause.pause()):
			return mapError(failure)
		}
		all = left
	}
}

func (r *run) deregisterOne(ctx context.Context, db *dedicated, reg *registration,
	timeout time.Duration) (released int64, err error) {
	_, err = db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		released, err = queries.DeregisterWorker(ctx, awayFrom(conn, timeout), reg.id)
		return err
	})
	if err == nil {
		r.registrations.forget(reg)
	}
	return released, err
}

// pulse is the worker's sign of life: it sends heartbeats, and hears what is new, until the context ends. Nothing else
// waits on its connection.
func (r *run) pulse(ctx context.Context) {
	trouble := trouble{log: r.log, what: "no heartbeats and no notifications"}
	var pause backoff
	db := dedicated{pool: r.pool}
	defer func() { db.close(ctx) }()
	for {
		err := r.pulseOnce(ctx, &db, func() {
			pause.reset()
			trouble.report(ctx, nil)
		})
		if ctx.Err() != nil {
			return
		}
		trouble.report(ctx, err)
		if !sleep(ctx, pause.pause()) {
			return
		}
	}
}

// pulseOnce returns when its connection is lost.
func (r *run) pulseOnce(ctx context.Context, db *dedicated, well func()) error {
	if err := db.open(ctx); err != nil {
		return err
	}
	direct, err := isDirect(ctx, db.conn)
	if err != nil {
		db.close(ctx)
		return err
	}
	if direct {
		if err := r.listen(ctx, db.conn); err != nil {
			db.close(ctx)
			return err
		}
	} else if !r.saidProxied {
		r.saidProxied = true
		r.log.InfoContext(ctx, "there is a proxy between this worker and the server: jobs are found by polling")
	}
	for {
		if err := r.beat(ctx, db); err != nil {
			return err
		}
		well()
		beat := time.Now()
		if err := r.hear(ctx, db.conn, direct, beat, beat.Add(r.cfg.HeartbeatEvery)); err != nil {
			return err
		}
	}
}
