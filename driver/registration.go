package driver

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/gen"
)

// registration is a worker as the server knows it.
type registration struct {
	id   int64
	open atomic.Int64 // attempts that are not answered yet
}

// closed says that an attempt was answered. A nil registration is that of a caller without one.
func (r *registration) closed() {
	if r != nil {
		r.open.Add(-1)
	}
}

// register makes the worker known to the server.
func (r *run) register(ctx context.Context) error {
	params := gen.RegisterWorkerParams{Name: r.cfg.Name, Info: info()}
	for _, q := range r.queues {
		params.Queues = append(params.Queues, q.Name)
	}
	_, err := r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		id, err := queries.RegisterWorker(ctx, pipeline{conn: conn}, params)
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

// info is what register_worker gets to know about the process.
func info() json.RawMessage {
	host, _ := os.Hostname()
	encoded, _ := json.Marshal(map[string]any{"host": host, "pid": os.Getpid(), "runtime": runtime.Version()})
	return encoded
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
	_, err := r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		attempts, err = queries.Heartbeat(ctx, pipeline{conn: conn}, reg.id)
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
	_, err = r.control.call(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		released, err = queries.DeregisterWorker(ctx, pipeline{conn: conn}, reg.id)
		return err
	})
	return released, err
}
