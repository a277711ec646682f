package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/gen"
)

// Schedule declares schedules of this program. A worker with these handlers makes the schedules of its
// [WorkerConfig.ScheduleSource] be these when it starts: those that the source declared before, and no longer does, are
// removed. The handler of the jobs may be another worker's.
//
// Schedule panics when a name is missing, or is there twice, or Args are nil. All else the server checks when the
// worker starts, and [Worker.Run] returns the error, which names the schedule and the field.
func (h *Handlers) Schedule(schedules ...Schedule) {
	for _, s := range schedules {
		switch {
		case s.Name == "":
			panic("driver: a schedule has no name")
		case s.Args == nil:
			panic(fmt.Sprintf("driver: schedule %q has no Args, which also say the kind", s.Name))
		}
		for _, other := range h.schedules {
			if other.Name == s.Name {
				panic(fmt.Sprintf("driver: schedule %q is there twice", s.Name))
			}
		}
		h.schedules = append(h.schedules, s)
	}
}

// Schedule returns the name and the nominal time of the schedule that enqueued the job; ok is false for other jobs.
// Compute with that time, and not with the clock: the job may run late, or again.
func (j *RawJob) Schedule() (name string, at time.Time, ok bool) {
	var metadata struct {
		Schedule *struct {
			Name string    `json:"name"`
			At   time.Time `json:"at"`
		} `json:"schedule"`
	}
	if json.Unmarshal(j.Metadata, &metadata) != nil || metadata.Schedule == nil || metadata.Schedule.Name == "" {
		return "", time.Time{}, false
	}
	return metadata.Schedule.Name, metadata.Schedule.At, true
}

// declaresSchedules says whether the worker has schedules to synchronise: none are a declaration, too, where the source
// has a name.
func (w *Worker) declaresSchedules() bool {
	return w.cfg.ScheduleSource != "" || len(w.handlers.schedules) > 0
}

// syncAtStart synchronises the worker's schedules. When the server is not there, or others are in the way, later says
// that it has to be done later; an error says that the server has refused it.
func (r *run) syncAtStart(ctx context.Context) (later bool, err error) {
	if !r.declaresSchedules() {
		return false, nil
	}
	if r.registrations.get() == nil { // the server is not there
		return true, nil
	}
	switch err = r.syncSchedules(ctx, &r.control); {
	case err == nil || !isTemporary(err):
		return false, err
	case ctx.Err() == nil:
		r.syncTrouble.report(ctx, err)
	}
	return true, nil
}

// syncLater synchronises the worker's schedules as soon as it can be done, or until the context ends.
func (r *run) syncLater(ctx context.Context) {
	var pause backoff
	db := dedicated{pool: r.pool}
	defer func() { db.close(r.background) }()
	for sleep(ctx, pause.pause()) {
		err := r.syncSchedules(ctx, &db)
		if ctx.Err() != nil {
			return
		}
		r.syncTrouble.report(ctx, err)
		if err == nil {
			return
		}
	}
}

// syncSchedules synchronises the worker's schedules, on a connection of the worker's own.
func (r *run) syncSchedules(ctx context.Context, db *dedicated) error {
	var applied bool
	_, err := db.callUntil(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		applied, err = r.syncOn(ctx, conn)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("schedules of source %q: %w", r.cfg.ScheduleSource, mapError(err))
	case !applied:
		r.log.InfoContext(ctx, "the schedules stay as they are: they were synchronised with a higher revision before",
			keySource, r.cfg.ScheduleSource, keyRevision, r.cfg.ScheduleRevision)
	}
	return nil
}

// syncOn calls sync_schedules as the role that the worker's logins have in common, if there is one: a source belongs to
// the role that was set, or to the login.
func (r *run) syncOn(ctx context.Context, conn *pgx.Conn) (applied bool, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		db := utf8DB{tx}
		if r.cfg.MemberOf != "" {
			if _, err := db.Exec(ctx, "select pg_catalog.set_config('role', $1, true)", r.cfg.MemberOf); err != nil {
				return err
			}
		}
		applied, err = queries.SyncSchedules(ctx, db, gen.SyncSchedulesParams{
			Source: r.cfg.ScheduleSource, Schedules: r.schedules, Revision: optional(r.cfg.ScheduleRevision),
		})
		return err
	})
	return applied, err
}

// errNoSource says that schedules have no owner. No default would do: two programs that share it would remove each
// other's schedules.
var errNoSource = errors.New("the handlers have schedules, so ScheduleSource must name this program")
