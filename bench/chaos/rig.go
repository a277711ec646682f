//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	awa "github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
)

// rig is a server under load, and the book of what the load was told.
type rig struct {
	server   *pgserver.Server
	book     *book
	seed     uint64
	rand     *rand.Rand             // of the fault
	url      string                 // of the server itself
	through  atomic.Pointer[string] // how clients reach it
	timeouts atomic.Bool            // whether clients set short ones
	workers  []*process
	cleanups []func()

	bouncer       *pgserver.Bouncer
	disk          string // the directory of a small file system
	standby       *pgserver.Server
	isSynchronous bool
	standbyReads  atomic.Int64 // of all jobs

	mu            sync.Mutex
	errors        map[string]int // that clients got
	stopProducing func()
	stopLoad      func()
}

const tables = `
	create schema chaos;
	create table chaos.sent (first bigint, jobs bigint);  -- one row for each enqueue
	create table chaos.answered (numbers bigint[]);       -- one for each complete_many
	create table chaos.effects (n bigint);                -- one for each job that was completed with its effect
	select awa.configure_queue(q, '{"backoff_base": 0.01}') from unnest(array['bulk', 'orders', 'worker']) q;
	update awa.settings set segment_bytes = 2 << 20, completed_retention = '1 second'`

// newRig starts a durable server, and Awa in a database of it.
func newRig(ctx context.Context, f fault, seed uint64) (r *rig, err error) {
	r = &rig{book: newBook(), seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), errors: map[string]int{}}
	settings := map[string]string{"max_connections": "60", "shared_buffers": "256MB", "max_wal_size": "1GB"}
	maps.Copy(settings, f.settings)
	if r.server, err = pgserver.Start(ctx, pgserver.Config{Durable: true, Settings: settings}); err != nil {
		return nil, err
	}
	r.cleanups = append(r.cleanups, func() { r.server.Stop() })
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	create := "create database chaos"
	if f.place != nil {
		if create, err = f.place(ctx, r); err != nil {
			return nil, err
		}
	}
	if err := execute(ctx, r.server.URL(), strings.Split(create, ";")...); err != nil {
		return nil, err
	}
	r.url = database(r.server)
	r.through.Store(&r.url)
	if _, err := awa.Migrate(ctx, r.url); err != nil {
		return nil, err
	}
	if err := execute(ctx, r.url, strings.Split(tables, ";\n")...); err != nil {
		return nil, err
	}
	if f.prepare != nil {
		if err := f.prepare(ctx, r); err != nil {
			return nil, err
		}
	}
	for range 2 {
		if err := r.startWorker(ctx); err != nil {
			return nil, err
		}
	}
	r.stopLoad = r.startLoad(ctx)
	return r, nil
}

// database is the URL of the load's database.
func database(s *pgserver.Server) string { return strings.Replace(s.URL(), "/postgres?", "/chaos?", 1) }

func (r *rig) clientURL() string { return *r.through.Load() }

// close ends all that was started, the last first.
func (r *rig) close() {
	for _, w := range r.workers {
		w.kill()
	}
	for _, c := range slices.Backward(r.cleanups) {
		c()
	}
}

// timeout is what a client sets for its next transaction; none as a rule.
func (r *rig) timeout(own *rand.Rand) string {
	if !r.timeouts.Load() || own.IntN(3) > 0 {
		return ""
	}
	return fmt.Sprint(1 + own.IntN(20)) // ms
}

// count counts an error that a client got.
func (r *rig) count(err error) {
	what := "connection lost, or refused"
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		what = pg.Code
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[what]++
}

// connect opens a session beside the load. The server may be on its way up.
func (r *rig) connect(ctx context.Context) (*pgx.Conn, error) {
	var conn *pgx.Conn
	var err error
	for began := time.Now(); time.Since(began) < time.Minute && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if conn, err = pgx.Connect(ctx, r.url); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// execute runs statements in a session of its own.
func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// recovered waits until an enqueue and a completion were acknowledged that began after a time.
func (r *rig) recovered(ctx context.Context, since time.Time) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		r.book.mu.Lock()
		ok := r.book.lastEnqueue.After(since) && r.book.lastEnd.After(since)
		r.book.mu.Unlock()
		switch {
		case ok:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(began) > 2*time.Minute:
			return errors.New("the load has not recovered within two minutes")
		}
	}
}

// drain ends the load, when all that was enqueued has ended.
func (r *rig) drain(ctx context.Context) error {
	r.stopProducing()
	defer r.stopLoad()
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var open int64
		var counts string
		err := conn.QueryRow(ctx, `
			select coalesce(sum(available + scheduled + retryable + running + waiting_external), 0),
			       coalesce(string_agg(c::text, ' '), '')
			  from awa.queue_counts() c`).Scan(&open, &counts)
		if err != nil || open == 0 {
			return err
		}
		if time.Since(began) > 2*time.Minute {
			return fmt.Errorf("after two minutes there are open jobs: %s", counts)
		}
	}
}
