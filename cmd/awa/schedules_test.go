package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// schedules runs awa schedules, which succeeds, and returns what it prints.
func schedules(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := awa(t.Context(), append([]string{"schedules"}, args...)...)
	require.Zero(t, status, stderr)
	assert.Empty(t, stderr)
	return stdout
}

func TestSchedules(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	conn := testdb.Connect(t, databaseURL)
	assert.Equal(t, "There are no schedules.\n", schedules(t))
	assert.Equal(t, "[]\n", schedules(t, "--json"))
	execute(t, conn, `select awa.schedule('weekly report', 'reports', 'report', cron => '30 9 * * MON', `+
		`timezone => 'Europe/Berlin')`,
		`select awa.schedule('clean', 'q', 'clean', every => '1 month')`,
		`select awa.schedule('over', 'q', 'k', cron => '@daily', ends_at => now() - interval '1 day')`)

	listed := strings.Split(strings.TrimSpace(schedules(t, "list")), "\n")
	require.Len(t, listed, 4)
	assert.Regexp(t, `^NAME +TIMES +NEXT +LAST +LAST JOB +STATE$`, listed[0])
	assert.Regexp(t, `^clean +every 1 month \(UTC\) +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+00:00 +- +- +on time$`, listed[1])
	assert.Regexp(t, `^over +@daily \(UTC\) +- +- +- +ended$`, listed[2])
	assert.Regexp(t, `^weekly report +30 9 \* \* MON \(Europe/Berlin\) +\S+ 09:30:00 \+0[12]:00 +- +- +on time$`,
		listed[3])

	next := strings.Split(strings.TrimSpace(schedules(t, "next", "weekly report")), "\n")
	require.Len(t, next, 6)
	assert.Equal(t, "at 09:30, on Monday", next[0])
	var last time.Time
	for i, line := range next[1:] {
		at, err := time.Parse("2006-01-02 15:04:05 -07:00", line)
		require.NoError(t, err)
		assert.Equal(t, time.Monday, at.Weekday())
		if i > 0 { // an hour more or less where clocks change
			assert.InDelta(t, 7*24, at.Sub(last).Hours(), 1)
		}
		last = at
	}
	assert.Len(t, strings.Split(strings.TrimSpace(schedules(t, "next", "-n", "1", "weekly report")), "\n"), 2)
	assert.Regexp(t, `^\S+ \S+ \+00:00\nevery 1 month \(of an interval, the next time alone is shown\)\n$`,
		schedules(t, "next", "clean"))
	assert.Equal(t, "It has no time ahead.\n", schedules(t, "next", "over"))
	assert.Contains(t, schedules(t, "explain", "over"), "It has ended at ")

	assert.Equal(t, "It is paused.\n", schedules(t, "pause", "weekly report", "the figures\nare wrong"))
	assert.Regexp(t, `weekly report .* - +- +- +paused: the figures are wrong\n`, schedules(t))
	paused := schedules(t, "next", "weekly report", "-n", "2")
	assert.Regexp(t, `^It is paused: none of these .*\nat 09:30, on Monday\n.* 09:30:00 .*\n.* 09:30:00 .*\n$`, paused)

	id := regexp.MustCompile(`^Job (\d+) is enqueued.\n$`).FindStringSubmatch(schedules(t, "trigger", "weekly report"))
	require.NotNil(t, id)
	assert.Regexp(t, `weekly report .* `+id[1]+` available +paused: `, schedules(t))

	assert.Contains(t, schedules(t, "resume", "weekly report"), "It fires in ")
	var encoded []scheduleJSON
	require.NoError(t, json.Unmarshal([]byte(schedules(t, "list", "--json")), &encoded))
	require.Len(t, encoded, 3)
	assert.Equal(t, []string{"clean", "1 month", "on time", "over", "ended"},
		[]string{encoded[0].Name, encoded[0].Every, encoded[0].State, encoded[1].Name, encoded[1].State})
	require.NotNil(t, encoded[2].LastJobID)
	assert.Equal(t, id[1], fmt.Sprint(*encoded[2].LastJobID))
	assert.Equal(t, "available", encoded[2].LastJobState)
	assert.Nil(t, encoded[2].PausedAt)
	assert.NotNil(t, encoded[2].NextAt)
}

func TestWrongCallsOfSchedules(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{}, 1, "Pass --database-url, or set DATABASE_URL"},
		{[]string{"postgres://user:s3cret@localhost/db"}, 2, "argument 1 should be list, next"},
		{[]string{"next"}, 2, "next needs the name of a schedule"},
		{[]string{"resume", ""}, 2, "resume needs the name of a schedule"},
		{[]string{"list", "s3cret"}, 2, "list takes fewer arguments"},
		{[]string{"trigger", "weekly", "s3cret"}, 2, "trigger takes fewer arguments; quote a name"},
		{[]string{"pause", "weekly", "for", "s3cret"}, 2, "unexpected argument: argument 4"},
		{[]string{"explain", "postgres://user:s3cret@localhost/db"}, 2,
			"the name is the URL of a database: pass that by --database-url"},
		{[]string{"next", "s", "--json"}, 2, "--json is for list"},
		{[]string{"-n", "3"}, 2, "-n is for next"},
		{[]string{"next", "s", "-n", "0"}, 2, "for flag -n: should be a number from 1 to 1,000"},
		{[]string{"--database-url", "postgres:///db?host=/nowhere"}, 1, "Is the server running"},
	} {
		status, stdout, stderr := awa(t.Context(), append([]string{"schedules"}, test.args...)...)
		assert.Equal(t, test.status, status, test.args)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, test.stderr)
		assert.NotContains(t, stderr, "s3cret")
	}

	databaseURL := testdb.URL(t)
	for _, action := range []string{"next", "explain", "pause", "resume", "trigger"} {
		status, stdout, stderr := awa(t.Context(), "schedules", action, "none", "--database-url", databaseURL)
		assert.Equal(t, 1, status, action)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, "there is no schedule of this name")
	}
	admin := testdb.Connect(t, databaseURL)
	role := testRole(t, admin)
	execute(t, admin, "grant awa_reader to "+role, "select awa.schedule('s', 'q', 'k', cron => '@daily')")
	asReader := with(t, databaseURL, "options", "-c role="+role)
	status, stdout, stderr := awa(t.Context(), "schedules", "--database-url", asReader)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "@daily")
	status, _, stderr = awa(t.Context(), "schedules", "pause", "s", "--database-url", asReader)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "awa_operator to change jobs")
}

// How a schedule is, in one word, and its period in words.
func TestStateOfASchedule(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { return new(now.Add(d)) }
	soon, over := in(time.Hour), in(-time.Second)
	const full = "the queue is deeper than its max_depth (SQLSTATE JQ006)"
	for want, all := range map[string][]driver.ScheduleInfo{
		"on time":    {{NextAt: soon}, {NextAt: over}, {NextAt: soon, LastAt: over, MadeAt: now.Add(time.Minute)}},
		"late":       {{NextAt: in(-2 * time.Minute)}},
		"ended":      {{}, {LastAt: over}},
		"waiting":    {{NextAt: over, WaitingAt: over}},
		"queue full": {{NextAt: over, Error: full}, {NextAt: soon, WaitingAt: over, Error: full}},
		"failing":    {{NextAt: over, Failures: 3, Error: "no such zone"}, {NextAt: soon, Error: "refused"}},
		"paused":     {{PausedAt: over, Failures: 3, Error: full, LastAt: soon}},
		"ahead": {{NextAt: soon, IsAhead: true}, {WaitingAt: soon, IsAhead: true},
			{FailedAt: soon, Error: full, IsAhead: true}},
	} {
		for _, s := range all {
			state, _ := stateOf(s, now)
			assert.Equal(t, want, state, "%+v", s)
		}
	}
}

// A name may be a URL. What the command shows of a schedule has its times in the schedule's zone, and as JSON all that
// list_schedules returns.
func TestSchedulesInAZone(t *testing.T) {
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	conn := testdb.Connect(t, databaseURL)
	const name = "s3://reports@eu?x"
	execute(t, conn, `select awa.schedule('`+name+`', 'q', 'k', cron => '0 9 * * *', timezone => 'Pacific/Chatham', `+
		`priority => 3, tags => '{a}', metadata => '{"b": 1}', missed_for => '3 days')`)
	assert.Regexp(t, `at \d{4}-\d\d-\d\d 09:00:00\+1[23]:45`, schedules(t, "explain", name))
	assert.Equal(t, "It is paused.\n", schedules(t, "pause", name))
	assert.Regexp(t, `paused since \d{4}-\d\d-\d\d [\d:.]+\+1[23]:45`, schedules(t, "explain", name))
	assert.Regexp(t, `at \d{4}-\d\d-\d\d 09:00:00\+1[23]:45`, schedules(t, "resume", name))
	assert.Regexp(t, `(.* 09:00:00 \+1[23]:45\n){5}$`, schedules(t, "next", name))
	execute(t, conn, `update awa.schedules set error = awa._refusal('deep', 'JQ006'), waiting_tick = made_at`)
	assert.Regexp(t, ` queue full: deep \(SQLSTATE JQ006\)\n$`, schedules(t))
	execute(t, conn, `update awa.schedules set decided_until = now() + '1 day'`) // by a clock that was ahead
	assert.Regexp(t, ` ahead: the clock of the server was ahead; `, schedules(t))
	execute(t, conn, `update awa.schedules set decided_until = now()`)

	var encoded []map[string]any
	require.NoError(t, json.Unmarshal([]byte(schedules(t, "--json")), &encoded))
	require.Len(t, encoded, 1)
	rows, err := conn.Query(t.Context(), "select * from awa.list_schedules()")
	require.NoError(t, err)
	for _, column := range rows.FieldDescriptions() {
		assert.Contains(t, encoded[0], column.Name)
	}
	rows.Close()
	assert.Equal(t, []any{"queue full", 3.0, []any{"a"}, map[string]any{"b": 1.0}, nil},
		[]any{encoded[0]["state"], encoded[0]["priority"], encoded[0]["tags"], encoded[0]["metadata"],
			encoded[0]["max_attempts"]})
	assert.NotNil(t, encoded[0]["waiting_at"])
	execute(t, conn, "update awa.schedules set timezone = 'Europe/Atlantis', error = null, waiting_tick = null")
	assert.Contains(t, schedules(t, "explain", name), ":00+00. ", "a zone that is gone")
}
