//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/awa-pg/awa/internal/pgserver"
)

const faultTime = 5 * time.Second // of those that last

func otherFaults() []fault {
	return []fault{
		{name: "workers-killed", what: "a worker process killed (kill -9)", times: 20, strike: killWorker},
		{name: "workers-stopped", what: "a worker process stopped (SIGSTOP) past its lease, and continued", times: 5,
			strike: stopWorker},
		{name: "sessions-terminated", what: "random `pg_terminate_backend`, 20 a second for 5 s", times: 5,
			strike: bother("select pg_terminate_backend(pid)")},
		{name: "statements-cancelled", what: "random `pg_cancel_backend`, 20 a second for 5 s", times: 5,
			strike: bother("select pg_cancel_backend(pid)")},
		{name: "statement-timeouts", what: "a `statement_timeout` of 1 to 20 ms in a third of all transactions, for 5 s",
			times: 5, strike: func(ctx context.Context, r *rig, _ int) (time.Time, error) {
				r.timeouts.Store(true)
				sleep(ctx, faultTime)
				r.timeouts.Store(false)
				return time.Now(), nil
			}},
		{name: "connections-exhausted", what: "all sessions ended, and all connections taken by others for 5 s", times: 5,
			strike: takeConnections},
		{name: "pooler-restarted", what: "pgbouncer, in front of 10 connections, killed and started again", times: 20,
			prepare: throughBouncer, strike: restartBouncer},
		{name: "disk-full", what: "the disk of the tables full for 5 s", times: 5, needs: needsMount, place: onSmallDisk,
			strike: fillDisk},
		{name: "locks-exhausted", what: "the lock table full for 5 s", times: 5,
			settings: map[string]string{"max_locks_per_transaction": "10"}, strike: fillLocks},
		{name: "notifications-full", what: "the notification queue full for 5 s", times: 5,
			settings: map[string]string{"max_notify_queue_pages": "64"}, needs: needsSmallQueue, strike: fillNotifications},
	}
}

// killWorker kills the process that has waited longest, and starts another one. The load has recovered when what it
// ran has ended.
func killWorker(ctx context.Context, r *rig, _ int) (time.Time, error) {
	began := time.Now()
	w := r.workers[0]
	r.workers = r.workers[1:]
	left := w.kill()
	if err := r.startWorker(ctx); err != nil {
		return began, err
	}
	return began, r.awaitEnd(ctx, left)
}

func stopWorker(ctx context.Context, r *rig, _ int) (time.Time, error) {
	began := time.Now()
	w := r.workers[0]
	r.workers = append(r.workers[1:], w)
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return began, err
	}
	left := w.running()
	sleep(ctx, 2*workerLease)
	if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return began, err
	}
	began = time.Now()
	return began, r.awaitEnd(ctx, left) // those that it was about to commit; the other worker has run the rest
}

// awaitEnd waits until jobs have completed.
func (r *rig) awaitEnd(ctx context.Context, claims []claim) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var ids []int64
	for _, c := range claims {
		ids = append(ids, c.id)
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		var open int
		if err := conn.QueryRow(ctx, `
			select count(*) from unnest($1::bigint[]) x(id), lateral awa.job(x.id) j where j.state <> 'completed'`,
			ids).Scan(&open); err != nil || open == 0 {
			return err
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d jobs of the worker have not ended after a minute", open)
		}
	}
}

// bother does something to a random session of the load, again and again.
func bother(do string) func(context.Context, *rig, int) (time.Time, error) {
	return func(ctx context.Context, r *rig, _ int) (time.Time, error) {
		conn, err := r.connect(ctx)
		if err != nil {
			return time.Time{}, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for began := time.Now(); time.Since(began) < faultTime; sleep(ctx, 50*time.Millisecond) {
			if _, err := conn.Exec(ctx, do+`
				  from (select pid from pg_stat_activity where application_name = $1 order by random() limit 1) a`,
				loadName); err != nil {
				return time.Time{}, err
			}
		}
		return time.Now(), nil
	}
}

func takeConnections(ctx context.Context, r *rig, _ int) (time.Time, error) {
	admin, err := r.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	var taken []*pgx.Conn
	for began := time.Now(); time.Since(began) < faultTime; sleep(ctx, 10*time.Millisecond) {
		if time.Since(began) < faultTime/2 { // the sessions that come back
			if _, err := admin.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
				loadName); err != nil {
				return time.Time{}, err
			}
		}
		for {
			conn, err := pgx.Connect(ctx, r.server.URL())
			if err != nil {
				break
			}
			taken = append(taken, conn)
		}
	}
	for _, conn := range taken {
		conn.Close(ctx)
	}
	return time.Now(), nil
}

func throughBouncer(_ context.Context, r *rig) error {
	bouncer, err := pgserver.StartBouncer(r.url, 10)
	if err != nil {
		return err
	}
	r.bouncer = bouncer
	r.cleanups = append(r.cleanups, func() { bouncer.Close() })
	to, err := bouncer.URL(r.url, pgx.QueryExecModeExec)
	r.through.Store(&to)
	return err
}

func restartBouncer(_ context.Context, r *rig, _ int) (time.Time, error) {
	began := time.Now()
	r.bouncer.Stop()
	return began, r.bouncer.Start()
}

func needsMount() string {
	dir, err := os.MkdirTemp("", "chaos")
	if err == nil {
		defer os.Remove(dir)
		err = exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir).Run()
	}
	if err != nil {
		return "a small file system can't be mounted: " + err.Error()
	}
	exec.Command("umount", dir).Run()
	return ""
}

// onSmallDisk makes a file system of 512 MB for the tables; the log of the server is elsewhere, as a full disk there
// ends PostgreSQL.
func onSmallDisk(_ context.Context, r *rig) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "awa-disk")
	if err != nil {
		return "", err
	}
	owner, err := os.Stat(r.server.Dir())
	if err != nil {
		return "", err
	}
	stat := owner.Sys().(*syscall.Stat_t)
	options := fmt.Sprintf("size=512m,mode=0700,uid=%d,gid=%d", stat.Uid, stat.Gid)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mount: %w: %s", err, out)
	}
	r.disk = dir
	r.cleanups = append([]func(){func() { // the last of all
		exec.Command("umount", dir).Run()
		os.Remove(dir)
	}}, r.cleanups...)
	return "create tablespace small location '" + dir + "'; create database chaos tablespace small", nil
}

func fillDisk(ctx context.Context, r *rig, _ int) (time.Time, error) {
	name := filepath.Join(r.disk, "ballast")
	defer os.Remove(name)
	file, err := os.Create(name)
	if err != nil {
		return time.Time{}, err
	}
	defer file.Close()
	block := make([]byte, 8192)
	for began := time.Now(); time.Since(began) < faultTime; { // also what was freed meanwhile
		if _, err := file.Write(block); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				return time.Time{}, err
			}
			sleep(ctx, 10*time.Millisecond)
		}
	}
	if err := os.Truncate(name, 0); err != nil {
		return time.Time{}, err
	}
	return time.Now(), nil
}

func fillLocks(ctx context.Context, r *rig, _ int) (time.Time, error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for began, n := time.Now(), 0; time.Since(began) < faultTime; n++ {
		_, err := conn.Exec(ctx, "select pg_advisory_lock(4711, $1)", n)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "53200" {
			sleep(ctx, time.Millisecond)
		} else if err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

func needsSmallQueue() string {
	binaries, err := pgserver.FindBinaries(context.Background(), "")
	if err != nil {
		return err.Error()
	}
	if major, _, _ := strings.Cut(binaries.Version, "."); major < "17" {
		return "the size of the queue is 8 GB before PostgreSQL 17"
	}
	return ""
}

func fillNotifications(ctx context.Context, r *rig, _ int) (time.Time, error) {
	listener, err := r.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer listener.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{"listen x", "begin", "select 1"} {
		if _, err := listener.Exec(ctx, sql); err != nil {
			return time.Time{}, err
		}
	}
	filler, err := r.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer filler.Close(context.WithoutCancel(ctx))
	for began, n := time.Now(), 0; time.Since(began) < faultTime; n++ {
		_, err := filler.Exec(ctx, "select pg_notify('x', repeat('x', 7000) || $1::text)", fmt.Sprint(n))
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "54000" {
			sleep(ctx, time.Millisecond)
		} else if err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}
