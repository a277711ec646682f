package sql_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
)

// evil is what its author creates in a transaction that ends after an installation.
const evil = `create function awa.enqueue(text, text, text) returns bigint language plpgsql as
	'begin raise exception ''evil as %'', current_user; end'`

// pendingDatabase returns a database in which mal may create schemas, and a session of hers.
func pendingDatabase(t *testing.T) (server, database, *session) {
	own := newServer(t)
	d := own.database("app", false)
	s := d.session()
	s.exec(`create role mal login; create role boss login createrole; grant create on database app to mal, boss`)
	return own, d, database{t, withUser(t, own.URL(), "mal", "app")}.session()
}

// requireNothingOfMal fails where the schema has anything that is not the owner's, or that the owner did not make.
func requireNothingOfMal(t *testing.T, s *session) {
	t.Helper()
	require.Empty(t, list[string](s, `select p.oid::regprocedure::text from pg_proc p
		where p.pronamespace = 'awa'::regnamespace and (p.prosrc like '%evil%' or p.proowner <> 'awa_owner'::regrole)`))
	require.Empty(t, list[string](s, `select c.relname::text from pg_class c
		where c.relnamespace = 'awa'::regnamespace and c.relowner <> 'awa_owner'::regrole`))
	s.exec("select awa.enqueue('q', 'k', '{}')")
}

// A function that was created in the schema before an installation, and is committed after it, is not found there.
func TestInstallLeavesWhatIsNotYetCommitted(t *testing.T) {
	for name, installer := range map[string]string{"a superuser": "", "a member": "boss", "a file": "-"} {
		t.Run(name, func(t *testing.T) {
			own, d, mal := pendingDatabase(t)
			s := d.session()
			mal.exec("create schema awa; create function awa.first() returns int return 1; drop function awa.first()")
			if installer == "boss" {
				s.exec("grant mal to boss")
				d.url = withUser(t, own.URL(), installer, "app")
			}
			mal.exec("begin; " + evil)
			if installer == "-" {
				this, err := install.Embedded()
				require.NoError(t, err)
				output, well := d.psql(file(t, this))
				require.True(t, well, output)
			} else {
				_, err := driver.Migrate(t.Context(), d.url)
				require.NoError(t, err)
			}
			mal.exec("commit")
			requireNothingOfMal(t, s)
		})
	}
}

// The same where somebody had installed for herself alone, and it is shared.
func TestSharingLeavesWhatIsNotYetCommitted(t *testing.T) {
	own, d, mal := pendingDatabase(t)
	s := d.session()
	_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "mal", "app"))
	require.NoError(t, err)
	mal.exec("select awa.enqueue('q', 'k', '{}')")
	s.exec("create publication p for tables in schema awa")
	mal.exec("begin; " + evil)
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	mal.exec("commit")
	requireNothingOfMal(t, s)
	require.Equal(t, 2, one[int](s, "select count(*) from awa.jobs"))
	require.Equal(t, 1, one[int](s, "select count(*) from pg_namespace where nspname ~ 'awa|_install'"))
	hints := ""
	for _, w := range result.Warnings {
		hints += w.Hint
	}
	require.Contains(t, hints, "alter publication p add tables in schema awa;")
	result, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.False(t, result.Changed)
}

// A table that is not yet committed holds the schema: the installation waits for it, no longer than it is told to, and
// names it.
func TestInstallWaitsForATableThatIsNotYetCommitted(t *testing.T) {
	own, d, mal := pendingDatabase(t)
	for _, shared := range []bool{false, true} {
		if shared {
			d.session().exec("drop schema awa cascade")
			_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "mal", "app"))
			require.NoError(t, err)
		} else {
			mal.exec("create schema awa")
		}
		mal.exec("begin; create table awa.made_up (n int)")
		_, err := driver.MigrateWithConfig(t.Context(), d.url, driver.MigrateConfig{Wait: 50 * time.Millisecond})
		require.Equal(t, "55P03", sqlState(err), err)
		require.ErrorContains(t, err, "schema awa has not become free within")
		require.Contains(t, detail(err), "of role mal")
		require.Contains(t, detail(err), "holds schema awa")
		mal.exec("rollback")
		_, err = driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		requireNothingOfMal(t, d.session())
	}
}
