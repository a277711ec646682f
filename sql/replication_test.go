package sql_test

import (
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
)

// sameJobs compares two lists of jobs, and shows where they differ.
func sameJobs(t *testing.T, want, got []string) {
	t.Helper()
	missing := slices.DeleteFunc(slices.Clone(want), func(j string) bool { return slices.Contains(got, j) })
	added := slices.DeleteFunc(slices.Clone(got), func(j string) bool { return slices.Contains(want, j) })
	require.Equal(t, [][]string{{}, {}, {}}, [][]string{missing, added, want[min(len(want), len(got)):]})
	require.Len(t, got, len(want))
}

func newLogicalServer(t *testing.T) server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{"wal_level": "logical"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	return server{s, t}
}

// changesAll does everything that updates or deletes rows, of jobs of every state.
func (s *session) changesAll() {
	s.Helper()
	s.live((database{s.T, s.db.Config().ConnString()}).session())
	w := s.registerWorker()
	s.exec("select awa.heartbeat($1)", w)
	s.enqueueMany("w", 4)
	s.claimAs(w, "w", 4)
	s.materialize()
	s.exec("select awa.cancel(j.id) from awa.jobs j where j.queue = 'w' and j.state = 'running' order by j.id limit 1")
	s.exec("select awa.heartbeat($1)", w)
	s.exec("select awa.extend(l.job_id, l.receipt, '1 minute') from awa.leases l where l.worker_id = $1", w)
	s.exec("select awa.set_progress(l.job_id, l.receipt, '1') from awa.leases l where l.worker_id = $1", w)
	s.exec("select awa.deregister_worker($1)", w)
	for _, state := range []string{"scheduled", "retryable", "failed", "dead", "cancelled"} {
		s.exec("select awa.retry(j.id) from awa.jobs j where j.state = $1 order by j.id limit 1", state)
	}
	s.exec("select awa.set_priority(j.id, 4) from awa.jobs j where j.state in ('scheduled', 'available') and j.queue = " +
		"'waits'")
	s.exec("select awa.move(j.id, 'elsewhere') from awa.jobs j where j.state in ('scheduled', 'available') and j.queue " +
		"= 'waits' order by j.id limit 2")
	for n, key := range []string{"x", "y"} {
		s.enqueueUnique("unique", key)
		s.exec("begin")
		s.exec("select awa.cancel_by_unique_key(unique_key => $1)", key)
		if n == 0 {
			s.enqueueUnique("unique", key)
		}
		s.exec("commit")
	}
	open := s.open("cancelled", shapes[2])
	s.exec("begin")
	for _, j := range open { // decided at commit
		s.exec("select awa.cancel($1)", j.JobID)
	}
	s.exec("commit")
	job := s.enqueue("claimed meanwhile")
	s.exec("begin")
	s.exec("select awa.cancel($1)", job)
	require.Len(s, database{s.T, s.db.Config().ConnString()}.session().claim("claimed meanwhile", 1), 1)
	s.exec("commit")
	s.exec("select awa.configure_queue('waits', '{\"lease\": 30}')")
	s.exec("select awa.pause_queue('waits')")
	s.exec("select awa.resume_queue('waits')")
	s.exec("select awa.cancel_where(queue => 'elsewhere')")
	s.exec("select awa.retry_where(state => 'cancelled')")
	s.exec("select awa.purge_dlq(queue => q.queue, max_jobs => 1) from awa.queue_counts() q where q.dead > 0")
	s.exec("update awa.deferred_jobs set run_at = clock_timestamp() - interval '1 second' where state = 'retryable'")
	s.exec("call awa.run_maintenance()")
	s.exec("update awa.done_entries set finalized_at = finalized_at - interval '1 year' where state = 'failed'")
	s.exec("select awa.expire_history()")
	s.exec("select awa.drop_queue(q.queue, true) from awa.queue_counts() q where q.failed > 0 order by q.queue limit 1")
	s.rotate()
	s.prunes()
}

// With a publication of all tables, PostgreSQL refuses to change or delete a row of a table without a replica identity.
func TestPublicationOfAllTables(t *testing.T) {
	own := newLogicalServer(t)
	d := own.database("published", true)
	s := d.session()
	s.exec("create publication everything for all tables")
	s.changesAll()
	s.balanced()
	_, err := driver.Migrate(s.ctx, d.url)
	require.NoError(t, err)

	// A restore, and an owner who looks at what is created
	dump := own.dumps(d)()
	r := own.restore("restored", dump).session()
	require.True(t, one[bool](r, "select exists (select from pg_publication)"))
	r.exec(`create function no_more() returns event_trigger language plpgsql as $$ begin raise exception 'no %', ` +
		`tg_tag; end $$`)
	r.exec("create event trigger no_more on ddl_command_start execute function no_more()")
	before := list[string](r, everything)
	r.exec("select awa.rebase_after_restore()")
	sameJobs(t, before, list[string](r, everything))
	r.balanced()
	require.Equal(t, s.claimsAll(), r.claimsAll())
}

// Logical replication to another server, and on from there: the jobs are the same, and no id is given twice, though
// sequences are not replicated.
func TestLogicalCutOver(t *testing.T) {
	from, to := newLogicalServer(t), newLogicalServer(t)
	from.database("roles", true).session().spendIds(2000) // ids that mean something else there
	d := from.database("published", true)
	s := d.session()
	s.completes(s.open("first", shapes[3])[:1])
	s.enqueueMany("first", 3)
	s.exec("select awa.cancel(j.id) from awa.jobs j where j.state = 'available' order by j.id limit 1")
	s.exec("create publication everything for all tables")
	subscribed := to.database("subscribed", true)
	// as after pg_dump --schema-only, which needs a client of the server's version
	r := subscribed.session()
	r.exec("set session_replication_role = replica") // settings and ring keep their rows otherwise
	r.exec("do $$ begin execute (select 'truncate ' || string_agg(c.oid::regclass::text, ', ') from pg_class c where " +
		"c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p')); end $$")
	r.exec("reset session_replication_role")
	r.exec(fmt.Sprintf("create subscription everything connection 'host=%s port=%s user=%s dbname=published' "+
		"publication everything", from.Dir(), from.Port(), from.User()))
	synced := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			return one[bool](r, "select bool_and(srsubstate = 'r') from pg_subscription_rel")
		}, patience, 10*time.Millisecond, "the tables were not copied")
		lsn := one[string](s, "select pg_current_wal_lsn()::text")
		require.Eventually(t, func() bool {
			return one[bool](s,
				"select coalesce(bool_or(r.replay_lsn >= $1::text::pg_lsn), false) from pg_stat_replication r where "+
					"r.application_name = 'everything'", lsn)
		}, patience, 10*time.Millisecond, "the changes did not come")
		sameJobs(t, list[string](s, everything), list[string](r, everything))
	}
	synced()
	s = d.session() // a session lasts for a minute
	s.changesAll()
	r = subscribed.session()
	synced()
	s, r = d.session(), subscribed.session()
	s.enqueue("late")
	open := s.claim("late", 1)
	worker := s.registerWorker()
	s.exec("set awa.actor = 'somebody'")
	s.exec("select awa.cancel($1)", s.enqueue("recorded"))
	s.exec("begin")
	last := s.enqueue("late")
	s.exec("rollback")
	// has the highest id of a change, and changes jobs up to the one that is not there
	change := one[int64](s, "select awa.start_change('cancel', '{\"queue\": \"late\"}')")
	synced()

	require.Equal(t, "critical", one[string](r, "select level from awa.health() where topic = 'restore'"))
	require.Equal(t, "55000", sqlState(r.try("select awa.enqueue('q', 'k')")))
	require.ErrorContains(t, r.try("select awa.rebase_after_restore()"), "a subscription still fills the tables")
	r.exec("drop subscription everything")
	s, r = d.session(), subscribed.session()
	before := list[string](r, everything)
	r.exec("select awa.rebase_after_restore()")
	sameJobs(t, before, list[string](r, everything))
	r.balanced()
	require.Greater(t, r.enqueue("late"), last)
	require.Greater(t, r.claim("late", 1)[0].Receipt>>12, open[0].Receipt>>12)
	require.Greater(t, r.registerWorker(), worker)
	require.Greater(t, one[int64](r, "select awa.start_change('cancel', '{\"queue\": \"none\"}')"), change)
	r.exec("set awa.actor = 'somebody'")
	r.exec("select awa.cancel($1)", r.enqueue("recorded"))
	require.Equal(t, "cancel by somebody",
		one[string](r, "select action || ' by ' || actor from awa.list_changes() order by change_id desc limit 1"))
	r.completes(open)
	require.Equal(t, s.claimsAll(), r.claimsAll())
	r.worksOff()
	r.balanced()
}

// A dump of data alone, restored into a fresh installation: the rows that are there already are refused, and all else
// comes. It is noticed, whichever server is ahead, also when a segment was cleaned, which ring does not say then.
func TestRestoreOfDataAlone(t *testing.T) {
	ahead, behind := newServer(t), newServer(t)
	ahead.database("roles", true).session().spendIds(5000)
	behind.database("roles", true)
	for _, c := range []struct {
		name     string
		from, to server
	}{
		{"lower", ahead, behind},
		{"higher", behind, ahead},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.from.t, c.to.t = t, t
			d := c.from.database("live_"+c.name, true)
			s := d.session()
			s.live(d.session())
			s.completes(s.open("cleaned", shapes[3])[:1])
			s.enqueueMany("cleaned", 3)
			s.exec("begin")
			s.exec("select awa.cancel(j.id) from awa.jobs j where j.queue = 'cleaned' and j.state = 'available' order by j.id " +
				"limit 1")
			s.exec("commit")
			s.prunes()
			s.enqueueMany("carried", 3)
			s.rotate()
			require.Equal(t, "cleaned", s.prune())
			s.completes(s.claim("carried", 1))
			s.enqueueUnique("unique", "inherited")
			s.exec("begin")
			s.exec("select awa.cancel_by_unique_key(unique_key => 'inherited')")
			s.enqueueUnique("unique", "inherited")
			s.exec("commit")
			file := t.TempDir() + "/dump"
			s.run(c.from.program("pg_dump", "--format=custom", "--data-only", "--file="+file, "-d", d.url))
			before, open := list[string](s, everything), s.running()

			target := c.to.database("restored_"+c.name, true)
			r := target.session()
			out, err := c.to.program("pg_restore", "--data-only", "-d", target.url, file).CombinedOutput()
			require.Error(t, err) // settings, ring and schema_version have their rows
			require.Equal(t, 3, strings.Count(string(out), "duplicate key"), "%s", out)
			require.Equal(t, "critical", one[string](r, "select level from awa.health() where topic = 'restore'"))
			require.Equal(t, "55000", sqlState(r.try("select awa.enqueue('q', 'k')")))
			require.Equal(t, "55000", sqlState(r.try("call awa.run_maintenance()")))
			r.exec("select awa.rebase_after_restore()")
			// What had completed in the cleaned segment is shown again for a while.
			sameJobs(t, before, slices.DeleteFunc(list[string](r, everything),
				func(j string) bool { return strings.Contains(j, `"state": "completed"`) && !slices.Contains(before, j) }))
			// which balanced takes for a ring that has turned
			r.exec("update awa.ring set left_at[2] = left_at[2] - interval '1 second'")
			r.balanced()
			fresh := r.enqueue("fresh")
			require.Equal(t, []int64{fresh}, ids(r.claim("fresh", 1)))
			require.Equal(t, s.claimsAll(), func() map[string][]int64 { m := r.claimsAll(); delete(m, "fresh"); return m }())
			r.completes(open)
			r.worksOff()
			r.balanced()
		})
	}
}

func (s *session) run(cmd *exec.Cmd) {
	s.Helper()
	out, err := cmd.CombinedOutput()
	require.NoError(s, err, "%s", out)
}

// Tables that were copied and swapped, and rows that were rewritten, are no restore; neither is the next one, with
// another server's identifier (after pg_upgrade), once maintenance has run.
func TestRewrittenTables(t *testing.T) {
	const rewrite = "update awa.origin set xid = xid"
	for _, change := range []string{"vacuum full awa.origin", "cluster awa.ring using ring_pkey", rewrite,
		"delete from awa.origin; insert into awa.origin select xid, server from (select o.xid, o.server from awa.origin o) " +
			"o"} {
		d := newDatabase(t)
		s := d.session()
		if change[0] == 'd' { // pg_repack: into another table, and back under the old OID
			s.exec("create temp table copied as table awa.origin")
			s.exec("delete from awa.origin")
			s.exec("insert into awa.origin select * from copied")
		} else {
			s.exec(change)
		}
		s.enqueue("q")
		require.Len(t, s.claim("q", 1), 1, change)
		s.exec("call awa.run_maintenance()")
		require.True(t, one[bool](s, "select o.xid = o.xmin from awa.origin o"), change)
		s.balanced()
	}
	// Swapped: another OID, and the same row of origin
	d := newDatabase(t)
	s := d.session()
	s.exec("update awa.ring set tables = array[1, tables[2]]")
	s.enqueue("q")
	s.exec("call awa.run_maintenance()")
	require.True(t, one[bool](s, "select tables[1] = 'awa.ring'::regclass from awa.ring"))
	// Upgraded: another identifier of the server, and the same row
	s.exec(`do $$
		declare
		  v_xid xid;
		begin
		  delete from awa.origin;
		  insert into awa.origin (xid, server) values ('0', 0) returning xmin into v_xid;
		  delete from awa.origin;
		  insert into awa.origin (xid, server) select v_xid, system_identifier + 1 from pg_control_system();
		end $$`)
	s.enqueue("q")
	s.exec("call awa.run_maintenance()")
	s.exec(rewrite)
	s.enqueue("q")
	s.balanced()
}

// A dump of the schema alone holds the version, too: what is restored can be migrated.
func TestDumpOfTheSchema(t *testing.T) {
	own := newServer(t)
	d := own.database("live", true)
	s := d.session()
	s.live(d.session())
	r := own.restore("restored", own.dumps(d, "--schema=awa")())
	for range 2 {
		result, err := driver.Migrate(s.ctx, r.url)
		require.NoError(t, err)
		require.Equal(t, result.SchemaAfter, result.SchemaBefore)
		require.Positive(t, result.SchemaBefore)
	}
	restored := r.session()
	restored.exec("select awa.rebase_after_restore()")
	sameJobs(t, list[string](s, everything), list[string](restored, everything))
	restored.balanced()
}

// A schema that is there must be empty, or Awa's.
func TestVersionTable(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("create table public.kept as table awa.schema_version; delete from awa.schema_version; " +
		"comment on schema awa is null") // something is to be done
	_, err := driver.Migrate(s.ctx, d.url)
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "awa.schema_version has lost its row")
	s.exec("insert into awa.schema_version select * from public.kept")
	result, err := driver.Migrate(s.ctx, d.url)
	require.NoError(t, err)
	require.True(t, result.Changed)

	s.exec("drop table awa.schema_version")
	_, err = driver.Migrate(s.ctx, d.url)
	require.Equal(t, "55000", sqlState(err))
	require.True(t, one[bool](s, "select to_regclass('awa.schema_version') is null"))

	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role installer login")
	admin.exec("create schema awa authorization installer") // it may not create one
	u, err := url.Parse(own.URL())
	require.NoError(t, err)
	query := u.Query()
	query.Set("user", "installer")
	u.RawQuery = query.Encode()
	_, err = driver.Migrate(s.ctx, u.String())
	require.NoError(t, err)
	admin.enqueue("q")
}
