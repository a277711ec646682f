package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/dburl"
)

func runMigrate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var cfg driver.MigrateConfig
	_, databaseURL, err := parse("migrate", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.Func("role-prefix", "", rolePrefix(&cfg.RolePrefix))
		flags.Func("wait", "", wait(&cfg.Wait))
	})
	if err != nil {
		return err
	}
	if databaseURL == "" {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa migrate --database-url postgres://user:password@localhost:5432/mydb")
	}
	result, err := driver.MigrateWithConfig(ctx, databaseURL, cfg)
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		showNames(databaseURL, stdout, stderr)
	}
	if err != nil {
		return explain(err)
	}
	printMigration(stdout, result)
	return nil
}

var prefixPattern = regexp.MustCompile(`^\w*$`)

// rolePrefix reads a prefix. The server says which ones it takes, and shows what it was given.
func rolePrefix(prefix *string) func(string) error {
	return func(value string) error {
		if !prefixPattern.MatchString(value) {
			return errors.New("this is not the beginning of a role's name")
		}
		*prefix = value
		return nil
	}
}

// sharedRoles returns the names of all of Awa's roles but the owner, with the prefix that it was installed with.
func sharedRoles(ctx context.Context, conn *pgx.Conn) string {
	prefix := "awa_" // also where the server does not answer
	_ = conn.QueryRow(ctx, `
		select coalesce(substring(o.rolname from '^(.*)owner$'), 'awa_')
		  from pg_catalog.pg_namespace n
		  join pg_catalog.pg_roles o on o.oid = n.nspowner
		 where n.nspname = 'awa'`).Scan(&prefix)
	return fmt.Sprintf("%[1]sproducer, %[1]sworker, %[1]smaintainer, %[1]soperator, %[1]sreader", prefix)
}

// wait reads how long others may be in the way; without the flag a minute.
func wait(d *time.Duration) func(string) error {
	return func(value string) (err error) {
		if *d, err = time.ParseDuration(value); err != nil || *d <= 0 {
			return errors.New("this is no duration longer than 0, as in 30s")
		}
		return nil
	}
}

func printMigration(w io.Writer, r driver.MigrateResult) {
	switch {
	case r.Newer:
		fmt.Fprintf(w, "Awa stays as it is: schema version %d, functions %s.\n", r.SchemaAfter, r.Functions)
	case r.SchemaBefore == 0:
		fmt.Fprintf(w, "Awa is installed: schema version %d, functions %s.\n", r.SchemaAfter, r.Functions)
	case r.SchemaBefore < r.SchemaAfter:
		fmt.Fprintf(w, "Awa is up to date: schema version %d (was %d), functions %s.\n", r.SchemaAfter, r.SchemaBefore,
			r.Functions)
	case r.Changed:
		fmt.Fprintf(w, "Awa is up to date: schema version %d (as before), functions %s.\n", r.SchemaAfter, r.Functions)
	default:
		fmt.Fprintf(w, "Awa is up to date: schema version %d, functions %s. Nothing was to be done.\n", r.SchemaAfter,
			r.Functions)
	}
	if r.Shared {
		fmt.Fprintf(w,
			"It is there for %[1]s, and for members of %[2]sproducer, %[2]sworker, %[2]smaintainer, %[2]soperator and "+
				"%[2]sreader.\n", r.Role, r.RolePrefix)
	}
	for _, n := range r.Warnings {
		fmt.Fprintln(w, "warning:", oneLine(n.Message))
		if n.Detail != "" {
			fmt.Fprintln(w, "  ", oneLine(n.Detail))
		}
		if n.Hint != "" {
			fmt.Fprintln(w, "  ", oneLine(n.Hint))
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
		return explain(dburl.ErrUnreadable) // it may hold the password
	case errors.Is(err, dburl.ErrUnreadable):
		return fmt.Errorf("%w\nThe URL should look like postgres://user:password@localhost:5432/mydb\n"+
			"In user and password, write @ as %%40, / as %%2F, : as %%3A, ? as %%3F, # as %%23, %% as %%25; elsewhere, too, @ "+
			"as %%40\n"+
			"Nor may PGUSER, PGDATABASE and so on hold a URL or a password", err)
	case errors.As(err, &pg) && pg.Code == "3D000": // invalid_catalog_name
		return fmt.Errorf("%w\nCreate the database first:\n\tcreate database MYDB", err)
	case errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000"): // invalid password, authorization
		return fmt.Errorf("%w\nThe server does not accept the user or the password of the URL", err)
	case pg == nil && errors.As(err, &connect):
		return fmt.Errorf("%w\nIs the server running, is its name spelled right, and does it listen where the URL says?", err)
	}
	return err
}
