package ui

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// panel is a part of a page that is read by itself. Where it can't be read, the others are shown all the same.
type panel[T any] struct {
	Data    T
	Failed  string // why it could not be read; "" when it was
	Hint    string // what to do then
	At      time.Time
	IsEmpty bool // there is nothing to show, as asked for
	IsMore  bool // than what is shown
}

// queryer is what a panel reads with.
type queryer struct {
	context.Context
	pgx.Tx
}

// read reads a panel. The hint says how to make it cheaper, for the case that it takes too long.
func read[T any](p *page, hint string, do func(queryer) (T, error)) panel[T] {
	result := panel[T]{At: time.Now()}
	err := p.inTurn(func() error {
		return p.transaction(pgx.ReadOnly, func(q queryer) (err error) {
			result.At = p.now
			result.Data, err = do(q)
			return err
		})
	})
	if err == nil {
		return result
	}
	var zero T
	result.Data = zero
	result.Failed, result.Hint = inWords(err, hint)
	if p.ctx.Err() == nil { // otherwise the reader has left
		p.h.options.Log.WarnContext(p.ctx, "a panel can't be read", "page", p.path, "error", err)
	}
	return result
}

// errBusy says that others read for long already.
var errBusy = errors.New("others read as much")

// inTurn runs what is given. Of readings that may last, few run at a time: the others wait, without a connection.
func (p *page) inTurn(do func() error) error {
	if p.patience <= 1 {
		return do()
	}
	wait := time.NewTimer(p.h.options.Timeout * time.Duration(p.patience))
	defer wait.Stop()
	select {
	case p.h.deep <- struct{}{}:
		defer func() { <-p.h.deep }()
		return do()
	case <-wait.C:
		return errBusy
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// transaction runs what is given as the user: with the user's role, within the time for a panel, with times in UTC, and
// with the names of PostgreSQL alone where no schema is named. All of it ends with the transaction, so that it holds
// behind pgbouncer. It reads the clock of the database, which times are compared with.
func (p *page) transaction(mode pgx.TxAccessMode, do func(queryer) error) error {
	timeout := p.h.options.Timeout * time.Duration(max(p.patience, 1))
	ctx, cancel := context.WithTimeout(p.ctx, 2*timeout+time.Second) // waits for a connection, too
	defer cancel()
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: mode}
	return pgx.BeginTxFunc(ctx, p.h.pool, options, func(tx pgx.Tx) error {
		const settings = `
			select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
			       pg_catalog.set_config('statement_timeout', $1, true),
			       pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true),
			       pg_catalog.set_config('awa.actor', $2, true),
			       pg_catalog.set_config('timezone', 'UTC', true),
			       pg_catalog.set_config('datestyle', 'ISO, YMD', true),
			       pg_catalog.set_config('intervalstyle', 'postgres', true),
			       pg_catalog.clock_timestamp()`
		limit := strconv.FormatInt(timeout.Milliseconds(), 10)
		row := tx.QueryRow(ctx, settings, limit, clean(p.user.Name))
		if err := row.Scan(nil, nil, nil, nil, nil, nil, nil, &p.now); err != nil {
			return err
		}
		if p.user.Role != "" {
			if _, err := tx.Exec(ctx, `select pg_catalog.set_config('role', $1, true)`, p.user.Role); err != nil {
				return err
			}
		}
		return do(queryer{ctx, tx})
	})
}

// inWords says why a panel could not be read, and what to do.
func inWords(err error, hint string) (failed, todo string) {
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, errBusy):
		return "Others read as much now.", "Try again. " + hint
	case errors.As(err, &pgErr) && pgErr.Code == "57014", errors.Is(err, context.DeadlineExceeded):
		return "It took too long to read.", hint
	case errors.As(err, &pgErr) && pgErr.Code == "42501":
		return "The database role may not read this.", "Grant awa_reader to it."
	case errors.As(err, &pgErr) && pgErr.Code == "42883":
		return "The database has another version of Awa.", "Run awa migrate."
	case errors.As(err, &pgErr) && pgErr.Code == "3F000":
		return "Awa is not installed in this database.", "Run awa migrate."
	case errors.As(err, &pgErr):
		return pgErr.Message, pgErr.Hint
	default:
		return "The database can't be reached.", "The log of this program says why. The page shows nothing old meanwhile."
	}
}

// rowsOf returns the rows of a query, whose columns are the fields of T in their order.
func rowsOf[T any](q queryer, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(q, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// rowOf returns the only row of a query, or nil when there is none.
func rowOf[T any](q queryer, sql string, args ...any) (*T, error) {
	rows, err := rowsOf[T](q, sql, args...)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// optional returns nil for an empty text: no filter.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
