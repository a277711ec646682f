package sql_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

var (
	groupsSeed = flag.Uint64("groups.seed", uint64(time.Now().UnixNano()), "seed of TestGroupsAtRandom")
	// a fault of the engine that the test must find: a function, a piece of it, and what to put there
	groupsFault = flag.String("groups.fault", "", "function|piece|by: a fault for TestGroupsAtRandom to find")
	groupsSteps = flag.Int("groups.steps", 150, "steps of TestGroupsAtRandom for each order")
)

// A groupsModel knows what has committed: who holds each group of a queue, that is the job that began last in it, until
// it has ended for good, or has left; which attempts began under which limits, and when; and which jobs there are.
type groupsModel struct {
	*testing.T
	rand     *rand.Rand
	order    string // what holds all the time, or "" where it changes
	database database
	sessions []*groupsSession
	observer *session
	holders  map[string]int64
	groups   map[int64]string
	first    map[int64]bool // jobs that have not begun, and that nobody has changed: they begin in their order
	began    map[string]int64
	running  []begun
	starts   map[string][]start // by group, and of the queue: "", since a rate was changed
	jobs     map[int64]bool     // those that must be there, or have ended: false where they may be gone
	log      []string
}

// A begun attempt holds a slot of its group, or of its queue, where that was limited when it began.
type begun struct {
	claimed
	at               time.Time
	ofGroup, ofQueue bool
	groupRate, rate  *rate
}

// A start is when a job began, and by which rate.
type start struct {
	at   time.Time
	rate rate
}

// A groupsSession may have a transaction open: with what it has done so far, and up to its savepoint.
type groupsSession struct {
	*session
	isOpen  bool
	rates   bool // its transaction changes a rate, or did before it was rolled back to a savepoint
	done    changes
	savedAt *changes
}

// changes are what a transaction does, if it commits.
type changes struct {
	made    []int64
	begun   []begun
	answers []claimed
	left    []int64
}

// Whatever clients, operators and maintenance do, in transactions that are open beside each other, commit, roll back to
// a savepoint or altogether, or are prepared, also across a crash of the server and a restore from a dump: no more run
// than the limits allow, none begins before its rate, in a paused group, or out of its order; no job is lost; and no
// group stands still, which the books say after each step, and claims from time to time. Under strict and halt, no job
// of a group begins before the one before it has ended for good. Groups are served by turns half of the time.
func TestGroupsAtRandom(t *testing.T) {
	t.Logf("seed %d: repeat with -groups.seed=%[1]d", *groupsSeed)
	for _, order := range []string{"start", "strict", "halt", ""} {
		t.Run("order "+order, func(t *testing.T) {
			if order == "start" { // on a server of its own, which may crash
				own, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{
					"max_prepared_transactions": "5",
				}})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, own.Stop()) })
				testGroupsAtRandom(t, order, server{own, t}, (*groupsModel).crashes, (*groupsModel).restores)
			} else {
				testGroupsAtRandom(t, order, server{})
			}
		})
	}
}

func testGroupsAtRandom(t *testing.T, order string, on server, between ...func(*groupsModel, server)) {
	m := &groupsModel{T: t, rand: rand.New(rand.NewPCG(*groupsSeed, 1)), order: order, holders: map[string]int64{},
		groups: map[int64]string{}, first: map[int64]bool{}, began: map[string]int64{}, starts: map[string][]start{},
		jobs: map[int64]bool{}}
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range m.log {
				t.Log(line)
			}
		}
	})
	if on.Server != nil {
		m.database = on.database("model", true)
	} else {
		m.database = newDatabase(t)
	}
	m.connects()
	if fault := strings.Split(*groupsFault, "|"); len(fault) == 3 {
		m.observer.exec(changing(fault[0], fault[1], fault[2]))
	}
	m.observer.exec("update awa.settings set claim_wait = '1 millisecond', notifications = false")
	m.observer.limits("other", `{"group_order": "strict"}`)
	m.observer.limits("q", m.settings())
	for part := 0; ; part++ {
		for step := range *groupsSteps * 2 / (len(between) + 2) {
			m.step()
			m.check(step)
			if step%20 == 19 {
				m.looksForSleepers()
			}
		}
		if part == len(between) {
			break
		}
		between[part](m, on)
		m.check(0)
	}
	m.drain()
}

// settings are those that the queue has at first, and when it was dropped.
func (m *groupsModel) settings() string {
	return `{"group_order": "` + map[bool]string{true: "strict", false: m.order}[m.order == ""] +
		`", "max_running": 3, "dead_letter": true, "backoff_base": "1 millisecond", "group_turns": ` +
		fmt.Sprint(m.rand.IntN(2) == 0) + `, "rate": ` +
		[]string{"null", `{"jobs": 4, "per": "1 second", "burst": 2}`}[m.rand.IntN(2)] + `}`
}

// connects opens the sessions, when the test begins and after the server has ended them.
func (m *groupsModel) connects() {
	m.observer = m.database.session()
	m.observer.exec("set jit = off")
	m.sessions = nil
	for range 3 {
		s := m.database.session()
		s.exec("set statement_timeout = '2s'") // of two that would wait for each other's ends
		m.sessions = append(m.sessions, &groupsSession{session: s})
	}
}

// crashes ends the server as a crash does, with transactions open.
func (m *groupsModel) crashes(server) {
	m.note("crash")
	require.NoError(m, syscall.Kill(int(m.sessions[0].pid), syscall.SIGKILL))
	require.Error(m, m.observer.try("select pg_sleep(60)"), "the server has ended all sessions")
	require.Eventually(m, func() bool {
		db, err := pgx.Connect(context.Background(), m.database.url)
		if err == nil {
			db.Close(context.Background())
		}
		return err == nil
	}, patience, 10*time.Millisecond)
	m.connects()
}

// restores goes on with another database, which is restored from a dump of this one. All transactions are over by then.
func (m *groupsModel) restores(on server) {
	m.note("restore")
	for _, s := range m.sessions {
		if s.isOpen {
			m.end(s, "rollback")
		}
	}
	m.database = on.restore("restored", on.dumps(m.database)())
	m.connects()
	m.observer.exec("select awa.rebase_after_restore()")
}

// step is one thing that one of them does.
func (m *groupsModel) step() {
	s := m.sessions[m.rand.IntN(len(m.sessions))]
	switch {
	case !s.isOpen && m.rand.IntN(3) == 0:
		s.exec("begin")
		s.isOpen = true
	case s.isOpen && m.rand.IntN(3) == 0:
		m.end(s, []string{"commit", "commit", "commit", "rollback", "prepare"}[m.rand.IntN(5)])
		return
	case s.isOpen && m.rand.IntN(6) == 0:
		m.note("%d: savepoint", slices.Index(m.sessions, s))
		s.exec("savepoint a")
		s.savedAt = new(s.done)
		return
	case s.isOpen && s.savedAt != nil && m.rand.IntN(3) == 0:
		m.note("%d: rollback to savepoint", slices.Index(m.sessions, s))
		s.exec("rollback to savepoint a")
		s.done = *s.savedAt
		return
	}
	err := m.act(s)
	switch sqlState(err) {
	case "<nil>":
		if !s.isOpen {
			m.committed(s)
		}
	case "40001", "40P01", "JQ001", "JQ003", "JQ005", "55P03", "55000", "57014":
		m.note("  %s", sqlState(err))
		if s.isOpen {
			m.end(s, "rollback")
		}
		s.forget()
	default:
		require.NoError(m, err)
	}
}

func (m *groupsModel) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (s *groupsSession) forget() { s.done, s.savedAt = changes{}, nil }

// act does something at random, and notes what it would change.
func (m *groupsModel) act(s *groupsSession) error {
	group := fmt.Sprint("group ", m.rand.IntN(3))
	jobs := list[int64](m.observer, "select id from awa.jobs where queue = 'q' and state <> 'completed' order by id")
	var job int64
	if len(jobs) > 0 {
		job = jobs[m.rand.IntN(min(len(jobs), 12))]
	}
	name := slices.Index(m.sessions, s)
	try := func(call string, args ...any) error {
		m.note("%d: %s %v", name, call, args)
		return s.try(call, args...)
	}
	switch form := m.rand.IntN(36); {
	case form < 4:
		if len(jobs) > 60 {
			return nil
		}
		priority := 1 + m.rand.IntN(4)
		if m.rand.IntN(6) == 0 {
			group = ""
		}
		id := one[int64](s.session, "select awa.enqueue('q', 'k', group_key => nullif($1, ''), priority => $2)", group,
			priority)
		m.note("%d: enqueue %d, %s, priority %d", name, id, group, priority)
		m.groups[id] = group
		m.first[id] = !s.isOpen && m.order != "start" // new jobs come one after the other, and under an order in one lane
		s.done.made = append(s.done.made, id)
		return nil
	case form < 10:
		return m.claims(s, name)
	case form < 17 && len(m.running) > 0:
		a := m.running[m.rand.IntN(len(m.running))].claimed
		call := []string{"select awa.complete($1, $2)", "select awa.complete_many(array[$1::bigint], array[$2::bigint])",
			"select awa.fail($1, $2, 'error', '0')", "select awa.fail($1, $2, 'error', '1 hour')",
			"select awa.discard($1, $2, 'error')", "select awa.snooze($1, $2, '0')", "select awa.snooze($1, $2, '1 hour')",
			"select awa.release($1, $2)", "select awa.cancel_attempt($1, $2)", "select awa.put_off($1, $2, 'error')",
			"select awa.snooze($1, $2, '20 milliseconds', hold_group => true)",
		}[m.rand.IntN(11)]
		s.done.answers = append(s.done.answers, a)
		return try(call, a.JobID, a.Receipt)
	case (form == 17 || form > 32) && job > 0:
		m.first[job] = false
		s.done.left = append(s.done.left, job)
		return try([]string{"select awa.cancel($1)", "select awa.move($1, 'other')",
			"select awa.reschedule($1, now() + interval '1 hour')", "select awa.delete_job($1)",
		}[m.rand.IntN(4)], job)
	case form == 18 && job > 0:
		m.first[job] = false
		return try([]string{"select awa.retry($1)", "select awa.set_priority($1, 1)",
			"select awa.set_priority($1, 4)"}[m.rand.IntN(3)], job)
	case form == 19:
		return try("select awa.retry_where(queue => 'q', state => $1)",
			[]string{"retryable", "scheduled", "failed", "dead"}[m.rand.IntN(4)])
	case form == 20 && !s.isOpen:
		return try([]string{"select awa.materialize('0')", "select awa.fold()", "select awa.rotate(true)",
			"select awa.prune_oldest(true)"}[m.rand.IntN(4)])
	case form == 21 && !s.isOpen:
		s.exec("select setval('awa.rescue_called_at', (extract(epoch from clock_timestamp()) * 1000000)::bigint)")
		return try("select awa.rescue()")
	case form == 22 && m.order == "":
		return try("select awa.configure_queue('q', jsonb_build_object('group_order', $1::text))",
			[]string{"start", "strict", "halt"}[m.rand.IntN(3)])
	case form < 26 && form > 22:
		limit := m.limit()
		m.changes(s, limit)
		return try("select awa.configure_queue('q', $1)", limit)
	case form == 26:
		limits := []string{`{"group_max_running": 1}`, `{"group_max_running": null}`, `{"group_rate": null}`,
			`{"group_rate": {"jobs": 2, "per": "1 second"}}`, `{"group_max_running": 2}`}
		if m.order != "start" {
			limits = limits[:4]
		}
		limit := limits[m.rand.IntN(len(limits))]
		m.changes(s, limit)
		return try("select awa.configure_group('q', $1, $2)", group, limit)
	case form == 27:
		return try([]string{"select awa.pause_group('q', $1)",
			"select awa.pause_group('q', $1, 'asked to', clock_timestamp() + interval '20 milliseconds')",
		}[m.rand.IntN(2)], group)
	case form < 30 && form > 27:
		return try("select awa.resume_group('q', $1)", group)
	case form == 30 && !s.isOpen && m.rand.IntN(4) == 0:
		return m.drops(s, name)
	default:
		return try("select awa.promote_due()")
	}
}

// changes forgets what has begun by rates, where a session changes one: at once, and again when that is committed.
func (m *groupsModel) changes(s *groupsSession, limit string) {
	if strings.Contains(limit, "rate") {
		s.rates = true
		clear(m.starts)
	}
}

// limit is a limit of the queue that is set, raised, lowered or taken away.
func (m *groupsModel) limit() string {
	forms := 4
	if m.order == "start" { // more of those that lower and raise the limit of groups
		forms = 8
	}
	switch m.rand.IntN(forms) {
	case 0:
		return fmt.Sprintf(`{"max_running": %s}`, []string{"1", "3", "5", "null"}[m.rand.IntN(4)])
	case 1:
		return fmt.Sprintf(`{"group_turns": %v}`, m.rand.IntN(2) == 0)
	case 2:
		return fmt.Sprintf(`{"%s": %s}`, []string{"rate", "group_rate"}[m.rand.IntN(2)], []string{"null", "null", "null",
			`{"jobs": 3, "per": "1 second"}`, `{"jobs": 2, "per": "1 second", "burst": 3}`}[m.rand.IntN(5)])
	default:
		if m.order == "start" {
			return fmt.Sprintf(`{"group_max_running": %s}`, []string{"1", "2", "3", "null"}[m.rand.IntN(4)])
		}
		return fmt.Sprintf(`{"group_max_running": %s}`, []string{"1", "null"}[m.rand.IntN(2)])
	}
}

// drops removes the queue with its jobs, and makes another one of that name, in one transaction.
func (m *groupsModel) drops(s *groupsSession, name int) error {
	m.note("%d: drop and make again", name)
	s.exec("begin")
	defer s.exec("rollback") // where it has failed; otherwise a warning
	for _, call := range []string{"select awa.drop_queue('q', true)",
		"select awa.configure_queue('q', '" + m.settings() + "')", "commit"} {
		if err := s.try(call); err != nil {
			return err
		}
	}
	clear(m.holders)
	clear(m.first)
	clear(m.starts)
	clear(m.began)
	m.running = nil
	for job := range m.jobs {
		m.jobs[job] = false
	}
	return nil
}

// The limits by which a claim decides, as the session that claims reads them; of the queue, or of one group.
type limits struct {
	GroupMaxRunning *int  `json:"group_max_running"`
	MaxRunning      *int  `json:"max_running"`
	Rate            *rate `json:"rate"`
	GroupRate       *rate `json:"group_rate"`
	IsPaused        bool  `json:"is_paused"`
}

// A rate lets Burst jobs begin at once, and then one in each step of so many seconds.
type rate struct{ Burst, Step float64 }

func (m *groupsModel) limits(s *session) (l limits, own map[string]limits) {
	const asRate = `(select case when r is not null then jsonb_build_object(
		'Burst', coalesce((r ->> 'burst')::float8, greatest(1, ceil((r ->> 'jobs')::float8 / 20))),
		'Step', extract(epoch from (r ->> 'per')::interval) / (r ->> 'jobs')::float8) end)`
	var of, groups []byte
	require.NoError(m, s.db.QueryRow(s.ctx, `
		with rates(r, j) as (
		  select distinct r, `+asRate+`
		    from (
		      select s.rate from awa.queue_settings s union select s.group_rate from awa.queue_settings s
		      union select g.group_rate from awa.group_settings g
		    ) x(r)
		)
		select (
		         select jsonb_build_object('max_running', s.max_running,
		                  'group_max_running', awa._group_limit(s.group_max_running, coalesce(s.group_order, 'start')),
		                  'rate', (select j from rates where r = s.rate),
		                  'group_rate', (select j from rates where r = s.group_rate))
		           from awa.queue_settings s
		          where s.queue_id = awa._queue_id('q')
		       ),
		       (
		         select coalesce(jsonb_object_agg(g.group_key, jsonb_build_object('group_max_running', g.group_max_running,
		                  'group_rate', (select j from rates where r = g.group_rate),
		                  'is_paused', g.paused_at is not null
		                    and (g.paused_until > clock_timestamp()) is not false)), '{}')
		           from awa.group_settings g
		          where g.queue_id = awa._queue_id('q')
		       )`).Scan(&of, &groups))
	require.NoError(m, json.Unmarshal(of, &l))
	require.NoError(m, json.Unmarshal(groups, &own))
	return l, own
}

// of is what limits one group: its own limits stand for those of the queue, but for one at a time in order.
func (l limits) of(own limits, inOrder bool) limits {
	if own.GroupMaxRunning != nil && !inOrder {
		l.GroupMaxRunning = own.GroupMaxRunning
	}
	if own.GroupRate != nil {
		l.GroupRate = own.GroupRate
	}
	l.IsPaused = own.IsPaused
	return l
}

// claims claims, and checks that those that begin may.
func (m *groupsModel) claims(s *groupsSession, name int) error {
	lease := []string{"1 hour", "1 hour", "1 millisecond"}[m.rand.IntN(3)]
	rows, err := s.db.Query(context.Background(), "select job_id, receipt from awa.claim('q', $1, lease => $2::interval)",
		1+m.rand.IntN(4), lease)
	require.NoError(m, err)
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	m.note("%d: claims %v %v", name, got, err)
	if err != nil || len(got) == 0 {
		return err
	}
	l, own := m.limits(s.session)
	order := one[string](s.session,
		"select coalesce(s.group_order, 'start') from awa.queue_settings s where s.queue_id = awa._queue_id('q')")
	at := one[time.Time](s.session, "select claimed_at from awa.lease_claims where claim_id = $1", got[0].Receipt>>12)
	for _, a := range got {
		group := m.groups[a.JobID]
		of := l.of(own[group], order != "start")
		if group == "" {
			of = limits{MaxRunning: l.MaxRunning, Rate: l.Rate}
		}
		require.False(m, of.IsPaused, "%s is paused when job %d begins", group, a.JobID)
		if m.order != "" && m.order != "start" && group != "" {
			require.Contains(m, []int64{0, a.JobID}, m.holders[group], "%s is held when job %d begins", group, a.JobID)
			if m.first[a.JobID] {
				require.Less(m, m.began[group], a.JobID, "of %s a later job has begun before", group)
			}
		}
		s.done.begun = append(s.done.begun, begun{a, at, of.GroupMaxRunning != nil, of.MaxRunning != nil,
			of.GroupRate, of.Rate})
	}
	m.checkSlots(s, got, l, own, order)
	return nil
}

// checkSlots says that no more attempts that began under a limit run than it allows, after a claim has begun some.
func (m *groupsModel) checkSlots(s *groupsSession, got []claimed, l limits, own map[string]limits, order string) {
	rows, _ := s.db.Query(s.ctx, "select id, receipt from awa.jobs where queue = 'q' and state = 'running'")
	open, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	require.NoError(m, err)
	ofQueue, ofGroup := 0, map[string]int{}
	for _, a := range append(slices.Clone(m.running), s.done.begun...) {
		if slices.Contains(open, a.claimed) {
			if a.ofQueue {
				ofQueue++
			}
			if a.ofGroup {
				ofGroup[m.groups[a.JobID]]++
			}
		}
	}
	if l.MaxRunning != nil {
		require.LessOrEqual(m, ofQueue, *l.MaxRunning, "of the queue run too many, with %v", got)
	}
	for _, a := range got {
		group := m.groups[a.JobID]
		if most := l.of(own[group], order != "start").GroupMaxRunning; most != nil && group != "" {
			require.LessOrEqual(m, ofGroup[group], *most, "of %s run too many, with job %d", group, a.JobID)
		}
	}
	for group, rate := range map[string]*rate{"": l.Rate, "group 0": l.of(own["group 0"], true).GroupRate,
		"group 1": l.of(own["group 1"], true).GroupRate, "group 2": l.of(own["group 2"], true).GroupRate} {
		if rate == nil {
			continue
		}
		starts := slices.Clone(m.starts[group])
		for _, a := range s.done.begun {
			if of := m.rateOf(a, group); of != nil {
				starts = append(starts, start{a.at, *of})
			}
		}
		for last, end := range starts {
			for first := last; first >= 0 && starts[first].rate == *rate; first-- {
				took := end.at.Sub(starts[first].at).Seconds()
				require.LessOrEqual(m, float64(last-first+1), rate.Burst+took/rate.Step+0.001,
					"more than the rate of %q lets begin within %v s, with %v", group, took, got)
			}
		}
	}
}

// rateOf is the rate of a group, or of the queue: "", by which an attempt began; nil for none.
func (m *groupsModel) rateOf(a begun, group string) *rate {
	switch group {
	case "":
		return a.rate
	case m.groups[a.JobID]:
		return a.groupRate
	}
	return nil
}

// end ends a transaction.
func (m *groupsModel) end(s *groupsSession, how string) {
	name := slices.Index(m.sessions, s)
	m.note("%d: %s", name, how)
	s.isOpen = false
	defer s.forget()
	err := s.try(map[bool]string{true: "prepare transaction 'p'", false: how}[how == "prepare"])
	if how == "prepare" && err == nil {
		m.check(-1)
		how = []string{"commit", "rollback"}[m.rand.IntN(2)]
		m.note("%d: %s prepared", name, how)
		s.exec(how + " prepared 'p'")
	}
	if s.rates {
		clear(m.starts)
		s.rates = false
	}
	switch {
	case err == nil && how == "commit":
		m.committed(s)
	case err != nil:
		m.note("%d:   %s", name, sqlState(err))
		require.Contains(m, []string{"40001", "40P01", "55P03", "JQ005", "57014"}, sqlState(err))
		s.exec("rollback")
	}
}

// committed takes over what a session has done.
func (m *groupsModel) committed(s *groupsSession) {
	for _, job := range s.done.made {
		m.jobs[job] = true
	}
	for _, a := range s.done.begun {
		group := m.groups[a.JobID]
		if group != "" {
			m.holders[group] = a.JobID
		}
		for _, key := range slices.Compact([]string{"", group}) {
			if of := m.rateOf(a, key); of != nil {
				m.starts[key] = append(m.starts[key], start{a.at, *of})
			}
		}
		m.running = append(m.running, a)
		if m.first[a.JobID] {
			m.first[a.JobID], m.began[group] = false, a.JobID
		}
	}
	for _, job := range s.done.left {
		m.jobs[job] = false // it may be deleted
		if group := m.groups[job]; m.holders[group] == job {
			m.holders[group] = 0
		}
	}
	m.running = slices.DeleteFunc(m.running, func(a begun) bool { return slices.Contains(s.done.answers, a.claimed) })
	for _, a := range s.done.answers {
		m.jobs[a.JobID] = m.jobs[a.JobID] && one[bool](m.observer, "select exists (select from awa.jobs where id = $1 "+
			"and state <> 'completed')", a.JobID) // completed ones are removed in the end
	}
	s.forget()
	for group, job := range m.holders {
		if state := one[*string](m.observer, "select (select state from awa.jobs where id = $1 and queue = 'q')", job); //
		state == nil || *state == "completed" || *state == "cancelled" ||
			m.order != "halt" && (*state == "failed" || *state == "dead") {
			m.holders[group] = 0
		}
	}
}

// check says that the books are right, also that no group has jobs that wait, room, and nothing that will wake it; and
// that each job is there once.
func (m *groupsModel) check(step int) {
	require.Empty(m, list[string](m.observer, "select problem from awa._limit_problems"), "step %d", step)
	if step%20 == 0 {
		there := map[int64]bool{}
		for _, job := range list[int64](m.observer, "select id from awa.jobs") {
			require.False(m, there[job], "job %d is there twice", job)
			there[job] = true
		}
		for job, must := range m.jobs {
			require.True(m, there[job] || !must, "job %d is lost", job)
		}
	}
	if step%100 == 0 {
		require.Empty(m, list[string](m.observer, "select problem from awa.audit() where not balanced"), "step %d", step)
	}
}

// looksForSleepers claims until nothing comes, while no transaction is open, and says why each job that is ready has
// not begun. Then it undoes that.
func (m *groupsModel) looksForSleepers() {
	if slices.ContainsFunc(m.sessions, func(s *groupsSession) bool { return s.isOpen }) {
		return
	}
	s := m.observer
	s.exec("begin")
	defer s.exec("rollback")
	for len(s.claim("q", 100)) > 0 {
	}
	l, own := m.limits(s)
	hasRate := l.Rate != nil || l.GroupRate != nil
	for _, o := range own {
		hasRate = hasRate || o.GroupRate != nil
	}
	if hasRate || l.MaxRunning != nil && s.holds("q", nil) >= *l.MaxRunning {
		return
	}
	sleepers := list[int64](s, `
		select j.id
		  from awa.jobs j
		 cross join awa.queue_settings q
		  left join awa.group_settings g on g.queue_id = q.queue_id and g.group_key = j.group_key
		 where j.queue = 'q' and j.state = 'available' and q.queue_id = awa._queue_id('q')
		   and (g.paused_at is not null
		     and (g.paused_until > clock_timestamp() - interval '1 second') is not false) is not true -- it may open now
		   and (
		     select count(*) from awa.jobs r where r.queue = 'q' and r.state = 'running' and r.group_key = j.group_key
		   ) < awa._group_limit(coalesce(g.group_max_running, q.group_max_running), coalesce(q.group_order, 'start'))
		     is not false
		   and not (coalesce(q.group_order, 'start') <> 'start' and exists (
		     select
		       from awa.jobs h
		      where h.queue = 'q' and h.group_key = j.group_key and h.state <> 'available'
		        and h.state = any(awa._states('holds_group'))))`)
	require.Empty(m, sleepers, "nothing keeps these jobs from beginning")
}

// drain works off all jobs: where a group stands still, that never ends.
func (m *groupsModel) drain() {
	for _, s := range m.sessions {
		if s.isOpen {
			m.end(s, "commit")
		}
	}
	for group := range 3 {
		m.observer.exec("select awa.resume_group('q', $1)", fmt.Sprint("group ", group))
	}
	m.observer.limits("q", `{"rate": null}`)
	live := func() int {
		return one[int](m.observer, "select count(*)::int from awa.jobs where state <> all(awa._states('ended'))")
	}
	for range 300 {
		if live() == 0 {
			break
		}
		m.observer.promotesAll()
		if m.order != "strict" {
			m.observer.exec("select awa.retry_where(queue => 'q', state => 'dead')")
		}
		for _, queue := range []string{"q", "other"} {
			m.observer.claim(queue, 9)
			m.observer.slots()
		}
		m.observer.exec(`
			select awa.complete_many(array_agg(j.id), array_agg(j.receipt))
			  from awa.jobs j
			 where j.state = 'running'
			having count(*) > 0`)
	}
	require.Zero(m, live(), "jobs are left: a group stands still")
	m.check(0)
	m.observer.slots()
	m.observer.audited()
}
