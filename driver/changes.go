package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// A ChangeAction is one way in which [Client.StartChange] changes jobs.
type ChangeAction string

// The actions of a change.
const (
	ChangeCancel      ChangeAction = "cancel"       // as [Client.Cancel]
	ChangeDiscard     ChangeAction = "discard"      // as [Client.DiscardJob]
	ChangeRetry       ChangeAction = "retry"        // as [Client.Retry]
	ChangeMove        ChangeAction = "move"         // as [Client.Move]; needs Queue
	ChangeSetPriority ChangeAction = "set_priority" // as [Client.SetPriority]; needs Priority
	ChangeDelete      ChangeAction = "delete"       // as [Client.DeleteJob]
)

// ChangeOptions say how jobs are changed. An action that has no use for a field refuses it.
type ChangeOptions struct {
	Reason   string        // of a cancel, or a discard
	Queue    string        // to which jobs are moved, or in which they are retried
	Priority int           // that jobs get, or with which they are retried
	RunAt    time.Time     // when they are retried; the zero value means now
	Over     time.Duration // spreads the retries evenly over this time
}

// encode returns the options as the server takes them.
func (o ChangeOptions) encode() (json.RawMessage, error) {
	runAt, err := optionalTime("RunAt", 9999, o.RunAt)
	if err != nil {
		return nil, err
	}
	var over *float64
	if o.Over != 0 {
		over = new(o.Over.Seconds())
	}
	return encode("options", struct {
		Reason   string     `json:"reason,omitzero"`
		Queue    string     `json:"queue,omitzero"`
		Priority int        `json:"priority,omitzero"`
		RunAt    *time.Time `json:"run_at,omitzero"`
		Over     *float64   `json:"over,omitzero"`
	}{o.Reason, o.Queue, o.Priority, runAt, over})
}

// StartChange starts a change of all jobs that the filter matches, however many there are, and returns its id at once.
// Maintenance makes it in parts. It touches no job that is enqueued later, and leaves alone one that no longer matches
// when its turn comes. MaxJobs has no meaning. Without a State it changes the jobs in all states that allow the action;
// a retry those that failed, are dead or were cancelled. A filter that filters nothing, and an option that the action
// does not have, fail with [ErrInvalidArgument].
func (c *Client) StartChange(
	ctx context.Context, action ChangeAction, filter JobFilter, opts ChangeOptions,
) (int64, error) {
	return c.StartChangeTx(ctx, ownTx{c.pool}, action, filter, opts)
}

// StartChangeTx is [Client.StartChange] inside the caller's transaction: the change begins when that commits, and
// touches no job that was enqueued after this call.
func (c *Client) StartChangeTx(
	ctx context.Context, tx DBTX, action ChangeAction, filter JobFilter, opts ChangeOptions,
) (int64, error) {
	encoded, err := filter.encode()
	if err != nil {
		return 0, fmt.Errorf("start a change: %w", err)
	}
	options, err := opts.encode()
	if err != nil {
		return 0, fmt.Errorf("start a change: %w", err)
	}
	id, err := queries.StartChange(ctx, utf8DB{tx}, gen.StartChangeParams{
		Action: string(action), Filter: encoded, Options: options,
	})
	if err != nil {
		return 0, fmt.Errorf("start a change: %w", mapError(err))
	}
	return id, nil
}

// StopChange stops a change, in a transaction of its own: once it has returned, the change touches no job more. Jobs
// that were changed stay so. It fails with [ErrNoSuchChange].
func (c *Client) StopChange(ctx context.Context, id int64) error {
	return c.StopChangeTx(ctx, ownTx{c.pool}, id)
}

// StopChangeTx is [Client.StopChange] inside the caller's transaction.
func (c *Client) StopChangeTx(ctx context.Context, tx DBTX, id int64) error {
	if err := queries.StopChange(ctx, utf8DB{tx}, id); err != nil {
		return fmt.Errorf("stop change %d: %w", id, mapError(err))
	}
	return nil
}

// Change is a change of many jobs, or one that a session with the setting awa.actor made at once. The reference of
// list_changes says more.
type Change struct {
	ID        int64
	Action    string
	Filter    json.RawMessage // as [Client.ScanJobs] takes it; of a change of one job, its id as job_id
	Options   json.RawMessage
	StartedBy string // the login
	Actor     string // for whom that session said that it acted; "" for nobody
	StartedAt time.Time
	State     string    // running, stopped or finished
	Found     int64     // jobs that matched so far: those that were changed, and those that were skipped
	Changed   int64     //
	Skipped   int64     // jobs that another session kept, or that could not be changed
	LastError string    // why the last of these was skipped, or why the last part failed; "" for nothing
	EndedAt   time.Time // zero while it is running
}

// ChangeFilter says which changes to list. The zero value lists the last hundred.
type ChangeFilter struct {
	State      string // running, stopped or finished; "" for any
	BeforeID   int64  // the last id of the page before
	MaxChanges int    // 1 to 1,000; 100 by default
}

// ListChanges lists the changes of the last 90 days, newest first.
func (c *Client) ListChanges(ctx context.Context, filter ChangeFilter) ([]Change, error) {
	rows, err := queries.ListChanges(ctx, ownTx{c.pool}, gen.ListChangesParams{
		State: optional(filter.State), BeforeID: optional(filter.BeforeID), MaxChanges: optionalInt(filter.MaxChanges),
	})
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", mapError(err))
	}
	changes := make([]Change, len(rows))
	for i, row := range rows {
		changes[i] = Change{
			ID: row.ChangeID, Action: row.Action, Filter: row.Filter, Options: row.Options, StartedBy: row.StartedBy,
			Actor: value(row.Actor), StartedAt: row.StartedAt, State: row.State, Found: row.Found, Changed: row.Changed,
			Skipped: row.Skipped, LastError: value(row.LastError), EndedAt: value(row.EndedAt),
		}
	}
	return changes, nil
}
