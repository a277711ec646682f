package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// RawJob is one attempt of a job, whatever its kind. It belongs to the handler until that returns.
type RawJob struct {
	ID          int64
	Receipt     int64 // proves that the attempt is this worker's
	Queue       string
	Kind        string
	Args        json.RawMessage
	Attempt     int        // from 1
	MaxAttempts int        // when this one fails the job ends as failed
	Priority    int        // 1 (first) to 4 (last)
	CreatedAt   time.Time  // when the job was enqueued
	ReadyAt     time.Time  // since when this attempt could run
	DeadlineAt  *time.Time // when the attempt has to end, by the server's clock; nil for none
	Tags        []string
	Metadata    json.RawMessage // nil for none
	Progress    json.RawMessage // what an earlier attempt said with SetProgress; nil for none
	GroupKey    string          // "" for a job without a group
	ExpiresAt   *time.Time      // by when the first attempt had to begin; nil for never

	db          handlersDB
	output      any
	completedTx bool
}

// Job is one attempt of a job whose arguments are a T. It belongs to the handler until that returns.
type Job[T Args] struct {
	*RawJob
	Args T
}

func newRawJob(j gen.AwaClaimedJobRow, db handlersDB) *RawJob {
	return &RawJob{
		ID: j.JobID, Receipt: j.Receipt, Queue: j.Queue, Kind: j.Kind, Args: j.Args, Attempt: int(j.Attempt),
		MaxAttempts: int(j.MaxAttempts), Priority: int(j.Priority), CreatedAt: j.CreatedAt, ReadyAt: j.ReadyAt,
		DeadlineAt: j.DeadlineAt, Tags: j.Tags, Metadata: j.Metadata, Progress: j.Progress,
		GroupKey: value(j.GroupKey), ExpiresAt: j.ExpiresAt, db: db,
	}
}

// SetOutput sets the result of the job, to be stored as JSON when the handler returns nil; nil for none. If it
// can't be encoded the attempt fails. [RawJob.CompleteTx] stores it too.
func (j *RawJob) SetOutput(v any) { j.output = v }

// CompleteTx completes the job inside the handler's own transaction: the job is completed if and when that commits, so
// that its effects in the same database happen once. It fails with [ErrStaleReceipt] when the attempt is no longer this
// worker's: roll back, and return the error.
//
// Return nil only after the commit has succeeded. Otherwise return an error, and the attempt fails, unless the commit
// had succeeded after all. If the handler returns nil without having committed, the attempt fails too.
func (j *RawJob) CompleteTx(ctx context.Context, tx DBTX) error {
	if err := completeTx(ctx, tx, j.ID, j.Receipt, j.output); err != nil {
		return err
	}
	j.completedTx = true
	return nil
}

// SetProgress says how far the job is: at once, so that [Client.Job] shows it, and the next attempt gets it if this one
// fails. It is stored as JSON; nil clears it. It fails with [ErrStaleReceipt] when the attempt is no longer this
// worker's: return the error.
//
// The first call of an attempt is the dearest: it gives the attempt a row of its own.
func (j *RawJob) SetProgress(ctx context.Context, v any) error {
	encoded, err := encode("progress", v)
	if err == nil {
		err = j.db.call(ctx, func(db DBTX) error {
			return queries.SetProgress(ctx, db, gen.SetProgressParams{JobID: j.ID, Receipt: j.Receipt, Progress: encoded})
		})
	}
	if err != nil {
		return fmt.Errorf("set progress of job %d: %w", j.ID, err)
	}
	return nil
}

// Extend makes the lease of this attempt end so long from now, 1 ms to a year, and returns when that is. The worker's
// heartbeats keep leases alive by themselves, so this is for an attempt that should outlast the lack of them. A
// deadline stays. It fails with [ErrStaleReceipt] when the attempt is no longer this worker's: return the error.
func (j *RawJob) Extend(ctx context.Context, lease time.Duration) (time.Time, error) {
	var until time.Time
	err := j.db.call(ctx, func(db DBTX) (err error) {
		until, err = queries.Extend(ctx, db, gen.ExtendParams{JobID: j.ID, Receipt: j.Receipt, Lease: lease})
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("extend job %d: %w", j.ID, err)
	}
	return until, nil
}
