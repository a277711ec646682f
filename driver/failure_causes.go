package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/awa-pg/awa/gen"
)

// CausesFilter says which failures [Client.FailureCauses] counts. The zero value is those of all queues, of the last
// day.
type CausesFilter struct {
	Queue     string        // "" for all
	Kind      string        // "" for all
	Since     time.Duration // 1 minute to 10 years; a day by default
	MaxCauses int           // 1 to 1,000; 100 by default
}

// FailureCause counts the jobs of one kind whose last errors have one cause.
type FailureCause struct {
	Kind string

	// Cause is the first line of an error, with a question mark for what stands in quotation marks, and for each word
	// with a digit. As [JobFilter.Cause] it finds the jobs.
	Cause string

	Failed    int64 // jobs that failed for good
	Dead      int64 // dead letters
	Retryable int64 // jobs that wait for their next attempt

	FirstAt, LastAt time.Time // when the first and the last of these failed
	LastJobID       int64     // the one that failed last
	LastError       string    // the beginning of its error

	// CountedSince is since when all are counted: later than asked for where there were too many.
	CountedSince time.Time
}

// FailureCauses counts the jobs whose last attempt failed, by their kinds and the causes of their errors, the most
// frequent first. It reads 20,000 jobs at most, the last ones.
func (c *Client) FailureCauses(ctx context.Context, filter CausesFilter) ([]FailureCause, error) {
	rows, err := queries.FailureCauses(ctx, utf8DB{ownTx{c.pool}}, gen.FailureCausesParams{
		Queue: optional(filter.Queue), Since: optional(filter.Since), Kind: optional(filter.Kind),
		MaxCauses: optionalInt(filter.MaxCauses),
	})
	if err != nil {
		return nil, fmt.Errorf("causes of failures: %w", mapError(err))
	}
	causes := make([]FailureCause, len(rows))
	for i, row := range rows {
		causes[i] = FailureCause{
			Kind: row.Kind, Cause: row.Cause, Failed: row.Failed, Dead: row.Dead, Retryable: row.Retryable,
			FirstAt: row.FirstAt, LastAt: row.LastAt, LastJobID: row.LastJobID, LastError: row.LastError,
			CountedSince: row.CountedSince,
		}
	}
	return causes, nil
}
