package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/sql"
)

// check is a query that a SQL caller could run, too: it returns what is wrong. Parameter $1 is the sources as JSON.
type check struct {
	topic string
	ok    string // what to say when nothing is wrong
	query string
}

//go:embed doctor/*.sql
var checkFiles embed.FS

func readFile(name string) string {
	text, err := checkFiles.ReadFile("doctor/" + name + ".sql")
	if err != nil {
		panic(err)
	}
	return string(text)
}

func readCheck(topic, ok, name string) check {
	foreign, err := sql.Install.ReadFile("install/foreign.sql") // what an installation takes for foreign, doctor does, too
	if err != nil {
		panic(err)
	}
	members, err := sql.Install.ReadFile("install/members.sql")
	if err != nil {
		panic(err)
	}
	_, query, _ := strings.Cut(string(members), `{{define "members"}}`)
	query, _, _ = strings.Cut(query, "{{end}}")
	return check{topic, ok, strings.NewReplacer("{{foreign}}", string(foreign), "{{members}}", query).
		Replace(readFile(name))}
}

var (
	serverCheck        = readCheck("server", "", "server")
	readOnlyCheck      = readCheck("server", "", "read_only")
	installedCheck     = readCheck("installed", "", "installed")
	schemaCheck        = readCheck("version", "", "schema")
	versionCheck       = readCheck("version", "", "version")
	kindCheck          = readCheck("tables", "", "kinds")
	functionCheck      = readCheck("functions", "they are this program's", "functions")
	typeCheck          = readCheck("tables", "", "types")
	tableCheck         = readCheck("tables", "they are this program's, with indexes, sequences and triggers", "tables")
	roleCheck          = readCheck("roles", "they, owners and grants are this program's", "roles")
	serverSettingCheck = readCheck("settings", "they fit", "server_settings")
	settingCheck       = readCheck("settings", "", "settings")
	diskCheck          = readCheck("disk", "no history yet to judge by", "disk")
	healthCheck        = readCheck("health", "", "health")
	definitionsBody    = readFile("definitions")
)

// run runs a check that reads the server's catalogs only, and returns whether nothing is wrong.
func (d *doctor) run(ctx context.Context, c check) bool {
	if d.conn.IsClosed() {
		return false // a finding says so
	}
	found, err := d.collect(ctx, c)
	return d.conclude(c, found, err)
}

func (d *doctor) collect(ctx context.Context, c check) ([]finding, error) {
	mode := "read only"
	if c == readOnlyCheck {
		mode = "" // as the session has it
	}
	tx, err := d.begin(ctx, mode)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var args []any
	if strings.Contains(c.query, "$1") {
		args = append(args, d.parameter)
	}
	rows, _ := tx.Query(ctx, c.query, args...) // CollectRows returns the error
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[finding])
}

// conclude adds what a check has found.
func (d *doctor) conclude(c check, found []finding, err error) bool {
	if err != nil {
		d.fail(c.topic, err)
		return false
	}
	if len(found) == 0 && c.ok != "" {
		d.add(levelOK, c.topic, "", c.ok, "")
	}
	well := true
	for _, f := range found {
		f.Topic = cmp.Or(f.Topic, c.topic)
		d.findings = append(d.findings, f)
		well = well && f.Level == levelOK
	}
	return well
}

// errNotMade says that no function could be made for a check.
var errNotMade = errors.New("no function could be made")

// runInside runs a check that reads tables, or calls functions, of the schema. Its objects are its owner's, and may
// differ from what it was a moment ago, whatever was compared. So it runs as the owner, or as another role of the
// installation, and no more: in a function of theirs, in a transaction that is read-only and rolled back.
func (d *doctor) runInside(ctx context.Context, c check, roles ...string) {
	if d.conn.IsClosed() {
		return
	}
	err := errNotMade
	var found []finding
	for _, role := range roles {
		found, err = d.collectAs(ctx, role, "sql", "select to_jsonb(q) from (\n"+c.query+") q", d.parameter,
			"set transaction read only")
		if !errors.Is(err, errNotMade) {
			break
		}
	}
	switch {
	case !errors.Is(err, errNotMade):
		d.conclude(c, found, err)
	case d.superuser:
		d.add(levelWarning, "access", c.topic, "not looked at: it would run with all rights of a superuser",
			d.asReader())
	case c.topic == healthCheck.topic: // as any program calls it
		found, err = d.collect(ctx, c)
		d.conclude(c, found, err)
	default:
		d.fail(c.topic, err)
	}
}

// asReader is the hint to run it with few rights.
func (d *doctor) asReader() string {
	return "Run this as a login that is a member of " + d.reader + ", and of no other role."
}

// collectAs runs the body of a function that belongs to a role, which is given in SQL, in a transaction of a mode.
func (d *doctor) collectAs(
	ctx context.Context, role, language, body, parameter, mode string,
) (found []finding, err error) {
	tx, err := d.begin(ctx, "read only")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotMade, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	for _, statement := range []string{
		"set transaction read write", // here, since a connection on which a begin fails is closed
		"create function pg_temp.awa_doctor(jsonb) returns setof jsonb language " + language +
			" security definer set search_path = pg_catalog, pg_temp as $awa_doctor$\n" + body + " $awa_doctor$",
		"alter function pg_temp.awa_doctor(jsonb) owner to " + role,
		mode,
	} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("%w: %w", errNotMade, err)
		}
	}
	rows, _ := tx.Query(ctx, "select f from pg_temp.awa_doctor($1::jsonb) f", parameter) // CollectRows returns the error
	return pgx.CollectRows(rows, pgx.RowTo[finding])
}

// fail says that a check has failed.
func (d *doctor) fail(topic string, err error) {
	var pg *pgconn.PgError
	// To a superuser this is denied only where the owner of a view, or of a function, has lost a right that it needs.
	// insufficient_privilege
	if errors.As(err, &pg) && pg.Code == "42501" && d.conn.PgConn().ParameterStatus("is_superuser") != "on" {
		if d.reads { // a monitor sees what it is meant to see
			d.add(levelOK, "access", topic, "not checked: only the schema's owner and superusers may look there", "")
			return
		}
		d.add(levelWarning, "access", topic, "not checked: this role may not look there",
			"To monitor, run this as a member of "+cmp.Or(d.reader, "awa_reader")+". "+d.seesAll)
		return
	}
	d.add(levelCritical, topic, "", "can't be checked: "+err.Error(), "")
}
