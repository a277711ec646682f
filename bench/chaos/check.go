//go:build unix

package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// check compares the book with the server, between two calls of the load: each enqueue that was acknowledged is there,
// each completion that was acknowledged holds, there is nothing else, and the books of the server balance.
func (r *rig) check(ctx context.Context) error {
	b := r.book
	b.gate.Lock()
	defer b.gate.Unlock()
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := b.clear(ctx, conn); err != nil {
		return err
	}
	b.mu.Lock()
	byWorker := map[int64]bool{} // completions that were acknowledged before the look
	for _, n := range b.byWorker {
		byWorker[n] = true
	}
	b.byWorker = b.byWorker[:0]
	b.mu.Unlock()
	if _, err := conn.Exec(ctx, "set jit = off"); err != nil { // to compile it takes longer than to run it
		return err
	}
	rows, _ := conn.Query(ctx, "select (args ->> 'n')::bigint, id, state from awa.jobs where args ? 'n'")
	type found struct {
		id    int64
		state string
	}
	states := map[int64]found{}
	var n int64
	var f found
	if _, err := pgx.ForEachRow(rows, []any{&n, &f.id, &f.state}, func() error {
		if other, twice := states[n]; twice {
			b.problem("number %d is job %d and job %d", n, other.id, f.id)
		}
		states[n] = f
		return nil
	}); err != nil {
		return fmt.Errorf("awa.jobs: %w", err)
	}
	b.mu.Lock()
	exist := int64(0)
	for i := range b.jobs {
		n, j := int64(i)+1, &b.jobs[i]
		f, isThere := states[n]
		delete(states, n)
		exists := j.enqueued == held || j.enqueued == learnt
		if exists {
			exist++
		}
		switch {
		case !exists && isThere:
			b.problem("job %d, number %d, was not committed, and is %s", f.id, n, f.state)
		case !exists:
		case j.ended >= learnt && j.ended != gone && (j.queue != worker || byWorker[n]):
			if isThere && f.state != "completed" {
				b.problem("job %d, whose completion was acknowledged, is %s", f.id, f.state)
			}
		case isThere && (f.state == "failed" || f.state == "cancelled" || f.state == "dead"):
			b.problem("job %d is %s", f.id, f.state)
		case j.ended == unknown || j.queue == worker && j.runs > 0: // completed, or to come
		case !isThere:
			b.problem("number %d was enqueued, has not completed, and is not there", n)
		case f.state == "completed":
			b.problem("job %d is completed, and nobody has said so", f.id)
		}
	}
	for n, f := range states {
		b.problem("job %d has number %d, which nobody enqueued", f.id, n)
	}
	b.mu.Unlock()
	var sent int64
	if err := conn.QueryRow(ctx, "select coalesce(sum(jobs), 0) from chaos.sent").Scan(&sent); err != nil {
		return err
	}
	if sent != exist {
		b.problem("%d jobs were committed, and the load knows of %d", sent, exist)
	}
	return b.audit(ctx, conn)
}

// clear learns what became of enqueues whose answers were lost.
func (b *book) clear(ctx context.Context, conn *pgx.Conn) error {
	var firsts []int64
	for first := range b.unclear {
		firsts = append(firsts, first)
	}
	rows, _ := conn.Query(ctx, "select first from chaos.sent where first = any($1)", firsts)
	committed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for _, first := range committed {
		b.enqueue(first, b.unclear[first], learnt, time.Time{})
		delete(b.unclear, first)
	}
	for first, jobs := range b.unclear {
		b.enqueue(first, jobs, refused, time.Time{})
	}
	clear(b.unclear)
	return nil
}

func (b *book) audit(ctx context.Context, conn *pgx.Conn) error {
	rows, _ := conn.Query(ctx, "select coalesce(queue, ''), problem from awa.audit() where not balanced")
	var name, problem string
	_, err := pgx.ForEachRow(rows, []any{&name, &problem}, func() error {
		b.problem("audit, %s: %s", name, problem)
		return nil
	})
	return err
}

// checkEnd compares the book with the server when all has ended: each job that was enqueued has completed, once, and
// its effect has happened once. It returns how many jobs of those that were acknowledged are lost.
func (r *rig) checkEnd(ctx context.Context) (lost int, err error) {
	if err := r.check(ctx); err != nil {
		return 0, err
	}
	b := r.book
	conn, err := r.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	exist := map[queue]int64{}
	effects := int64(0)
	b.mu.Lock()
	for i := range b.jobs {
		n, j := int64(i)+1, &b.jobs[i]
		if j.enqueued != held && j.enqueued != learnt {
			continue
		}
		exist[j.queue]++
		if j.queue == orders || j.queue == worker && n%2 == 1 {
			effects++
		}
		if j.ended < learnt && (j.queue != worker || j.runs == 0) {
			lost++
			b.problem("number %d of %s has not completed: enqueued %d, completed %d, runs %d", n, j.queue, j.enqueued, j.ended,
				j.runs)
		}
	}
	b.mu.Unlock()
	for _, q := range queues {
		var completed, others int64
		err := conn.QueryRow(ctx, `
			select completed, available + scheduled + retryable + running + waiting_external + failed + cancelled + dead
			  from awa.queue_counts($1)`, string(q)).Scan(&completed, &others)
		if err != nil {
			return lost, err
		}
		if completed != exist[q] || others > 0 {
			b.problem("of %d jobs of %s %d are completed, and %d are not", exist[q], q, completed, others)
			lost = max(lost, int(exist[q]-completed))
		}
	}
	var happened, distinct int64
	if err := conn.QueryRow(ctx, "select count(*), count(distinct n) from chaos.effects").Scan(&happened,
		&distinct); err != nil {
		return lost, err
	}
	if happened != effects || distinct != effects {
		b.problem("%d jobs have effects, and these happened %d times, for %d jobs", effects, happened, distinct)
	}
	return lost, nil
}
