package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// The orders in which the jobs of a group begin, for [QueueSettings.GroupOrder].
const (
	OrderStart  = "start"  // the next job begins when there is room, the default
	OrderStrict = "strict" // it begins when the one before has ended for good
	OrderHalt   = "halt"   // as strict, and not while one that failed for good is kept
)

// GroupSettings are limits of one group, which stand for those of its queue, as [Client.ConfigureGroup] changes them.
// One that is left out stays; [Default] takes it away, so that the queue's holds.
type GroupSettings struct {
	MaxRunning Setting[int]  `json:"group_max_running,omitzero"` // at once
	Rate       Setting[Rate] `json:"group_rate,omitzero"`        // how often jobs begin
}

// ConfigureGroup gives one group of a queue limits of its own, in a transaction of its own. It makes the queue if there
// is none, and fails with [ErrInvalidArgument].
func (c *Client) ConfigureGroup(ctx context.Context, queue, groupKey string, settings GroupSettings) error {
	return c.ConfigureGroupTx(ctx, ownTx{c.pool}, queue, groupKey, settings)
}

// ConfigureGroupTx is [Client.ConfigureGroup] inside the caller's transaction.
func (c *Client) ConfigureGroupTx(ctx context.Context, tx DBTX, queue, groupKey string, settings GroupSettings) error {
	encoded, err := encode("settings", settings)
	if err == nil {
		err = mapError(queries.ConfigureGroup(ctx, utf8DB{tx},
			gen.ConfigureGroupParams{Queue: queue, GroupKey: groupKey, Settings: encoded}))
	}
	return groupError("configure", queue, groupKey, err)
}

// PauseGroup closes one group of a queue, in a transaction of its own: none of its jobs begins until a time, the zero
// time for no end, or until [Client.ResumeGroup]. Running jobs go on, and so does enqueue. The reason is shown by
// [Client.ListGroups]; "" for none. It makes the queue if there is none, and the group needs no jobs.
func (c *Client) PauseGroup(ctx context.Context, queue, groupKey, reason string, until time.Time) error {
	return c.PauseGroupTx(ctx, ownTx{c.pool}, queue, groupKey, reason, until)
}

// PauseGroupTx is [Client.PauseGroup] inside the caller's transaction.
func (c *Client) PauseGroupTx(
	ctx context.Context, tx DBTX, queue, groupKey, reason string, until time.Time,
) error {
	end, err := optionalTime("until", 9999, until)
	if err == nil {
		err = mapError(queries.PauseGroup(ctx, utf8DB{tx},
			gen.PauseGroupParams{Queue: queue, GroupKey: groupKey, Reason: optional(reason), Until: end}))
	}
	return groupError("pause", queue, groupKey, err)
}

// ResumeGroup opens a group that is paused, or that a handler has closed ([SnoozeGroup]), in a transaction of its own.
// It fails with [ErrNoSuchQueue].
func (c *Client) ResumeGroup(ctx context.Context, queue, groupKey string) error {
	return c.ResumeGroupTx(ctx, ownTx{c.pool}, queue, groupKey)
}

// ResumeGroupTx is [Client.ResumeGroup] inside the caller's transaction.
func (c *Client) ResumeGroupTx(ctx context.Context, tx DBTX, queue, groupKey string) error {
	return groupError("resume", queue, groupKey,
		mapError(queries.ResumeGroup(ctx, utf8DB{tx}, gen.ResumeGroupParams{Queue: queue, GroupKey: groupKey})))
}

func groupError(what, queue, groupKey string, err error) error {
	if err != nil {
		return fmt.Errorf("%s group %q of queue %q: %w", what, groupKey, queue, err)
	}
	return nil
}

// GroupInfo describes a group of a queue with limits.
type GroupInfo struct {
	GroupKey        string
	Running         int        // how many of its jobs run
	Waiting         int64      // how many wait in its line: at most 10,001 are counted
	OldestWaitingAt *time.Time // since when the oldest of these waits; nil when none does
	NextAt          *time.Time // when the next one may begin, where a time decides; nil where none does
	PausedAt        *time.Time // since when it is paused; nil when it is not
	PausedUntil     *time.Time // when that ends by itself; nil when it does not
	Reason          string     // why it is paused, or for which job it is kept; "" for nothing
}

// ListGroups lists groups of a queue that run, wait, are reserved for a job, are paused, or have limits of their own: a
// page, in an order that means nothing. afterKey is the key of the last group of the page before; "" for the first
// page. maxGroups is 1 to 1,000; 0 for 100. It fails with [ErrNoSuchQueue].
func (c *Client) ListGroups(ctx context.Context, queue, afterKey string, maxGroups int) ([]GroupInfo, error) {
	rows, err := queries.ListGroups(ctx, utf8DB{ownTx{c.pool}},
		gen.ListGroupsParams{Queue: queue, AfterKey: optional(afterKey), MaxGroups: optionalInt(maxGroups)})
	if err != nil {
		return nil, fmt.Errorf("list groups of queue %q: %w", queue, mapError(err))
	}
	groups := make([]GroupInfo, len(rows))
	for i, row := range rows {
		groups[i] = GroupInfo{
			GroupKey: row.GroupKey, Running: int(row.Running), Waiting: row.Waiting, OldestWaitingAt: row.OldestWaitingAt,
			NextAt: row.NextAt, PausedAt: row.PausedAt, PausedUntil: row.PausedUntil, Reason: value(row.Reason),
		}
	}
	return groups, nil
}
