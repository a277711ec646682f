package sql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ends after which the job comes again: it keeps its place in its group.
var keepingEnds = []struct{ name, call string }{
	{"fail", "select awa.fail($1, $2, 'error', '1 hour')"},
	{"fail_many", "select awa.fail_many(array[$1::bigint], array[$2::bigint], '{error}', '{1 hour}')"},
	{"snooze", "select awa.snooze($1, $2, '1 hour')"},
	{"put_off", "select awa.put_off($1, $2, 'error')"},
	{"release", "select awa.release($1, $2)"},
	{"rescue", "select awa.rescue() where $1 > 0 and $2 > 0"},
	{"deregister", "select awa.deregister_worker($3)"},
}

// holder is the job for which a group is kept, as claims know it.
func (s *session) holder(queue, group string) *int64 {
	s.Helper()
	return one[*int64](s, `select (
		select g.holder from awa.group_states g
		 where g.shard >> 6 = awa._queue_id($1) and g.group_id = awa._group_id($2)
		 order by g.state_id desc limit 1)`, queue, group)
}

// promotes makes all deferred jobs ready.
func (s *session) promotesAll() {
	s.Helper()
	s.exec("update awa.deferred_jobs set run_at = now() - interval '1 second'")
	s.exec("select awa.promote_due()")
}

// Under strict and halt, no job of a group begins before the one before it has ended for good, whatever ends its
// attempts: one that comes again keeps its place, and no slot of the queue. Also where the attempt has a row of its
// own.
func TestPlacesAreKept(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.noGap()
	for _, order := range []string{"strict", "halt"} {
		for _, end := range keepingEnds {
			for _, materialized := range []bool{false, true} {
				queue := fmt.Sprint(order, end.name, materialized)
				s.limits(queue, `{"group_order": "`+order+`", "max_running": 2, "lease": "1 millisecond",
					"backoff_base": "1 hour"}`)
				jobs := s.enqueueInGroup(queue, "g", 3)
				worker := s.registerWorker()
				if end.name != "rescue" {
					s.limits(queue, `{"lease": "1 hour"}`)
				}
				receipts := s.claimAs(worker, queue, 9)
				require.Len(t, receipts, 1, queue)
				attempt := []claimed{{JobID: jobs[0], Receipt: receipts[0]}}
				if materialized {
					require.Positive(t, s.materialize())
				}
				require.Empty(t, s.claim(queue, 9))
				s.noGap()
				for _, way := range []string{"rollback", "commit"} {
					s.exec("begin")
					if end.name == "deregister" {
						s.exec("select awa.deregister_worker($1)", worker)
					} else {
						s.exec(end.call, attempt[0].JobID, attempt[0].Receipt)
					}
					require.Empty(t, other.claim(queue, 9), queue)
					other.slots()
					s.exec(way)
				}
				s.slots()
				if end.name == "release" || end.name == "deregister" {
					attempt = s.claim(queue, 9)
				} else {
					require.Empty(t, s.claim(queue, 9), queue)
					require.Equal(t, jobs[0], *s.holder(queue, "g"), queue)
					s.slots()
					two := s.enqueueMany(queue, 2)
					free := s.claim(queue, 9)
					require.Equal(t, two, ids(free), "%s keeps no slot of the queue", queue)
					s.completeMany(free)
					s.promotesAll()
					attempt = s.claim(queue, 9)
				}
				require.Equal(t, jobs[:1], ids(attempt), queue)
				require.Nil(t, s.holder(queue, "g"))
				s.slots()
				s.completeMany(attempt)
				for _, job := range jobs[1:] {
					attempt = s.claim(queue, 9)
					require.Equal(t, []int64{job}, ids(attempt))
					s.completeMany(attempt)
				}
				require.Empty(t, s.claim(queue, 9))
				s.slots()
			}
		}
	}
	s.audited()
	s.exec("select awa.fold()")
	require.Zero(t, one[int](s, "select count(*)::int from awa.group_states"))
}

// A job whose place is kept gives it up, once, in the transaction that takes it away for good: whoever does, and
// wherever the job waits.
func TestPlacesAreGivenUp(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	for _, c := range []struct {
		name, call string
		where      string // deferred, ready, in front, dead
		goes       bool   // whether the job goes on at once
	}{
		{"cancel", "select awa.cancel($1)", "deferred", false},
		{"cancel", "select awa.cancel($1)", "ready", false},
		{"cancel", "select awa.cancel($1)", "in front", false},
		{"discard_job", "select awa.discard_job($1)", "deferred", false},
		{"discard_job", "select awa.discard_job($1)", "ready", false},
		{"discard_job", "select awa.discard_job($1)", "in front", false},
		{"cancel_where", "select awa.cancel_where(queue => $2, state => 'scheduled') where $1 > 0", "deferred", false},
		{"cancel_where", "select awa.cancel_where(queue => $2, kind => 'first') where $1 > 0",
			"in front", false},
		{"move", "select awa.move($1, 'other')", "deferred", false},
		{"move", "select awa.move($1, 'other')", "ready", false},
		{"move", "select awa.move($1, 'other')", "in front", false},
		{"reschedule", "select awa.reschedule($1, now() + interval '1 day')", "deferred", false},
		{"reschedule", "select awa.reschedule($1, now() + interval '1 day')", "ready", false},
		{"delete_job", "select awa.delete_job($1)", "dead", false},
		{"delete_where", "select awa.delete_where(queue => $2, state => 'dead') where $1 > 0", "dead", false},
		{"purge_dlq", "select awa.purge_dlq(queue => $2) where $1 > 0", "dead", false},
		{"expire_history", "select awa.expire_history() where $1 > 0", "dead", false},
		{"retry", "select awa.retry($1)", "deferred", true},
		{"retry", "select awa.retry($1)", "dead", true},
		{"reschedule to now", "select awa.reschedule($1, now())", "deferred", true},
		{"set_priority", "select awa.set_priority($1, 4)", "ready", true},
		{"set_priority", "select awa.set_priority($1, 4)", "in front", true},
	} {
		for _, way := range []string{"commit", "rollback"} {
			queue := fmt.Sprint(c.name, " ", c.where, " ", way)
			s.limits(queue, `{"group_order": "halt", "dead_letter": true}`)
			jobs := []int64{one[int64](s, "select awa.enqueue($1, 'first', group_key => 'g')", queue)}
			jobs = append(jobs, s.enqueueInGroup(queue, "g", 2)...)
			attempt := s.claim(queue, 9)
			switch c.where {
			case "in front":
				s.exec("select awa.release($1, $2)", attempt[0].JobID, attempt[0].Receipt)
			case "dead":
				s.exec("select awa.discard($1, $2, 'error')", attempt[0].JobID, attempt[0].Receipt)
				s.exec("update awa.done_entries set finalized_at = now() - interval '1 year'")
			default:
				s.exec("select awa.snooze($1, $2, '1 hour')", attempt[0].JobID, attempt[0].Receipt)
			}
			if c.where == "ready" {
				s.promotesAll()
			}
			if c.where == "deferred" || c.where == "dead" {
				require.Empty(t, s.claim(queue, 9))
			}
			s.slots()
			s.exec("begin")
			if strings.Contains(c.call, "$2") {
				s.exec(c.call, jobs[0], queue)
			} else {
				s.exec(c.call, jobs[0])
			}
			if c.where == "deferred" || c.where == "dead" {
				require.Empty(t, other.claim(queue, 9))
			}
			other.slots()
			s.exec(way)
			s.slots()
			want := jobs[1:]
			switch {
			case way == "rollback":
				want = jobs
				if c.where == "deferred" || c.where == "dead" {
					require.Empty(t, s.claim(queue, 9))
					require.Equal(t, jobs[0], *s.holder(queue, "g"))
					continue
				}
			case c.goes:
				want = jobs
			}
			for _, job := range want {
				got := s.claim(queue, 9)
				require.Equal(t, []int64{job}, ids(got))
				s.slots()
				s.completeMany(got)
			}
			require.Empty(t, s.claim(queue, 9))
			s.slots()
			s.exec("select awa.fold()")
			require.Zero(t, one[int](s,
				"select count(*)::int from awa.group_states where shard >> 6 = awa._queue_id($1)", queue))
		}
	}
	s.audited()
}

// A holder that expires where it waits gives its place up: by the claim that comes to it, or by maintenance.
func TestHolderExpires(t *testing.T) {
	for _, where := range []string{"claim", "promote", "cancel_expired"} {
		d := newDatabase(t)
		s := d.session()
		s.limits("q", `{"group_order": "strict"}`)
		first := one[int64](s, "select awa.enqueue('q', 'k', group_key => 'g', expires_at => now() + interval '1 day')")
		next := s.enqueueInGroup("q", "g", 1)
		attempt := s.claim("q", 9)
		require.Equal(t, []int64{first}, ids(attempt))
		s.exec("select awa.snooze($1, $2, '1 hour')", attempt[0].JobID, attempt[0].Receipt)
		require.Empty(t, s.claim("q", 9))
		if where == "promote" {
			s.exec("update awa.deferred_jobs set expires_at = now() - interval '1 second'")
			s.promotesAll()
		} else {
			s.promotesAll()
			s.exec("update awa.ready_entries set expires_at = now() - interval '1 second' where job_id = $1", first)
			if where == "cancel_expired" {
				require.Equal(t, int64(1), s.cancelExpired())
			} else {
				require.Empty(t, s.claim("q", 9))
			}
		}
		require.Equal(t, "cancelled", s.state(first))
		require.Equal(t, next, ids(s.claim("q", 9)), where)
		s.slots()
	}
}

// The order may change while places are kept: strict and back. Nobody is lost, and no group stands still.
func TestChangedOrder(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, orders := range [][]string{{"strict", "start"}, {"strict", "start", "strict"}, {"halt", "strict"},
		{"halt", "start"}, {"strict", "halt"}, {"start", "strict"}, {"strict", "start unseen", "strict"}} {
		for _, state := range []string{"retryable", "dead", "unread"} {
			queue := fmt.Sprint(orders, state)
			s.limits(queue, `{"dead_letter": true, "group_max_running": 1, "group_order": "`+orders[0]+`"}`)
			jobs := s.enqueueInGroup(queue, "g", 3)
			attempt := s.claim(queue, 9)
			if state == "dead" {
				s.exec("select awa.discard($1, $2, 'error')", attempt[0].JobID, attempt[0].Receipt)
			} else {
				s.exec("select awa.fail($1, $2, 'error', '1 hour')", attempt[0].JobID, attempt[0].Receipt)
			}
			var begun []claimed
			if state != "unread" {
				begun = append(begun, s.claim(queue, 9)...)
			}
			for _, order := range orders[1:] {
				unseen := order == "start unseen"
				if unseen {
					order = "start"
				}
				s.limits(queue, `{"group_order": "`+order+`"}`)
				if !unseen {
					begun = append(begun, s.claim(queue, 9)...)
				}
				s.slots()
			}
			last := orders[len(orders)-1]
			switch {
			case slices.Contains(orders, "start") && (orders[0] != "start" || state != "unread") ||
				state == "dead" && (last == "strict" || orders[0] == "strict"):
				require.Len(t, begun, 1, queue)
			default:
				require.Empty(t, begun, queue)
				require.Equal(t, jobs[0], *s.holder(queue, "g"))
			}
			if s.state(jobs[0]) == "dead" {
				s.exec("select awa.retry($1)", jobs[0])
			} else {
				s.promotesAll()
			}
			got := ids(begun)
			for range 3 {
				if len(begun) > 0 {
					s.completeMany(begun)
				}
				begun = s.claim(queue, 9)
				got = append(got, ids(begun)...)
				s.slots()
			}
			require.ElementsMatch(t, jobs, got, queue)
		}
	}
	s.audited()
}

// Two attempts that began under another order end: the group is reserved for one of them, and the other one comes as
// any job. One that can't begin for what runs from before comes first in its line.
func TestOrderBesideOlderAttempts(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 3}`)
	jobs := s.enqueueInGroup("q", "g", 5)
	three := s.claim("q", 9)
	require.Len(t, three, 3)
	require.Equal(t, "22023", sqlState(s.try(`select awa.configure_queue('q', '{"group_order": "strict"}')`)))
	require.Equal(t, "22023", sqlState(s.try(`select awa.configure_queue('q', '{"group_order": "other"}')`)))
	s.limits("q", `{"group_order": "strict", "group_max_running": null}`)
	require.Equal(t, "22023", sqlState(s.try(`select awa.configure_queue('q', '{"group_max_running": 2}')`)))
	for _, a := range three[:2] {
		s.exec("select awa.snooze($1, $2, '1 hour')", a.JobID, a.Receipt)
		require.Empty(t, s.claim("q", 9))
		s.slots()
	}
	s.promotesAll()
	require.Empty(t, s.claim("q", 9)) // one still runs
	require.Nil(t, s.holder("q", "g"))
	s.slots()
	s.completeMany(three[2:])
	for _, job := range []int64{jobs[0], jobs[3], jobs[4], jobs[1]} {
		got := s.claim("q", 9)
		require.Equal(t, []int64{job}, ids(got))
		s.completeMany(got)
		s.slots()
	}
	s.balanced()
}

// However many jobs come again at once, a job of priority 1 begins with the next claim.
func TestManyHoldersComeBack(t *testing.T) {
	const groups = 10_000
	s := newDatabase(t).session()
	s.limits("q", `{"group_order": "strict", "max_running": 20000}`)
	s.exec("select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', 'q', 'kind', 'k', 'group_key', 'g' || n))) "+
		"from generate_series(1, $1) n", groups)
	all := []claimed{}
	for len(all) < groups {
		got := s.claim("q", 500)
		require.NotEmpty(t, got)
		all = append(all, got...)
	}
	require.Empty(t, list[int64](s, "select awa.fail_many($1, $2, array_fill('error'::text, array[$3::int]), "+
		"array_fill('0'::interval, array[$3::int]))", ids(all), receipts(all), groups))
	require.Empty(t, s.claim("q", 9))
	require.Equal(t, groups, one[int](s, "select count(distinct group_id)::int from awa.group_states where holder > 0"))
	s.promotesAll()
	s.exec("select awa.promote_due(10000)")
	urgent := s.enqueueWithPriority("q", 1)
	require.Equal(t, []int64{urgent}, ids(s.claim("q", 1)))
	got := s.claim("q", 500)
	require.Equal(t, ids(all)[:len(got)], ids(got))
	s.slots()
}

// Under strict and halt a group has one attempt at once, also one with a limit of its own from before.
func TestOrderBesideAnOwnLimit(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_max_running": 1}`)
	s.exec(`select awa.configure_group('q', 'g', '{"group_max_running": 5}')`)
	jobs := s.enqueueInGroup("q", "g", 9)
	first := s.claim("q", 3)
	require.Len(t, first, 3)
	s.limits("q", `{"group_order": "strict"}`)
	s.slots()
	require.Empty(t, s.claim("q", 9))
	s.slots()
	require.Contains(t, one[string](s, "select awa.explain_job($1)", jobs[8]), "group g: 3 of 1 run (jobs")
	s.completeMany(first)
	for _, job := range jobs[3:6] {
		got := s.claim("q", 9)
		require.Equal(t, []int64{job}, ids(got))
		require.Contains(t, one[string](s, "select awa.explain_job($1)", jobs[8]), "group g: 1 of 1 run (jobs")
		s.slots()
		if job == jobs[5] {
			s.limits("q", `{"group_order": "start"}`)
			s.slots() // until a claim has read that, one at a time is right
		}
		s.completeMany(got)
	}
	s.slots()
	require.Equal(t, jobs[6:], ids(s.claim("q", 9)), "its own limit holds again")
	s.slots()
}

// Jobs of a group begin in the order in which they came, whatever their priorities are, and whatever claims have read.
func TestOrderAmongPriorities(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_order": "strict"}`)
	enqueue := func(priority int) int64 {
		return one[int64](s, "select awa.enqueue('q', 'k', group_key => 'g', priority => $1)", priority)
	}
	many := one[int64](s, `
		select job_id from awa.enqueue_batch('[{"queue": "q", "kind": "k", "group_key": "g", "priority": 4}]')`)
	jobs := []int64{many, enqueue(3), enqueue(1)}
	s.exec("select awa.schedule('tick', 'q', 'k', every => '1 hour', group_key => 'g', priority => 4)")
	jobs = append(jobs, one[int64](s, "select awa.trigger_schedule('tick')"))
	due := one[int64](s,
		"select awa.enqueue('q', 'k', group_key => 'g', priority => 4, run_at => now() + interval '1 hour')")
	s.promotesAll()
	jobs = append(jobs, due, enqueue(2), enqueue(1))
	s.exec("select awa.set_priority($1, 1)", jobs[5]) // unread yet: it goes to the end
	jobs = append(jobs, jobs[5])
	jobs = slices.Delete(jobs, 5, 6)
	alone := s.enqueueWithPriority("q", 1)
	urgent := s.claim("q", 1)
	require.Equal(t, []int64{alone}, ids(urgent), "a job without a group goes by its priority")
	for i, job := range jobs {
		if i == 3 {
			s.exec("select awa.set_priority($1, 1)", jobs[4]) // in line
			jobs = append(jobs, jobs[4])
			jobs = slices.Delete(jobs, 4, 5)
			job = jobs[3]
		}
		got := s.claim("q", 9)
		require.Equal(t, []int64{job}, ids(got), "%d of %v", i, jobs)
		s.completeMany(got)
		s.slots()
	}
	require.Equal(t, []int{1, 1, 1, 1, 3, 4, 4}, list[int](s,
		"select priority from awa.jobs where group_key = 'g' order by 1"))
	s.audited()
}

// explain_job names the job for which a group is kept, what that one waits for, and its last error. To retry or cancel
// it lets the group go on at once.
func TestHolderIsExplained(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	says := func(job int64) string { return one[string](s, "select awa.explain_job($1)", job) }
	for _, end := range []string{"retry", "cancel"} {
		s.limits(end, `{"group_order": "halt", "dead_letter": true}`)
		jobs := s.enqueueInGroup(end, "acme", 3)
		attempt := s.claim(end, 9)
		s.exec("select awa.fail($1, $2, 'no answer', '1 hour')", attempt[0].JobID, attempt[0].Receipt)
		require.Empty(t, s.claim(end, 9))
		require.Contains(t, says(jobs[2]), fmt.Sprintf("waits for its group acme: it is reserved for job %d, which "+
			"waits for its retry at %s", jobs[0], one[string](s, "select run_at::text from awa.job($1)", jobs[0])))
		require.Contains(t, says(jobs[2]), "go on at once; its last error: no answer, 1 before it.")
		s.exec("select awa."+end+"($1)", jobs[0])
		want := jobs[0]
		if end == "retry" {
			require.Contains(t, says(jobs[2]), "which begins first")
		} else {
			want = jobs[1]
		}
		attempt = s.claim(end, 9)
		require.Equal(t, []int64{want}, ids(attempt))
		s.exec("select awa.discard($1, $2, 'never')", attempt[0].JobID, attempt[0].Receipt)
		require.Empty(t, s.claim(end, 9))
		require.Contains(t, says(jobs[2]), fmt.Sprintf("it is reserved for job %d, which is dead since", want))
		s.exec("select awa.snooze($1, $2, '0')", s.retried(end, want), one[int64](s, "select receipt from awa.job($1)", want))
	}
	s.audited()
}

// retried lets a job that failed for good run again, and returns its id once it has begun.
func (s *session) retried(queue string, job int64) int64 {
	s.Helper()
	s.exec("select awa.retry($1)", job)
	got := s.claim(queue, 9)
	require.Equal(s, []int64{job}, ids(got))
	return job
}

// audit finds a place that somebody has removed, and one that nobody comes for.
func TestAuditOfPlaces(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.limits("q", `{"group_order": "strict"}`)
	jobs := s.enqueueInGroup("q", "g", 3)
	attempt := s.claim("q", 9)
	s.exec("select awa.fail($1, $2, 'error', '1 hour')", attempt[0].JobID, attempt[0].Receipt)
	require.Empty(t, s.claim("q", 9))
	s.slots()
	s.audited()
	kept := "is reserved for job %d, which does not come"
	for _, c := range [][2]string{
		{"update awa.group_states set holder = null", "jobs wait, there is room, and nothing wakes them"},
		{"update awa.group_states set holder = 1000000", fmt.Sprintf(kept, 1000000)},
		{"delete from awa.deferred_jobs", fmt.Sprintf(kept, jobs[0])},
		{"delete from awa.group_states", "are not known"},
		{"update awa.group_states set running = 1", "0 slots are held, 1 are counted"},
		{"insert into awa.slots (shard, leavers) select shard, array[holder] from awa.group_states", ""},
	} {
		s.exec("begin")
		s.exec(c[0])
		if c[1] == "" {
			s.slots()
		} else {
			require.Contains(t, fmt.Sprint(list[string](s, "select problem from awa._limit_problems")), c[1], c[0])
		}
		s.exec("rollback")
	}
}
