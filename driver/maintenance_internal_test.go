package driver

import (
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
