package sql_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

var (
	uniqueSeed  = flag.Uint64("unique.seed", uint64(time.Now().UnixNano()), "seed of TestUniqueKeysAtRandom")
	uniqueSteps = flag.Int("unique.steps", 600, "steps of TestUniqueKeysAtRandom")
)

// What must hold of committed jobs and their keys, whatever happened: a key is held by at most one job; who holds it is
// in a state in which it does, or completed in a period that goes on;
// and of jobs that hold their keys in all states before the end, each one holds it.
const keysThatAreWrong = `
	with jobs as (
	  select j.id, j.state, j.unique_key as key, k.unique_key as full_key
	    from awa.jobs j
	    join (
	      select job_id, unique_key
	        from awa.ready_entries
	      union
	      select job_id, unique_key
	        from awa.deferred_jobs
	      union
	      select job_id, unique_key
	        from awa.leases
	      union select job_id, unique_key from awa.done_entries
	    ) k on k.job_id = j.id and encode(substr(k.unique_key, 1, 32), 'hex') = j.unique_key
	), claims as (
	  select encode(c.key, 'hex') as key, c.job_id, c.held_until from awa.unique_claims c where c.job_id is not null
	)
	select format('key %s is held twice', key) from claims group by key having count(*) > 1
	union all
	select format('key %s is held by job %s, which is %s', c.key, c.job_id, coalesce(j.state, 'not there'))
	  from claims c left join jobs j on j.id = c.job_id and j.key = c.key
	 where case
	   when c.held_until is null then not coalesce(awa._holds(j.full_key, j.state), false)
	   else coalesce(j.state, 'completed') <> 'completed'
	 end
	union all
	select format('job %s is %s, and does not hold key %s', j.id, j.state, j.key)
	  from jobs j
	 where get_byte(j.full_key, 33) & 31 = 31
	   and (
	     j.state in ('scheduled', 'available', 'running', 'retryable')
	       or j.state = 'completed' and awa._held_until(j.full_key) > now()
	   )
	   and not exists (select from claims c where c.key = j.key and c.job_id = j.id)
	union all
	select format('key %s has %s rows, %s of them first', encode(c.key, 'hex'), count(*),
	  count(*) filter (where c.round = 0))
	  from awa.unique_claims c group by c.key having count(*) > 2 or count(*) filter (where c.round = 0) <> 1`

// What no transaction may see, whatever it has done itself: a job is in one place.
const jobsInTwoPlaces = `
	select format('job %s is in %s places: %s', id, count(*), string_agg(format('%s %s %s', state, queue, receipt), ', '))
	  from awa.jobs group by id having count(*) > 1`

// Everything that touches a key, at random, in three sessions that take turns: savepoints, rollbacks, early decisions,
// states, periods, moves. A session that would have to wait rolls back.
func TestUniqueKeysAtRandom(t *testing.T) {
	t.Logf("-unique.seed=%d", *uniqueSeed)
	random := rand.New(rand.NewPCG(*uniqueSeed, 0))
	d := newDatabase(t)
	watcher := d.session()
	watcher.exec("select awa.configure_queue('dead', '{\"dead_letter\": true}') from awa.enqueue('dead', 'k')")
	var sessions []*session
	for range 3 {
		s := d.session()
		s.exec("set lock_timeout = '20ms'") // of whatever has no bound of its own
		sessions = append(sessions, s)
	}
	watcher.exec("update awa.settings set claim_wait = '20 milliseconds'")
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	job := func(state string) string {
		return fmt.Sprintf("(select id from awa.jobs where state in (%s) order by random() limit 1)", state)
	}
	unique := func() (sql, object string) {
		key := pick("a", "b", "c")
		states := pick("", "", "", "", "scheduled,available", "running", "retryable,failed", "completed",
			"available,cancelled", "scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead",
			"dead")
		period := pick("", "", "1 day", "1 year")
		sql, object = fmt.Sprintf("unique_key => '%s'", key), fmt.Sprintf(`"key": "%s"`, key)
		if random.IntN(3) == 0 {
			sql, object = "unique_by => '{queue,kind}'", `"by": ["queue", "kind"]`
		}
		if states != "" {
			sql += fmt.Sprintf(", unique_states => '{%s}'", states)
			object += fmt.Sprintf(`, "states": ["%s"]`, strings.ReplaceAll(states, ",", `", "`))
		}
		if period != "" {
			sql += fmt.Sprintf(", unique_period => '%s'", period)
			object += fmt.Sprintf(`, "period": "%s"`, period)
		}
		return sql, object
	}
	watcher.registerWorker()
	watcher.noGap()
	// A session may stay idle in a transaction that has decided, for as long as the others work.
	sessions[0].exec("create or replace function awa._end_when_idle() returns void language sql as 'select'")
	var log []string
	for step := range *uniqueSteps {
		n := random.IntN(len(sessions))
		s := sessions[n]
		inTransaction := s.db.PgConn().TxStatus() == 'T'
		var sql string
		switch random.IntN(28) {
		case 0, 1, 2, 3, 4:
			key, _ := unique()
			sql = fmt.Sprintf("select job_id, inserted from awa.enqueue_unique('%s', 'k', '1', %s, run_at => now() + interval "+
				"'%s', max_attempts => %s, expires_at => %s)", pick("q", "r", "dead"), key, pick("0", "0", "1 minute"),
				pick("1", "2"), pick("null", "now() + interval '1 hour'"))
		case 5, 6:
			var jobs []string
			for range 1 + random.IntN(4) {
				_, object := unique()
				jobs = append(jobs,
					fmt.Sprintf(`{"queue": "%s", "kind": "k", "args": 1, "max_attempts": 1, "unique": {%s}}`, pick("q", "r"), object))
			}
			sql = fmt.Sprintf("select job_id, inserted from awa.enqueue_batch('[%s]')", strings.Join(jobs, ", "))
		case 7, 8:
			sql = fmt.Sprintf("select awa.cancel_by_unique_key(unique_key => '%s', unique_period => %s)", pick("a", "b", "c"),
				pick("null", "'1 day'", "'1 year'"))
		case 9, 10:
			sql = "select awa.cancel(" + job("'available', 'scheduled', 'retryable', 'running'") + ")"
		case 11:
			if random.IntN(2) == 0 {
				sql = fmt.Sprintf("select awa.reschedule(%s, now() + interval '%s')", job("'available', 'scheduled'"),
					pick("0", "1 minute"))
				break
			}
			sql = fmt.Sprintf("select awa.move(%s, '%s')", job("'available', 'scheduled', 'retryable'"), pick("q", "r", "dead"))
		case 12:
			sql = fmt.Sprintf("select awa.retry(%s, queue => %s, run_at => now() + interval '%s')",
				job("'failed', 'cancelled', 'dead', 'scheduled', 'retryable'"), pick("null", "null", "'q'", "'r'", "'dead'"),
				pick("0", "0", "1 minute"))
		case 13:
			sql = "update awa.deferred_jobs set run_at = now() where job_id in (select job_id from awa.deferred_jobs " +
				"where job_id not in (select job_id from awa._buried_here) for update skip locked); select awa.promote_due()"
		case 14:
			sql = fmt.Sprintf("select awa.claim('%s', worker_id => %s)", pick("q", "r", "dead"),
				pick("null", "(select max(worker_id) from awa.workers)"))
		case 24:
			sql = endings(pick, "(select id, receipt from awa.jobs where state = 'running' order by random() limit 2) j")
		case 25:
			// for update skip locked: what another session changes stays as it is
			sql = pick(
				"update awa.leases set lease_until = now() - interval '1 hour' where receipt in (select receipt from "+
					"awa.leases limit 2 for update skip locked); select awa.rescue()",
				"update awa.deferred_jobs set expires_at = now() - interval '1 second' where expires_at is not null and job_id "+
					"in (select job_id from awa.deferred_jobs limit 2 for update skip locked); select awa.cancel_expired()",
				"update awa.ready_entries set expires_at = now() - interval '1 second' where expires_at is not null and job_id "+
					"in (select job_id from awa.ready_entries order by random() limit 2 for update skip locked); "+
					"select awa.cancel_expired()",
				"select awa.deregister_worker(max(worker_id)) from awa.workers; select awa.register_worker('w')",
				"select awa.release_unknown(max(worker_id), '{}', '{}') from awa.workers",
				"select awa.discard_job("+job("'available', 'scheduled', 'retryable', 'running'")+")")
		case 26:
			sql = pick(`select awa.start_change('cancel', '{"queue": "q"}')`,
				`select awa.start_change('retry', '{"queue": "r"}')`,
				`select awa.start_change('delete', '{"queue": "q"}')`, `select awa.start_change('discard', '{"queue": "q"}')`,
				`select awa.start_change('move', '{"queue": "r"}', '{"queue": "q"}')`)
		case 27:
			sql = "select awa.apply_changes(3)"
		case 15, 16:
			answer := pick("awa.complete(id, receipt)", "awa.complete(id, receipt)", "awa.fail(id, receipt, 'e', '0')",
				"awa.discard(id, receipt, 'e')", "awa.snooze(id, receipt, '0')", "awa.release(id, receipt)",
				"awa.cancel_attempt(id, receipt)", "awa.extend(id, receipt, '1 hour')", "awa.complete(id, receipt, '1')")
			sql = fmt.Sprintf("select %s from (select id, receipt from awa.jobs where state = 'running' order by random() "+
				"limit 1) j", answer)
		case 17:
			sql = pick("select awa.retry_where('q')", "select awa.cancel_where('r')", "select awa.expire_history()",
				"select awa.set_priority("+job("'available'")+", 3)", "select awa.purge_dlq('dead')",
				"select awa.drop_queue('r', true)",
				"select awa.delete_job("+job("'completed', 'failed', 'cancelled', 'dead'")+")",
				"select awa.delete_job("+job("'completed'")+")", "select awa.delete_where('q', max_jobs => 2)")
		case 18:
			if inTransaction {
				sql = pick("savepoint s", "savepoint s", "set constraints all immediate", "set constraints all deferred")
			} else {
				sql = "begin"
			}
		case 19:
			if inTransaction {
				sql = "rollback to s"
			} else {
				sql = "begin"
			}
		default:
			if inTransaction {
				sql = pick("commit", "commit", "rollback", "")
			} else {
				sql = pick("begin", "")
			}
		}
		if sql == "" {
			continue
		}
		log = append(log, fmt.Sprintf("%d: %s", n, sql))
		fail := func(why any) {
			t.Helper()
			t.Fatalf("step %d: %v\n%s", step, why, strings.Join(log, "\n"))
		}
		if strings.Contains(sql, "inserted") {
			rows, _ := s.db.Query(s.ctx, sql)
			found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
				JobID    int64
				Inserted bool
			}])
			if err == nil {
				for _, f := range found {
					log = append(log, fmt.Sprintf("   %+v", f))
					// The job is there; and a duplicate's holds its key, or completed in its period, and may not be kept any more.
					states := list[string](s, "select state from awa.job($1)", f.JobID)
					if len(states) > 1 {
						fail(fmt.Sprintf("job %d is in two places: %v", f.JobID, states))
					}
					kept := one[bool](s, "select exists (select from awa.unique_claims where job_id = $1 and held_until > now())",
						f.JobID)
					if len(states) == 0 && !kept || f.Inserted && states[0] != "available" && states[0] != "scheduled" {
						fail(fmt.Sprintf("job %d is %v", f.JobID, states))
					}
				}
			} else {
				log = append(log, "   "+sqlState(err))
				requireExpected(t, err, fail)
			}
		} else if err := s.try(sql); err != nil {
			log = append(log, "   "+sqlState(err))
			requireExpected(t, err, fail)
		}
		if s.db.PgConn().TxStatus() == 'E' {
			s.exec("rollback")
		}
		if twice := list[string](s, jobsInTwoPlaces); len(twice) > 0 {
			fail(twice)
		}
		if s.db.PgConn().TxStatus() == 'I' {
			if wrong := list[string](watcher, keysThatAreWrong+" union all "+jobsInTwoPlaces); len(wrong) > 0 {
				fail(wrong)
			}
		}
	}
	for _, s := range sessions {
		if s.db.PgConn().TxStatus() != 'I' {
			s.exec("rollback")
		}
	}
	require.Empty(t, list[string](watcher, keysThatAreWrong))
}

// endings is a call that answers for these attempts, in one of the ways that take several, or that count for nothing.
func endings(pick func(...string) string, attempts string) string {
	return "select " + pick("awa.complete_many(array_agg(id), array_agg(receipt))",
		"awa.complete_many(array_agg(id), array_agg(receipt), array_agg('1'::jsonb))",
		"awa.fail_many(array_agg(id), array_agg(receipt), array_agg('e'::text))",
		"awa.put_off(max(id), (max(array[id, receipt]))[2], 'e')") + " from " + attempts + " having count(*) > 0"
}

// requireExpected fails on an error that none of these calls is documented to raise. A deadlock is not among them: of
// these sessions at most one waits.
func requireExpected(t *testing.T, err error, fail func(any)) {
	t.Helper()
	switch sqlState(err) {
	case "55P03", "40001", "23505", "JQ001", "JQ002", "JQ003", "JQ005", "3B001":
	case "22023": // no job to pick
		if !strings.Contains(err.Error(), "job_id must not be null") {
			fail(err)
		}
	default:
		fail(err)
	}
}

// A keyed job, as the model of TestUniqueKeysAsPredicted knows it.
type keyedJob struct {
	queue, state string
	byQueue      bool   // its key is that of its queue
	key          string // what it is unique by, but for the queue
	states       string // in which it holds its key
	period       bool   // it keeps its key when it has completed
}

func (j keyedJob) keyIn(queue string) string {
	if j.byQueue {
		return j.key + " in " + queue
	}
	return j.key
}

func (j keyedJob) holdsIn(state string) bool {
	return state != "" && slices.Contains(strings.Split(j.states, ","), state)
}

// A keyModel says which job holds which key.
type keyModel struct {
	jobs    map[int64]keyedJob
	holders map[string]int64
	kept    map[string]bool // by a job that has completed, to the end of the period
}

func (m keyModel) clone() keyModel {
	return keyModel{maps.Clone(m.jobs), maps.Clone(m.holders), maps.Clone(m.kept)}
}

func (m keyModel) letGo(job int64, key string) {
	if m.holders[key] == job {
		delete(m.holders, key)
		delete(m.kept, key)
	}
}

// changes notes that a job went to another state or queue.
func (m keyModel) changes(job int64, state, queue string) {
	j := m.jobs[job]
	before, after := j.keyIn(j.queue), j.keyIn(queue)
	// A retry asks for the key also where the job had none: it may have ended while another job held its key.
	retried := slices.Contains([]string{"failed", "cancelled", "dead"}, j.state) && state == "available"
	began := j.holdsIn(state) && (retried || !j.holdsIn(j.state) || before != after)
	if before != after {
		m.letGo(job, before)
	}
	switch {
	case began && m.holders[after] == 0:
		m.holders[after] = job
	case !j.holdsIn(state) && state == "completed" && j.period:
		if m.holders[after] == job {
			m.kept[after] = true
		}
	case !j.holdsIn(state):
		m.letGo(job, after)
	}
	j.state, j.queue = state, queue
	m.jobs[job] = j
}

// held is what unique_claims has to say.
func (m keyModel) held() (held []string) {
	for key, job := range m.holders {
		held = append(held, fmt.Sprintf("%d %t", job, m.kept[key]))
	}
	slices.Sort(held)
	return held
}

// All that touches a key in one session, at random, with transactions and savepoints: a model predicts what
// enqueue_unique, enqueue_batch, cancel_by_unique_key, retry and move return, and after each commit which job holds
// which key.
func TestUniqueKeysAsPredicted(t *testing.T) {
	t.Logf("-unique.seed=%d", *uniqueSeed)
	random := rand.New(rand.NewPCG(*uniqueSeed, 1))
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.configure_queue('dead', '{\"dead_letter\": true}') from awa.enqueue('dead', 'other')")
	s.registerWorker()
	s.noGap()
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	now := keyModel{map[int64]keyedJob{}, map[string]int64{}, map[string]bool{}}
	var begun, saved keyModel
	var isSaved bool
	var log []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(log, "\n"))
	}
	newJob := func() (j keyedJob, arguments, object string) {
		j = keyedJob{queue: pick("q", "r", "dead"), byQueue: random.IntN(3) == 0,
			states: pick("", "", "", "scheduled,available", "running", "retryable,failed", "completed", "available,cancelled",
				"dead")}
		period := pick("", "", "", "1 year")
		arguments, object = "unique_by => '{queue,kind}'", `"by": ["queue", "kind"]`
		if !j.byQueue {
			j.key = pick("a", "b")
			arguments, object = fmt.Sprintf("unique_key => '%s'", j.key), fmt.Sprintf(`"key": "%s"`, j.key)
		}
		if period != "" {
			j.key += " " + period
			arguments += fmt.Sprintf(", unique_period => '%s'", period)
			object += fmt.Sprintf(`, "period": "%s"`, period)
		}
		if j.states != "" {
			arguments += fmt.Sprintf(", unique_states => '{%s}'", j.states)
			object += fmt.Sprintf(`, "states": ["%s"]`, strings.ReplaceAll(j.states, ",", `", "`))
		} else {
			j.states, j.period = "scheduled,available,running,retryable,waiting_external", period != ""
		}
		return j, arguments, object
	}
	// A call that inserts jobs, and which of them it says are there.
	insert := func(sql string, jobs []keyedJob) error {
		rows, _ := s.db.Query(s.ctx, sql)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[unique])
		if err != nil {
			return err
		}
		for i, j := range jobs {
			key := j.keyIn(j.queue)
			holder := now.holders[key]
			if found[i].Inserted != (holder == 0) || holder != 0 && found[i].JobID != holder {
				fail("got %+v where job %d holds key %s", found, holder, key)
			}
			if found[i].Inserted {
				state := j.state
				j.state = ""
				now.jobs[found[i].JobID] = j
				now.changes(found[i].JobID, state, j.queue)
			}
		}
		return nil
	}
	jobIn := func(states ...string) int64 {
		var jobs []int64
		for id, j := range now.jobs {
			if slices.Contains(states, j.state) {
				jobs = append(jobs, id)
			}
		}
		if len(jobs) == 0 {
			return 0
		}
		slices.Sort(jobs)
		return jobs[random.IntN(len(jobs))]
	}
	// Another job holds the key that this one would need there.
	taken := func(job int64, state, queue string) bool {
		j := now.jobs[job]
		holder := now.holders[j.keyIn(queue)]
		return j.holdsIn(state) && holder != 0 && holder != job
	}
	for range *uniqueSteps {
		inTransaction := s.db.PgConn().TxStatus() == 'T'
		var sql, want string
		var err error
		try := func(format string, args ...any) {
			sql = fmt.Sprintf(format, args...)
			log = append(log, sql)
			err = s.try(sql)
		}
		step := random.IntN(24)
		if !inTransaction && random.IntN(4) == 0 {
			step = 17
		}
		switch step {
		case 0, 1, 2, 3, 4:
			j, arguments, _ := newJob()
			j.state = pick("available", "available", "scheduled")
			sql = fmt.Sprintf("select job_id, inserted from awa.enqueue_unique('%s', 'k', '1', %s, run_at => %s, max_attempts "+
				"=> %s)", j.queue, arguments,
				map[string]string{"available": "null", "scheduled": "now() + interval '1 hour'"}[j.state], pick("1", "2"))
			log = append(log, sql)
			err = insert(sql, []keyedJob{j})
		case 5, 6:
			var jobs []keyedJob
			var objects []string
			for range 1 + random.IntN(4) {
				j, _, object := newJob()
				j.state = "available"
				jobs = append(jobs, j)
				objects = append(objects,
					fmt.Sprintf(`{"queue": "%s", "kind": "k", "args": 1, "max_attempts": 1, "unique": {%s}}`, j.queue, object))
			}
			sql = fmt.Sprintf("select job_id, inserted from awa.enqueue_batch('[%s]')", strings.Join(objects, ", "))
			log = append(log, sql)
			err = insert(sql, jobs)
		case 7, 8:
			key := pick("a", "b")
			period := pick("", "", "1 year")
			name := strings.TrimSpace(key + " " + period)
			holder := now.holders[name]
			if !slices.Contains([]string{"scheduled", "available", "running", "retryable"}, now.jobs[holder].state) {
				continue
			}
			sql = fmt.Sprintf("select awa.cancel_by_unique_key(unique_key => '%s', unique_period => nullif('%s', '')::interval)",
				key, period)
			log = append(log, sql)
			rows, _ := s.db.Query(s.ctx, sql)
			var cancelled []int64
			if cancelled, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err == nil &&
				!slices.Equal(cancelled, []int64{holder}) {
				fail("cancelled %v where job %d holds key %s", cancelled, holder, name)
			}
		case 9:
			if job := jobIn("available", "scheduled", "retryable", "running"); job != 0 {
				try("select awa.cancel(%d)", job)
			}
		case 10:
			if job := jobIn("available", "scheduled", "retryable"); job != 0 {
				queue := pick("q", "r", "dead")
				if now.jobs[job].queue != queue && now.jobs[job].byQueue && taken(job, now.jobs[job].state, queue) {
					want = "23505"
				}
				try("select awa.move(%d, '%s')", job, queue)
			}
		case 11:
			if job := jobIn("failed", "cancelled", "dead"); job != 0 {
				queue := pick("", "", "q", "r", "dead")
				if taken(job, "available", cmp.Or(queue, now.jobs[job].queue)) {
					want = "23505"
				}
				try("select awa.retry(%d, nullif('%s', ''))", job, queue)
			}
		case 20:
			if job := jobIn("running"); job != 0 {
				try("%s", endings(pick, fmt.Sprintf("awa.job(%d)", job)))
			}
		case 21:
			if job := jobIn("running"); job != 0 {
				try("%s", pick(
					fmt.Sprintf("select awa.extend(id, receipt, '1 hour') from awa.job(%d); update awa.leases set lease_until = "+
						"now() - interval '1 hour' where job_id = %[1]d; select awa.rescue()", job),
					"select awa.deregister_worker(max(worker_id)) from awa.workers; select awa.register_worker('w')",
					"select awa.release_unknown(max(worker_id), '{}', '{}') from awa.workers"))
			}
		case 22:
			if job := jobIn("scheduled", "available", "retryable"); job != 0 {
				var others []string
				if !inTransaction { // there, available jobs let go of their keys, and ask for them, at the commit
					others = []string{"select awa.cancel_where('q')",
						`select awa.start_change('cancel', '{"queue": "r"}'); select awa.apply_changes()`}
				}
				if !inTransaction || now.jobs[job].state != "available" {
					others = append(others, fmt.Sprintf("select awa.discard_job(%d)", job))
				}
				try("%s", pick(append(others, "select awa.delete_where('r')",
					fmt.Sprintf("select awa.reschedule(%d, now() + interval '2 hours')", job),
					fmt.Sprintf("update awa.queues set may_expire = true; "+
						"update awa.ready_entries set expires_at = now() - interval '1 second' where job_id = %d; "+
						"update awa.deferred_jobs set expires_at = now() - interval '1 second' where job_id = %[1]d; "+
						"select awa.cancel_expired(); update awa.ready_entries set expires_at = null where job_id = %[1]d; "+
						"update awa.deferred_jobs set expires_at = null where job_id = %[1]d", job))...))
			}
		case 23:
			if job := jobIn("completed", "failed", "cancelled", "dead"); job != 0 {
				expire := "update awa.done_entries set finalized_at = now() - interval '1 year'; select awa.expire_history()"
				if inTransaction { // a job that it has itself cancelled can't be a year old
					expire = "select awa.expire_history()"
				}
				try("%s", pick(fmt.Sprintf("select awa.delete_job(%d)", job), "select awa.delete_where('q')", expire,
					"select awa.purge_dlq('dead')", "select awa.retry_where('q')", "select awa.drop_queue('r', true)"))
			}
		case 12:
			if job := jobIn("scheduled", "retryable"); job != 0 {
				try("update awa.deferred_jobs set run_at = now() where job_id = %d; select awa.promote_due()", job)
			}
		case 13:
			try("select awa.claim('%s', worker_id => %s)", pick("q", "r", "dead"),
				pick("null", "(select max(worker_id) from awa.workers)"))
		case 14, 15, 16:
			if job := jobIn("running"); job != 0 {
				answer := pick("awa.complete(id, receipt)", "awa.complete(id, receipt)", "awa.complete(id, receipt, '1')",
					"awa.fail(id, receipt, 'e', '1 hour')", "awa.discard(id, receipt, 'e')",
					"awa.snooze(id, receipt, '1 hour')", "awa.release(id, receipt)", "awa.cancel_attempt(id, receipt)",
					"awa.extend(id, receipt, '1 hour')")
				try("select %s from awa.job(%d)", answer, job)
			}
		case 17:
			switch {
			case !inTransaction:
				try("begin")
				begun, isSaved = now.clone(), false
			case isSaved && random.IntN(2) == 0:
				try("rollback to s")
				now = saved.clone()
			default:
				try("savepoint s")
				saved, isSaved = now.clone(), true
			}
		default:
			if inTransaction {
				if random.IntN(4) == 0 {
					try("rollback")
					now = begun
				} else if try("commit"); err != nil {
					fail("%v", err)
				}
			}
		}
		if got := sqlState(err); want != "" && got != want || want == "" && err != nil &&
			!slices.Contains([]string{"JQ001", "JQ002", "JQ003", "JQ005", "40001"}, got) {
			fail("got %v, want %q", err, want)
		}
		if err != nil {
			log = append(log, "   "+sqlState(err))
			if inTransaction {
				s.exec("rollback")
				now = begun
			}
			continue
		}
		rows, _ := s.db.Query(s.ctx, "select id, state, queue from awa.jobs where kind = 'k'")
		jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			ID           int64
			State, Queue string
		}])
		require.NoError(t, err)
		// Those that are gone, and those that let go of their keys, come before those that ask for one.
		gone := maps.Clone(now.jobs)
		for _, j := range jobs {
			delete(gone, j.ID)
		}
		for id, j := range gone {
			if !strings.Contains(sql, "expire_history") || !now.kept[j.keyIn(j.queue)] {
				now.letGo(id, j.keyIn(j.queue))
			}
			delete(now.jobs, id)
		}
		for _, asks := range []bool{false, true} {
			for _, j := range jobs {
				known := now.jobs[j.ID]
				if (known.state != j.State || known.queue != j.Queue) && known.holdsIn(j.State) == asks {
					now.changes(j.ID, j.State, j.Queue)
				}
			}
		}
		if s.db.PgConn().TxStatus() == 'I' {
			held := list[string](s,
				"select job_id || ' ' || (held_until is not null) from awa.unique_claims where job_id is not null")
			slices.Sort(held)
			if !slices.Equal(held, now.held()) {
				fail("held: %v, want %v", held, now.holders)
			}
		}
	}
}

// Six producers and three callers of cancel_by_unique_key on two keys, all at once: never two jobs that live with one
// key.
func TestUniqueProducersBesideCancels(t *testing.T) {
	d := newDatabase(t)
	var group sync.WaitGroup
	for n := range 9 {
		s := d.session()
		group.Go(func() {
			for i := range 150 {
				sql := fmt.Sprintf("select awa.enqueue_unique('q', 'k', unique_key => '%d')", i%2)
				if n >= 6 {
					sql = fmt.Sprintf("select awa.cancel_by_unique_key(unique_key => '%d')", i%2)
				}
				if err := s.try(sql); err != nil && sqlState(err) != "40001" && sqlState(err) != "55P03" {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	s := d.session()
	require.LessOrEqual(t, one[int](s, "select count(*) from awa.jobs where state = 'available'"), 2)
	require.Empty(t, list[string](s, keysThatAreWrong))
	s.balanced()
}

// Two batches that name the same keys in opposite orders: the second waits for the first, at the first of its keys, and
// then has nothing to insert but what the first left out.
func TestBatchesInOppositeOrder(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b, watcher := d.session(), d.session(), d.session()
		batch := func(s *session, keys ...string) func() []unique {
			var jobs []string
			for _, k := range keys {
				jobs = append(jobs, fmt.Sprintf(`{"queue": "q", "kind": "k", "unique": {"key": "%s"}}`, k))
			}
			done := make(chan []unique, 1)
			go func() {
				rows, _ := s.db.Query(s.ctx, "select job_id, inserted from awa.enqueue_batch($1)", "["+strings.Join(jobs, ",")+"]")
				found, _ := pgx.CollectRows(rows, pgx.RowToStructByPos[unique])
				done <- found
			}()
			return func() []unique { return <-done }
		}
		keys := strings.Split("abcdefghij", "")
		var back []string
		for i := range keys {
			back = append(back, keys[len(keys)-1-i])
		}
		// Each of them alone, while the other one holds the first, in the order of the batches, and the last.
		a.exec("begin")
		b.exec("begin")
		first := batch(a, keys...)()
		require.Len(t, first, len(keys))
		second := batch(b, back...)
		watcher.waitUntilBlocked(b)
		require.Equal(t, unique{first[0].JobID, false}, batch(a, "a")()[0])
		a.exec(end)
		got := second()
		b.exec("commit")
		require.Len(t, got, len(keys))
		for i := range got {
			require.Equal(t, end == "rollback", got[i].Inserted)
			if end == "commit" {
				require.Equal(t, first[len(keys)-1-i].JobID, got[i].JobID)
			}
		}
		b.balanced()
	}

	// Both half-way: each has one of two keys, in whatever order a batch names the two, only if it comes first in that
	// of the keys.
	d := newDatabase(t)
	holder, a, b, watcher := d.session(), d.session(), d.session(), d.session()
	low := one[string](a,
		"select k from unnest('{x,y}'::text[]) k order by awa._unique_key('q', 'k', '{}', k, null, null, null, null, "+
			"now()) limit 1")
	holder.exec("begin")
	holder.exec("select awa.enqueue_unique('q', 'k', unique_key => $1)", low)
	const both = `select awa.enqueue_batch('[{"queue": "q", "kind": "k", "unique": {"key": "%s"}}, {"queue": "q", ` +
		`"kind": "k", "unique": {"key": "%s"}}]')`
	one := a.background(fmt.Sprintf(both, "x", "y"))
	other := b.background(fmt.Sprintf(both, "y", "x"))
	watcher.waitUntilBlocked(a)
	watcher.waitUntilBlocked(b)
	watcher.neverWaits().enqueuesUnique("")() // no session takes another key meanwhile
	require.Equal(t, 1,
		len(list[int](watcher,
			"select 1 from awa.enqueue_unique('q', 'k', unique_key => case $1 when 'x' then 'y' else 'x' end) where inserted",
			low)), "neither has the other key while it waits")
	holder.exec("rollback")
	require.NoError(t, one())
	require.NoError(t, other())
	watcher.balanced()
}

// A key of a queue goes with a job that is moved, at the commit; and no session waits for it before.
func TestKeyOfAJobThatIsMoved(t *testing.T) {
	for _, state := range []string{"available", "scheduled", "running"} { // running: claimed meanwhile
		for _, end := range []string{"commit", "rollback"} {
			t.Run(state+" "+end, func(t *testing.T) {
				d := newDatabase(t)
				a, b, watcher := d.session(), d.session(), d.session()
				enqueue := func(s *session, queue string) unique {
					s.Helper()
					rows, _ := s.db.Query(s.ctx,
						"select job_id, inserted from awa.enqueue_unique($1, 'k', unique_by => '{queue,kind}', run_at => case when $2 "+
							"then now() + interval '1 hour' end)", queue, state == "scheduled")
					row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[unique])
					require.NoError(s, err)
					return row
				}
				job := enqueue(a, "from").JobID
				a.exec("begin")
				a.exec("select awa.move($1, 'to')", job)
				require.Equal(t, unique{job, false}, enqueue(a, "to"))
				if state == "running" {
					b.neverWaits()
					j := b.claim("from", 1)
					require.Equal(t, []int64{job}, ids(j))
					require.True(t, b.answers("select awa.complete($1, $2)", j[0])())
					require.True(t, enqueue(b, "from").Inserted)
					require.Equal(t, end == "commit", sqlState(a.try(end)) == "40001")
					b.balanced()
					return
				}
				wait := b.background("select awa.enqueue_unique('to', 'k', unique_by => '{queue,kind}')")
				watcher.waitUntilBlocked(b)
				a.exec(end)
				require.NoError(t, wait())
				moved := end == "commit"
				require.Equal(t, moved, enqueue(a, "from").Inserted)
				require.Equal(t, moved, one[int](a, "select count(*) from awa.jobs where queue = 'to' and id = $1", job) == 1)
				require.Equal(t, 1, one[int](a, "select count(*) from awa.jobs where queue = 'to'"))
				b.balanced()

				// There and back again; and replaced where it was, in one transaction.
				a.exec("begin")
				last := one[int64](a, "select id from awa.jobs where queue = 'from'")
				a.exec("select awa.move($1, 'third')", last)
				a.exec("select awa.move($1, 'from')", last)
				require.Equal(t, unique{last, false}, enqueue(a, "from"))
				a.exec("select awa.move($1, 'fourth')", last)
				next := enqueue(a, "from")
				require.True(t, next.Inserted)
				a.exec("commit")
				require.Equal(t, unique{next.JobID, false}, enqueue(b, "from"))
				require.Equal(t, unique{last, false}, enqueue(b, "fourth"))
				require.True(t, enqueue(b, "third").Inserted)
				require.Equal(t, "23505", sqlState(b.try("select awa.move($1, 'from')", last)))
				b.balanced()
			})
		}
	}
}

// A job that completed keeps the key of its period, whatever becomes of its history; one that ended otherwise, or whose
// queue was dropped, does not.
func TestKeyOfAPeriod(t *testing.T) {
	const year = "select inserted from awa.enqueue_unique('q', 'k', unique_period => '1 year', max_attempts => 1)"
	for name, test := range map[string]struct {
		end  string
		held bool
	}{
		"completed":             {"select awa.complete($1, $2)", true},
		"completed with output": {"select awa.complete($1, $2, '1')", true},
		"completed_many":        {"select awa.complete_many(array[$1::bigint], array[$2::bigint])", true},
		"failed":                {"select awa.fail($1, $2, 'e')", false},
		"discarded":             {"select awa.discard($1, $2, 'e')", false},
		"dead":                  {"select awa.discard($1, $2, 'e')", false},
		"cancelled":             {"select awa.cancel($1) where $2::bigint > 0", false},
	} {
		for _, materialized := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", materialized), func(t *testing.T) {
				d := newDatabase(t)
				s := d.session()
				if name == "dead" {
					s.exec(`select awa.configure_queue('q', '{"dead_letter": true}')`)
				}
				require.True(t, one[bool](s, year))
				require.False(t, one[bool](s, year))
				j := s.claim("q", 1)[0]
				require.False(t, one[bool](s, year))
				if materialized {
					s.materialize()
				}
				s.exec(test.end, j.JobID, j.Receipt)
				require.Equal(t, name == "dead", s.state(j.JobID) == "dead")
				require.Equal(t, !test.held, one[bool](s, year))
				require.Equal(t, name == "completed with output" || materialized || !test.held,
					one[bool](s, "select exists (select from awa.done_entries)"), "a copy of the job")
				require.Empty(t, list[string](s, keysThatAreWrong))
				require.Empty(t,
					list[int64](s, "select awa.cancel_by_unique_key('q', 'k', unique_period => '1 year') where $1", test.held))
				if !test.held {
					return
				}
				s.exec("update awa.settings set completed_retention = '0'")
				s.exec("select awa.expire_history()")
				s.exec("select awa.rotate(true)")
				for range 10 {
					s.exec("select awa.prune_oldest(true)")
				}
				require.Zero(t, one[int](s, "select count(*) from awa.jobs"))
				require.False(t, one[bool](s, year), "its job is not kept any more")
				s.exec("update awa.unique_claims set held_until = now() - interval '1 minute' where held_until is not null")
				s.exec("begin")
				require.True(t, one[bool](s, year), "the period is over")
				s.exec("rollback")
				s.exec("select awa.expire_history()")
				require.Zero(t, one[int](s, "select count(*) from awa.unique_claims"))
				require.True(t, one[bool](s, year))
				s.completeMany(s.claim("q", 1))
				require.False(t, one[bool](s, year))
				s.exec("select awa.drop_queue('q')")
				require.True(t, one[bool](s, year), "its queue was dropped")
			})
		}
	}
}

// A key that is used again and again while a snapshot is held costs a bounded number of looks at rows that are gone,
// with pauses in between, too. When the snapshot is gone, so are the rows.
func TestKeyThatIsUsedAgainAndAgain(t *testing.T) {
	for name, test := range map[string]struct{ options, end string }{
		"completed": {"", "awa.complete(c.job_id, c.receipt) from awa.claim('q') c"},
		"cancelled": {"", "awa.cancel_by_unique_key(unique_key => 'key')"},
		"with a period": {", unique_period => '1 year'",
			"awa.cancel_by_unique_key(unique_key => 'key', unique_period => '1 year')"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			old, s := d.session(), d.session()
			old.exec("begin isolation level repeatable read")
			old.exec("select pg_current_xact_id()")
			s.exec("set synchronous_commit = off")
			s.exec(fmt.Sprintf(`do $$
				begin
				  for round in 1..1000 loop
				    perform awa.enqueue_unique('q', 'k', unique_key => 'key'%s);
				    commit;
				    perform %s;
				    commit;
				    if round %% 20 = 0 then -- a pause: no job holds the key when maintenance looks
				      perform awa.expire_history();
				      commit;
				    end if;
				  end loop;
				end
				$$`, test.options, test.end))
			looks := func(index string) int {
				return one[int](s, "select pg_stat_get_xact_tuples_returned($1::text::regclass)", "awa."+index)
			}
			s.exec("begin")
			require.True(t, s.enqueuesUnique(test.options)().Inserted)
			require.False(t, s.enqueuesUnique(test.options)().Inserted)
			require.Less(t, looks("unique_claims_pkey"), 300, "entries that two calls look at")
			s.exec("rollback")
			s.exec("begin")
			s.exec("select awa.expire_history()")
			require.Zero(t, looks("unique_claims_free_since"), "entries that maintenance looks at")
			s.exec("commit")

			old.exec("rollback")
			s.expiresKeys()
		})
	}
}

// expiresKeys waits until maintenance has removed the rows of all keys that no job holds: as soon as no snapshot is
// older, of whoever uses the server beside this test.
func (s *session) expiresKeys() {
	s.Helper()
	require.Eventually(s, func() bool {
		s.exec("select awa.expire_history()")
		return one[int](s, "select count(*) from awa.unique_claims") == 0
	}, patience, 10*time.Millisecond)
}
