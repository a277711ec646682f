package sql_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
)

// What is as it was is left alone, so that sessions do not compile all functions anew in the moment after an upgrade;
// also where grants and comments stand with it. What somebody has changed by hand is made again.
func TestUpgradeKeepsWhatIsAsItWas(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	all := func() map[string]string {
		rows, err := s.db.Query(s.ctx, `
			select p.proname, p.xmin::text from pg_proc p where p.pronamespace = 'awa'::regnamespace
			union all
			select 'relation ' || c.relname, c.xmin::text from pg_class c
			 where c.relnamespace = 'awa'::regnamespace and c.relkind in ('v', 'r', 'p', 'S')`)
		require.NoError(t, err)
		found := map[string]string{}
		var name, xmin string
		_, err = pgx.ForEachRow(rows, []any{&name, &xmin}, func() error { found[name] = xmin; return nil })
		require.NoError(t, err)
		return found
	}
	before := all()
	changed := func() (names []string) {
		after := all()
		for name, xmin := range after {
			if before[name] != xmin {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		before = after
		return names
	}
	_, err := d.installs(version(t, "0.1.1", newBody), install.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"resume_queue", "version"}, changed())

	s.exec("create or replace function awa._span(span interval) returns text language sql as 'select null::text'; " +
		"alter function awa.snooze set jit = on; alter function awa.version immutable")
	changed()
	_, err = d.installs(version(t, "0.1.1", newBody), install.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"_span", "snooze", "version"}, changed())
	require.Equal(t, "00:01:00", one[string](s, "select awa._span('1 minute')"))

	_, err = d.installs(version(t, "0.1.2", newBody, edit{"functions/operate/resume_queue.sql",
		"function awa.resume_queue is '", "function awa.resume_queue is 'Made up. "}), install.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"resume_queue", "version"}, changed())
	require.Contains(t, one[string](s, "select obj_description('awa.resume_queue'::regproc)"), "Made up. ")
}

// An upgrade meets whoever is in the way at the first table. Were it to hold others already, that an open answer needs
// next, both would wait for each other until the upgrade gives up.
func TestUpgradeHoldsNoTableWhileItWaits(t *testing.T) {
	d := newDatabase(t)
	s, worker := d.session(), d.session()
	s.enqueueMany("q", 2)
	jobs := s.claim("q", 2)
	worker.exec("begin")
	worker.exec("select awa.complete($1, $2)", jobs[0].JobID, jobs[0].Receipt)
	done := make(chan error, 1)
	go func() {
		_, err := d.installs(version(t, "0.2.0", migration2), install.Options{Wait: patience})
		done <- err
	}()
	var held []string
	require.Eventually(t, func() bool {
		held = list[string](s, `with locks as materialized (select * from pg_locks l where l.locktype = 'relation')
			select w.relation::regclass || ': ' || coalesce((
			    select string_agg(h.relation::regclass::text, ' ')
			      from locks h join pg_class c on c.oid = h.relation and c.relkind in ('r', 'p')
			     where h.pid = w.pid and h.granted and h.mode = 'AccessExclusiveLock'), '')
			  from locks w where not w.granted`)
		return len(held) > 0
	}, patience, time.Millisecond)
	require.Equal(t, []string{"awa.settings: "}, held)
	worker.exec("select awa.fail($1, $2, 'no')", jobs[1].JobID, jobs[1].Receipt)
	worker.exec("commit")
	require.NoError(t, <-done)
	s.balanced()
}
