package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
	d := doctor{src: sources{Sources: src, Heartbeat: driver.WorkerConfig{}.WithDefaults().HeartbeatEvery.Seconds()}}
	d.examine(ctx, databaseURL)
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

// printFindings prints what is wrong, a line for each thing, and one line for a topic where nothing is: all that was found when verbose.
// What is wrong with several subjects alike is said once.
func printFindings(w io.Writer, findings []finding, verbose bool) {
	for len(findings) > 0 {
		topic := findings[0].Topic
		var wrong, fine []finding
		findings = slices.DeleteFunc(slices.Clone(findings), func(f finding) bool {
			switch {
			case f.Topic != topic:
				return false
			case f.Level == levelOK:
				fine = append(fine, f)
			default:
				wrong = append(wrong, f)
			}
			return true
		})
		switch {
		case verbose:
			for _, f := range append(wrong, fine...) {
				printFinding(w, f)
			}
		case len(wrong) > 0:
			for _, f := range merge(wrong) {
				printFinding(w, f)
			}
		case len(fine) > 2:
			printFinding(w, finding{Level: levelOK, Topic: topic, Message: fmt.Sprintf("%d looked at, all well; --verbose shows them", len(fine))})
		default:
			var texts []string
			for _, f := range fine {
				texts = append(texts, f.text())
			}
			printFinding(w, finding{Level: levelOK, Topic: topic, Message: strings.Join(texts, "; ")})
		}
	}
}

func printFinding(w io.Writer, f finding) {
	text := f.text()
	if f.Hint != "" && f.Level != levelOK {
		text = strings.TrimSuffix(text, ".") + ". " + f.Hint
	}
	fmt.Fprintf(w, "%-8s  %-11s  %s\n", f.Level, f.Topic, oneLine(text))
}

func (f finding) text() string {
	if f.Subject == "" {
		return f.Message
	}
	return f.Subject + ": " + f.Message
}

// merge makes one finding of those that differ in the subject alone, and names some of the subjects.
func merge(findings []finding) (merged []finding) {
	for len(findings) > 0 {
		first := findings[0]
		var subjects []string
		findings = slices.DeleteFunc(slices.Clone(findings), func(f finding) bool {
			same := f.Level == first.Level && f.Message == first.Message && f.Hint == first.Hint
			if same {
				subjects = append(subjects, f.Subject)
			}
			return same
		})
		if n := len(subjects) - 5; n > 0 {
			subjects = append(subjects[:5], fmt.Sprintf("%d more", n))
		}
		first.Subject = strings.Join(subjects, ", ")
		merged = append(merged, first)
	}
	return merged
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// sources is what this program installs, and what else the checks need to know.
type sources struct {
	*install.Sources
	Heartbeat float64 `json:"heartbeat"` // seconds between heartbeats of a worker of the driver's
}

// doctor examines an installation. It changes nothing, and calls nothing of the schema, and reads nothing in it, before the catalog
// has said that it is what this program installs: whoever may change the schema must not have his code run by whoever looks.
type doctor struct {
	src      sources
	conn     *pgx.Conn
	findings []finding
}

func (d *doctor) add(level, topic, subject, message, hint string) {
	d.findings = append(d.findings, finding{Level: level, Topic: topic, Subject: subject, Message: message, Hint: hint})
}

func (d *doctor) examine(ctx context.Context, databaseURL string) {
	cfg, err := dburl.Parse(databaseURL)
	if err == nil {
		cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 10*time.Second) // a monitor must not hang
		d.conn, err = pgx.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		d.add(levelCritical, "server", "", oneLine(err.Error()), oneLine(strings.TrimPrefix(explain(err).Error(), err.Error())))
		return
	}
	defer d.conn.Close(context.WithoutCancel(ctx))

	// With public in the search_path, a function that anybody put there could be run as this role. The waits are bounded for a
	// monitor's sake: when the tables are locked, that is a finding too.
	const session = `
		set search_path = pg_catalog, pg_temp;
		set application_name = 'awa doctor';
		set statement_timeout = '30s';
		set check_function_bodies = off;
		set lock_timeout = '2s'`
	if _, err := d.conn.Exec(ctx, session); err != nil {
		d.fail("server", err)
		return
	}
	if !d.run(ctx, serverCheck) {
		return
	}
	d.run(ctx, readOnlyCheck)
	if _, err := d.conn.Exec(ctx, "set default_transaction_read_only = on"); err != nil {
		d.fail("server", err)
		return
	}
	if !d.run(ctx, installedCheck) {
		return
	}
	tables := d.run(ctx, kindCheck)
	if tables {
		d.run(ctx, schemaCheck)
	}
	d.run(ctx, versionCheck)
	same := !slices.ContainsFunc(d.findings, func(f finding) bool { return f.Topic == "version" && f.Level == levelWarning })
	functions := false
	// Another version has other functions and tables: that is said once, not of each of them.
	if same {
		functions = d.run(ctx, functionCheck)
		functions = d.compareDefinitions(ctx) && functions
		d.run(ctx, tableCheck)
	}
	d.run(ctx, roleCheck)
	d.run(ctx, serverSettingCheck)
	if tables {
		d.run(ctx, settingCheck)
		d.run(ctx, diskCheck)
	} else {
		d.notCalled("settings", "disk")
	}
	if tables && functions {
		d.run(ctx, healthCheck)
	} else {
		d.notCalled("health")
	}
}

// notCalled says what was not looked at.
func (d *doctor) notCalled(topics ...string) {
	for _, topic := range topics {
		d.add(levelWarning, topic, "", "not looked at: what is installed is not this program's, and is not called", "See to what is found above first.")
	}
}

// check is a query that a SQL caller could run, too: it returns what is wrong. Parameter $1 is the sources as JSON.
type check struct {
	topic string
	ok    string // what to say when nothing is wrong
	query string
}

// run runs a check, and returns whether nothing is wrong.
func (d *doctor) run(ctx context.Context, c check) bool {
	if d.conn.IsClosed() {
		return false // a finding says so
	}
	var args []any
	if strings.Contains(c.query, "$1") {
		args = append(args, d.src)
	}
	rows, _ := d.conn.Query(ctx, c.query, args...) // CollectRows returns the error
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[finding])
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

// fail says that a check has failed.
func (d *doctor) fail(topic string, err error) {
	var pg *pgconn.PgError
	// To a superuser this is denied only where the owner of a view, or of a function, has lost a right that it needs.
	if errors.As(err, &pg) && pg.Code == "42501" && d.conn.PgConn().ParameterStatus("is_superuser") != "on" { // insufficient_privilege
		d.add(levelWarning, "access", topic, "not checked: this role may not look there",
			"Run this as a member of awa_owner. To monitor, a member of awa_reader may call awa.health().")
		return
	}
	d.add(levelCritical, topic, "", "can't be checked: "+err.Error(), "")
}

// compareDefinitions compares what the server keeps no text of, but only parsed: views, and functions in standard SQL. What it makes of this program's text
// it shows in a transaction that is rolled back. Nothing is planned or run: that might call what it looks at.
func (d *doctor) compareDefinitions(ctx context.Context) (same bool) {
	same = true
	compare := func(topic, subject, create, installed, temporary, definition string) bool {
		var a, b *string
		var temp bool
		err := pgx.BeginTxFunc(ctx, d.conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
			defer tx.Rollback(ctx)
			if _, err := tx.Exec(ctx, create); err != nil {
				return err
			}
			return tx.QueryRow(ctx, fmt.Sprintf("select %s, %s, true", fmt.Sprintf(definition, installed), fmt.Sprintf(definition, temporary))).Scan(&a, &b, &temp)
		})
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

var serverCheck = check{"server", "", `
select 'critical' as level, '' as subject, format('PostgreSQL %s is too old', current_setting('server_version')) as message, 'Awa needs PostgreSQL 15 or newer.' as hint
 where current_setting('server_version_num')::int < 150000
union all
select 'ok', '', format('PostgreSQL %s, database %s, as %s', current_setting('server_version'), current_database(), current_user), ''`}

var readOnlyCheck = check{"server", "", `
select 'critical' as level, '' as subject, case when pg_is_in_recovery() then 'this is a standby' else 'transactions are read-only here' end as message,
       'Nothing is enqueued or claimed here: check the URL, and default_transaction_read_only.' as hint
 where current_setting('transaction_read_only')::boolean`}

var installedCheck = check{"installed", "", `
select 'critical' as level, '' as subject, format('Awa is not installed in database %s', current_database()) as message, 'Run awa migrate there, or check the URL.' as hint
 where not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'awa' and c.relname = 'ready_entries')`}

// What is in awa.schema_version, once it is sure that it is a table, and that reading it calls nothing.
var schemaCheck = check{"version", "", `
select case v.version when e.schema then 'ok' else 'warning' end as level, 'schema' as subject,
       case v.version when e.schema then format('version %s', v.version) else format('version %s, this program brings %s', v.version, e.schema) end as message,
       case when v.version < e.schema then 'Run awa migrate.' when v.version > e.schema then 'Use a newer awa.' else '' end as hint
  from awa.schema_version v, jsonb_to_record($1::jsonb) e(schema int)`}

// The function that returns the version is looked at, and not called.
var versionCheck = check{"version", "", `
select case v.version when e.version then 'ok' else 'warning' end as level, 'functions' as subject,
       case v.version when e.version then format('version %s', v.version) else format('version %s, this program brings %s', v.version, e.version) end as message,
       case v.version when e.version then '' else 'Run awa migrate, or use a newer awa, whichever is older.' end as hint
  from jsonb_to_record($1::jsonb) e(version text)
  join lateral (
    select substring(p.prosrc from '^ *select ''([0-9.]+)'' *$') as version from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'awa' and p.proname = 'version' and p.pronargs = 0
  ) v on v.version <> ''`} // of another text the check of functions tells

// What has the name of a table may be something else, which runs somebody's code when it is read.
var kindCheck = check{"tables", "", `
select 'critical' as level, format('awa.%I', c.relname) as subject,
       case when k.kinds is null then 'is neither a table, a view, a sequence nor an index' when c.relkind::text <> all (k.kinds) then format('is not a %s', e.kind) when c.relrowsecurity then 'has policies' else 'has a rule' end as message,
       'Reading it may run code of whoever made it. Find out who did, and put back what was there.' as hint
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'awa'
  join jsonb_to_recordset($1::jsonb -> 'relations') e(name text, kind text) on e.name = c.relname
  left join lateral (select case e.kind when 'table' then '{r,p}' when 'partition' then '{r}' when 'sequence' then '{S}' when 'index' then '{i,I}' when 'view' then '{v}' end::text[]) k(kinds) on true
 where c.relkind::text <> all (k.kinds) or c.relrowsecurity or c.relkind <> 'v' and exists (select from pg_rewrite r where r.ev_class = c.oid)
 order by subject`}

// A function whose body is in standard SQL (return ...) is kept as a parse tree, without its text: of these, all but the body is
// compared. Of defaults, only how many there are.
var functionCheck = check{"functions", "they are this program's", `
with expected as (
  select e.*, format('awa.%s(%s)', e.name, array_to_string(e.types, ', ')) as signature,
         array(select to_regtype(t.name)::oid from unnest(e.types) with ordinality t(name, n) order by t.n) as oids
    from jsonb_to_recordset($1::jsonb -> 'functions') e(name text, names text[], types text[], defaults int, result text, attributes text[], settings text[], body text)
), installed as (
  select p.*, p.oid::regprocedure::text as signature, coalesce(p.proallargtypes, array(select unnest(p.proargtypes))) as oids,
         (select array_agg(a order by a)
            from unnest(array[case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end, case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                   case p.provolatile when 'i' then 'immutable' when 's' then 'stable' end]) a
           where a is not null) as attributes
    from pg_proc p
   where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
), compared as (
  select e.name, p.proname, coalesce(p.signature, e.signature) as signature,
         array_to_string(array[
           case when p.prosrc <> coalesce(e.body, '') or (p.prosqlbody is null) <> (e.body is not null) then 'body' end,
           case when coalesce(p.proargnames, '{}') <> e.names then 'names of arguments' end,
           case when p.pronargdefaults <> e.defaults then 'defaults' end,
           case when e.result <> '' and format('%s%s', case when p.proretset then 'setof ' end, p.prorettype::regtype)
                <> format('%s%s', substring(e.result from '^setof '), to_regtype(replace(e.result, 'setof ', ''))) then 'result' end,
           case when coalesce(p.attributes, '{}') <> e.attributes then 'attributes' end,
           case when coalesce((select array_agg(c order by c) from unnest(p.proconfig) c), '{}') <> e.settings then 'settings' end], ', ') as differences
    from expected e
    full join installed p on p.proname = e.name and p.oids = e.oids
)
select 'critical' as level, c.signature as subject, 'is missing' as message, 'Run awa migrate.' as hint 
  from compared c
 where c.proname is null
union all
select 'warning', c.signature, format('is not this program''s: %s', c.differences),
       'Run awa migrate; put changes of your own in functions of your own.'
  from compared c
 where c.differences <> '' and c.proname is not null and c.name is not null
union all
select 'warning', c.signature, 'is none of Awa''s', 'Left by another version, or put there: move it to another schema. awa migrate drops what is there when it changes anything.'
  from compared c
 where c.name is null
 order by level, subject`}

var tableCheck = check{"tables", "they are this program's, with indexes, sequences and triggers", `
with expected as (
  select e.* from jsonb_to_recordset($1::jsonb -> 'relations') e(name text, kind text, options text[])
), relations as (
  select c.*, format('awa.%I', c.relname) as name from pg_class c where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
)
select 'critical' as level, format('awa.%I', e.name) as subject, 'is missing' as message, case e.kind when 'view' then 'Run awa migrate.' else 'Create it again as in sql/migrations, or restore a backup.' end as hint
  from expected e
 where not exists (select from relations c where c.relname = e.name)
union all
select 'critical', c.name, 'is detached from its table', 'Rows for it are refused: attach it again (alter table ... attach partition).'
  from expected e join relations c on c.relname = e.name
 where e.kind = 'partition' and not c.relispartition
union all
select 'critical', c.name, 'is unlogged: a crash empties it', format('alter table %s set logged;', c.name)
  from relations c
 where c.relpersistence = 'u' and c.relkind = 'r'
union all
select 'critical', c.name, 'is invalid: what needs it reads the whole table', format('reindex index concurrently %s;', c.name)
  from relations c join pg_index i on i.indexrelid = c.oid
 where not (i.indisvalid and i.indisready)
union all
select 'warning', c.name, format('is without %s', string_agg(o.option, ', ')), format('alter table %s set (%s);', c.name, string_agg(o.option, ', '))
  from expected e
  join relations c on c.relname = e.name
 cross join unnest(e.options) o(option)
  left join pg_class t on t.oid = c.reltoastrelid
 where case when o.option like 'toast.%' then t.oid is not null and not coalesce(substr(o.option, 7) = any (t.reloptions), false) else not coalesce(o.option = any (c.reloptions), false) end
 group by c.name
union all
select 'warning', c.name, 'is not vacuumed', format('It has rows that change: alter table %s reset (autovacuum_enabled);', c.name)
  from expected e join relations c on c.relname = e.name
 where c.relkind = 'r' and e.kind <> 'partition' and c.reloptions && array['autovacuum_enabled=off', 'autovacuum_enabled=false']
union all
select 'critical', format('trigger %s on %s', e.name, c.name), case when t.oid is null then 'is missing' else 'is disabled' end,
       case when t.oid is null then 'Run awa migrate.' else format('alter table %s enable trigger %s;', c.name, e.name) end
  from jsonb_to_recordset($1::jsonb -> 'triggers') e(name text, "table" text)
  join relations c on c.relname = e.table or c.oid in (select i.inhrelid from pg_inherits i join relations p on p.oid = i.inhparent where p.relname = e.table)
  left join pg_trigger t on t.tgrelid = c.oid and t.tgname = e.name
 where t.oid is null or t.tgenabled not in ('O', 'A')
 order by level, subject`}

var roleCheck = check{"roles", "they, owners and grants are this program's", `
with schema as (
  select n.* from pg_namespace n where n.nspname = 'awa'
), prefix as (
  select coalesce((select substring(r.rolname from '^(.*)owner$') from schema s join pg_roles r on r.oid = s.nspowner and (not r.rolcanlogin or exists (select from pg_roles p where p.rolname = substring(r.rolname from '^(.*)owner$') || 'producer'))), 'awa_') as prefix
), roles as (
  select e.role as name, p.prefix || e.role as role, r.oid from prefix p cross join jsonb_array_elements_text($1::jsonb -> 'roles') e(role) left join pg_roles r on r.rolname = p.prefix || e.role
), functions as (
  select p.*, p.oid::regprocedure::text as name from pg_proc p where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
), relations as (
  select c.*, format('awa.%I', c.relname) as name from pg_class c
   where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa') and c.relkind in ('r', 'p', 'v', 'S')
), owner as (
  select mode() within group (order by f.proowner) as oid from functions f
), objects as (
  select 'schema' as kind, 'awa' as name, 'awa' as relation, n.nspowner as owner, n.nspacl as acl from schema n
  union all select 'routine', f.name, f.proname, f.proowner, coalesce(f.proacl, acldefault('f', f.proowner)) from functions f
  union all select case c.relkind when 'S' then 'sequence' else 'table' end, c.name, c.relname, c.relowner, c.relacl from relations c
  union all select 'table', format('%s.%I', c.name, a.attname), '', c.relowner, a.attacl from relations c join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
), granted as (
  select r.oid, g.kind, g.name from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text) join roles r on r.name = g.role
)
select 'warning' as level, r.role as subject, 'does not exist' as message, 'Run awa migrate as a role that may create roles.' as hint
  from roles r
 where r.oid is null and exists (select from roles o where o.oid is not null)
union all
select 'ok', '', format('Awa is installed for %s alone', o.oid::regrole), ''
  from owner o
 where not exists (select from roles r where r.oid is not null)
union all
select 'warning', '', format('the functions run as %s, not as %s', o.oid::regrole, r.role), format('Run awa migrate as a member of %s.', r.role)
  from owner o
  join roles r on r.name = 'owner' and r.oid <> o.oid
union all
select 'critical', b.name, format('belongs to %s, functions to %s', b.owner::regrole, o.oid::regrole), format('Run awa migrate as a member of both.')
  from owner o
  join objects b on b.owner <> o.oid
union all
select 'warning', o.role, 'is a superuser, as which everybody''s calls run', format('alter role %I nosuperuser;', o.role)
  from roles o join pg_roles r on r.oid = o.oid
 where o.name = 'owner' and r.rolsuper
union all
select 'warning', o.role, 'can log in, and then read and change everything', format('alter role %I nologin;', o.role)
  from roles o join pg_roles r on r.oid = o.oid
 where o.name = 'owner' and r.rolcanlogin
union all
select 'warning', o.role, format('has the member %s, who can read and change everything', m.member::regrole), format('When nothing is to be installed: revoke %I from %s;', o.role, m.member::regrole)
  from roles o
  join pg_auth_members m on m.roleid = o.oid
 where o.name = 'owner' and (coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true) or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)) -- from PostgreSQL 16 on, its creator is a member that is neither
union all
select 'warning', o.oid::regrole::text, 'may not see the snapshots of others: a segment is kept until their sessions end', format('As a superuser: grant pg_read_all_stats to %s;', o.oid::regrole)
  from owner o
 where not pg_has_role(o.oid, 'pg_read_all_stats', 'usage')
union all
select case when b.kind = 'schema' and a.privilege_type = 'USAGE' then 'warning' else 'critical' end, b.name,
       format('is open to %s (%s)', case a.grantee when 0 then 'everybody' else a.grantee::regrole::text end, string_agg(a.privilege_type || case when a.is_grantable then ', to be passed on' else '' end, ', ' order by a.privilege_type)), 'Run awa migrate.'
  from objects b
 cross join aclexplode(b.acl) a
 where a.grantee <> b.owner
   and (a.is_grantable
        or not exists (select from granted g
                        where g.oid = a.grantee
                          and case b.kind when 'schema' then a.privilege_type = 'USAGE' when 'routine' then g.kind = 'function' and g.name = b.relation else g.kind = 'relation' and g.name = b.relation and a.privilege_type = 'SELECT' end))
 group by b.kind, b.name, a.grantee, case when b.kind = 'schema' and a.privilege_type = 'USAGE' then 'warning' else 'critical' end
union all
select 'warning', 'awa', format('can''t be used by %s', r.role), 'Run awa migrate.'
  from roles r
 where r.name <> 'owner' and r.oid is not null and not has_schema_privilege(r.oid, 'awa', 'usage')
union all
select 'warning', f.name, format('can''t be called by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.name = g.role and r.oid is not null
  join functions f on f.proname = g.name and g.kind = 'function'
 where not has_function_privilege(r.oid, f.oid, 'execute')
union all
select 'warning', c.name, format('can''t be read by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.name = g.role and r.oid is not null
  join relations c on c.relname = g.name and g.kind = 'relation'
 where not has_table_privilege(r.oid, c.oid, 'select')
 order by level, subject, message`}

var serverSettingCheck = check{"settings", "they fit", `
select s.level, format('%s = %s', s.name, current_setting(s.name)) as subject, s.message, s.hint
  from (values
    ('critical', 'fsync', 'off', 'a crash of the machine may destroy the database', 'Set it to on.'),
    ('critical', 'full_page_writes', 'off', 'a crash of the machine may destroy the database', 'Set it to on, unless the file system writes pages whole.'),
    ('warning', 'synchronous_commit', 'off', 'a crash may lose jobs whose enqueue was committed, and repeat jobs whose completion was', 'Set it to on. Awa''s drivers turn it off where that is safe.'),
    ('critical', 'autovacuum', 'off', 'tables beside the hot path grow for ever', 'Set it to on.'),
    ('critical', 'track_counts', 'off', 'autovacuum does nothing without it', 'Set it to on.'),
    ('warning', 'default_transaction_isolation', 'repeatable read', 'claim and others are refused (JQ004) in transactions that do not say otherwise', 'Set it to read committed.'),
    ('warning', 'default_transaction_isolation', 'serializable', 'claim and others are refused (JQ004) in transactions that do not say otherwise', 'Set it to read committed.')
  ) s(level, name, bad, message, hint)
 where current_setting(s.name) = s.bad
union all
select 'warning', format('max_locks_per_transaction = %s', current_setting('max_locks_per_transaction')), 'many sessions at once may find the lock table full: each locks segments and indexes by the dozen', 'Set it to 64 or more.'
 where current_setting('max_locks_per_transaction')::int < 64`}

var settingCheck = check{"settings", "", `
select 'warning' as level, format('prune_wait = %s', s.prune_wait) as subject, format('not shorter than deadlock_timeout (%s): a prune may end the transaction of somebody who waits behind it', current_setting('deadlock_timeout')) as message,
       'Raise deadlock_timeout, or lower prune_wait in awa.settings.' as hint
  from awa.settings s
 where s.prune_wait >= current_setting('deadlock_timeout')::interval
union all
select 'warning', format('lease = %s of queue %s', s.lease, q.name), format('not longer than %s, the time between heartbeats of a Go worker: what takes longer runs twice', h.every),
       'Set a longer one with awa.configure_queue, or see to shorter ones: Lease and HeartbeatEvery in WorkerConfig.'
  from awa.queue_settings s
 cross join (select make_interval(secs => ($1::jsonb ->> 'heartbeat')::float8) as every) h
 cross join lateral (select q.name from awa.queues q where q.queue_id = s.queue_id and q.dropped_at is null limit 1) q
 where s.lease <= h.every`}

// How much history takes: from what was written since the segment before the last was begun (the begin of the oldest of four is not known).
// Three segments that are left have to span the retention, for the fourth to stay as large as they are.
var diskCheck = check{"disk", "no history yet to judge by", `
with segments as (
  select n as back, r.left_at[r.current_segment + 1] as begun,
         r.left_at[(r.current_segment + 4 - n) % 4 + 1] as left_at,
         r.left_at[(r.current_segment + 3 - n) % 4 + 1] as left_before,
         z.bytes, z.entry_bytes
    from awa.ring r
   cross join generate_series(0, 3) n
   cross join lateral (
      select sum(pg_total_relation_size(c.oid)) as bytes, sum(pg_relation_size(c.oid)) filter (where c.relname ~ '^ready_entries_') as entry_bytes
        from pg_class c
       where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa') and c.relispartition and c.relkind = 'r' and right(c.relname, 2) = format('_%s', (r.current_segment + 4 - n) % 4)
    ) z
   where z.entry_bytes > 0
), rate as (
  select sum(g.bytes) / t.hours as bytes, sum(g.entry_bytes) / t.hours as entry_bytes
    from segments g
   cross join (
      select extract(epoch from clock_timestamp() - min(case g.back when 0 then g.begun else g.left_before end)) / 3600 as hours from segments g where g.back < 3
    ) t
   where g.back < 3 and t.hours >= 1
   group by t.hours
), needs as (
  select s.*, extract(epoch from s.completed_retention) / 3600 as hours, r.bytes, r.entry_bytes,
         least(extract(epoch from s.segment_age) / 3600, s.segment_bytes / nullif(r.entry_bytes, 0)) as segment_hours
    from awa.settings s, rate r
)
select 'ok' as level, '' as subject,
       format('%s in segments, %s an hour; completed_retention = %s will take about %s', pg_size_pretty((select sum(g.bytes) from segments g)), pg_size_pretty(n.bytes::bigint), n.completed_retention,
         pg_size_pretty((n.bytes * (n.hours + n.segment_hours))::bigint)) as message, '' as hint
  from needs n
union all
select 'warning', 'ring',
       format('full: three segments are within completed_retention (%s), and the current one has grown to %s in %s', s.completed_retention, pg_size_pretty(g.entry_bytes), date_trunc('second', clock_timestamp() - g.begun)),
       concat('It costs disk: history is removed a segment at a time. ', coalesce(format('For the load of late, set segment_bytes to %s and segment_age to %s or more in awa.settings, or ',
         (select (ceil(n.entry_bytes * n.hours / 3 / 1048576) * 1048576)::bigint from needs n), s.completed_retention / 3), 'Raise segment_bytes or segment_age in awa.settings, or '), 'lower completed_retention.')
  from awa.settings s
  join segments g on g.back = 0
  join segments o on o.back = 3
 where o.left_at > clock_timestamp() - s.completed_retention
   and (g.entry_bytes >= 2 * s.segment_bytes or g.begun <= clock_timestamp() - 2 * s.segment_age)`}

var healthCheck = check{"health", "", `
select h.level, h.topic, coalesce(h.subject, '') as subject, h.message, coalesce(h.hint, '') as hint, h.details from awa.health() h`}
