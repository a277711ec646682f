package systems

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPayload(t *testing.T) {
	for _, j := range []Job{{}, {N: 7, At: 1234567890123456}, {N: 1 << 40, At: 1, Fails: true}} {
		text := Payload(j, 200)
		assert.Len(t, text, 200)
		assert.True(t, json.Valid(text))
		assert.Equal(t, j, ParsePayload(text))
		assert.Equal(t, j, ParsePayload([]byte(strings.ReplaceAll(string(text), ": ", ":"))))
	}
	assert.Equal(t, Job{}, ParsePayload([]byte(`{"n`)))
}

func TestFind(t *testing.T) {
	all := []Info{{Name: "a"}, {Name: "b"}}
	found, err := Find(all, "b,a")
	require.NoError(t, err)
	assert.Equal(t, []Info{{Name: "b"}, {Name: "a"}}, found)
	_, err = Find(all, "a,c")
	assert.ErrorContains(t, err, `"c"`)
}

// memory is a system that keeps jobs in memory.
type memory struct {
	mu          sync.Mutex
	env         Env
	left, ended []Job
}

func (m *memory) Install(_ context.Context, url string) error {
	if url == "bad" {
		return errors.New("bad URL")
	}
	return nil
}
func (m *memory) Open(_ context.Context, env Env) error { m.env = env; return nil }
func (m *memory) Close()                                {}

func (m *memory) Enqueue(_ context.Context, _ pgx.Tx, jobs []Job) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = append(m.left, jobs...)
	return nil
}

func (m *memory) Work(ctx context.Context, done Sink) error {
	for pause(ctx, time.Millisecond) {
		m.mu.Lock()
		var all []Done
		for _, j := range m.left {
			all = append(all, Done{N: j.N, At: j.At, Picked: int64(j.Queue), Ended: int64(m.env.Slots)})
		}
		m.ended, m.left = append(m.ended, m.left...), nil
		m.mu.Unlock()
		if len(all) > 0 {
			done(all)
		}
	}
	return nil
}

func (m *memory) Books(context.Context) (left, ended int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.left)), int64(len(m.ended)), nil
}

// The test's program is the child, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		info := Info{New: func() System { return &memory{} }}
		if err := Serve(context.Background(), info, os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChild(t *testing.T) {
	ctx := t.Context()
	c := &child{command: func() *exec.Cmd { return exec.Command(os.Args[0], ChildCommand, "memory") }}
	assert.NoError(t, c.Install(ctx, "good"))
	assert.ErrorContains(t, c.Install(ctx, "bad"), "bad URL")
	require.NoError(t, c.Open(ctx, Env{Slots: 9}))
	defer c.Close()
	jobs := []Job{{N: 1, At: 10, Queue: 3}, {N: 2, At: 20, Queue: 3, Fails: true}}
	require.NoError(t, c.Enqueue(ctx, nil, jobs))
	left, _, err := c.Books(ctx)
	require.NoError(t, err)
	assert.Equal(t, int64(2), left)
	working, stop := context.WithCancel(ctx)
	told := make(chan []Done, 1)
	result := make(chan error, 1)
	go func() { result <- c.Work(working, func(d []Done) { told <- d }) }()
	assert.Equal(t, []Done{{1, 10, 3, 9}, {2, 20, 3, 9}}, <-told)
	stop()
	assert.NoError(t, <-result)
	_, ended, err := c.Books(ctx)
	require.NoError(t, err)
	assert.Equal(t, int64(2), ended)
	assert.Error(t, c.Enqueue(ctx, fakeTx{}, jobs), "in a transaction of this process")
}

type fakeTx struct{ pgx.Tx }

// A child that dies is noticed by whoever waits for it.
func TestChildThatDies(t *testing.T) {
	c := &child{command: func() *exec.Cmd { return exec.Command(os.Args[0], ChildCommand, "memory") }}
	require.NoError(t, c.Open(t.Context(), Env{}))
	require.NoError(t, c.cmd.Process.Kill())
	assert.ErrorContains(t, c.Work(t.Context(), func([]Done) {}), "has ended")
	c.Close()
}

func TestProcesses(t *testing.T) {
	ctx := t.Context()
	p := Processes(Info{Name: "memory"}, 2)
	require.NoError(t, p.Open(ctx, Env{Slots: 9}))
	defer p.Close()
	for n := range int64(4) {
		require.NoError(t, p.Enqueue(ctx, nil, []Job{{N: n}}))
	}
	working, stop := context.WithCancel(ctx)
	told := make(chan Done, 4)
	result := make(chan error, 1)
	go func() {
		result <- p.Work(working, func(done []Done) {
			for _, d := range done {
				told <- d
			}
		})
	}()
	seen := map[int64]bool{}
	for range 4 {
		d := <-told
		seen[d.N] = true
		assert.Equal(t, int64(4), d.Ended, "each has a part of the slots")
	}
	assert.Len(t, seen, 4)
	stop()
	assert.NoError(t, <-result)
}

func TestServeRefuses(t *testing.T) {
	in, out := io.Pipe()
	go func() {
		io.WriteString(out, `{"id": 5, "op": "dance"}`+"\n")
		out.Close()
	}()
	var answer strings.Builder
	require.NoError(t, Serve(t.Context(), Info{New: func() System { return &memory{} }}, in, &answer))
	assert.JSONEq(t, `{"id": 5, "error": "unknown request \"dance\""}`, answer.String())
}

func TestEachStopsAllAtAnError(t *testing.T) {
	err := each(t.Context(), 3, func(ctx context.Context, i int) error {
		if i == 1 {
			return errors.New("it failed")
		}
		<-ctx.Done()
		return ctx.Err()
	})
	assert.EqualError(t, err, "it failed")
}
