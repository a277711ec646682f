package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// JobFilter says which jobs a call is about: those to which all that is set applies. At least one of Queue, Kind,
// State, Before, Tag, GroupKey, Contains and Cause has to be.
//
// Nothing indexes tags, arguments, groups and causes. With a filter by these, one call looks at 100,000 jobs of a state
// at most, by Cause at 20,000: use [Client.ScanJobs] to find the rest.
type JobFilter struct {
	Queue    string
	Kind     string
	State    string    // one that allows the change, as [JobInfo] names it
	Before   time.Time // enqueued before this time or, for jobs that have ended, ended before it; the zero time for any
	MaxJobs  int       // 1 to 10,000; 1,000 by default
	Tag      string    // one of the job's tags
	GroupKey string    // of the group that they belong to
	Cause    string    // of their last errors, as [Client.FailureCauses] names it; or an error that has this cause

	// Contains is a part of the arguments, as JSON: of an object, some of its fields. Nil for any.
	Contains any
}

// Cancel cancels a job that has not ended, in a transaction of its own, and returns the state that it was in. A running
// job is taken from its worker: the handler's context ends at once, and its answer is stale. The reason is kept with
// the job; "" for none.
//
// It fails with [ErrNoSuchJob]; with [ErrWrongState] when the job has ended; with [ErrMovedOn]; and with [ErrLocked]
// when a transaction that lasts is answering for the job.
func (c *Client) Cancel(ctx context.Context, id int64, reason string) (state string, err error) {
	return c.CancelTx(ctx, ownTx{c.pool}, id, reason)
}

// CancelTx is [Client.Cancel] inside the caller's transaction: the job is cancelled if and when that commits. When a
// job that waited was claimed meanwhile, that is decided at the commit, which then may fail with an error that
// [MapError] maps to [ErrMovedOn]. It fails with [ErrIsolation] at any isolation level but READ COMMITTED.
func (c *Client) CancelTx(ctx context.Context, tx DBTX, id int64, reason string) (state string, err error) {
	state, err = queries.Cancel(ctx, utf8DB{tx}, gen.CancelParams{JobID: id, Reason: optional(reason)})
	return state, changeError("cancel", id, err)
}

// DiscardJob makes a job that has not ended a dead letter, whatever its queue keeps, in a transaction of its own, and
// returns the state that it was in. A running job is taken from its worker, and it fails, as [Client.Cancel] does.
func (c *Client) DiscardJob(ctx context.Context, id int64, reason string) (state string, err error) {
	return c.DiscardJobTx(ctx, ownTx{c.pool}, id, reason)
}

// DiscardJobTx is [Client.DiscardJob] inside the caller's transaction, as [Client.CancelTx] is.
func (c *Client) DiscardJobTx(ctx context.Context, tx DBTX, id int64, reason string) (state string, err error) {
	state, err = queries.DiscardJob(ctx, utf8DB{tx}, gen.DiscardJobParams{JobID: id, Reason: optional(reason)})
	return state, changeError("discard", id, err)
}

// RetryOptions say where and when a job runs again. The zero value of each field leaves it as it is.
type RetryOptions struct {
	Queue    string    // 1 to 200 characters; the queue exists from then on
	Priority int       // 1 (first) to 4 (last)
	RunAt    time.Time // not before this time, which is before 9999-12-31 10:00 UTC; the zero value means now
}

// Retry lets a job run again, in a transaction of its own, and returns the state that it was in: one that failed, is
// dead or was cancelled, with its attempts counted anew; or one that is scheduled or retryable, ahead of its time.
//
// It fails as [Client.Cancel] does, with [ErrWrongState] when the job is available, runs or has completed; and with
// [ErrUniqueKeyHeld].
func (c *Client) Retry(ctx context.Context, id int64, opts RetryOptions) (state string, err error) {
	return c.RetryTx(ctx, ownTx{c.pool}, id, opts)
}

// RetryTx is [Client.Retry] inside the caller's transaction: the job may run when that commits.
func (c *Client) RetryTx(ctx context.Context, tx DBTX, id int64, opts RetryOptions) (state string, err error) {
	runAt, err := optionalTime("RunAt", 9999, opts.RunAt)
	if err != nil {
		return "", fmt.Errorf("retry job %d: %w", id, err)
	}
	state, err = queries.Retry(ctx, utf8DB{tx}, gen.RetryParams{
		JobID: id, Queue: optional(opts.Queue), Priority: optionalInt(opts.Priority), RunAt: runAt,
	})
	return state, changeError("retry", id, err)
}

// SetPriority gives a job that waits another priority, 1 (first) to 4 (last), in a transaction of its own, and returns
// the state that it was in. The job goes to the end of those that have that priority.
//
// It fails as [Client.Cancel] does, with [ErrWrongState] when the job runs or has ended.
func (c *Client) SetPriority(ctx context.Context, id int64, priority int) (state string, err error) {
	return c.SetPriorityTx(ctx, ownTx{c.pool}, id, priority)
}

// SetPriorityTx is [Client.SetPriority] inside the caller's transaction: see [Client.CancelTx].
func (c *Client) SetPriorityTx(ctx context.Context, tx DBTX, id int64, priority int) (state string, err error) {
	state, err = queries.SetPriority(ctx, utf8DB{tx}, gen.SetPriorityParams{JobID: id, Priority: clampInt(priority)})
	return state, changeError("set priority of", id, err)
}

// Move moves a job that waits to the end of another queue, in a transaction of its own, and returns the state that it
// was in. The queue, 1 to 200 characters, exists from then on.
//
// It fails as [Client.SetPriority] does.
func (c *Client) Move(ctx context.Context, id int64, queue string) (state string, err error) {
	return c.MoveTx(ctx, ownTx{c.pool}, id, queue)
}

// MoveTx is [Client.Move] inside the caller's transaction: see [Client.CancelTx].
func (c *Client) MoveTx(ctx context.Context, tx DBTX, id int64, queue string) (state string, err error) {
	state, err = queries.Move(ctx, utf8DB{tx}, gen.MoveParams{JobID: id, Queue: queue})
	return state, changeError("move", id, err)
}

// Reschedule gives a job that has not begun another time, and other arguments unless args is nil, in a transaction of
// its own. It returns the state that the job was in. A job has begun when an attempt of it counts. A time that has
// passed means now, as the zero time does. The arguments are stored as JSON; the job keeps its kind.
//
// It fails as [Client.Cancel] does, with [ErrWrongState] when the job has begun or ended; and with [ErrInvalidArgument]
// for arguments of a job whose unique key is made of them.
func (c *Client) Reschedule(ctx context.Context, id int64, runAt time.Time, args any) (state string, err error) {
	return c.RescheduleTx(ctx, ownTx{c.pool}, id, runAt, args)
}

// RescheduleTx is [Client.Reschedule] inside the caller's transaction: see [Client.CancelTx].
func (c *Client) RescheduleTx(ctx context.Context, tx DBTX, id int64, runAt time.Time, args any) (state string,
	err error) {
	encoded, err := encode("args", args)
	if err != nil {
		return "", fmt.Errorf("reschedule job %d: %w", id, err)
	}
	if _, err = optionalTime("runAt", 9999, runAt); err != nil {
		return "", fmt.Errorf("reschedule job %d: %w", id, err)
	}
	state, err = queries.Reschedule(ctx, utf8DB{tx}, gen.RescheduleParams{JobID: id, RunAt: runAt, Args: encoded})
	return state, changeError("reschedule", id, err)
}

func changeError(what string, id int64, err error) error {
	if err != nil {
		return fmt.Errorf("%s job %d: %w", what, id, mapError(err))
	}
	return nil
}

// CancelWhere cancels jobs that have not ended, in a transaction of its own, all of them or, on an error, none. It
// returns how many. Deferred jobs that another session is changing are left alone. A filter that filters nothing fails
// with [ErrInvalidArgument]; otherwise it fails as [Client.Cancel] does.
func (c *Client) CancelWhere(ctx context.Context, filter JobFilter) (int64, error) {
	return c.CancelWhereTx(ctx, ownTx{c.pool}, filter)
}

// CancelWhereTx is [Client.CancelWhere] inside the caller's transaction: see [Client.CancelTx].
func (c *Client) CancelWhereTx(ctx context.Context, tx DBTX, filter JobFilter) (int64, error) {
	params, err := filter.params()
	if err != nil {
		return 0, fmt.Errorf("cancel jobs: %w", err)
	}
	n, err := queries.CancelWhere(ctx, utf8DB{tx}, gen.CancelWhereParams(params))
	if err != nil {
		return 0, fmt.Errorf("cancel jobs: %w", mapError(err))
	}
	return n, nil
}

// RetryWhere lets jobs run now as [Client.Retry] does, those with the lowest ids first, in a transaction of its own. It
// returns how many. Without a State they are those that failed, are dead or were cancelled. Jobs whose unique key
// another one holds, and those that another session is changing, are left alone. A filter that filters nothing fails
// with [ErrInvalidArgument].
func (c *Client) RetryWhere(ctx context.Context, filter JobFilter) (int64, error) {
	return c.RetryWhereTx(ctx, ownTx{c.pool}, filter)
}

// RetryWhereTx is [Client.RetryWhere] inside the caller's transaction: the jobs may run when that commits.
func (c *Client) RetryWhereTx(ctx context.Context, tx DBTX, filter JobFilter) (int64, error) {
	params, err := filter.params()
	if err != nil {
		return 0, fmt.Errorf("retry jobs: %w", err)
	}
	n, err := queries.RetryWhere(ctx, utf8DB{tx}, gen.RetryWhereParams(params))
	if err != nil {
		return 0, fmt.Errorf("retry jobs: %w", mapError(err))
	}
	return n, nil
}

// PurgeDLQ removes dead letters for good, in a transaction of its own, and returns how many. Those that another session
// is changing are left alone. A filter that filters nothing fails with [ErrInvalidArgument]: the State "dead" stands
// for all.
func (c *Client) PurgeDLQ(ctx context.Context, filter JobFilter) (int64, error) {
	return c.PurgeDLQTx(ctx, ownTx{c.pool}, filter)
}

// PurgeDLQTx is [Client.PurgeDLQ] inside the caller's transaction.
func (c *Client) PurgeDLQTx(ctx context.Context, tx DBTX, filter JobFilter) (int64, error) {
	params, err := filter.params()
	if err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", err)
	}
	n, err := queries.PurgeDLQ(ctx, utf8DB{tx}, gen.PurgeDLQParams(params))
	if err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", mapError(err))
	}
	return n, nil
}

// DeleteJob deletes a job that has ended, in a transaction of its own, and returns the state that it was in. From then
// on it is neither shown nor counted. Its rows in the log leave the disk later: see the reference of
// delete_job.
//
// It fails as [Client.Cancel] does, with [ErrWrongState] when the job has not ended.
func (c *Client) DeleteJob(ctx context.Context, id int64) (state string, err error) {
	return c.DeleteJobTx(ctx, ownTx{c.pool}, id)
}

// DeleteJobTx is [Client.DeleteJob] inside the caller's transaction.
func (c *Client) DeleteJobTx(ctx context.Context, tx DBTX, id int64) (state string, err error) {
	state, err = queries.DeleteJob(ctx, tx, id)
	return state, changeError("delete", id, err)
}

// DeleteWhere deletes jobs that have ended as [Client.DeleteJob] does, in a transaction of its own, and returns how
// many. A filter that filters nothing fails with [ErrInvalidArgument]. Of completed jobs it looks at the newest 100,000
// that are not deleted, whatever the filter is.
func (c *Client) DeleteWhere(ctx context.Context, filter JobFilter) (int64, error) {
	return c.DeleteWhereTx(ctx, ownTx{c.pool}, filter)
}

// DeleteWhereTx is [Client.DeleteWhere] inside the caller's transaction.
func (c *Client) DeleteWhereTx(ctx context.Context, tx DBTX, filter JobFilter) (int64, error) {
	params, err := filter.params()
	if err != nil {
		return 0, fmt.Errorf("delete jobs: %w", err)
	}
	n, err := queries.DeleteWhere(ctx, tx, gen.DeleteWhereParams(params))
	if err != nil {
		return 0, fmt.Errorf("delete jobs: %w", mapError(err))
	}
	return n, nil
}

// params leaves out what is not set.
func (f JobFilter) params() (gen.CancelWhereParams, error) {
	before, err := optionalTime("Before", 294276, f.Before)
	if err != nil {
		return gen.CancelWhereParams{}, err
	}
	args, err := encode("Contains", f.Contains)
	return gen.CancelWhereParams{
		Queue: optional(f.Queue), Kind: optional(f.Kind), State: optional(f.State), Before: before,
		MaxJobs: optionalInt(f.MaxJobs),
		Tag:     optional(f.Tag), Args: args, GroupKey: optional(f.GroupKey), Cause: optional(f.Cause),
	}, err
}

// QueueSettings are settings of a queue, as [Client.ConfigureQueue] changes them. One that is left out stays as it is,
// whoever set it; [Set] gives it a value, zero included, and [Default] takes it away:
//
//	driver.QueueSettings{MaxDepth: driver.Set(100_000), Deadline: driver.Default[time.Duration]()}
//
// The reference of configure_queue has their ranges and defaults.
type QueueSettings struct {
	DefaultPriority    Setting[int]           `json:"default_priority,omitzero"`     // of a job that names none
	DefaultMaxAttempts Setting[int]           `json:"default_max_attempts,omitzero"` // of a job that names none
	Lease              Setting[time.Duration] `json:"lease,omitzero"`                // of a claim that names none
	Deadline           Setting[time.Duration] `json:"deadline,omitzero"`             // how long an attempt may take
	BackoffBase        Setting[time.Duration] `json:"backoff_base,omitzero"`         // the n-th retry waits 2^n times this
	BackoffMax         Setting[time.Duration] `json:"backoff_max,omitzero"`          // no retry waits longer
	DeadLetter         Setting[bool]          `json:"dead_letter,omitzero"`          // keep what fails for good as dead
	AgingInterval      Setting[time.Duration] `json:"aging_interval,omitzero"`       // see [QueueInfo]
	Shards             Setting[int]           `json:"shards,omitzero"`               // in how many new jobs are spread
	MaxDepth           Setting[int]           `json:"max_depth,omitzero"`            // refuse new jobs when more are ready
	FailedRetention    Setting[time.Duration] `json:"failed_retention,omitzero"`     // of failed and cancelled jobs
	DLQRetention       Setting[time.Duration] `json:"dlq_retention,omitzero"`        // of dead letters
	CompletedRetention Setting[time.Duration] `json:"completed_retention,omitzero"`  // of completed jobs, as shown
	GroupMaxRunning    Setting[int]           `json:"group_max_running,omitzero"`    // of a group at once
	GroupRate          Setting[Rate]          `json:"group_rate,omitzero"`           // how often jobs of a group begin
	MaxRunning         Setting[int]           `json:"max_running,omitzero"`          // of the queue at once
	Rate               Setting[Rate]          `json:"rate,omitzero"`                 // how often jobs begin
	GroupOrder         Setting[string]        `json:"group_order,omitzero"`          // of a group: [OrderStart] and others
	GroupTurns         Setting[bool]          `json:"group_turns,omitzero"`          // groups are served by turns
}

// A Rate lets Jobs begin in each Per, evenly; and up to Burst at once, where fewer have begun before. In any stretch of
// time as long as Per, at most Jobs + Burst begin.
type Rate struct {
	Jobs  int
	Per   time.Duration
	Burst int // 0 for a twentieth of Jobs, at least 1
}

// MarshalJSON returns the rate as the server takes it.
func (r Rate) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Jobs  int     `json:"jobs"`
		Per   float64 `json:"per"`
		Burst int     `json:"burst,omitzero"`
	}{r.Jobs, r.Per.Seconds(), r.Burst})
}

// UnmarshalJSON reads the rate as MarshalJSON writes it, or as the server does.
func (r *Rate) UnmarshalJSON(encoded []byte) error {
	var rate struct {
		Jobs  int             `json:"jobs"`
		Per   json.RawMessage `json:"per"`
		Burst int             `json:"burst"`
	}
	if err := json.Unmarshal(encoded, &rate); err != nil {
		return err
	}
	per, err := decodeDuration(rate.Per)
	if err != nil {
		return fmt.Errorf("per: %w", err)
	}
	*r = Rate{rate.Jobs, per, rate.Burst}
	return nil
}

// A Setting says what becomes of a setting: it stays as it is, as the zero value says; it gets a value, by [Set]; or it
// is taken away, so that the default holds, by [Default].
type Setting[T any] struct {
	value   *T
	isNamed bool
}

// Set gives a setting a value.
func Set[T any](value T) Setting[T] { return Setting[T]{&value, true} }

// Default takes a setting away: the default holds, which of a limit is none.
func Default[T any]() Setting[T] { return Setting[T]{nil, true} }

// IsZero reports whether the setting stays as it is.
func (s Setting[T]) IsZero() bool { return !s.isNamed }

// MarshalJSON returns the value as the server takes it: null for the default, a time in seconds.
func (s Setting[T]) MarshalJSON() ([]byte, error) {
	if s.value == nil {
		return []byte("null"), nil
	}
	if d, ok := any(*s.value).(time.Duration); ok {
		return json.Marshal(d.Seconds())
	}
	return json.Marshal(*s.value)
}

// UnmarshalJSON reads the value as MarshalJSON writes it, or as the server does, which writes a time as a text such as
// "30 days" or "01:30:00". So what list_queues returns can be read into [QueueSettings], and what configuration returns
// into [Settings].
func (s *Setting[T]) UnmarshalJSON(encoded []byte) error {
	if string(encoded) == "null" {
		*s = Default[T]()
		return nil
	}
	var value T
	if err := decodeSetting(encoded, &value); err != nil {
		return err
	}
	*s = Set(value)
	return nil
}

// Value returns the value of a setting, and whether it has one: it has none where it stays as it is, or is taken away.
func (s Setting[T]) Value() (value T, ok bool) {
	if s.value == nil {
		return value, false
	}
	return *s.value, true
}

// ConfigureQueue changes settings of a queue, in a transaction of its own; those that are not named stay. It makes the
// queue if there is none, so that a deploy can configure it before the first job. It fails with [ErrInvalidArgument]
// for a value out of range, and changes nothing then.
//
// It also changes what an operator has set: so call it where a queue is set up, in a migration say, and not at each
// start of a program. A worker's start changes no settings.
func (c *Client) ConfigureQueue(ctx context.Context, queue string, settings QueueSettings) error {
	return c.ConfigureQueueTx(ctx, ownTx{c.pool}, queue, settings)
}

// ConfigureQueueTx is [Client.ConfigureQueue] inside the caller's transaction.
func (c *Client) ConfigureQueueTx(ctx context.Context, tx DBTX, queue string, settings QueueSettings) error {
	encoded, err := encode("settings", settings)
	if err == nil {
		err = mapError(queries.ConfigureQueue(ctx, utf8DB{tx}, gen.ConfigureQueueParams{Queue: queue, Settings: encoded}))
	}
	if err != nil {
		return fmt.Errorf("configure queue %q: %w", queue, err)
	}
	return nil
}

// Settings are settings of the installation, as [Client.Configure] changes them. One that is left out stays as it is;
// [Set] gives it a value, zero included, and [Default] brings the default back. [Configuration] says what they mean,
// with their ranges.
type Settings struct {
	ClaimWait          Setting[time.Duration] `json:"claim_wait,omitzero"`
	ClaimBytes         Setting[int]           `json:"claim_bytes,omitzero"`
	SegmentBytes       Setting[int64]         `json:"segment_bytes,omitzero"`
	SegmentAge         Setting[time.Duration] `json:"segment_age,omitzero"`
	CompletedRetention Setting[time.Duration] `json:"completed_retention,omitzero"`
	CarryMax           Setting[int]           `json:"carry_max,omitzero"`
	PruneWait          Setting[time.Duration] `json:"prune_wait,omitzero"`
	Notifications      Setting[bool]          `json:"notifications,omitzero"`
	WarnReadyAge       Setting[time.Duration] `json:"warn_ready_age,omitzero"`
	WarnFailedShare    Setting[float64]       `json:"warn_failed_share,omitzero"`
	WarnSilence        Setting[time.Duration] `json:"warn_silence,omitzero"`
	WarnTransactionAge Setting[time.Duration] `json:"warn_transaction_age,omitzero"`
	WarnGroupAge       Setting[time.Duration] `json:"warn_group_age,omitzero"`
}

// Configure changes settings of the installation, in a transaction of its own; those that are left out stay. It
// fails with [ErrInvalidArgument] for a value out of range, and changes nothing then.
func (c *Client) Configure(ctx context.Context, settings Settings) error {
	return c.ConfigureTx(ctx, ownTx{c.pool}, settings)
}

// ConfigureTx is [Client.Configure] inside the caller's transaction. Other changes of the settings wait until that
// ends.
func (c *Client) ConfigureTx(ctx context.Context, tx DBTX, settings Settings) error {
	encoded, err := encode("settings", settings)
	if err == nil {
		err = mapError(queries.Configure(ctx, utf8DB{tx}, encoded))
	}
	if err != nil {
		return fmt.Errorf("configure the installation: %w", err)
	}
	return nil
}

// PauseQueue stops claims from a queue, in a transaction of its own. Running jobs go on, and so does enqueue. It makes
// the queue if there is none.
func (c *Client) PauseQueue(ctx context.Context, queue string) error {
	return c.PauseQueueTx(ctx, ownTx{c.pool}, queue)
}

// PauseQueueTx is [Client.PauseQueue] inside the caller's transaction.
func (c *Client) PauseQueueTx(ctx context.Context, tx DBTX, queue string) error {
	if err := queries.PauseQueue(ctx, utf8DB{tx}, queue); err != nil {
		return fmt.Errorf("pause queue %q: %w", queue, mapError(err))
	}
	return nil
}

// ResumeQueue lets claims from a paused queue go on, in a transaction of its own. It fails with [ErrNoSuchQueue].
func (c *Client) ResumeQueue(ctx context.Context, queue string) error {
	return c.ResumeQueueTx(ctx, ownTx{c.pool}, queue)
}

// ResumeQueueTx is [Client.ResumeQueue] inside the caller's transaction.
func (c *Client) ResumeQueueTx(ctx context.Context, tx DBTX, queue string) error {
	if err := queries.ResumeQueue(ctx, utf8DB{tx}, queue); err != nil {
		return fmt.Errorf("resume queue %q: %w", queue, mapError(err))
	}
	return nil
}

// DrainQueue stops claims from a queue as [Client.PauseQueue] does, in a transaction of its own, and returns how many
// of its jobs run. None begins from then on, until [Client.ResumeQueue]: so once it has returned 0, nothing of the
// queue runs. Call it again until then, before a deploy, say. It fails with [ErrLocked] when a claim is left open, and
// with [ErrNoSuchQueue].
func (c *Client) DrainQueue(ctx context.Context, queue string) (running int64, err error) {
	return c.DrainQueueTx(ctx, ownTx{c.pool}, queue)
}

// DrainQueueTx is [Client.DrainQueue] inside the caller's transaction: claims of the queue wait until that ends.
func (c *Client) DrainQueueTx(ctx context.Context, tx DBTX, queue string) (running int64, err error) {
	running, err = queries.DrainQueue(ctx, utf8DB{tx}, queue)
	if err != nil {
		return 0, fmt.Errorf("drain queue %q: %w", queue, mapError(err))
	}
	return running, nil
}

// DropQueue removes a queue, its settings, and its jobs that wait, failed, were cancelled or are dead, in a transaction
// of its own. It fails with [ErrNoSuchQueue]; with [ErrWrongState] while the queue has jobs that have not ended, unless
// it is forced: then these go, too, and what runs is taken from its worker.
func (c *Client) DropQueue(ctx context.Context, queue string, force bool) error {
	return c.DropQueueTx(ctx, ownTx{c.pool}, queue, force)
}

// DropQueueTx is [Client.DropQueue] inside the caller's transaction. Commit soon: no worker can claim from the queue
// before. It fails with [ErrIsolation] at any isolation level but READ COMMITTED.
func (c *Client) DropQueueTx(ctx context.Context, tx DBTX, queue string, force bool) error {
	if err := queries.DropQueue(ctx, utf8DB{tx}, gen.DropQueueParams{Queue: queue, Force: force}); err != nil {
		return fmt.Errorf("drop queue %q: %w", queue, mapError(err))
	}
	return nil
}
