package driver

import (
	"slices"
	"time"
)

const (
	// maxHeld is how many jobs of a queue a worker has at most while half as many of its answers wait, and can't be sent:
	// then it claims no more.
	maxHeld = 2 * flushSize
	// maxProbes is how many answers are sent alone, in a row and in vain, until the trouble is taken for one of them all.
	maxProbes = 10
	// suspectsWait is for how long a suspect waits at most, when it is due, for others that are given up.
	suspectsWait = time.Second

	// How long an answer may wait for a lock that another session holds, and for how long when there are many that were
	// refused.
	lockWait      = 50 * time.Millisecond
	shortLockWait = 3 * time.Millisecond
	manyHeld      = 10
)

// outbox holds the answers of one kind that the server has not taken yet.
//
// Fresh ones are sent together, as a parcel, as soon as they come. When that is refused, for whatever reason, it is set
// apart, and sent again later, in halves, down to one answer. So a single answer is found that is refused by itself: it
// is a suspect, and sent again at times of its own; and when one passes, more and more of them together. When nothing
// passes the trouble is one of them all, and after some probes the next ones are sent after a pause. A suspect that is
// given up has something else sent in its place, one thing at each turn, until something is taken (substitute).
//
// While there are refused answers of a queue, its fresh ones are held back: they are sent in between, and without those
// of other queues, which would be refused, or wait, with them.
type outbox struct {
	send     sendFunc
	fresh    []answer   // not sent yet
	behind   [][]answer // not sent yet, either, and held back: by queue
	apart    [][]answer // parts of parcels that were refused, each of one queue
	suspects []answer   // refused alone
	givenUp  []answer   // suspects in whose place something else is sent: the first one, to its end

	size      sizer     // of fresh parcels
	againSize sizer     // of others
	freshDue  time.Time // when to send those that were not sent yet, after the connection was lost
	turn      source    // the kind that was sent last in between
	together  int       // how many suspects to send at once, if more than one
	isPassing bool      // the last suspect has passed: those that are not due may pass, too

	passedAt   time.Time      // when the last parcel has passed
	nonePassed [reasons]tally // how often answers were refused alone since, for each reason
	probes     int            // how many of them were since the last rest
	due        time.Time      // when to send any of them again, after nothing has passed
	pause      backoff
	mute       time.Time // since when nothing at all is taken in place of an answer, but perhaps a discard
}

// held is how many answers were refused, and are to be sent again.
func (o *outbox) held() int { return count(o.apart) + len(o.suspects) + len(o.givenUp) }

func (o *outbox) len() int { return len(o.fresh) + count(o.behind) + o.held() }

func count(parts [][]answer) (n int) {
	for _, part := range parts {
		n += len(part)
	}
	return n
}

func (o *outbox) put(a answer) {
	a.since = time.Now()
	o.fresh = append(o.fresh, a)
}

// next returns when there is something to be sent, if there is anything: a fresh one, or another one when resting is
// over.
func (o *outbox) next(resting time.Time) (due time.Time, ok bool) {
	if len(o.behind) > 0 {
		due, ok = o.freshDue, true
	}
	if len(o.givenUp) > 0 {
		due, ok = time.Time{}, true
	}
	if len(o.apart) > 0 && (!ok || o.due.Before(due)) {
		due, ok = o.due, true
	}
	for _, a := range o.suspects {
		at := a.refusal.due
		if o.isPassing {
			at = time.Time{}
		}
		if at = later(o.due, at); !ok || at.Before(due) {
			due, ok = at, true
		}
	}
	due = later(due, resting)
	if len(o.fresh) > 0 && (!ok || o.freshDue.Before(due)) {
		due, ok = o.freshDue, true
	}
	return due, ok
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// took takes note that the server has taken answers: an answer that was refused alone before is itself the cause.
func (o *outbox) took() {
	o.passedAt = time.Now()
	o.probes, o.due = 0, time.Time{}
	o.pause.reset()
	o.beginAnew()
}

// beginAnew forgets for how long none has passed.
func (o *outbox) beginAnew() {
	o.nonePassed, o.mute = [reasons]tally{}, time.Time{}
}

// lostConnection takes note that the connection was lost when answers of this kind were sent. An outage says nothing of
// what is refused after it: only how often the connection was lost still counts.
func (o *outbox) lostConnection() {
	lost := o.nonePassed[ofConnection]
	o.beginAnew()
	o.nonePassed[ofConnection] = lost
}

// noteSuspects takes note that n suspects were sent together: when they have passed, more are sent the next time, due
// or not; when not, fewer.
func (o *outbox) noteSuspects(n int, err error) {
	o.together, o.isPassing = n/2, n > 1
	if err == nil {
		o.together, o.isPassing = min(2*n, flushSize), true
	}
}

// setApart takes a refused parcel: first in a part for each queue, since the cause lies most often with the jobs of one
// queue, and then in smaller ones.
func (o *outbox) setApart(refused []answer, err error) {
	now := time.Now()
	var parts [][]answer
	ofQueue := map[*queueStats]int{}
	for _, a := range byReceipt(refused) { // so those of a claim, which another session may hold, stay together
		if a.refusal == nil {
			a.refusal = &refusal{first: now, last: now}
		}
		i, ok := ofQueue[a.stats]
		if !ok {
			i, parts = len(parts), append(parts, nil)
			ofQueue[a.stats] = i
		}
		parts[i] = append(parts[i], a)
	}
	if n := partsOf(err); len(parts) == 1 {
		parts = slices.Collect(slices.Chunk(parts[0], (len(refused)+n-1)/n))
	}
	for _, part := range parts {
		o.apart = append(o.apart, slices.Clone(part)) // none keeps the outputs of another one in memory
	}
}

// holdBack holds back fresh answers of queues of which others were refused, or are held back.
func (o *outbox) holdBack() {
	if len(o.behind) == 0 && o.held() == 0 {
		return
	}
	place := map[*queueStats]int{} // of a queue's in behind; -1 where none are there yet
	for _, part := range o.apart {
		place[part[0].stats] = -1
	}
	for _, alone := range [][]answer{o.suspects, o.givenUp} {
		for _, a := range alone {
			place[a.stats] = -1
		}
	}
	for i, part := range o.behind {
		place[part[0].stats] = i
	}
	var others []answer
	for _, a := range o.fresh {
		switch i, ok := place[a.stats]; {
		case !ok:
			others = append(others, a)
		case i < 0:
			place[a.stats] = len(o.behind)
			o.behind = append(o.behind, []answer{a})
		default:
			o.behind[i] = append(o.behind[i], a)
		}
	}
	o.fresh = others
}

// parcel is what is sent in between, at once.
type parcel struct {
	answers []answer
	from    source
}

// source is a kind of answers that are sent in between. They have their turns in this order.
type source int

const (
	givenUp       source = iota // one in whose place something else is sent
	suspects                    // that are due, the oldest first; while there is one that is given up, those that are late
	behind                      // those of a queue that are held back
	firstApart                  // the part that was set apart first, so that good answers pass soon
	smallestApart               // the smallest part, so that the cause of the refusal is found
	sources       = iota
)

// again takes the answers to send in between; none where none are due. While the outbox rests, only what was not sent
// yet has its turn: what is held back, and what is sent in place of others.
func (o *outbox) again(now time.Time) (p parcel) {
	isDue := !now.Before(o.due)
	for range sources {
		o.turn = (o.turn + 1) % sources
		p.from = o.turn
		switch {
		case p.from == givenUp && len(o.givenUp) > 0:
			p.answers = cut(&o.givenUp, 1)
		case p.from == suspects && isDue && (len(o.givenUp) == 0 || o.isSuspectLate(now)):
			p.answers = o.suspectsDue(now)
		case p.from == behind && !now.Before(o.freshDue):
			p.answers = o.take(&o.behind, 0)
		case p.from == firstApart && isDue:
			p.answers = o.take(&o.apart, 0)
		case p.from == smallestApart && isDue:
			p.answers = o.take(&o.apart, smallest(o.apart))
		}
		if len(p.answers) > 0 {
			return p
		}
	}
	return parcel{}
}

// putBack puts answers that were not sent back to where they came from.
func (o *outbox) putBack(p parcel) {
	switch p.from {
	case givenUp:
		o.givenUp = append(p.answers, o.givenUp...)
	case suspects:
		o.suspects = append(o.suspects, p.answers...)
	case behind:
		isOfQueue := func(part []answer) bool { return part[0].stats == p.answers[0].stats }
		if i := slices.IndexFunc(o.behind, isOfQueue); i >= 0 {
			o.behind[i] = append(p.answers, o.behind[i]...)
		} else {
			o.behind = append(o.behind, p.answers)
		}
	default:
		o.apart = append(o.apart, p.answers)
	}
}

// cut takes the first n of some answers. The outputs of these are in memory for as long as they are sent, not as the
// others are there.
func cut(answers *[]answer, n int) (first []answer) {
	if n == len(*answers) {
		first, *answers = *answers, nil
		return first
	}
	first = slices.Clone((*answers)[:n])
	*answers = slices.Delete(*answers, 0, n)
	return first
}

// take takes a part, or as much of it as is sent at once; the rest goes to the end.
func (o *outbox) take(parts *[][]answer, i int) []answer {
	if len(*parts) == 0 {
		return nil
	}
	part := (*parts)[i]
	*parts = slices.Delete(*parts, i, i+1)
	first := cut(&part, o.againSize.of(part))
	if len(part) > 0 {
		*parts = append(*parts, part)
	}
	return first
}

func smallest(parts [][]answer) (chosen int) {
	for i, part := range parts {
		if len(part) < len(parts[chosen]) {
			chosen = i
		}
	}
	return chosen
}

// isSuspectLate says whether a suspect has waited for too long for those that are given up.
func (o *outbox) isSuspectLate(now time.Time) bool {
	return slices.ContainsFunc(o.suspects, func(a answer) bool { return now.Sub(a.refusal.due) >= suspectsWait })
}

func (o *outbox) suspectsDue(now time.Time) []answer {
	if len(o.suspects) == 0 {
		o.together, o.isPassing = 0, false
		return nil
	}
	slices.SortStableFunc(o.suspects, func(a, b answer) int { return a.refusal.due.Compare(b.refusal.due) })
	if !o.isPassing && now.Before(o.suspects[0].refusal.due) {
		return nil
	}
	return cut(&o.suspects, min(max(o.together, 1), o.againSize.of(o.suspects)))
}

func (o *outbox) lockWait() time.Duration {
	if o.held() < manyHeld {
		return lockWait
	}
	return shortLockWait
}
