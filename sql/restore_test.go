package sql_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// program returns a command of a client program that is as new as the server: its own, or the one on PATH.
func (s server) program(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	major := func(version string) int {
		m := regexp.MustCompile(`\d+`).FindString(version)
		n, _ := strconv.Atoi(m)
		return n
	}
	for _, path := range append([]string{filepath.Join(s.BinDir(), name)}, onPath(name)...) {
		version, err := exec.Command(path, "--version").Output()
		if err == nil && major(string(version)) >= major(s.ServerVersion()) {
			cmd := exec.Command(path, args...)
			cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
			return cmd
		}
	}
	require.FailNow(s.t, "no "+name,
		"The server is PostgreSQL %s. Install the client of the same version, or a newer one: there is none in %s or on "+
			"PATH.", s.ServerVersion(), s.BinDir())
	return nil
}

func onPath(name string) []string {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil
	}
	return []string{path}
}

// dumps starts a pg_dump of a database, and returns a function that returns what it says.
func (s server) dumps(d database, args ...string) func() string {
	s.t.Helper()
	cmd := s.program("pg_dump", append(args, "-d", d.url)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(s.t, cmd.Start())
	return func() string {
		s.t.Helper()
		require.NoError(s.t, cmd.Wait(), errs.String())
		return out.String()
	}
}

// restore fills a new database from a dump.
func (s server) restore(name, dump string) database {
	s.t.Helper()
	d := s.database(name, false)
	cmd := s.program("psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "-d", d.url)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(dump), &errs
	require.NoError(s.t, cmd.Run(), errs.String())
	return d
}

// spendIds uses up transaction ids.
func (s *session) spendIds(n int) {
	s.Helper()
	s.exec(fmt.Sprintf("do $$ begin for n in 1..%d loop perform pg_current_xact_id(); commit; end loop; end $$", n))
}

// everything is all that awa.jobs says, but for when the workers were alive.
const everything = "select (to_jsonb(j) - 'heartbeat_at')::text from awa.jobs j order by id"

// live makes jobs of every state, in every place where a job may be, in a ring that has turned once.
func (s *session) live(late *session) {
	s.Helper()
	s.enqueue("gone")
	s.exec("select awa.drop_queue('gone', true)")
	late.exec("begin")
	late.enqueueMany("waits", 2)
	s.enqueueMany("waits", 2)
	late.enqueueMany("waits", 2)
	s.enqueueMany("waits", 2)
	late.exec("commit") // so that the order is that of transactions, not of ids
	moved, cancelled := s.enqueue("waits"), s.enqueueUnique("waits", "cancelled")
	s.exec("select awa.enqueue('waits', 'k', priority => p) from generate_series(1, 4) p")
	s.exec("select awa.set_priority($1, 1)", moved)
	s.exec("select awa.cancel($1)", cancelled)
	s.enqueueUnique("waits", "waits")
	s.exec("select awa.enqueue_unique('waits', 'k', unique_key => 'scheduled', run_at => now() + interval '1 hour', " +
		"tags => '{a}', metadata => '{\"m\": 1}', group_key => 'g')")
	s.exec("select awa.enqueue('expires', 'k', expires_at => now() + interval '1 day')")
	s.exec("select awa.enqueue('group', 'k', group_key => 'g') from generate_series(1, 3)")
	s.exec("select awa.complete(job_id, receipt) from awa.claim('group')")
	s.claim("group", 1)
	s.limits("limited", `{"group_max_running": 1, "max_running": 3}`)
	s.enqueueInGroup("limited", "g", 4)
	s.completeMany(s.claim("limited", 4))
	s.claim("limited", 4)
	for n, call := range []string{
		"complete($1, $2)", "complete($1, $2, '{}')", "fail($1, $2, 'error', '1 hour')", "snooze($1, $2, '1 hour')",
		"release($1, $2)", "cancel_attempt($1, $2)", "discard($1, $2, 'error', '{}')",
	} {
		for _, shape := range []shape{shapes[1], shapes[2], shapes[4]} {
			queue := fmt.Sprint(shape.name, n)
			jobs := s.openAlone(queue, shape)
			s.exec("select awa.configure_queue($1, jsonb_build_object('dead_letter', $2::boolean))", queue, shape.keyed)
			s.exec("select awa."+call, jobs[0].JobID, jobs[0].Receipt)
		}
		if n == 2 {
			s.rotate()
			require.Equal(s, "cleaned", s.prune())
			require.Equal(s, "truncating", s.prune())
		}
	}
	s.completes(s.open("recent", shapes[2])[:1])
	for _, how := range ends {
		s.exec("select awa.delete_job($1)", s.ended("deleted", how))
	}
	s.ended("deleted", ends[0])
}

// claimsAll returns what each queue gives, in its order.
func (s *session) claimsAll() map[string][]int64 {
	s.Helper()
	got := map[string][]int64{}
	for _, queue := range list[string](s, "select queue from awa.queue_counts order by 1") {
		got[queue] = append(ids(s.claim(queue, 5)), ids(s.claim(queue, 100))...)
	}
	return got
}

// In a database that was restored from a dump, transaction ids are those of another server: higher than any that there
// is, or ids that others have had there. Until the jobs have new places nothing is
// appended or claimed; then each is what it was, answers are taken, and the order is kept.
func TestRestore(t *testing.T) {
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
			s.balanced()
			dump := c.from.dumps(d)()
			before, open := list[string](s, everything), s.running()

			r := c.to.restore("restored_"+c.name, dump).session()
			require.Equal(t, before, list[string](r, everything))
			require.Equal(t, "critical", one[string](r, "select level from awa.health() where topic = 'restore'"))
			for _, call := range []string{
				"awa.enqueue('q', 'k')", "awa.enqueue_many('q', 'k', '{1}')",
				"awa.enqueue('q', 'k', run_at => now() + interval '1 hour')", "awa.enqueue_unique('q', 'k')", "awa.claim('waits')",
				fmt.Sprintf("awa.release(%d, %d)", open[0].JobID, open[0].Receipt),
				"awa.cancel(id) from awa.jobs where state = 'available'",
				"awa.set_priority(id, 4) from awa.jobs where state = 'available'",
				"awa.retry(id) from awa.jobs where state in ('failed', 'scheduled', 'dead')",
			} {
				require.Equal(t, "55000", sqlState(r.try("select "+call)), call)
			}
			require.Equal(t, "55000", sqlState(r.try("call awa.run_maintenance()")))
			for _, call := range []string{"select awa.audit()", "select awa.materialize('0')", "select awa.rescue()",
				"select awa.rotate(true)", "select awa.prune_oldest(true)"} {
				err := r.try(call) // workers and operators come too early
				require.True(t, err == nil || sqlState(err) == "55000", "%s: %v", call, err)
			}
			require.Equal(t, before, list[string](r, everything))
			// Answers are taken even now; one that is being given is waited for.
			s.completes(open[:1])
			a, watcher := database{t, r.db.Config().ConnString()}.session(), database{t, r.db.Config().ConnString()}.session()
			a.exec("begin")
			a.completes(open[:1])
			rebased := r.background("select awa.rebase_after_restore()")
			watcher.waitUntilBlocked(r)
			before = list[string](a, everything)
			a.exec("commit")
			require.NoError(t, rebased())
			require.Equal(t, []int64{0, 0, 0},
				list[int64](r, "select unnest(array[available, running, completed]) from awa.rebase_after_restore()"))
			require.Equal(t, before, list[string](r, everything))
			r.balanced()
			unique := "select job_id from awa.enqueue_unique('waits', 'k', unique_key => 'waits')"
			require.Equal(t, one[int64](s, unique), one[int64](r, unique))
			require.Equal(t, s.claimsAll(), r.claimsAll())
			for _, j := range open[1:] {
				r.completes([]claimed{j})
			}
			r.refuses(open[0])
			r.refuses(open[1])
			r.due()
			r.balanced()
			for range 4 {
				r.rotate()
				require.Equal(t, "truncated", r.pruneOn())
				require.Len(t, r.open("turns", shapes[2]), 3)
			}
			r.worksOff()
			r.balanced()
		})
	}

	// More places than the server has had transactions: neighbours may change places.
	t.Run("few ids", func(t *testing.T) {
		ahead.t, behind.t = t, t
		d := ahead.database("many", true)
		s := d.session()
		s.enqueueMany("q", 10000)
		s.enqueueMany("q", 4900)
		s.exec("update awa.ready_entries set xid = (15400 - job_id)::text::xid8")
		r := behind.restore("many", ahead.dumps(d)()).session()
		require.Less(t, one[int64](r, "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint"), int64(14900))
		r.exec("select awa.rebase_after_restore()")
		for place := int64(14900); place > 0; {
			jobs := r.claim("q", 1000)
			require.NotEmpty(t, jobs, "%d are left", place)
			for _, j := range jobs {
				require.InDelta(t, place, j.JobID, 10)
				place--
			}
		}
		r.balanced()
	})
}

// A pg_dump whose snapshot is older than the cleaning, and that locks the tables only when they would have been
// truncated: all that is alive is in the dump.
func TestDumpBesideAPrune(t *testing.T) {
	own := newServer(t)
	for _, exported := range []bool{false, true} {
		d := own.database(fmt.Sprint("dumped_", exported), true)
		blocker, s := d.session(), d.session().neverWaits()
		running, ready := s.open("q", shapes[2]), s.enqueue("q")
		s.completes(running[:1])
		var args []string
		blocker.exec("begin isolation level repeatable read")
		if exported {
			args = []string{"--snapshot", one[string](blocker, "select pg_export_snapshot()")}
		} else {
			// The table that it locks first.
			blocker.exec("do $$ begin execute (select format('lock table %s', oid::regclass) from pg_class where relkind in " +
				"('r', 'p') and oid >= 16384 order by oid limit 1); end $$")
		}
		dump := own.dumps(d, args...)
		if !exported {
			require.Eventually(t, func() bool {
				return one[bool](s,
					"select exists (select from pg_stat_activity where datname = current_database() and application_name = "+
						"'pg_dump' and wait_event_type = 'Lock')")
			}, patience, time.Millisecond, "pg_dump never waited for the lock")
		}
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "waiting", s.prune())
		if !exported {
			blocker.exec("commit")
		}
		r := own.restore(fmt.Sprint("restored_", exported), dump()).session()
		if exported {
			blocker.exec("commit")
		}
		s.prunes()
		require.Equal(t, []string{"gone", "running", "running", "available"}, s.states(append(ids(running), ready)...))
		require.Equal(t, []string{"completed", "running", "running", "available"}, r.states(append(ids(running), ready)...))
		r.exec("select awa.rebase_after_restore()")
		r.completes(running[1:])
		r.balanced()
	}
}
