//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

func TestActionsOnSomeJobs(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	var ids []string
	for range 6 {
		ids = append(ids, number(enqueued(t, db, `select awa.enqueue('q', 'k', '{"token": "hunter2"}')`)))
	}
	state := func(id string) (state string) {
		row := db.QueryRow(t.Context(),
			"select queue || ' ' || state || ' ' || priority from awa.jobs where id = $1::text::bigint", id)
		require.NoError(t, row.Scan(&state))
		return state
	}

	// Without --yes nothing is changed.
	preview := readJSON[map[string]any](t, "job", "cancel", ids[0], ids[1], "--reason", "why")
	assert.Equal(t, []string{"action", "count", "is_exact", "jobs", "options"}, keys(preview))
	assert.Equal(t, []any{"cancel", json.Number("2"), map[string]any{"reason": "why"}},
		[]any{preview["action"], preview["count"], preview["options"]})
	assert.NotContains(t, fmt.Sprint(preview), "hunter2")
	_, stdout, _ := onTerminal(t, 120, "job", "cancel", ids[0])
	assert.Contains(t, stdout, "\ncancel: 1 job. Nothing was changed; --yes does it.\n")
	assert.Equal(t, "q available 2", state(ids[0]))

	_, stdout, _ = onTerminal(t, 120, "job", "cancel", ids[0], "--yes", "--reason", "why", "--actor", "ada")
	assert.Equal(t, fmt.Sprintf("Job %s was available, and is cancelled.\n", ids[0]), stdout)
	assert.Equal(t, "q cancelled 2", state(ids[0]))
	changes := readJSON[[]map[string]any](t, "changes")
	require.Len(t, changes, 1)
	assert.Equal(t, []any{"cancel", "ada", "why"},
		[]any{changes[0]["action"], changes[0]["actor"], changes[0]["options"].(map[string]any)["reason"]})
	for _, c := range []struct{ args, state string }{
		{"discard " + ids[1], "q dead 2"}, {"move --to-queue slow " + ids[2], "slow available 2"},
		{"set-priority --priority 1 " + ids[3], "q available 1"},
		{"retry --to-queue slow --priority 4 --run-at 2099-01-01T00:00:00Z " + ids[0], "slow scheduled 4"},
	} {
		done := readJSON[[]map[string]any](t, append(strings.Fields("job "+c.args), "--yes")...)
		require.Len(t, done, 1, c.args)
		assert.Equal(t, c.state, state(fmt.Sprint(done[0]["id"])), c.args)
	}
	readJSON[any](t, "dlq", "delete", ids[1], "--yes")
	assert.Empty(t, readJSON[[]any](t, "dlq"))

	// What fails is said, and the others are changed.
	status, stdout, stderr := awa(t.Context(), "job", "delete", ids[4], ids[2], "999", "--yes")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "3 jobs were not changed")
	assert.Contains(t, stdout, "available")
	status, _, stderr = awa(t.Context(), "job", "cancel", ids[4], "999", "--yes", "--json=false")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "awa: job 999: ")
	assert.Equal(t, "q cancelled 2", state(ids[4]))
	status, _, stderr = awa(t.Context(), "job", "cancel", "999")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "job 999: there is no job of this id")
}

// awa dlq changes dead letters, and no other job of these ids.
func TestActionsOnDeadLettersAlone(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	execute(t, db, "select awa.enqueue('q', 'k')", "select awa.complete(c.job_id, c.receipt) from awa.claim('q', 1) c")
	completed := number(enqueued(t, db, "select max(id) from awa.jobs"))
	cancelled := number(enqueued(t, db, "select awa.enqueue('q', 'k')"))
	dead := number(enqueued(t, db, "select awa.enqueue('q', 'k')"))
	execute(t, db, "select awa.cancel("+cancelled+")", "select awa.discard_job("+dead+")")
	for _, c := range []struct{ action, id, is string }{
		{"delete", completed, "completed"}, {"delete", cancelled, "cancelled"}, {"retry", cancelled, "cancelled"},
	} {
		complaint := "job " + c.id + ": it is no dead letter, but " + c.is + ": awa job changes jobs in other states\n"
		status, stdout, stderr := awa(t.Context(), "dlq", c.action, c.id)
		assert.Equal(t, 1, status, c)
		assert.Empty(t, stdout)
		assert.Equal(t, "awa: "+complaint, stderr)
		status, stdout, stderr = awa(t.Context(), "dlq", c.action, c.id, "--yes", "--json=false", "--actor", "ada")
		assert.Equal(t, 1, status, c)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, complaint)
		assert.Equal(t, c.is, readJSON[map[string]any](t, "job", c.id)["state"])
	}
	assert.Empty(t, readJSON[[]any](t, "changes"))
	readJSON[any](t, "dlq", "delete", dead, "--yes")
}

// What was changed before a signal is said, also as JSON.
func TestInterruptedActionsAreSaid(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	holder, look := testdb.Connect(t, databaseURL), testdb.Connect(t, databaseURL)
	execute(t, look, `select awa.configure('{"claim_wait": "1 hour"}')`)
	const later = "select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')"
	first, second := enqueued(t, look, later), enqueued(t, look, later)
	execute(t, holder, "begin", fmt.Sprintf("select awa.cancel(%d)", second))
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		status         int
		stdout, stderr string
	}
	ended := make(chan result)
	go func() {
		var r result
		r.status, r.stdout, r.stderr = awa(ctx, "job", "cancel", number(first), number(second), "--yes", "--timeout", "1h")
		ended <- r
	}()
	eventually(t, func() bool {
		var waits bool
		require.NoError(t, look.QueryRow(t.Context(), `select exists (select from pg_stat_activity a
			where a.datname = current_database() and a.wait_event_type = 'Lock')`).Scan(&waits))
		return waits
	}, "the second one waits")
	cancel()
	r := <-ended
	assert.NotZero(t, r.status)
	assert.Contains(t, r.stderr, "interrupted")
	assert.JSONEq(t, fmt.Sprintf(`[{"id": %d, "was": "scheduled"}]`, first), r.stdout)
}

func TestActionsOnAllThatMatch(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	execute(t, db, "select awa.enqueue('other', 'k')", `select awa.enqueue_many('q', 'k', array(
		select jsonb_build_object('n', i % 2) from generate_series(1, 30) i))`)
	available := func(queue string) (n int) {
		require.NoError(t, db.QueryRow(t.Context(), "select available from awa.queue_counts($1)", queue).Scan(&n))
		return n
	}

	preview := readJSON[map[string]any](t, "jobs", "cancel", "--queue", "q")
	assert.Equal(t, []string{"action", "count", "filter", "is_exact", "options"}, keys(preview))
	assert.Equal(t, []any{json.Number("30"), true, map[string]any{"queue": "q"}},
		[]any{preview["count"], preview["is_exact"], preview["filter"]})
	_, stdout, _ := onTerminal(t, 80, "jobs", "set-priority", "--priority", "4", "--args", `{"n": 1}`, "--kind", "k")
	assert.Equal(t, "set-priority: 15 jobs. Nothing was changed; --yes starts it.\n", stdout)
	assert.Equal(t, 30, available("q"))
	assert.Empty(t, readJSON[[]any](t, "changes"))

	begun := readJSON[map[string]any](t,
		"jobs", "cancel", "--queue", "q", "--args", `{"n": 1}`, "--yes", "--actor", "ada")
	id := fmt.Sprint(begun["change_id"])
	changes := readJSON[[]map[string]any](t, "changes", "--state", "running")
	require.Len(t, changes, 1)
	assert.Equal(t, []string{
		"action", "actor", "change_id", "changed", "ended_at", "filter", "filter_start", "found", "last_error", "options",
		"skipped", "started_at", "started_by", "state",
	}, keys(changes[0]))
	_, stdout, _ = onTerminal(t, 140, "changes")
	assert.Regexp(t, `\n *`+id+`  cancel  running +\d+s +0 +0  ada \(\S+\) +{"args": {"n": 1}, "queue": "q"}\n$`, stdout)
	_, stdout, _ = onTerminal(t, 80, "changes", "stop", id)
	assert.Equal(t, "It is stopped: no more jobs are changed.\n", stdout)
	assert.Equal(t, 30, available("q"))
	assert.Len(t, readJSON[[]any](t, "changes", "--state", "stopped"), 1)
	status, _, stderr := awa(t.Context(), "changes", "stop", "999")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "no such change")

	// Whoever waits sees the end, which maintenance brings.
	result := make(chan string)
	go func() {
		_, stdout, stderr := awa(t.Context(), "jobs", "move", "--queue", "q", "--args", `{"n": 1}`, "--to-queue", "slow",
			"--yes", "--wait", "--json=false")
		result <- stdout + stderr
	}()
	maintainer := testdb.Connect(t, databaseURL)
	eventually(t, func() bool {
		execute(t, maintainer, "select awa.apply_changes()")
		var ended int
		row := maintainer.QueryRow(t.Context(), "select count(*) from awa.list_changes('finished')")
		require.NoError(t, row.Scan(&ended))
		return ended == 1
	}, "the change ends")
	assert.Regexp(t, `^Change \d+ is finished: 15 jobs changed, 0 skipped.\n$`, <-result)
	assert.Equal(t, []int{15, 15}, []int{available("q"), available("slow")})

	execute(t, db, "select awa.discard_job(id) from awa.jobs where queue = 'slow'")
	preview = readJSON[map[string]any](t, "dlq", "retry", "--kind", "k", "--over", "2h", "--to-queue", "q")
	assert.Equal(t, []any{json.Number("15"), "dead", json.Number("7200")}, []any{preview["count"],
		preview["filter"].(map[string]any)["state"], preview["options"].(map[string]any)["over"]})
	readJSON[any](t, "dlq", "retry", "--kind", "k", "--over", "2h", "--to-queue", "q", "--yes")
	assert.Equal(t, "retry", readJSON[[]map[string]any](t, "changes")[0]["action"])
}

func TestActionsOnQueues(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	db := testdb.Connect(t, databaseURL)
	status, _, stderr := awa(t.Context(), "queues", "pause", "tpyo")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "there is no queue of this name")
	assert.Contains(t, stderr, "--create makes one")
	assert.Empty(t, readJSON[[]any](t, "queues"))
	execute(t, db, "select awa.enqueue('q', 'k')")
	_, stdout, _ := onTerminal(t, 80, "queues", "pause", "q")
	assert.Equal(t, "It is paused.\n", stdout)
	assert.NotNil(t, readJSON[[]map[string]any](t, "queues")[0]["paused_at"])
	assert.Equal(t, map[string]any{"queue": "q", "done": true},
		readJSON[map[string]any](t, "queues", "resume", "q"))
	assert.Empty(t, readJSON[[]any](t, "changes"))
	for _, command := range []string{"pause q", "resume q", "configure q lease=90"} {
		readJSON[any](t, append([]string{"queues", "--actor", "ada"}, strings.Fields(command)...)...)
	}
	_, stdout, _ = onTerminal(t, 200, "changes")
	assert.Regexp(t, `(?m)^ +\d+  configure_queue  finished +\d+s +0 +0  ada \(\S+\) +{"queue": "q"} `+
		`{"settings": {"lease": "00:01:30"}}\n.*  resume_queue .* {"queue": "q"}\n.*  pause_queue .* {"queue": "q"}$`, stdout)
	readJSON[any](t, "queues", "configure", "new", "lease=5 minutes", `rate={"jobs": 100, "per": "1 minute"}`,
		"max_running=10", "deadline=null", "--create")
	q := readJSON[map[string]any](t, "queues", "new")["queue"].(map[string]any)
	assert.Equal(t, []any{"00:05:00", json.Number("10"), nil}, []any{q["lease"], q["max_running"], q["deadline"]})
	status, _, stderr = awa(t.Context(), "queues", "configure", "q", "leese=1")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "leese")
}

func TestFlagsOfActions(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres:///db?host=/nowhere")
	for command, complaint := range map[string]string{
		"jobs --yes":                               "--yes has no meaning for a list",
		"jobs nonsense --queue q":                  "argument 1 should be cancel, delete, discard, move, ",
		"jobs cancel":                              "cancel needs a filter",
		"jobs cancel --queue q --limit 3":          "--limit has no meaning for cancel",
		"jobs cancel --queue q --watch":            "--watch has no meaning for cancel",
		"jobs cancel --queue q --priority 3":       "--priority has no meaning for cancel",
		"jobs cancel --queue q --over 1h":          "--over has no meaning for cancel",
		"jobs cancel --queue q --wait":             "--wait has no meaning without --yes",
		"jobs cancel --state completed":            "--state should be one that cancel changes: scheduled, ",
		"jobs move --queue q":                      "move needs --to-queue",
		"jobs set-priority --queue q":              "set-priority needs --priority",
		"jobs set-priority --queue q --priority 5": "for flag -priority: should be a number from 1 to 4",
		"jobs retry --queue q --run-at hunter2":    "for flag -run-at: should be a time as 2031-",
		"jobs retry --before hunter2":              "for flag -before: should be a time as 2031-",
		"jobs retry --queue q --over hunter2":      "for flag -over: should be a positive duration",
		"job cancel":                               "cancel needs the ids of jobs",
		"job cancel hunter2":                       "argument 2 should be the id of a job",
		"job cancel 1 --explain":                   "--explain has no meaning for cancel",
		"job 1 --yes":                              "--yes has no meaning for one job",
		"job 1 2":                                  "unexpected argument: argument 2",
		"dlq cancel 1":                             "argument 1 should be retry or delete",
		"dlq retry":                                "retry needs a filter",
		"dlq delete 1 --queue q":                   "--queue has no meaning for delete",
		"queues hunter2 q":                         "argument 1 should be pause, resume or configure",
		"queues configure q":                       "configure needs a SETTING=VALUE",
		"queues configure q hunter2":               "argument 3 should be SETTING=VALUE",
		"queues resume q --create":                 "--create has no meaning for resume",
		"queues pause q a=b":                       "pause takes fewer arguments",
		"changes hunter2":                          "argument 1 should be stop",
		"changes stop":                             "stop needs the id of a change",
		"changes stop hunter2":                     "argument 2 should be the id of a change",
		"changes stop 1 --limit 3":                 "--limit has no meaning for stop",
		"changes --state hunter2":                  "for flag -state: should be running, stopped or finished",
	} {
		status, stdout, stderr := awa(t.Context(), strings.Fields(command)...)
		assert.Equal(t, 2, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, complaint, command)
		assert.NotContains(t, stderr, "hunter2", command)
	}
}

// A reader sees what would be changed, and may change nothing.
func TestReadersChangeNothing(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	role := testRole(t, admin)
	execute(t, admin, "alter role "+role+" login", "grant awa_reader to "+role, "select awa.enqueue('q', 'k')",
		"select awa.start_change('cancel', '{\"queue\": \"nobody\"}')")
	id := number(enqueued(t, admin, "select max(id) from awa.jobs"))
	t.Setenv("DATABASE_URL", with(t, databaseURL, "user", role))
	for _, command := range []string{
		"job cancel JOB", "job discard JOB", "job retry JOB", "job move JOB --to-queue other",
		"job set-priority JOB --priority 1", "job delete JOB", "jobs cancel --queue q", "jobs retry --queue q",
		"jobs delete --queue q", "dlq retry --kind k",
	} {
		args := strings.Fields(strings.ReplaceAll(command, "JOB", id))
		status, _, stderr := awa(t.Context(), args...)
		assert.Zero(t, status, "%s: %s", command, stderr)
		status, stdout, stderr := awa(t.Context(), append(args, "--yes")...)
		assert.Equal(t, 1, status, command)
		assert.Contains(t, stdout+stderr, "the role of this login may not do that: ", command)
	}
	for _, command := range []string{
		"queues pause q", "queues resume q", "queues configure q lease=1", "changes stop 1",
	} {
		status, _, stderr := awa(t.Context(), strings.Fields(command)...)
		assert.Equal(t, 1, status, command)
		assert.Contains(t, stderr, "the role of this login may not do that: ", command)
		assert.Contains(t, stderr, "awa_operator", command)
	}
	var intact bool
	require.NoError(t, admin.QueryRow(t.Context(), `select available = 1 from awa.queue_counts('q')`).Scan(&intact))
	assert.True(t, intact)
}
