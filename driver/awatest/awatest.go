// Package awatest helps to test programs that use Awa: it gives each test a database of its own, says what was
// enqueued, runs one job in the test's own goroutine, and lets time pass for jobs that wait for it.
//
// The databases are in the server that the environment variable AWA_TEST_DATABASE_URL names, whose role must be allowed
// to create databases. When it is not set they are in a private server, which the test binary starts when a test first
// needs it: for that PostgreSQL 15 or newer has to be installed (AWA_PG_BINDIR names the directory of its programs, if
// they are in none of the usual ones), and [Main] to be called. Databases are clones of a template (awa_template_...),
// which stays on a server that stays.
package awatest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/rawjson"
	"github.com/awa-pg/awa/internal/testdb"
)

// Main runs the tests of a package, stops the private server if there is one, and ends the process:
//
//	func TestMain(m *testing.M) { awatest.Main(m) }
//
// Without it the server ends with the process on Linux, and leaves its directory behind.
func Main(m *testing.M) { testdb.Main(m) }

// New returns a pool on a new database with Awa installed. When the test ends the pool is closed, and the database is
// dropped.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return testdb.New(t)
}

// URL returns the URL of a new database with Awa installed. When the test ends the database is dropped.
func URL(t testing.TB) string {
	t.Helper()
	return testdb.URL(t)
}

// Enqueued is a job that waits to be run, as [RequireEnqueued] returns it.
type Enqueued[T driver.Args] struct {
	ID          int64
	Queue       string
	Args        T
	State       string // available, scheduled or retryable
	Priority    int    // 1 (first) to 4 (last)
	Attempt     int    // attempts so far
	MaxAttempts int
	RunAt       time.Time // since when it may run, or from when on
	Tags        []string
	Metadata    json.RawMessage // nil for none
	GroupKey    string          // "" for a job without a group
	ExpiresAt   *time.Time      // by when it has to begin; nil for never
}

// RequireEnqueued ends the test unless exactly one job of T's kind waits to be run, now or later, for which where, if
// given, returns true. It returns that job. With a transaction as db it sees what was enqueued in that, too.
func RequireEnqueued[T driver.Args](t testing.TB, db driver.DBTX, where ...func(Enqueued[T]) bool) Enqueued[T] {
	t.Helper()
	jobs := enqueued(t, db, where)
	if len(jobs) != 1 {
		t.Fatalf("awatest: %d jobs of kind %q wait, not one:%s", len(jobs), kind[T](), list(jobs))
	}
	return jobs[0]
}

// RequireNotEnqueued ends the test if a job of T's kind waits to be run, now or later, for which where, if given,
// returns true.
func RequireNotEnqueued[T driver.Args](t testing.TB, db driver.DBTX, where ...func(Enqueued[T]) bool) {
	t.Helper()
	if jobs := enqueued(t, db, where); len(jobs) > 0 {
		t.Fatalf("awatest: %d jobs of kind %q wait, not none:%s", len(jobs), kind[T](), list(jobs))
	}
}

func kind[T driver.Args]() string {
	var zero T
	return zero.Kind()
}

// page is how many jobs are read at a time.
const page = 1000

func enqueued[T driver.Args](t testing.TB, db driver.DBTX, where []func(Enqueued[T]) bool) (jobs []Enqueued[T]) {
	t.Helper()
	var before *int64
	for {
		rows, err := gen.New().ListJobs(t.Context(), rawjson.DB(db),
			gen.ListJobsParams{Kind: new(kind[T]()), BeforeID: before, MaxJobs: new(int32(page))})
		if err != nil {
			t.Fatal("awatest: ", err)
		}
		for _, row := range rows {
			before = &row.ID
			switch row.State {
			case "available", "scheduled", "retryable":
			default:
				continue
			}
			job := Enqueued[T]{
				ID: row.ID, Queue: row.Queue, State: row.State, Priority: int(row.Priority), Attempt: int(row.Attempt),
				MaxAttempts: int(row.MaxAttempts), RunAt: row.RunAt, Tags: row.Tags, Metadata: row.Metadata,
				ExpiresAt: row.ExpiresAt,
			}
			if row.GroupKey != nil {
				job.GroupKey = *row.GroupKey
			}
			if err := json.Unmarshal(row.Args, &job.Args); err != nil {
				t.Fatalf("awatest: arguments of job %d, %s: %v", row.ID, row.Args, err)
			}
			wanted := true
			for _, is := range where {
				wanted = wanted && is(job)
			}
			if wanted {
				jobs = append(jobs, job)
			}
		}
		if len(rows) < page {
			return jobs
		}
	}
}

// list shows some jobs to a reader.
func list[T driver.Args](jobs []Enqueued[T]) string {
	if len(jobs) == 0 {
		return " there is none"
	}
	var text string
	for _, job := range jobs[:min(len(jobs), 10)] {
		args, _ := json.Marshal(job.Args)
		text += fmt.Sprintf("\n\tjob %d, %s in %s: %s", job.ID, job.State, job.Queue, args)
	}
	if len(jobs) > 10 {
		text += "\n\t..."
	}
	return text
}

// Worked is a job that [Work] has run.
type Worked struct {
	Job driver.JobInfo // as it is now
	Err error          // what the handler has returned
}

// Work runs the next job that is ready in the queues of the configuration, in the test's goroutine, as a worker of that
// configuration would: with its middleware, and an answer to the server. It ends the test when no job is ready. A
// handler that fails does not: see [Worked]. The log goes to the test's output, unless the configuration has a logger.
func Work(t testing.TB, pool *pgxpool.Pool, handlers *driver.Handlers, cfg driver.WorkerConfig) Worked {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	worker, err := driver.NewWorker(pool, handlers, cfg)
	if err != nil {
		t.Fatal("awatest: ", err)
	}
	ran, err := worker.RunOne(t.Context())
	if err != nil {
		t.Fatal("awatest: ", err)
	}
	if ran == nil {
		t.Fatalf("awatest: no job is ready in %q; Travel lets time pass for those that are scheduled", queueNames(cfg))
	}
	job, err := driver.NewClient(pool).Job(t.Context(), ran.JobID)
	if err != nil {
		t.Fatal("awatest: ", err)
	}
	return Worked{Job: job, Err: ran.Err}
}

func queueNames(cfg driver.WorkerConfig) (names []string) {
	for _, q := range cfg.WithDefaults().Queues {
		names = append(names, q.Name)
	}
	return names
}

// Travel lets time pass for the jobs that are scheduled or retryable: they are due by so much earlier, and those that
// are due now become available. Time stands still for everything else. It needs the role that has installed Awa, or a
// superuser.
func Travel(t testing.TB, pool *pgxpool.Pool, by time.Duration) {
	t.Helper()
	if by < 0 {
		t.Fatal("awatest: Travel goes forward only")
	}
	ctx := context.WithoutCancel(t.Context())
	// The time of the next sweep is forgotten, so that the promotion looks at everything.
	_, err := pool.Exec(ctx,
		"with moved as (update awa.deferred_jobs set run_at = run_at - $1::interval returning 1) select count(*), "+
			"setval('awa.next_sweep_at', 1) from moved", by)
	for promoted := int64(1); err == nil && promoted > 0; {
		promoted, err = gen.New().PromoteDue(ctx, pool, 10_000)
	}
	if err != nil {
		t.Fatal("awatest: ", err)
	}
}
