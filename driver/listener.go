package driver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// wakeChannel is the channel on which the enqueuers of a queue notify its workers. Queues share sixteen channels.
func wakeChannel(queue string) string {
	return fmt.Sprintf("awa_wake_%x", sha256.Sum256([]byte(queue))[0]>>4)
}

// lostChannel is the channel on which workers are notified, by their id, that an attempt was taken from them.
const lostChannel = "awa_lost_attempts"

// dueChannel is the channel on which maintenance is notified of deferred jobs that are due before it looks again.
const dueChannel = "awa_due"

// isDirect says whether no proxy has opened the connection to the server: if so, the process that the greeting named
// is not the server's. A proxy that pools transactions would let "listen" pass, but no notification; those would go to
// whoever gets that connection next.
func isDirect(ctx context.Context, conn *pgx.Conn) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	var pid int64
	err := conn.QueryRow(ctx, "select pg_catalog.pg_backend_pid()").Scan(&pid)
	return pid == int64(conn.PgConn().PID()), err
}

// listen asks for the notifications that wake this worker's queues, and those about attempts that were taken from it.
func (r *run) listen(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	channels := []string{lostChannel}
	if !r.cfg.NoMaintenance {
		channels = append(channels, dueChannel)
	}
	for _, channel := range append(channels, slices.Sorted(maps.Keys(r.channels))...) {
		if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
	}
	r.wakeQueues(r.queues) // something may have happened before
	signalTo(r.due)
	return nil
}

// beatsApart is the least time between two heartbeats of which the second one is for attempts that were taken from this
// worker: there may be thousands of them.
const beatsApart = 100 * time.Millisecond

// hear wakes queues when something was enqueued to them, until it is time for the next heartbeat, or an attempt was
// taken from this worker: the heartbeat will tell which. A registration that was retired does not wait for that time
// either.
func (r *run) hear(ctx context.Context, conn *pgx.Conn, direct bool, beat, until time.Time) error {
	hearing, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(time.Until(until), cancel)
	defer timer.Stop()
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-r.retired:
			cancel()
		case <-hearing.Done():
		}
	})
	defer waiting.Wait()
	defer cancel()
	if !direct {
		<-hearing.Done()
		return ctx.Err()
	}
	for {
		notification, err := conn.WaitForNotification(hearing)
		switch {
		case err != nil && ctx.Err() == nil && hearing.Err() != nil && !conn.IsClosed():
			return nil
		case err != nil:
			return err
		case notification.Channel == dueChannel:
			signalTo(r.due)
		case notification.Channel != lostChannel:
			r.wakeQueues(r.channels[notification.Channel])
		default:
			if id, err := strconv.ParseInt(notification.Payload, 10, 64); err == nil && r.registrations.isMine(id) {
				if soon := beat.Add(beatsApart); soon.Before(until) {
					until = soon
					timer.Reset(time.Until(until))
				}
			}
		}
	}
}

func (r *run) wakeQueues(queues []*queue) {
	for _, q := range queues {
		q.woken.Store(true)
	}
	signalTo(r.wake)
}

// signalTo sends to a channel with room for one signal. One is enough: its receiver looks at all that may have changed.
func signalTo(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}
