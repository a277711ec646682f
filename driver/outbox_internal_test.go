package driver

import (
	"testing"
	"time"

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
		parcel, areSuspects := o.again(now)
		for _, a := range parcel {
			assert.True(t, areSuspects || a.stats == parcel[0].stats)
			sent[a.stats]++
		}
	}
	assert.Empty(t, o.apart)
	assert.Len(t, o.suspects, 1, "it is not due")
	parcel, _ := o.again(now)
	sent[bad] += len(parcel)
	assert.Equal(t, want, sent)
	parcel, _ = o.again(now)
	assert.Empty(t, parcel)
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
	parcel, areSuspects := o.again(now)
	assert.Len(t, parcel, 2)
	assert.True(t, areSuspects)
}
