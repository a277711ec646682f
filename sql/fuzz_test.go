package sql_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

var (
	fuzzSeed = flag.Uint64("fuzz.seed", 0, "seed of the fuzz test; 0 takes a new one")
	fuzzTime = flag.Duration("fuzz.time", 5*time.Second, "how long the fuzz test calls functions")
)

// A routine is a public function or procedure, as the catalog describes it.
type routine struct {
	Name     string
	Kind     string // f or p
	Args     []string
	Types    []string
	Required int
}

// A fuzzer calls every public function of the schema with arguments that are sometimes fit and sometimes not.
type fuzzer struct {
	*testing.T
	ctx      context.Context
	rand     *rand.Rand
	db       *pgx.Conn
	literals *pgx.Conn // evaluates arguments on their own
	version  int
	routines []routine
	settings map[string][]string // keys of configure and configure_queue

	jobs     []int64
	attempts []claimed
	workers  []int64

	inside    bool           // a transaction is open
	turns     map[string]int // of the ring: what rotate and prune_oldest answered
	since     []string       // what ran since the books were last seen to balance
	calls     int
	outcomes  map[string]map[string]int // by function and SQLSTATE
	complaint map[string]bool           // what was reported, once each
}

// Whatever a caller passes, a function either does what it should or refuses it with an SQLSTATE that is documented,
// and the books balance. An overflow, a failed cast, a violated constraint would tell the caller about the inside of a
// function, and nothing about what to pass.
func TestFuzzArguments(t *testing.T) {
	seed := *fuzzSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -fuzz.seed=%[1]d", seed)
	ctx, cancel := context.WithTimeout(context.Background(), *fuzzTime+2*time.Minute)
	defer cancel()
	url := testdb.URL(t)
	f := &fuzzer{
		T: t, ctx: ctx, rand: rand.New(rand.NewPCG(seed, 0)), db: testdb.Connect(t, url), literals: testdb.Connect(t, url),
		turns: map[string]int{}, outcomes: map[string]map[string]int{}, complaint: map[string]bool{},
	}
	f.prepare()

	until := time.Now().Add(*fuzzTime)
	for _, r := range f.routines { // at least once each, however short the time
		f.transaction([]routine{r}, false)
	}
	for time.Now().Before(until) && len(f.complaint) < 20 {
		calls := []routine{f.choose()}
		inTransaction := f.rand.IntN(6) == 0
		for inTransaction && f.rand.IntN(4) > 0 {
			calls = append(calls, f.choose())
		}
		f.transaction(calls, inTransaction)
		if len(f.since) >= 25 && !f.booksBalance() {
			return
		}
	}
	f.turnTheRing()
	if !f.booksBalance() {
		return
	}

	succeeded := 0
	for _, r := range f.routines {
		t.Logf("%-22s %v", r.Name, f.outcomes[r.Name])
		require.NotEmpty(t, f.outcomes[r.Name])
		succeeded += f.outcomes[r.Name]["ok"]
	}
	t.Logf("%d calls, %d succeeded, turns %v", f.calls, succeeded, f.turns)
	require.Positive(t, succeeded)
	require.Zero(t, f.turns["unbalanced"], "rows were missing when a segment was to be emptied")
}

// turnTheRing goes on until each segment was emptied once. Where that comes to no end, it says what the server knows.
func (f *fuzzer) turnTheRing() {
	before, patient := maps.Clone(f.turns), time.Now().Add(time.Minute)
	var refusals []*pgconn.PgError
	for f.turns["truncated"] < before["truncated"]+4 && time.Now().Before(patient) {
		for _, call := range [][2]string{
			{"awa.enqueue", "select awa.enqueue('email', 'k')"},
			{"awa.rotate", "select * from awa.rotate(true)"},
			{"awa.prune_oldest", "select * from awa.prune_oldest(true)"},
		} {
			if failed := f.run(call[0], call[1]); failed != nil {
				refusals = append(refusals, failed)
			}
		}
	}
	if f.turns["truncated"] < before["truncated"]+4 {
		var ring, sessions, health string
		require.NoError(f, f.db.QueryRow(f.ctx, `
			select (select json_agg(r) from awa.ring r), (select json_agg(a) from pg_stat_activity a),
			       (select json_agg(h) from awa.health() h)`).Scan(&ring, &sessions, &health))
		require.Fail(f, "the ring does not turn", "turns before %v, after %v, refusals %v\n%s\n%s\n%s", before, f.turns,
			refusals, ring, sessions, health)
	}
}

// prepare reads what there is to call, and has a job wait in each queue.
func (f *fuzzer) prepare() {
	for _, db := range []*pgx.Conn{f.db, f.literals} {
		_, err := db.Exec(f.ctx, "set statement_timeout = '30s'")
		require.NoError(f, err)
	}
	require.NoError(f, f.db.QueryRow(f.ctx, "select current_setting('server_version_num')::int / 10000").Scan(&f.version))
	rows, err := f.db.Query(f.ctx, `
		select p.proname, p.prokind::text, coalesce(p.proargnames[:p.pronargs], '{}'),
		       array(select t::regtype::text from unnest(p.proargtypes) with ordinality u(t, n) order by n),
		       p.pronargs - p.pronargdefaults
		  from pg_proc p
		 where p.pronamespace = 'awa'::regnamespace and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype
		 order by p.proname`)
	require.NoError(f, err)
	f.routines, err = pgx.CollectRows(rows, pgx.RowToStructByPos[routine])
	require.NoError(f, err)
	require.NotEmpty(f, f.routines)
	f.settings = map[string][]string{}
	for name, keys := range map[string]string{ // not those by which segments are emptied, which must go on
		"configure":       "not of_queue and name !~ '^(segment_.*|completed_retention|carry_max|prune_wait)$'",
		"configure_queue": "of_queue",
	} {
		rows, err = f.db.Query(f.ctx, "select name from awa._known_settings where "+keys)
		require.NoError(f, err)
		f.settings[name], err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(f, err)
		require.NotEmpty(f, f.settings[name])
	}
	_, err = f.db.Exec(f.ctx, "update awa.settings set segment_age = '1 second', completed_retention = '0'")
	require.NoError(f, err)
	for _, queue := range fuzzQueues {
		f.run("awa.enqueue", fmt.Sprintf("select awa.enqueue(%s, 'k')", quote(queue)))
	}
}

// choose prefers what brings jobs on, and seldom takes what ends or stops a lot of them.
func (f *fuzzer) choose() routine {
	weight := func(name string) int {
		switch name {
		case "enqueue", "enqueue_unique", "claim":
			return 40
		case "prune_oldest": // once for each table of a segment
			return 20
		case "drop_queue", "pause_queue", "drain_queue", "jobs_compat", "queue_counts", "list_queues", "list_workers",
			"configure", "deregister_worker", "release_unknown", "expire_history", "audit", "health", "run_maintenance",
			"rebase_after_restore":
			return 3
		default:
			return 10
		}
	}
	total := 0
	for _, r := range f.routines {
		total += weight(r.Name)
	}
	n := f.rand.IntN(total)
	for _, r := range f.routines {
		if n -= weight(r.Name); n < 0 {
			return r
		}
	}
	panic("unreachable")
}

// transaction makes some calls, each on its own or all in a transaction: of any isolation level, with and without
// savepoints, that commits or rolls back.
func (f *fuzzer) transaction(calls []routine, inTransaction bool) {
	if !inTransaction {
		for _, r := range calls {
			f.call(r)
		}
		return
	}
	f.inside = true
	defer func() { f.inside = false }()
	level := []string{"read committed", "read committed", "read committed", "repeatable read",
		"serializable"}[f.rand.IntN(5)]
	f.run("begin", "begin isolation level "+level)
	for _, r := range calls {
		savepoint := f.rand.IntN(2) == 0
		if savepoint {
			f.run("savepoint", "savepoint s")
		}
		ok := f.call(r)
		switch {
		case savepoint && (!ok || f.rand.IntN(4) == 0):
			f.run("rollback", "rollback to s")
		case !ok:
			f.run("rollback", "rollback")
			return
		}
	}
	if f.rand.IntN(5) == 0 {
		f.run("rollback", "rollback")
	} else {
		f.run("commit", "commit")
	}
}

// call calls a function with arguments of which most are fit, and says whether it succeeded.
func (f *fuzzer) call(r routine) bool {
	f.calls++
	wild := 0
	if f.rand.IntN(5) < 2 {
		wild = 1 + f.rand.IntN(2)
	}
	isWild := map[int]bool{}
	for range wild {
		if len(r.Args) > 0 {
			isWild[f.rand.IntN(len(r.Args))] = true
		}
	}
	attempts := f.someAttempts(r)
	var args, values []string
	for i, name := range r.Args {
		if i >= r.Required && !isWild[i] && f.rand.IntN(3) == 0 {
			continue
		}
		var value string
		switch {
		case isWild[i]:
			value = f.wild(r.Types[i])
		case f.rand.IntN(40) == 0:
			value = "null::" + r.Types[i]
		default:
			value = f.fit(r, name, r.Types[i], attempts)
		}
		args = append(args, pgx.Identifier{name}.Sanitize()+" => "+value)
		values = append(values, value)
	}
	statement := fmt.Sprintf("select * from awa.%s(%s)", r.Name, strings.Join(args, ", "))
	if r.Kind == "p" {
		statement = fmt.Sprintf("call awa.%s(%s)", r.Name, strings.Join(args, ", "))
	}
	err := f.run("awa."+r.Name, statement)
	if f.outcomes[r.Name] == nil {
		f.outcomes[r.Name] = map[string]int{}
	}
	if err == nil {
		f.outcomes[r.Name]["ok"]++
		// so that most answers are for open attempts, and some are stale
		if slices.Contains(r.Args, "receipt") || slices.Contains(r.Args, "receipts") {
			f.attempts = slices.DeleteFunc(f.attempts,
				func(a claimed) bool { return f.rand.IntN(4) > 0 && slices.Contains(attempts, a) })
		}
		return true
	}
	f.outcomes[r.Name][err.Code]++
	switch err.Code {
	case "22023":
		words := regexp.MustCompile(`\w+`).FindAllString(err.Message+" "+err.Hint, -1)
		names := append(slices.Clone(r.Args), f.settings[r.Name]...)
		if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(words, name) }) || err.Detail == "" ||
			err.Hint == "" {
			f.complain(r.Name+err.Message, "it does not say which argument of %s it refuses, what came, or what to pass", err,
				r.Name)
		}
	case "2D000":
		if r.Kind != "p" || !f.inside { // a procedure that commits
			f.complain(r.Name+err.Code, "not an error of %s", err, r.Name)
		}
	case "JQ001", "JQ002", "JQ003", "JQ004", "JQ005", "JQ006", "JQ007", "JQ008", "40001", "55P03":
	case "55000":
		if r.Name != "configure_queue" {
			f.complain(r.Name+err.Code, "not an error of %s", err, r.Name)
		}
	case "23505":
		if r.Name != "retry" && r.Name != "move" {
			f.complain(r.Name+err.Code, "not an error of %s", err, r.Name)
		}
	default:
		// A literal that is none of its type is refused before the function is entered.
		if len(values) > 0 {
			_, literal := f.literals.PgConn().Exec(f.ctx, "select "+strings.Join(values, ", ")).ReadAll()
			if literal != nil && sqlState(literal) == err.Code {
				f.outcomes[r.Name][err.Code]--
				f.outcomes[r.Name]["literal"]++
				return false
			}
		}
		f.complain(r.Name+err.Code+err.Message, "not a documented error of %s", err, r.Name)
	}
	return false
}

// run runs a statement, and remembers the jobs, attempts and workers that it returns.
func (f *fuzzer) run(function, statement string) *pgconn.PgError {
	f.since = append(f.since, statement)
	results, err := f.db.PgConn().Exec(f.ctx, statement).ReadAll()
	if err != nil {
		var failed *pgconn.PgError
		require.ErrorAs(f, err, &failed, statement)
		if !strings.HasPrefix(function, "awa.") && failed.Code != "40001" && failed.Code != "55P03" {
			f.complain(function+failed.Code+failed.Message, "not a documented error of a commit", failed)
		}
		return failed
	}
	for _, result := range results {
		columns := map[string]int{}
		for i, column := range result.FieldDescriptions {
			columns[column.Name] = i
		}
		job, isJob := columns["job_id"]
		receipt, isAttempt := columns["receipt"]
		for _, row := range result.Rows {
			number := func(column int) int64 {
				n, _ := strconv.ParseInt(string(row[column]), 10, 64)
				return n
			}
			switch {
			case isJob && isAttempt:
				f.attempts = append(f.attempts, claimed{number(job), number(receipt)})
			case isJob:
				f.jobs = append(f.jobs, number(job))
			case strings.HasPrefix(function, "awa.enqueue"):
				f.jobs = append(f.jobs, number(0))
			case function == "awa.register_worker":
				f.workers = append(f.workers, number(0))
			case function == "awa.rotate" || function == "awa.prune_oldest":
				f.turns[string(row[len(row)-1])]++
			case function == "awa.rebase_after_restore":
				require.Equal(f, "0 0 0", string(bytes.Join(row, []byte(" "))), "the database was not restored")
			}
		}
	}
	f.jobs, f.attempts, f.workers = newest(f.jobs, 300), newest(f.attempts, 100), newest(f.workers, 10)
	return nil
}

func newest[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

// complain reports an error once, with what to paste to see it again.
func (f *fuzzer) complain(key, format string, err *pgconn.PgError, args ...any) {
	if f.complaint[key] {
		return
	}
	f.complaint[key] = true
	statements := f.since[len(f.since)-1:]
	for i := len(f.since) - 1; i >= 0; i-- { // all of its transaction
		if strings.HasPrefix(f.since[i], "commit") || f.since[i] == "rollback" {
			if i < len(f.since)-1 {
				break
			}
		}
		if strings.HasPrefix(f.since[i], "begin") {
			statements = f.since[i:]
			break
		}
	}
	where := regexp.MustCompile(`(?m)^PL/pgSQL function .*$`).FindAllString(err.Where, -1)
	f.Errorf("%s:\n%s;\n%s: %s\nDETAIL: %s\nHINT: %s\n%s", fmt.Sprintf(format, args...), strings.Join(statements, ";\n"),
		err.Code, err.Message, err.Detail, err.Hint, strings.Join(where, "\n"))
}

// booksBalance audits, compares what the ledgers count with what they show, and unique keys with the jobs that hold
// them.
func (f *fuzzer) booksBalance() bool {
	for what, query := range map[string]string{
		"jobs that are shown more than once": `
			select id, count(*), array_agg(state) from awa.jobs group by id having count(*) > 1`,
		"books that do not balance": `
			select queue, problem from awa.audit() where not balanced`,
		// What expired is still counted: queue_rollups says how many those are. What completed may have gone with its
		// segment.
		"counts that differ from what is shown": `
			with shown as (
			  select queue, state, count(*) as jobs from awa.jobs group by queue, state
			), gone as (
			  select awa._queue_of(lane) as queue_id, sum(failed) as failed, sum(cancelled) as cancelled, sum(dead) as dead
			    from awa.queue_rollups
			   group by 1
			), counted as (
			  select c.queue, s.state, s.jobs
			    from awa.queue_counts() c
			    left join gone g on g.queue_id = awa._queue_id(c.queue)
			   cross join lateral (values
			      ('available', c.available), ('scheduled', c.scheduled), ('retryable', c.retryable), ('running', c.running),
			      ('waiting_external', c.waiting_external),
			      ('completed', c.completed), ('failed', c.failed - coalesce(g.failed, 0)),
			      ('cancelled', c.cancelled - coalesce(g.cancelled, 0)),
			      ('dead', c.dead - coalesce(g.dead, 0))) s(state, jobs)
			)
			select coalesce(s.queue, c.queue, '(none)'), coalesce(s.state, c.state), coalesce(s.jobs, 0) as shown,
			       coalesce(c.jobs, 0) as counted
			  from shown s
			  full join counted c on c.queue = s.queue and c.state = s.state
			 where case
			         when coalesce(s.state, c.state) = 'completed' then coalesce(s.jobs, 0) > coalesce(c.jobs, 0)
			         else coalesce(s.jobs, 0) <> coalesce(c.jobs, 0)
			       end`,
		"keys that are held by no job, or not by the job that should": `
			with keyed as (
			  select k.job_id, j.state, k.unique_key
			    from (
			      select job_id, unique_key from awa.ready_entries
			      union select job_id, unique_key from awa.deferred_jobs
			      union select job_id, unique_key from awa.leases
			      union select job_id, unique_key from awa.done_entries
			    ) k
			    join awa.jobs j on j.id = k.job_id and j.unique_key = encode(substr(k.unique_key, 1, 32), 'hex')
			)
			select 'held' as key, u.job_id, k.state
			  from awa.unique_claims u
			  left join keyed k on k.job_id = u.job_id and substr(k.unique_key, 1, 32) = u.key
			 where awa._holds(k.unique_key, k.state) is not true and u.job_id is not null and u.held_until is null
			union all
			select 'not held', k.job_id, k.state
			  from keyed k
			 where substr(k.unique_key, 33) = '\x001f' -- the default states: no other session can have taken it in between
			   and awa._holds(k.unique_key, k.state)
			   and not exists (
			     select from awa.unique_claims u where u.key = substr(k.unique_key, 1, 32) and u.job_id = k.job_id
			   )`,
	} {
		rows, err := f.db.Query(f.ctx, query)
		require.NoError(f, err, what)
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			values, err := row.Values()
			return fmt.Sprint(values), err
		})
		require.NoError(f, err, what)
		if len(found) > 0 {
			f.Errorf("%s, and were not before these calls:\n%s\n%s;", what, strings.Join(newest(found, 20), "\n"),
				strings.Join(f.since, ";\n"))
			return false
		}
	}
	f.since = nil
	return true
}

var (
	fuzzQueues = []string{"email", "reports", `it's "quoted" \ 100%`, "очередь 🚀"}
	fuzzKinds  = []string{"k", "send_invoice"}
	fuzzStates = []string{"available", "scheduled", "retryable", "running", "waiting_external", "completed", "failed",
		"cancelled", "dead"}
)

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func pick[T any](f *fuzzer, from ...T) T { return from[f.rand.IntN(len(from))] }

// someAttempts are those that one call answers for.
func (f *fuzzer) someAttempts(r routine) (attempts []claimed) {
	n := 1
	if slices.Contains(r.Args, "receipts") {
		n = f.rand.IntN(4)
	}
	for range n {
		if len(f.attempts) > 0 {
			attempts = append(attempts, pick(f, newest(f.attempts, 12)...)) // may well be open
		}
	}
	return attempts
}

// fit is a value that the function takes, or could take, by the argument's name.
func (f *fuzzer) fit(r routine, name, kind string, attempts []claimed) string {
	var attempt claimed
	if len(attempts) > 0 {
		attempt = attempts[0]
	}
	list := func(kind string, value func(claimed) string) string {
		var values []string
		for _, a := range attempts {
			values = append(values, value(a))
		}
		return fmt.Sprintf("array[%s]::%s", strings.Join(values, ", "), kind)
	}
	switch name {
	case "queue":
		return quote(pick(f, fuzzQueues...))
	case "kind":
		return quote(pick(f, fuzzKinds...))
	case "name":
		return pick(f, "'worker'", "'nightly'")
	case "action":
		return pick(f, "'cancel'", "'discard'", "'retry'", "'move'", "'set_priority'", "'delete'")
	case "filter":
		return fmt.Sprintf("jsonb_build_object('queue', %s)", quote(pick(f, fuzzQueues...)))
	case "options":
		return pick(f, "'{}'", `'{"queue": "email"}'`, `'{"priority": 1}'`, `'{"over": "1 minute"}'`) + "::jsonb"
	case "change_id":
		return fmt.Sprint(1 + f.rand.IntN(20))
	case "schedules":
		return pick(f, "'[]'::jsonb",
			`'[{"name": "declared", "queue": "email", "kind": "k", "every": "1 second", "overlap": "replace"}]'::jsonb`)
	case "every":
		return pick(f, "null", "'1 second'", "'1 month'") + "::interval"
	case "missed":
		return pick(f, "'skip'", "'latest'", "'all'")
	case "overlap":
		return pick(f, "'allow'", "'skip'", "'wait'", "'replace'")
	case "from", "to":
		return pick(f, "now()", "now() - interval '1 minute'", "now() - interval '1 day'")
	case "job_id":
		if slices.Contains(r.Args, "receipt") {
			return fmt.Sprint(attempt.JobID)
		}
		if len(f.jobs) > 0 {
			return fmt.Sprint(pick(f, f.jobs...))
		}
		return "1"
	case "receipt":
		return fmt.Sprint(attempt.Receipt)
	case "job_ids":
		return list(kind, func(a claimed) string { return fmt.Sprint(a.JobID) })
	case "receipts":
		return list(kind, func(a claimed) string { return fmt.Sprint(a.Receipt) })
	case "errors":
		return list(kind, func(claimed) string { return "'error'" })
	case "outputs":
		return list(kind, func(claimed) string { return pick(f, "'{\"n\": 1}'", "null") })
	case "worker_id":
		if len(f.workers) > 0 {
			return fmt.Sprint(pick(f, f.workers...))
		}
		return "null"
	case "retry_after":
		if kind == "interval[]" {
			return list(kind, func(claimed) string { return pick(f, "'0'", "'1 second'", "null") })
		}
		return pick(f, "'0'", "'1 second'", "'1 hour'") + "::interval"
	case "delay", "older_than":
		return pick(f, "'0'", "'10 milliseconds'", "'1 hour'") + "::interval"
	case "lease":
		return pick(f, "'1 millisecond'", "'1 minute'", "'1 year'") + "::interval"
	case "unique_period":
		return pick(f, "'1 hour'", "'1 month'") + "::interval"
	case "group_key":
		return quote(fmt.Sprint("group ", f.rand.IntN(5)))
	case "unique_key":
		return quote(fmt.Sprint("key ", f.rand.IntN(5)))
	case "unique_by":
		return "'{" + strings.Join(f.some("queue", "kind", "args"), ",") + "}'::text[]"
	case "cron":
		return pick(f, "'*/15 9-17 * * MON-FRI'", "'0 0 29 2 *'", "'30 0 2 LW * 5L'", "'@daily'")
	case "n":
		return fmt.Sprint(1 + f.rand.IntN(20))
	case "after":
		return pick(f, "now()", "'infinity'::timestamptz")
	case "timezone", "unique_zone":
		return pick(f, "'UTC'", "'Europe/Berlin'", "'+02'")
	case "unique_states":
		return "'{" + strings.Join(f.some(fuzzStates...), ",") + "}'::text[]"
	case "tags", "queues":
		return "'{" + strings.Join(f.some("a", "b", "c"), ",") + "}'::text[]"
	case "state":
		return quote(pick(f, fuzzStates...))
	case "priority":
		return fmt.Sprint(1 + f.rand.IntN(4))
	case "max_attempts":
		return fmt.Sprint(1 + f.rand.IntN(3))
	case "max_jobs":
		return fmt.Sprint(1 + f.rand.IntN(20))
	case "run_at":
		return pick(f, "now()", "now() + interval '50 milliseconds'", "now() + interval '1 hour'", "now() - interval '1 day'")
	case "expires_at":
		return pick(f, "clock_timestamp() + interval '20 milliseconds'", "now() + interval '1 second'",
			"now() + interval '2 hours'", "now() - interval '1 day'")
	case "before":
		return pick(f, "now()", "now() - interval '1 second'")
	case "jobs":
		return f.batch()
	case "settings":
		return f.someSettings(r.Name)
	case "args":
		if kind == "jsonb[]" {
			return fmt.Sprintf("array_fill('{}'::jsonb, array[%d])", f.rand.IntN(8))
		}
		return fmt.Sprintf("'{\"n\": %d}'::jsonb", f.rand.IntN(3))
	}
	if kind == "jsonb" {
		return quote(f.json(3)) + "::jsonb"
	}
	return f.wild(kind)
}

func (f *fuzzer) some(from ...string) (some []string) {
	for _, s := range from {
		if f.rand.IntN(2) == 0 {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		return from[:1]
	}
	return some
}

// batch is an array of jobs for enqueue_batch, with a field now and then that does not fit.
func (f *fuzzer) batch() string {
	var jobs []string
	for range f.rand.IntN(4) {
		fields := map[string]string{"queue": jsonString(pick(f, fuzzQueues...)), "kind": `"k"`}
		for _, field := range f.some("args", "priority", "max_attempts", "run_at", "tags", "metadata", "group_key",
			"expires_at") {
			fields[field] = map[string]string{
				"args":         `{"n": 1}`,
				"priority":     fmt.Sprint(1 + f.rand.IntN(4)),
				"max_attempts": fmt.Sprint(1 + f.rand.IntN(3)),
				"run_at":       jsonString(pick(f, "now", "2031-05-01 09:00:00+02", "2031-05-01T09:00:00.5Z", "1970-01-01T00:00Z")),
				"tags":         `["a", "b"]`,
				"metadata":     `{"m": null}`,
				"group_key":    `"g"`,
				"expires_at":   jsonString(pick(f, "2032-05-01T09:00:00Z", "2131-05-01 09:00:00+02", "1970-01-01T00:00Z")),
			}[field]
		}
		if f.rand.IntN(3) == 0 {
			field := pick(f, "queue", "kind", "args", "priority", "max_attempts", "run_at", "tags", "metadata", "group_key",
				"expires_at", "", "Queue", "unknown")
			fields[field] = pick(f, f.json(2), f.json(2), jsonString(f.oddTime()), jsonString(pick(f, oddTexts...)),
				fmt.Sprint(f.oddInt()))
		}
		var pairs []string
		for _, field := range []string{"queue", "kind", "args", "priority", "max_attempts", "run_at", "tags", "metadata",
			"group_key", "expires_at", "", "Queue", "unknown"} {
			if value, ok := fields[field]; ok {
				pairs = append(pairs, jsonString(field)+": "+value)
			}
		}
		jobs = append(jobs, "{"+strings.Join(pairs, ", ")+"}")
	}
	return quote("["+strings.Join(jobs, ", ")+"]") + "::jsonb"
}

// someSettings is an object for configure or configure_queue, with a value now and then that does not fit.
func (f *fuzzer) someSettings(routine string) string {
	var pairs []string
	for _, key := range f.settings[routine] {
		if f.rand.IntN(4) > 0 {
			continue
		}
		value := jsonString(pick(f, "1 millisecond", "1 second", "1 minute", "1 hour", "1 year"))
		switch key {
		case "default_priority":
			value = fmt.Sprint(1 + f.rand.IntN(4))
		case "default_max_attempts":
			value = fmt.Sprint(1 + f.rand.IntN(4))
		case "shards":
			value = fmt.Sprint(1 + f.rand.IntN(8))
		case "claim_bytes":
			value = pick(f, "1", "1000", "184320")
		case "warn_failed_share":
			value = pick(f, "0", "0.5", "1")
		case "dead_letter", "notifications":
			value = pick(f, "true", "false")
		}
		if f.rand.IntN(6) == 0 {
			value = pick(f, "null", f.json(1), jsonString(f.oddInterval()), fmt.Sprint(f.oddInt()))
		}
		pairs = append(pairs, jsonString(key)+": "+value)
	}
	return quote("{"+strings.Join(pairs, ", ")+"}") + "::jsonb"
}

// wild is any value of a type.
func (f *fuzzer) wild(kind string) string {
	if f.rand.IntN(8) == 0 {
		return "null::" + kind
	}
	if element, isArray := strings.CutSuffix(kind, "[]"); isArray {
		switch f.rand.IntN(8) {
		case 0:
			return "'{}'::" + kind
		case 1:
			return fmt.Sprintf("array[[%s, %[1]s], [%[1]s, %[1]s]]::%s", f.wild(element), kind)
		case 2:
			return fmt.Sprintf("array_fill(%s, array[%d], array[%d])", f.wild(element), 1+f.rand.IntN(3),
				pick(f, -1, 0, 2, 2147483640))
		case 3:
			return fmt.Sprintf("array_fill(%s, array[%d])", f.wild(element), pick(f, 21, 10001, 100000))
		case 4:
			return fmt.Sprintf("array[%s, null]::%s", f.wild(element), kind)
		default:
			var values []string
			for range 1 + f.rand.IntN(4) {
				values = append(values, f.wild(element))
			}
			return fmt.Sprintf("array[%s]::%s", strings.Join(values, ", "), kind)
		}
	}
	switch kind {
	case "text":
		if f.rand.IntN(4) == 0 {
			return pick(f, "repeat('x', 200)", "repeat('x', 201)", "repeat('😀', 10000)", "repeat('''', 10001)")
		}
		return quote(pick(f, oddTexts...)) + "::text"
	case "jsonb":
		switch f.rand.IntN(60) {
		case 0: // a gigabyte of text
			return "('[' || repeat('1e131071,', 8999) || '1]')::jsonb"
		case 1, 2:
			return fmt.Sprintf("(repeat('[', %d) || repeat(']', %[1]d))::jsonb", pick(f, 10, 3000))
		case 3:
			return "('\"' || repeat('x', 100000) || '\"')::jsonb"
		}
		return quote(f.json(4)) + "::jsonb"
	case "bigint":
		number := pick[int64](f, 0, -1, 1, 4095, 4096, -1<<63, 1<<63-1, -1<<62, 1<<62, -1<<63+4095)
		if len(f.attempts) > 0 && f.rand.IntN(3) > 0 {
			a := pick(f, f.attempts...)
			number = pick(f, a.JobID, a.Receipt) ^ pick[int64](f, 0, 1, 1<<11, 1<<12, 1<<62, -1<<63)
		}
		return fmt.Sprintf("'%d'::bigint", number)
	case "integer":
		return fmt.Sprintf("'%d'::int", f.oddInt())
	case "boolean":
		return pick(f, "true", "false")
	case "interval":
		return quote(f.oddInterval()) + "::interval"
	case "timestamp with time zone":
		return quote(pick(f, "infinity", "-infinity", "294276-12-31 23:59:59.999999+00", "4714-11-24 00:00:00+00 BC", "epoch",
			"now", "tomorrow")) + "::timestamptz"
	}
	require.Failf(f, "no values", "of type %s: say here which there are", kind)
	return ""
}

func (f *fuzzer) oddInt() int {
	return pick(f, 0, -1, 1, 4, 5, 20, 1000, 1001, 10001, 32767, 32768, -32769, 1<<31-1, -1<<31)
}

// oddInterval is zero, negative, endless, or long; or its parts have different signs: then its length depends on how
// long one takes a month to be.
func (f *fuzzer) oddInterval() string {
	odd := []string{"0", "-1 second", "1 millisecond", "1 microsecond", "1 year", "10 years", "10 years 1 microsecond",
		"100 years", "178000000 years", "-178000000 years",
		"2147483647 days", "-2147483648 days", "2562047788 hours", "1 month", "-1 month 31 days", "-4 years 1461 days"}
	if f.version >= 17 {
		odd = append(odd, "infinity", "-infinity")
	}
	if f.rand.IntN(4) == 0 {
		months := f.rand.IntN(140_000_000) - 70_000_000
		return fmt.Sprintf("%d months %d days %d milliseconds", months, -30*months+f.rand.IntN(2), 1+f.rand.IntN(1000))
	}
	return pick(f, odd...)
}

func (f *fuzzer) oddTime() string {
	return pick(f, "infinity", "-infinity", "294276-12-31 23:59:59.999999+00", "294277-01-01", "4714-01-01 BC",
		"0000-00-00", "2026-02-30", "24:00:01", "2026-01-01 00:00 Nowhere/Zone",
		"2026-01-01 00:00+99", "J0", "J99999999999", "allballs", "yesterday", "", "'", "20260101T000000")
}

var oddTexts = []string{"", " ", "'", `"`, `\`, `\u0000`, "%s %n", "{}", "{null}", "null", "NULL",
	"x'; drop schema awa cascade; --", "$1", "{{ }}", "a\nb\tc\r", "\x01\x7f", "é", "e\u0301", "\u202eabc", "🚀👩‍👩‍👧",
	"\U0010ffff", "\ufeff", "queue", "dead", "email"}

var jsonEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x01", `\u0001`)

func jsonString(s string) string { return `"` + jsonEscapes.Replace(s) + `"` }

// json is a JSON value, not always one that PostgreSQL takes.
func (f *fuzzer) json(depth int) string {
	kind := f.rand.IntN(10)
	if depth == 0 {
		kind = f.rand.IntN(6)
	}
	switch kind {
	case 0, 1:
		return pick(f, "null", "true", "false", "0", "-0", "1", "1.0", "4", "1000", "2147483648", "1e2", "0.5",
			"12345678901234567890", "1e400", "-1e400", "1e131071", "-1e131071",
			"1e-400", "1e-16383", "1e131072", "0.1e1")
	case 2:
		return pick(f, `"\u0000"`, `"\u0001"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\u00e9"`)
	case 3, 4, 5:
		return jsonString(pick(f, oddTexts...))
	case 6, 7:
		var values []string
		for range f.rand.IntN(4) {
			values = append(values, f.json(depth-1))
		}
		return "[" + strings.Join(values, ", ") + "]"
	default:
		var pairs []string
		for range f.rand.IntN(4) {
			key := pick(f, append([]string{"a", "a", "at", "error", "details", "queue", "lease"}, oddTexts...)...)
			pairs = append(pairs, jsonString(key)+": "+f.json(depth-1))
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	}
}
