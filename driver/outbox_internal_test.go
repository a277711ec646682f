package driver

import (
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testAnswers returns answers for so many jobs of a queue.
func testAnswers(q *queueStats, n int) (answers []answer) {
	for i := range n {
		answers = append(answers, answer{attempt: &attempt{jobID: int64(i + 1), receipt: int64(i + 1), stats: q}})
	}
	return answers
}

// All answers come to be sent, whatever comes in meanwhile, and none is there twice. Each parcel that is not of
// suspects has answers of one queue.
func TestEachKindOfAnswerHasItsTurn(t *testing.T) {
	good, bad, worse := new(queueStats), new(queueStats), new(queueStats)
	var o outbox
	o.setApart(append(testAnswers(bad, 300), testAnswers(worse, 200)...), &pgconn.PgError{Code: "P0001"})
	assert.Len(t, o.apart, 2)
	o.setApart(testAnswers(bad, 101), &pgconn.PgError{Code: "P0001"})
	assert.Len(t, o.apart, 4)
	now := time.Now()
	o.suspects = testAnswers(bad, 2)
	o.suspects[0].refusal = &refusal{due: now}
	o.suspects[1].refusal = &refusal{due: now.Add(time.Hour)}
	want := map[*queueStats]int{bad: 402, worse: 200}
	sent := map[*queueStats]int{}
	for range 20 { // in turn: a suspect, those that are held back, the first part, and the smallest one
		o.fresh = append(o.fresh, append(testAnswers(good, 3), testAnswers(bad, 2)...)...)
		want[bad] += 2
		o.holdBack()
		for _, a := range o.fresh {
			require.Same(t, good, a.stats)
		}
		o.fresh = nil
		p := o.again(now)
		for _, a := range p.answers {
			assert.True(t, p.from == suspects || a.stats == p.answers[0].stats)
			sent[a.stats]++
		}
	}
	assert.Empty(t, o.apart)
	assert.Len(t, o.suspects, 1, "it is not due")
	sent[bad] += len(o.again(now).answers)
	assert.Equal(t, want, sent)
	assert.Empty(t, o.again(now).answers)
	o.suspects = nil
	o.fresh = testAnswers(bad, 1) // nothing of its queue is refused any more
	o.holdBack()
	assert.Len(t, o.fresh, 1)
}

// When an answer has passed that was refused before, the others are sent at once, whenever they would be due.
func TestOthersAreDueWhenOnePasses(t *testing.T) {
	now := time.Now()
	o := outbox{suspects: testAnswers(new(queueStats), 3)}
	for i := range o.suspects {
		o.suspects[i].refusal = &refusal{due: now.Add(time.Hour)}
	}
	due, ok := o.next(time.Time{})
	assert.True(t, ok)
	assert.Equal(t, now.Add(time.Hour), due)
	o.isPassing, o.together = true, 2
	due, ok = o.next(time.Time{})
	assert.True(t, ok)
	assert.False(t, due.After(now))
	p := o.again(now)
	assert.Len(t, p.answers, 2)
	assert.Equal(t, suspects, p.from)
}

// Those that are sent together again are as many as fit, and after the last of them nothing is left of their number.
func TestSuspectsFitIntoAParcel(t *testing.T) {
	o := outbox{suspects: testAnswers(new(queueStats), 10), together: 8, isPassing: true}
	for i := range o.suspects {
		o.suspects[i].refusal = &refusal{}
		o.suspects[i].output = make([]byte, maxParcel/4)
	}
	for _, want := range []int{4, 4, 2, 0} {
		assert.Len(t, o.suspectsDue(time.Now()), want)
	}
	assert.Zero(t, o.together)
	assert.False(t, o.isPassing)
}

// Large answers are sent few at a time; fewer still when those take too long, or too much memory, down to one; and as
// many as before when they pass again.
func TestParcelsAreBounded(t *testing.T) {
	all := func(n, size int) []answer {
		answers, output := testAnswers(new(queueStats), n), make([]byte, size)
		for i := range answers {
			answers[i].output = output
		}
		return answers
	}
	assert.Equal(t, 3, new(sizer).of(all(500, 1_200_000)))
	assert.Equal(t, 1, new(sizer).of(all(500, 2*maxParcel)), "one is sent, however large it is")
	assert.Equal(t, flushSize, new(sizer).of(all(flushSize+1, 1)))
	answers := all(60, 700_000)
	for _, code := range []string{queryCanceled, "53200"} {
		var s sizer
		first := s.of(answers)
		require.Equal(t, 5, first)
		shrink := func() { s.shrink(answers[:s.of(answers)], &pgconn.PgError{Code: code}) }
		for n := first; n > 1; n = s.of(answers) {
			shrink()
			require.Less(t, s.of(answers), n)
		}
		shrink()
		assert.Equal(t, 1, s.of(answers))
		for range 100 {
			s.grow()
		}
		assert.Equal(t, first, s.of(answers))
		assert.Equal(t, sizer{}, s)
	}
}

// Those that are held back wait a moment, as fresh ones do, after the connection was lost; and when the server was not
// reached, they were not sent: they are held back as before, ahead of later ones of their queue.
func TestAnswersHeldBackAfterALostConnection(t *testing.T) {
	now := time.Now()
	good, bad := new(queueStats), new(queueStats)
	o := outbox{suspects: testAnswers(bad, 1), fresh: testAnswers(bad, 3), freshDue: now.Add(time.Second)}
	o.suspects[0].refusal = &refusal{due: now.Add(time.Hour)}
	o.holdBack()
	require.Len(t, o.behind, 1)
	due, ok := o.next(time.Time{})
	assert.True(t, ok)
	assert.Equal(t, o.freshDue, due)
	assert.Empty(t, o.again(now).answers)
	o.againSize.most = 2
	p := o.again(o.freshDue)
	assert.Len(t, p.answers, 2)
	o.behind = append([][]answer{testAnswers(good, 1)}, o.behind...)
	o.putBack(p)
	assert.Empty(t, o.apart)
	require.Len(t, o.behind, 2)
	assert.Equal(t, []int64{1, 2, 3}, jobIDsOf(o.behind[1]))
	o.behind = nil
	o.putBack(p)
	require.Len(t, o.behind, 1)
	assert.Equal(t, []int64{1, 2}, jobIDsOf(o.behind[0]))
}

func jobIDsOf(answers []answer) []int64 {
	jobIDs, _ := ids(answers)
	return jobIDs
}

// An output is in memory until its answer was taken, whatever was refused with it, or waits.
func TestOutputsOfTakenAnswersAreFreed(t *testing.T) {
	answers := func() (all []answer, first weak.Pointer[byte]) {
		all = testAnswers(new(queueStats), 4)
		for i := range all {
			all[i].refusal, all[i].output = &refusal{}, make([]byte, 1000)
		}
		return all, weak.Make(&all[0].output[0])
	}
	for name, take := range map[string]func(o *outbox, all []answer){
		"a suspect":          func(o *outbox, all []answer) { o.suspects = all; o.suspectsDue(time.Now()) },
		"part of a part":     func(o *outbox, all []answer) { o.apart = [][]answer{all}; o.take(&o.apart, 0) },
		"one of two parts":   func(o *outbox, all []answer) { o.setApart(all, &pgconn.PgError{}); o.take(&o.apart, 0) },
		"some of fresh ones": func(o *outbox, all []answer) { o.fresh = all; cut(&o.fresh, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			all, first := answers()
			o := outbox{againSize: sizer{most: 2}}
			take(&o, all)
			all = nil
			runtime.GC()
			assert.Nil(t, first.Value())
			assert.Positive(t, o.len())
			runtime.KeepAlive(&o)
		})
	}
}

// Others that passed before a trouble of all has begun are no sign that an answer is itself the cause.
func TestOthersThatHavePassedLongAgo(t *testing.T) {
	c := newCompleter(nil, slog.New(slog.DiscardHandler))
	o := c.outboxes[completed]
	a := testAnswers(new(queueStats), 1)[0]
	a.since = time.Now()
	refused := func(n int) (isGivenUp bool) {
		for range n {
			o.noteRefusal(&a, ofOwner, time.Now())
			isGivenUp = c.isGivenUp(o, a, ofOwner)
		}
		return isGivenUp
	}
	o.took()
	assert.False(t, refused(100), "all are refused")
	o.took()
	assert.False(t, refused(100), "all are refused again, after one has passed")
	for range 100 { // another session holds it
		o.took()
		o.noteRefusal(&a, ofLock, time.Now())
	}
	assert.False(t, refused(100))
	o.took()
	assert.False(t, refused(1))
	assert.True(t, o.othersPass(a.refusal, time.Now()))
	assert.False(t, o.othersPass(a.refusal, time.Now().Add(passingFor)))
	o.took()
	assert.False(t, refused(1))
	o.took()
	assert.True(t, refused(1), "the fourth time in which others have passed between")
}

// Refusals for one reason, or before an outage, say nothing of those for another one, or after it: the first error of a
// trigger after a long lock does not have the attempt of a succeeded job fail.
func TestEachReasonCountsForItself(t *testing.T) {
	ago := time.Now().Add(-2 * refusalPatience)
	lastsFor := func(before reason) (c *completer, o *outbox, a answer) {
		c = newCompleter(nil, slog.New(slog.DiscardHandler))
		o = c.outboxes[completed]
		a = testAnswers(new(queueStats), 1)[0]
		a.since = ago
		for range maxRefusals {
			o.noteRefusal(&a, before, ago)
		}
		return c, o, a
	}
	isGivenUp := func(c *completer, o *outbox, a answer, of reason) bool {
		o.noteRefusal(&a, of, time.Now())
		return c.isGivenUp(o, a, of)
	}
	for before := range reason(reasons) {
		c, o, a := lastsFor(before)
		for _, of := range []reason{ofOwner, ofServer, ofConnection} {
			assert.Equal(t, of == before, isGivenUp(c, o, a, of), "%d after %d", of, before)
		}
		c.ending = true
		assert.Equal(t, before == ofOwner, isGivenUp(c, o, a, ofOwner), "at the end, after %d", before)
	}
	c, o, a := lastsFor(ofOwner)
	c.isUnreached(t.Context(), errUnreached{errors.New("not there")})
	assert.False(t, isGivenUp(c, o, a, ofOwner), "after an outage")
	c, o, a = lastsFor(ofOwner)
	o.lostConnection()
	assert.False(t, isGivenUp(c, o, a, ofOwner), "after the connection was lost")
	c, o, a = lastsFor(ofConnection)
	o.lostConnection()
	assert.True(t, isGivenUp(c, o, a, ofConnection), "the connection is lost each time")
}

// While others pass, the refusals for one reason count for that alone, and what the server can't do just now has some
// time to pass; at the worker's end it has none.
func TestRefusalsThoughOthersPass(t *testing.T) {
	for of, patience := range map[reason]time.Duration{ofOwner: 0, ofServer: 10 * time.Second,
		ofConnection: 10 * time.Second, ofSession: 10 * time.Second, ofOthers: time.Minute} {
		c := newCompleter(nil, slog.New(slog.DiscardHandler))
		o := c.outboxes[completed]
		a := testAnswers(new(queueStats), 1)[0]
		a.since = time.Now()
		refused := func(of reason, n int, at time.Time) bool {
			for i := range n {
				o.passedAt = at.Add(time.Duration(2 * i))
				o.noteRefusal(&a, of, o.passedAt.Add(1))
			}
			return c.isGivenUp(o, a, of)
		}
		first := time.Now().Add(-patience / 2)
		for other := range reason(reasons) {
			if other != ofAnswer && other != of {
				refused(other, maxRefusals, first.Add(-time.Hour).Add(time.Minute*time.Duration(other)))
			}
		}
		assert.False(t, refused(of, maxRefusals-1, first), of)
		assert.Equal(t, of == ofOwner, refused(of, 1, time.Now()), of)
		c.ending = true
		assert.Equal(t, of != ofOthers, c.isGivenUp(o, a, of), of)
		c.ending = false
		a.refusal.passed[of].since = time.Now().Add(-patience)
		assert.True(t, c.isGivenUp(o, a, of), of)
	}
}

// Something else that is sent in place of an answer has its turn among the others, also while the outbox rests; other
// suspects wait for it.
func TestTurnsOfWhatIsSentInPlace(t *testing.T) {
	now := time.Now()
	q := new(queueStats)
	o := outbox{givenUp: testAnswers(q, 2), suspects: testAnswers(q, 3), behind: [][]answer{testAnswers(q, 1)}}
	for i := range o.suspects {
		o.suspects[i].refusal = &refusal{due: now}
	}
	assert.Equal(t, 6, o.len())
	due, ok := o.next(time.Time{})
	assert.True(t, ok)
	assert.False(t, due.After(now))
	var turns []source
	for range 3 {
		p := o.again(now)
		turns = append(turns, p.from)
		if p.from == givenUp {
			assert.Equal(t, []int64{1}, jobIDsOf(p.answers), "the first one, to its end")
			o.putBack(p)
		}
	}
	assert.Equal(t, []source{behind, givenUp, givenUp}, turns)
	o.due = now.Add(time.Hour)
	assert.Equal(t, givenUp, o.again(now).from)
	assert.Equal(t, givenUp, o.again(now).from)
	assert.Empty(t, o.again(now).answers)
	assert.Equal(t, suspects, o.again(o.due).from)
}

// A suspect that is due does not wait for an endless row of those that are given up.
func TestSuspectsBesideThoseThatAreGivenUp(t *testing.T) {
	now := time.Now()
	o := outbox{suspects: testAnswers(new(queueStats), 2)}
	o.suspects[0].refusal = &refusal{due: now.Add(-2 * suspectsWait)}
	o.suspects[1].refusal = &refusal{due: now.Add(-suspectsWait / 2)}
	var turns []source
	for range 20 {
		o.givenUp = append(o.givenUp, testAnswers(new(queueStats), 1)...)
		p := o.again(now)
		turns = append(turns, p.from)
		if p.from == suspects {
			assert.Equal(t, []int64{1}, jobIDsOf(p.answers), "the other one is not late yet")
		}
	}
	assert.Contains(t, turns, suspects)
	assert.Len(t, o.suspects, 1)
}

// When the worker ends, all that was refused is due, and each answer has a short pause from then on; so has the server,
// if it was not reached, and an outbox of which nothing passes.
func TestPausesOfAStop(t *testing.T) {
	c := newCompleter(nil, slog.New(slog.DiscardHandler))
	o := c.outboxes[completed]
	answers := testAnswers(new(queueStats), 3000)
	a := answers[0]
	a.refusal = &refusal{}
	for _, other := range answers[1:] {
		other.refusal = &refusal{due: time.Now().Add(time.Hour)}
		o.suspects = append(o.suspects, other)
	}
	held := &pgconn.PgError{Code: "55P03", Routine: "ProcessInterrupts"}
	c.sendLater(t.Context(), o, a, true, held)
	assert.Greater(t, time.Until(a.refusal.due), 30*time.Second)
	c.rest(o)
	c.resting = time.Now().Add(time.Hour)
	unreached := errUnreached{errors.New("not there")}
	for range 20 {
		assert.True(t, c.isUnreached(t.Context(), unreached))
	}
	assert.Greater(t, time.Until(c.due), endPause)
	c.ends()
	due, ok := o.next(c.resting)
	assert.True(t, ok)
	assert.True(t, due.IsZero())
	assert.Negative(t, c.untilDue(time.Now()))
	c.isUnreached(t.Context(), unreached)
	assert.LessOrEqual(t, time.Until(c.due), firstPause, "the pauses begin anew")
	for range 20 {
		c.isUnreached(t.Context(), unreached)
		c.rest(o)
	}
	assert.LessOrEqual(t, time.Until(c.due), endPause)
	assert.LessOrEqual(t, time.Until(o.due), endPause)
	for _, a := range o.suspects {
		assert.True(t, a.refusal.due.IsZero())
	}
	c.sendLater(t.Context(), o, a, true, held)
	assert.LessOrEqual(t, time.Until(a.refusal.due), endPause)
	o.took() // refused, and nothing taken in its place
	a.refusal.why, a.refusal.long = held, time.Hour
	c.sendLater(t.Context(), o, a, false, held)
	assert.LessOrEqual(t, time.Until(a.refusal.due), endPause)
}

// What the handler has committed by itself counts as completed, whatever is sent to be refused as stale.
func TestAnswersForWhatIsCommitted(t *testing.T) {
	c := newCompleter(nil, slog.New(slog.DiscardHandler))
	stats := new(queueStats)
	for i, outcome := range []outcome{failed, postponed, discarded} {
		a := answer{attempt: &attempt{jobID: int64(i), stats: stats}, outcome: outcome, completedTx: true}
		c.acknowledge(t.Context(), []answer{a}, []int64{int64(i)})
	}
	assert.Equal(t, QueueStats{Completed: 3}, stats.read(""))
	assert.Zero(t, c.stale)
	c.acknowledge(t.Context(), []answer{{attempt: &attempt{stats: stats}, outcome: failed, completedTx: true}}, nil)
	assert.Equal(t, QueueStats{Completed: 3, Failed: 1}, stats.read(""))
	c.acknowledge(t.Context(), []answer{{attempt: &attempt{stats: stats}, outcome: failed, completedTx: true,
		perhaps: new(failed)}}, []int64{0})
	assert.Equal(t, QueueStats{Completed: 4, Failed: 1}, stats.read(""), "sent twice: a handler keeps its promise")
}

// A job that is given back was not handed over to be answered: how many of its queue wait stays.
func TestJobsGivenBackDoNotCountAsAnswered(t *testing.T) {
	a := &attempt{registration: &registration{open: map[*attempt]bool{}}, queue: new(queue)}
	a.registration.opened(a)
	a.answered()
	assert.Empty(t, a.registration.open)
	assert.Zero(t, a.queue.waiting.Load())
}

// A wait is what the server, or a function of Awa, says of a lock; a trigger that raises the same code is none.
func TestWhatIsAWait(t *testing.T) {
	const awa = "PL/pgSQL function awa._refuse_wait(regclass[],text,text,text) line 20 at RAISE\nSQL statement"
	const trigger = "PL/pgSQL function public.refuse() line 1 at RAISE\nPL/pgSQL function awa._end_attempts() line 9"
	assert.True(t, isWait(&pgconn.PgError{Code: "55P03", Routine: "ProcessInterrupts", Where: trigger}))
	assert.True(t, isWait(&pgconn.PgError{Code: "55P03", Routine: "exec_stmt_raise", Where: awa}))
	assert.False(t, isWait(&pgconn.PgError{Code: "55P03", Routine: "exec_stmt_raise", Where: trigger}))
	assert.False(t, isWait(&pgconn.PgError{Code: "P0001", Routine: "exec_stmt_raise", Where: awa}))
}
