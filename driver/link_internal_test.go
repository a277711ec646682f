package driver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A limit comes after three claims in a row that were cut off, and holds until so many jobs have failed for it as the
// number of those claims allows, for a minute, or until a claim shows that more is carried.
func TestLink(t *testing.T) {
	now := time.Now()
	later := func(d time.Duration) { now = now.Add(d) }
	var l link
	cutOff := func() {
		later(20 * time.Second)
		l.cutOff(400_000, 20*time.Second, now) // 20 kB a second
	}
	requireLimit := func(most int64, n int) {
		t.Helper()
		gotMost, gotN := l.limit(100, now)
		assert.Equal(t, most, gotMost)
		assert.Equal(t, n, gotN)
	}
	cutOff()
	cutOff()
	requireLimit(0, 100)
	l.carried(100, time.Millisecond, 0)  // too little to show anything
	l.carried(100_000, 5*time.Second, 0) // as slow as before
	cutOff()
	requireLimit(300_000, 1)
	l.carried(100, time.Millisecond, 0)
	requireLimit(300_000, 1)
	l.carried(100, time.Millisecond, 1) // one has failed
	requireLimit(0, 100)
	cutOff()
	requireLimit(300_000, 2)
	l.carried(100, time.Millisecond, 1)
	requireLimit(300_000, 1)
	later(linkLimit)
	requireLimit(0, 100)
	cutOff()
	requireLimit(300_000, 4)
	l.carried(10_000, 100*time.Millisecond, 0) // it is well
	requireLimit(0, 100)
	cutOff()
	cutOff()
	requireLimit(0, 100)
	later(linkMemory) // chance, most likely
	cutOff()
	requireLimit(0, 100)
}
