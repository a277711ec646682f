package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/sql"
)

const (
	// versionTable holds the number of the last migration: in the schema, so that a dump of the schema has it.
	versionTable = "awa.schema_version"
	// migrateLock is the key of the advisory lock under which Awa is installed. The keys that the engine uses are negative.
	migrateLock = int64(0x6177616d696772) // "awamigr"
)

// makeSchema creates the schema, where it is missing, and the table of the version in it, which tern would create without a key. A
// version that was in the schema public, where earlier programs kept it, moves.
const makeSchema = `
do $$
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if to_regclass('awa.schema_version') is not null then
    return;
  elsif to_regnamespace('awa') is null then
    create schema awa;
  elsif to_regclass('public.awa_schema_version') is null and exists (select from pg_class c where c.relnamespace = 'awa'::regnamespace) then
    raise exception using errcode = '55000', message = 'schema awa holds tables, but not the version of Awa',
      detail = 'It is not Awa''s, or it was restored from a dump that does not hold the version.',
      hint = 'Empty or rename the schema; or restore public.awa_schema_version, too.';
  end if;
  create table awa.schema_version (
    version  int not null,
    only_row boolean primary key default true check (only_row)
  );
  comment on table awa.schema_version is 'The number of the last migration, in one row';
  if to_regclass('public.awa_schema_version') is null then
    insert into awa.schema_version (version) values (0);
  else
    insert into awa.schema_version (version) select v.version from public.awa_schema_version v;
    drop table public.awa_schema_version;
  end if;
end
$$`

// MigrateResult says what [Migrate] did.
type MigrateResult struct {
	SchemaBefore int32  // number of the last migration before, 0 for a new installation
	SchemaAfter  int32  // number of the last migration now
	Functions    string // version of the functions that are installed now
	Role         string // the role that installed them
	Shared       bool   // whether members of the roles of Awa (awa_producer and so on) may use them too

	// Warnings are what the server said meanwhile. There is one when the role may not create the roles of Awa, so that
	// Awa is installed for this role alone, one when its functions can't be given to awa_owner, and one when the database's
	// encoding is not UTF8.
	Warnings []*pgconn.Notice
}

// Migrate installs Awa in a database, or brings an older installation up to date: the tables by numbered migrations
// (the number is kept in awa.schema_version), then all functions, views and grants. It is safe to repeat, and
// safe to run from many processes at once: one after the other they hold a session's advisory lock, so connect to the
// server itself, not to a proxy that pools transactions.
//
// The databaseURL is in any form that [pgx.ParseConfig] takes; what it leaves out comes from the variables of libpq
// (PGHOST and so on). Migrate uses one connection and closes it.
//
// The schema is never taken back: it is an error when the database is newer than this program.
func Migrate(ctx context.Context, databaseURL string) (MigrateResult, error) {
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	var result MigrateResult
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		switch n.SeverityUnlocalized {
		case "DEBUG", "LOG", "INFO", "NOTICE":
		default:
			result.Warnings = append(result.Warnings, n)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	defer closeConn(ctx, conn) // releases the lock too
	if err := result.install(ctx, conn); err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", mapError(err))
	}
	return result, nil
}

func (r *MigrateResult) install(ctx context.Context, conn *pgx.Conn) error {
	migrations, err := fs.Sub(sql.Migrations, "migrations")
	if err != nil {
		return err
	}
	functions, err := fs.Sub(sql.Functions, "functions")
	if err != nil {
		return err
	}
	code, err := migrate.LoadCodePackage(functions)
	if err != nil {
		return err
	}

	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", migrateLock); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, makeSchema); err != nil {
		return err
	}
	migrator, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return err
	}
	if err := migrator.LoadMigrations(migrations); err != nil {
		return err
	}
	if r.SchemaBefore, err = migrator.GetCurrentVersion(ctx); err != nil {
		return err
	}
	if newest := int32(len(migrator.Migrations)); r.SchemaBefore > newest {
		return fmt.Errorf("the database has schema version %d, this program knows %d: use a newer program", r.SchemaBefore, newest)
	}
	if err := migrator.Migrate(ctx); err != nil {
		return err
	}
	if r.SchemaAfter, err = migrator.GetCurrentVersion(ctx); err != nil {
		return err
	}
	if err := migrate.InstallCodePackage(ctx, conn, nil, code); err != nil {
		return err
	}
	if r.Functions, err = gen.New().Version(ctx, conn); err != nil {
		return err
	}
	return conn.QueryRow(ctx, "select current_user, exists (select from pg_roles where rolname = 'awa_producer')").Scan(&r.Role, &r.Shared)
}

// closeConn closes a connection, politely if that is possible within a second, whatever became of the context.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, errors.New("close took too long"))
	defer cancel()
	conn.Close(ctx)
}
