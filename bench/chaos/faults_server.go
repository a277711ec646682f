//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// fault is something that goes wrong beside the load.
type fault struct {
	name, what string
	times      int               // by default
	settings   map[string]string // of the server
	isFresh    bool              // each time has a server of its own
	needs      func() string     // why it can't be had here; "" where it can
	// place returns statements that create the database chaos, where a plain one will not do.
	place   func(context.Context, *rig) (string, error)
	prepare func(context.Context, *rig) error // before the load begins
	// strike lets it happen, the nth time, and returns when it is over; and from when on the load should have recovered.
	strike func(ctx context.Context, r *rig, nth int) (time.Time, error)
}

func serverFaults() []fault {
	return []fault{
		{name: "server-killed", what: "all processes of the server killed at once (kill -9)", times: 50, strike: killServer},
		{name: "backend-killed", what: "one session's process killed (kill -9): the server ends all and recovers", times: 10,
			strike: killBackend},
		{name: "maintenance-killed", what: "the session of each pass of maintenance killed (kill -9), in its middle and " +
			"before its commit", times: 26, strike: atAPass(func(_ context.Context, r *rig, pid uint32) error {
			err := syscall.Kill(int(pid), syscall.SIGKILL)
			r.awaitCrash(pid)
			return err
		})},
		{name: "maintenance-terminated", what: "the same, by `pg_terminate_backend`", times: 26,
			strike: atAPass(func(ctx context.Context, r *rig, pid uint32) error {
				return execute(ctx, r.url, fmt.Sprintf("select pg_terminate_backend(%d)", pid))
			})},
		{name: "failover-synchronous", what: "the primary killed, a synchronous stand-by promoted", times: 3, isFresh: true,
			prepare: func(ctx context.Context, r *rig) error { return r.follow(ctx, true) }, strike: failOver},
		{name: "failover-asynchronous", what: "the same, an asynchronous one that is 0.3 s behind", times: 3, isFresh: true,
			prepare: func(ctx context.Context, r *rig) error { return r.follow(ctx, false) }, strike: failOver},
	}
}

func killServer(ctx context.Context, r *rig, _ int) (time.Time, error) {
	began := time.Now()
	if err := r.server.Kill(); err != nil {
		return began, err
	}
	err := r.server.Resume(ctx)
	r.book.isUp()
	return began, err
}

func killBackend(ctx context.Context, r *rig, _ int) (time.Time, error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var pid uint32
	if err := conn.QueryRow(ctx, `
		select pid from pg_stat_activity where application_name = $1 and state = 'active' order by random() limit 1`,
		loadName).Scan(&pid); err != nil {
		return time.Time{}, err
	}
	began := time.Now()
	err = syscall.Kill(int(pid), syscall.SIGKILL)
	r.awaitCrash(pid)
	return began, err
}

// awaitCrash waits until the server has noticed that a process was killed, and is up again.
func (r *rig) awaitCrash(pid uint32) {
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		var isThere bool
		conn, err := pgx.Connect(context.Background(), r.url)
		if err != nil {
			continue
		}
		err = conn.QueryRow(context.Background(), "select exists (select from pg_stat_activity where pid = $1)",
			int32(pid)).Scan(&isThere)
		conn.Close(context.Background())
		if err == nil && !isThere {
			break
		}
	}
	r.book.isUp()
}

// atAPass lets something happen to a session that runs one pass of maintenance: the passes in turn, first at a random
// moment of the pass, then when it has written all and not committed.
func atAPass(
	hit func(ctx context.Context, r *rig, pid uint32) error,
) func(context.Context, *rig, int) (time.Time, error) {
	return func(ctx context.Context, r *rig, nth int) (time.Time, error) {
		conn, err := r.connect(ctx)
		if err != nil {
			return time.Time{}, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		conn.Exec(ctx, "set application_name = 'chaos pass'") // an error shows below
		rows, _ := conn.Query(ctx, "select pass from awa.passes order by position")
		passes, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return time.Time{}, err
		}
		pass := passes[nth/2%len(passes)]
		// Until it does something: rotate, for example, has to do only now and then.
		run := func(ctx context.Context) error {
			_, err := conn.Exec(ctx, "select awa.run_pass($1, if_due => false)", pass)
			return err
		}
		pid := conn.PgConn().PID()
		if _, err := conn.Exec(ctx, "begin"); err != nil {
			return time.Time{}, err
		}
		var began time.Time
		if nth%2 == 1 {
			if err := run(ctx); err != nil {
				return time.Time{}, fmt.Errorf("%s: %w", pass, err)
			}
			began = time.Now()
			return began, hit(ctx, r, pid)
		}
		measured := time.Now()
		if err := run(ctx); err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", pass, err)
		}
		took := time.Since(measured)
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			return time.Time{}, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			run(ctx) // until it is killed
		}()
		time.Sleep(time.Duration(rand.Float64() * float64(took)))
		began = time.Now()
		err = hit(ctx, r, pid)
		<-done
		return began, err
	}
}

// follow starts a stand-by, and sends clients to whichever server can be written to.
func (r *rig) follow(ctx context.Context, synchronous bool) error {
	standby, err := r.server.Standby(ctx)
	if err != nil {
		return err
	}
	r.cleanups = append(r.cleanups, func() { standby.Stop() })
	r.standby, r.isSynchronous = standby, synchronous
	if synchronous {
		if err := execute(ctx, r.server.URL(), "alter system set synchronous_standby_names = '*'",
			"select pg_reload_conf()"); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, r.server.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for follows, began := false, time.Now(); !follows; time.Sleep(10 * time.Millisecond) {
		if err := conn.QueryRow(ctx, "select exists (select from pg_stat_replication where state = 'streaming' and "+
			"sync_state = case when $1 then 'sync' else 'async' end)", synchronous).Scan(&follows); err != nil {
			return err
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("the stand-by does not follow")
		}
	}
	both := "postgres:///chaos?" + url.Values{
		"host": {r.server.Dir() + "," + standby.Dir()}, "port": {r.server.Port() + "," + standby.Port()},
		"user": {r.server.User()}, "target_session_attrs": {"read-write"},
	}.Encode()
	r.through.Store(&both)
	reading, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.readStandby(reading)
	}()
	r.cleanups = append(r.cleanups, func() { stop(); <-done })
	return nil
}

// readStandby reads all jobs on the stand-by again and again, while segments turn, and until after its promotion: each
// job is there once. PostgreSQL may cancel a reader that is in the way of the replay.
func (r *rig) readStandby(ctx context.Context) {
	var conn *pgx.Conn
	for ; ctx.Err() == nil; sleep(ctx, 10*time.Millisecond) {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, database(r.standby)); err != nil {
				continue
			}
		}
		var jobs, different int64
		err := conn.QueryRow(ctx, "select count(*), count(distinct id) from awa.jobs").Scan(&jobs, &different)
		var pg *pgconn.PgError
		switch {
		case err == nil && jobs != different:
			r.book.mu.Lock()
			r.book.problem("a reader of the stand-by gets %d jobs, of which %d differ", jobs, different)
			r.book.mu.Unlock()
		case err == nil:
			r.standbyReads.Add(1)
		case errors.As(err, &pg) && pg.Code != "40001" && pg.Code != "57P01" && pg.Code != "57P03":
			r.book.mu.Lock()
			r.book.problem("a reader of the stand-by: %v", err)
			r.book.mu.Unlock()
		}
	}
	if conn != nil {
		conn.Close(context.WithoutCancel(ctx))
	}
}

func failOver(ctx context.Context, r *rig, _ int) (time.Time, error) {
	for began := time.Now(); r.standbyReads.Load() == 0; sleep(ctx, 10*time.Millisecond) {
		if time.Since(began) > time.Minute {
			return began, errors.New("nobody has read on the stand-by within a minute")
		}
	}
	if !r.isSynchronous { // it is behind
		if err := execute(ctx, r.standby.URL(), "alter system set primary_conninfo = ''",
			"select pg_reload_conf()"); err != nil {
			return time.Time{}, err
		}
		sleep(ctx, 300*time.Millisecond)
	}
	began := time.Now()
	if err := r.server.Kill(); err != nil {
		return began, err
	}
	// What the load was told of before is compared with the new primary before the load goes on.
	r.book.gate.Lock()
	defer r.book.gate.Unlock()
	r.url = database(r.standby)
	if err := execute(ctx, r.standby.URL(), "select pg_promote()"); err != nil {
		return began, err
	}
	r.book.isUp()
	if r.isSynchronous {
		return began, nil
	}
	conn, err := r.connect(ctx)
	if err != nil {
		return began, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return began, r.book.reconcile(ctx, conn)
}

// reconcile takes out of the book what the server does not know: tables of the load itself say which transactions the
// stand-by had got.
func (b *book) reconcile(ctx context.Context, conn *pgx.Conn) error {
	set := func(sql string) (map[int64]bool, error) {
		rows, _ := conn.Query(ctx, sql)
		there := map[int64]bool{}
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error { there[n] = true; return nil })
		return there, err
	}
	sent, err := set("select n from chaos.sent, generate_series(first, first + jobs - 1) n")
	if err != nil {
		return err
	}
	ended, err := set("select n from chaos.effects union all select unnest(numbers) from chaos.answered")
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.jobs {
		n, j := int64(i)+1, &b.jobs[i]
		j.durable = false
		if !sent[n] && (j.enqueued == held || j.enqueued == learnt) {
			b.gone["enqueued"]++
			j.enqueued = gone
		} else if !ended[n] && j.ended >= learnt {
			b.gone["completed"]++
			j.ended = gone
		}
	}
	// It runs again there, and its completion counts from then on.
	b.byWorker = slices.DeleteFunc(b.byWorker, func(n int64) bool { return !ended[n] })
	return nil
}
