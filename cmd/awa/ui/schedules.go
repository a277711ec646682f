package ui

import (
	"net/url"
	"slices"
	"time"
)

// scheduleRow is a schedule of a list.
type scheduleRow struct {
	Name, Queue, Kind                   string
	Cron                                *string
	Every                               *float64 // in seconds
	Timezone                            string
	NextAt, LastAt                      *time.Time
	LastJobID                           *int64
	LastJobState                        *string
	PausedAt                            *time.Time
	PausedBy, PauseReason               *string
	Failures, TimesMissed, TimesSkipped int64
	Error                               *string
	IsAhead                             bool
}

const (
	scheduleColumns = `
		s.name, s.queue, s.kind, s.cron, extract(epoch from s.every)::float8, s.timezone, s.next_at, s.last_at,
		s.last_job_id, s.last_job_state::text, s.paused_at, s.paused_by::text, left(s.pause_reason, 500), s.failures::bigint,
		s.times_missed::bigint, s.times_skipped::bigint, left(s.error, 500), s.is_ahead`
	schedulesSQL = `
		select ` + scheduleColumns + `
		  from awa.list_schedules() s
		 where ($1 = '' or position(lower($1) in lower(s.name)) > 0)
		   and ($2 = '' or s.name > $2)
		 order by s.name
		 limit $3`
)

type schedulesView struct {
	*page
	Schedules panel[[]scheduleRow]
	Next      string
}

func schedulesPage(p *page) (string, any) {
	p.Title, p.Section = "Schedules", "schedules"
	v := schedulesView{page: p}
	v.Schedules = read(p, "Search for a part of the name.", func(q queryer) ([]scheduleRow, error) {
		rows, err := rowsOf[scheduleRow](q, schedulesSQL, clean(p.Get("search")), clean(p.Get("after")), pageLength+1)
		for i := range rows {
			maskText(p.h.masker, rows[i].Error)
		}
		return rows, err
	})
	if rows := v.Schedules.Data; len(rows) > pageLength {
		v.Schedules.Data = rows[:pageLength]
		v.Next = p.Here("after", rows[pageLength-1].Name)
	}
	return "schedules", v
}

// oneSchedule is a schedule with all that is said of it.
type oneSchedule struct {
	scheduleRow
	Args                       *string
	Missed, Overlap            string
	Source                     *string
	StartsAt, EndsAt, FailedAt *time.Time
	MadeAt, ChangedAt          *time.Time
	ChangedBy, Words           *string
	Explained                  string
	State                      string
}

const (
	scheduleSQL = `
		select ` + scheduleColumns + `,
		       case when pg_column_size(s.args) <= 4000 then s.args::text
		            else '(' || pg_size_pretty(pg_column_size(s.args)::bigint) || ')' end,
		       s.missed::text, s.overlap::text, s.source, s.starts_at, s.ends_at, s.failed_at, s.made_at, s.changed_at,
		       s.changed_by::text, case when s.cron is not null then awa.describe_cron(s.cron) end,
		       awa.explain_schedule(s.name), ` + scheduleState + `
		  from awa.list_schedules() s
		 where s.name = $1`
	// The times of an interval follow from the next one.
	firesSQL = `
		select f.at
		  from awa.list_schedules() s
		 cross join lateral (
		    select s.next_at as at
		    union
		    select n.at from awa.next_fires(s.cron, s.timezone, s.next_at, 9) n(at) where s.cron is not null
		    union
		    select s.next_at + n * s.every from generate_series(1, 9) n where s.every is not null
		  ) f
		 where s.name = $1 and f.at is not null and (s.ends_at is null or f.at <= s.ends_at)
		 order by f.at`
)

type scheduleView struct {
	*page
	Name     string
	Schedule panel[*oneSchedule]
	Fires    panel[[]fire]
	Runs     panel[[]scheduleRun]
	Actions  []action
}

// FormName is the schedule's name for a form: see that of a queue.
func (v scheduleView) FormName() string { return url.QueryEscape(v.Name) }

// fire is a time of a schedule.
type fire struct{ At time.Time }

func schedulePage(p *page) (string, any) {
	p.Title, p.Section = "Schedule", "schedules"
	v := scheduleView{page: p, Name: clean(p.Get("name"))}
	hint := "Call awa.explain_schedule in psql."
	v.Schedule = read(p, hint, func(q queryer) (*oneSchedule, error) {
		s, err := rowOf[oneSchedule](q, scheduleSQL, v.Name)
		if s != nil {
			maskText(p.h.masker, s.Error)
			maskText(p.h.masker, s.Args)
			s.Explained = p.h.masker.Text(s.Explained)
			var may []string
			may, err = p.rights(q)
			v.Actions = offered(may, ofSchedule, s.State)
		}
		return s, err
	})
	if v.Schedule.Failed == "" && v.Schedule.Data == nil {
		p.status = 404
		return "message", p.message("There is no schedule of this name.")
	}
	v.Fires = read(p, hint, func(q queryer) ([]fire, error) { return rowsOf[fire](q, firesSQL, v.Name) })
	if p.isFeed { // it costs more than the others
		return "schedule", v
	}
	p.patience = 3
	v.Runs = read(p, "Look for the jobs of its kind.", func(q queryer) ([]scheduleRun, error) {
		rows, err := rowsOf[scheduleRun](q, runsSQL, v.Name, mostRuns)
		slices.Reverse(rows)
		drawRuns(rows, p.clock())
		return rows, err
	})
	return "schedule", v
}
