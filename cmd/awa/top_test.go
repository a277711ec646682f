//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// fakeActions notes what the model has done.
type fakeActions struct {
	acts []string
	err  error
}

func (f *fakeActions) read(context.Context) topReading { return topReading{} }

func (f *fakeActions) act(_ context.Context, query string, args ...any) error {
	f.acts = append(f.acts, fmt.Sprint(query, args))
	return f.err
}

func (f *fakeActions) explain(context.Context, int64) (string, error) { return "It runs.", f.err }

// twoQueues is a reading of two queues and two jobs, so many seconds after the first.
func twoQueues(seconds int, completed int64) topReading {
	at := time.Date(2031, 5, 1, 9, 0, seconds, 0, time.UTC)
	began := at.Add(-3 * time.Hour)
	return topReading{
		at: at, errs: map[string]error{},
		queues: []queue{
			{Queue: "email", Available: 7, Running: 2, Completed: completed, Workers: 1},
			{Queue: "s\x1b[2Jlow", Available: 9, PausedAt: &began},
		},
		running: []listed{
			{ID: 41, Queue: "email", Kind: "send", Attempt: 1, MaxAttempts: 25, AttemptedAt: &began},
			{ID: 42, Queue: "email", Kind: "send", Attempt: 2, MaxAttempts: 25, AttemptedAt: &at, LastError: "late\x07"},
		},
		findings: []healthFinding{{Level: levelCritical, Topic: "queue", Subject: "email", Message: "it waits"}},
	}
}

func newTop(actions topActions) *topModel {
	m := &topModel{actions: actions, now: time.Unix(100, 0)}
	m.update(topSize{120, 24})
	m.update(twoQueues(0, 100))
	return m
}

func screenText(m *topModel) string {
	var b strings.Builder
	for _, line := range m.view() {
		b.WriteString(line.text + "\n")
	}
	return b.String()
}

// at returns the line that the cursor is on.
func at(m *topModel) string {
	for _, line := range m.view() {
		if line.style == topCursor {
			return line.text
		}
	}
	return ""
}

func press(m *topModel, keys ...string) (do topCommand) {
	for _, key := range keys {
		do = m.update(topKey(key))
	}
	return do
}

func TestTopShows(t *testing.T) {
	m := newTop(&fakeActions{})
	text := screenText(m)
	assert.Len(t, m.view(), 24)
	assertPrintable(t, text)
	assert.Contains(t, text, "awa top: read at 09:00:00 UTC, 0s ago: 2 queues, 16 available, 2 running; ")
	assert.Contains(t, text, "critical: queue email: it waits\n")
	assert.Regexp(t, `(?m)^email +open +7 +- +2 +- +- +- +0 +0 +1$`, text)
	assert.Contains(t, text, `s\u001b[2Jlow`)
	assert.Regexp(t, `(?m)^ +3h  41  email  send +1/25`, text)
	assert.Regexp(t, `late\\u0007`, text)

	m.update(twoQueues(10, 150)) // rates need two readings
	assert.Regexp(t, `(?m)^email +open +7 +- +2 +5\.0 +5\.0 +0\.0 `, screenText(m))
	assert.Contains(t, screenText(m), "per second 5.0 new, 5.0 ended, 0.0 failed")

	// What can't be read stays, with the error, and the age of what is shown grows.
	failed := twoQueues(20, 0)
	failed.errs = map[string]error{topQueues: errors.New("gone\x1b"), topRunning: errors.New("slow")}
	m.update(failed)
	m.update(topTick(time.Unix(161, 0)))
	text = screenText(m)
	assertPrintable(t, text)
	assert.Contains(t, text, "read at 09:00:10 UTC, 1m ago")
	assert.Contains(t, text, `NO NEW QUEUES: gone\u001b`)
	assert.Contains(t, text, "NO NEW RUNNING JOBS: slow")
	assert.Contains(t, text, "email")

	for _, size := range []topSize{{0, 0}, {1, 1}, {10, 3}, {40, 8}, {300, 100}} {
		m.update(size)
		for _, line := range m.view() {
			assert.LessOrEqual(t, len([]rune(line.text)), max(size.width, 10000*boolean(size.width == 0)))
		}
		assert.LessOrEqual(t, len(m.view()), max(size.height, 1))
	}
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestTopMoves(t *testing.T) {
	m := newTop(&fakeActions{})
	assert.Contains(t, at(m), `s\u001b[2Jlow`, "most are available there")
	press(m, "Down", "Down")
	assert.Contains(t, at(m), "email")
	press(m, "s") // by running
	assert.Contains(t, at(m), "email", "the cursor stays at its queue")
	press(m, "k")
	assert.Contains(t, at(m), "email", "which comes first now")
	press(m, "/", "L", "o")
	assert.Contains(t, screenText(m), "\nSearch: Lo_\n")
	assert.NotRegexp(t, `(?m)^email `, screenText(m))
	press(m, "x", "Backspace", "Enter", "p")
	assert.Contains(t, m.question, "Resume queue s")
	press(m, "n", "/", "Esc", "Tab", "Down")
	assert.Regexp(t, "^ +0s  42 ", at(m))
	m.update(twoQueues(10, 100))
	assert.Regexp(t, "^ +0s  42 ", at(m), "the cursor stays at its job")
	press(m, "q")
	assert.True(t, m.quit)

	many := newTop(&fakeActions{})
	r := topReading{at: time.Now(), errs: map[string]error{}}
	for i := range 100 {
		r.queues = append(r.queues, queue{Queue: fmt.Sprintf("q%02d", i)})
	}
	many.update(r)
	press(many, "Tab", "Tab", "PgDn", "PgDn", "PgDn")
	assert.Regexp(t, "^q30 ", at(many))
}

func TestTopActs(t *testing.T) {
	actions := &fakeActions{}
	m := newTop(actions)
	assert.Nil(t, press(m, "Down", "p"))
	assert.Contains(t, screenText(m), "\nPause queue email? y/n\n")
	assert.Nil(t, press(m, "x"), "all but y is no")
	assert.Contains(t, screenText(m), "\nNothing was changed.\n")
	do := press(m, "p", "y")
	require.NotNil(t, do)
	assert.Empty(t, actions.acts, "the model does nothing itself")
	done := do(t.Context())
	assert.Equal(t, []string{"select awa.pause_queue($1)[email]"}, actions.acts)
	assert.NotNil(t, m.update(done), "it reads anew")
	assert.Contains(t, screenText(m), "\nPaused: email\n")
	assert.Nil(t, press(m, "r"), "not twice at a time")

	actions.err = errors.New("the role may not do that\x1b")
	m.update(press(m, "Tab", "c", "y")(t.Context()))
	assert.Equal(t, "select awa.cancel($1)[41]", actions.acts[1])
	assert.Contains(t, screenText(m), `FAILED: the role may not do that\u001b`)
	assertPrintable(t, screenText(m))
	actions.err = nil
	m.update(press(m, "j", "d", "y")(t.Context()))
	assert.Equal(t, "select awa.discard_job($1)[42]", actions.acts[2])
	m.update(press(m, "e")(t.Context()))
	assert.Contains(t, screenText(m), "\nJob 42: It runs.\n")

	empty := &topModel{actions: actions}
	empty.update(topSize{80, 24})
	assert.Nil(t, press(empty, "p", "c", "d", "e", "Down", "Up", "Tab", "c", "d", "e", "Down", "Up"))
	assert.Empty(t, empty.question)
	assert.Contains(t, screenText(empty), "awa top: reading")
}

// What failed in the last reading that looked stays said until one looks again.
func TestTopKeepsWhatFailed(t *testing.T) {
	m := newTop(&fakeActions{})
	failed := twoQueues(2, 100)
	failed.findings, failed.errs = nil, map[string]error{topHealth: errors.New("slow")}
	m.update(failed)
	assert.Contains(t, screenText(m), "NO NEW HEALTH: slow")
	others := twoQueues(4, 100)
	others.findings = nil // not read
	m.update(others)
	assert.Contains(t, screenText(m), "NO NEW HEALTH: slow")
	assert.Contains(t, screenText(m), "critical: queue email: it waits")
	m.update(twoQueues(6, 100))
	assert.NotContains(t, screenText(m), "NO NEW HEALTH")
}

// A key changes what the cursor was put on, and nothing that a reading has put in its place.
func TestTopStaysAtWhatWasChosen(t *testing.T) {
	actions := &fakeActions{}
	m := newTop(actions)
	without := func(seconds int, job int, name string) {
		r := twoQueues(seconds, 100)
		r.running = slices.DeleteFunc(r.running, func(j listed) bool { return j.ID == int64(job) })
		r.queues = slices.DeleteFunc(r.queues, func(q queue) bool { return q.Queue == name })
		m.update(r)
	}
	press(m, "Tab", "Down")
	assert.Regexp(t, "^ +0s  42 ", at(m))
	without(2, 42, "")
	assert.Empty(t, at(m))
	for _, key := range []string{"c", "d", "e", "Enter"} {
		assert.Nil(t, press(m, key))
		assert.Empty(t, m.question, key)
		assert.Contains(t, screenText(m), "\nJob 42 is not among these any more: choose another one.\n", key)
	}
	assert.Nil(t, press(m, "y"))
	assert.Empty(t, actions.acts)
	press(m, "Down")
	assert.Regexp(t, "^ +3h  41 ", at(m))

	m = newTop(actions) // the first choice stays, too
	press(m, "Tab")
	assert.Regexp(t, "^ +3h  41 ", at(m))
	without(2, 41, "")
	assert.Nil(t, press(m, "c"))
	assert.Empty(t, m.question)
	press(m, "Tab", "Tab")
	assert.Regexp(t, "^ +0s  42 ", at(m))

	m = newTop(actions)
	assert.Contains(t, at(m), `s\u001b[2Jlow`)
	r := twoQueues(2, 100)
	r.queues[0].Available = 1000 // comes first now
	m.update(r)
	press(m, "p")
	assert.Contains(t, m.question, "Resume queue s")
	press(m, "n")
	without(4, 0, "s\x1b[2Jlow")
	assert.Nil(t, press(m, "p"))
	assert.Empty(t, m.question)
	assert.Contains(t, screenText(m), `low is not there any more: choose another one.`)
	assert.Empty(t, actions.acts)
}

// The loop on a screen that is none: keys reach the model, and what it does the database.
func TestTopLoop(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	execute(t, db, `select awa.enqueue('email', 'send', '{"token": "hunter2"}')`, "select awa.claim('email', 1)")
	v := newView("top", 10*time.Second, "", io.Discard, io.Discard)
	require.NoError(t, v.parse([]string{"--database-url", databaseURL}, 0, nil))
	require.NoError(t, v.open(t.Context()))
	defer v.close()
	source := &topSource{view: v}
	first := source.read(t.Context())
	require.Empty(t, first.errs)
	require.Len(t, first.running, 1)
	assert.Equal(t, `{"token": "***"}`, string(first.running[0].Args))
	assert.NotEmpty(t, first.findings)

	says, err := source.explain(t.Context(), first.running[0].ID)
	require.NoError(t, err)
	assert.Contains(t, says, "running")
	m := newTop(source)
	m.update(first)
	assert.NotContains(t, screenText(m), "it looked at")
	source.looks = 1
	execute(t, db, "select awa.enqueue('email', 'send')", "select awa.claim('email', 1)")
	second := source.read(t.Context())
	require.Len(t, second.running, 1)
	m.update(second)
	assert.Contains(t, screenText(m), "\nOf 2 running jobs, it looked at the 1 that were enqueued last.\n")

	screen := tcell.NewSimulationScreen("")
	require.NoError(t, screen.Init())
	screen.SetSize(120, 24)
	ended := make(chan error)
	go func() { ended <- topLoop(t.Context(), screen, &topModel{actions: source, every: time.Hour}, first) }()
	screen.InjectKey(tcell.KeyRune, 'p', tcell.ModNone)
	screen.InjectKey(tcell.KeyRune, 'y', tcell.ModNone)
	eventually(t, func() bool {
		var paused bool
		row := db.QueryRow(t.Context(), "select paused_at is not null from awa.list_queues() where queue = 'email'")
		require.NoError(t, row.Scan(&paused))
		return paused
	}, "the queue is not paused")
	screen.InjectKey(tcell.KeyRune, 'q', tcell.ModNone)
	require.NoError(t, <-ended)
	screen.Fini()
}

// awa top on a real terminal: it draws, takes a key, and a signal ends it.
func TestTopOnATerminal(t *testing.T) {
	databaseURL := testdb.URL(t)
	execute(t, testdb.Connect(t, databaseURL), "select awa.enqueue('email', 'send')")
	for _, end := range []string{"q", "SIGTERM"} {
		master, terminal := openTerminal(t, 100)
		process := watchProcess(t, databaseURL, "top")
		var stderr, out safeBuffer
		process.Stdin, process.Stdout, process.Stderr = terminal, terminal, &stderr
		process.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		require.NoError(t, process.Start())
		require.NoError(t, terminal.Close())
		copied := make(chan struct{})
		go func() { defer close(copied); io.Copy(&out, master) }()
		out.waitForText(t, "pause or resume")
		assert.Contains(t, out.String(), "email")
		if end == "q" {
			_, err := master.WriteString("q")
			require.NoError(t, err)
		} else {
			require.NoError(t, process.Process.Signal(syscall.SIGTERM))
		}
		assert.NoError(t, process.Wait(), "%s: %s", end, &stderr)
		<-copied
	}
	status, _, stderr := awa(t.Context(), "top", "--database-url", databaseURL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "stdout is no terminal")
}
