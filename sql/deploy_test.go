package sql_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/sql"
)

const nextRelease = "0.2.0"

// madeUpNext are the edits of a made-up next version: a migration that checks, widens and adds tables, and functions of
// all programs with another argument, of another body, and with other private functions below them.
var madeUpNext = []edit{
	{"migrations/002_made_up.sql", "", migration2.new +
		"alter table awa.lease_claims add column made_up int;\nalter table awa.workers add column made_up int;\n" +
		"alter table awa.queues add column made_up int not null default 3;\n" +
		"create index made_up_index on awa.deferred_jobs (job_id, run_at);\n"},
	{"functions/claim/claim.sql", "v_holds_queue is true)::awa.lease_claims",
		"v_holds_queue is true, 1)::awa.lease_claims"},
	{"functions/claim/turns.sql", "claim.holds_queue)::awa.lease_claims", "claim.holds_queue, 2)::awa.lease_claims"},
	{"functions/claim/limited.sql", "is not null)::awa.lease_claims", "is not null, 3)::awa.lease_claims"},
	{"functions/claim/claim.sql", "  durable boolean default null\n",
		"  durable boolean default null, made_up int default null\n"},
	{"functions/enqueue/enqueue_many.sql", "  expires_at   timestamptz default null\n) returns setof bigint",
		"  expires_at   timestamptz default null,\n  made_up      int default null\n) returns setof bigint"},
	{"functions/close/complete_many.sql", "  outputs jsonb[] default null\n",
		"  outputs jsonb[] default null, made_up int default null\n"},
	{"functions/close/complete.sql", "output jsonb default null) returns void",
		"output jsonb default null, made_up int default null) returns void"},
	{"functions/worker/heartbeat.sql", "awa.heartbeat(worker_id bigint)",
		"awa.heartbeat(worker_id bigint, made_up int default null)"},
	{"functions/maintain/run_maintenance.sql", "awa.run_passes(if_due boolean default true)",
		"awa.run_passes(if_due boolean default true, made_up int default null)"},
	{"functions/engine/queues.sql", "awa._queue_id(queue text)", "awa._queue_id(queue text, made_up int default 0)"},
	{"functions/engine/jobs.sql", "create or replace view awa._done as\n",
		"create or replace view awa._done as -- changed\n"},
	newBody,
}

// A pod is a program of some release, as a deploy starts and stops it: a worker with maintenance, producers, and an
// operator. What it does is in tables beside those of Awa.
type pod struct {
	release string
	pool    *pgxpool.Pool
	client  *driver.Client
	failed  func(what string, err error) // gets errors that no user should see
}

const podTables = `
	create table public.sent (job_id bigint primary key, release text not null, cancelled boolean not null default false);
	create table public.runs (job_id bigint not null, release text not null);
	create table public.effects (job_id bigint primary key);
	create index on public.runs (job_id);
	select awa.configure_queue('pods', '{"backoff_base": "10 milliseconds"}')`

type podJob struct{}

func (podJob) Kind() string { return "pod" }

// handle runs a job: its id says how it ends.
func (p *pod) handle(ctx context.Context, job *driver.Job[podJob]) error {
	var earlier int
	if err := p.pool.QueryRow(ctx, `
		with run as (insert into public.runs values ($1, $2))
		select count(*) from public.runs r where r.job_id = $1`, job.ID, p.release).Scan(&earlier); err != nil {
		return err
	}
	switch job.ID % 8 {
	case 1:
		return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into public.effects values ($1)", job.ID); err != nil {
				return err
			}
			return job.CompleteTx(ctx, tx)
		})
	case 2:
		if job.Attempt == 1 {
			return errors.New("once")
		}
	case 3:
		if earlier == 0 {
			return driver.Snooze(10 * time.Millisecond)
		}
	case 4:
		return driver.Discard(errors.New("never"))
	case 5:
		return driver.Cancel("not this one")
	case 6:
		job.SetOutput(job.ID)
	case 7:
		return job.SetProgress(ctx, 1)
	}
	return nil
}

// podRuns and podStates say what is to become of the jobs of pods, as SQL.
const (
	podRuns  = "case when s.cancelled then 0 when s.job_id % 8 in (2, 3) then 2 else 1 end"
	podState = "case when s.cancelled or s.job_id % 8 = 5 then 'cancelled' when s.job_id % 8 = 4 then 'failed' " +
		"else 'completed' end"
)

// work works until the context ends.
func (p *pod) work(ctx context.Context) error {
	handlers := driver.NewHandlers()
	driver.Handle(handlers, p.handle)
	w, err := driver.NewWorker(p.pool, handlers, driver.WorkerConfig{
		Name: p.release, Queues: []driver.QueueConfig{{Name: "pods"}}, Slots: 10,
		Logger: slog.New(slog.NewTextHandler(warnings{p}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// isOfAnUpgrade says whether an error is one that a call may have which an upgrade overtakes, and the next has not:
// see docs/upgrading.md.
func isOfAnUpgrade(text string) bool {
	return strings.Contains(text, "cannot cast type record to awa.lease_claims (SQLSTATE 42846)") ||
		strings.Contains(text, "cache lookup failed for function") && strings.Contains(text, "(SQLSTATE XX000)")
}

// warnings takes what a worker logs.
type warnings struct{ p *pod }

func (w warnings) Write(line []byte) (int, error) {
	// What it does may wait for an upgrade for longer than it lets it, on a busy machine, and is tried again.
	if text := string(line); !isOfAnUpgrade(text) && !strings.Contains(text, "due to lock timeout (SQLSTATE 55P03)") {
		w.p.failed("the log", errors.New(strings.TrimSpace(string(line))))
	}
	return len(line), nil
}

// produce enqueues in each way, and operates on what it has enqueued, until the context ends. A call that has begun
// comes to its end.
func (p *pod) produce(ctx context.Context) {
	call := context.WithoutCancel(ctx)
	for n := rand.IntN(100); ctx.Err() == nil; n++ {
		what, err := p.enqueues(call, n)
		if err != nil && !errors.Is(err, errRollback) && !isOfAnUpgrade(err.Error()) {
			p.failed(what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var errRollback = errors.New("rolled back")

// enqueues enqueues some jobs in a transaction, one of eight of which rolls back.
func (p *pod) enqueues(ctx context.Context, n int) (what string, err error) {
	what = [...]string{"one", "rollback", "unique", "later", "group", "cancel", "many", "next"}[n%8]
	opts := driver.EnqueueOptions{Queue: "pods"}
	ids := []int64{0}
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) (err error) {
		switch what {
		case "unique":
			key := driver.UniqueOptions{Key: fmt.Sprint(p.release, rand.Int64())}
			ids[0], _, err = p.client.EnqueueUniqueTx(ctx, tx, podJob{}, key, opts)
		case "many":
			ids, err = p.client.EnqueueManyTx(ctx, tx, slices.Repeat([]driver.Args{podJob{}}, 5), opts)
		case "next": // what programs of the next version alone can do
			if p.release != nextRelease {
				ids[0], err = p.client.EnqueueTx(ctx, tx, podJob{}, opts)
				break
			}
			rows, _ := tx.Query(ctx, "select awa.enqueue_many('pods', 'pod', '{\"{}\",\"{}\"}', made_up => 1)")
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		case "later":
			opts.RunAt = time.Now().Add(50 * time.Millisecond)
			ids[0], err = p.client.EnqueueTx(ctx, tx, podJob{}, opts)
		case "group":
			opts.GroupKey = "g"
			ids[0], err = p.client.EnqueueTx(ctx, tx, podJob{}, opts)
		case "cancel":
			opts.RunAt = time.Now().Add(time.Hour)
			if ids[0], err = p.client.EnqueueTx(ctx, tx, podJob{}, opts); err == nil {
				_, err = p.client.CancelTx(ctx, tx, ids[0], "no")
			}
		default:
			ids[0], err = p.client.EnqueueTx(ctx, tx, podJob{}, opts)
		}
		if err == nil {
			_, err = tx.Exec(ctx, "insert into public.sent select j, $2, $3 from unnest($1::bigint[]) j", ids, p.release,
				what == "cancel")
		}
		if err == nil && what == "rollback" {
			err = errRollback
		}
		return err
	})
	if err == nil {
		_, err = p.client.Job(ctx, ids[0])
	}
	if err == nil && n%16 == 0 {
		_, err = p.client.AllQueueCounts(ctx)
	}
	return what, err
}

// run works and produces until the context ends.
func (p *pod) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.client = driver.NewClient(p.pool)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() { p.produce(ctx) })
	}
	err := p.work(ctx)
	stop()
	group.Wait()
	return err
}

// podPool returns a pool for a pod.
func podPool(url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 20
	return pgxpool.NewWithConfig(context.Background(), cfg)
}

// Variables of a process that is a pod, not a run of the tests: see startPod.
const podURL, podRelease = "AWA_TEST_POD_URL", "AWA_TEST_POD_RELEASE"

// podMain is the program of such a process. As programs of users do, it migrates first; one of the next version, which
// has no sources of its own, leaves that to the test. It writes what it has migrated, then all errors, and ends when
// its input ends.
func podMain() error {
	p := &pod{release: os.Getenv(podRelease), failed: func(what string, err error) { fmt.Printf("%s: %v\n", what, err) }}
	if p.release == sql.Version {
		result, err := driver.Migrate(context.Background(), os.Getenv(podURL))
		if err != nil {
			return err
		}
		fmt.Printf("migrated: functions %s, newer %t, changed %t\n", result.Functions, result.Newer, result.Changed)
	} else {
		sql.Version = p.release
		fmt.Println("migrated: not")
	}
	var err error
	if p.pool, err = podPool(os.Getenv(podURL)); err != nil {
		return err
	}
	defer p.pool.Close()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return p.run(ctx)
}

// A process is a running pod.
type process struct {
	*exec.Cmd
	migrated string
	stdin    io.Closer
	said     chan []string // all that it wrote later
}

// startPod starts a pod of a release, as a process.
func (d database) startPod(release string) *process {
	d.t.Helper()
	self, err := os.Executable()
	require.NoError(d.t, err)
	p := &process{Cmd: exec.Command(self), said: make(chan []string, 1)}
	p.Env = append(os.Environ(), podURL+"="+d.url, podRelease+"="+release)
	p.stdin, err = p.StdinPipe()
	require.NoError(d.t, err)
	out, err := p.StdoutPipe()
	require.NoError(d.t, err)
	p.Stderr = p.Stdout
	require.NoError(d.t, p.Start())
	d.t.Cleanup(func() { p.Process.Kill() }) // one that was stopped is not there any more
	scanner := bufio.NewScanner(out)
	if scanner.Scan() {
		p.migrated = scanner.Text()
	}
	go func() {
		var lines []string
		for scanner.Scan() {
			lines = append(lines, scanner.Text())
		}
		p.said <- lines
	}()
	return p
}

// stop ends the pod as a deploy does, and returns what it has written.
func (p *process) stop() (said []string, err error) {
	p.stdin.Close()
	said = <-p.said
	return said, p.Wait()
}

// runsOn waits until jobs have run, by pods of each of these releases.
func (s *session) runsOn(releases ...string) {
	s.Helper()
	const runs = "select count(*) from public.runs where release = $1"
	for _, release := range releases {
		from := one[int64](s, runs, release)
		require.Eventually(s, func() bool { return s.Failed() || one[int64](s, runs, release) >= from+20 }, patience,
			10*time.Millisecond, "nothing runs by pods of release %s", release)
		require.False(s, s.Failed())
	}
}

// podsAreDone waits until all jobs of pods have ended, and says that each ended as it should, has run as often as it
// should, and had its effect once, and that there are no others.
func (s *session) podsAreDone() {
	s.Helper()
	require.Eventually(s, func() bool {
		return one[bool](s, "select c.available + c.running + c.scheduled + c.retryable + c.waiting_external = 0 "+
			"from awa.queue_counts c where c.queue = 'pods'")
	}, patience, 10*time.Millisecond, "jobs of pods have not ended")
	s.podsHold()
}

func (s *session) podsHold() {
	s.Helper()
	require.Empty(s, list[string](s, `
		select format('job %s of %s is %s instead of %s, has run %s times instead of %s, with %s effects', s.job_id,
		         s.release, coalesce(j.state, 'lost'), `+podState+`, r.runs, `+podRuns+`, e.effects)
		  from public.sent s
		  left join awa.jobs j on j.id = s.job_id
		 cross join lateral (select count(*) as runs from public.runs r where r.job_id = s.job_id) r
		 cross join lateral (select count(*) as effects from public.effects e where e.job_id = s.job_id) e
		 where j.state is distinct from `+podState+` or r.runs <> `+podRuns+`
		    or e.effects <> case when s.job_id % 8 = 1 and not s.cancelled then 1 else 0 end`))
	require.Empty(s, list[int64](s, "select j.id from awa.jobs j where j.queue = 'pods' and not exists "+
		"(select from public.sent s where s.job_id = j.id)"), "jobs that nobody has enqueued")
	s.Logf("%d jobs, %d runs", one[int64](s, "select count(*) from public.sent"),
		one[int64](s, "select count(*) from public.runs"))
}

// An upgrade by the next version beside a program of this one that works, enqueues and operates, with its maintenance,
// and beside jobs of every state: each job of the program has its end, once, and no call fails but one that is
// overtaken; other jobs stay as they were, and answers for attempts from before are taken once.
func TestUpgradeBesideWorkers(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.live(d.session())
	s.exec(podTables)
	// A busy machine may take longer than the lease of attempts that nobody works on.
	s.exec("update awa.lease_claims set lease_until = lease_until + interval '1 hour'")
	s.exec("update awa.leases set lease_until = lease_until + interval '1 hour'")
	const others = "select (to_jsonb(j) - 'heartbeat_at')::text from awa.jobs j where queue <> 'pods' order by id"
	before, open := list[string](s, others), s.running()
	require.NotEmpty(t, open)

	pool, err := podPool(d.url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p := &pod{release: sql.Version, pool: pool, failed: func(what string, err error) { t.Errorf("%s: %v", what, err) }}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	s.runsOn(sql.Version)

	result, err := d.installs(version(t, nextRelease, madeUpNext...), install.Options{Wait: patience})
	require.NoError(t, err)
	require.Equal(t, []any{int32(1), int32(2), nextRelease, true},
		[]any{result.Before, result.After, result.Functions, result.Changed})
	s.runsOn(sql.Version)
	sameJobs(t, before, list[string](s, others))
	for _, j := range open {
		s.completes([]claimed{j})
		s.refuses(j)
	}
	stop()
	require.NoError(t, <-done)
	// Workers stop at once; the rest is for another one.
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	go func() { done <- p.work(ctx) }()
	s.podsAreDone()
	stop()
	require.NoError(t, <-done)
	require.Empty(t, list[string](s, "select to_jsonb(h)::text from awa.health() h where level = 'critical'"))
	s.balanced()
	s.worksOff()
	s.balanced()
}

// Programs of this version and the next one take turns on one database, as in a deploy that is undone, and done again:
// one of the next is refused while the database is of this one; then each release works, alone and beside the other. A
// program of this version that migrates when it starts changes nothing. No call fails but one that is overtaken; each
// job has its end, and runs as often as it should.
func TestDeployBackAndForth(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(podTables)
	start := func(release, migrated string) *process {
		t.Helper()
		p := d.startPod(release)
		require.Equal(t, "migrated: "+migrated, p.migrated)
		return p
	}
	stop := func(p *process) {
		t.Helper()
		said, err := p.stop()
		require.NoError(t, err)
		require.Empty(t, said)
	}
	asItIs := "functions " + sql.Version + ", newer false, changed false"
	newer := "functions " + nextRelease + ", newer true, changed false"
	a, b := start(sql.Version, asItIs), start(sql.Version, asItIs)
	s.runsOn(sql.Version)

	early := start(nextRelease, "not")
	said := <-early.said
	require.Error(t, early.Wait())
	require.Contains(t, strings.Join(said, "\n"), driver.ErrDatabaseTooOld.Error())
	s.runsOn(sql.Version)

	_, err := d.installs(version(t, nextRelease, madeUpNext...), install.Options{Wait: patience})
	require.NoError(t, err)
	s.runsOn(sql.Version)
	c := start(nextRelease, "not")
	s.runsOn(sql.Version, nextRelease)
	stop(a)
	s.runsOn(sql.Version, nextRelease)
	a = start(sql.Version, newer)
	stop(c)
	s.runsOn(sql.Version)
	c = start(nextRelease, "not")
	stop(a)
	stop(b)
	s.runsOn(nextRelease)
	require.Equal(t, nextRelease, one[string](s, "select awa.version()"))
	require.Equal(t, int32(2), one[int32](s, "select version from awa.schema_version"))
	stop(c)

	pool, err := podPool(d.url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	last := &pod{release: sql.Version, pool: pool, failed: func(what string, err error) { t.Errorf("%s: %v", what, err) }}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	done := make(chan error, 1)
	go func() { done <- last.work(ctx) }()
	s.podsAreDone()
	end()
	require.NoError(t, <-done)
	s.balanced()
}
