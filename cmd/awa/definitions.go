package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// compareDefinitions compares what the server keeps no text of, but only parsed: views, and functions in standard SQL.
// What it makes of this program's text it shows in a transaction that is rolled back. Nothing is planned or run: that
// might call what it looks at.
func (d *doctor) compareDefinitions(ctx context.Context) (same bool) {
	same = true
	compare := func(topic, subject, create, installed, temporary, definition string) bool {
		var a, b *string
		var temp bool
		err := func() error {
			tx, err := d.begin(ctx, "read only")
			if err != nil {
				return err
			}
			defer tx.Rollback(context.WithoutCancel(ctx))
			for _, statement := range []string{"set transaction read write", create} {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return tx.QueryRow(ctx, fmt.Sprintf("select %s, %s, true", fmt.Sprintf(definition, installed), fmt.Sprintf(definition, temporary))).Scan(&a, &b, &temp)
		}()
		var pg *pgconn.PgError
		switch {
		case temp && a != nil && *a == *b:
			return true
		case temp:
			d.add(levelWarning, topic, subject, "is not this program's", "Run awa migrate; put changes of your own in views and functions of your own.")
			same = false
			return true
		case errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "42883" || pg.Code == "42703" || pg.Code == "42704"): // no such table, function, column, type: other checks tell which
			same = false
			return true
		default:
			d.fail(topic, err)
			same = false
			return false
		}
	}
	for _, v := range d.src.Views {
		if !compare("views", "awa."+v.Name, "create temp view awa_doctor as "+v.Query, "'awa."+v.Name+"'::regclass", "'pg_temp.awa_doctor'::regclass", "pg_get_viewdef(%s)") {
			return false
		}
	}
	if same {
		d.add(levelOK, "views", "", "they are this program's", "")
	}
	for _, f := range d.src.Functions {
		if f.Body != nil {
			continue
		}
		signature := f.Name + "(" + strings.Join(f.Types, ", ") + ")"
		create := strings.Replace(f.SQL, "create or replace function awa.", "create function pg_temp.", 1)
		if !compare("functions", "awa."+signature, create, "'awa."+signature+"'::regprocedure", "'pg_temp."+signature+"'::regprocedure", "pg_get_function_sqlbody(%s)") {
			return false
		}
	}
	return same
}
