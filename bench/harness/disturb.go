package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Disturbance is what other sessions do in the database meanwhile.
type Disturbance int

// Disturbances.
const (
	Nothing          Disturbance = iota
	IdleTransaction              // one transaction with an id and a snapshot, held open
	Readers                      // sessions that scan the system's jobs, in transactions of 5 s that overlap
	ReadersElsewhere             // the same, of an unrelated table: the control of Readers
	LongReaders                  // three sessions that scan the system's jobs, in transactions of 120 s that overlap
)

// unrelated is the table that ReadersElsewhere scans.
const unrelated = "bench_unrelated"

// scanned is how many rows a reader reads at a time, so that readers of large and of small tables do as much.
const scanned = 20_000

// disturb does something beside the load until the function that it returns is called.
func disturb(ctx context.Context, d Disturbance, url, scan string) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	var mu sync.Mutex
	var failed error
	start := func(f func(*pgx.Conn) error) {
		running.Go(func() {
			conn, err := pgx.Connect(ctx, url)
			if err == nil {
				defer conn.Close(context.WithoutCancel(ctx))
				err = f(conn)
			}
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	readers := func(n int, length time.Duration, relation string) {
		for i := range n {
			start(func(conn *pgx.Conn) error {
				return read(ctx, conn, relation, length*time.Duration(i)/time.Duration(n), length)
			})
		}
	}
	switch d {
	case IdleTransaction:
		start(func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "begin isolation level repeatable read; select pg_current_xact_id(), 1")
			<-ctx.Done()
			return err
		})
	case Readers:
		readers(3, 5*time.Second, scan)
	case ReadersElsewhere:
		readers(3, 5*time.Second, unrelated)
	case LongReaders:
		readers(3, 120*time.Second, scan)
	}
	return func() error {
		cancel()
		running.Wait()
		return failed
	}, nil
}

// read scans a relation again and again, after a while, in one transaction of that length after the other.
func read(ctx context.Context, conn *pgx.Conn, relation string, after, length time.Duration) error {
	sql := fmt.Sprintf("select count(*) from (select from %s limit %d) r", relation, scanned)
	if !sleep(ctx, after) {
		return nil
	}
	for {
		if _, err := conn.Exec(ctx, "begin isolation level repeatable read"); err != nil {
			return err
		}
		for began := time.Now(); time.Since(began) < length; {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
		}
		if _, err := conn.Exec(ctx, "commit"); err != nil {
			return err
		}
	}
}

// makeUnrelated makes the table that ReadersElsewhere scans.
func makeUnrelated(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		create table %s as select i, repeat('x', 200) as filler from generate_series(1, %d) i`, unrelated, scanned))
	return err
}

// sleep waits, or returns false when the context ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
