package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/driver"
)

func runMigrate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	_, databaseURL, err := parse("migrate", args, 0, stdout, stderr)
	if err != nil {
		return err
	}
	if databaseURL == "" {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa migrate --database-url postgres://user:password@localhost:5432/mydb")
	}
	result, err := driver.Migrate(ctx, databaseURL)
	if err != nil {
		return explain(err)
	}
	printMigration(stdout, result)
	return nil
}

func printMigration(w io.Writer, r driver.MigrateResult) {
	switch {
	case r.SchemaBefore == 0:
		fmt.Fprintf(w, "Awa is installed: schema version %d, functions %s.\n", r.SchemaAfter, r.Functions)
	case r.SchemaBefore < r.SchemaAfter:
		fmt.Fprintf(w, "Awa is up to date: schema version %d (was %d), functions %s.\n", r.SchemaAfter, r.SchemaBefore, r.Functions)
	default:
		fmt.Fprintf(w, "Awa is up to date: schema version %d (as before), functions %s.\n", r.SchemaAfter, r.Functions)
	}
	if r.Shared {
		fmt.Fprintf(w, "It is there for %s, and for members of awa_producer, awa_worker, awa_maintainer, awa_operator and awa_reader.\n", r.Role)
	}
	for _, n := range r.Warnings {
		fmt.Fprintln(w, "warning:", n.Message)
		if n.Detail != "" {
			fmt.Fprintln(w, "  ", n.Detail)
		}
		if n.Hint != "" {
			fmt.Fprintln(w, "  ", n.Hint)
		}
	}
}

// explain adds what to do to errors that a user is likely to see first.
func explain(err error) error {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var config *pgconn.ParseConfigError
	switch {
	case errors.As(err, &config):
		return fmt.Errorf("%w\nThe URL should look like postgres://user:password@localhost:5432/mydb", err)
	case errors.As(err, &pg) && pg.Code == "42501" && (strings.Contains(pg.Message, "schema_version") || strings.Contains(pg.Message, "schema awa")):
		return fmt.Errorf("%w\nAwa was installed here by another role. Run this as that role, or as a superuser", err)
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fmt.Errorf("%w\nThe role needs the right to create a schema in the database. Let the database's owner run this, or grant it:\n"+
			"\tgrant create on database MYDB to ROLE\nor create an empty one for it:\n\tcreate schema awa authorization ROLE", err)
	case errors.As(err, &pg) && pg.Code == "3D000": // invalid_catalog_name
		return fmt.Errorf("%w\nCreate the database first:\n\tcreate database MYDB", err)
	case errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000"): // invalid password, authorization
		return fmt.Errorf("%w\nThe server does not accept the user or the password of the URL", err)
	case pg == nil && errors.As(err, &connect):
		return fmt.Errorf("%w\nIs the server running, is its name spelled right, and does it listen where the URL says?", err)
	}
	return err
}
