package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

// schedulesCommand is a call of awa schedules.
type schedulesCommand struct {
	action, name, reason string
	count                int // of next
	view                 *view
	client               *driver.Client
	pool                 *pgxpool.Pool
	stdout               io.Writer
}

func runSchedules(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("schedules", 10*time.Second, "", stdout, stderr)
	c := schedulesCommand{stdout: stdout, view: v}
	v.isTable = true
	err := v.parse(args, 3, func(flags *flag.FlagSet) {
		flags.Func("n", "", func(value string) (err error) {
			if c.count, err = strconv.Atoi(value); err != nil || c.count < 1 || c.count > 1000 {
				return errors.New("should be a number from 1 to 1,000")
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := c.take(v.operands); err != nil {
		fmt.Fprintf(stderr, "awa schedules: %s\n%s", err, usages["schedules"])
		return errUsage
	}
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	c.client, c.pool = driver.NewClient(v.pool), v.pool
	err = c.run(ctx)
	if errors.Is(err, driver.ErrNoSuchSchedule) {
		return errors.New("there is no schedule of this name\nawa schedules lists all of them")
	}
	return explain(err)
}

// isDatabaseURL says whether an argument is the URL of a database, which may hold a password. Names may be other URLs,
// such as s3://reports.
func isDatabaseURL(argument string) bool {
	scheme, rest, ok := strings.Cut(strings.ToLower(argument), "://")
	return ok && (scheme == "postgres" || scheme == "postgresql") && strings.ContainsAny(rest, "@?")
}

// take reads the operands. Its errors show nothing of them: a URL may be among them.
func (c *schedulesCommand) take(operands []string) error {
	operands = append(operands, "", "", "")
	given := slices.Index(operands, "")
	c.action, c.name, c.reason = cmp.Or(operands[0], "list"), operands[1], operands[2]
	most, ok := map[string]int{"list": 1, "next": 2, "pause": 3, "resume": 2, "trigger": 2, "explain": 2}[c.action]
	switch {
	case !ok:
		return errors.New("argument 1 should be list, next, pause, resume, trigger or explain")
	case most > 1 && c.name == "":
		return fmt.Errorf("%s needs the name of a schedule", c.action)
	case given > most:
		return fmt.Errorf("%s takes fewer arguments; quote a name with spaces", c.action)
	case isDatabaseURL(c.name):
		return errors.New("the name is the URL of a database: pass that by --database-url")
	case c.view.asJSON && c.action != "list":
		return errors.New("--json is for list")
	case c.view.watch && c.action != "list":
		return errors.New("--watch is for list")
	case len(c.view.masks) > 0 && c.action != "list" && c.action != "explain" && c.action != "resume":
		return errors.New("--mask is for list, explain and resume")
	case c.count != 0 && c.action != "next":
		return errors.New("-n is for next")
	}
	c.count = cmp.Or(c.count, 5)
	return nil
}

func (c *schedulesCommand) run(ctx context.Context) (err error) {
	switch c.action {
	case "list":
		return c.view.again(ctx, func(ctx context.Context, _ pgx.Tx) (shown, error) { return c.list(ctx) })
	case "next":
		return c.next(ctx)
	case "pause":
		if err = c.client.PauseSchedule(ctx, c.name, c.reason); err == nil {
			fmt.Fprintln(c.stdout, "It is paused.")
		}
	case "resume":
		if err = c.client.ResumeSchedule(ctx, c.name); err == nil {
			err = c.explain(ctx)
		}
	case "trigger":
		var id int64
		if id, err = c.client.TriggerSchedule(ctx, c.name); err == nil {
			fmt.Fprintf(c.stdout, "Job %d is enqueued.\n", id)
		}
	case "explain":
		return c.explain(ctx)
	}
	return err
}

func (c *schedulesCommand) explain(ctx context.Context) error {
	says, err := c.client.ExplainSchedule(ctx, c.name)
	if err == nil {
		fmt.Fprintln(c.stdout, c.view.masker.Text(says)) // an error is in it
	}
	return err
}

// scheduleJSON is a schedule as awa schedules --json has it: its state, and what list_schedules returns.
type scheduleJSON struct {
	Name         string          `json:"name"`
	State        string          `json:"state"`
	Source       string          `json:"source"`
	Queue        string          `json:"queue"`
	Kind         string          `json:"kind"`
	Cron         string          `json:"cron"`
	Every        string          `json:"every"`
	Args         json.RawMessage `json:"args"`
	Timezone     string          `json:"timezone"`
	Missed       string          `json:"missed"`
	MissedFor    string          `json:"missed_for"`
	Overlap      string          `json:"overlap"`
	StartsAt     *time.Time      `json:"starts_at"`
	EndsAt       *time.Time      `json:"ends_at"`
	Priority     *int            `json:"priority"`
	MaxAttempts  *int            `json:"max_attempts"`
	Tags         []string        `json:"tags"`
	Metadata     json.RawMessage `json:"metadata"`
	GroupKey     string          `json:"group_key"`
	NextAt       *time.Time      `json:"next_at"`
	LastAt       *time.Time      `json:"last_at"`
	LastJobID    *int64          `json:"last_job_id"`
	LastJobState string          `json:"last_job_state"`
	WaitingAt    *time.Time      `json:"waiting_at"`
	PausedAt     *time.Time      `json:"paused_at"`
	PausedBy     string          `json:"paused_by"`
	PauseReason  string          `json:"pause_reason"`
	TimesMissed  int64           `json:"times_missed"`
	TimesSkipped int64           `json:"times_skipped"`
	Failures     int             `json:"failures"`
	Error        string          `json:"error"`
	FailedAt     *time.Time      `json:"failed_at"`
	MadeAt       time.Time       `json:"made_at"`
	ChangedAt    time.Time       `json:"changed_at"`
	ChangedBy    string          `json:"changed_by"`
	IsAhead      bool            `json:"is_ahead"`
}

func newScheduleJSON(s driver.ScheduleInfo, state string) scheduleJSON {
	number := func(n int) *int {
		if n == 0 {
			return nil
		}
		return &n
	}
	return scheduleJSON{
		Name: s.Name, State: state, Source: s.Source, Queue: s.Queue, Kind: s.Kind, Cron: s.Cron, Every: s.EveryText,
		Args: s.Args, Timezone: s.Timezone, Missed: s.Missed, MissedFor: s.MissedFor.String(), Overlap: s.Overlap,
		StartsAt: s.StartsAt, EndsAt: s.EndsAt, Priority: number(s.Priority), MaxAttempts: number(s.MaxAttempts),
		Tags: s.Tags, Metadata: s.Metadata, GroupKey: s.GroupKey,
		NextAt: s.NextAt, LastAt: s.LastAt, LastJobID: s.LastJobID, LastJobState: s.LastJobState, WaitingAt: s.WaitingAt,
		PausedAt: s.PausedAt, PausedBy: s.PausedBy, PauseReason: s.PauseReason,
		TimesMissed: s.TimesMissed, TimesSkipped: s.TimesSkipped, Failures: s.Failures, Error: s.Error,
		FailedAt: s.FailedAt, MadeAt: s.MadeAt, ChangedAt: s.ChangedAt, ChangedBy: s.ChangedBy,
		IsAhead: s.IsAhead,
	}
}

func (c *schedulesCommand) list(ctx context.Context) (shown, error) {
	schedules, err := c.client.ListSchedules(ctx)
	if err != nil {
		return shown{}, err
	}
	var now time.Time // the server's: this machine's clock may be another one
	if err := c.pool.QueryRow(ctx, "select pg_catalog.clock_timestamp()", pgx.QueryExecModeExec).Scan(&now); err != nil {
		return shown{}, err
	}
	listed := make([]scheduleJSON, len(schedules))
	for i, s := range schedules {
		s.Args, s.Metadata = c.view.masker.JSON(s.Args), c.view.masker.JSON(s.Metadata)
		s.Error, s.PauseReason = c.view.masker.Text(s.Error), c.view.masker.Text(s.PauseReason)
		schedules[i] = s
		state, _ := stateOf(s, now)
		listed[i] = newScheduleJSON(s, state)
	}
	return shown{value: listed, lines: func(int) []string { return scheduleTable(schedules, now) }}, nil
}

func scheduleTable(schedules []driver.ScheduleInfo, now time.Time) []string {
	if len(schedules) == 0 {
		return []string{"There are no schedules."}
	}
	var rows [][]string
	for _, s := range schedules {
		times := s.Cron
		if times == "" {
			times = "every " + s.EveryText
		}
		lastJob := "-"
		if s.LastJobID != nil {
			lastJob = fmt.Sprintf("%d %s", *s.LastJobID, cmp.Or(s.LastJobState, "gone"))
		}
		state, why := stateOf(s, now)
		if why != "" {
			state += ": " + why
		}
		rows = append(rows, []string{s.Name, fmt.Sprintf("%s (%s)", times, s.Timezone), inZone(s.NextAt, s.Timezone),
			inZone(s.LastAt, s.Timezone), lastJob, state})
	}
	return table([]column{
		{"NAME", false, 0}, {"TIMES", false, 0}, {"NEXT", false, 0}, {"LAST", false, 0}, {"LAST JOB", false, 0},
		{"STATE", false, 0},
	}, rows, 0)
}

// stateOf returns a word for how a schedule is at a time, and why.
func stateOf(s driver.ScheduleInfo, now time.Time) (state, why string) {
	switch {
	case s.PausedAt != nil:
		return "paused", s.PauseReason
	case s.IsAhead:
		return "ahead", "the clock of the server was ahead; awa schedules resume lets it fire from now on"
	case strings.HasSuffix(s.Error, "(SQLSTATE JQ006)"): // that is no failure: it is tried again soon
		return "queue full", s.Error
	case s.Error != "":
		return "failing", s.Error
	case s.WaitingAt != nil:
		return "waiting", "the last job has not ended"
	case s.NextAt == nil:
		return "ended", ""
	case now.Sub(*s.NextAt) > time.Minute:
		return "late", ""
	}
	return "on time", ""
}

// inZone is a time as the clocks of a zone show it, or in UTC where this machine does not know the zone.
func inZone(t *time.Time, zone string) string {
	if t == nil {
		return "-"
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		location = time.UTC
	}
	return t.In(location).Format("2006-01-02 15:04:05 -07:00")
}

// next prints the next times of a schedule.
func (c *schedulesCommand) next(ctx context.Context) error {
	schedules, err := c.client.ListSchedules(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(schedules, func(s driver.ScheduleInfo) bool { return s.Name == c.name })
	if at < 0 {
		return driver.ErrNoSuchSchedule
	}
	s := schedules[at]
	if s.PausedAt != nil {
		fmt.Fprintln(c.stdout, "It is paused: none of these times fires until it is resumed.")
	} else if s.NextAt == nil {
		fmt.Fprintln(c.stdout, "It has no time ahead.")
		return nil
	}
	if s.Cron == "" {
		if s.NextAt != nil {
			fmt.Fprintln(c.stdout, inZone(s.NextAt, s.Timezone))
		}
		fmt.Fprintf(c.stdout, "every %s (of an interval, the next time alone is shown)\n", s.EveryText)
		return nil
	}
	says, err := c.client.DescribeCron(ctx, s.Cron)
	if err != nil {
		return err
	}
	times, err := c.fires(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.stdout, says)
	for _, t := range times {
		if s.EndsAt == nil || t.Before(*s.EndsAt) {
			fmt.Fprintln(c.stdout, inZone(&t, s.Timezone))
		}
	}
	return nil
}

// fires returns the next times of a schedule with an expression. The first one may be over, where the schedule is late.
func (c *schedulesCommand) fires(ctx context.Context, s driver.ScheduleInfo) ([]time.Time, error) {
	if s.NextAt == nil { // it is paused
		var after time.Time
		if s.StartsAt != nil && s.StartsAt.After(time.Now()) {
			after = s.StartsAt.Add(-time.Microsecond)
		}
		return c.client.NextFires(ctx, s.Cron, s.Timezone, after, c.count)
	}
	times := []time.Time{*s.NextAt}
	if c.count == 1 {
		return times, nil
	}
	more, err := c.client.NextFires(ctx, s.Cron, s.Timezone, *s.NextAt, c.count-1)
	return append(times, more...), err
}
