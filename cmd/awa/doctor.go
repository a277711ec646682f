package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/dburl"
	"github.com/awa-pg/awa/internal/install"
)

// The levels of awa.health(). Critical is what loses, stops or exposes jobs, or soon may.
const (
	levelOK       = "ok"
	levelWarning  = "warning"
	levelCritical = "critical"
)

// exitStatus is by the worst finding, as monitoring plugins (Nagios, Icinga) have it.
var exitStatus = map[string]int{levelOK: 0, levelWarning: 1, levelCritical: 2}

// finding is a row of awa.health(), or of a check of the doctor's own, which has the same columns.
type finding struct {
	Level   string          `json:"level"`
	Topic   string          `json:"topic"`
	Subject string          `json:"subject"`
	Message string          `json:"message"`
	Hint    string          `json:"hint"`
	Details json.RawMessage `json:"details"`
}

func runDoctor(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error) {
	var asJSON, verbose bool
	_, databaseURL, err := parse("doctor", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.BoolVar(&asJSON, "json", false, "")
		flags.BoolVar(&verbose, "verbose", false, "")
	})
	if err != nil {
		return 0, err
	}
	if databaseURL == "" {
		fmt.Fprintln(stderr, "awa doctor: which database? Pass --database-url, or set DATABASE_URL")
		return 0, errUsage // not 1, which is a warning
	}
	src, err := install.Embedded()
	if err != nil {
		return 0, err
	}
	parameter, err := json.Marshal(sources{Sources: src, Fingerprint: src.Fingerprint(),
		Heartbeat: driver.WorkerConfig{}.WithDefaults().HeartbeatEvery.Seconds()})
	if err != nil {
		return 0, err
	}
	d := doctor{src: src, parameter: string(parameter)}
	d.examine(ctx, databaseURL)
	if d.conn != nil {
		showNames(databaseURL, stdout, stderr)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	for _, f := range d.findings {
		status = max(status, exitStatus[f.Level])
	}
	if !asJSON {
		printFindings(stdout, d.findings, verbose)
		return status, nil
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return status, encoder.Encode(d.findings)
}

// sources is what this program installs, and what else the checks need to know.
type sources struct {
	*install.Sources
	Fingerprint string  `json:"fingerprint"` // of the tables
	Heartbeat   float64 `json:"heartbeat"`   // seconds between heartbeats of a worker of the driver's
}

// doctor examines an installation. It changes nothing. Objects in the schema may hold code of those who may change it:
// so it compares the catalog with what this program installs, and does what reads tables or calls functions with the
// rights of the schema's owner or its readers.
// See runInside.
type doctor struct {
	src       *install.Sources
	parameter string // of checks: the sources, as JSON
	conn      *pgx.Conn
	owner     string // of the schema; all roles as SQL has them
	reader    string // another role that may call health, or the owner
	seesAll   string // what to do for that, as an installer that is no member of the owner
	reads     bool   // whether this session may call health
	superuser bool   // whether code that runs as this session can become a superuser
	findings  []finding
}

func (d *doctor) add(level, topic, subject, message, hint string) {
	d.findings = append(d.findings, finding{Level: level, Topic: topic, Subject: subject, Message: message, Hint: hint})
}

// begin begins a transaction, which is rolled back. All settings are the transaction's: behind a proxy that pools
// transactions the session is shared with others. To begin and to set looks nothing up.
func (d *doctor) begin(ctx context.Context, mode string) (pgx.Tx, error) {
	// With public in the search_path, a function that anybody put there could be run as this role. The waits are
	// bounded for a monitor's sake: when the tables are locked, that is a finding too.
	return d.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: "begin isolation level read committed " + mode + `;
		set local search_path = pg_catalog, pg_temp;
		set local quote_all_identifiers = off;
		set local application_name = 'awa doctor';
		set local statement_timeout = '30s';
		set local check_function_bodies = off;
		set local lock_timeout = '2s'`})
}

func (d *doctor) examine(ctx context.Context, databaseURL string) {
	cfg, err := dburl.Parse(databaseURL)
	if err == nil {
		cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 10*time.Second) // a monitor must not hang
		// a prepared statement has a name, which code in the schema could give to another one
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
		d.conn, err = pgx.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		d.add(levelCritical, "server", "", oneLine(err.Error()),
			oneLine(strings.TrimPrefix(explain(err).Error(), err.Error())))
		return
	}
	defer d.conn.Close(context.WithoutCancel(ctx))

	if !d.run(ctx, serverCheck) {
		return
	}
	d.run(ctx, readOnlyCheck)
	if !d.run(ctx, installedCheck) {
		return
	}
	if err := d.lookUpRoles(ctx); err != nil {
		d.fail("roles", err)
		return
	}
	tables := d.run(ctx, kindCheck)
	if tables {
		d.runInside(ctx, schemaCheck, d.owner)
	}
	d.run(ctx, versionCheck)
	same := !slices.ContainsFunc(d.findings,
		func(f finding) bool { return f.Topic == "version" && f.Subject != "" && f.Level != levelOK })
	functions := false
	// Another version has other functions or tables: that is said once, not of each of them.
	if same {
		functions = d.run(ctx, functionCheck)
		functions = d.compareDefinitions(ctx, functions) && functions
		d.run(ctx, tableCheck)
	}
	d.run(ctx, roleCheck)
	d.run(ctx, serverSettingCheck)
	if tables {
		d.runInside(ctx, settingCheck, d.owner)
		d.runInside(ctx, diskCheck, d.owner)
	} else {
		d.notCalled("settings", "disk")
	}
	if tables && functions {
		d.runInside(ctx, healthCheck, d.owner, d.reader)
	} else {
		d.notCalled("health")
	}
}

// lookUpRoles finds out who may do what.
func (d *doctor) lookUpRoles(ctx context.Context) error {
	const query = `
		select n.nspowner::regrole::text,
		       coalesce((
		         select r.oid::regrole::text
		           from pg_roles o
		           join pg_roles r on r.rolname = substring(o.rolname from '^(.*)owner$') || 'reader'
		          where o.oid = n.nspowner
		       ), n.nspowner::regrole::text),
		       case when not pg_has_role(o.oid, 'usage') and not o.rolcanlogin
		            and (pg_has_role(o.oid, 'member with admin option')
		                 or m.rolcreaterole and current_setting('server_version_num')::int < 160000)
		         then format('To see all, say before: grant %s to %s; and afterwards: revoke %1$s from %2$s cascade;',
		           o.oid::regrole, m.oid::regrole)
		         else 'To see all, run it as the role that installs.'
		       end,
		       has_schema_privilege(n.oid, 'usage') and exists (
		         select
		           from pg_proc p
		          where p.pronamespace = n.oid and p.proname = 'health' and p.pronargs = 0
		            and has_function_privilege(p.oid, 'execute')
		       ),
		       exists (select from pg_roles r where r.rolname in (current_user, session_user) and r.rolsuper)
		  from pg_namespace n
		  join pg_roles o on o.oid = n.nspowner
		  join pg_roles m on m.rolname = current_user
		 where n.nspname = 'awa'`
	tx, err := d.begin(ctx, "read only")
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	return tx.QueryRow(ctx, query).Scan(&d.owner, &d.reader, &d.seesAll, &d.reads, &d.superuser)
}

// notCalled says what was not looked at.
func (d *doctor) notCalled(topics ...string) {
	why := "what is installed is not this program's, and is not called"
	if slices.ContainsFunc(d.findings, func(f finding) bool {
		return f.Topic == "access" && slices.Contains([]string{"views", "functions", "tables"}, f.Subject)
	}) {
		why = "what is installed can't be compared with this program's, and is not called"
	}
	for _, topic := range topics {
		d.add(levelWarning, topic, "", "not looked at: "+why, "See to what is found above first.")
	}
}
