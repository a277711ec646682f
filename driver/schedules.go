package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/rawjson"
)

// Schedule says at which times a job is enqueued, and with which options. Name, Args, and one of Cron and Every have to
// be set; in each other field the zero value stands for the default. A program declares its schedules beside its
// handlers: see [Handlers.Schedule]. docs/schedules.md says what the choices mean.
type Schedule struct {
	Name string // what it is known by, in 1 to 200 characters
	// Cron is an expression of five fields, or of six with the seconds first, such as "30 9 * * MON-FRI".
	Cron string
	// Every is the distance of two times, from StartsAt on, or from when the schedule was first made. [Day], [Week], and
	// whole numbers of [Month] and [Year] are those of the calendar in Timezone; so 24 * time.Hour is a day of the
	// calendar, whose length varies where clocks are changed.
	Every    time.Duration
	Timezone string // by its IANA name, such as "Europe/Berlin"; UTC by default
	// Missed says what becomes of times at which maintenance was not run: "latest" (one job for all of them, the default),
	// "all" or "skip".
	Missed    string
	MissedFor time.Duration // how old a time may be that is made up for by "all": 1 s to 10 years; a day by default
	// Overlap says what becomes of a time while the last job has not ended: "allow" (the job is enqueued, the default),
	// "skip", "wait" or "replace".
	Overlap  string
	StartsAt time.Time // no time before this one, which should not change from start to start; by default from now on
	EndsAt   time.Time // no time from this one on; by default without an end

	Args        Args     // of the jobs; they also say the kind
	Queue       string   // 1 to 200 characters, "default" by default
	Priority    int      // 1 (first) to 4 (last); by default the queue's
	MaxAttempts int      // 1 to 1,000; by default the queue's
	Tags        []string // at most 20
	Metadata    any      // an object, stored as JSON, without the field schedule; nil for none
	GroupKey    string   // 1 to 200 characters; "" for no group
}

// scheduleJSON is a schedule as the server takes it.
type scheduleJSON struct {
	Name        string          `json:"name"`
	Queue       string          `json:"queue"`
	Kind        string          `json:"kind"`
	Cron        *string         `json:"cron,omitempty"`
	Every       *string         `json:"every,omitempty"`
	Args        json.RawMessage `json:"args"`
	Timezone    *string         `json:"timezone,omitempty"`
	Missed      *string         `json:"missed,omitempty"`
	MissedFor   *string         `json:"missed_for,omitempty"`
	Overlap     *string         `json:"overlap,omitempty"`
	StartsAt    *time.Time      `json:"starts_at,omitempty"`
	EndsAt      *time.Time      `json:"ends_at,omitempty"`
	Priority    *int32          `json:"priority,omitempty"`
	MaxAttempts *int32          `json:"max_attempts,omitempty"`
	Tags        []string        `json:"tags,omitempty"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
	GroupKey    *string         `json:"group_key,omitempty"`
}

// encode leaves out what is not set. An error names the field.
func (s Schedule) encode() (scheduleJSON, error) {
	if s.Args == nil {
		return scheduleJSON{}, fmt.Errorf("%w: Args must be given: they also say the kind", ErrInvalidArgument)
	}
	encoded := scheduleJSON{
		Name: s.Name, Queue: cmp.Or(s.Queue, DefaultQueue), Kind: s.Args.Kind(), Cron: optional(s.Cron),
		Every: interval(s.Every), Timezone: optional(s.Timezone), Missed: optional(s.Missed),
		MissedFor: interval(s.MissedFor), Overlap: optional(s.Overlap), Priority: optionalInt(s.Priority),
		MaxAttempts: optionalInt(s.MaxAttempts), Tags: s.Tags, GroupKey: optional(s.GroupKey),
	}
	var err error
	if encoded.Args, err = encodeArgs(s.Args); err != nil {
		return scheduleJSON{}, err
	}
	if encoded.Metadata, err = encode("metadata", s.Metadata); err != nil {
		return scheduleJSON{}, err
	}
	if encoded.StartsAt, err = scheduleTime("StartsAt", s.StartsAt); err != nil {
		return scheduleJSON{}, err
	}
	encoded.EndsAt, err = scheduleTime("EndsAt", s.EndsAt)
	return encoded, err
}

// scheduleTime leaves out what is zero, and refuses what JSON can't say.
func scheduleTime(name string, t time.Time) (*time.Time, error) {
	if t.IsZero() {
		return nil, nil
	}
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < 1 || t.Year() > 9999 {
		return nil, fmt.Errorf("%w: %s must be between the years 1 and 9999, and not in %d", ErrInvalidArgument, name,
			t.Year())
	}
	return &t, nil
}

// encodeSchedules returns schedules as [Client.SyncSchedules] sends them.
func encodeSchedules(schedules []Schedule) (json.RawMessage, error) {
	encoded := make([]scheduleJSON, len(schedules))
	for i, s := range schedules {
		var err error
		if encoded[i], err = s.encode(); err != nil {
			return nil, fmt.Errorf("schedule %q: %w", s.Name, err)
		}
	}
	return json.Marshal(encoded)
}

// Schedule makes a schedule, or changes the one of that name, in a transaction of its own. Only the future fires: one
// that is made, or whose Cron, Every, Timezone or StartsAt is changed, begins now. It needs the role awa_operator, and
// fails with [ErrInvalidArgument], also for a schedule that a program declares; and with [ErrLocked].
func (c *Client) Schedule(ctx context.Context, schedule Schedule) error {
	return c.ScheduleTx(ctx, ownTx{c.pool}, schedule)
}

// ScheduleTx is [Client.Schedule] inside the caller's transaction. Until that ends, the schedule does not fire.
func (c *Client) ScheduleTx(ctx context.Context, tx DBTX, schedule Schedule) error {
	s, err := schedule.encode()
	if err == nil {
		err = mapError(queries.Schedule(ctx, utf8DB{tx}, gen.ScheduleParams{
			Name: s.Name, Queue: s.Queue, Kind: s.Kind, Cron: s.Cron, Every: s.Every, Args: s.Args, Timezone: s.Timezone,
			Missed: s.Missed, MissedFor: s.MissedFor, Overlap: s.Overlap, StartsAt: s.StartsAt, EndsAt: s.EndsAt,
			Priority: s.Priority, MaxAttempts: s.MaxAttempts, Tags: s.Tags, Metadata: s.Metadata, GroupKey: s.GroupKey,
		}))
	}
	return scheduleError("make", schedule.Name, err)
}

func scheduleError(what, name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s schedule %q: %w", what, name, mapError(err))
	}
	return nil
}

// Unschedule removes a schedule, in a transaction of its own. Its jobs stay. It fails with [ErrNoSuchSchedule], and
// with [ErrLocked].
func (c *Client) Unschedule(ctx context.Context, name string) error {
	return c.UnscheduleTx(ctx, ownTx{c.pool}, name)
}

// UnscheduleTx is [Client.Unschedule] inside the caller's transaction.
func (c *Client) UnscheduleTx(ctx context.Context, tx DBTX, name string) error {
	return scheduleError("remove", name, queries.Unschedule(ctx, utf8DB{tx}, name))
}

// PauseSchedule keeps a schedule from firing until it is resumed, in a transaction of its own. Ticks that fall into the
// pause is not missed, and a deploy does not end it. The reason, up to 1,000 characters, is shown by
// [Client.ListSchedules]; "" for none. It fails as [Client.Unschedule] does.
func (c *Client) PauseSchedule(ctx context.Context, name, reason string) error {
	return c.PauseScheduleTx(ctx, ownTx{c.pool}, name, reason)
}

// PauseScheduleTx is [Client.PauseSchedule] inside the caller's transaction.
func (c *Client) PauseScheduleTx(ctx context.Context, tx DBTX, name, reason string) error {
	return scheduleError("pause", name,
		queries.PauseSchedule(ctx, utf8DB{tx}, gen.PauseScheduleParams{Name: name, Reason: optional(reason)}))
}

// ResumeSchedule lets a paused schedule fire from now on, in a transaction of its own; also one whose last time lies
// ahead, because the server's clock was ahead. It fails as [Client.Unschedule] does.
func (c *Client) ResumeSchedule(ctx context.Context, name string) error {
	return c.ResumeScheduleTx(ctx, ownTx{c.pool}, name)
}

// ResumeScheduleTx is [Client.ResumeSchedule] inside the caller's transaction.
func (c *Client) ResumeScheduleTx(ctx context.Context, tx DBTX, name string) error {
	return scheduleError("resume", name, queries.ResumeSchedule(ctx, utf8DB{tx}, name))
}

// TriggerSchedule enqueues the job of a schedule now, whatever the clock says, also while it is paused, in a
// transaction of its own. It returns the job's id. The times go on as before. It fails as [Client.Unschedule] does.
func (c *Client) TriggerSchedule(ctx context.Context, name string) (int64, error) {
	return c.TriggerScheduleTx(ctx, ownTx{c.pool}, name)
}

// TriggerScheduleTx is [Client.TriggerSchedule] inside the caller's transaction: the job exists if and when that
// commits, and until then the schedule does not fire.
func (c *Client) TriggerScheduleTx(ctx context.Context, tx DBTX, name string) (int64, error) {
	id, err := queries.TriggerSchedule(ctx, utf8DB{tx}, name)
	return id, scheduleError("trigger", name, err)
}

// BackfillOptions say how [Client.BackfillSchedule] works. In each field the zero value stands for the default.
type BackfillOptions struct {
	MaxJobs int  // 1 to 10,000; 1,000 by default
	Repeat  bool // also for times that have run; more of them than MaxJobs are refused then
}

// BackfillSchedule enqueues the jobs of a schedule for times that are over, from one time up to, but without, another
// one, in a transaction of its own. It returns their ids, MaxJobs at most: call it again until it returns none, unless
// it is to repeat. It fails as [Client.Unschedule] does, and with [ErrInvalidArgument], also where from or to is the
// zero time.
func (c *Client) BackfillSchedule(
	ctx context.Context, name string, from, to time.Time, opts BackfillOptions,
) ([]int64, error) {
	return c.BackfillScheduleTx(ctx, ownTx{c.pool}, name, from, to, opts)
}

// BackfillScheduleTx is [Client.BackfillSchedule] inside the caller's transaction: see [Client.TriggerScheduleTx].
func (c *Client) BackfillScheduleTx(
	ctx context.Context, tx DBTX, name string, from, to time.Time, opts BackfillOptions,
) ([]int64, error) {
	for _, given := range []struct {
		field string
		time.Time
	}{{"from", from}, {"to", to}} {
		_, err := optionalTime(given.field, 294276, given.Time)
		if given.IsZero() {
			err = fmt.Errorf("%w: %s must be given, and not be the zero time", ErrInvalidArgument, given.field)
		}
		if err != nil {
			return nil, scheduleError("backfill", name, err)
		}
	}
	ids, err := queries.BackfillSchedule(ctx, utf8DB{tx}, gen.BackfillScheduleParams{
		Name: name, FromTime: from, ToTime: to, MaxJobs: optionalInt(opts.MaxJobs), Repeat: opts.Repeat,
	})
	return ids, scheduleError("backfill", name, err)
}

// SyncSchedules makes the schedules of a program, the source, be these, in a transaction of its own: those that it
// declared before, and no longer does, are removed. It returns false, and changes nothing, when the source was
// synchronised with a higher revision before; with revision 0 it always applies. A worker does it by itself:
// see [Handlers.Schedule].
//
// It needs the roles awa_worker and awa_producer, or awa_operator. It fails with [ErrInvalidArgument], which names the
// schedule and the field, also for a name that is another source's, and for a revision that was synchronised with other
// schedules; and with [ErrLocked]. A source belongs to the role that synchronises it first, and to the members of that
// role; for others it fails with SQLSTATE 42501.
func (c *Client) SyncSchedules(
	ctx context.Context, source string, schedules []Schedule, revision int64,
) (applied bool, err error) {
	return c.SyncSchedulesTx(ctx, ownTx{c.pool}, source, schedules, revision)
}

// SyncSchedulesTx is [Client.SyncSchedules] inside the caller's transaction.
func (c *Client) SyncSchedulesTx(
	ctx context.Context, tx DBTX, source string, schedules []Schedule, revision int64,
) (applied bool, err error) {
	encoded, err := encodeSchedules(schedules)
	if err == nil {
		applied, err = queries.SyncSchedules(ctx, utf8DB{tx}, gen.SyncSchedulesParams{
			Source: source, Schedules: encoded, Revision: optional(revision),
		})
	}
	if err != nil {
		return false, fmt.Errorf("synchronise the schedules of source %q: %w", source, mapError(err))
	}
	return applied, nil
}

// ScheduleInfo describes a schedule: its settings, when it fires next, and how it fared.
type ScheduleInfo struct {
	Name        string
	Source      string // the program that declares it; "" for one that was made by hand
	Queue       string
	Kind        string
	Cron        string        // "" where Every is set
	Every       time.Duration // a month counts as [Month] here, a day as [Day]; 0 where Cron is set
	EveryText   string        // Every with its months and days: "1 month 3 days 2h0m0s"; "" where Cron is set
	Args        json.RawMessage
	Timezone    string
	Missed      string // skip, latest or all
	MissedFor   time.Duration
	Overlap     string // allow, skip, wait or replace
	StartsAt    *time.Time
	EndsAt      *time.Time
	Priority    int // 0 for the queue's
	MaxAttempts int // 0 for the queue's
	Tags        []string
	Metadata    json.RawMessage // nil for none
	GroupKey    string          // "" for none

	NextAt       *time.Time // its next time; nil when there is none, or it is paused
	LastAt       *time.Time // its last time that fired; nil for none
	LastJobID    *int64
	LastJobState string     // as [JobInfo] has it; "" when there is no last job, or it is gone
	WaitingAt    *time.Time // the time that waits for the last job to end; nil for none
	PausedAt     *time.Time // nil when it is not paused
	PausedBy     string
	PauseReason  string
	TimesMissed  int64 // left out because maintenance was not run
	TimesSkipped int64 // left out because the last job had not ended
	Failures     int   // how often in a row it has failed to fire
	Error        string
	FailedAt     *time.Time
	MadeAt       time.Time
	ChangedAt    time.Time
	ChangedBy    string
	IsAhead      bool // a clock of the server that was ahead has stopped it, until it is resumed
}

// ListSchedules lists all schedules in the order of their names.
func (c *Client) ListSchedules(ctx context.Context) ([]ScheduleInfo, error) {
	rows, err := queries.ListSchedules(ctx, rawjson.DB(ownTx{c.pool}))
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", mapError(err))
	}
	schedules := make([]ScheduleInfo, len(rows))
	for i, row := range rows {
		schedules[i] = ScheduleInfo{
			Name: row.Name, Source: value(row.Source), Queue: row.Queue, Kind: row.Kind, Cron: value(row.Cron),
			Every: durationOf(row.Every), EveryText: intervalText(row.Every), Args: row.Args, Timezone: row.Timezone,
			Missed: row.Missed, MissedFor: durationOf(row.MissedFor), Overlap: row.Overlap, StartsAt: row.StartsAt,
			EndsAt:   row.EndsAt,
			Priority: int(value(row.Priority)), MaxAttempts: int(value(row.MaxAttempts)), Tags: row.Tags,
			Metadata: row.Metadata, GroupKey: value(row.GroupKey),
			NextAt: row.NextAt, LastAt: row.LastAt, LastJobID: row.LastJobID, LastJobState: value(row.LastJobState),
			WaitingAt: row.WaitingAt, PausedAt: row.PausedAt, PausedBy: value(row.PausedBy),
			PauseReason: value(row.PauseReason), TimesMissed: row.TimesMissed, TimesSkipped: row.TimesSkipped,
			Failures: int(row.Failures), Error: value(row.Error), FailedAt: row.FailedAt, MadeAt: row.MadeAt,
			ChangedAt: row.ChangedAt, ChangedBy: row.ChangedBy, IsAhead: row.IsAhead,
		}
	}
	return schedules, nil
}

// durationOf is the period that interval writes like this.
func durationOf(i pgtype.Interval) time.Duration {
	return time.Duration(i.Months)*Month + time.Duration(i.Days)*Day + time.Duration(i.Microseconds)*time.Microsecond
}

// intervalText is an interval in words, in years or weeks where these are whole.
func intervalText(i pgtype.Interval) string {
	var parts []string
	count := func(n int32, unit string) {
		switch n {
		case 0:
		case 1:
			parts = append(parts, "1 "+unit)
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, unit))
		}
	}
	if i.Months%12 == 0 {
		count(i.Months/12, "year")
	} else {
		count(i.Months, "month")
	}
	if i.Days%7 == 0 {
		count(i.Days/7, "week")
	} else {
		count(i.Days, "day")
	}
	if i.Microseconds != 0 {
		parts = append(parts, (time.Duration(i.Microseconds) * time.Microsecond).String())
	}
	return strings.Join(parts, " ")
}

// ExplainSchedule says in words when a schedule fires next, and why it does not fire now. It fails with
// [ErrNoSuchSchedule].
func (c *Client) ExplainSchedule(ctx context.Context, name string) (string, error) {
	says, err := queries.ExplainSchedule(ctx, utf8DB{ownTx{c.pool}}, name)
	return says, scheduleError("explain", name, err)
}

// NextFires returns the next times, n at most, at which a cron expression comes in a time zone ("" for UTC) after a
// time, the zero time for now: what to look at before an expression is trusted. n is 1 to 1,000, 0 for 5. It fails with
// [ErrInvalidArgument], whose text says what is wrong with the expression.
func (c *Client) NextFires(
	ctx context.Context, cron, timezone string, after time.Time, n int,
) ([]time.Time, error) {
	from, err := optionalTime("after", 294276, after)
	if err != nil {
		return nil, fmt.Errorf("next fires: %w", err)
	}
	times, err := queries.NextFires(ctx, utf8DB{ownTx{c.pool}}, gen.NextFiresParams{
		Cron: cron, Timezone: optional(timezone), AfterTime: from, N: optionalInt(n),
	})
	if err != nil {
		return nil, fmt.Errorf("next fires of %q: %w", cron, mapError(err))
	}
	return times, nil
}

// DescribeCron says in words what a cron expression means. It fails with [ErrInvalidArgument], whose text says what is
// wrong with it.
func (c *Client) DescribeCron(ctx context.Context, cron string) (string, error) {
	says, err := queries.DescribeCron(ctx, utf8DB{ownTx{c.pool}}, cron)
	if err != nil {
		return "", fmt.Errorf("describe %q: %w", cron, mapError(err))
	}
	return says, nil
}
