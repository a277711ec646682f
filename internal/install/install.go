// Package install installs Awa in a database, and removes it: by SQL that a program and psql run alike.
package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/sql"
)

// lockKey is the key of the advisory lock under which Awa is installed. The keys that the engine uses are negative.
const lockKey = int64(0x6177616d696772) // "awamigr"

// Options say how to install or remove.
type Options struct {
	// what the names of roles begin with; empty for what the database knows, and in a new one awa_
	RolePrefix string
	Wait       time.Duration // how long others may be in the way before it gives up; 0 for a minute
	Force      bool          // to remove it though there are jobs, or though others' objects depend on it
}

// Result says what was done.
type Result struct {
	Before     int32  `json:"before"`    // number of the last migration before, 0 for a new installation
	After      int32  `json:"after"`     // and now
	Functions  string `json:"functions"` // version of the functions that are installed now
	Newer      bool   `json:"newer"`     // whether they are newer than these sources, and were left alone
	Changed    bool   `json:"changed"`   // whether anything was done
	Role       string `json:"role"`      // the role that did it
	RolePrefix string `json:"role_prefix"`
	Shared     bool   `json:"shared"` // whether members of the roles of Awa may use it too
}

// Install installs the sources on a connection of its own, which has to be fresh: nothing was looked up on it in the
// search_path of its role.
func (s *Sources) Install(ctx context.Context, conn *pgx.Conn, o Options) (r Result, err error) {
	text, err := s.render("install.sql")
	if err != nil {
		return r, err
	}
	return r, run(ctx, conn, o, text, "awa.installed", &r)
}

// run runs a block in a transaction of its own, and reads what it left in a setting. All of it goes by the simple
// protocol: nothing is prepared, and no parameter's type is guessed.
func run(ctx context.Context, conn *pgx.Conn, o Options, text, setting string, result any) error {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	var settings strings.Builder
	set := func(name, value string) { fmt.Fprintf(&settings, "set local %s = %s;\n", name, quote(value)) }
	if strings.Contains(o.RolePrefix, "\\") {
		return fmt.Errorf("the role prefix %q is not the beginning of a role's name", o.RolePrefix)
	}
	set("awa.role_prefix", o.RolePrefix)
	if o.Wait > 0 {
		set("lock_timeout", fmt.Sprint(max(1, o.Wait.Milliseconds()))) // of what is read before the installation takes locks
		set("awa.install_wait", fmt.Sprintf("%d milliseconds", max(1, o.Wait.Milliseconds())))
	}
	if o.Force {
		set("awa.force", "on")
	}
	if _, err := conn.PgConn().Exec(ctx, notAStandby).ReadAll(); err != nil {
		return err
	}
	// The result is read in the transaction: behind a proxy that pools transactions, the next one may be in another
	// session.
	results, err := conn.PgConn().Exec(ctx, begin+settings.String()+text+
		fmt.Sprintf("select pg_catalog.current_setting(%s);\nreset %s;", quote(setting), setting)).ReadAll()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = nameTriggers(ctx, conn, nameHolders(ctx, conn, err))
		undo(conn)
		return err
	}
	if err := commit(ctx, conn); err != nil {
		return err
	}
	return json.Unmarshal(results[len(results)-2].Rows[0][0], result)
}

// commit commits, in a message of its own: what is interrupted before it is undone by the server, however little of it
// the server has done by then. What is sent is waited for, since nobody can take it back.
func commit(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("no answer to the commit"))
	defer cancel()
	_, err := conn.PgConn().Exec(ctx, "commit").ReadAll()
	if pg := (*pgconn.PgError)(nil); err != nil && !errors.As(err, &pg) {
		return fmt.Errorf("it is not known whether it was done: commit: %w", err)
	}
	return err
}

// undo ends a transaction that has failed. Where the context has ended, it waits until the server was told: a program
// that exits before goes on there.
func undo(conn *pgx.Conn) {
	if conn.IsClosed() {
		<-conn.PgConn().CleanupDone()
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Second, errors.New("no answer to the rollback"))
	defer cancel()
	_ = conn.PgConn().Exec(ctx, "rollback").Close() // or the connection's end undoes it
}

// nameHolders adds to an error about a lock, where it does not say so, which sessions hold tables of the schema.
func nameHolders(ctx context.Context, conn *pgx.Conn, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55P03" || pg.Detail != "" { // lock_not_available
		return err
	}
	results, e := conn.PgConn().Exec(ctx, `rollback; begin read only; set local search_path = pg_catalog, pg_temp;
select string_agg(distinct case
         when l.pid is null then format('a prepared transaction holds awa.%I', c.relname)
         else format('process %s of role %s%s holds awa.%I', l.pid, a.usename,
           ' (' || nullif(a.application_name, '') || ')', c.relname)
       end, '; ')
  from pg_locks l
  join pg_class c on c.oid = l.relation and c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
  left join pg_stat_activity a on a.pid = l.pid
 where l.granted and l.mode in ('ExclusiveLock', 'AccessExclusiveLock') and l.pid is distinct from pg_backend_pid()
   and l.database = (select d.oid from pg_database d where d.datname = current_database());
rollback;`).ReadAll()
	if e == nil && len(results[3].Rows) == 1 && results[3].Rows[0][0] != nil {
		pg.Detail = string(results[3].Rows[0][0]) + "."
		pg.Hint = "Try again when these have ended, or end them: pg_terminate_backend, rollback prepared."
	}
	return err
}

// nameTriggers adds to an error in the function of an event trigger which one it is, since nothing else tells that the
// function is none of Awa's.
func nameTriggers(ctx context.Context, conn *pgx.Conn, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Where == "" {
		return err
	}
	results, e := conn.PgConn().Exec(ctx, `rollback; begin read only; set local search_path = pg_catalog, pg_temp;
select e.evtname, p.proname, format('%I.%I', n.nspname, p.proname)
  from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid join pg_namespace n on n.oid = p.pronamespace
 where e.evtenabled in ('O', 'A');
rollback;`).ReadAll()
	if e != nil {
		return err
	}
	for _, row := range results[3].Rows {
		if name := string(row[1]); strings.Contains(pg.Where, " function "+name+"(") ||
			strings.Contains(pg.Where, " function "+string(row[2])+"(") {
			pg.Detail = strings.TrimSpace(fmt.Sprintf("%s The event trigger %s called %s, which is none of Awa's.", pg.Detail,
				row[0], row[2]))
			pg.Hint = fmt.Sprintf("Nothing was changed. Awa is installed with the search_path pg_catalog, pg_temp, in part by "+
				"its owner's role: let that function have a path and rights of its own: alter function %s() security definer "+
				"set search_path = public, pg_temp.", row[2])
			break
		}
	}
	return err
}

// notAStandby refuses a standby by that name: begin would fail with less to say.
const notAStandby = `do $awa$ begin
  if pg_catalog.pg_is_in_recovery() then
    raise exception using errcode = '25006', message = 'this server is a standby',
      detail = 'It takes changes from its primary alone.',
      hint = 'Run this on the primary: what it does comes here by itself.';
  end if;
end $awa$;
`

// begin begins the transaction, whatever the defaults of the role and the database are: these may be somebody else's.
// To begin and to set looks nothing up. Nothing is left of it in the session, which may be
// shared with others.
const begin = `begin isolation level read committed read write;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
set local lock_timeout = '5s';
set local client_min_messages = notice;
set local quote_all_identifiers = off;
set local intervalstyle = postgres;
set local datestyle = iso;
set local extra_float_digits = 1;
set local bytea_output = hex;
set local row_security = off;
set local awa.role_prefix = '';
set local awa.install_wait = '';
set local awa.force = '';
`

// File returns the installation as a file for psql.
func (s *Sources) File() (string, error) {
	text, err := s.render("install.sql")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(first+
		`-- Awa %s for psql: installs it, or brings an older installation to this version. Safe to repeat.
-- It is a transaction of its own: not with psql -1 (--single-transaction).
--   psql -f awa.sql DATABASE
--   psql -v role_prefix=app_ -f awa.sql DATABASE     with roles of another name than awa_producer and so on, in a new
-- installation
`, s.Version) + file(text, `select case
         when (r ->> 'newer')::pg_catalog.bool then 'Awa stays as it is'
         when (r ->> 'before')::pg_catalog.int4 = 0 then 'Awa is installed'
         else 'Awa is up to date'
       end
       || pg_catalog.format(': schema version %s, functions %s.', r ->> 'after', r ->> 'functions') as awa_said
  from (select pg_catalog.current_setting('awa.installed')::pg_catalog.json) i(r) \gset
reset awa.installed;
`, "\\echo :awa_said\n"), nil
}

// Removal says what [Sources.Uninstall] did.
type Removal struct {
	Found   bool              `json:"found"`   // whether the schema was there
	Prefix  string            `json:"prefix"`  // of the roles that were looked for
	Others  []string          `json:"others"`  // what was dropped of others' objects, by force
	Dropped []string          `json:"dropped"` // roles
	Kept    map[string]string `json:"kept"`    // roles, with the reason
}

// Uninstall removes Awa, on a connection of its own as for [Sources.Install].
func (s *Sources) Uninstall(ctx context.Context, conn *pgx.Conn, o Options) (r Removal, err error) {
	text, err := s.render("uninstall.sql")
	if err != nil {
		return r, err
	}
	return r, run(ctx, conn, o, text, "awa.uninstalled", &r)
}

// UninstallFile returns the removal as a file for psql.
func (s *Sources) UninstallFile() (string, error) {
	text, err := s.render("uninstall.sql")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(first+
		`-- Removes Awa %s, for psql. Refuses while there are jobs, or objects of others that depend on it.
-- It is a transaction of its own: not with psql -1 (--single-transaction).
--   psql -f awa_uninstall.sql DATABASE
--   psql -v force=on -f awa_uninstall.sql DATABASE             with jobs, and with what others have on top of it
--   psql -v role_prefix=app_ -f awa_uninstall.sql DATABASE     the roles alone, where the schema is gone already
`, s.Version) + file(text, `select case
         when (r ->> 'found')::pg_catalog.bool then 'Awa is removed.'
         else 'There was no schema awa.'
       end as awa_said,
       (select coalesce(pg_catalog.string_agg(pg_catalog.format('Role %s stays: %s.', k.key, k.value), E'\n'),
                 case when (r ->> 'found')::pg_catalog.bool then 'None of its roles is left.'
                   else pg_catalog.format('No role with the prefix %s is left. Where Awa was installed with another '
                     'prefix, say so: -v role_prefix=app_.', r ->> 'prefix')
                 end)
          from pg_catalog.json_each_text(r -> 'kept') k) as awa_roles
  from (select pg_catalog.current_setting('awa.uninstalled')::pg_catalog.json) i(r) \gset
reset awa.uninstalled;
`, "\\echo :awa_said\n\\echo :awa_roles\n"), nil
}

// first is the first line of a file for psql.
const first = "\\set ON_ERROR_STOP on\n"

// file makes a file for psql of a block, with the settings that its variables set, since psql fills none into the
// block.
// It reads the result before the commit, and prints it afterwards.
func file(text, result, end string) string {
	return `\set SHOW_CONTEXT never
` + notAStandby + begin + `\if :{?role_prefix}
select set_config('awa.role_prefix', :'role_prefix', true) as awa_said \gset
\endif
\if :{?force}
select set_config('awa.force', :'force', true) as awa_said \gset
\endif
` + text + result + "commit;\n" + end
}

// render fills in a template of sql/install.
func (s *Sources) render(name string) (string, error) {
	dir, err := fs.Sub(sql.Install, "install")
	if err != nil {
		return "", err
	}
	t, err := template.ParseFS(dir, "*.sql")
	if err != nil {
		return "", err
	}
	catalog, err := fs.ReadFile(dir, "catalog.sql")
	if err != nil {
		return "", err
	}
	foreign, err := fs.ReadFile(dir, "foreign.sql")
	if err != nil {
		return "", err
	}
	data := struct {
		*Sources
		LockKey                                    int64
		CatalogQuery, ForeignQuery                 string
		FunctionsJSON, RelationsJSON, TriggersJSON string
	}{Sources: s, LockKey: lockKey, CatalogQuery: string(catalog), ForeignQuery: string(foreign)}
	type signature struct { // without the body
		Name     string   `json:"name"`
		Names    []string `json:"names"`
		Types    []string `json:"types"`
		Defaults int      `json:"defaults"`
		Result   string   `json:"result"`
	}
	signatures := make([]signature, len(s.Functions))
	for i, f := range s.Functions {
		signatures[i] = signature{f.Name, f.Names, f.Types, f.Defaults, f.Result}
	}
	for _, list := range []struct {
		text *string
		of   any
	}{{&data.FunctionsJSON, signatures}, {&data.RelationsJSON, s.Relations}, {&data.TriggersJSON, s.Triggers}} {
		text, err := json.Marshal(list.of)
		if err != nil {
			return "", err
		}
		*list.text = string(text)
	}
	var out bytes.Buffer
	err = t.ExecuteTemplate(&out, name, data)
	return out.String(), err
}
