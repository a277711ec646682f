package sql_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

var (
	orderSeed  = flag.Uint64("order.seed", uint64(time.Now().UnixNano()), "seed of TestOrderAtRandom")
	orderSteps = flag.Int("order.steps", 200, "steps of TestOrderAtRandom")
)

// An orderModel knows who holds each group of a queue, by what has committed: the job that began last in it, until it
// has ended for good, or has left.
type orderModel struct {
	*testing.T
	rand     *rand.Rand
	order    string // what holds all the time, or "" where it changes
	sessions []*orderSession
	observer *session
	holders  map[string]int64
	groups   map[int64]string
	first    map[int64]bool // jobs that have not begun, and that nobody has changed: they begin in their order
	began    map[string]int64
	running  []claimed
	log      []string
}

// An orderSession may have a transaction open: with what it has done so far.
type orderSession struct {
	*session
	isOpen  bool
	begun   []claimed
	answers []claimed
	left    []int64
}

// Whatever clients, operators and maintenance do, in transactions that are open beside each other, commit, roll back,
// or are prepared: under strict and halt no job of a group begins before the one before it has ended for good; new ones
// begin in the order in which they came; and no group stands still, which the books say after each step, and the end.
// Groups are served by turns half of the time.
func TestOrderAtRandom(t *testing.T) {
	for _, order := range []string{"strict", "halt", ""} {
		t.Run("order "+order, func(t *testing.T) {
			t.Logf("seed %d: repeat with -order.seed=%[1]d", *orderSeed)
			d := newDatabase(t)
			m := &orderModel{T: t, rand: rand.New(rand.NewPCG(*orderSeed, 1)), order: order, observer: d.session(),
				holders: map[string]int64{}, groups: map[int64]string{}, first: map[int64]bool{}, began: map[string]int64{}}
			t.Cleanup(func() {
				if t.Failed() {
					for _, line := range m.log {
						t.Log(line)
					}
				}
			})
			m.observer.exec("update awa.settings set claim_wait = '1 millisecond', notifications = false")
			m.observer.exec("set jit = off")
			m.observer.limits("other", `{"group_order": "strict"}`)
			m.observer.limits("q", `{"group_order": "`+map[bool]string{true: "strict", false: order}[order == ""]+
				`", "max_running": 3, "dead_letter": true, "backoff_base": "1 millisecond", "group_turns": `+
				fmt.Sprint(m.rand.IntN(2) == 0)+`}`)
			for range 3 {
				s := d.session()
				s.exec("set statement_timeout = '2s'") // of two that would wait for each other's ends
				m.sessions = append(m.sessions, &orderSession{session: s})
			}
			for step := range *orderSteps {
				m.step()
				m.check(step)
			}
			m.drain()
		})
	}
}

// step is one thing that one of them does.
func (m *orderModel) step() {
	s := m.sessions[m.rand.IntN(len(m.sessions))]
	switch {
	case !s.isOpen && m.rand.IntN(3) == 0:
		s.exec("begin")
		s.isOpen = true
	case s.isOpen && m.rand.IntN(3) == 0:
		m.end(s, []string{"commit", "commit", "commit", "rollback", "prepare"}[m.rand.IntN(5)])
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

func (m *orderModel) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (s *orderSession) forget() { s.begun, s.answers, s.left = nil, nil, nil }

// act does something at random, and notes what it would change.
func (m *orderModel) act(s *orderSession) error {
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
	switch form := m.rand.IntN(25); {
	case form < 4:
		if s.isOpen || len(jobs) > 60 { // new jobs come one after the other
			return nil
		}
		priority := 1 + m.rand.IntN(4)
		if m.rand.IntN(6) == 0 {
			group = ""
		}
		id := one[int64](s.session, "select awa.enqueue('q', 'k', group_key => nullif($1, ''), priority => $2)", group,
			priority)
		m.note("%d: enqueue %d, %s, priority %d", name, id, group, priority)
		m.groups[id], m.first[id] = group, true
		return nil
	case form < 10:
		return m.claims(s, name)
	case form < 17 && len(m.running) > 0:
		a := m.running[m.rand.IntN(len(m.running))]
		call := []string{"select awa.complete($1, $2)", "select awa.complete_many(array[$1::bigint], array[$2::bigint])",
			"select awa.fail($1, $2, 'error', '0')", "select awa.fail($1, $2, 'error', '1 hour')",
			"select awa.discard($1, $2, 'error')", "select awa.snooze($1, $2, '0')", "select awa.snooze($1, $2, '1 hour')",
			"select awa.release($1, $2)", "select awa.cancel_attempt($1, $2)", "select awa.put_off($1, $2, 'error')",
		}[m.rand.IntN(10)]
		s.answers = append(s.answers, a)
		return try(call, a.JobID, a.Receipt)
	case form == 17 && job > 0:
		m.first[job] = false
		s.left = append(s.left, job)
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
	case form == 23:
		return try("select awa.configure_queue('q', jsonb_build_object('group_turns', $1::boolean))", m.rand.IntN(2) == 0)
	case form == 22 && m.order == "":
		return try("select awa.configure_queue('q', jsonb_build_object('group_order', $1::text))",
			[]string{"start", "strict", "halt"}[m.rand.IntN(3)])
	default:
		return try("select awa.promote_due()")
	}
}

// claims claims, and checks that those that begin may.
func (m *orderModel) claims(s *orderSession, name int) error {
	lease := []string{"1 hour", "1 hour", "1 millisecond"}[m.rand.IntN(3)]
	rows, err := s.db.Query(context.Background(), "select job_id, receipt from awa.claim('q', $1, lease => $2::interval)",
		1+m.rand.IntN(4), lease)
	require.NoError(m, err)
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	m.note("%d: claims %v %v", name, got, err)
	if err != nil {
		return err
	}
	for _, a := range got {
		group := m.groups[a.JobID]
		if m.order != "" && group != "" {
			require.Contains(m, []int64{0, a.JobID}, m.holders[group], "%s is held when job %d begins", group, a.JobID)
			if m.first[a.JobID] {
				require.Less(m, m.began[group], a.JobID, "of %s a later job has begun before", group)
			}
		}
	}
	s.begun = append(s.begun, got...)
	return nil
}

// end ends a transaction.
func (m *orderModel) end(s *orderSession, how string) {
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
func (m *orderModel) committed(s *orderSession) {
	for _, a := range s.begun {
		group := m.groups[a.JobID]
		if group != "" {
			m.holders[group] = a.JobID
		}
		m.running = append(m.running, a)
		if m.first[a.JobID] {
			m.first[a.JobID], m.began[group] = false, a.JobID
		}
	}
	for _, job := range s.left {
		if group := m.groups[job]; m.holders[group] == job {
			m.holders[group] = 0
		}
	}
	m.running = slices.DeleteFunc(m.running, func(a claimed) bool { return slices.Contains(s.answers, a) })
	s.forget()
	for group, job := range m.holders {
		if state := one[*string](m.observer, "select (select state from awa.jobs where id = $1 and queue = 'q')", job); //
		state == nil || *state == "completed" || *state == "cancelled" ||
			m.order != "halt" && (*state == "failed" || *state == "dead") {
			m.holders[group] = 0
		}
	}
}

// check says that the books are right: also, that no group has jobs that wait, room, and nothing that will wake it.
func (m *orderModel) check(step int) {
	require.Empty(m, list[string](m.observer, "select problem from awa._limit_problems"), "step %d", step)
	if step%100 == 0 {
		require.Empty(m, list[string](m.observer, "select problem from awa.audit() where not balanced"), "step %d", step)
	}
}

// drain works off all jobs: where a group stands still, that never ends.
func (m *orderModel) drain() {
	for _, s := range m.sessions {
		if s.isOpen {
			m.end(s, "commit")
		}
	}
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
	m.observer.slots()
	m.observer.audited()
}
