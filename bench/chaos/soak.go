//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const warm = 10 * time.Minute // sessions have called all functions by then

// operations are what may be done with the queue "mixed", one transaction each. They may fail where another session was
// sooner.
var operations = []string{
	"select awa.enqueue('mixed', 'k', priority => 1 + (random() * 3)::int, " +
		"group_key => (random() * 9)::int::text) from generate_series(1, 20)",
	"select awa.enqueue_many('mixed', 'k', array_fill('{\"a\": 1}'::jsonb, array[50]), tags => '{x}')",
	"select awa.enqueue('mixed', 'k', run_at => clock_timestamp() + random() * interval '5 seconds')",
	"select awa.enqueue('mixed', 'k', max_attempts => 1, expires_at => clock_timestamp() + interval '1 second')",
	`select awa.enqueue_batch('[{"queue": "mixed", "kind": "k"}, {"queue": "mixed", "kind": "l", "priority": 4}]')`,
	"select awa.enqueue_unique('mixed', 'k', unique_key => (random() * 20)::int::text)",
	"select awa.cancel_by_unique_key(unique_key => (random() * 20)::int::text)",
	"select awa.complete(job_id, receipt) from awa.claim('mixed', 20)",
	"select awa.complete(job_id, receipt, '{\"done\": true}') from awa.claim('mixed', 5)",
	"select awa.complete_many(array_agg(job_id), array_agg(receipt)) from awa.claim('mixed', 100) having count(*) > 0",
	"select awa.fail(job_id, receipt, 'no', interval '10 milliseconds') from awa.claim('mixed', 5)",
	"select awa.discard(job_id, receipt, 'never') from awa.claim('mixed', 2)",
	"select awa.snooze(job_id, receipt, interval '10 milliseconds', random() < 0.5) from awa.claim('mixed', 5)",
	"select awa.release(job_id, receipt) from awa.claim('mixed', 5)",
	"select awa.cancel_attempt(job_id, receipt) from awa.claim('mixed', 2)",
	"select awa.extend(job_id, receipt, interval '1 second'), awa.set_progress(job_id, receipt, '1') " +
		"from awa.claim('mixed', 3, lease => interval '1 second')", // to be rescued
	`do $$
	declare
	  w bigint := awa.register_worker('mixed');
	begin
	  perform awa.claim('mixed', 5, w);
	  perform awa.heartbeat(w);
	  perform awa.deregister_worker(w);
	end $$`,
	"select awa.cancel(id) from awa.list_jobs(queue => 'mixed', max_jobs => 20) order by random() limit 1",
	"select awa.cancel(id) from awa.list_jobs(queue => 'mixed', state => 'running', max_jobs => 3)",
	"select awa.retry(id) from awa.list_jobs(queue => 'mixed', state => 'dead', max_jobs => 3)",
	"select awa.retry(id) from awa.list_jobs(queue => 'mixed', state => 'cancelled', max_jobs => 3)",
	"select awa.set_priority(id, 1) from awa.list_jobs(queue => 'mixed', state => 'available', max_jobs => 3)",
	"select awa.move(id, 'mixed') from awa.list_jobs(queue => 'mixed', state => 'scheduled', max_jobs => 3)",
	"select awa.reschedule(id, clock_timestamp()) " +
		"from awa.list_jobs(queue => 'mixed', state => 'scheduled', max_jobs => 3)",
	"select awa.delete_job(id) from awa.list_jobs(queue => 'mixed', state => 'cancelled', max_jobs => 3)",
	"select awa.cancel_where(queue => 'mixed', kind => 'l')",
	"select awa.retry_where(queue => 'mixed', state => 'failed', max_jobs => 5)",
	"select awa.purge_dlq(queue => 'mixed', max_jobs => 50)",
	"select awa.delete_where(queue => 'mixed', state => 'failed')",
	`select awa.start_change('cancel', '{"queue": "mixed", "tag": "x"}')`,
	"select awa.pause_queue('mixed')",
	"select awa.resume_queue('mixed')",
	"select awa.resume_queue('mixed')",
	`select awa.configure_queue('mixed', '{"group_max_running": 2, "dead_letter": true}')`,
	`select awa.configure_queue('mixed', '{"group_max_running": null, "max_running": 50, "dead_letter": false}')`,
	`select awa.configure_queue('mixed', '{"group_order": "strict", "max_running": null}')`,
	`select awa.configure_queue('mixed', '{"group_order": "start", "shards": 1}')`,
	"select awa.pause_group('mixed', '3', until => clock_timestamp() + interval '1 second')",
	"select awa.resume_group('mixed', '3')",
	"select awa.schedule('mixed', 'mixed', 'k', every => interval '1 second'), awa.trigger_schedule('mixed')",
	"select awa.unschedule('mixed')",
	"select awa.list_groups('mixed')",
	"select awa.queue_stats('mixed')",
	"select awa.list_queues(), awa.list_workers()",
	"select * from awa.health()",
	"select awa.explain_job(id) from awa.list_jobs(queue => 'mixed', max_jobs => 5)",
}

// mix does everything at random.
func (c *client) mix(ctx context.Context) {
	for ctx.Err() == nil {
		c.transaction(ctx, "commit", func(b *pgx.Batch) { b.Queue(operations[c.rand.IntN(len(operations))]) },
			func(fate, time.Time) {})
		sleep(ctx, time.Millisecond)
	}
}

// unmix ends all jobs of the queue.
func (r *rig) unmix(ctx context.Context) error {
	if err := execute(ctx, r.url, "select awa.unschedule(name) from awa.list_schedules()",
		"select awa.resume_queue('mixed')", "select awa.resume_group('mixed', '3')"); err != nil {
		return err
	}
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		var open int64
		if err := conn.QueryRow(ctx, "select available + scheduled + retryable + running + waiting_external "+
			"from awa.queue_counts('mixed')").Scan(&open); err != nil || open == 0 {
			return err
		}
		if _, err := conn.Exec(ctx, "select awa.cancel_where(queue => 'mixed')"); err != nil {
			r.count(err)
		}
	}
	return errors.New("the mixed jobs are not cancelled after a minute")
}

// memory is what processes have for themselves, in MiB: the largest of the sessions of the load, and of the workers.
type memory struct{ sessions, workers float64 }

func (r *rig) memory(ctx context.Context) (m memory, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return m, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, _ := conn.Query(ctx, "select pid from pg_stat_activity where datname = current_database() and "+
		"backend_type = 'client backend' and pid <> pg_backend_pid()")
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	for _, pid := range pids {
		m.sessions = max(m.sessions, own(pid))
	}
	for _, w := range r.workers {
		m.workers = max(m.workers, own(w.cmd.Process.Pid))
	}
	return m, err
}

// own is what a process has for itself, in MiB; none where that can't be read.
func own(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseFloat(fields[0], 64)
	return kib / 1024
}

// soak holds the load for a time, with everything at random beside it, and compares the book with the server again and
// again. In a run that is long enough to be warm, processes may have half as much again in the last quarter as in the
// second one.
func soak(ctx context.Context, length time.Duration, seed uint64) error {
	r, err := newRig(ctx, fault{}, seed)
	if err != nil {
		return err
	}
	defer r.close()
	mixing, stop := context.WithCancel(ctx)
	defer stop()
	var mixers sync.WaitGroup
	for i := range uint64(3) {
		c := &client{rig: r, rand: rand.New(rand.NewPCG(seed, 1000+i))}
		mixers.Go(func() {
			c.mix(mixing)
			if c.conn != nil {
				c.conn.Close(context.WithoutCancel(ctx))
			}
		})
	}
	fmt.Printf("-seed %d\n\n| after | jobs acknowledged | MiB in schema awa | MiB of the largest session | "+
		"of the largest worker | problems |\n| --- | --- | --- | --- | --- | --- |\n", seed)
	looks := 20
	if length < time.Minute {
		looks = 4
	}
	seen := make([]memory, looks)
	began := time.Now()
	for i := range looks {
		sleep(ctx, time.Until(began.Add(length*time.Duration(i+1)/time.Duration(looks))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if seen[i], err = r.memory(ctx); err == nil {
			err = r.check(ctx)
		}
		if err == nil {
			err = r.show(ctx, time.Since(began), seen[i])
		}
		if err != nil {
			r.stopLoad()
			return err
		}
	}
	stop()
	mixers.Wait()
	if err := errors.Join(r.unmix(ctx), r.drain(ctx)); err != nil {
		return err
	}
	for _, w := range r.workers {
		if err := w.stop(); err != nil {
			return err
		}
	}
	lost, err := r.checkEnd(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nLost %d; run again: %s; errors by SQLSTATE: %s.\n", lost, counts(r.book.again, ", "),
		counts(r.errors, ", "))
	sum := func(of []memory) (m memory) {
		for _, one := range of {
			m.sessions, m.workers = m.sessions+one.sessions, m.workers+one.workers
		}
		return m
	}
	for code, n := range r.errors {
		if strings.HasPrefix(code, "42") {
			r.book.problem("%d times %s: an operation is wrong", n, code)
		}
	}
	if length < warm {
		return r.book.err()
	}
	early, late := sum(seen[looks/4:looks/2]), sum(seen[3*looks/4:])
	if late.sessions > 1.5*early.sessions {
		r.book.problem("sessions have grown")
	}
	if late.workers > 1.5*early.workers {
		r.book.problem("workers have grown")
	}
	return r.book.err()
}

func (b *book) err() error {
	if len(b.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(b.problems, "\n"))
}

// show prints a line of the table.
func (r *rig) show(ctx context.Context, after time.Duration, m memory) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var bytes int64
	if err := conn.QueryRow(ctx, "select sum(pg_total_relation_size(oid))::bigint from pg_class where relnamespace = "+
		"'awa'::regnamespace and relkind = 'r'").Scan(&bytes); err != nil {
		return err
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	acknowledged := 0
	for _, j := range r.book.jobs {
		if j.enqueued == held || j.enqueued == learnt {
			acknowledged++
		}
	}
	fmt.Printf("| %s | %d | %d | %.0f | %.0f | %d |\n", after.Round(time.Second), acknowledged, bytes>>20, m.sessions,
		m.workers, len(r.book.problems))
	return nil
}
