package driver

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func logTo(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// A trouble that comes and goes is warned of once a minute, and each warning says how many were left out.
func TestTroubleThatComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		trouble := trouble{log: logTo(&log), what: "it does not work"}
		trouble.report(t.Context(), nil)
		assert.Empty(t, log.String())
		for range 180 {
			trouble.report(t.Context(), errors.New("boom"))
			time.Sleep(500 * time.Millisecond)
			trouble.report(t.Context(), nil)
			time.Sleep(500 * time.Millisecond)
		}
		first := "level=WARN msg=\"it does not work\" error=boom\nlevel=INFO msg=\"no longer: it does not work\"\n"
		later := strings.Replace(first, "boom", "boom left_out=59", 1)
		assert.Equal(t, first+later+later, log.String())

		// One that stays is repeated, and its end is told.
		log.Reset()
		for range 90 {
			trouble.report(t.Context(), errors.New("boom"))
			time.Sleep(time.Second)
		}
		trouble.report(t.Context(), nil)
		time.Sleep(time.Hour)
		trouble.report(t.Context(), nil)
		warning, end, _ := strings.Cut(later, "\n")
		assert.Equal(t, warning+"\n"+warning+"\n"+end, log.String())
	})
}

// What happens to one job after the other is warned of once a minute for each cause. Of a million causes, kinds without
// a handler say, ten are told apart, and no others are kept.
func TestManyWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var w warnings
		warn := func(cause string) { w.warn(t.Context(), logTo(&log), slog.LevelWarn, cause, "m", "cause", cause) }
		for range 100 {
			warn("a")
			warn("b")
		}
		assert.Equal(t, "level=WARN msg=m cause=a\nlevel=WARN msg=m cause=b\n", log.String())
		time.Sleep(time.Minute)
		log.Reset()
		warn("b")
		warn("b")
		warn("c")
		assert.Equal(t, "level=WARN msg=m cause=b left_out=99\nlevel=WARN msg=m cause=c\n", log.String())

		time.Sleep(time.Hour)
		log.Reset()
		const n = 1_000_000
		var group sync.WaitGroup
		for part := range 4 {
			group.Go(func() {
				for i := range n / 4 {
					w.warn(t.Context(), slog.New(slog.DiscardHandler), slog.LevelWarn, fmt.Sprint(part, " ", i), "m")
				}
			})
		}
		group.Wait()
		assert.Len(t, w.causes, maxCauses)
		time.Sleep(time.Minute)
		warn("d")
		assert.Equal(t, fmt.Sprintf("level=WARN msg=m cause=d left_out=%d\n", n-maxCauses), log.String())
	})
}
