package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// evilHealth is what a member of the owner puts in place of awa.health(): it makes her a superuser, if its caller may
// do that. A program does it, too, since a transaction may be read-only.
func evilHealth(databaseURL string) string {
	return strings.ReplaceAll(
		`create or replace function awa.health() returns setof awa.health_row language plpgsql volatile security invoker as $$
	begin
	  begin execute 'reset role'; exception when others then null; end;
	  begin copy (select 1) to program 'psql -X -c "alter role mallory superuser" "URL"';
	  exception when insufficient_privilege then null; end;
	  begin alter role mallory superuser;
	  exception when insufficient_privilege or read_only_sql_transaction then null; end;
	  perform set_config('search_path', 'public, pg_catalog', false);
	  return;
	end $$`, "URL", databaseURL)
}

// prepare starts a server with Awa, and with mallory, a member of the owner.
func prepare(t *testing.T) (databaseURL string, admin *pgx.Conn) {
	t.Helper()
	databaseURL = startServer(t, pgserver.Config{})
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	admin = testdb.Connect(t, databaseURL)
	execute(t, admin, "create role mallory login", "grant awa_owner to mallory")
	return databaseURL, admin
}

func isSuperuser(t *testing.T, admin *pgx.Conn) (is bool) {
	t.Helper()
	require.NoError(t, admin.QueryRow(t.Context(), "select rolsuper from pg_roles where rolname = 'mallory'").Scan(&is))
	return is
}

// Whatever has happened since the catalog was compared: what is called and read then runs as its owner, and changes
// nothing.
func TestDoctorLooksAsTheOwner(t *testing.T) {
	databaseURL, admin := prepare(t)
	mallory := testdb.Connect(t, with(t, databaseURL, "user", "mallory"))
	execute(t, mallory, "set role awa_owner", evilHealth(databaseURL),
		`create function awa.hers() returns boolean language plpgsql immutable as $$ begin perform * from awa.health(); `+
			`return true; end $$`,
		`create index on awa.settings (prune_wait) where awa.hers()`,
		`create type awa.wait as (w interval)`,
		`create function awa.unwrap(awa.wait) returns interval language plpgsql as $$ begin perform * from awa.health(); `+
			`return ($1).w; end $$`,
		`create cast (awa.wait as interval) with function awa.unwrap as implicit`,
		`alter table awa.settings alter column completed_retention drop default`,
		`alter table awa.settings alter column completed_retention type awa.wait using row(completed_retention)::awa.wait`)
	src, err := install.Embedded()
	require.NoError(t, err)
	parameter, err := json.Marshal(sources{Sources: src, Heartbeat: 10})
	require.NoError(t, err)
	d := doctor{src: src, parameter: string(parameter),
		conn: testdb.Connect(t, with(t, databaseURL, "default_query_exec_mode", "exec"))}
	require.NoError(t, d.lookUpRoles(t.Context()))
	require.Equal(t, []any{"awa_owner", "awa_reader", true}, []any{d.owner, d.reader, d.superuser})
	d.runInside(t.Context(), healthCheck, d.owner, d.reader)
	d.runInside(t.Context(), settingCheck, d.owner)
	d.runInside(t.Context(), diskCheck, d.owner)
	d.runInside(t.Context(), schemaCheck, d.owner)
	assert.False(t, isSuperuser(t, admin), "%+v", d.findings)
	var path string
	require.NoError(t, d.conn.QueryRow(t.Context(), "show search_path").Scan(&path))
	assert.Equal(t, `"$user", public`, path)

	// Where no function can be made, as on a standby, a superuser does not look.
	d.findings = nil
	d.runInside(t.Context(), healthCheck, "nobody_of_that_name")
	require.Len(t, d.findings, 1)
	assert.Contains(t, d.findings[0].Message, "not looked at: it would run with all rights of a superuser")
	assert.False(t, isSuperuser(t, admin))
}

// A function that is replaced between the comparison and the call: awa.settings is read in between, and by no view, so
// a lock on it stops the doctor there.
func TestDoctorBesideAFunctionThatChanges(t *testing.T) {
	databaseURL, admin := prepare(t)
	mallory, holder := testdb.Connect(t, with(t, databaseURL, "user", "mallory")),
		testdb.Connect(t, with(t, databaseURL, "user", "mallory"))
	execute(t, holder, "set role awa_owner", "begin", "lock table awa.settings in access exclusive mode")
	output := make(chan string, 1)
	go func() {
		_, stdout, _ := awa(context.WithoutCancel(t.Context()), "doctor", "--verbose", "--database-url", databaseURL)
		output <- stdout
	}()
	require.Eventually(t, func() (waits bool) {
		require.NoError(t,
			admin.QueryRow(t.Context(),
				"select exists (select from pg_stat_activity where application_name = 'awa doctor' and wait_event_type = "+
					"'Lock')").Scan(&waits))
		return waits
	}, time.Minute, time.Millisecond)
	execute(t, mallory, "set role awa_owner", evilHealth(databaseURL))
	execute(t, holder, "rollback")
	stdout := <-output
	assert.Contains(t, stdout, "functions    they are this program's")
	assert.False(t, isSuperuser(t, admin), stdout)
}

// To parse a text is enough to run code: where a column is of a domain, a constant beside it is read by the domain's
// check.
func TestDoctorParsesAsTheOwner(t *testing.T) {
	databaseURL, admin := prepare(t)
	execute(t, admin, "create role reader login", "grant awa_reader to reader",
		"create schema hers authorization awa_owner", "revoke temporary on database postgres from public",
		"grant temporary on database postgres to reader")
	mallory := testdb.Connect(t, with(t, databaseURL, "user", "mallory"))
	execute(t, mallory, "set role awa_owner",
		strings.ReplaceAll(`create function hers.evil(v bigint) returns boolean language plpgsql as $$
		begin
		  begin copy (select 1) to program 'psql -X -c "alter role mallory superuser" "URL"';
		  exception when insufficient_privilege then null; end;
		  return true;
		end $$`, "URL", databaseURL),
		"create domain awa.d as bigint check (hers.evil(value))", "set client_min_messages = warning",
		"alter table awa.workers add further awa.d")

	// Who can't act as the owner parses nothing.
	findings := examined(t, with(t, databaseURL, "user", "reader"))
	assert.NotNil(t, find(findings, levelWarning, "tables", "awa.workers.further", "is of type awa.d"))
	assert.NotNil(t, find(findings, levelWarning, "health", "", "not looked at"))

	execute(t, mallory, "drop view awa._lanes cascade",
		"alter table awa.queue_rollups alter segment_entries drop default, alter segment_entries type awa.d[] using "+
			"segment_entries::awa.d[]")
	findings = examined(t, databaseURL)
	assert.False(t, isSuperuser(t, admin))
	assert.NotNil(t, find(findings, levelWarning, "tables", "column awa.queue_rollups.segment_entries of type awa.d[]",
		"is none of Awa's"))
}

// From PostgreSQL 16 on a role that makes the owner beforehand keeps the right to grant it.
func TestDoctorNamesWhoMayGrantTheOwner(t *testing.T) {
	databaseURL, admin := prepare(t)
	provoke(t, databaseURL, wrong{"create role lead login; grant awa_reader to lead with admin option",
		levelWarning, "roles", "awa_reader", "can be granted by lead, also to itself"})
	var version int
	require.NoError(t, admin.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&version))
	if version < 160000 {
		t.Skip("a member is always a full one")
	}
	provoke(t, databaseURL,
		wrong{"create role maker login; grant awa_owner to maker with admin true, inherit false, set false",
			levelWarning, "roles", "awa_owner", "can be granted by maker, also to itself"})

	// One that may install here has made the roles when it did, and can't give up to grant them: that is no warning.
	execute(t, admin, "create role installer login createrole", "create database app owner installer")
	databaseURL = strings.Replace(with(t, databaseURL, "user", "installer"), "/postgres?", "/app?", 1)
	status, _, stderr := awa(t.Context(), "migrate", "--role-prefix", "app_", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	execute(t, testdb.Connect(t, databaseURL), "revoke app_owner from installer granted by installer")
	findings := examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelOK, "roles", "app_owner", "can be granted by installer, who may install"))
	for _, f := range findings {
		if f.Topic == "roles" && f.Level != levelOK {
			assert.Contains(t, f.Message, "snapshots of others")
		}
	}
}

// An installer that has followed doctor, and is no member of the owner any more, is told how to see all, and can remove
// what it has installed.
func TestAnInstallerThatLeftTheOwner(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{})
	execute(t, testdb.Connect(t, databaseURL), "create role ins login createrole", "create database app owner ins")
	databaseURL = strings.Replace(with(t, databaseURL, "user", "ins"), "/postgres?", "/app?", 1)
	call := func(args ...string) (stdout string) {
		status, stdout, stderr := awa(t.Context(), append(args, "--database-url", databaseURL)...)
		require.Zero(t, status, stderr)
		return stdout
	}
	call("migrate", "--role-prefix", "app_")
	ins := testdb.Connect(t, databaseURL)
	execute(t, ins, "revoke app_owner from ins cascade")

	f := find(examined(t, databaseURL), levelWarning, "access", "views", "not checked")
	require.NotNil(t, f)
	require.Contains(t, f.Hint, "To see all, say before: grant app_owner to ins; and afterwards: "+
		"revoke app_owner from ins cascade;")
	execute(t, ins, "grant app_owner to ins")
	require.Nil(t, find(examined(t, databaseURL), levelWarning, "access", "views", "not checked"))
	execute(t, ins, "revoke app_owner from ins cascade", "create table mine ()", "grant select on mine to app_owner")

	require.Contains(t, call("uninstall"), "Role app_owner stays")
	var members []string
	require.NoError(t, ins.QueryRow(t.Context(), `select array_agg(m.member::regrole::text) from pg_auth_members m
		where m.roleid = 'app_owner'::regrole and pg_has_role(m.member, m.roleid, 'usage')`).Scan(&members))
	require.Empty(t, members, "it is a member again")
}
