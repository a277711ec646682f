package driver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// silence is how long a connection may be without notifications before it is checked.
const silence = 30 * time.Second

// wakeChannel is the channel on which the enqueuers of a queue notify its workers. Queues share sixteen channels.
func wakeChannel(queue string) string {
	return fmt.Sprintf("awa_wake_%x", sha256.Sum256([]byte(queue))[0]>>4)
}

// lostChannel is the channel on which workers are notified, by their id, that an attempt was taken from them.
const lostChannel = "awa_lost"

// errProxied says that notifications do not come through.
var errProxied = errors.New("there is a proxy between this connection and the server")

// listen wakes the worker when something is enqueued, or an attempt was taken from it, until the context ends. Where it
// can't, the worker finds jobs by polling, and what it lost by heartbeats.
func (r *run) listen(ctx context.Context) {
	trouble := trouble{log: r.log, what: "no notifications: jobs are found by polling"}
	var pause backoff
	for {
		err := r.listenOnce(ctx, func() {
			pause.reset()
			trouble.report(ctx, nil)
		})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errProxied):
			r.log.InfoContext(ctx, trouble.what, keyError, err)
			return
		}
		trouble.report(ctx, err)
		if !sleep(ctx, pause.pause()) {
			return
		}
	}
}

func (r *run) listenOnce(ctx context.Context, listening func()) error {
	conn, err := connect(ctx, r.pool)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	if err := checkDirect(ctx, conn); err != nil {
		return err
	}
	woken := map[string][]*queue{}
	for _, q := range r.queues {
		channel := wakeChannel(q.Name)
		woken[channel] = append(woken[channel], q)
	}
	for _, channel := range append([]string{lostChannel}, slices.Sorted(maps.Keys(woken))...) {
		if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
	}
	listening()
	// Something may have happened before.
	r.wakeQueues(r.queues)
	signalTo(r.lost)
	for {
		notification, err := waitForNotification(ctx, conn)
		switch {
		case err == nil && notification.Channel != lostChannel:
			r.wakeQueues(woken[notification.Channel])
		case err == nil:
			if id, err := strconv.ParseInt(notification.Payload, 10, 64); err == nil && r.isMine(id) {
				signalTo(r.lost)
			}
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return err
		default:
			if err := ping(ctx, conn); err != nil {
				return err
			}
		}
	}
}

// checkDirect fails with errProxied when somebody else has opened the connection to the server: the process that the
// greeting named is not the server's then. A proxy that pools transactions would let "listen" pass, but no notification;
// those would go to whoever gets that connection next.
func checkDirect(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	var pid int64
	if err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	if pid != int64(conn.PgConn().PID()) {
		return errProxied
	}
	return nil
}

func (r *run) wakeQueues(queues []*queue) {
	for _, q := range queues {
		q.woken.Store(true)
	}
	signalTo(r.wake)
}

// signalTo sends to a channel of one place: who receives looks at everything that there is.
func signalTo(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

func waitForNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	return conn.WaitForNotification(ctx)
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return conn.Ping(ctx)
}
