package driver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// silence is how long a connection may be without notifications before it is checked.
const silence = 30 * time.Second

// wakeChannel is the channel on which the enqueuers of a queue notify its workers. Queues share sixteen channels.
func wakeChannel(queue string) string {
	return fmt.Sprintf("awa_wake_%x", sha256.Sum256([]byte(queue))[0]>>4)
}

// listen wakes the worker when something is enqueued, until the context ends. Where it can't, the worker finds jobs by
// polling.
func listen(ctx context.Context, pool *pgxpool.Pool, queue string, wake chan<- struct{}, log *slog.Logger) {
	trouble := trouble{log: log, what: "no notifications: jobs are found by polling"}
	var pause backoff
	for {
		err := listenOnce(ctx, pool, queue, wake, func() {
			pause.reset()
			trouble.report(ctx, nil)
		})
		if ctx.Err() != nil {
			return
		}
		trouble.report(ctx, err)
		if !sleep(ctx, pause.pause()) {
			return
		}
	}
}

func listenOnce(ctx context.Context, pool *pgxpool.Pool, queue string, wake chan<- struct{}, listening func()) error {
	conn, err := connect(ctx, pool)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{wakeChannel(queue)}.Sanitize()); err != nil {
		return err
	}
	listening()
	for {
		// Also the first time: something may have been enqueued before.
		select {
		case wake <- struct{}{}:
		default:
		}
		for {
			err := waitForNotification(ctx, conn)
			if err == nil {
				break
			}
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			if err := ping(ctx, conn); err != nil {
				return err
			}
		}
	}
}

func waitForNotification(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	_, err := conn.WaitForNotification(ctx)
	return err
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return conn.Ping(ctx)
}
