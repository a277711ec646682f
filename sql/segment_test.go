package sql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func (s *session) rotate() {
	s.Helper()
	require.True(s, one[bool](s, "select rotated from awa.rotate(true)"))
}

func (s *session) prune() string {
	s.Helper()
	return one[string](s, "select outcome from awa.prune_oldest(true)")
}

// pruneOn empties the oldest segment as far as that goes, and returns what is in the way, or truncated.
func (s *session) pruneOn() string {
	s.Helper()
	for {
		outcome := s.prune()
		settles := outcome == "waiting" && one[bool](s, "select begun_by is not null from awa.ring")
		if !settles && outcome != "cleaning" && outcome != "cleaned" && outcome != "truncating" {
			return outcome
		}
	}
}

// prunes empties the oldest segment, in which nobody is at work.
func (s *session) prunes() {
	s.Helper()
	require.Equal(s, "truncated", s.pruneOn())
}

// prunesLater does so where a transaction that has ended put something there after the cleaning: that calls for another
// one.
func (s *session) prunesLater() {
	s.Helper()
	for range 5 {
		if outcome := s.pruneOn(); outcome != "busy" {
			require.Contains(s, []string{"truncated", "empty"}, outcome)
			return
		}
		s.audited()
	}
	require.Fail(s, "it never ends")
}

// audited counts what is there, and says that the books balance, and that no job is there twice. It is quicker than
// balanced.
func (s *session) audited() {
	s.Helper()
	s.exec("select awa._fold(null, true)") // nothing, while another session is counting
	require.Empty(s, list[string](s, `
		select concat_ws(': ', queue, problem) from awa.audit() where not balanced
		union all
		select 'twice: ' || id from awa.jobs group by id having count(*) > 1`))
}

// setPruneWait bounds how long prune_oldest waits for its locks. Longer than an installation allows, for a test that
// has to do something meanwhile.
func (s *session) setPruneWait(wait string) {
	s.Helper()
	if one[bool](s,
		"select exists (select from pg_constraint where conname = 'prune_wait must be 1 to 500 milliseconds')") {
		s.exec(`alter table awa.settings drop constraint "prune_wait must be 1 to 500 milliseconds"`)
	}
	s.exec("update awa.settings set prune_wait = $1::text::interval", wait)
}

// prunesInTheBackground returns a function that returns the outcome.
func (s *session) prunesInTheBackground() func() string {
	s.Helper()
	s.exec("create temp table if not exists pruned (outcome text)")
	s.exec("truncate pruned")
	wait := s.background("insert into pruned select outcome from awa.prune_oldest(true)")
	return func() string {
		s.Helper()
		require.NoError(s, wait())
		return one[string](s, "select outcome from pruned")
	}
}

// states are those of some jobs; a job that is there twice has two.
func (s *session) states(jobs ...int64) []string {
	s.Helper()
	return list[string](s,
		"select coalesce(j.state, 'gone') from unnest($1::bigint[]) with ordinality u(id, n) left join awa.jobs j on j.id "+
			"= u.id order by u.n", jobs)
}

// Out of a segment that is emptied comes what is alive: entries keep their places, attempts their receipts, quiet lanes
// their cursors, and nothing is counted twice.
func TestPruneCarriesWhatIsAlive(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	jobs := s.enqueueMany("q", 6)
	waits := s.enqueueUnique("paused", "key")
	running := s.claim("q", 4)
	s.completes(running[:2])
	s.exec("select awa.cancel($1)", jobs[4])
	s.completes(s.open("quiet", shapes[0]))
	s.rotate()
	next := s.enqueue("q")
	s.balanced()
	s.prunes()
	s.balanced()
	require.Zero(t, one[int](s, "select count(*) from awa.ready_entries where segment = 0"))
	require.Equal(t, []string{"gone", "gone", "running", "running", "cancelled", "available", "available"},
		s.states(append(jobs, next)...))
	require.Equal(t, int64(2), one[int64](s, "select completed from awa.queue_counts('q')"))
	require.Equal(t, int64(1), one[int64](s, "select completed from awa.queue_counts('quiet')"))
	require.Equal(t, []int64{jobs[5], next}, ids(s.claim("q", 9)), "in their places")
	require.Equal(t, []int64{waits}, ids(s.claim("paused", 9)))
	require.Empty(t, s.claim("quiet", 9), "its cursor is there")
	s.completes(running[2:])
	require.Len(t, s.open("quiet", shapes[0]), 1)
	for range 8 { // twice around the ring
		s.rotate()
		s.prunes()
		s.balanced()
	}
	require.Equal(t, int64(4), one[int64](s, "select completed from awa.queue_counts('q')"))
	require.Equal(t, int64(2), one[int64](s, "select running from awa.queue_counts('q')"))
}

// The next segment is not empty: the current one goes on.
func TestRotateOntoAFullSegment(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for range 3 {
		s.enqueue("q")
		s.rotate()
	}
	last := s.enqueue("q")
	require.False(t, one[bool](s, "select rotated from awa.rotate(true)"))
	require.Len(t, s.claim("q", 9), 4)
	require.Equal(t, int64(3), one[int64](s, "select segment::bigint from awa.ready_entries where job_id = $1", last))
}

// A call stands in a transaction that stays open while a segment is emptied. It is about a job of some kind.
type call struct {
	about string
	sql   string // of job $JOB with receipt $RECEIPT, of queue $QUEUE
	state string // of the job afterwards, or of the one that it adds
}

// Calls that leave the cleaning alone.
var calls = []call{
	{"nothing", "select awa.enqueue('$QUEUE', '$QUEUE')", "available"},
	{"nothing", "select awa.enqueue('$QUEUE', '$QUEUE', run_at => now() + interval '1 hour')", "scheduled"},
	{"nothing", "select awa.enqueue('new', '$QUEUE')", "available"},
	{"ready", "select awa.cancel($JOB)", "cancelled"},
	{"ready", "select awa.set_priority($JOB, 4)", "available"},
	{"ready", "select awa.move($JOB, 'other')", "available"},
	{"ready", "select awa.reschedule($JOB, now() + interval '1 hour')", "scheduled"},
	{"scheduled", "select awa.cancel($JOB)", "cancelled"},
	{"scheduled", "select awa.retry($JOB)", "available"},
	{"scheduled", "select awa.move($JOB, 'other')", "scheduled"},
	{"failed", "select awa.retry($JOB)", "available"},
	{"dead", "select awa.retry($JOB)", "available"},
	{"dead", "select awa.purge_dlq('$QUEUE')", "gone"},
	{"a lease row with a key", "select awa.complete($JOB, $RECEIPT)", "completed"},
	{"three lease rows", "select awa.complete_many(array[$JOB], array[$RECEIPT])", "completed"},
	{"three lease rows", "select awa.fail($JOB, $RECEIPT, 'error', '1 hour')", "retryable"},
	{"three lease rows", "select awa.release($JOB, $RECEIPT)", "available"},
	{"three lease rows", "select awa.set_progress($JOB, $RECEIPT, '1')", "running"},
}

// Calls that hold what it needs.
var busyCalls = []call{
	{"ready", "select awa.claim('$QUEUE', 1)", "running"},
	{"one job", "select awa.complete($JOB, $RECEIPT)", "completed"},
	{"one job", "select awa.complete_many(array[$JOB], array[$RECEIPT])", "completed"},
	{"one job with a key", "select awa.complete($JOB, $RECEIPT, '{}')", "completed"},
	{"three jobs", "select awa.complete($JOB, $RECEIPT)", "completed"},
	{"three jobs", "select awa.complete_many(array[$JOB], array[$RECEIPT])", "completed"},
	{"three jobs", "select awa.fail($JOB, $RECEIPT, 'error', '1 hour')", "retryable"},
	{"three jobs", "select awa.snooze($JOB, $RECEIPT, '1 hour')", "scheduled"},
	{"three jobs", "select awa.release($JOB, $RECEIPT)", "available"},
	{"three jobs", "select awa.cancel($JOB)", "cancelled"},
	{"three jobs", "select awa.set_progress($JOB, $RECEIPT, '1')", "running"},
}

// Calls about all queues: one at a time.
var passes = []call{
	{"overdue jobs", "select awa.rescue()", "retryable"},
	{"three jobs", "select awa.materialize('0')", "running"},
	{"ready", "select awa.drop_queue('$QUEUE', true)", "gone"},
}

// openAlone is like open, and leaves the attempts of others in the ledger.
func (s *session) openAlone(queue string, shape shape) []claimed {
	s.Helper()
	materialized := shape.materialized
	shape.materialized = false
	jobs := s.open(queue, shape)
	for _, j := range jobs {
		if materialized {
			s.exec("select awa.extend($1, $2, '1 hour')", j.JobID, j.Receipt)
		}
	}
	return jobs
}

// running returns all open attempts.
func (s *session) running() []claimed {
	s.Helper()
	rows, err := s.db.Query(s.ctx, "select id, receipt from awa.jobs where state = 'running' order by id")
	require.NoError(s, err)
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	require.NoError(s, err)
	return jobs
}

// A beside is a call in a session of its own, on a queue of its own.
type beside struct {
	by *session
	call
	queue string
	job   claimed
	was   string
	ready []int64 // other jobs of the queue
	last  int64   // the newest job before the call
}

// prepares makes a job for the call, the first of its queue, and other jobs around it.
func (b *beside) prepares(s *session, c call, queue string) {
	s.Helper()
	b.call, b.queue, b.was = c, queue, "running"
	switch c.about {
	case "nothing":
		b.was = ""
	case "ready":
		b.job.JobID, b.was = s.enqueueUnique(queue, queue), "available"
	case "scheduled":
		b.job.JobID, b.was = one[int64](s, "select awa.enqueue($1, 'k', run_at => now() + interval '1 hour')", queue),
			"scheduled"
	case "failed", "dead":
		b.job, b.was = s.open(queue, shapes[1])[0], c.about
		s.exec("select awa.configure_queue($1, jsonb_build_object('dead_letter', $2 = 'dead'))", queue, c.about)
		s.exec("select awa.discard($1, $2, 'error')", b.job.JobID, b.job.Receipt)
	case "overdue jobs":
		b.job = s.open(queue, shapes[2])[0]
		s.exec("update awa.lease_claims set lease_until = now() where claim_id = $1", b.job.Receipt>>12)
		s.noGap()
	default:
		b.job = s.openAlone(queue, shapes[slices.IndexFunc(shapes, func(s shape) bool { return s.name == c.about })])[0]
	}
	b.ready = s.enqueueMany(queue, 2)
}

func (b *beside) statement() string {
	return strings.NewReplacer("$JOB", fmt.Sprint(b.job.JobID), "$RECEIPT", fmt.Sprint(b.job.Receipt), "$QUEUE",
		b.queue).Replace(b.sql)
}

// ended says that each job is in the state in which it should be, and claims those that are ready.
func (b *beside) ended(s *session, committed bool, or string) {
	s.Helper()
	want := b.was
	if committed {
		want = b.state
	}
	adds := list[int64](s, "select id from awa.jobs where id > $1 and queue in ($2, 'new') and kind = $2 order by id",
		b.last, b.queue)
	if b.about == "nothing" {
		require.Equal(s, committed, len(adds) == 1, "%s: %d new jobs", b.sql, len(adds))
		b.job.JobID = append(adds, 0)[0]
	} else {
		require.Empty(s, adds, b.sql)
	}
	if b.job.JobID != 0 {
		state := s.states(b.job.JobID)
		require.Contains(s, [][]string{{want}, {or}, {map[bool]string{true: "gone", false: want}[want == "completed"]}},
			state, b.sql)
		if state[0] == "running" && b.job.Receipt != 0 {
			require.Equal(s, b.job.Receipt, one[int64](s, "select receipt from awa.job($1)", b.job.JobID))
		}
	}
	if want == "gone" && b.about == "ready" { // the queue
		require.Equal(s, []string{"gone", "gone"}, s.states(b.ready...))
		require.Empty(s, s.claim(b.queue, 9))
	} else {
		require.Equal(s, []string{"available", "available"}, s.states(b.ready...))
		var waited []int64
		for _, j := range append(s.claim(b.queue, 9), s.claim(b.queue, 9)...) {
			if j.JobID >= b.ready[0] && j.JobID <= b.ready[1] {
				waited = append(waited, j.JobID)
			}
		}
		require.Equal(s, b.ready, waited, "in their order, beside %s", b.sql)
	}
}

// worksOff ends all that is alive.
func (s *session) worksOff() {
	s.Helper()
	for jobs := []claimed{{}}; len(jobs) > 0; { // some wait for others of their group
		for _, queue := range list[string](s, "select queue from awa.queue_counts where available > 0") {
			for len(s.claim(queue, 100)) > 0 {
			}
		}
		jobs = s.running()
		s.completes(jobs)
	}
	s.exec("select awa.cancel(id) from awa.jobs where state in ('scheduled', 'retryable')")
	require.Zero(s,
		one[int64](s, "select coalesce(sum(available + running + scheduled + retryable), 0)::bigint from awa.queue_counts"))
}

// Whatever stands in an open transaction while a segment is emptied: no session waits for it, nothing is lost, and
// nothing is there twice.
func TestPruneBesideOpenTransactions(t *testing.T) {
	type moment struct {
		name string
		run  func(besides []*beside, s, p *session)
	}
	begin := func(besides []*beside) {
		for _, b := range besides {
			b.by.exec("begin")
			b.by.exec(b.statement())
		}
	}
	before := moment{"begun before the rotation", func(besides []*beside, s, p *session) {
		begin(besides)
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "blocked", s.pruneOn())
	}}
	busy := moment{"begun before the rotation, and at work on what is alive", func(besides []*beside, s, p *session) {
		begin(besides)
		s.rotate()
		require.Equal(t, "busy", s.prune())
	}}
	after := moment{"begun after the cleaning", func(besides []*beside, s, p *session) {
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		begin(besides)
		s.pruneOn()
	}}
	gone := moment{"begun when the entries are gone", func(besides []*beside, s, p *session) {
		s.rotate()
		require.Equal(t, "cleaned", s.prune())
		require.Equal(t, "truncating", s.prune())
		require.Zero(t,
			one[int](s, "select count(*) from awa.ready_entries e, awa.ring r where e.segment = r.cleaned_segment"))
		begin(besides)
		s.pruneOn()
	}}
	inside := moment{"begun beside an open cleaning", func(besides []*beside, s, p *session) {
		s.rotate()
		p.exec("begin")
		require.Equal(t, "cleaned", p.prune())
		var waits []func() error
		for _, b := range besides {
			b.by.exec("begin")
			waits = append(waits, b.by.background(b.statement()))
		}
		s.audited()
		p.exec("commit")
		for _, wait := range waits {
			require.NoError(t, wait())
		}
		s.pruneOn()
	}}

	d := newDatabase(t)
	s, p := d.session().neverWaits(), d.session()
	began := time.Now()
	sessions := []*session{}
	for range len(calls) + len(busyCalls) {
		sessions = append(sessions, d.session())
	}
	s.setPruneWait("1 millisecond")
	round := func(moment moment, end string, calls ...call) {
		t.Helper()
		t.Log(time.Since(began), moment.name, end, calls)
		var besides []*beside
		for i, c := range calls {
			besides = append(besides, &beside{by: sessions[i]})
			besides[i].prepares(s, c, fmt.Sprint("q", i))
		}
		others := s.open("others", shapes[2])
		s.completes(others[:1])
		last := one[int64](s, "select last_value from awa.job_ids")
		for _, b := range besides {
			b.last = last
		}
		moment.run(besides, s, p)
		s.audited()
		for _, b := range besides {
			b.by.exec(end)
		}
		s.prunesLater()
		for _, b := range besides {
			or := ""
			if moment.name == inside.name && len(besides) == 1 {
				or = b.was // a pass leaves alone what others are at work on
			}
			b.ended(s, end == "commit", or)
		}
		s.completes(others[1:])
		s.worksOff()
	}
	for _, c := range append(busyCalls, passes...) {
		round(busy, "commit", c)
	}
	for _, moment := range []moment{after, gone, inside} {
		for _, c := range passes {
			round(moment, "commit", c)
		}
	}
	// All at once.
	round(busy, "rollback", busyCalls...)
	round(before, "commit", calls...)
	round(before, "rollback", calls...)
	for _, moment := range []moment{after, gone, inside} {
		round(moment, "commit", append(calls, busyCalls...)...)
	}
	s.balanced()
}
