package harness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/bench/systems"
)

func TestScenariosAreWhole(t *testing.T) {
	names := map[string]bool{}
	for _, s := range Full(time.Second, time.Second) {
		assert.False(t, names[s.Name], s.Name)
		names[s.Name] = true
		assert.NotEmpty(t, s.What, s.Name)
		assert.True(t, s.Backlog > 0 || s.Producers > 0 && s.Batch > 0, s.Name)
		assert.True(t, s.Backlog > 0 || s.Rate > 0 || s.Depth > 0, s.Name)
		require.NotEmpty(t, s.Phases, s.Name)
		all := systems.Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Tx: true,
			Library: true}
		assert.Empty(t, s.fits(all), s.Name)
	}
}

func TestFits(t *testing.T) {
	full := Full(0, 0)
	fits := func(name string, f systems.Features) string {
		picked, err := Pick(full, name)
		require.NoError(t, err)
		return picked[0].fits(f)
	}
	assert.Empty(t, fits("produce", systems.Features{}))
	assert.Equal(t, "no workers", fits("bulk", systems.Features{}))
	assert.Equal(t, "no priorities", fits("priorities", systems.Features{Consume: true}))
	assert.Equal(t, "no worker with handlers", fits("worker", systems.Features{Consume: true}))
	assert.NotEmpty(t, fits("single", systems.Features{Consume: true, Solo: true}))
	assert.Empty(t, fits("rate-10", systems.Features{Consume: true, Solo: true}))
	assert.Equal(t, "few consumers", fits("bulk", systems.Features{Consume: true, Many: true}))
	assert.Equal(t, "no several consumers", fits("processes", systems.Features{Consume: true, Solo: true}))
}

func TestPick(t *testing.T) {
	full := Full(0, 0)
	picked, err := Pick(full, "bulk,queues-*")
	require.NoError(t, err)
	require.Len(t, picked, 4)
	assert.Equal(t, "bulk", picked[0].Name)
	_, err = Pick(full, "bulk,none")
	assert.ErrorContains(t, err, `no scenario is called "none"; there are backlog, bulk`)
}

// A schedule waits for no other session: what is due while producers are slow is due at its time, and counts from then.
func TestPacerOfARate(t *testing.T) {
	p := &pacer{tracker: NewTracker()}
	p.setRate(1000)
	p.since = p.since.Add(-time.Minute)
	due, ok := p.next(t.Context(), 10)
	require.True(t, ok)
	assert.Equal(t, p.since, due(0))
	assert.Equal(t, p.since.Add(9*time.Millisecond), due(9))
	due, _ = p.next(t.Context(), 10)
	assert.Equal(t, p.since.Add(10*time.Millisecond), due(0))
}
