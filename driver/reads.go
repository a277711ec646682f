package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/rawjson"
)

// JobInfo describes a job.
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
	DeadlineAt  *time.Time // when the attempt that runs has to end; nil for none
	AttemptedAt *time.Time // when the last attempt began
	FinalizedAt *time.Time // when the job ended
	CreatedAt   time.Time
	Errors      []AttemptError // oldest first
	Metadata    json.RawMessage
	Tags        []string
	UniqueKey   *string         // as the server keeps it; nil for a job that is not unique
	Receipt     *int64          // of the attempt that runs, or was the last
	Progress    json.RawMessage // what [Job.SetProgress] said last; nil for none, and when the job has completed
	Output      json.RawMessage // what [RawJob.SetOutput] was given; nil for none
	WorkerID    *int64          // of the attempt that runs, or was the last; nil for none
	GroupKey    string          // "" for a job without a group
	ExpiresAt   *time.Time      // by when the first attempt has to begin; nil for never
}

// AttemptError is how one attempt failed, or why the job was cancelled.
type AttemptError struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	By      string    `json:"by"` // the role that cancelled the job; "" for a failure, and for a job that expired

	// Of more than 40 errors the first and the last 20 are kept. An AttemptError between them stands for the others: it
	// has nothing but their number.
	Omitted int `json:"omitted"`
}

// Job describes one job. It fails with [ErrNoSuchJob] when there is none of that id, or no more.
func (c *Client) Job(ctx context.Context, id int64) (JobInfo, error) {
	row, err := queries.Job(ctx, rawjson.DB(ownTx{c.pool}), id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoSuchJob
	}
	if err != nil {
		return JobInfo{}, fmt.Errorf("job %d: %w", id, mapError(err))
	}
	return newJobInfo(row), nil
}

func newJobInfo(row gen.AwaJob) JobInfo {
	job := JobInfo{
		ID: row.ID, Kind: row.Kind, Queue: row.Queue, Args: row.Args, State: row.State,
		Priority: int(row.Priority), Attempt: int(row.Attempt), MaxAttempts: int(row.MaxAttempts),
		RunAt: row.RunAt, DeadlineAt: row.DeadlineAt, AttemptedAt: row.AttemptedAt, FinalizedAt: row.FinalizedAt,
		CreatedAt: row.CreatedAt, Metadata: row.Metadata, Tags: row.Tags, UniqueKey: row.UniqueKey, Receipt: row.Receipt,
		Progress: row.Progress, Output: row.Output, WorkerID: row.WorkerID, GroupKey: value(row.GroupKey),
		ExpiresAt: row.ExpiresAt,
	}
	// what a client put into their details may be nested too deep
	if err := json.Unmarshal(row.Errors, &job.Errors); err != nil {
		job.Errors = []AttemptError{{Attempt: job.Attempt, Error: "the errors can't be decoded: " + err.Error()}}
	}
	return job
}

// ListFilter says which jobs [Client.ListJobs] lists: those to which all that is set applies.
type ListFilter struct {
	Queue    string
	Kind     string
	State    string // as [JobInfo] names it
	BeforeID int64  // jobs with lower ids: for the next page, the id of the last job of the page before
	MaxJobs  int    // 1 to 10,000; 100 by default
	Tag      string // one of the job's tags
	Contains any    // what the arguments contain, as JSON; nil for any
	GroupKey string // of the group that they belong to
	Cause    string // as in [JobFilter]
}

// ListJobs lists jobs in the descending order of their ids: a page. With a Tag, a GroupKey, or with Contains, it reads
// 100,000 jobs at most, with a Cause 20,000, so that a page may be short though there are more: [Client.ScanJobs] goes
// through all of them. A page of more than 64 MiB of text is short, too, but has a job: without these four an empty
// page is the last one.
func (c *Client) ListJobs(ctx context.Context, filter ListFilter) ([]JobInfo, error) {
	args, err := encode("Contains", filter.Contains)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	rows, err := queries.ListJobs(ctx, rawjson.DB(ownTx{c.pool}), gen.ListJobsParams{
		Queue: optional(filter.Queue), Kind: optional(filter.Kind), State: optional(filter.State),
		BeforeID: optional(filter.BeforeID),
		MaxJobs:  optionalInt(filter.MaxJobs), Tag: optional(filter.Tag), Args: args,
		GroupKey: optional(filter.GroupKey), Cause: optional(filter.Cause),
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", mapError(err))
	}
	jobs := make([]JobInfo, len(rows))
	for i, row := range rows {
		jobs[i] = newJobInfo(row)
	}
	return jobs, nil
}

// ScanJobs returns the ids of the jobs that a filter matches, the newest first, from 100,000 jobs at most, with a Cause
// from 20,000; and where to go on: the beforeID of the next call, 0 at the end. The first call's is 0, too. The filter
// may be empty, and MaxJobs has no meaning.
func (c *Client) ScanJobs(
	ctx context.Context, filter JobFilter, beforeID int64,
) (ids []int64, nextBeforeID int64, err error) {
	encoded, err := filter.encode()
	if err != nil {
		return nil, 0, fmt.Errorf("scan jobs: %w", err)
	}
	page, err := queries.ScanJobs(ctx, ownTx{c.pool}, gen.ScanJobsParams{Filter: encoded, BeforeID: optional(beforeID)})
	if err != nil {
		return nil, 0, fmt.Errorf("scan jobs: %w", mapError(err))
	}
	return page.JobIds, value(page.NextBeforeID), nil
}

// encode returns the filter as JSON, without what is not set.
func (f JobFilter) encode() (json.RawMessage, error) {
	params, err := f.params()
	if err != nil {
		return nil, err
	}
	return encode("filter", struct {
		Queue  *string         `json:"queue,omitempty"`
		Kind   *string         `json:"kind,omitempty"`
		State  *string         `json:"state,omitempty"`
		Before *time.Time      `json:"before,omitempty"`
		Tag    *string         `json:"tag,omitempty"`
		Args   json.RawMessage `json:"args,omitempty"`
		Group  *string         `json:"group_key,omitempty"`
		Cause  *string         `json:"cause,omitempty"`
	}{params.Queue, params.Kind, params.State, params.Before, params.Tag, params.Args, params.GroupKey, params.Cause})
}

// ExplainJob says in words why a job is not running now, or what became of it. It fails with [ErrNoSuchJob] when there
// is none of that id, or no more.
func (c *Client) ExplainJob(ctx context.Context, id int64) (string, error) {
	says, err := queries.ExplainJob(ctx, ownTx{c.pool}, id)
	if err != nil {
		return "", fmt.Errorf("explain job %d: %w", id, mapError(err))
	}
	return says, nil
}

// NextReadyAt returns when the next deferred job, or the next tick of a schedule, of these queues, or of all, is due: a
// time that has passed when it waits for maintenance; the zero time when there is none.
func (c *Client) NextReadyAt(ctx context.Context, queues ...string) (time.Time, error) {
	at, err := queries.NextReadyAt(ctx, utf8DB{c.pool}, queues)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("next ready at: %w", mapError(err))
	}
	return at, nil
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
	Limited         int64      // how many of the available wait for a limit of their groups, or of the queue
}

// QueueCounts counts the jobs of a queue by state. It fails with [ErrNoSuchQueue] when there is none.
func (c *Client) QueueCounts(ctx context.Context, queue string) (QueueCounts, error) {
	counts, err := queries.QueueCounts(ctx, ownTx{c.pool}, &queue)
	if err == nil && len(counts) == 0 {
		err = ErrNoSuchQueue
	}
	if err != nil {
		return QueueCounts{}, fmt.Errorf("counts of queue %q: %w", queue, mapError(err))
	}
	return QueueCounts(counts[0]), nil
}

// AllQueueCounts counts the jobs of all queues by state, in the order of their names.
func (c *Client) AllQueueCounts(ctx context.Context) ([]QueueCounts, error) {
	rows, err := queries.QueueCounts(ctx, ownTx{c.pool}, nil)
	if err != nil {
		return nil, fmt.Errorf("counts of all queues: %w", mapError(err))
	}
	counts := make([]QueueCounts, len(rows))
	for i, row := range rows {
		counts[i] = QueueCounts(row)
	}
	return counts, nil
}

// QueueInfo describes a queue: the settings that hold, its own or the defaults, how many work on it, and its
// counts. A month of a setting counts as 30 days here.
type QueueInfo struct {
	Queue              string
	DefaultPriority    int            // of a job that names none: 1 (first) to 4 (last)
	DefaultMaxAttempts int            // of a job that names none: 1 to 1,000
	Lease              time.Duration  // of a claim that names none: 1 ms to a year
	Deadline           *time.Duration // how long an attempt may take: 1 ms to a year; nil for no end
	BackoffBase        time.Duration  // the n-th retry waits 2^n times this: 1 ms to a year
	BackoffMax         time.Duration  // no retry waits longer: 1 ms to a year
	DeadLetter         bool           // whether jobs that fail for good become dead letters
	AgingInterval      time.Duration  // for each that a job has waited, its priority counts as one higher: 1 ms to a year
	FailedRetention    time.Duration  // how long failed and cancelled jobs are kept, at least: 1 ms to 100 years
	DLQRetention       time.Duration  // how long dead letters are kept, at least: 1 ms to 100 years
	CompletedRetention time.Duration  // how long completed jobs are shown: up to that of the installation
	Shards             int            // in how many shards new jobs are spread: 1 to 64
	MaxDepth           *int           // how many jobs may be ready before new ones are refused; nil for any number
	GroupMaxRunning    *int           // how many jobs of a group run at once, at most; nil for any number
	GroupRate          *Rate          // how often jobs of a group begin; nil for any rate
	GroupOrder         string         // when the next job of a group begins: [OrderStart], [OrderStrict] or [OrderHalt]
	GroupTurns         bool           // whether groups are served by turns
	MaxRunning         *int           // how many jobs of the queue run at once, at most; nil for any number
	Rate               *Rate          // how often jobs begin; nil for any rate
	PausedAt           *time.Time     // since when nothing is claimed from it; nil when it is not paused
	ChangedAt          *time.Time     // when its settings were changed last, or it was paused or resumed; nil for never
	ChangedBy          string         // the login that did; "" for none
	Workers            int            // those that work on it, and sent a heartbeat within [Configuration.WarnSilence]
	Counts             QueueCounts
}

// ListQueues lists all queues in the order of their names. It costs little more than [Client.AllQueueCounts].
func (c *Client) ListQueues(ctx context.Context) ([]QueueInfo, error) {
	rows, err := queries.ListQueues(ctx, ownTx{c.pool})
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", mapError(err))
	}
	queues := make([]QueueInfo, len(rows))
	for i, row := range rows {
		queues[i] = QueueInfo{
			Queue: row.Queue, DefaultPriority: int(row.DefaultPriority), DefaultMaxAttempts: int(row.DefaultMaxAttempts),
			Lease: row.Lease, Deadline: row.Deadline, BackoffBase: row.BackoffBase, BackoffMax: row.BackoffMax,
			DeadLetter: row.DeadLetter, AgingInterval: row.AgingInterval, FailedRetention: row.FailedRetention,
			DLQRetention: row.DlqRetention, CompletedRetention: row.CompletedRetention, Shards: int(row.Shards),
			MaxDepth: intOf(row.MaxDepth), GroupMaxRunning: intOf(row.GroupMaxRunning),
			MaxRunning: intOf(row.MaxRunning), GroupOrder: value(row.GroupOrder),
			GroupTurns: value(row.GroupTurns), PausedAt: row.PausedAt,
			ChangedAt: row.ChangedAt, ChangedBy: value(row.ChangedBy), Workers: int(row.Workers),
			Counts: QueueCounts{
				Queue: row.Queue, Available: row.Available, Scheduled: row.Scheduled, Retryable: row.Retryable,
				Running: row.Running, WaitingExternal: row.WaitingExternal, Completed: row.Completed, Failed: row.Failed,
				Cancelled: row.Cancelled,
				Dead:      row.Dead, OldestReadyAt: row.OldestReadyAt, Limited: row.Limited,
			},
		}
		for rate, of := range map[*json.RawMessage]**Rate{
			&row.Rate: &queues[i].Rate, &row.GroupRate: &queues[i].GroupRate,
		} {
			if *rate != nil {
				if err := json.Unmarshal(*rate, of); err != nil {
					return nil, fmt.Errorf("list queues: rate of queue %q: %w", row.Queue, err)
				}
			}
		}
	}
	return queues, nil
}

// WorkerInfo describes a worker process that is registered.
type WorkerInfo struct {
	ID           int64
	Name         string
	Queues       []string        // those that it works on; nil for all
	Info         json.RawMessage // what it said of itself; nil for nothing
	StartedAt    time.Time
	HeartbeatAt  time.Time // its last heartbeat
	Overdue      bool      // whether that is longer ago than [Configuration.WarnSilence]
	OpenAttempts int       // attempts that it has claimed and not answered
	RegisteredBy string    // the login that registered it
}

// ListWorkers lists the registered workers in the order of their ids.
func (c *Client) ListWorkers(ctx context.Context) ([]WorkerInfo, error) {
	rows, err := queries.ListWorkers(ctx, ownTx{c.pool})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", mapError(err))
	}
	workers := make([]WorkerInfo, len(rows))
	for i, row := range rows {
		workers[i] = WorkerInfo{
			ID: row.WorkerID, Name: row.Name, Queues: row.Queues, Info: row.Info,
			StartedAt: row.StartedAt, HeartbeatAt: row.HeartbeatAt, Overdue: row.Overdue, OpenAttempts: int(row.OpenAttempts),
			RegisteredBy: row.RegisteredBy,
		}
	}
	return workers, nil
}

// Configuration has the settings of the installation: [Client.Configure] changes them. A month of a setting
// counts as 30 days here. The function awa.configuration returns the defaults and the ranges, too.
type Configuration struct {
	ClaimWait          time.Duration // how long a call waits for another's lock: 1 ms to an hour; 5 s by default
	ClaimBytes         int           // bytes of a claim's result, estimated: 1 to 1,000,000,000; 184,320 by default
	SegmentBytes       int64         // bytes of entries at which the current segment is left: 1 or more; 1 GiB by default
	SegmentAge         time.Duration // age at which the current segment is left: 1 µs to 100 years; 8 hours by default
	CompletedRetention time.Duration // how long completed jobs are kept, at least: 0 to 100 years; 24 hours by default
	CarryMax           int           // jobs carried out of a segment, at most: 0 to 10,000,000; 100,000 by default
	PruneWait          time.Duration // how long a truncation waits at the first try: 1 to 500 ms; 20 ms by default
	Notifications      bool          // whether workers are notified; true by default

	// When [Client.Health] warns.
	WarnReadyAge       time.Duration // a queue's first job is ready for so long: 1 ms to 100 years; 5 minutes by default
	WarnFailedShare    float64       // more than this share of a queue's jobs failed of late: 0 to 1; 0.25 by default
	WarnSilence        time.Duration // no maintenance or heartbeat for so long: 1 ms to 100 years; 1 minute by default
	WarnGroupAge       time.Duration // jobs of a group wait for one of it: 1 ms to 100 years; 15 minutes by default
	WarnTransactionAge time.Duration // a transaction keeps old rows for so long: 1 ms to 100 years; 1 hour by default
}

// Configuration returns the settings of the installation.
func (c *Client) Configuration(ctx context.Context) (Configuration, error) {
	rows, err := queries.Configuration(ctx, ownTx{c.pool})
	if err != nil {
		return Configuration{}, fmt.Errorf("configuration: %w", mapError(err))
	}
	var configuration Configuration
	fields := map[string]any{
		"claim_wait":           &configuration.ClaimWait,
		"claim_bytes":          &configuration.ClaimBytes,
		"segment_bytes":        &configuration.SegmentBytes,
		"segment_age":          &configuration.SegmentAge,
		"completed_retention":  &configuration.CompletedRetention,
		"carry_max":            &configuration.CarryMax,
		"prune_wait":           &configuration.PruneWait,
		"notifications":        &configuration.Notifications,
		"warn_ready_age":       &configuration.WarnReadyAge,
		"warn_failed_share":    &configuration.WarnFailedShare,
		"warn_silence":         &configuration.WarnSilence,
		"warn_transaction_age": &configuration.WarnTransactionAge,
		"warn_group_age":       &configuration.WarnGroupAge,
	}
	for _, row := range rows {
		if field, ok := fields[row.Name]; ok { // a newer version may have others
			if err := decodeSetting(row.Value, field); err != nil {
				return Configuration{}, fmt.Errorf("configuration: %s: %w", row.Name, err)
			}
		}
	}
	return configuration, nil
}

// decodeSetting reads the value of a setting into the variable that field points to.
func decodeSetting(encoded json.RawMessage, field any) (err error) {
	if duration, ok := field.(*time.Duration); ok {
		*duration, err = decodeDuration(encoded)
		return err
	}
	return json.Unmarshal(encoded, field)
}

// decodeDuration reads a time as the server writes it: as a text, or a number of seconds.
func decodeDuration(encoded json.RawMessage) (time.Duration, error) {
	var value any
	if err := json.Unmarshal(encoded, &value); err != nil {
		return 0, err
	}
	switch value := value.(type) {
	case float64:
		return time.Duration(math.Round(value*1e6)) * time.Microsecond, nil
	case string:
		var interval pgtype.Interval
		if err := interval.Scan(value); err != nil {
			return 0, err
		}
		days := time.Duration(interval.Months)*30 + time.Duration(interval.Days)
		return days*24*time.Hour + time.Duration(interval.Microseconds)*time.Microsecond, nil
	}
	return 0, fmt.Errorf("%s is neither a number of seconds nor a text", encoded)
}

// HealthFinding is one thing that [Client.Health] has looked at.
type HealthFinding struct {
	Level   string          // ok, warning or critical
	Topic   string          // such as maintenance, queue or worker: see the reference
	Subject string          // which of them
	Message string          // what was found, in words
	Hint    string          // what to do; "" when there is nothing to do
	Details json.RawMessage // the same as numbers: seconds, bytes, process ids
}

// Health describes the condition of the installation, the most urgent first.
func (c *Client) Health(ctx context.Context) ([]HealthFinding, error) {
	rows, err := queries.Health(ctx, ownTx{c.pool})
	if err != nil {
		return nil, fmt.Errorf("health: %w", mapError(err))
	}
	findings := make([]HealthFinding, len(rows))
	for i, row := range rows {
		findings[i] = HealthFinding{Level: row.Level, Topic: row.Topic, Subject: row.Subject, Message: row.Message,
			Hint: value(row.Hint), Details: row.Details}
	}
	return findings, nil
}

// AuditFinding says whether the books of a queue balance, and what they say. Findings that belong to no queue are in
// one without a Queue, which has a Problem and no numbers.
type AuditFinding struct {
	Queue           string
	Enqueued        int64
	Available       int64
	Scheduled       int64
	Retryable       int64
	Running         int64
	WaitingExternal int64
	Completed       int64
	Failed          int64
	Cancelled       int64
	Dead            int64
	Balanced        bool
	Problem         string // what is wrong, in words; "" when the books balance
}

// Audit checks that no job is missing: one finding for each queue. It reads all that is kept, so it takes seconds for
// millions of jobs.
func (c *Client) Audit(ctx context.Context) ([]AuditFinding, error) {
	rows, err := queries.Audit(ctx, ownTx{c.pool})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", mapError(err))
	}
	findings := make([]AuditFinding, len(rows))
	for i, row := range rows {
		findings[i] = AuditFinding{
			Queue: value(row.Queue), Enqueued: value(row.Enqueued), Available: value(row.Available),
			Scheduled: value(row.Scheduled),
			Retryable: value(row.Retryable), Running: value(row.Running), WaitingExternal: value(row.WaitingExternal),
			Completed: value(row.Completed), Failed: value(row.Failed), Cancelled: value(row.Cancelled), Dead: value(row.Dead),
			Balanced: row.Balanced, Problem: value(row.Problem),
		}
	}
	return findings, nil
}

// value is what is pointed to, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// intOf returns the number that p points to as an int; nil for none.
func intOf(p *int32) *int {
	if p == nil {
		return nil
	}
	v := int(*p)
	return &v
}
