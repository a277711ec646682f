package systems

import (
	"context"
	_ "embed"
	"strings"
	"time"
)

// The variants of history that were rejected, and the one that was built, of the decision record on where history is
// kept: docs/adr/. Segments are small and short-lived, so that they turn while one looks.
var (
	//go:embed history/tables.sql
	historyTables string
	//go:embed history/rows.sql
	historyRows string
	//go:embed history/deferred.sql
	historyDeferred string
)

const (
	historyRing = `select awa.configure('{"segment_bytes": 67108864, "completed_retention": "5 seconds"}')`
	// historyEvery is how often the deferred variant writes what has completed since.
	historyEvery  = 100 * time.Millisecond
	historyClaims = 1000 // in one batch
)

// history is Awa through SQL with another history.
type history struct {
	awaSQL
	script   string
	deferred bool
}

// History are the three variants.
func History() []Info {
	info := func(name, contract string, h history) Info {
		i := AwaSQL(1)
		i.Name, i.Contract = "history-"+name, "as awa-sql; "+contract
		i.New = func() System { h := h; return &h }
		return i
	}
	return []Info{
		info("ledgers", "(c) history is derived from the ledgers, as built", history{}),
		info("rows", "(a) a row for each completion, in the completing transaction",
			history{script: historyTables + historyRows, awaSQL: awaSQL{completeMany: "history.complete_many"}}),
		info("deferred", "(b) the same rows, written later, in batches",
			history{script: historyTables + historyDeferred, deferred: true}),
	}
}

func (h *history) Install(ctx context.Context, url string) error {
	if err := h.awaSQL.Install(ctx, url); err != nil {
		return err
	}
	return runSQL(ctx, url, historyRing+"; "+h.script)
}

func (h *history) Work(ctx context.Context, done Sink) error {
	h.tolerates = func(err error) bool { return strings.Contains(err.Error(), "is not written yet") }
	tasks := []func(context.Context) error{func(ctx context.Context) error { return h.awaSQL.Work(ctx, done) }}
	if h.deferred {
		tasks = append(tasks, func(ctx context.Context) error {
			err := repeat(ctx, historyEvery, h.materialize)
			if err == nil {
				err = h.materialize(context.WithoutCancel(ctx))
			}
			return err
		})
	}
	return each(ctx, len(tasks), func(ctx context.Context, i int) error { return tasks[i](ctx) })
}

// materialize writes the rows of all that has completed.
func (h *history) materialize(ctx context.Context) error {
	for {
		written, err := count(ctx, h.pool, "select history.materialize($1)", historyClaims)
		if err != nil || written == 0 {
			return err
		}
	}
}

// Books counts the rows, as long as none has left with its segment.
func (h *history) Books(ctx context.Context) (left, ended int64, err error) {
	left, ended, err = h.awaSQL.Books(ctx)
	if err != nil || h.script == "" {
		return left, ended, err
	}
	turned, err := count(ctx, h.pool, "select count(*) from awa.ring where left_at[1] <> left_at[2]")
	if err != nil || turned > 0 {
		return left, ended, err
	}
	for began := time.Now(); ; pause(ctx, historyEvery) { // fold leaves the last claims for some seconds
		if h.deferred {
			if err := h.materialize(ctx); err != nil {
				return 0, 0, err
			}
		}
		rows, err := count(ctx, h.pool, "select count(*) from history.done_entries")
		if err != nil || rows == ended || time.Since(began) > 20*time.Second {
			return left, rows, err
		}
	}
}
