package sql_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// An edge is one way from a state to another. The states start and gone are those of a job that there is not.
type edge struct{ from, to, function string }

// A rule is what the table of edges says beside the states.
type rule struct{ attempt, key string }

// A setting is a way to bring a job into a state. Each edge from the state is walked from each of its settings' homes.
type setting struct {
	state       string
	home        string // where the job is then
	maxAttempts int
	deadLetter  bool
	sharded     bool     // its queue has several shards, and it a group
	company     bool     // two other jobs of its queue went the same way, in the same claims
	path        []string // what happened to it
	stale       bool     // its attempt is answered with the receipt of an earlier one
}

// A subject is the job under test.
type subject struct {
	id      int64
	args    pgx.NamedArgs
	company []int64
}

// A step is a call that may change a job.
type step struct{ function, prepare, call string }

const (
	enqueueLater = "run_at => now() + interval '1 hour'"
	claimIt      = "select job_id, receipt from awa.claim(@queue, 10, @worker)"
	failIt       = "select awa.fail(@job, @receipt, 'error')"
	materialize  = "select awa.materialize('0')"
	isDue        = "due as (update awa.deferred_jobs set run_at = clock_timestamp() where job_id = @job)"
	isLate       = `late as (update awa.leases set deadline_at = clock_timestamp() where job_id = @job),
		late_claim as (update awa.lease_claims set deadline_at = clock_timestamp() where @job = any(job_ids))`
	isOld = `done as (update awa.done_entries set finalized_at = finalized_at - interval '10 years' where job_id ` +
		`= @job)`
	isExpired = `queue as (update awa.queues set may_expire = true where name = @queue),
		entry as (update awa.ready_entries set expires_at = now() where job_id = @job),
		deferred as (update awa.deferred_jobs set expires_at = now(), run_at = clock_timestamp() where job_id = @job)`
	becomesExpired = "with " + isExpired + " select"
	becomesDue     = "with " + isDue + " select"
	becomesLate    = "with " + isLate + " select"
	becomesOld     = "with " + isOld + " select"
	// last, because it stays so
	allIsDue = "with " + isDue + ", " + isLate + ", " + isOld +
		` update awa.settings set segment_age = '1 microsecond', completed_retention = '0'`
	isLeft = "select awa.rotate(true)"
	// a schedule that is due, and whose last job it is
	becomesReplaced = `insert into awa.schedules (name, queue, kind, cron, cron_bits, args, timezone, missed, missed_for,
		  overlap, made_at, changed_at, decided_until, next_tick, next_wall, next_at, last_job_id)
		select @queue, @queue || ' other', 'k', '@daily', awa._cron_bits('@daily'), '{}', 'UTC', 'latest', '1 day',
		       'replace', now(), now(), d.day at time zone 'UTC' - interval '1 hour', d.day at time zone 'UTC', d.day,
		       now(), @job
		  from date_trunc('day', now() at time zone 'UTC') d(day)`
	isScheduled = "select awa.schedule(@queue, @queue || ' other', 'k', '@hourly')"
)

// steps are all calls that may change a job, and those of which one would not expect it. Every function that is not
// declared to change nothing is here.
var steps = []step{
	{"enqueue", "", "select awa.enqueue(@queue, 'k')"},
	{"enqueue", "", "select awa.enqueue(@queue, 'k', " + enqueueLater + ")"},
	{"enqueue_many", "", "select awa.enqueue_many(@queue, 'k', '{\"1\"}')"},
	{"enqueue_many", "", "select awa.enqueue_many(@queue, 'k', '{\"1\"}', " + enqueueLater + ")"},
	{"enqueue_batch", "",
		"select job_id from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', @queue::text, 'kind', 'k')))"},
	{"enqueue_batch", "",
		"select job_id from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', @queue::text, 'kind', 'k', " +
			"'run_at', now() + interval '1 hour')))"},
	{"enqueue_unique", "", "select job_id from awa.enqueue_unique(@queue, 'k', unique_key => @queue)"},
	{"enqueue_unique", "",
		"select job_id from awa.enqueue_unique(@queue, 'k', unique_key => @queue, " + enqueueLater + ")"},
	{"cancel_by_unique_key", "", "select awa.cancel_by_unique_key(unique_key => @queue)"},
	{"register_worker", "", "select awa.register_worker(@queue)"},
	{"heartbeat", "", "select job_id from awa.heartbeat(@worker)"},
	{"deregister_worker", "", "select awa.deregister_worker(@worker)"},
	{"release_unknown", "", "select awa.release_unknown(@worker, '{}', '{}')"},
	{"claim", "", claimIt},
	{"claim", becomesExpired, claimIt},
	{"complete", "", "select awa.complete(@job, @receipt)"},
	{"complete", "", "select awa.complete(@job, @receipt, '{}')"},
	{"complete_many", "", "select awa.complete_many(array[@job]::bigint[], array[@receipt]::bigint[])"},
	{"complete_many", "", "select awa.complete_many(array[@job]::bigint[], array[@receipt]::bigint[], '{\"{}\"}')"},
	{"fail", "", failIt},
	{"fail", "", "select awa.fail(@job, @receipt, 'error', '0')"},
	{"fail_many", "", "select awa.fail_many(array[@job]::bigint[], array[@receipt]::bigint[], '{error}')"},
	{"discard", "", "select awa.discard(@job, @receipt, 'error')"},
	{"snooze", "", "select awa.snooze(@job, @receipt, '1 hour')"},
	{"snooze", "", "select awa.snooze(@job, @receipt, '0')"},
	{"put_off", "", "select awa.put_off(@job, @receipt, 'error')"},
	{"release", "", "select awa.release(@job, @receipt)"},
	{"cancel_attempt", "", "select awa.cancel_attempt(@job, @receipt)"},
	{"extend", "", "select awa.extend(@job, @receipt, '1 hour')"},
	{"set_progress", "", "select awa.set_progress(@job, @receipt, '1')"},
	{"promote_due", "", "select promoted from awa.promote_due()"},
	{"promote_due", becomesDue, "select promoted from awa.promote_due()"},
	{"promote_due", becomesExpired, "select promoted from awa.promote_due()"},
	{"cancel_expired", "", "select cancelled from awa.cancel_expired()"},
	{"cancel_expired", becomesExpired, "select cancelled from awa.cancel_expired()"},
	{"apply_changes", starts("cancel", "", ""), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("discard", "", ""), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("retry", "", ""), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("retry", "scheduled", ""), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("retry", "retryable", ""), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("retry", "", `{"run_at": "2130-01-01T00:00Z"}`), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("move", "", `{"queue": "elsewhere"}`), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("set_priority", "", `{"priority": 4}`), "select changed from awa.apply_changes()"},
	{"apply_changes", starts("delete", "", ""), "select changed from awa.apply_changes()"},
	{"stop_change", starts("delete", "", ""), "select awa.stop_change(max(change_id)) from awa.changes"},
	{"start_change", "", starts("delete", "", "")},
	{"materialize", "", "select materialized from awa.materialize()"},
	{"materialize", "", "select materialized from awa.materialize('0', 10000)"},
	{"rescue", "", "select rescued from awa.rescue()"},
	{"rescue", becomesLate, "select rescued from awa.rescue()"},
	{"expire_history", "", "select expired from awa.expire_history()"},
	{"expire_history", becomesOld, "select expired from awa.expire_history()"},
	{"rotate", "", "select rotated from awa.rotate()"},
	{"rotate", "", "select rotated from awa.rotate(true)"},
	{"prune_oldest", "", "select outcome from awa.prune_oldest()"},
	{"prune_oldest", isLeft, "select outcome from awa.prune_oldest(true)"},
	{"fire_due", "", "select fired from awa.fire_due()"},
	{"fire_due", becomesReplaced, "select fired from awa.fire_due()"},
	{"fold", "", "select more from awa.fold()"},
	{"summarize", "", "select summarized from awa.summarize()"},
	{"end_stuck_claimers", "", "select ended from awa.end_stuck_claimers()"},
	{"forget_workers", "", "select forgotten from awa.forget_workers()"},
	{"run_pass", "", "select awa.run_pass('fold')"},
	{"rebase_after_restore", "", "select available from awa.rebase_after_restore()"},
	{"audit", "", "select balanced from awa.audit()"},
	{"health", "", "select level from awa.health()"},
	{"configure", "", `select awa.configure('{"claim_wait": "4 seconds"}')`},
	{"configure_queue", "",
		`select awa.configure_queue(@queue, '{"default_priority": 4, "default_max_attempts": 1, "deadline": "1 second", ` +
			`"failed_retention": "1 hour"}')`},
	{"pause_queue", "", "select awa.pause_queue(@queue)"},
	{"drain_queue", "", "select awa.drain_queue(@queue)"},
	{"resume_queue", "", "select awa.resume_queue(@queue)"},
	{"configure_group", "", `select awa.configure_group(@queue, 'g', '{"group_max_running": 1}')`},
	{"pause_group", "", "select awa.pause_group(@queue, 'g')"},
	{"resume_group", "", "select awa.resume_group(@queue, 'g')"},
	{"drop_queue", "", "select awa.drop_queue(@queue)"},
	{"drop_queue", "", "select awa.drop_queue(@queue, true)"},
	{"cancel", "", "select awa.cancel(@job)"},
	{"discard_job", "", "select awa.discard_job(@job)"},
	{"cancel_where", "", "select awa.cancel_where(queue => @queue)"},
	{"cancel_where", "", "select awa.cancel_where(queue => @queue, kind => 'other')"},
	{"retry", "", "select awa.retry(@job)"},
	{"retry", "", "select awa.retry(@job, @queue || ' moved', 1)"},
	{"retry", "", "select awa.retry(@job, run_at => now() + interval '2 hours')"},
	{"retry", "", "select awa.retry(@job, @queue || ' moved', 4, now() + interval '2 hours')"},
	{"retry_where", "", "select awa.retry_where(queue => @queue)"},
	{"retry_where", "", "select awa.retry_where(queue => @queue, state => 'scheduled')"},
	{"retry_where", "", "select awa.retry_where(queue => @queue, state => 'retryable')"},
	{"set_priority", "", "select awa.set_priority(@job, 1)"},
	{"set_priority", "", "select awa.set_priority(@job, 4)"},
	{"move", "", "select awa.move(@job, @queue || ' moved')"},
	{"move", "", "select awa.move(@job, @queue)"},
	{"reschedule", "", "select awa.reschedule(@job, now() + interval '2 hours')"},
	{"reschedule", "", "select awa.reschedule(@job, now(), '2')"},
	{"purge_dlq", "", "select awa.purge_dlq(queue => @queue)"},
	{"delete_job", "", "select awa.delete_job(@job)"},
	{"delete_where", "", "select awa.delete_where(queue => @queue)"},
	{"delete_where", "", "select awa.delete_where(queue => @queue, kind => 'other')"},
	{"schedule", "", isScheduled},
	{"unschedule", isScheduled, "select awa.unschedule(@queue)"},
	{"pause_schedule", isScheduled, "select awa.pause_schedule(@queue)"},
	{"resume_schedule", isScheduled, "select awa.resume_schedule(@queue)"},
	{"trigger_schedule", isScheduled, "select awa.trigger_schedule(@queue)"},
	{"backfill_schedule", isScheduled, "select awa.backfill_schedule(@queue, now() - interval '1 day', now())"},
	{"sync_schedules", "", "select awa.sync_schedules(@queue, '[]')"},
	{"run_maintenance", "", "call awa.run_maintenance()"},
	{"run_maintenance", allIsDue, "call awa.run_maintenance()"},
	{"run_passes", "", "call awa.run_passes()"},
}

// starts starts a change of the job's queue.
func starts(action, state, options string) string {
	return fmt.Sprintf("select awa.start_change('%s', awa._without_nulls(jsonb_build_object('queue', @queue::text, "+
		"'state', nullif('%s', ''))), nullif('%s', '')::jsonb)", action, state, options)
}

// allPasses are the calls that go through all passes of maintenance.
var allPasses = []string{"run_maintenance", "run_passes"}

// maintenance is what they call.
var maintenance = []string{"promote_due", "fire_due", "fold", "end_stuck_claimers", "rescue", "materialize",
	"cancel_expired", "apply_changes", "expire_history", "summarize", "rotate", "prune_oldest", "forget_workers"}

// settings are the ways into each state.
func settings() (all []setting) {
	add := func(state, home string, path ...string) {
		all = append(all, setting{state: state, home: home, path: path, maxAttempts: 3})
	}
	add("available", "appended")
	add("available", "given back", claimIt, "select awa.release(@job, @receipt)")
	add("available", "promoted", claimIt, failIt, becomesDue, "select promoted from awa.promote_due()")
	add("available", "moved", "select awa.set_priority(@job, 3)")
	add("scheduled", "enqueued")
	add("scheduled", "snoozed", claimIt, "select awa.snooze(@job, @receipt, '1 hour')")
	add("scheduled", "snoozed after a while", claimIt, materialize, "select awa.snooze(@job, @receipt, '1 hour')")
	add("retryable", "failed", claimIt, failIt)
	add("retryable", "failed after a while", claimIt, materialize, failIt)
	add("retryable", "rescued", claimIt, becomesLate, "select rescued from awa.rescue()")
	add("completed", "ledger", claimIt, "select awa.complete(@job, @receipt)")
	add("completed", "ledger, with others", claimIt,
		"select awa.complete_many(array[@job]::bigint[], array[@receipt]::bigint[])")
	add("completed", "ledger, with an output", claimIt, "select awa.complete(@job, @receipt, '{}')")
	add("completed", "leases", claimIt, materialize, "select awa.complete(@job, @receipt)")
	add("failed", "ledger", claimIt, "select awa.discard(@job, @receipt, 'error')")
	add("failed", "leases", claimIt, materialize, "select awa.discard(@job, @receipt, 'error')")
	add("cancelled", "available", "select awa.cancel(@job)")
	add("cancelled", "given back", claimIt, "select awa.release(@job, @receipt)", "select awa.cancel(@job)")
	add("cancelled", "retryable", claimIt, failIt, "select awa.cancel(@job)")
	add("cancelled", "ledger", claimIt, "select awa.cancel(@job)")
	add("cancelled", "leases", claimIt, materialize, "select awa.cancel_attempt(@job, @receipt)")
	add("dead", "ledger", claimIt, "select awa.discard(@job, @receipt, 'error')")
	add("dead", "leases", claimIt, materialize, "select awa.discard(@job, @receipt, 'error')")
	add("dead", "available", "select awa.discard_job(@job)")
	add("dead", "retryable", claimIt, failIt, "select awa.discard_job(@job)")
	add("gone", "deleted", claimIt, "select awa.complete(@job, @receipt)", "select awa.delete_job(@job)")
	add("gone", "purged", claimIt, "select awa.discard(@job, @receipt, 'error')", "select awa.purge_dlq(queue => @queue)")
	for i := range all {
		all[i].deadLetter = all[i].state == "dead" || all[i].home == "purged"
		all[i].company = strings.Contains(all[i].home, "with others")
		all[i].sharded = i%2 == 1
	}
	for _, path := range [][]string{{claimIt}, {claimIt, materialize}} {
		for _, company := range []bool{false, true} {
			home := map[int]string{1: "ledger", 2: "leases"}[len(path)] +
				map[bool]string{false: ", alone", true: ", with others"}[company]
			all = append(all,
				setting{state: "running", home: home, path: path, company: company, maxAttempts: 2},
				setting{state: "running", home: home, path: path, company: company, maxAttempts: 1},
				setting{state: "running", home: home, path: path, company: company, maxAttempts: 1, deadLetter: true},
				setting{state: "running", home: home,
					path: slices.Concat([]string{claimIt, "select awa.release(@job, @receipt)"}, path), company: company,
					maxAttempts: 2, stale: true})
		}
	}
	return all
}

// docs/state-machine.md is what happens: each of its edges can be walked, from wherever a job in that state may be; no
// call leads elsewhere; and a call that is refused changes nothing.
func TestStateMachine(t *testing.T) {
	rules, states := readStateMachine(t)
	walked := &walks{homes: map[edge]map[string]bool{}}
	homes := map[string]map[string]bool{"start": {"": true}}
	t.Run("start", func(t *testing.T) { walkStart(t, rules, walked) })
	t.Run("ways", func(t *testing.T) {
		for _, way := range settings() {
			if homes[way.state] == nil {
				homes[way.state] = map[string]bool{}
			}
			homes[way.state][way.home] = true
			t.Run(way.state+", "+way.home, func(t *testing.T) {
				t.Parallel() // with each other: this is the longest of all tests
				walk(t, way, rules, walked)
			})
		}
	})
	for _, state := range states {
		require.Equal(t, state != "waiting_external", len(homes[state]) > 0, "ways to become %s", state)
	}
	pruned, expired := edge{"completed", "gone", "prune_oldest"}, edge{"completed", "gone", "expire_history"}
	for home := range homes["completed"] {
		require.NotEqual(t, walked.homes[pruned][home], walked.homes[expired][home],
			"%s: it goes with its segment, or expires", home)
		walked.homes[pruned][home], walked.homes[expired][home] = true, true
	}
	for _, e := range []edge{
		{"available", "scheduled", "reschedule"}, {"available", "cancelled", "claim"},
		{"available", "cancelled", "cancel_expired"},
	} {
		require.False(t, walked.homes[e]["promoted"], "it has begun")
		walked.homes[e]["promoted"] = true
	}
	for e := range rules {
		for home := range homes[e.from] {
			if !walked.homes[e][home] {
				t.Errorf("%s did not lead from %s (%s) to %s", e.function, e.from, home, e.to)
			}
		}
	}
}

// walks are the edges that were walked, and from where. They are safe for concurrent use while they are added to.
type walks struct {
	mu    sync.Mutex
	homes map[edge]map[string]bool
}

func (w *walks) add(e edge, home string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.homes[e] == nil {
		w.homes[e] = map[string]bool{}
	}
	w.homes[e][home] = true
}

// readStateMachine reads the table of edges, and the states. The diagram says the same.
func readStateMachine(t *testing.T) (rules map[edge]rule, states []string) {
	text, err := os.ReadFile("../docs/state-machine.md")
	require.NoError(t, err)
	rules = map[edge]rule{}
	ways := map[[2]string]bool{}
	name := regexp.MustCompile("`([a-z_]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case len(cells) == 2 && strings.HasPrefix(cells[0], "`"):
			states = append(states, strings.Trim(cells[0], "`"))
		case len(cells) == 5 && cells[0] != "from" && cells[0] != "---":
			way := [2]string{cells[0], cells[1]}
			ways[way] = true
			for _, function := range name.FindAllStringSubmatch(cells[2], -1) {
				if e := (edge{cells[0], cells[1], function[1]}); function[1] != "run_at" {
					require.NotContains(t, rules, e, "two rows")
					rules[e] = rule{cells[3], cells[4]}
				}
			}
		}
	}
	drawn := map[[2]string]bool{}
	for _, arrow := range regexp.MustCompile(`(?m)^ *(\S+) --> (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		drawn[[2]string{strings.Replace(arrow[1], "[*]", "start", 1), arrow[2]}] = true
	}
	require.NotEmpty(t, rules)
	require.Equal(t, ways, drawn, "the table and the diagram")
	for way := range ways {
		require.Contains(t, append(states, "start"), way[0])
		require.Contains(t, append(states, "gone"), way[1])
	}
	return rules, states
}

// walkStart takes the edges of jobs that there are not yet.
func walkStart(t *testing.T, rules map[edge]rule, walked *walks) {
	s := newDatabase(t).session()
	functions := map[string]bool{}
	for i, step := range steps {
		functions[step.function] = true
		if !strings.HasPrefix(step.function, "enqueue") {
			continue
		}
		queue := fmt.Sprint("start ", i)
		job := one[int64](s, step.call, pgx.NamedArgs{"queue": queue})
		after := s.look(job)
		e := edge{"start", after.state, step.function}
		require.Contains(t, rules, e)
		require.Equal(t, rule{"from 0", "held"}, rules[e])
		require.Zero(t, after.attempt)
		require.Equal(t, step.function == "enqueue_unique", after.holdsKey)
		walked.add(e, "")
	}
	for _, function := range list[string](s, `
		select p.proname::text from pg_proc p
		 where p.pronamespace = 'awa'::regnamespace and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype
		 and p.provolatile = 'v'`) {
		require.True(t, functions[function], "%s may change a job: it is missing in steps", function)
	}
}

// walk takes every step from one state.
func walk(t *testing.T, way setting, rules map[edge]rule, walked *walks) {
	s := newDatabase(t).session()
	// looking at a job takes longer to plan, and to be on disk, than to do
	s.exec("set plan_cache_mode = force_generic_plan; set synchronous_commit = off")
	foreign := s.enqueue("foreign")
	foreignAttempt := s.claim("foreign", 1)[0].Receipt
	for i, step := range steps {
		turns := slices.Contains(append([]string{"rotate", "prune_oldest"}, allPasses...), step.function)
		for turns && s.prune() != "empty" { // so that the next job will be in the oldest segment that is not
		}
		job := s.bring(way, fmt.Sprint("queue ", i), foreignAttempt)
		if step.prepare != "" {
			s.exec(step.prepare, job.args)
		}
		before, others := s.look(job.id), s.rows(job.company)
		what := fmt.Sprintf("%s on a job that is %s:\n%s", step.function, way.state,
			strings.Join(append(slices.Clone(way.path), step.prepare, step.call), "\n"))
		require.Equal(t, way.state, before.state, what)

		rows, err := s.db.Query(s.ctx, step.call, job.args)
		require.NoError(t, err, what)
		results, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (any, error) {
			values, err := row.Values()
			return values[0], err
		})
		after := s.look(job.id)

		answers := strings.Contains(step.call, "@receipt")
		refused := err != nil || strings.HasSuffix(step.function, "_many") && answers && len(results) > 0
		if err != nil {
			code := "JQ005"
			switch {
			case answers:
				code = "JQ001"
			case way.state == "gone":
				code = "JQ003"
			}
			require.Equal(t, code, sqlState(err), what)
		}
		if answers {
			require.Equal(t, way.state != "running" || way.stale, refused, what)
		}
		if refused {
			require.Equal(t, before, after, what)
		}
		if before != after || turns || i == len(steps)-1 { // an audit takes longer than all the rest
			require.Empty(t, list[string](s, "select concat_ws(': ', queue, problem) from awa.audit() where not balanced"), what)
		}
		if refused || strings.Contains(step.call, "@job") {
			require.Equal(t, others, s.rows(job.company), what)
		}
		if before.state == after.state {
			switch step.function {
			case "set_priority", "move", "reschedule", "retry", "apply_changes", "extend", "set_progress", "heartbeat":
			default:
				require.Equal(t, before, after, what)
			}
			continue
		}

		e := edge{way.state, after.state, step.function}
		for _, part := range maintenance {
			if _, ok := rules[edge{way.state, after.state, part}]; ok && slices.Contains(allPasses, step.function) {
				e.function = part
			}
		}
		require.Contains(t, rules, e, what)
		attempt := after.attempt
		switch rules[e].attempt {
		case "begins":
			attempt = before.attempt + 1
		case "does not count":
			attempt = before.attempt - 1
		case "counts, but the last one":
			attempt = min(before.attempt, way.maxAttempts-1)
		case "from 0":
			attempt = 0
		case "counts", "–":
			if after.state != "gone" {
				attempt = before.attempt
			}
		default:
			require.Fail(t, "no such rule", "%v", rules[e])
		}
		require.Equal(t, attempt, after.attempt, what)
		require.Contains(t, []string{"held", "not held"}, rules[e].key)
		require.Equal(t, rules[e].key == "held", after.holdsKey, what)
		if slices.Contains(allPasses, step.function) {
			continue // it may have been another part
		}
		walked.add(e, way.home)
	}
	require.Equal(t, "running", s.state(foreign), "its receipt was used for other jobs")
}

// bring makes a job of a queue of its own, and brings it into a state.
func (s *session) bring(way setting, queue string, foreignAttempt int64) subject {
	s.Helper()
	options := ""
	if way.state == "scheduled" && len(way.path) == 0 {
		options = ", " + enqueueLater
	}
	job := subject{args: pgx.NamedArgs{
		"queue": queue, "receipt": foreignAttempt, "worker": one[int64](s, "select awa.register_worker($1)", queue),
		"attempts": way.maxAttempts,
	}}
	if way.sharded {
		s.setShards(queue, 4)
		options += ", group_key => 'g'"
	}
	if way.company {
		job.company = append(job.company, s.enqueue(queue))
	}
	job.id = one[int64](s,
		"select job_id from awa.enqueue_unique(@queue, 'k', unique_key => @queue, max_attempts => @attempts"+options+")",
		job.args)
	job.args["job"] = job.id
	if way.company {
		job.company = append(job.company, s.enqueue(queue))
	}
	if way.deadLetter {
		s.exec(`select awa.configure_queue(@queue, '{"dead_letter": true}')`, job.args)
	}
	for _, step := range way.path {
		if step != claimIt {
			s.exec(step, job.args)
			continue
		}
		rows, err := s.db.Query(s.ctx, step, job.args)
		require.NoError(s, err)
		jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
		require.NoError(s, err)
		i := slices.Index(ids(jobs), job.id)
		require.GreaterOrEqual(s, i, 0)
		if !way.stale || job.args["receipt"] == foreignAttempt {
			job.args["receipt"] = jobs[i].Receipt
		}
	}
	return job
}

// A look is what can be seen of a job.
type look struct {
	state    string
	attempt  int
	holdsKey bool
	row      string
}

func (s *session) look(job int64) (l look) {
	s.Helper()
	rows := s.rows([]int64{job})
	l.holdsKey = one[bool](s, "select exists (select from awa.unique_claims where job_id = $1)", job)
	require.LessOrEqual(s, len(rows), 1, "a job is shown more than once: %v", rows)
	if len(rows) == 0 {
		l.state = "gone"
		return l
	}
	l.row = rows[0]
	require.NoError(s, s.db.QueryRow(s.ctx, "select j ->> 'state', (j ->> 'attempt')::int from (select $1::jsonb) j(j)",
		l.row).Scan(&l.state, &l.attempt))
	return l
}

func (s *session) rows(jobs []int64) []string {
	s.Helper()
	return list[string](s, "select to_jsonb(j)::text from awa.jobs j where id = any($1) order by id", jobs)
}
