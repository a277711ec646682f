package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/internal/dburl"
	"github.com/awa-pg/awa/internal/install"
)

// MigrateConfig says how to install. [Migrate] uses its zero value.
type MigrateConfig struct {
	// RolePrefix is the beginning of the names of Awa's roles, in a new installation: "awa_" unless set. An installation
	// knows its own, and another one is refused. Roles belong to the server, not to a database: installations that are
	// not to see each other's jobs need roles of their own.
	RolePrefix string
	// Wait is how long to try for the locks that an upgrade needs, and to wait for another installation, before it
	// gives up with SQLSTATE 55P03. A minute unless set.
	Wait time.Duration
}

// MigrateResult says what [Migrate] did.
type MigrateResult struct {
	SchemaBefore int32  // number of the last migration before, 0 for a new installation
	SchemaAfter  int32  // number of the last migration now
	Functions    string // version of the functions that are installed now
	Newer        bool   // whether these are newer than this program's: then nothing was done
	Changed      bool   // whether anything was done
	Role         string // the role that did it
	RolePrefix   string // the beginning of the names of Awa's roles
	Shared       bool   // whether members of the roles of Awa (awa_producer and so on) may use them too

	// Warnings are what the server said meanwhile. There is one when the role may not create the roles of Awa, so that
	// Awa is installed for this role alone, one when its functions can't be given to awa_owner, one when the roles
	// serve other databases, too, one when the database's encoding is not UTF8, and one when the functions are newer
	// than this program's.
	Warnings []*pgconn.Notice
}

// Migrate installs Awa in a database, or brings an older installation up to date: tables by numbered migrations,
// functions, views, owners and grants, in one transaction. It is safe to repeat, from many processes at once, and while
// workers work: where there is nothing to do, nothing is locked. Otherwise it locks what it changes for a moment, and
// tries again where others are in the way. Connect to the server itself, not to a proxy that pools transactions.
//
// The databaseURL is in any form that [pgx.ParseConfig] takes; what it leaves out comes from the variables of libpq
// (PGHOST and so on). Migrate uses one connection and closes it.
//
// Newer functions and tables are never replaced. Where they are of the next version, Migrate says so by a warning,
// since programs of this version work with them; it is an error when the database is newer than that.
func Migrate(ctx context.Context, databaseURL string) (MigrateResult, error) {
	return MigrateWithConfig(ctx, databaseURL, MigrateConfig{})
}

// MigrateWithConfig is [Migrate] with a configuration.
func MigrateWithConfig(ctx context.Context, databaseURL string, cfg MigrateConfig) (MigrateResult, error) {
	sources, err := install.Embedded()
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	return migrate(ctx, databaseURL, cfg, sources)
}

func migrate(
	ctx context.Context, databaseURL string, cfg MigrateConfig, sources *install.Sources,
) (MigrateResult, error) {
	config, err := dburl.Parse(databaseURL)
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	var result MigrateResult
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		switch n.SeverityUnlocalized {
		case "DEBUG", "LOG", "INFO", "NOTICE":
		default:
			result.Warnings = append(result.Warnings, n)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", err)
	}
	defer closeConn(ctx, conn)
	r, err := sources.Install(ctx, conn, install.Options{RolePrefix: cfg.RolePrefix, Wait: cfg.Wait})
	if err != nil {
		return MigrateResult{}, fmt.Errorf("migrate: %w", mapError(err))
	}
	result.SchemaBefore, result.SchemaAfter, result.Functions, result.Newer, result.Changed = r.Before, r.After,
		r.Functions, r.Newer, r.Changed
	result.Role, result.RolePrefix, result.Shared = r.Role, r.RolePrefix, r.Shared
	return result, nil
}

// closeConn closes a connection, politely if that is possible within a second, whatever became of the context.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, errors.New("close took too long"))
	defer cancel()
	conn.Close(ctx)
}
