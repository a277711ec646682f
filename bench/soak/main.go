// Package soak runs Awa for a long time with small segments, and shows minute by minute whether anything grows or
// stalls. Give it a database of its own, freshly migrated.
package soak

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/internal/load"
)

const (
	queue       = "soak"
	pausedQueue = "soak_paused"
	stallAfter  = 100 * time.Millisecond
	lookEvery   = 50 * time.Millisecond // at what all sessions wait for
	lookBack    = time.Minute           // longer than any call
)

type options struct {
	flags                           *flag.FlagSet
	url                             string
	length, retention               time.Duration
	dump, dumpAfter                 time.Duration
	most, depth, paused, segmentMiB int
	producers, consumers            int
	pin, longJob                    bool
}

// Main runs the sub-command "soak".
func Main(ctx context.Context, arguments []string) error {
	o := options{flags: flag.NewFlagSet("soak", flag.ExitOnError)}
	o.flags.StringVar(&o.url, "database-url", os.Getenv("DATABASE_URL"), "a migrated database for this alone")
	o.flags.DurationVar(&o.length, "for", time.Hour, "ends after this long")
	o.flags.IntVar(&o.most, "jobs", 20_000_000, "or after so many jobs")
	o.flags.IntVar(&o.depth, "depth", 4000, "jobs on their way")
	o.flags.IntVar(&o.producers, "producers", 2, "connections")
	o.flags.IntVar(&o.consumers, "consumers", 2, "connections")
	o.flags.IntVar(&o.segmentMiB, "segment-mib", 128, "entries in a segment, about 3,000 jobs per MiB")
	o.flags.DurationVar(&o.retention, "retention", 10*time.Second, "how long a segment is kept after it was left")
	o.flags.BoolVar(&o.pin, "pin", false, "another session holds an idle transaction with an id all the time")
	o.flags.DurationVar(&o.dump, "dump", 0,
		"another session holds ACCESS SHARE on all tables, and a snapshot, for this long, as pg_dump does")
	o.flags.DurationVar(&o.dumpAfter, "dump-after", time.Minute, "when that begins")
	o.flags.IntVar(&o.paused, "paused", 0, "so many jobs wait in another queue, which is paused")
	o.flags.BoolVar(&o.longJob, "longjob", false, "one job is claimed at the start and completed at the end")
	o.flags.Parse(arguments)
	return run(ctx, o)
}

type soak struct {
	options
	config *pgx.ConnConfig
	load   *load.Load
	began  time.Time
	rowed  time.Time // when the last row was printed
	jobs   int       // completed

	mu          sync.Mutex
	who         map[uint32]string // the sessions, by pid
	looks       []look            // of the last minutes
	passes      []pass            // of the last minutes
	slow        []load.Call       // that took too long, and are not explained yet
	stalls      []stall
	rotations   int
	truncations int
	outcome     string // what is in the way of emptying the oldest segment
	notes       []string
}

// look is what the sessions were waiting for at a time, and what disturbed all of them.
type look struct {
	at    time.Time
	waits map[uint32]string
	all   []string
}

// pass is one of maintenance.
type pass struct {
	began, ended time.Time
	did          string
}

type stall struct {
	load.Call
	cause string
}

func run(ctx context.Context, o options) error {
	s := &soak{options: o, who: map[uint32]string{}}
	var err error
	if s.config, err = pgx.ParseConfig(o.url); err != nil {
		return err
	}
	db, err := s.connect(ctx, "statistics")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	if err := s.prepare(ctx, db); err != nil {
		return err
	}
	var longJob, longReceipt int64
	if o.longJob {
		if _, err := db.Exec(ctx, "select awa.enqueue($1, 'long')", queue); err != nil {
			return err
		}
		if err := db.QueryRow(ctx, "select job_id, receipt from awa.claim($1, 1, lease => '1 day')", queue).Scan(&longJob,
			&longReceipt); err != nil {
			return err
		}
	}
	s.load, err = load.Open(ctx,
		load.Config{Conn: s.config, Queue: queue, Producers: o.producers, Consumers: o.consumers, OnCall: s.onCall})
	if err != nil {
		return err
	}
	defer s.load.Close()

	var others sync.WaitGroup
	beside, stop := context.WithCancelCause(ctx)
	defer others.Wait()
	defer stop(nil)
	start := func(what string, f func(context.Context, *pgx.Conn) error) error {
		conn, err := s.connect(ctx, what)
		if err != nil {
			return err
		}
		others.Go(func() {
			defer conn.Close(context.WithoutCancel(ctx))
			if err := f(beside, conn); err != nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
		return nil
	}
	fmt.Println("| until | jobs/s | MiB in schema awa | dead tuples | rotations | truncations | in the way of pruning | " +
		"stalls over 100 ms | the longest, ms |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	s.began = time.Now()
	s.rowed = s.began
	err = errors.Join(start("maintenance", s.maintain), start("looks", s.lookAround), start("minutes", s.minutes))
	if o.pin {
		err = errors.Join(err, start("the pinning session", pin))
	}
	if o.dump > 0 {
		err = errors.Join(err, start("the dump", s.dumpAll))
	}
	if err != nil {
		return err
	}
	rest, err := s.load.Run(beside, load.Offer{For: o.length, Jobs: o.most, Depth: o.depth})
	took := time.Since(s.began)
	stop(nil)
	others.Wait()
	if err == nil {
		err = s.row(context.WithoutCancel(ctx), db, rest)
	}
	s.summary(took)
	if err != nil {
		return err
	}
	var dead string
	err = db.QueryRow(ctx, `
		select coalesce(string_agg(format('%s %s', relname, n_dead_tup), ', ' order by n_dead_tup desc), 'none')
		  from pg_stat_user_tables where schemaname = 'awa' and n_dead_tup > 0`).Scan(&dead)
	if err != nil {
		return err
	}
	fmt.Printf("Dead tuples: %s.\n", dead)
	if o.longJob {
		if _, err := db.Exec(ctx, "select awa.complete($1, $2)", longJob, longReceipt); err != nil {
			return fmt.Errorf("the long job: %w", err)
		}
		s.jobs++
	}
	return s.check(ctx, db)
}

// connect opens a session beside the load.
func (s *soak) connect(ctx context.Context, what string) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.who[conn.PgConn().PID()] = what
	}
	return conn, err
}

func (s *soak) prepare(ctx context.Context, db *pgx.Conn) error {
	var jobs int64
	var version string
	if err := db.QueryRow(ctx, "select (select last_value from awa.job_ids), version()").Scan(&jobs,
		&version); err != nil {
		return err
	}
	if jobs > 1 {
		return errors.New("this database has been used: give it a fresh one")
	}
	_, err := db.Exec(ctx, "update awa.settings set segment_bytes = $1, completed_retention = $2", s.segmentMiB<<20,
		s.retention)
	if err != nil {
		return err
	}
	for n := s.paused; n > 0; n -= load.Batch {
		_, err := db.Exec(ctx, "select count(*) from awa.enqueue_many($1, 'paused', array_fill($2::jsonb, array[$3::int]))",
			pausedQueue, load.Payload, min(n, load.Batch))
		if err != nil {
			return err
		}
	}
	if s.paused > 0 {
		if _, err := db.Exec(ctx, "select awa.pause_queue($1)", pausedQueue); err != nil {
			return err
		}
	}
	fmt.Println(version)
	s.flags.VisitAll(func(f *flag.Flag) {
		if f.Name != "database-url" { // which may hold a password
			fmt.Printf("-%s %s ", f.Name, f.Value)
		}
	})
	fmt.Print("\n\n")
	return nil
}

func (s *soak) onCall(c load.Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.who[c.PID] = "the load"
	if c.Took > stallAfter {
		s.slow = append(s.slow, c)
	}
}

// maintain calls maintenance each second, and notes what it did to the ring.
func (s *soak) maintain(ctx context.Context, conn *pgx.Conn) error {
	type ring struct {
		Current   int
		Outcome   string
		Filenodes []uint32 // a truncation gives a table a new one
	}
	look := func() (r ring, err error) {
		err = conn.QueryRow(context.WithoutCancel(ctx), `
			select current_segment, coalesce(outcome, ''),
			       array(select pg_relation_filenode(format('awa.ready_entries_%s', s)) from generate_series(0, 3) s)
			  from awa.ring`).Scan(&r.Current, &r.Outcome, &r.Filenodes)
		return r, err
	}
	before, err := look()
	if err != nil {
		return err
	}
	return every(ctx, time.Second, func() error {
		p := pass{began: time.Now()}
		if _, err := conn.Exec(context.WithoutCancel(ctx), "call awa.run_maintenance()"); err != nil {
			return err
		}
		p.ended = time.Now()
		after, err := look()
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var did []string
		if after.Current != before.Current {
			s.rotations++
			did = append(did, fmt.Sprintf("rotated to %d", after.Current))
		}
		for i := range after.Filenodes {
			if after.Filenodes[i] != before.Filenodes[i] {
				s.truncations++
				did = append(did, fmt.Sprintf("truncated %d", i))
			}
		}
		if after.Outcome != "" {
			did = append(did, after.Outcome)
		}
		s.outcome = after.Outcome
		p.did = strings.Join(did, ", ")
		s.passes = append(s.passes, p)
		before = after
		return nil
	})
}

// lookAround notes again and again what the sessions wait for.
func (s *soak) lookAround(ctx context.Context, conn *pgx.Conn) error {
	return every(ctx, lookEvery, func() error {
		l := look{at: time.Now(), waits: map[uint32]string{}}
		rows, _ := conn.Query(context.WithoutCancel(ctx), `
			select pid, backend_type, coalesce(wait_event_type || '/' || wait_event, 'CPU'),
			       case wait_event_type when 'Lock' then pg_blocking_pids(pid) end
			  from pg_stat_activity
			 where pid <> pg_backend_pid()
			   and (datname = current_database() or backend_type = 'checkpointer')`)
		var pid uint32
		var backend, wait string
		var blockers []uint32
		_, err := pgx.ForEachRow(rows, []any{&pid, &backend, &wait, &blockers}, func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			var holders []string
			for _, b := range blockers {
				holders = append(holders, cmp.Or(s.who[b], "others"))
			}
			slices.Sort(holders)
			for _, holder := range slices.Compact(holders) {
				wait += ", held by " + holder
			}
			switch {
			case backend == "client backend":
				l.waits[pid] = wait
			case !strings.HasPrefix(wait, "Activity/"): // at work
				l.all = append(l.all, backend)
			}
			return nil
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.looks = append(s.looks, l)
		return err
	})
}

// cause is what is known about a call that took long.
func (s *soak) cause(c load.Call) string {
	ended := c.Began.Add(c.Took)
	counts := map[string]int{}
	all := map[string]int{}
	last := c.Began
	var gap time.Duration
	for _, l := range s.looks {
		if l.at.Before(c.Began) || l.at.After(ended) {
			continue
		}
		gap = max(gap, l.at.Sub(last))
		last = l.at
		counts[l.waits[c.PID]]++
		for _, what := range l.all {
			all[what]++
		}
	}
	gap = max(gap, ended.Sub(last))
	var known []string
	for _, m := range []map[string]int{counts, all} {
		for _, what := range slices.Sorted(maps.Keys(m)) {
			known = append(known, fmt.Sprintf("%s %d times", what, m[what]))
		}
	}
	for _, p := range s.passes {
		if p.did != "" && p.began.Before(ended) && p.ended.After(c.Began) {
			known = append(known, fmt.Sprintf("maintenance of %d ms: %s", p.ended.Sub(p.began).Milliseconds(), p.did))
		}
	}
	if gap > 2*lookEvery {
		known = append(known, fmt.Sprintf("no look for %d ms", gap.Milliseconds()))
	}
	return strings.Join(known, "; ")
}
