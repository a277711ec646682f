package driver_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// A schedule is listed as it was made, in each of its fields.
func TestSchedule(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	starts := time.Date(2090, 5, 1, 7, 30, 0, 123456000, time.UTC)
	ends := starts.AddDate(1, 0, 0)
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{
		Name: "full", Cron: "30 9 * * MON-FRI", Timezone: "Europe/Berlin", Missed: "all", MissedFor: 36 * time.Hour,
		Overlap: "skip", StartsAt: starts, EndsAt: ends, Args: note{Text: "→"}, Queue: "reports", Priority: 1,
		MaxAttempts: 3, Tags: []string{"a", "b"}, Metadata: map[string]any{"m": 1}, GroupKey: "g",
	}))
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "brief", Every: 2 * driver.Month, Args: note{}}))
	listed, err := client.ListSchedules(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 2)

	brief, full := listed[0], listed[1]
	assert.Equal(t, 2*driver.Month, brief.Every)
	assert.Empty(t, brief.Cron)
	assert.Equal(t, driver.DefaultQueue, brief.Queue)
	assert.Equal(t, []string{"UTC", "latest", "allow"}, []string{brief.Timezone, brief.Missed, brief.Overlap})
	assert.Equal(t, driver.Day, brief.MissedFor)
	assert.Nil(t, brief.StartsAt)
	assert.Zero(t, brief.Priority)
	require.NotNil(t, brief.NextAt)
	assert.Greater(t, time.Until(*brief.NextAt), 58*driver.Day)

	assert.Equal(t, []string{"full", "30 9 * * MON-FRI", "Europe/Berlin", "all", "skip", "reports", "note", "g"},
		[]string{full.Name, full.Cron, full.Timezone, full.Missed, full.Overlap, full.Queue, full.Kind, full.GroupKey})
	assert.Zero(t, full.Every)
	assert.Equal(t, 36*time.Hour, full.MissedFor)
	assert.Equal(t, starts, full.StartsAt.UTC())
	assert.Equal(t, ends, full.EndsAt.UTC())
	assert.JSONEq(t, `{"text": "→"}`, string(full.Args))
	assert.JSONEq(t, `{"m": 1}`, string(full.Metadata))
	assert.Equal(t, []string{"a", "b"}, full.Tags)
	assert.Equal(t, []int{1, 3}, []int{full.Priority, full.MaxAttempts})
	assert.Equal(t, starts.Truncate(time.Hour*24).Add(24*time.Hour+7*time.Hour+30*time.Minute), full.NextAt.UTC())
	assert.Equal(t, "postgres", full.ChangedBy)
	assert.Empty(t, full.Source)
	assert.Zero(t, full.TimesMissed+full.TimesSkipped+int64(full.Failures))
}

func TestChangesOfASchedule(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "s", Cron: "@daily", Args: note{Text: "x"}}))
	read := func() driver.ScheduleInfo {
		listed, err := client.ListSchedules(t.Context())
		require.NoError(t, err)
		require.Len(t, listed, 1)
		return listed[0]
	}

	require.NoError(t, client.PauseSchedule(t.Context(), "s", "too early"))
	assert.Equal(t, "too early", read().PauseReason)
	assert.Equal(t, "postgres", read().PausedBy)
	assert.NotNil(t, read().PausedAt)
	assert.Nil(t, read().NextAt)
	says, err := client.ExplainSchedule(t.Context(), "s")
	require.NoError(t, err)
	assert.Contains(t, says, "too early")

	id, err := client.TriggerSchedule(t.Context(), "s")
	require.NoError(t, err)
	job, err := client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "note", job.Kind)
	assert.JSONEq(t, `{"text": "x"}`, string(job.Args))
	assert.Equal(t, id, *read().LastJobID)
	assert.Equal(t, "available", read().LastJobState)

	require.NoError(t, client.ResumeSchedule(t.Context(), "s"))
	assert.Nil(t, read().PausedAt)
	assert.NotNil(t, read().NextAt)

	to := time.Date(2026, 1, 11, 0, 0, 0, 0, time.UTC)
	var ids []int64
	for {
		some, err := client.BackfillSchedule(t.Context(), "s", to.AddDate(0, 0, -10), to, driver.BackfillOptions{MaxJobs: 4})
		require.NoError(t, err)
		if len(some) == 0 {
			break
		}
		ids = append(ids, some...)
	}
	assert.Len(t, ids, 10)
	again, err := client.BackfillSchedule(t.Context(), "s", to.AddDate(0, 0, -10), to,
		driver.BackfillOptions{Repeat: true})
	require.NoError(t, err)
	assert.Len(t, again, 10)

	require.NoError(t, client.Unschedule(t.Context(), "s"))
	listed, err := client.ListSchedules(t.Context())
	require.NoError(t, err)
	assert.Empty(t, listed)
}

// Each change is a part of the caller's transaction.
func TestSchedulesInATransaction(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	kept := driver.Schedule{Name: "kept", Cron: "@daily", Args: note{}}
	require.NoError(t, client.Schedule(t.Context(), kept))
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	require.NoError(t, client.ScheduleTx(t.Context(), tx, driver.Schedule{Name: "new", Every: time.Hour, Args: note{}}))
	require.NoError(t, client.PauseScheduleTx(t.Context(), tx, "kept", ""))
	_, err = client.TriggerScheduleTx(t.Context(), tx, "kept")
	require.NoError(t, err)
	_, err = client.BackfillScheduleTx(t.Context(), tx, "kept", time.Now().AddDate(0, 0, -3), time.Now(),
		driver.BackfillOptions{})
	require.NoError(t, err)
	require.NoError(t, client.ResumeScheduleTx(t.Context(), tx, "new"))
	applied, err := client.SyncSchedulesTx(t.Context(), tx, "p", []driver.Schedule{{Name: "p", Cron: "@daily",
		Args: note{}}}, 0)
	require.NoError(t, err)
	assert.True(t, applied)
	require.NoError(t, client.UnscheduleTx(t.Context(), tx, "new"))
	require.NoError(t, tx.Rollback(t.Context()))

	listed, err := client.ListSchedules(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 1)
	assert.Equal(t, "kept", listed[0].Name)
	assert.Nil(t, listed[0].PausedAt)
	assert.Nil(t, listed[0].LastJobID)
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.jobs"))
}

func TestRefusalsOfSchedules(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	for field, schedule := range map[string]driver.Schedule{
		"Args":         {Name: "s", Cron: "@daily"},
		"name":         {Cron: "@daily", Args: note{}},
		"every must":   {Name: "s", Args: note{}},
		"not both":     {Name: "s", Cron: "@daily", Every: time.Hour, Args: note{}},
		"every":        {Name: "s", Every: -time.Hour, Args: note{}},
		"hour":         {Name: "s", Cron: "0 25 * * *", Args: note{}},
		"timezone":     {Name: "s", Cron: "@daily", Timezone: "Berln2", Args: note{}},
		"missed":       {Name: "s", Cron: "@daily", Missed: "never", Args: note{}},
		"missed_for":   {Name: "s", Cron: "@daily", MissedFor: time.Millisecond, Args: note{}},
		"overlap":      {Name: "s", Cron: "@daily", Overlap: "never", Args: note{}},
		"StartsAt":     {Name: "s", Cron: "@daily", StartsAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), Args: note{}},
		"ends_at":      {Name: "s", Cron: "@daily", StartsAt: time.Now(), EndsAt: time.Unix(0, 0), Args: note{}},
		"priority":     {Name: "s", Cron: "@daily", Priority: 5, Args: note{}},
		"max_attempts": {Name: "s", Cron: "@daily", MaxAttempts: -1, Args: note{}},
		"metadata":     {Name: "s", Cron: "@daily", Metadata: []int{1}, Args: note{}},
	} {
		err := client.Schedule(t.Context(), schedule)
		require.ErrorIs(t, err, driver.ErrInvalidArgument, field)
		assert.ErrorContains(t, err, field)
		assert.ErrorContains(t, err, `schedule "`+schedule.Name+`"`)
		_, err = client.SyncSchedules(t.Context(), "p", []driver.Schedule{{Name: "good", Cron: "@daily", Args: note{}},
			schedule}, 0)
		require.ErrorIs(t, err, driver.ErrInvalidArgument, field)
		assert.ErrorContains(t, err, field)
		if schedule.Name != "" {
			assert.ErrorContains(t, err, schedule.Name)
		}
	}
	for _, call := range []func() error{
		func() error { return client.Unschedule(t.Context(), "none") },
		func() error { return client.PauseSchedule(t.Context(), "none", "") },
		func() error { return client.ResumeSchedule(t.Context(), "none") },
		func() error { _, err := client.TriggerSchedule(t.Context(), "none"); return err },
		func() error { _, err := client.ExplainSchedule(t.Context(), "none"); return err },
		func() error {
			_, err := client.BackfillSchedule(t.Context(), "none", time.Unix(0, 0), time.Unix(1, 0), driver.BackfillOptions{})
			return err
		},
	} {
		err := call()
		require.ErrorIs(t, err, driver.ErrNoSuchSchedule)
		assert.ErrorContains(t, err, `schedule "none"`)
	}
	for field, times := range map[string][2]time.Time{
		"from must be given":        {{}, time.Now()},
		"to must be given":          {time.Unix(0, 0), {}},
		"from must be between 4713": {time.Unix(1<<62, 0), time.Now()},
		"to must be a time, and":    {time.Now(), time.Now().Add(-time.Hour)},
	} {
		_, err := client.BackfillSchedule(t.Context(), "s", times[0], times[1], driver.BackfillOptions{})
		require.ErrorIs(t, err, driver.ErrInvalidArgument, field)
		assert.ErrorContains(t, err, field)
	}
	listed, err := client.ListSchedules(t.Context())
	require.NoError(t, err)
	assert.Empty(t, listed)
}

// An interval of months, days and less is shown as it is, though none of these has a fixed length.
func TestIntervalsOfSchedules(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	want := map[string]string{
		"1 year": "1 year", "18 months": "18 months", "14 days": "2 weeks", "3 days": "3 days", "90 minutes": "1h30m0s",
		"1 month": "1 month", "1 month 3 days": "1 month 3 days", "2 years 7 days 1.5 seconds": "2 years 1 week 1.5s",
		"36 hours": "36h0m0s",
	}
	for every := range want {
		execute(t, pool, "select awa.schedule($1, 'q', 'k', every => $1::text::interval)", every)
	}
	listed, err := client.ListSchedules(t.Context())
	require.NoError(t, err)
	got := map[string]string{}
	for _, s := range listed {
		got[s.Name] = s.EveryText
	}
	assert.Equal(t, want, got)
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "cron", Cron: "@daily", Args: note{}}))
	listed, err = client.ListSchedules(t.Context())
	require.NoError(t, err)
	assert.Empty(t, listed[len(listed)-1].EveryText)
}

func TestNextFires(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	after := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	times, err := client.NextFires(t.Context(), "30 2 * * *", "Europe/Berlin", after, 2)
	require.NoError(t, err)
	require.Len(t, times, 2)
	assert.Equal(t, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), times[0].UTC(), "right after the jump")
	assert.Equal(t, time.Date(2026, 3, 30, 0, 30, 0, 0, time.UTC), times[1].UTC())
	times, err = client.NextFires(t.Context(), "@hourly", "", time.Time{}, 0)
	require.NoError(t, err)
	require.Len(t, times, 5)
	assert.WithinDuration(t, time.Now().Add(30*time.Minute), times[0], 31*time.Minute)
	_, err = client.NextFires(t.Context(), "@reboot", "", time.Time{}, 0)
	require.ErrorIs(t, err, driver.ErrInvalidArgument)
	assert.ErrorContains(t, err, "@reboot")

	says, err := client.DescribeCron(t.Context(), "0 12 13 * FRI")
	require.NoError(t, err)
	assert.Equal(t, "at 12:00, on day 13 of the month or on Friday", says)
	_, err = client.DescribeCron(t.Context(), "0 0 30 2 *")
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
}

// scheduled returns handlers with a schedule each second, and a channel of what its jobs say.
func scheduled(schedules ...driver.Schedule) (*driver.Handlers, <-chan time.Time) {
	fired := make(chan time.Time, 100)
	h := handle(func(_ context.Context, job *driver.Job[note]) error {
		if name, at, ok := job.Schedule(); ok && name == "tick" {
			fired <- at
		}
		return nil
	})
	h.Schedule(schedules...)
	return h, fired
}

var tick = driver.Schedule{Name: "tick", Cron: "* * * * * *", Args: note{Text: "tick"}}

func scheduleNames(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	listed, err := driver.NewClient(pool).ListSchedules(t.Context())
	require.NoError(t, err)
	names := []string{}
	for _, s := range listed {
		names = append(names, s.Name)
	}
	return names
}

// A worker makes the schedules that are declared beside its handlers, and fires them. Its handlers get the nominal
// time, of each job another one. The next release removes what it does not declare.
func TestDeclaredSchedules(t *testing.T) {
	pool := testdb.New(t)
	cfg := driver.WorkerConfig{ScheduleSource: "shop", ScheduleRevision: 1}
	h, fired := scheduled(tick, driver.Schedule{Name: "old", Cron: "@daily", Args: note{}})
	stop := runWorker(t, pool, h, cfg)
	first, second := receive(t, fired), receive(t, fired)
	assert.Zero(t, first.Nanosecond())
	assert.NotEqual(t, first, second)
	assert.Equal(t, []string{"old", "tick"}, scheduleNames(t, pool))
	require.NoError(t, stop())

	cfg.ScheduleRevision = 2
	h, fired = scheduled(tick)
	stop = runWorker(t, pool, h, cfg)
	assert.True(t, receive(t, fired).After(second))
	assert.Equal(t, []string{"tick"}, scheduleNames(t, pool))
	require.NoError(t, stop())

	// an old release that starts again
	var log syncBuffer
	cfg.ScheduleRevision, cfg.Logger = 1, slog.New(slog.NewTextHandler(&log, nil))
	h, fired = scheduled(driver.Schedule{Name: "old", Cron: "@daily", Args: note{}})
	stop = runWorker(t, pool, h, cfg)
	receive(t, fired)
	assert.Equal(t, []string{"tick"}, scheduleNames(t, pool))
	assert.Contains(t, log.String(), "level=INFO")
	assert.Contains(t, log.String(), "a higher revision before")
	assert.Contains(t, log.String(), "source=shop revision=1")
	require.NoError(t, stop())

	// a release without schedules
	cfg.ScheduleRevision = 3
	stop = runWorker(t, pool, driver.NewHandlers(), cfg)
	waitFor(t, func() bool { return len(scheduleNames(t, pool)) == 0 }, "the schedules are not removed")
	require.NoError(t, stop())
}

// A worker without schedules, and without a source, leaves all of them alone.
func TestWorkerWithoutSchedules(t *testing.T) {
	pool := testdb.New(t)
	require.NoError(t, driver.NewClient(pool).Schedule(t.Context(), tick))
	h, fired := scheduled()
	runWorker(t, pool, h, driver.WorkerConfig{})
	receive(t, fired)
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.schedule_sources"))
}

// The worker does not start with schedules that the server refuses. It says which one, and leaves nothing behind.
func TestDeclaredSchedulesThatAreRefused(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	require.NoError(t, client.Schedule(t.Context(), driver.Schedule{Name: "by hand", Cron: "@daily", Args: note{}}))
	_, err := client.SyncSchedules(t.Context(), "shop", []driver.Schedule{tick}, 7)
	require.NoError(t, err)
	for _, test := range []struct {
		schedule driver.Schedule
		cfg      driver.WorkerConfig
		says     []string
	}{
		{tick, driver.WorkerConfig{}, []string{"ScheduleSource must name this program"}},
		{driver.Schedule{Name: "bad", Cron: "0 25 * * *", Args: note{}}, driver.WorkerConfig{ScheduleSource: "shop"},
			[]string{`source "shop"`, "(bad)", "hour", "22023"}},
		{driver.Schedule{Name: "by hand", Cron: "@daily", Args: note{}}, driver.WorkerConfig{ScheduleSource: "shop"},
			[]string{"by hand", "name belongs to a schedule that was made by hand"}},
		{tick, driver.WorkerConfig{ScheduleSource: "other"}, []string{`source "other"`, "of source shop"}},
		{driver.Schedule{Name: "tick", Cron: "@daily", Args: note{}},
			driver.WorkerConfig{ScheduleSource: "shop", ScheduleRevision: 7}, []string{"revision", "7"}},
	} {
		h, _ := scheduled(test.schedule)
		test.cfg.Logger = logger(t)
		w, err := driver.NewWorker(pool, h, test.cfg)
		require.NoError(t, err)
		err = w.Run(t.Context())
		for _, text := range test.says {
			assert.ErrorContains(t, err, text)
		}
	}
	assert.Equal(t, []string{"by hand", "tick"}, scheduleNames(t, pool))
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.workers"))

	h, _ := scheduled(driver.Schedule{Name: "bad", Cron: "@daily", Args: unencodable{}})
	_, err = driver.NewWorker(pool, h, driver.WorkerConfig{})
	assert.ErrorContains(t, err, `schedule "bad": arguments of a job of kind "unencodable"`)
}

type unencodable struct{}

func (unencodable) Kind() string                 { return "unencodable" }
func (unencodable) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

func TestDeclarationsThatPanic(t *testing.T) {
	h := driver.NewHandlers()
	h.Schedule(tick)
	assert.PanicsWithValue(t, `driver: schedule "tick" is there twice`, func() { h.Schedule(tick) })
	assert.PanicsWithValue(t, "driver: a schedule has no name", func() { h.Schedule(driver.Schedule{Args: note{}}) })
	assert.PanicsWithValue(t, `driver: schedule "s" has no Args, which also say the kind`,
		func() { h.Schedule(driver.Schedule{Name: "s"}) })
}

// A worker that starts while another session holds one of its schedules works on, and synchronises when it can.
func TestScheduleThatIsHeldAtTheStart(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	_, err := client.SyncSchedules(t.Context(), "shop", []driver.Schedule{tick}, 0)
	require.NoError(t, err)
	require.NoError(t, client.Configure(t.Context(), driver.Settings{ClaimWait: driver.Set(10 * time.Millisecond)}))
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	require.NoError(t, client.PauseScheduleTx(t.Context(), tx, "tick", ""))

	var log syncBuffer
	h, _ := scheduled(driver.Schedule{Name: "other", Cron: "@daily", Args: note{}})
	runWorker(t, pool, h, driver.WorkerConfig{ScheduleSource: "shop", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	waitForState(t, pool, id, "completed")
	assert.Equal(t, []string{"tick"}, scheduleNames(t, pool))
	assert.Contains(t, log.String(), "schedules can't be synchronised")
	assert.Contains(t, log.String(), "55P03")
	require.NoError(t, tx.Rollback(t.Context()))
	waitFor(t, func() bool { names := scheduleNames(t, pool); return len(names) == 1 && names[0] == "other" },
		"the schedules are not synchronised")
	waitFor(t, func() bool { return strings.Contains(log.String(), "no longer: schedules can't") },
		"the end is not logged")
}

// The last tick of a schedule fires once, and the worker goes on to fire the others.
func TestLastTickOfASchedule(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	h := handle(func(context.Context, *driver.Job[note]) error { return nil })
	every := driver.Schedule{Name: "goes on", Every: time.Second, Args: note{}}
	ending := every
	ending.Name, ending.EndsAt = "ends", time.Now().Add(2500*time.Millisecond)
	require.NoError(t, client.Schedule(t.Context(), every))
	require.NoError(t, client.Schedule(t.Context(), ending))
	var log syncBuffer
	runWorker(t, pool, h, driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	waitFor(t, func() bool {
		listed, err := client.ListSchedules(t.Context())
		require.NoError(t, err)
		ends, goesOn := listed[0], listed[1]
		return ends.NextAt == nil && ends.LastAt != nil && goesOn.LastAt != nil &&
			goesOn.LastAt.After(ending.EndsAt.Add(time.Second))
	}, "no schedule fires after the last tick")
	assert.NotContains(t, log.String(), "schedules are not fired")
}

// Metadata of the producer's own that look like those of a schedule are not taken for these.
func TestJobsOfNoSchedule(t *testing.T) {
	pool := testdb.New(t)
	seen := make(chan bool, 10)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		name, at, ok := job.Schedule()
		seen <- ok || name != "" || !at.IsZero()
		return nil
	}), driver.WorkerConfig{NoMaintenance: true})
	for _, metadata := range []any{
		nil, map[string]any{"other": 1}, map[string]any{"schedule": "x"}, map[string]any{"schedule": map[string]any{}},
		map[string]any{"schedule": map[string]any{"name": "x", "at": "tomorrow"}},
	} {
		enqueue(t, pool, note{}, driver.EnqueueOptions{Metadata: metadata})
		assert.False(t, receive(t, seen), metadata)
	}
}
