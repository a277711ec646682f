package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const dlqUsage = `usage: awa dlq [FILTER]... [--limit N] [--before-id ID]
       awa dlq retry|delete ID... [--yes]
       awa dlq retry|delete FILTER... [--yes]

Lists dead letters, the newest jobs first, with the beginning of their last error. Or retries or deletes
some, or all that match; the flags are those of awa jobs, without --state. To list needs the role
awa_reader, to change awa_operator.

` + actFlags + `  --over DURATION  of retry of all that match: spread over this time
  --wait           wait until the change of all that match has ended
` + viewFlags + `
Exit status: 0 done, shown, or a signal has ended --watch; 1 it failed, or one of them was not changed; 2
the command line is wrong.
`

func runDLQ(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("dlq", 10*time.Second, "--queue, --kind or --limit", stdout, stderr)
	var a act
	if err := v.parse(args, 1001, func(flags *flag.FlagSet) { a.define(flags, true); v.actorFlag(flags) }); err != nil {
		return err
	}
	if a.filter.state != "" {
		return v.refuse("--state has no meaning here: all of them are dead; see awa jobs")
	}
	if len(v.operands) > 0 && v.operands[0] != "retry" && v.operands[0] != "delete" {
		return v.refuse("argument 1 should be retry or delete")
	}
	switch {
	case len(v.operands) == 0:
		a.filter.state = "dead"
		return v.listing(ctx, &a)
	case len(v.operands) == 1:
		a.action = v.operands[0]
		if err := a.check(v, true); err != nil {
			return err
		}
		a.filter.state = "dead"
		return v.all(ctx, &a)
	}
	a.action = v.operands[0]
	a.isOfDead = true
	if err := a.takeIDs(v, v.operands[1:], 2); err != nil {
		return err
	}
	if err := a.check(v, false); err != nil {
		return err
	}
	return v.some(ctx, &a)
}

const workersUsage = `usage: awa workers [--search TEXT] [--limit N]

Lists the registered workers: their queues, how many attempts they have open, and how long ago each sent a
heartbeat. Reads as a member of awa_reader.

  --search TEXT    those with this in their names
  --limit N        how many, at most (100; 1 to 10,000)
` + viewFlags + `
Exit status: 0 done, or a signal has ended --watch; 1 it failed; 2 the command line is wrong.
`

type worker struct {
	WorkerID     int64     `json:"worker_id"`
	Name         string    `json:"name"`
	Queues       []string  `json:"queues"`
	QueueCount   *int64    `json:"queue_count"` // Queues are the first 100
	StartedAt    time.Time `json:"started_at"`
	HeartbeatAt  time.Time `json:"heartbeat_at"`
	Overdue      bool      `json:"overdue"`
	OpenAttempts int64     `json:"open_attempts"`
	RegisteredBy string    `json:"registered_by"`
}

// What a worker said of itself may be 64 KiB.
var workersQuery = fmt.Sprintf(`
	select row_to_json(r)
	  from (
	    select w.worker_id, w.name, w.queues[:100] as queues, cardinality(w.queues) as queue_count, w.started_at,
	           w.heartbeat_at, w.overdue, w.open_attempts, w.registered_by,
	           case when length(w.info::text) <= %[1]d then w.info end as info,
	           case when length(w.info::text) > %[1]d then left(w.info::text, %[1]d) end as info_start
	      from awa.list_workers() w
	     where $1::text is null or position(lower($1) in lower(w.name)) > 0
	     limit $2
	  ) r`, payloadStart)

func runWorkers(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("workers", 10*time.Second, "", stdout, stderr)
	var search string
	limit := 100
	err := v.parse(args, 0, func(flags *flag.FlagSet) {
		flags.StringVar(&search, "search", "", "")
		flags.Func("limit", "", numberFlag(&limit, 1, 10000))
	})
	if err != nil {
		return err
	}
	return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		at, err := now(ctx, tx)
		if err != nil {
			return shown{}, err
		}
		raw, workers, err := rowsOf[worker](ctx, tx, v.masker, workersQuery, optional(search), limit)
		s := shown{value: raw, lines: func(width int) []string { return workerTable(workers, at, width) }}
		return v.withMore(s, len(workers), limit), err
	})
}

func workerTable(workers []worker, now time.Time, width int) []string {
	if len(workers) == 0 {
		return []string{"There are no such workers."}
	}
	rows := make([][]string, len(workers))
	for i, w := range workers {
		state, queues := "live", "all"
		if w.Overdue {
			state = "overdue"
		}
		if w.Queues != nil {
			queues = strings.Join(w.Queues, ", ")
			if w.QueueCount != nil && *w.QueueCount > int64(len(w.Queues)) {
				queues += fmt.Sprintf(", … (%d in all)", *w.QueueCount)
			}
		}
		rows[i] = []string{number(w.WorkerID), w.Name, state, number(w.OpenAttempts), ago(&w.HeartbeatAt, now),
			ago(&w.StartedAt, now), w.RegisteredBy, queues}
	}
	return table([]column{
		{"ID", true, 0}, {"NAME", false, 32}, {"STATE", false, 0}, {"RUNNING", true, 0}, {"HEARTBEAT", true, 0},
		{"STARTED", true, 0}, {"LOGIN", false, 24}, {"QUEUES", false, 0},
	}, rows, width)
}

// withMore says that there may be more than a list shows.
func (v *view) withMore(s shown, found, limit int) shown {
	if found == limit {
		s.more, s.isAsked = "There may be more: see --search and --limit.", v.given("limit")
	}
	return s
}

const healthUsage = `usage: awa health [--all]

Shows what is wrong in the database, and what to do. awa doctor looks at the installation, too. Reads as a
member of awa_reader.

  --all            show what is well, too; JSON always has all
` + viewFlags + `
Exit status: 0 all is well, or a signal has ended --watch; 1 there are warnings; 2 something is critical, it
could not look, or the command line is wrong.
`

type healthFinding struct {
	Level   string `json:"level"`
	Topic   string `json:"topic"`
	Subject string `json:"subject"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

const healthQuery = "select row_to_json(h) from awa.health() h"

func runHealth(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error) {
	v := newView("health", 10*time.Second, "", stdout, stderr)
	var all bool
	if err := v.parse(args, 0, func(flags *flag.FlagSet) { flags.BoolVar(&all, "all", false, "") }); err != nil {
		return 0, err
	}
	err = v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		raw, findings, err := rowsOf[healthFinding](ctx, tx, v.masker, healthQuery)
		if err != nil {
			return shown{}, err
		}
		status = 0
		for _, f := range findings {
			switch {
			case v.watch:
			case f.Level == levelCritical:
				status = 2
			case f.Level == levelWarning:
				status = max(status, 1)
			}
		}
		return shown{value: raw, lines: func(width int) []string { return healthTable(findings, all, width) }}, nil
	})
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "awa:", err)
		return 2, nil
	}
	return status, err
}

func healthTable(findings []healthFinding, all bool, width int) []string {
	var rows [][]string
	for _, f := range findings {
		if !all && f.Level == levelOK {
			continue
		}
		text := f.Message
		if f.Hint != "" && f.Level != levelOK {
			text = strings.TrimSuffix(text, ".") + ". " + f.Hint
		}
		rows = append(rows, []string{f.Level, f.Topic, f.Subject, text})
	}
	if len(rows) == 0 {
		return []string{fmt.Sprintf("All is well: %s looked at.", count(int64(len(findings)), "subject", "subjects"))}
	}
	return table([]column{
		{"LEVEL", false, 0}, {"TOPIC", false, 0}, {"SUBJECT", false, 32}, {"MESSAGE", false, 0},
	}, rows, 0)
}

const auditUsage = `usage: awa audit

Checks that no job is missing: per queue, how many were enqueued, and in which states they are. Takes
seconds for each million of jobs that are kept. Reads as a member of awa_reader.

` + viewFlags + `
As it reads much, a statement may take 10m here, unless --timeout says otherwise.

Exit status: 0 the books balance, or a signal has ended --watch; 1 they do not, or it failed; 2 the command
line is wrong.
`

type auditRow struct {
	Queue     string `json:"queue"`
	Enqueued  int64  `json:"enqueued"`
	Available int64  `json:"available"`
	Scheduled int64  `json:"scheduled"`
	Retryable int64  `json:"retryable"`
	Running   int64  `json:"running"`
	Completed int64  `json:"completed"`
	Failed    int64  `json:"failed"`
	Cancelled int64  `json:"cancelled"`
	Dead      int64  `json:"dead"`
	Balanced  bool   `json:"balanced"`
	Problem   string `json:"problem"`
}

func runAudit(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error) {
	v := newView("audit", 10*time.Minute, "", stdout, stderr)
	if err := v.parse(args, 0, nil); err != nil {
		return 0, err
	}
	err = v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		raw, rows, err := rowsOf[auditRow](ctx, tx, v.masker, "select row_to_json(a) from awa.audit() a")
		if err != nil {
			return shown{}, err
		}
		status = 0
		for _, row := range rows {
			if !row.Balanced && !v.watch {
				status = 1
			}
		}
		return shown{value: raw, lines: func(width int) []string { return auditTable(rows, width) }}, nil
	})
	return status, err
}

func auditTable(audited []auditRow, width int) []string {
	var rows [][]string
	for _, a := range audited {
		says := "balanced"
		if !a.Balanced {
			says = "WRONG: " + a.Problem
		}
		queue := a.Queue
		if queue == "" {
			queue = "(unknown)"
		}
		if a.Queue == "" && a.Balanced {
			continue
		}
		rows = append(rows, []string{queue, number(a.Enqueued), number(a.Available), number(a.Scheduled),
			number(a.Retryable), number(a.Running), number(a.Completed), number(a.Failed), number(a.Cancelled),
			number(a.Dead), says})
	}
	if len(rows) == 0 {
		return []string{"There are no queues."}
	}
	return table([]column{
		{"QUEUE", false, 32}, {"ENQUEUED", true, 0}, {"AVAILABLE", true, 0}, {"SCHEDULED", true, 0},
		{"RETRYABLE", true, 0}, {"RUNNING", true, 0}, {"COMPLETED", true, 0}, {"FAILED", true, 0},
		{"CANCELLED", true, 0}, {"DEAD", true, 0}, {"BOOKS", false, 0},
	}, rows, 0)
}
