package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// StatsFilter says which statistics to read. The zero value is all queues, the last hour, minute by minute.
type StatsFilter struct {
	Queue  string        // "" for all
	Kind   string        // "" for all
	Since  time.Duration // 1 minute to 30 days; 1 hour by default
	Step   time.Duration // a number of minutes, or of hours where Since is more than a day; 1 minute by default
	ByKind bool          // a row for each kind that there was in a step
}

// StepStats counts the jobs that came, and the attempts that ended, within one step of time, and how long these took.
type StepStats struct {
	At        time.Time // when the step begins
	Kind      string    // with ByKind: the kind, or "" for all kinds beyond 50
	Enqueued  int64     // new jobs
	Completed int64     // attempts that completed, by the time of their end
	Failed    int64     // attempts that failed, whether or not the job runs again
	Wait      Percentiles
	Run       Percentiles
}

// Percentiles are of the attempts that completed or failed within a step; off by 9 % at most. Nil where there were
// none.
type Percentiles struct {
	P50, P95, P99 *time.Duration
}

// QueueStats reads how many jobs were enqueued, completed and failed, step by step, the oldest first, and how long they
// had been ready when they began (Wait), and took (Run). It does not read the jobs, so it is quick however many there
// are.
func (c *Client) QueueStats(ctx context.Context, filter StatsFilter) ([]StepStats, error) {
	rows, err := queries.QueueStats(ctx, ownTx{c.pool}, gen.QueueStatsParams{
		Queue: optional(filter.Queue), Since: optional(filter.Since), Step: optional(filter.Step),
		Kind: optional(filter.Kind), ByKind: filter.ByKind,
	})
	if err != nil {
		return nil, fmt.Errorf("statistics: %w", mapError(err))
	}
	stats := make([]StepStats, len(rows))
	for i, row := range rows {
		stats[i] = StepStats{
			At: row.At, Kind: value(row.Kind), Enqueued: row.Enqueued, Completed: row.Completed, Failed: row.Failed,
			Wait: Percentiles{row.WaitP50, row.WaitP95, row.WaitP99},
			Run:  Percentiles{row.RunP50, row.RunP95, row.RunP99},
		}
	}
	return stats, nil
}
