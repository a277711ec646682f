package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/sql"
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
	src, err := readSources()
	if err != nil {
		return 0, err
	}
	d := doctor{src: src}
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

// doctor examines an installation. It changes nothing.
type doctor struct {
	src      sources
	conn     *pgx.Conn
	findings []finding
}

func (d *doctor) add(level, topic, subject, message, hint string) {
	d.findings = append(d.findings, finding{Level: level, Topic: topic, Subject: subject, Message: message, Hint: hint})
}

func (d *doctor) examine(ctx context.Context, databaseURL string) {
	cfg, err := pgx.ParseConfig(databaseURL)
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
	d.run(ctx, schemaCheck)
	d.run(ctx, versionCheck)
	// Another version has other functions and tables: that is said once, not of each of them.
	if !slices.ContainsFunc(d.findings, func(f finding) bool { return f.Topic == "version" && f.Level == levelWarning }) {
		d.run(ctx, functionCheck)
		d.compareViews(ctx)
		d.run(ctx, tableCheck)
	}
	for _, c := range []check{roleCheck, serverSettingCheck, settingCheck, diskCheck, healthCheck} {
		d.run(ctx, c)
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
			"Run this as a superuser or as a member of awa_owner. To monitor, a member of awa_reader may call awa.health().")
		return
	}
	d.add(levelCritical, topic, "", "can't be checked: "+err.Error(), "")
}

// compareViews compares the views by their plans, since the server keeps no text of them. Plans depend on the sizes of tables,
// which others change meanwhile: so a view has to differ time and again.
func (d *doctor) compareViews(ctx context.Context) {
	wrong := false
	for _, v := range d.src.views {
		differs := true
		var err error
		for range 3 {
			var installed, source []string
			if installed, err = d.plan(ctx, "select * from awa."+v.name); err != nil {
				break
			}
			if source, err = d.plan(ctx, "select * from ("+v.query+") "+v.name); err != nil {
				break
			}
			if differs = !slices.Equal(installed, source); !differs {
				break
			}
		}
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "42883"): // no such table, or function: other checks tell which
			wrong = true
		case err != nil:
			d.fail("views", err)
			return
		case differs:
			wrong = true
			d.add(levelWarning, "views", "awa."+v.name, "is not this program's", "Run awa migrate; put changes of your own in views of your own.")
		}
	}
	if !wrong {
		d.add(levelOK, "views", "", "they are this program's", "")
	}
}

func (d *doctor) plan(ctx context.Context, query string) ([]string, error) {
	rows, _ := d.conn.Query(ctx, "explain (verbose, costs off) "+query)
	return pgx.CollectRows(rows, pgx.RowTo[string])
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

var schemaCheck = check{"version", "", `
select case v.version when e.schema then 'ok' else 'warning' end as level, 'schema' as subject,
       case v.version when e.schema then format('version %s', v.version) else format('version %s, this program brings %s', v.version, e.schema) end as message,
       case when v.version < e.schema then 'Run awa migrate.' when v.version > e.schema then 'Use a newer awa.' else '' end as hint
  from awa.schema_version v, jsonb_to_record($1::jsonb) e(schema int)`}

var versionCheck = check{"version", "", `
select case v.version when e.version then 'ok' else 'warning' end as level, 'functions' as subject,
       case v.version when e.version then format('version %s', v.version) else format('version %s, this program brings %s', v.version, e.version) end as message,
       case v.version when e.version then '' else 'Run awa migrate, or use a newer awa, whichever is older.' end as hint
  from awa.version() v(version), jsonb_to_record($1::jsonb) e(version text)`}

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
       case when c.differences ~ 'names|defaults|result' then 'Drop it, and run awa migrate.' else 'Run awa migrate; put changes of your own in functions of your own.' end
  from compared c
 where c.differences <> '' and c.proname is not null and c.name is not null
union all
select 'warning', c.signature, 'is none of Awa''s', 'Left by another version, or put there: drop it, or move it to another schema.'
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
with roles as (
  select e.role, r.oid from jsonb_array_elements_text($1::jsonb -> 'roles') e(role) left join pg_roles r on r.rolname = e.role
), functions as (
  select p.*, p.oid::regprocedure::text as name from pg_proc p where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
), relations as (
  select c.*, format('awa.%I', c.relname) as name from pg_class c
   where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa') and c.relkind in ('r', 'p', 'v', 'S')
), owner as (
  select mode() within group (order by f.proowner) as oid from functions f
), objects as (
  select 'schema' as kind, 'awa' as name, n.nspowner as owner, n.nspacl as acl from pg_namespace n where n.nspname = 'awa'
  union all select 'routine', f.name, f.proowner, coalesce(f.proacl, acldefault('f', f.proowner)) from functions f
  union all select case c.relkind when 'S' then 'sequence' else 'table' end, c.name, c.relowner, c.relacl from relations c
)
select 'warning' as level, r.role as subject, 'does not exist' as message, 'Run awa migrate as a role that may create roles.' as hint
  from roles r
 where r.oid is null and exists (select from roles o where o.oid is not null)
union all
select 'ok', '', format('Awa is installed for %s alone', o.oid::regrole), ''
  from owner o
 where not exists (select from roles r where r.oid is not null)
union all
select 'warning', '', format('the functions run as %s, not as awa_owner', o.oid::regrole), 'Run awa migrate as a superuser, or as a member of awa_owner.'
  from owner o
  join roles r on r.role = 'awa_owner' and r.oid <> o.oid
union all
select 'critical', b.name, format('belongs to %s, functions to %s', b.owner::regrole, o.oid::regrole), 'Run awa migrate as a superuser, or as a member of awa_owner.'
  from owner o
  join objects b on b.owner <> o.oid
union all
select 'warning', r.rolname, 'is a superuser, as which everybody''s calls run', 'alter role awa_owner nosuperuser;'
  from pg_roles r
 where r.rolname = 'awa_owner' and r.rolsuper
union all
select 'warning', o.oid::regrole::text, 'may not see the snapshots of others: a segment is kept until their sessions end', format('As a superuser: grant pg_read_all_stats to %s;', o.oid::regrole)
  from owner o
 where not pg_has_role(o.oid, 'pg_read_all_stats', 'usage')
union all
select case when b.kind = 'schema' and a.privilege_type = 'USAGE' then 'warning' else 'critical' end, b.name, format('is open to everybody (%s for PUBLIC)', a.privilege_type),
       format('revoke all on %s %s from public;', b.kind, b.name)
  from objects b
 cross join aclexplode(b.acl) a
 where a.grantee = 0
union all
select 'warning', 'awa', format('can''t be used by %s', r.role), 'Run awa migrate.'
  from roles r
 where r.role <> 'awa_owner' and r.oid is not null and not has_schema_privilege(r.oid, 'awa', 'usage')
union all
select 'warning', f.name, format('can''t be called by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.role = g.role and r.oid is not null
  join functions f on f.proname = g.name and g.kind = 'function'
 where not has_function_privilege(r.oid, f.oid, 'execute')
union all
select 'warning', c.name, format('can''t be read by %s', r.role), 'Run awa migrate.'
  from jsonb_to_recordset($1::jsonb -> 'grants') g(role text, kind text, name text)
  join roles r on r.role = g.role and r.oid is not null
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

// sources is what this program installs, in the words of pg_catalog where that is easy.
type sources struct {
	Schema    int        `json:"schema"`    // the number of migrations
	Version   string     `json:"version"`   // what awa.version() returns
	Heartbeat float64    `json:"heartbeat"` // seconds between heartbeats of a worker of the driver's
	Functions []function `json:"functions"`
	Relations []relation `json:"relations"`
	Triggers  []trigger  `json:"triggers"`
	Roles     []string   `json:"roles"`
	Grants    []grant    `json:"grants"`

	views []view
}

type function struct {
	Name       string   `json:"name"`
	Names      []string `json:"names"` // of arguments, the out ones included
	Types      []string `json:"types"`
	Defaults   int      `json:"defaults"`
	Result     string   `json:"result"`     // empty when the out arguments are it
	Attributes []string `json:"attributes"` // sorted
	Settings   []string `json:"settings"`   // sorted
	Body       *string  `json:"body"`       // nil when it is in standard SQL
}

type relation struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"` // table, partition, sequence, index or view
	Options []string `json:"options"`
}

type trigger struct {
	Name  string `json:"name"`
	Table string `json:"table"`
}

type grant struct {
	Role string `json:"role"`
	Kind string `json:"kind"` // function or relation
	Name string `json:"name"`
}

type view struct{ name, query string }

// readSources takes apart the SQL that this program installs. It knows no more of SQL than the files need; tests compare what it
// finds with what a server makes of them.
func readSources() (sources, error) {
	s := sources{
		Functions: []function{}, Relations: []relation{}, Triggers: []trigger{}, Grants: []grant{},
		Heartbeat: driver.WorkerConfig{}.WithDefaults().HeartbeatEvery.Seconds(),
	}
	functions, err := fs.Sub(sql.Functions, "functions")
	if err != nil {
		return s, err
	}
	code, err := migrate.LoadCodePackage(functions)
	if err != nil {
		return s, err
	}
	text, err := code.Eval(nil)
	if err != nil {
		return s, err
	}
	s.readCode(text)

	migrations, err := fs.Glob(sql.Migrations, "migrations/*.sql")
	if err != nil {
		return s, err
	}
	s.Schema = len(migrations)
	for _, name := range migrations {
		text, err := fs.ReadFile(sql.Migrations, name)
		if err != nil {
			return s, err
		}
		s.readTables(string(text))
	}
	// The installer makes it, before the first migration.
	s.Relations = append(s.Relations, relation{Name: "schema_version", Kind: "table", Options: []string{}}, relation{Name: "schema_version_pkey", Kind: "index", Options: []string{}})
	return s, nil
}

var (
	functionPattern  = regexp.MustCompile(`(?ms)^create or replace (?:function|procedure) awa\.(\w+)\((.*?)\n(?:as \$\$(.*?)\$\$;|return .*?;)$`)
	attributePattern = regexp.MustCompile(`\b(?:immutable|stable|strict|parallel safe|parallel restricted|security definer)\b`)
	settingPattern   = regexp.MustCompile(`(?m)^set (\w+) = (.+)$`)
	resultPattern    = regexp.MustCompile(`^ returns (.+)`)
	versionPattern   = regexp.MustCompile(`'(.*)'`)
	viewPattern      = regexp.MustCompile(`(?ms)^create or replace view awa\.(\w+) as\s+(.*?);$`)
	triggerPattern   = regexp.MustCompile(`create (?:constraint|or replace) trigger (\w+) .* on awa\.(\w+)`)
	rolesPattern     = regexp.MustCompile(`in array array\[(.*?)\]`)
	callPattern      = regexp.MustCompile(`\('(awa_\w+)', '(?:function|procedure) awa\.(\w+)'\)`)
	callAllPattern   = regexp.MustCompile(`'function awa\.(\w+)'\s+from unnest\(array\[(.*?)\]`)
	readPattern      = regexp.MustCompile(`grant select on (.*) to (awa_\w+)`)
	quotedPattern    = regexp.MustCompile(`'(\w+)'`)
	qualifiedPattern = regexp.MustCompile(`awa\.(\w+)`)
	relationPattern  = regexp.MustCompile(`(?s)create (table|sequence|unique index|index) (?:awa\.)?([\w%$]+)(.*?);`)
	optionsPattern   = regexp.MustCompile(`partition of .* with \(([^)]*)\)`)
)

// readCode finds functions, views, triggers and grants in the code package.
func (s *sources) readCode(text string) {
	for _, m := range functionPattern.FindAllStringSubmatch(text, -1) {
		f := function{Name: m[1], Names: []string{}, Types: []string{}, Attributes: []string{}, Settings: []string{}}
		arguments, rest := splitArguments(m[2])
		if _, columns, ok := strings.Cut(rest, " returns table ("); ok { // they are out arguments
			var more []string
			more, rest = splitArguments(columns)
			arguments = append(arguments, more...)
		}
		for _, a := range arguments {
			a, _, hasDefault := strings.Cut(a, " default ")
			if hasDefault {
				f.Defaults++
			}
			name, kind, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "out "), "inout "), " ")
			f.Names, f.Types = append(f.Names, name), append(f.Types, kind)
		}
		if m := resultPattern.FindStringSubmatch(rest); m != nil {
			f.Result = m[1]
		}
		f.Attributes = append(f.Attributes, attributePattern.FindAllString(rest, -1)...)
		slices.Sort(f.Attributes)
		for _, m := range settingPattern.FindAllStringSubmatch(rest, -1) {
			f.Settings = append(f.Settings, m[1]+"="+m[2])
		}
		slices.Sort(f.Settings)
		if strings.HasSuffix(m[0], "$$;") {
			f.Body = &m[3]
		}
		if f.Name == "version" {
			s.Version = versionPattern.FindStringSubmatch(m[3])[1]
		}
		s.Functions = append(s.Functions, f)
	}
	for _, m := range viewPattern.FindAllStringSubmatch(text, -1) {
		// Where one needs the other, a view is created twice: the last time counts.
		s.views = slices.DeleteFunc(s.views, func(v view) bool { return v.name == m[1] })
		s.views = append(s.views, view{m[1], m[2]})
	}
	for _, v := range s.views {
		s.Relations = append(s.Relations, relation{Name: v.name, Kind: "view", Options: []string{}})
	}
	for _, m := range triggerPattern.FindAllStringSubmatch(text, -1) {
		s.Triggers = append(s.Triggers, trigger{m[1], m[2]})
	}
	s.Roles = quoted(rolesPattern.FindStringSubmatch(text)[1])
	for _, m := range callPattern.FindAllStringSubmatch(text, -1) {
		s.Grants = append(s.Grants, grant{m[1], "function", m[2]})
	}
	for _, m := range callAllPattern.FindAllStringSubmatch(text, -1) {
		for _, role := range quoted(m[2]) {
			s.Grants = append(s.Grants, grant{role, "function", m[1]})
		}
	}
	for _, m := range readPattern.FindAllStringSubmatch(text, -1) {
		for _, name := range qualifiedPattern.FindAllStringSubmatch(m[1], -1) {
			s.Grants = append(s.Grants, grant{m[2], "relation", name[1]})
		}
	}
}

// readTables finds tables, sequences and indexes in a migration. Loops create them by format: %1$s is a segment, %s a digit of the wake clocks.
func (s *sources) readTables(text string) {
	for _, m := range relationPattern.FindAllStringSubmatch(text, -1) {
		r := relation{Kind: strings.TrimPrefix(m[1], "unique "), Options: []string{}}
		definition := oneLine(m[3])
		if options := optionsPattern.FindStringSubmatch(definition); options != nil {
			r.Kind, r.Options = "partition", strings.Split(strings.ReplaceAll(options[1], " ", ""), ",")
		}
		for _, digit := range "0123456789abcdef" {
			r.Name = strings.NewReplacer("%1$s", string(digit), "%s", string(digit)).Replace(m[2])
			if strings.Contains(m[2], "%1$s") && digit > '3' {
				break
			}
			s.Relations = append(s.Relations, r)
			if r.Name == m[2] {
				break
			}
		}
		if strings.Contains(definition, "primary key") {
			s.Relations = append(s.Relations, relation{Name: r.Name + "_pkey", Kind: "index", Options: []string{}})
		}
	}
}

// splitArguments splits what follows the opening parenthesis of a list of arguments, up to the closing one.
func splitArguments(text string) (arguments []string, rest string) {
	depth, quoted, from := 0, false, 0
	for i, c := range text {
		switch {
		case c == '\'':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case (c == ',' || c == ')') && depth == 0:
			if a := oneLine(text[from:i]); a != "" {
				arguments = append(arguments, a)
			}
			if c == ')' {
				return arguments, text[i+1:]
			}
			from = i + 1
		}
	}
	return arguments, ""
}

func quoted(text string) (names []string) {
	for _, m := range quotedPattern.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}
