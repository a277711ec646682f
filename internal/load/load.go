// Package load puts load on one queue, as producers and workers do, and measures it: for "awa selftest", "bench soak".
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	Batch = 500 // jobs in one call, at most

	callTimeout  = time.Minute
	drainTimeout = time.Minute            // for what is left when the producers have ended
	pollEvery    = 100 * time.Millisecond // by a consumer that finds nothing, should nobody wake it
)

// Payload is what each job carries.
var Payload = json.RawMessage(`{"data": "` + strings.Repeat("x", 188) + `"}`) // 200 bytes

// Config says where the load goes.
type Config struct {
	Conn      *pgx.ConnConfig
	Queue     string     // nobody else may use it
	Producers int        // connections; 2 by default
	Consumers int        // connections; 2 by default
	OnCall    func(Call) // hears of every call; from many goroutines at once
}

// Call is one call of a function of Awa.
type Call struct {
	PID   uint32 // of the backend
	Name  string
	Began time.Time
	Took  time.Duration
}

// Offer is what the producers of one run enqueue.
type Offer struct {
	For  time.Duration
	Jobs int // at most; 0: as many as the time allows
	// Rate in jobs per second: at the times of a schedule that waits for no answer, so that who is slow falls behind. 0:
	// as many as the consumers complete, with Depth jobs on their way.
	Rate  float64
	Depth int
}

// Figures are what was measured.
type Figures struct {
	Jobs      int             // completed
	Elapsed   time.Duration   // until the last of them
	Latencies []time.Duration // of each job, from the enqueue's commit until it was completed
}

// Rate in jobs per second.
func (f Figures) Rate() float64 { return float64(f.Jobs) / f.Elapsed.Seconds() }

// Load is a number of connections, and what goes through them.
type Load struct {
	cfg   Config
	conns []*pgx.Conn // the producers', then the consumers'

	mu        sync.Mutex
	changed   *sync.Cond
	offer     Offer
	began     time.Time
	over      bool // nobody starts anything any more
	producing int  // producers that have not ended
	batches   int  // begun
	offered   int  // jobs
	completed int  // jobs
	wakes     int  // enqueues that were committed, and polls
	lastDone  time.Time
	// committed has the jobs that were enqueued and are not completed, since when; and those that were completed before
	// their producer heard of its commit, with no time.
	committed map[int64]time.Time
	taken     Figures
}

// Open connects.
func Open(ctx context.Context, cfg Config) (*Load, error) {
	if cfg.Producers == 0 {
		cfg.Producers = 2
	}
	if cfg.Consumers == 0 {
		cfg.Consumers = 2
	}
	l := &Load{cfg: cfg, committed: map[int64]time.Time{}}
	l.changed = sync.NewCond(&l.mu)
	for range cfg.Producers + cfg.Consumers {
		conn, err := pgx.ConnectConfig(ctx, cfg.Conn)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.conns = append(l.conns, conn)
	}
	return l, nil
}

// Close disconnects.
func (l *Load) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, conn := range l.conns {
		conn.Close(ctx)
	}
}

// Flush has the server count what the connections did: otherwise it may lack their last second.
func (l *Load) Flush(ctx context.Context) error {
	for _, conn := range l.conns {
		if _, err := conn.Exec(ctx, "select pg_catalog.pg_stat_force_next_flush()"); err != nil {
			return err
		}
	}
	return nil
}

// Run enqueues what is offered, and returns when all of it is completed: each job once, and nothing else. It does not
// interrupt a call, so when the context ends nothing is under way in the server.
func (l *Load) Run(ctx context.Context, offer Offer) (Figures, error) {
	l.mu.Lock()
	l.offer, l.began, l.over = offer, time.Now(), false
	l.producing, l.batches, l.offered, l.completed = l.cfg.Producers, 0, 0, 0
	l.mu.Unlock()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.end()
	})() // stopped before the context ends, or it could end the next run
	late := time.AfterFunc(offer.For+drainTimeout,
		func() { fail(errors.New("the jobs that were enqueued are not all claimed")) })
	defer late.Stop()

	var work sync.WaitGroup
	for i, conn := range l.conns {
		role := l.consume
		if i < l.cfg.Producers {
			role = l.produce
		}
		work.Go(func() {
			if err := role(ctx, conn); err != nil {
				fail(err)
			}
		})
	}
	stop := make(chan struct{})
	var polls sync.WaitGroup
	polls.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				l.wake()
			}
		}
	})
	work.Wait()
	close(stop)
	polls.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return Figures{}, fmt.Errorf("%w (%d jobs were enqueued, %d completed)", context.Cause(ctx), l.offered, l.completed)
	}
	if l.completed != l.offered || len(l.committed) > 0 {
		return Figures{}, fmt.Errorf("%d jobs were enqueued, %d completed, and %d of them are not the same", l.offered,
			l.completed, len(l.committed))
	}
	figures := l.take()
	figures.Elapsed = l.lastDone.Sub(l.began)
	if offer.Rate > 0 {
		// The last batch is completed long before the next one would be due.
		figures.Elapsed = max(figures.Elapsed, time.Duration(float64(l.offered)/offer.Rate*float64(time.Second)))
	}
	return figures, nil
}

// Take returns what was completed since the last call, or the begin of the run, with its latencies.
func (l *Load) Take() Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take()
}

func (l *Load) take() Figures {
	taken := l.taken
	l.taken = Figures{}
	return taken
}

func (l *Load) end() {
	l.over = true
	l.changed.Broadcast()
}

func (l *Load) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakes++
	l.changed.Broadcast()
}

func (l *Load) produce(ctx context.Context, conn *pgx.Conn) error {
	for {
		jobs, due := l.next()
		if jobs == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(due)):
		}
		args := make([]json.RawMessage, jobs)
		for i := range args {
			args[i] = Payload
		}
		var ids []int64
		err := l.call(ctx, conn, "enqueue_many", func(rows pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		}, "select awa.enqueue_many($1, 'load', $2::jsonb[])", l.cfg.Queue, args)
		if err != nil {
			return err
		}
		l.settle(ids, false)
		l.wake()
	}
}

// next says how many jobs to enqueue, and when: none when the run is over.
func (l *Load) next() (jobs int, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	jobs = Batch
	if l.offer.Rate > 0 {
		jobs = min(max(int(l.offer.Rate/20), 1), Batch) // a batch every 50 ms, or more often
		due = l.began.Add(time.Duration(float64(l.batches*jobs) / l.offer.Rate * float64(time.Second)))
	} else {
		for !l.over && l.offered-l.completed > max(l.offer.Depth-Batch, 0) {
			l.changed.Wait()
		}
	}
	if l.offer.Jobs > 0 {
		jobs = min(jobs, l.offer.Jobs-l.offered)
	}
	if end := l.began.Add(l.offer.For); l.over || jobs == 0 || !due.Before(end) || !time.Now().Before(end) {
		l.producing--
		l.endIfDone()
		return 0, due
	}
	l.batches++
	l.offered += jobs
	return jobs, due
}

func (l *Load) endIfDone() {
	if l.producing == 0 && l.completed >= l.offered {
		l.end()
	}
}

func (l *Load) consume(ctx context.Context, conn *pgx.Conn) error {
	for {
		l.mu.Lock()
		wakes, over := l.wakes, l.over
		l.mu.Unlock()
		if over {
			return nil
		}
		var jobs, receipts []int64
		err := l.call(ctx, conn, "claim", func(rows pgx.Rows) error {
			var job, receipt int64
			for rows.Next() {
				columns := make([]any, len(rows.FieldDescriptions())) // those that stay nil are not decoded
				columns[0], columns[1] = &job, &receipt
				if err := rows.Scan(columns...); err != nil {
					return err
				}
				jobs, receipts = append(jobs, job), append(receipts, receipt)
			}
			return nil
		}, "select * from awa.claim($1, $2, durable => false)", l.cfg.Queue, Batch)
		if err != nil {
			return err
		}
		if len(jobs) == 0 {
			l.mu.Lock()
			for !l.over && l.wakes == wakes {
				l.changed.Wait()
			}
			l.mu.Unlock()
			continue
		}
		err = l.call(ctx, conn, "complete_many", func(rows pgx.Rows) error {
			if rows.Next() {
				return errors.New("receipts were refused as stale")
			}
			return nil
		}, "select awa.complete_many($1, $2)", jobs, receipts)
		if err != nil {
			return err
		}
		l.settle(jobs, true)
	}
}

// settle notes that jobs were committed, or completed.
func (l *Load) settle(jobs []int64, completed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, job := range jobs {
		if since, known := l.committed[job]; !known && completed {
			l.committed[job] = time.Time{}
		} else if !known {
			l.committed[job] = now
		} else {
			delete(l.committed, job)
			latency := time.Duration(0)
			if completed {
				latency = now.Sub(since)
			}
			l.taken.Latencies = append(l.taken.Latencies, latency)
		}
	}
	if completed {
		l.completed += len(jobs)
		l.taken.Jobs += len(jobs)
		l.lastDone = now
		l.changed.Broadcast()
	}
	l.endIfDone()
}

// call runs a query in a transaction of its own and in one round trip.
func (l *Load) call(
	ctx context.Context, conn *pgx.Conn, name string, read func(pgx.Rows) error, sql string, args ...any,
) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), callTimeout,
		errors.New("the server does not answer"))
	defer cancel()
	var batch pgx.Batch
	batch.Queue("begin isolation level read committed")
	batch.Queue(sql, args...).Query(read)
	batch.Queue("commit")
	began := time.Now()
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if l.cfg.OnCall != nil {
		l.cfg.OnCall(Call{conn.PgConn().PID(), name, began, time.Since(began)})
	}
	return nil
}
