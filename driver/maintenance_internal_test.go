package driver

import (
	"errors"
	"log/slog"
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
	for _, p := range passes(slog.New(slog.DiscardHandler)) {
		require.Less(t, p.pause(0), p.every)
		require.Greater(t, p.pause(1), p.every)
	}
}

// A worker wakes when the next job is due, neither later nor again and again before; only the longest sleep varies.
func TestSleepUntilAJobIsDue(t *testing.T) {
	for _, random := range []float64{0, 0.5, 1} {
		require.Equal(t, 700*time.Millisecond, duePause(700*time.Millisecond, nil, random))
		require.Equal(t, time.Microsecond, duePause(time.Microsecond, nil, random))
		for _, long := range []time.Duration{time.Second, time.Hour} {
			require.Equal(t, time.Second-time.Duration(random*float64(200*time.Millisecond)), duePause(long, nil, random))
		}
		require.Equal(t, duePause(time.Hour, nil, random), duePause(0, errors.New("no server"), random))
		require.Equal(t, time.Duration((0.5+random)*float64(20*time.Millisecond)), duePause(0, nil, random))
	}
}
