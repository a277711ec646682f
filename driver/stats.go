package driver

import "sync/atomic"

// QueueStats counts what a worker has done with the jobs of one queue since it was made, over all its runs. Each
// attempt that it claimed ends in one of Completed to Stale, when the server has taken the answer; those that the
// worker gave back when it was stopped, or that were taken from it before its handler had returned, end in none.
type QueueStats struct {
	Queue       string
	Running     int64 // attempts whose handlers run now
	Claimed     int64 // attempts; those that were claimed ahead count when they get a slot
	Completed   int64
	Failed      int64 // attempts that failed, whatever follows, also where the server refused to store that
	Snoozed     int64
	Discarded   int64
	Cancelled   int64 // by their handlers
	UnknownKind int64 // attempts that were put off, because the worker has no handler for them
	Stale       int64 // answers that were refused, because the attempt was no longer the worker's
}

// queueStats is what QueueStats is made of.
type queueStats struct {
	running, claimed, stale atomic.Int64
	ended                   [outcomes]atomic.Int64
}

func (s *queueStats) read(queue string) QueueStats {
	return QueueStats{
		Queue:       queue,
		Running:     s.running.Load(),
		Claimed:     s.claimed.Load(),
		Completed:   s.ended[completed].Load(),
		Failed:      s.ended[failed].Load() + s.ended[postponed].Load(),
		Snoozed:     s.ended[snoozed].Load(),
		Discarded:   s.ended[discarded].Load(),
		Cancelled:   s.ended[cancelled].Load(),
		UnknownKind: s.ended[unknownKind].Load(),
		Stale:       s.stale.Load(),
	}
}
