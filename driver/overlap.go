package driver

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// heldMost is for how long a job is held back. A variable for the sake of tests.
var heldMost = 10 * time.Second

// sideBySideFor is for how long it counts that jobs of one group were seen to run side by side.
const sideBySideFor = time.Minute

// group is a group of jobs as all workers of this process know it.
type group struct{ server, queue, key string }

// groups are the attempts of this process, of jobs with a group, whose handlers run, or are to run.
type groups struct {
	mu       sync.Mutex
	attempts map[group]map[*attempt]bool
}

var ofProcess = groups{attempts: map[group]map[*attempt]bool{}}

// of returns the attempts of a group.
func (g *groups) of(key group) (attempts []*attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for a := range g.attempts[key] {
		attempts = append(attempts, a)
	}
	return attempts
}

// enter takes note of an attempt whose handler is to run.
func (g *groups) enter(key group, a *attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a.group, a.left = key, make(chan struct{})
	if g.attempts[key] == nil {
		g.attempts[key] = map[*attempt]bool{}
	}
	g.attempts[key][a] = true
}

// leave takes note that the handler of an attempt has returned, or will not run.
func (g *groups) leave(a *attempt) {
	if a.left == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.attempts[a.group][a] {
		close(a.left)
	}
	delete(g.attempts[a.group], a)
	if len(g.attempts[a.group]) == 0 {
		delete(g.attempts, a.group)
	}
}

func (a *attempt) isLost() bool {
	a.registration.mu.Lock()
	defer a.registration.mu.Unlock()
	return a.lost
}

// holdBack has jobs that were claimed wait for handlers of their groups whose attempts are over, and that have not
// returned: a cancel, say, has given the slot of the group to the next job. Where a handler of the group runs here, the
// server is asked whether its attempt is over, since the claim may be quicker than the news of that. Where it is not,
// jobs of the group may run side by side, and nothing is held back, or asked, for a while.
func (r *run) holdBack(ctx context.Context, q *queue, tasks []*task) {
	now := time.Now()
	before := map[*task][]*attempt{}
	seen := map[string]bool{}
	for _, t := range tasks {
		if key := t.job.GroupKey; key != "" {
			if others := ofProcess.of(r.groupOf(t.job)); len(others) > 0 {
				before[t] = others
			}
			if seen[key] {
				q.sideBySide = now
			}
			seen[key] = true
		}
	}
	for _, t := range tasks {
		if t.job.GroupKey != "" {
			ofProcess.enter(r.groupOf(t.job), &t.attempt)
		}
	}
	if len(before) == 0 || now.Before(q.sideBySide.Add(sideBySideFor)) {
		return
	}
	answers := map[*registration]error{}
	for t, others := range before {
		for _, a := range others {
			if _, asked := answers[a.registration]; !asked && !a.isLost() {
				answers[a.registration] = r.beatOne(ctx, &r.control, a.registration)
			}
			switch {
			case a.isLost():
				t.after = append(t.after, a.left)
			case answers[a.registration] == nil:
				q.sideBySide = now
			}
		}
	}
}

// serverOf names a database as the process reaches it.
func serverOf(pool *pgxpool.Pool) string {
	c := pool.Config().ConnConfig
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

func (r *run) groupOf(job *RawJob) group {
	return group{r.server, job.Queue, job.GroupKey}
}

// awaits waits for the handlers that a job was held back for, and says whether it may begin. One that has waited for
// too long is given back, uncounted: it comes first in its group.
func (r *run) awaits(ctx context.Context, t *task) bool {
	if len(t.after) == 0 {
		return true
	}
	r.log.DebugContext(ctx, "a job is held back: a handler of its group has not returned, though its attempt is over",
		keyQueue, t.job.Queue, keyJobID, t.job.ID)
	most := heldMost
	if t.job.DeadlineAt != nil {
		most = min(most, time.Until(*t.job.DeadlineAt)/2)
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	for _, left := range t.after {
		select {
		case <-left:
			continue
		case <-ctx.Done():
			t.attempt.returned()
		case <-timer.C:
			ofProcess.leave(&t.attempt)
			if !t.attempt.returned() {
				r.warnings.warn(ctx, r.log, slog.LevelWarn, "held back", "a job is given back, uncounted: a handler of its group "+
					"has not returned, though its attempt is over. Let handlers return when their contexts end",
					keyQueue, t.job.Queue, keyJobID, t.job.ID)
				r.completer.send(answer{attempt: &t.attempt, outcome: released})
			}
		}
		return false
	}
	return true
}
