package driver

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownTx is a pool on which each query is a transaction of its own, at READ COMMITTED whatever the database's default
// is, and in one round trip.
type ownTx struct{ pool *pgxpool.Pool }

var _ DBTX = ownTx{}

func (o ownTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	rows, err := o.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.CommandTag(), rows.Err()
}

func (o ownTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := o.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	err = checkEncoding(conn.Conn())
	if err != nil {
		conn.Release()
		return nil, err
	}
	rows, err := pipeline{conn: conn.Conn()}.Query(ctx, sql, args...)
	if err != nil {
		giveBack(ctx, conn)
		return nil, err
	}
	return &ownTxRows{Rows: rows, ctx: ctx, conn: conn}, nil
}

func (o ownTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := o.Query(ctx, sql, args...)
	return pipelineRow{rows: rows, err: err}
}

// giveBack ends what is left of a transaction that has failed, and gives the connection back.
func giveBack(ctx context.Context, conn *pgxpool.Conn) {
	if !conn.Conn().IsClosed() && conn.Conn().PgConn().TxStatus() != 'I' {
		conn.Exec(ctx, "rollback") // the pool closes a connection on which that has failed, too
	}
	conn.Release()
}

// ownTxRows gives the connection back after the last row.
type ownTxRows struct {
	pgx.Rows
	ctx  context.Context
	conn *pgxpool.Conn // nil when it was given back
}

func (r *ownTxRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *ownTxRows) Close() {
	r.Rows.Close()
	if r.conn != nil {
		giveBack(r.ctx, r.conn)
		r.conn = nil
	}
}
