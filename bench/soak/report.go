package soak

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/internal/load"
)

func (s *soak) minutes(ctx context.Context, conn *pgx.Conn) error {
	return every(ctx, time.Minute, func() error { return s.row(context.WithoutCancel(ctx), conn, s.load.Take()) })
}

// row prints what happened since the last one.
func (s *soak) row(ctx context.Context, conn *pgx.Conn, done load.Figures) error {
	var bytes, dead int64
	err := conn.QueryRow(ctx, `
		select (
		  select sum(pg_total_relation_size(oid)) from pg_class where relnamespace = 'awa'::regnamespace and relkind = 'r'
		)::bigint,
		       (select sum(n_dead_tup) from pg_stat_user_tables where schemaname = 'awa')::bigint`).Scan(&bytes, &dead)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var longest time.Duration
	for _, c := range s.slow {
		longest = max(longest, c.Took)
		s.stalls = append(s.stalls, stall{c, s.cause(c)})
	}
	now := time.Now()
	fmt.Printf("| %s | %.0f | %d | %d | %d | %d | %s | %d | %d |\n", s.at(now),
		float64(done.Jobs)/now.Sub(s.rowed).Seconds(), bytes>>20, dead,
		s.rotations, s.truncations, s.outcome, len(s.slow), longest.Milliseconds())
	s.rowed = now
	s.jobs += done.Jobs
	s.slow = nil
	// A call that is explained with the next row may have begun before this one.
	old := now.Add(-lookBack)
	s.looks = slices.DeleteFunc(s.looks, func(l look) bool { return l.at.Before(old) })
	s.passes = slices.DeleteFunc(s.passes, func(p pass) bool { return p.ended.Before(old) })
	return nil
}

func (s *soak) summary(took time.Duration) {
	fmt.Printf("\n%d jobs in %s, %.0f jobs/s; %d rotations, %d truncations, %d stalls.\n",
		s.jobs, took.Round(time.Second), float64(s.jobs)/took.Seconds(), s.rotations, s.truncations, len(s.stalls))
	for _, note := range s.notes {
		fmt.Println(note)
	}
	slices.SortFunc(s.stalls, func(a, b stall) int { return cmp.Compare(b.Took, a.Took) })
	for _, t := range s.stalls[:min(len(s.stalls), 30)] {
		fmt.Printf("- %s %s, %d ms: %s\n", s.at(t.Began), t.Name, t.Took.Milliseconds(), t.cause)
	}
}

// at is a time as minutes and seconds of the run.
func (s *soak) at(t time.Time) string {
	since := t.Sub(s.began)
	return fmt.Sprintf("%d:%04.1f", int(since.Minutes()), (since % time.Minute).Seconds())
}

// check compares what Awa says with what was done: every job was completed, once.
func (s *soak) check(ctx context.Context, db *pgx.Conn) error {
	if s.paused > 0 {
		if err := s.workPaused(ctx, db); err != nil {
			return err
		}
	}
	rows, _ := db.Query(ctx,
		"select queue, completed, available + scheduled + retryable + running + waiting_external + failed + cancelled + "+
			"dead from awa.queue_counts()")
	want := map[string]int{queue: s.jobs, pausedQueue: s.paused}
	var name string
	var completed, other int
	_, err := pgx.ForEachRow(rows, []any{&name, &completed, &other}, func() error {
		if completed != want[name] || other > 0 {
			return fmt.Errorf("queue_counts says that %d jobs of %s are completed, and %d are not; it should be %d", completed,
				name, other, want[name])
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Println("Every job was completed once: the load and queue_counts agree.")

	rows, _ = db.Query(ctx, "select coalesce(queue, ''), problem from awa.audit() where not balanced")
	var problem string
	if _, err := pgx.ForEachRow(rows, []any{&name, &problem},
		func() error { return fmt.Errorf("audit, %s: %s", name, problem) }); err != nil {
		return err
	}
	fmt.Println("The books balance: audit has nothing to say.")
	return nil
}

// workPaused resumes the paused queue, and completes its jobs: those that it had, all of them, in their order.
func (s *soak) workPaused(ctx context.Context, db *pgx.Conn) error {
	if _, err := db.Exec(ctx, "select awa.resume_queue($1)", pausedQueue); err != nil {
		return err
	}
	var last int64
	for done := 0; done < s.paused; {
		var jobs, receipts []int64
		rows, _ := db.Query(ctx, "select job_id, receipt from awa.claim($1, $2)", pausedQueue, load.Batch)
		var job, receipt int64
		_, err := pgx.ForEachRow(rows, []any{&job, &receipt}, func() error {
			if job <= last {
				return fmt.Errorf("job %d of the paused queue came after job %d", job, last)
			}
			last = job
			jobs, receipts = append(jobs, job), append(receipts, receipt)
			return nil
		})
		if err != nil {
			return err
		}
		if len(jobs) == 0 {
			return fmt.Errorf("the paused queue had %d jobs, and %d came out of it", s.paused, done)
		}
		done += len(jobs)
		if _, err := db.Exec(ctx, "select awa.complete_many($1, $2)", jobs, receipts); err != nil {
			return err
		}
	}
	return nil
}

// pin holds an idle transaction that has an id.
func pin(ctx context.Context, conn *pgx.Conn) error {
	ctx, background := context.WithoutCancel(ctx), ctx
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "select pg_current_xact_id()"); err != nil {
		return err
	}
	<-background.Done()
	return tx.Rollback(ctx)
}

// dumpAll holds a snapshot, and a lock on each table, for a while.
func (s *soak) dumpAll(ctx context.Context, conn *pgx.Conn) error {
	if !sleep(ctx, s.dumpAfter) {
		return nil
	}
	always := context.WithoutCancel(ctx)
	tx, err := conn.BeginTx(always, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer tx.Rollback(always)
	var lock string
	err = tx.QueryRow(always, `
		select 'lock table ' || string_agg(oid::regclass::text, ', ') || ' in access share mode'
		  from pg_class where relnamespace = 'awa'::regnamespace and relkind in ('r', 'p')`).Scan(&lock)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(always, lock); err != nil {
		return err
	}
	from := time.Now()
	sleep(ctx, s.dump)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, fmt.Sprintf("The dump held its locks from %s to %s.", s.at(from), s.at(time.Now())))
	return nil
}

// every calls f again and again until the context ends.
func every(ctx context.Context, d time.Duration, f func() error) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := f(); err != nil {
			return err
		}
	}
}

// sleep waits, unless the context ends before; then it returns false.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
