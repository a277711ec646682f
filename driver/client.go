package driver

import (
	"cmp"
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

// DBTX runs statements: it is a [pgx.Tx], a [*pgx.Conn] or a [*pgxpool.Pool]. With a transaction the call is a part of
// it.
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
	Queue    string // 1 to 200 characters, "default" by default; a queue exists from its first job
	Priority int    // 1 (first) to 4 (last); by default the queue's, which is 2 unless configured
	// not before this time, which is before 9999-12-31 10:00 UTC; a time in the past means now, as the zero value does
	RunAt       time.Time
	MaxAttempts int      // 1 to 1000; by default the queue's, which is 25 unless configured
	Tags        []string // at most 20
	Metadata    any      // stored as JSON beside the arguments; nil for none
	// what the jobs of a group have in common, such as the id of a customer: 1 to 200 characters; "" for no group
	GroupKey string
	// the job is cancelled unless an attempt that counts has begun by then; not in the past, and after RunAt; the zero
	// value means never
	ExpiresAt time.Time
}

// DefaultQueue is the queue of jobs and workers that name none.
const DefaultQueue = "default"

// Client enqueues jobs, changes them, and reads their states. It is safe for concurrent use. All that it does in a
// transaction of its own it does at READ COMMITTED, whatever the database's default isolation level is.
type Client struct {
	pool *pgxpool.Pool
}

// NewClient returns a client that uses the pool, which stays the caller's to close.
func NewClient(pool *pgxpool.Pool) *Client { return &Client{pool: pool} }

// Enqueue appends one job, in a transaction of its own, and returns the job's id. Bad options fail with
// [ErrInvalidArgument], whose text says what to pass.
func (c *Client) Enqueue(ctx context.Context, args Args, opts EnqueueOptions) (int64, error) {
	id, err := c.EnqueueTx(ctx, c.pool, args, opts)
	if errors.Is(err, ErrSerialization) { // the database's default is SERIALIZABLE
		return c.EnqueueTx(ctx, ownTx{c.pool}, args, opts)
	}
	return id, err
}

// EnqueueTx is [Client.Enqueue] inside the caller's transaction: the job exists if and when that commits.
func (c *Client) EnqueueTx(ctx context.Context, tx DBTX, args Args, opts EnqueueOptions) (int64, error) {
	ids, err := enqueue(ctx, tx, []Args{args}, opts)
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// UniqueOptions say what there may be only one job of at a time. In each field the zero value stands for the default.
type UniqueOptions struct {
	Key string   // what there may be one of, in 1 to 10,000 characters; by default it is made of By
	By  []string // any of "queue", "kind" and "args"; kind and args by default; without meaning beside Key
	// Period makes the key one of a period, that of RunAt or of now: one job for each day, say. Its length is 1 ms to 10
	// years; by default there are no periods. A job that has completed keeps its key to the end of the period; one that
	// ended otherwise does not. [Day], [Week], and whole numbers of [Month] and [Year] are those of the calendar, others
	// count from 1970.
	Period time.Duration
	Zone   string    // the time zone of the calendar by its IANA name, such as "Europe/Berlin"; UTC by default
	RunAt  time.Time // only for [Client.CancelByUniqueKey]: the RunAt of the job, where its period is that; or now
	// States are the states in which a job holds its key, as [JobInfo] names them; by default all in which it has not
	// ended, and with a Period when it has completed. Without meaning to [Client.CancelByUniqueKey].
	States []string
}

// Lengths of a [UniqueOptions] period that are those of the calendar. A month and a year are written as their average
// lengths, and stand for whatever the calendar says.
const (
	Day   = 24 * time.Hour
	Week  = 7 * Day // from Monday
	Month = Year / 12
	Year  = 31556952 * time.Second
)

// interval is a period as the server reads it.
func interval(period time.Duration) *string {
	switch {
	case period == 0:
		return nil
	case period%Month == 0:
		return new(fmt.Sprintf("%d months", period/Month))
	case period%Day == 0:
		return new(fmt.Sprintf("%d days", period/Day))
	default:
		return new(fmt.Sprintf("%d microseconds", period.Microseconds()))
	}
}

// EnqueueUnique is [Client.Enqueue], unless another job holds the same unique key: then it returns that one's id, and
// inserted is false. It waits for a transaction that is about to take the same key, or to let go of it.
func (c *Client) EnqueueUnique(
	ctx context.Context, args Args, unique UniqueOptions, opts EnqueueOptions,
) (id int64, inserted bool, err error) {
	return c.EnqueueUniqueTx(ctx, ownTx{c.pool}, args, unique, opts)
}

// EnqueueUniqueTx is [Client.EnqueueUnique] inside the caller's transaction: the job exists if and when that commits,
// and until then others that want the key wait. At REPEATABLE READ and above it fails with [ErrSerialization] when
// the key was taken since the transaction's snapshot.
func (c *Client) EnqueueUniqueTx(
	ctx context.Context, tx DBTX, args Args, unique UniqueOptions, opts EnqueueOptions,
) (id int64, inserted bool, err error) {
	encoded, err := encodeArgs(args)
	if err != nil {
		return 0, false, fmt.Errorf("enqueue: %w", err)
	}
	metadata, err := encode("metadata", opts.Metadata)
	if err != nil {
		return 0, false, fmt.Errorf("enqueue: %w", err)
	}
	runAt, err := optionalTime("RunAt", 9999, opts.RunAt)
	if err != nil {
		return 0, false, fmt.Errorf("enqueue: %w", err)
	}
	expiresAt, err := optionalTime("ExpiresAt", 9999, opts.ExpiresAt)
	if err != nil {
		return 0, false, fmt.Errorf("enqueue: %w", err)
	}
	row, err := queries.EnqueueUnique(ctx, utf8DB{tx}, gen.EnqueueUniqueParams{
		Queue:        cmp.Or(opts.Queue, DefaultQueue),
		Kind:         args.Kind(),
		Args:         encoded,
		UniqueKey:    optional(unique.Key),
		UniqueBy:     unique.By,
		UniquePeriod: interval(unique.Period),
		UniqueZone:   optional(unique.Zone),
		UniqueStates: unique.States,
		Priority:     optionalInt(opts.Priority),
		RunAt:        runAt,
		MaxAttempts:  optionalInt(opts.MaxAttempts),
		Tags:         opts.Tags,
		Metadata:     metadata,
		GroupKey:     optional(opts.GroupKey),
		ExpiresAt:    expiresAt,
	})
	if err != nil {
		return 0, false, fmt.Errorf("enqueue: %w", mapError(err))
	}
	return row.JobID, row.Inserted, nil
}

// CancelByUniqueKey cancels the job that holds a unique key, in a transaction of its own, and returns its id; cancelled
// is false when no job holds the key that has not ended. The key is given as for [Client.EnqueueUnique]: args may be
// nil beside a Key, and queue, "" for "default", counts where By names it. It fails as [Client.Cancel] does.
func (c *Client) CancelByUniqueKey(
	ctx context.Context, args Args, unique UniqueOptions, queue string,
) (id int64, cancelled bool, err error) {
	return c.CancelByUniqueKeyTx(ctx, ownTx{c.pool}, args, unique, queue)
}

// CancelByUniqueKeyTx is [Client.CancelByUniqueKey] inside the caller's transaction: see [Client.CancelTx].
func (c *Client) CancelByUniqueKeyTx(
	ctx context.Context, tx DBTX, args Args, unique UniqueOptions, queue string,
) (id int64, cancelled bool, err error) {
	params := gen.CancelByUniqueKeyParams{
		Queue:        new(cmp.Or(queue, DefaultQueue)),
		UniqueKey:    optional(unique.Key),
		UniqueBy:     unique.By,
		UniquePeriod: interval(unique.Period),
		UniqueZone:   optional(unique.Zone),
	}
	if params.RunAt, err = optionalTime("RunAt", 9999, unique.RunAt); err != nil {
		return 0, false, fmt.Errorf("cancel by unique key: %w", err)
	}
	if args != nil {
		params.Kind = new(args.Kind())
		if params.Args, err = encodeArgs(args); err != nil {
			return 0, false, fmt.Errorf("cancel by unique key: %w", err)
		}
	}
	ids, err := queries.CancelByUniqueKey(ctx, utf8DB{tx}, params)
	if err != nil {
		return 0, false, fmt.Errorf("cancel by unique key: %w", mapError(err))
	}
	if len(ids) == 0 {
		return 0, false, nil
	}
	return ids[0], true, nil
}

// timeFormat is how a batch names times.
const timeFormat = "2006-01-02T15:04:05.999999Z"

// BatchJob is a job of a batch: see [Client.EnqueueBatch].
type BatchJob struct {
	Args    Args
	Options EnqueueOptions
	Unique  *UniqueOptions // nil for a job that is not unique
}

// BatchResult says what became of a job of a batch.
type BatchResult struct {
	ID       int64 // of the job, or of the one that holds its unique key
	Inserted bool  // false when another job holds the key
}

// EnqueueBatch appends jobs of any kinds and queues, at most 10,000, some of them unique, all of them or, on an error,
// none.
// It returns what became of each, in their order. It waits as [Client.EnqueueUnique] does, and two batches that name
// the same keys never wait for each other in a circle. It refuses times before the year 0.
func (c *Client) EnqueueBatch(ctx context.Context, jobs []BatchJob) ([]BatchResult, error) {
	return c.EnqueueBatchTx(ctx, c.pool, jobs)
}

// EnqueueBatchTx is [Client.EnqueueBatch] inside the caller's transaction: see [Client.EnqueueUniqueTx].
func (c *Client) EnqueueBatchTx(ctx context.Context, tx DBTX, jobs []BatchJob) ([]BatchResult, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	type uniqueJSON struct {
		Key    *string  `json:"key,omitempty"`
		By     []string `json:"by,omitempty"`
		Period *string  `json:"period,omitempty"`
		Zone   *string  `json:"zone,omitempty"`
		States []string `json:"states,omitempty"`
	}
	type jobJSON struct {
		Queue       string          `json:"queue"`
		Kind        string          `json:"kind"`
		Args        json.RawMessage `json:"args"`
		Priority    *int32          `json:"priority,omitempty"`
		RunAt       *string         `json:"run_at,omitempty"`
		MaxAttempts *int32          `json:"max_attempts,omitempty"`
		Tags        []string        `json:"tags,omitempty"`
		Metadata    json.RawMessage `json:"metadata,omitempty"`
		GroupKey    *string         `json:"group_key,omitempty"`
		ExpiresAt   *string         `json:"expires_at,omitempty"`
		Unique      *uniqueJSON     `json:"unique,omitempty"`
	}
	batch := make([]jobJSON, len(jobs))
	for i, job := range jobs {
		args, err := encodeArgs(job.Args)
		if err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		metadata, err := encode("metadata", job.Options.Metadata)
		if err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		batch[i] = jobJSON{
			Queue: cmp.Or(job.Options.Queue, DefaultQueue), Kind: job.Args.Kind(), Args: args,
			Priority:    optionalInt(job.Options.Priority),
			MaxAttempts: optionalInt(job.Options.MaxAttempts), Tags: job.Options.Tags, Metadata: metadata,
			GroupKey: optional(job.Options.GroupKey),
		}
		if at, err := optionalTime("RunAt", 9999, job.Options.RunAt); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		} else if at != nil {
			batch[i].RunAt = new(at.UTC().Format(timeFormat))
		}
		if at, err := optionalTime("ExpiresAt", 9999, job.Options.ExpiresAt); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		} else if at != nil {
			batch[i].ExpiresAt = new(at.UTC().Format(timeFormat))
		}
		if u := job.Unique; u != nil {
			batch[i].Unique = &uniqueJSON{Key: optional(u.Key), By: u.By, Period: interval(u.Period), Zone: optional(u.Zone),
				States: u.States}
		}
	}
	encoded, err := json.Marshal(batch)
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	rows, err := queries.EnqueueBatch(ctx, utf8DB{tx}, encoded)
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", mapError(err))
	}
	results := make([]BatchResult, len(rows))
	for i, row := range rows {
		results[i] = BatchResult{row.JobID, row.Inserted}
	}
	return results, nil
}

// EnqueueMany appends jobs of one kind, at most 10,000, all of them or, on an error, none. It is the fast way. It
// returns their ids in the order of args.
func (c *Client) EnqueueMany(ctx context.Context, args []Args, opts EnqueueOptions) ([]int64, error) {
	ids, err := c.EnqueueManyTx(ctx, c.pool, args, opts)
	if errors.Is(err, ErrSerialization) { // the database's default is SERIALIZABLE
		return c.EnqueueManyTx(ctx, ownTx{c.pool}, args, opts)
	}
	return ids, err
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
		Queue:       cmp.Or(opts.Queue, DefaultQueue),
		Kind:        args[0].Kind(),
		Args:        make([]json.RawMessage, len(args)),
		Priority:    optionalInt(opts.Priority),
		MaxAttempts: optionalInt(opts.MaxAttempts),
		Tags:        opts.Tags,
		GroupKey:    optional(opts.GroupKey),
	}
	var err error
	for i, a := range args {
		if kind := a.Kind(); kind != params.Kind {
			return nil, fmt.Errorf("enqueue: jobs of two kinds, %q and %q, in one call", params.Kind, kind)
		}
		if params.Args[i], err = encodeArgs(a); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
	}
	if params.Metadata, err = encode("metadata", opts.Metadata); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	if params.RunAt, err = optionalTime("RunAt", 9999, opts.RunAt); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	if params.ExpiresAt, err = optionalTime("ExpiresAt", 9999, opts.ExpiresAt); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	ids, err := queries.EnqueueMany(ctx, utf8DB{tx}, params)
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", mapError(err))
	}
	return ids, nil
}

func encodeArgs(args Args) (json.RawMessage, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("arguments of a job of kind %q: %w", args.Kind(), err)
	}
	return encoded, nil
}

// encode returns JSON, or nil for nil, which is NULL to the server.
func encode(what string, v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return encoded, nil
}

// optional leaves out what is zero.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// The range of timestamptz, in seconds since 1970: from 4713 BC to the year 294276.
const minTime, maxTime = -210_866_803_200, 9_224_318_015_999

// optionalTime leaves out what is zero, and refuses what the server does not have: it would become another time on the
// way.
// The last year is what the refusal says: of what a timestamptz holds, the server may refuse more.
func optionalTime(name string, lastYear int, t time.Time) (*time.Time, error) {
	switch s := t.Unix(); { // times that are further away don't compare
	case t.IsZero():
		return nil, nil
	case s < minTime || s > maxTime:
		return nil, fmt.Errorf("%w: %s must be between 4713 BC and the year %d, and not %d s from 1970", ErrInvalidArgument,
			name, lastYear, s)
	}
	return &t, nil
}

// optionalInt leaves out zero. The server refuses a number that does not fit, as any one that is out of range.
func optionalInt(v int) *int32 {
	if v == 0 {
		return nil
	}
	return new(clampInt(v))
}

func clampInt(v int) int32 { return int32(min(max(v, math.MinInt32), math.MaxInt32)) }

// CompleteTx completes an attempt inside the caller's transaction: the job is completed if and when that commits, so
// that the job's effects in the same database happen once. The output is stored as JSON; nil for none. It fails with
// [ErrStaleReceipt] when the attempt is no longer the caller's: roll back then.
//
// A handler calls [Job.CompleteTx] instead, so that its worker knows.
func (c *Client) CompleteTx(ctx context.Context, tx DBTX, jobID, receipt int64, output any) error {
	return completeTx(ctx, tx, jobID, receipt, output)
}

func completeTx(ctx context.Context, tx DBTX, jobID, receipt int64, output any) error {
	encoded, err := encode("output", output)
	if err != nil {
		return fmt.Errorf("complete job %d: %w", jobID, err)
	}
	if err := queries.Complete(ctx, utf8DB{tx},
		gen.CompleteParams{JobID: jobID, Receipt: receipt, Output: encoded}); err != nil {
		return fmt.Errorf("complete job %d: %w", jobID, mapError(err))
	}
	return nil
}
