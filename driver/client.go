package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/gen"
)

// DBTX is what can run a statement: a [pgx.Tx], a [*pgx.Conn], a [*pgxpool.Pool]. With a transaction the call is a part
// of it.
type DBTX interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

var queries = gen.New()

// Args are the arguments of a job, usually a small struct. They are stored as JSON, by [encoding/json].
type Args interface {
	// Kind names what is to be done, in 1 to 200 characters. It must not depend on the value: it is also called on the
	// zero value.
	Kind() string
}

// EnqueueOptions say how a job is to be run. In each field the zero value stands for the default.
type EnqueueOptions struct {
	Queue       string    // 1 to 200 characters, "default" by default; a queue exists from its first job
	Priority    int       // 1 (first) to 4 (last); by default the queue's, which is 2 unless configured
	RunAt       time.Time // not before this time; a time in the past means now, as the zero value does
	MaxAttempts int       // 1 to 1000; by default the queue's, which is 25 unless configured
	Tags        []string  // at most 20
	Metadata    any       // stored as JSON beside the arguments; nil for none
}

// DefaultQueue is the queue of jobs and workers that name none.
const DefaultQueue = "default"

// Client enqueues jobs and reads what became of them. It is safe for concurrent use.
type Client struct {
	pool *pgxpool.Pool
}

// NewClient returns a client that uses the pool, which stays the caller's to close.
func NewClient(pool *pgxpool.Pool) *Client { return &Client{pool: pool} }

// Enqueue appends one job, in a transaction of its own, and returns the job's id. Bad options are refused by the server
// with SQLSTATE 22023 and a hint.
func (c *Client) Enqueue(ctx context.Context, args Args, opts EnqueueOptions) (int64, error) {
	return c.EnqueueTx(ctx, c.pool, args, opts)
}

// EnqueueTx is [Client.Enqueue] inside the caller's transaction: the job exists if and when that commits.
func (c *Client) EnqueueTx(ctx context.Context, tx DBTX, args Args, opts EnqueueOptions) (int64, error) {
	ids, err := enqueue(ctx, tx, []Args{args}, opts)
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// EnqueueMany appends jobs of one kind, at most 10,000, all of them or, on an error, none. It is the fast way. It returns
// their ids in the order of args.
func (c *Client) EnqueueMany(ctx context.Context, args []Args, opts EnqueueOptions) ([]int64, error) {
	return c.EnqueueManyTx(ctx, c.pool, args, opts)
}

// EnqueueManyTx is [Client.EnqueueMany] inside the caller's transaction: the jobs exist if and when that commits.
func (c *Client) EnqueueManyTx(ctx context.Context, tx DBTX, args []Args, opts EnqueueOptions) ([]int64, error) {
	if len(args) == 0 {
		return nil, nil
	}
	return enqueue(ctx, tx, args, opts)
}

func enqueue(ctx context.Context, tx DBTX, args []Args, opts EnqueueOptions) ([]int64, error) {
	params := gen.EnqueueManyParams{
		Queue:       opts.Queue,
		Kind:        args[0].Kind(),
		Args:        make([]json.RawMessage, len(args)),
		Priority:    optionalInt(opts.Priority),
		MaxAttempts: optionalInt(opts.MaxAttempts),
		Tags:        opts.Tags,
	}
	if params.Queue == "" {
		params.Queue = DefaultQueue
	}
	if !opts.RunAt.IsZero() {
		params.RunAt = &opts.RunAt
	}
	var err error
	for i, a := range args {
		if kind := a.Kind(); kind != params.Kind {
			return nil, fmt.Errorf("enqueue: jobs of two kinds, %q and %q, in one call", params.Kind, kind)
		}
		if params.Args[i], err = json.Marshal(a); err != nil {
			return nil, fmt.Errorf("enqueue: arguments of a job of kind %q: %w", params.Kind, err)
		}
	}
	if opts.Metadata != nil {
		if params.Metadata, err = json.Marshal(opts.Metadata); err != nil {
			return nil, fmt.Errorf("enqueue: metadata: %w", err)
		}
	}
	ids, err := queries.EnqueueMany(ctx, tx, params)
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", mapError(err))
	}
	return ids, nil
}

// optionalInt leaves out what is zero. What does not fit is refused by the server, as anything out of range is.
func optionalInt(v int) *int32 {
	if v == 0 {
		return nil
	}
	return new(int32(min(max(v, math.MinInt32), math.MaxInt32)))
}

// CompleteTx completes an attempt inside the caller's transaction: the job is completed if and when that commits, so
// that the job's effects in the same database happen once. The output is stored as JSON; nil for none. It fails with
// [ErrStaleReceipt] when the attempt is no longer the caller's: roll back then.
//
// A handler calls [Job.CompleteTx] instead, so that its worker knows.
func (c *Client) CompleteTx(ctx context.Context, tx DBTX, jobID, receipt int64, output any) error {
	return completeTx(ctx, tx, jobID, receipt, output)
}

func completeTx(ctx context.Context, tx DBTX, jobID, receipt int64, output any) error {
	encoded, err := encodeOutput(output)
	if err != nil {
		return fmt.Errorf("complete job %d: %w", jobID, err)
	}
	if err := queries.Complete(ctx, tx, gen.CompleteParams{JobID: jobID, Receipt: receipt, Output: encoded}); err != nil {
		return fmt.Errorf("complete job %d: %w", jobID, mapError(err))
	}
	return nil
}

func encodeOutput(output any) (json.RawMessage, error) {
	if output == nil {
		return nil, nil
	}
	encoded, err := json.Marshal(output)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return encoded, nil
}

// JobInfo is what is known of a job.
type JobInfo struct {
	ID          int64
	Kind        string
	Queue       string
	Args        json.RawMessage
	State       string // available, scheduled, retryable, running, waiting_external, completed, failed, cancelled or dead
	Priority    int    // 1 (first) to 4 (last)
	Attempt     int    // attempts so far, the one that runs included
	MaxAttempts int
	RunAt       time.Time  // since when it may run, or from when on
	AttemptedAt *time.Time // when the last attempt began
	FinalizedAt *time.Time // when the job ended
	CreatedAt   time.Time
	Errors      []AttemptError // oldest first
	Metadata    json.RawMessage
	Tags        []string
	Receipt     *int64 // of the attempt that runs, or was the last
	Output      json.RawMessage
	WorkerID    *int64
}

// AttemptError is how one attempt failed.
type AttemptError struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
}

// Job returns what is known of one job. It fails with [ErrNoSuchJob] when there is none of that id, or no more.
func (c *Client) Job(ctx context.Context, id int64) (JobInfo, error) {
	row, err := queries.Job(ctx, c.pool, id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoSuchJob
	}
	job := JobInfo{
		ID: row.ID, Kind: row.Kind, Queue: row.Queue, Args: row.Args, State: row.State,
		Priority: int(row.Priority), Attempt: int(row.Attempt), MaxAttempts: int(row.MaxAttempts),
		RunAt: row.RunAt, AttemptedAt: row.AttemptedAt, FinalizedAt: row.FinalizedAt, CreatedAt: row.CreatedAt,
		Metadata: row.Metadata, Tags: row.Tags, Receipt: row.Receipt, Output: row.Output, WorkerID: row.WorkerID,
	}
	if err == nil {
		err = json.Unmarshal(row.Errors, &job.Errors)
	}
	if err != nil {
		return JobInfo{}, fmt.Errorf("job %d: %w", id, mapError(err))
	}
	return job, nil
}

// QueueCounts are the numbers of a queue's jobs by state, exact at the moment of the call.
type QueueCounts struct {
	Queue           string
	Available       int64
	Scheduled       int64
	Retryable       int64
	Running         int64
	WaitingExternal int64
	Completed       int64
	Failed          int64
	Cancelled       int64
	Dead            int64
	OldestReadyAt   *time.Time // since when the oldest available job may run; nil when none is available
}

// QueueCounts counts the jobs of a queue by state. It fails with [ErrNoSuchQueue] when nothing was ever enqueued to it.
func (c *Client) QueueCounts(ctx context.Context, queue string) (QueueCounts, error) {
	counts, err := queries.QueueCounts(ctx, c.pool, &queue)
	if err == nil && len(counts) == 0 {
		err = ErrNoSuchQueue
	}
	if err != nil {
		return QueueCounts{}, fmt.Errorf("counts of queue %q: %w", queue, mapError(err))
	}
	return QueueCounts(counts[0]), nil
}
