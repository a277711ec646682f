package harness

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/bench/systems"
)

// leaky is a floor that forgets one call, or one job that it has read.
type leaky struct {
	systems.System
	enqueue, work bool
}

func (l *leaky) Enqueue(ctx context.Context, tx pgx.Tx, jobs []systems.Job) error {
	if l.enqueue {
		l.enqueue = false
		return nil
	}
	return l.System.Enqueue(ctx, tx, jobs)
}

func (l *leaky) Work(ctx context.Context, done systems.Sink) error {
	return l.System.Work(ctx, func(d []systems.Done) {
		if l.work {
			l.work = false
			d = d[1:]
		}
		done(d)
	})
}

// The books of systems balance, and those of systems that lose a job do not.
func TestRun(t *testing.T) {
	url := os.Getenv("AWA_TEST_DATABASE_URL")
	if url == "" {
		t.Skip("AWA_TEST_DATABASE_URL names no server: run by internal/withpg")
	}
	stallTimeout = time.Second // where jobs are missing, none comes
	server, err := StartServer(t.Context(), url)
	require.NoError(t, err)
	defer server.Stop()
	leak := func(name string, l leaky) systems.Info {
		info := systems.Floor()
		info.Name = name
		info.New = func() systems.System { l := l; l.System = systems.Floor().New(); return &l }
		return info
	}
	absent := systems.Pgmq("")
	scenario := Scenario{Name: "short", Producers: 2, Batch: 50, Workers: 2, Claim: 100, Slots: 100, Depth: 400,
		Phases: []Phase{{Name: "clean", Length: 200 * time.Millisecond},
			{Name: "readers", Length: 200 * time.Millisecond, Disturb: Readers}}}
	var file bytes.Buffer
	results, err := Run(t.Context(), Options{Server: server, Scenarios: []Scenario{scenario}, Rounds: 1, Out: &file,
		Log: io.Discard, Systems: []systems.Info{systems.Floor(), systems.AwaSQL(1), systems.Awa(), absent,
			leak("forgets", leaky{enqueue: true}), leak("drops", leaky{work: true})}})
	require.NoError(t, err)
	again, err := Read(&file)
	require.NoError(t, err)
	assert.Len(t, again.Samples, len(results.Samples))
	require.Len(t, results.Header.LeftOut, 1)
	assert.Equal(t, "-pgmq names no install file", results.Header.LeftOut[0].Reason)
	bySystem := map[string][]Sample{}
	for _, s := range results.Samples {
		bySystem[s.System] = append(bySystem[s.System], s)
	}
	for _, name := range []string{"floor", "awa-sql", "awa"} {
		require.Len(t, bySystem[name], 2, name)
		for _, s := range bySystem[name] {
			assert.Empty(t, s.Error, name)
			assert.Positive(t, s.Completed, name)
			assert.NotNil(t, s.EndToEnd, name)
			assert.Zero(t, s.Lost+s.Doubled, name)
		}
	}
	for _, name := range []string{"forgets", "drops"} {
		require.Len(t, bySystem[name], 1, name)
		assert.Contains(t, bySystem[name][0].Error, "jobs were", name)
	}
}
