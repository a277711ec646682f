// Package systems has the job queues that the benchmark compares, one file for each, behind one interface.
package systems

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// System is a job queue, in a database of its own. Its methods are called in the order in which they are written here;
// Enqueue, Work and Books also side by side.
type System interface {
	// Install makes the schema in an empty database, which is then copied for each run. It leaves no session behind.
	Install(ctx context.Context, url string) error
	// Open connects to a copy of that database.
	Open(ctx context.Context, env Env) error
	// Enqueue enqueues the jobs, which have queue, priority and delay in common, in one call of the fast path that the
	// system documents: in the transaction if there is one, otherwise in one of its own.
	Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error
	// Work works on the queues until the context ends, and returns when nothing of it runs any more.
	Work(ctx context.Context, done Sink) error
	// Books asks the system itself for the number of its jobs that have not ended, and of those that have; -1 where it
	// does not keep them.
	Books(ctx context.Context) (left, ended int64, err error)
	// Close ends all sessions.
	Close()
}

// Sink is told of the jobs that have been acknowledged. It may be called from several goroutines.
type Sink func(done []Done)

// Info is what is known about a system before it is installed.
type Info struct {
	Name     string
	Version  string
	Ask      string // a query for the version, in place of Version, once it is installed
	Contract string // what an acknowledged job means here: printed beside each figure
	Schema   string // of its tables
	Scan     string // the relation that readers of jobs scan
	Features Features
	Missing  string // why it can't be measured here; "" if it can
	New      func() System
}

// Features are what only some systems can do.
type Features struct {
	Consume    bool // it has workers; all but none
	Queues     bool // several queues
	Priorities bool
	Delay      bool // jobs that may not begin before a time
	Retry      bool // a failed attempt runs again, after RetryAfter
	Tx         bool // enqueues in the caller's transaction
	Many       bool // of interest only beside many consumers
	Solo       bool // it has one consumer, in one process
	Library    bool // its own worker runs handlers: the number of jobs at once is Env.Slots, not Workers and Batch
}

// Env is where and how a system runs.
type Env struct {
	URL     string
	Workers int // connections that claim and acknowledge
	Batch   int // jobs in a claim
	Slots   int // handlers at once, in place of Workers and Batch, of systems that have a worker of their own
	Queues  int // their names are QueueName(0) and so on
	Enqueue int // the number of sessions that enqueue
	Payload int // bytes
}

// RetryAfter is how long after a failure the next attempt may begin.
const RetryAfter = time.Second

// QueueName returns the name of a queue.
func QueueName(i int) string { return "q" + strconv.Itoa(i) }

// Job is a job that is enqueued.
type Job struct {
	N        int64 // its number, which no other job of the run has
	At       int64 // when it was due to be enqueued, in µs since 1970
	Queue    int
	Priority int // 1 (first) to 4; 0 for none
	Delay    time.Duration
	Fails    bool // its first attempt
}

// Done is a job that was acknowledged.
type Done struct {
	N, At  int64 // the job's
	Picked int64 // when its handler began, or its claim returned, in µs since 1970
	Ended  int64 // when the acknowledgement was confirmed
}

// Now is the present time in µs since 1970.
func Now() int64 { return time.Now().UnixMicro() }

// Payload returns the arguments of a job, a JSON object of that many bytes.
func Payload(j Job, size int) []byte {
	b := make([]byte, 0, max(size, 80))
	b = append(b, `{"n": `...)
	b = strconv.AppendInt(b, j.N, 10)
	b = append(b, `, "t": `...)
	b = strconv.AppendInt(b, j.At, 10)
	if j.Fails {
		b = append(b, `, "f": 1`...)
	}
	b = append(b, `, "pad": "`...)
	for len(b) < size-2 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

func payloads(jobs []Job, size int) []string {
	texts := make([]string, len(jobs))
	for i, j := range jobs {
		texts[i] = string(Payload(j, size))
	}
	return texts
}

// ParsePayload returns what is in a payload, however it is spaced.
func ParsePayload(b []byte) Job {
	return Job{N: field(b, `"n":`), At: field(b, `"t":`), Fails: field(b, `"f":`) == 1}
}

// field returns the number after a key. It parses no JSON, which would take longer than the rest of a job's way.
func field(b []byte, key string) (n int64) {
	at := strings.Index(string(b), key) // the compiler makes no copy
	if at < 0 {
		return 0
	}
	for _, c := range b[at+len(key):] {
		switch {
		case c >= '0' && c <= '9':
			n = 10*n + int64(c-'0')
		case c != ' ' || n > 0:
			return n
		}
	}
	return n
}

// picked returns the jobs of a claim that has just returned.
func picked(bodies [][]byte) []Done {
	now := Now()
	done := make([]Done, len(bodies))
	for i, b := range bodies {
		j := ParsePayload(b)
		done[i] = Done{N: j.N, At: j.At, Picked: now}
	}
	return done
}

// ended notes that the jobs were acknowledged just now.
func ended(done []Done) []Done {
	now := Now()
	for i := range done {
		done[i].Ended = now
	}
	return done
}

// open returns a pool of at most so many connections.
func open(ctx context.Context, url string, conns int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(conns)
	return pgxpool.NewWithConfig(ctx, cfg)
}

// db is a pool or a transaction.
type db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// orPool returns the transaction, if there is one, or the pool.
func orPool(tx pgx.Tx, pool *pgxpool.Pool) db {
	if tx != nil {
		return tx
	}
	return pool
}

// runSQL runs a script.
func runSQL(ctx context.Context, url, script string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.PgConn().Exec(ctx, script).ReadAll()
	return err
}

// fileVersion tells versions of an install file apart.
func fileVersion(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return file
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%s of SHA-256 %x…", filepath.Base(file), sum[:6])
}

// each runs a function in so many goroutines until all have returned. An error of one ends the others.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			err := f(ctx, i)
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				err = nil
			}
			if err != nil {
				cancel()
			}
			errs <- err
		}()
	}
	var all error
	for range n {
		all = errors.Join(all, <-errs)
	}
	return all
}

// pause waits, or returns false when the context ends.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// repeat calls a function at an interval until the context ends.
func repeat(ctx context.Context, every time.Duration, f func(context.Context) error) error {
	for pause(ctx, every) {
		if err := f(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// count returns the result of a query of one number.
func count(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) (n int64, err error) {
	err = pool.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// Find returns the systems that a list of names, separated by commas, asks for.
func Find(all []Info, names string) ([]Info, error) {
	var found []Info
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(all, func(s Info) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no system is called %q", name)
		}
		found = append(found, all[i])
	}
	return found, nil
}
