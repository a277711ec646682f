package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/gen"
)

// pipeline runs a query in a transaction of its own, at READ COMMITTED whatever the connection's default is, and in one
// round trip. It commits when the rows have been read to their end. After an error the transaction may still be open.
type pipeline struct {
	conn *pgx.Conn
	// timeout bounds the query, if it is not zero.
	timeout time.Duration
	// lockTimeout bounds the wait for each lock, if it is not zero.
	lockTimeout time.Duration
}

var _ gen.DBTX = pipeline{}

func (p pipeline) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	rows, err := p.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	for rows.Next() {
	}
	return rows.CommandTag(), rows.Err()
}

func (p pipeline) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue("begin isolation level read committed")
	if p.timeout > 0 {
		batch.Queue(fmt.Sprintf("set local statement_timeout = %d", p.timeout.Milliseconds()))
	}
	if p.lockTimeout > 0 {
		batch.Queue(fmt.Sprintf("set local lock_timeout = %d", p.lockTimeout.Milliseconds()))
	}
	before := batch.Len()
	batch.Queue(sql, args...)
	batch.Queue("commit")

	results := p.conn.SendBatch(ctx, &batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			results.Close()
			return nil, err
		}
	}
	rows, err := results.Query()
	if err != nil {
		results.Close()
		return nil, err
	}
	return &pipelineRows{Rows: rows, results: results}, nil
}

func (p pipeline) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return pipelineRow{rows: rows, err: err}
}

// all runs the statements of f in one transaction, and in one round trip. f sees no results, so it is for statements
// that return none. After an error the transaction may still be open.
func (p pipeline) all(ctx context.Context, f func(gen.DBTX)) error {
	var batch pgx.Batch
	batch.Queue("begin isolation level read committed")
	if p.lockTimeout > 0 {
		batch.Queue(fmt.Sprintf("set local lock_timeout = %d", p.lockTimeout.Milliseconds()))
	}
	f(recorder{&batch})
	batch.Queue("commit")
	return p.conn.SendBatch(ctx, &batch).Close()
}

// recorder collects statements.
type recorder struct{ batch *pgx.Batch }

func (r recorder) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	r.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

func (r recorder) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	r.batch.Queue(sql, args...)
	return nil, errors.New("no rows are seen")
}

func (r recorder) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	_, err := r.Query(ctx, sql, args...)
	return pipelineRow{err: err}
}

// pipelineRows commits after the last row.
type pipelineRows struct {
	pgx.Rows
	results pgx.BatchResults // nil when the transaction has ended
	err     error            // of the commit
}

func (r *pipelineRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *pipelineRows) Close() {
	r.Rows.Close()
	if r.results == nil {
		return
	}
	if r.Rows.Err() == nil {
		_, r.err = r.results.Exec()
	}
	if err := r.results.Close(); r.err == nil {
		r.err = err
	}
	r.results = nil
}

func (r *pipelineRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

type pipelineRow struct {
	rows pgx.Rows
	err  error
}

func (r pipelineRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
