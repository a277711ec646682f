// Package rawjson reads JSON from the server as it comes. pgx decodes what goes into a json.RawMessage, by
// encoding/json, which refuses what is nested deeper than 10,000 levels and looks at each byte of everything else.
package rawjson

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/gen"
)

// DB returns a db whose rows scan JSON as it comes.
func DB(db gen.DBTX) gen.DBTX { return rawDB{db} }

type rawDB struct{ db gen.DBTX }

func (r rawDB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return r.db.Exec(ctx, sql, args...)
}

func (r rawDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := r.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return rawRows{rows}, nil
}

func (r rawDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rawRow{r.db.QueryRow(ctx, sql, args...)}
}

type rawRows struct{ pgx.Rows }

func (r rawRows) Scan(dest ...any) error { return r.Rows.Scan(Dest(dest)...) }

type rawRow struct{ row pgx.Row }

func (r rawRow) Scan(dest ...any) error { return r.row.Scan(Dest(dest)...) }

// Dest returns the destinations of a scan, those for JSON as plain bytes.
func Dest(dest []any) []any {
	for i, d := range dest {
		if p, ok := d.(*json.RawMessage); ok {
			dest[i] = (*[]byte)(p)
		}
	}
	return dest
}
