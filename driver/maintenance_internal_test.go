package driver

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Workers that were started together do not maintain together for ever.
func TestPassesHaveJitter(t *testing.T) {
	p := &pass{every: 5 * time.Second}
	require.Equal(t, 4*time.Second, p.pause(0))
	require.Equal(t, 5*time.Second, p.pause(0.5))
	require.Equal(t, 6*time.Second, p.pause(1))
}

// A worker wakes when the next job or schedule is due, neither later nor again and again before; only the longest sleep
// varies. What stays due, since another session holds it, or does it, is looked at again soon, but not all the time.
func TestSleepUntilSomethingIsDue(t *testing.T) {
	for _, random := range []float64{0, 0.5, 1} {
		part := func(of time.Duration) time.Duration { return time.Duration((0.5 + random) * float64(of)) }
		d := duty{longest: longestLook}
		require.Equal(t, 700*time.Millisecond, d.pause(700*time.Millisecond, nil, random))
		require.Equal(t, time.Microsecond, d.pause(time.Microsecond, nil, random))
		for _, long := range []time.Duration{time.Second, time.Hour} {
			require.Equal(t, time.Second-time.Duration(random*float64(200*time.Millisecond)), d.pause(long, nil, random))
		}
		require.Equal(t, d.pause(time.Hour, nil, random), d.pause(0, errors.New("no server"), random))
		for _, apart := range []time.Duration{20, 40, 80, 160, 320, 320} {
			require.Equal(t, part(apart*time.Millisecond), d.pause(0, nil, random))
		}
		require.Equal(t, time.Millisecond, d.pause(time.Millisecond, nil, random))
		require.Equal(t, part(20*time.Millisecond), d.pause(-time.Second, nil, random), "that is over")

		d.longest = looksApart // jobs may become due all the time
		for range 3 {
			require.Equal(t, part(20*time.Millisecond), d.pause(0, nil, random))
		}
	}
}
