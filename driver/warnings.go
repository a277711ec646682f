package driver

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// warnEvery is how often the log repeats what a worker warns of.
	warnEvery = time.Minute
	// maxCauses is how many causes are told apart, and so how many records there may be in that time.
	maxCauses = 10
)

// trouble logs what goes wrong again and again: the first error, then one a minute, however often it is over meanwhile;
// and its end, if its begin was logged.
type trouble struct {
	log     *slog.Logger
	what    string
	open    bool      // it was logged, and its end was not
	warned  time.Time // when it was logged last
	leftOut int       // errors that were not logged since
}

func (t *trouble) report(ctx context.Context, err error, args ...any) {
	switch {
	case err == nil && !t.open:
	case err == nil:
		t.log.InfoContext(ctx, "no longer: "+t.what)
		t.open = false
	case !t.warned.IsZero() && time.Since(t.warned) < warnEvery:
		t.leftOut++
	default:
		warn(ctx, t.log, slog.LevelWarn, t.leftOut, t.what, append(args, keyError, mapError(err))...)
		t.open, t.warned, t.leftOut = true, time.Now(), 0
	}
}

// warnings logs what happens to one job after another: one record a minute for each cause, and for no more than
// maxCauses causes. It is safe for concurrent use, and ready to use.
type warnings struct {
	mu      sync.Mutex
	causes  map[string]*cause
	leftOut int // records of causes that are not in there
}

type cause struct {
	warned  time.Time
	leftOut int
}

func (w *warnings) warn(ctx context.Context, log *slog.Logger, level slog.Level, of, message string, args ...any) {
	if leftOut, ok := w.pass(of, time.Now()); ok {
		warn(ctx, log, level, leftOut, message, args...)
	}
}

// pass says whether a record is to be logged, and how many were not since the last one.
func (w *warnings) pass(of string, now time.Time) (leftOut int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.causes[of]; known != nil && now.Sub(known.warned) < warnEvery {
		known.leftOut++
		return 0, false
	} else if known != nil {
		leftOut = known.leftOut
		delete(w.causes, of)
	}
	if len(w.causes) >= maxCauses {
		for name, c := range w.causes {
			if now.Sub(c.warned) >= warnEvery {
				w.leftOut += c.leftOut
				delete(w.causes, name)
			}
		}
	}
	if len(w.causes) >= maxCauses {
		w.leftOut += leftOut + 1
		return 0, false
	}
	if w.causes == nil {
		w.causes = map[string]*cause{}
	}
	w.causes[of] = &cause{warned: now}
	leftOut += w.leftOut
	w.leftOut = 0
	return leftOut, true
}

func warn(ctx context.Context, log *slog.Logger, level slog.Level, leftOut int, message string, args ...any) {
	if leftOut > 0 {
		args = append(args, keyLeftOut, leftOut)
	}
	log.Log(ctx, level, message, args...)
}
