package sql_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A job whose body the server can't read, because a page is damaged, holds up no other: maintenance goes on past it.
// When its body was replaced, as the reference says, it goes on, too.
// (What holds up its queue until then, a claim, is in the driver's tests.)
func TestMaintenanceGoesOnPastDamage(t *testing.T) {
	server := newServer(t)
	d := server.database("damaged", true)
	s := d.session()
	// stored apart
	const large = `jsonb_build_object('body', (select string_agg(md5(random()::text), '') from generate_series(1, 200)))`
	var due, open []int64
	for _, args := range []string{"'1'", large, "'3'"} {
		due = append(due, one[int64](s, "select awa.enqueue('due', 'k', "+args+", run_at => now() + interval '1 hour')"))
		open = append(open, one[int64](s, "select awa.enqueue('open', 'k', "+args+")"))
		s.exec("select awa.enqueue('older', 'k', " + args + ")")
	}
	for range 3 {
		s.exec("select job_id from awa.claim('open', 1, lease => '1 millisecond')")
	}
	s.exec("select job_id from awa.claim('older', 3, lease => '1 hour')")
	s.exec("update awa.deferred_jobs set run_at = now()")
	paths := list[string](s, `select current_setting('data_directory') || '/' || pg_relation_filepath(c.reltoastrelid)
		from pg_class c where c.oid in ('awa.deferred_jobs'::regclass, 'awa.ready_entries_0'::regclass)`)
	s.exec("checkpoint") // what is replayed after a crash does not write the pages again
	require.NoError(t, server.Halt())
	for _, path := range paths {
		require.NoError(t, overwrite(path))
	}
	require.NoError(t, server.Resume(t.Context()))

	s = d.session()
	state := func(id int64) string { return one[string](s, "select p.state from awa._place p where p.id = $1", id) }
	states := func(ids []int64) (all []string) {
		for _, id := range ids {
			all = append(all, state(id))
		}
		return all
	}
	require.Equal(t, "XX001", sqlState(s.try("select args::text from awa.job($1)", due[1])), "it is damaged")
	require.Equal(t, 2, one[int](s, "select promoted::int from awa.promote_due()"))
	require.Equal(t, []string{"available", "scheduled", "available"}, states(due))
	require.Equal(t, 0, one[int](s, "select promoted::int from awa.promote_due()"), "it is put off")
	require.Equal(t, 2, one[int](s, "select rescued::int from awa.rescue()"))
	require.Equal(t, []string{"retryable", "running", "retryable"}, states(open))
	require.Equal(t, 3, one[int](s, "select 1 + materialized::int from awa.materialize('0')"))
	require.Equal(t, 2, one[int](s, "select count(*)::int from awa.leases"))

	// The ways past it
	require.Equal(t, []int64{due[1]}, s.unreadable("awa.deferred_jobs"))
	require.Len(t, s.unreadable("awa.ready_entries"), 2)
	s.exec("set zero_damaged_pages = on")
	s.exec(`update awa.deferred_jobs set args = '{"damaged": true}', metadata = null, tags = null, progress = null, `+
		`errors = null, run_at = now() where job_id = $1`, due[1])
	s.exec(`update awa.ready_entries set args = '{"damaged": true}', metadata = null, tags = null, progress = null, `+
		`errors = null where job_id = $1`, open[1])
	s.exec("reset zero_damaged_pages")
	require.Equal(t, 1, one[int](s, "select promoted::int from awa.promote_due()"))
	require.Equal(t, 1, one[int](s, "select rescued::int from awa.rescue()"))
	require.Equal(t, []string{"available", "available", "available"}, states(due))
	require.Equal(t, []string{"retryable", "retryable", "retryable"}, states(open))
	require.Equal(t, "true", one[string](s, "select args ->> 'damaged' from awa.job($1)", open[1]))
	require.Len(t, s.unreadable("awa.ready_entries"), 1, "the one that runs")
}

// unreadable returns the jobs of a table whose bodies can't be read, as the reference says how to find them.
func (s *session) unreadable(table string) []int64 {
	s.Helper()
	s.exec("create temp table unreadable (job_id bigint)")
	s.exec(`do $$
		declare
		  v_row record;
		begin
		  for v_row in select ctid, tableoid, job_id from ` + table + ` loop
		    begin
		      perform length(t::text) from ` + table + ` t where t.tableoid = v_row.tableoid and t.ctid = v_row.ctid;
		    exception when data_corrupted then
		      insert into unreadable values (v_row.job_id);
		    end;
		  end loop;
		end
		$$`)
	defer s.exec("drop table unreadable")
	rows, err := s.db.Query(s.ctx, "select job_id from unreadable order by 1")
	require.NoError(s, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(s, err)
	return ids
}

// overwrite damages all of a file.
func overwrite(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.Repeat([]byte{0xde, 0xad}, int(info.Size())/2), 0o600)
}

// Damaged jobs, more than are moved in one call, do not keep those after them from being moved.
func TestCleaningGoesOnPastMuchDamage(t *testing.T) {
	server := newServer(t)
	d := server.database("damaged", true)
	s := d.session()
	damaged := list[int64](s,
		`select awa.enqueue_many('q', 'k', array_fill(jsonb_build_object('body', (select string_agg(md5(random()::text), `+
			`'') from generate_series(1, 200))), array[40]))`)
	job := s.enqueue("q")
	s.exec("update awa.settings set completed_retention = '0'")
	s.rotate()
	toast := one[string](s,
		"select current_setting('data_directory') || '/' || pg_relation_filepath(c.reltoastrelid) from pg_class c where "+
			"c.oid = 'awa.ready_entries_0'::regclass")
	s.exec("checkpoint")
	require.NoError(t, server.Halt())
	require.NoError(t, overwrite(toast))
	require.NoError(t, server.Resume(t.Context()))

	s = d.session()
	for n, outcome := 0, ""; outcome != "damaged"; n++ {
		require.Less(t, n, 10)
		s.exec("select setval('awa.prune_tries', 5), setval('awa.prune_tried_at', 1)") // so that it takes 31 at a time
		outcome = one[string](s, "select outcome from awa.prune_oldest()")
	}
	require.Equal(t, []int64{job}, list[int64](s, "select job_id from awa.ready_entries where segment <> 0"))
	require.Equal(t, damaged, list[int64](s, "select unnest(unreadable) as job_id from awa.ring order by 1"))
}

// A damaged job that waits, or runs, stops neither what is emptied beside it, nor the end of its worker: the others are
// moved, or given back; health names the job; and when its body was replaced, it goes on.
func TestCleaningGoesOnPastDamage(t *testing.T) {
	for _, runs := range []bool{false, true} {
		server := newServer(t)
		d := server.database("damaged", true)
		s := d.session()
		// stored apart
		const large = `jsonb_build_object('body', (select string_agg(md5(random()::text), '') from generate_series(1, 200)))`
		worker := s.registerWorker()
		var jobs []int64
		for n, args := range []string{"'1'", large, "'3'"} {
			jobs = append(jobs, one[int64](s, fmt.Sprintf("select awa.enqueue('queue %d', 'k', %s)", n, args)))
			if runs {
				s.claimAs(worker, fmt.Sprintf("queue %d", n), 1)
			}
		}
		s.exec("update awa.settings set completed_retention = '0'")
		s.rotate()
		toast := one[string](s,
			"select current_setting('data_directory') || '/' || pg_relation_filepath(c.reltoastrelid) from pg_class c where "+
				"c.oid = 'awa.ready_entries_0'::regclass")
		s.exec("checkpoint") // what is replayed after a crash does not write the pages again
		require.NoError(t, server.Halt())
		require.NoError(t, overwrite(toast))
		require.NoError(t, server.Resume(t.Context()))

		s = d.session()
		for range 2 {
			require.Equal(t, "damaged", s.pruneOn())
			require.Equal(t, "damaged", one[string](s, "select outcome from awa.prune_oldest()"), "it waits")
			require.Contains(t, one[string](s, "select level || ': ' || message from awa.health() where topic = 'prune'"),
				fmt.Sprintf("the server can't read jobs that are alive in it: %d", jobs[1]))
			require.Equal(t, "critical", one[string](s, "select level from awa.health() where topic = 'prune'"))
		}
		s.exec("call awa.run_maintenance()")
		if runs {
			require.Equal(t, int64(2), one[int64](s, "select awa.deregister_worker($1)", worker))
			require.Equal(t, "damaged", s.pruneOn())
		} else {
			require.Equal(t, []int64{jobs[1]}, list[int64](s, "select job_id from awa.ready_entries where segment = 0"),
				"the others were moved")
		}
		for _, n := range []int{0, 2} {
			require.Len(t, s.claim(fmt.Sprintf("queue %d", n), 9), 1)
		}
		s.exec("set zero_damaged_pages = on")
		s.exec(`update awa.ready_entries set args = '{"damaged": true}', metadata = null, tags = null, progress = null, `+
			`errors = null where job_id = $1`, jobs[1])
		s.exec("reset zero_damaged_pages")
		s.prunes()
		require.Empty(t, list[string](s, "select message from awa.health() where topic = 'prune'"))
		s.audited()
		require.Equal(t, map[bool]string{false: "available", true: "running"}[runs], s.state(jobs[1]))
	}
}

// A job that a user's trigger keeps from being carried, where it waits or runs, does not stop what is
// emptied beside it: the others are moved; health names the job; and when the trigger is gone, it goes on. So with the
// cursor of a queue.
func TestCleaningGoesOnPastRefusals(t *testing.T) {
	for n, runs := range []bool{false, true, false, true} {
		s := newDatabase(t).session()
		if n > 1 {
			s.carriesByLanes()
		}
		worker := s.registerWorker()
		var jobs []int64
		for n := range 3 {
			jobs = append(jobs, s.enqueue(fmt.Sprintf("queue %d", n)))
			if runs {
				s.claimAs(worker, fmt.Sprintf("queue %d", n), 1)
			}
		}
		s.exec("update awa.settings set completed_retention = '0'")
		s.rotate()
		s.exec(fmt.Sprintf("create function public.refuse() returns trigger language plpgsql as $$ begin if new.job_id = "+
			"%d then raise exception 'not this one'; end if; return new; end $$", jobs[1]))
		table := map[bool]string{false: "awa.ready_entries", true: "awa.leases"}[runs]
		s.exec("create trigger refuse before insert on " + table + " for each row execute function public.refuse()")
		for range 2 {
			require.Equal(t, "refused", s.pruneOn())
			require.Equal(t, "refused", one[string](s, "select outcome from awa.prune_oldest()"), "it waits")
			require.Contains(t, one[string](s, "select level || ': ' || message from awa.health() where topic = 'prune'"),
				fmt.Sprintf("the server refuses to carry what is alive in it: job %d, not this one (SQLSTATE P0001)", jobs[1]))
		}
		if runs {
			require.Equal(t, []int64{jobs[0], jobs[2]}, list[int64](s, "select job_id from awa.leases order by 1"),
				"the others have rows of their own")
		} else {
			require.Equal(t, []int64{jobs[1]}, list[int64](s, "select job_id from awa.ready_entries where segment = 0"),
				"the others were moved")
		}
		s.audited()
		s.exec("drop trigger refuse on " + table)
		s.prunes()
		require.Empty(t, list[string](s, "select message from awa.health() where topic = 'prune'"))
		s.audited()
		for n, job := range jobs {
			require.Equal(t, map[bool]string{false: "available", true: "running"}[runs], s.state(job), n)
		}
	}

	for _, byLanes := range []bool{false, true} {
		s := newDatabase(t).session()
		if byLanes {
			s.carriesByLanes()
		}
		s.enqueue("q")
		s.claim("q", 1)
		waits := s.enqueue("other")
		s.exec("update awa.settings set completed_retention = '0'")
		s.rotate()
		s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.job_ids = '{}' then " +
			"raise exception 'no cursors'; end if; return new; end $$")
		s.exec("create trigger refuse before insert on awa.lease_claims for each row execute function public.refuse()")
		require.Equal(t, "refused", s.pruneOn())
		require.Contains(t, one[string](s, "select message from awa.health() where topic = 'prune'"),
			"no cursors (SQLSTATE P0001)")
		require.Equal(t, []int64{waits}, list[int64](s, "select job_id from awa.ready_entries where segment <> 0"),
			"jobs are moved")
		s.exec("drop trigger refuse on awa.lease_claims")
		s.prunes()
		s.audited()
	}
}
