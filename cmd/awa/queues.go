package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const queuesUsage = `usage: awa queues [--search TEXT] [--limit N]
       awa queues NAME
       awa queues pause|resume NAME
       awa queues configure NAME SETTING=VALUE...

Lists queues with their counts; or shows the settings and counts of one, and what came and ended in it over
the last hour. Or stops and resumes the claims of one, or changes settings of it, as 'lease=5 minutes'
max_running=10 'rate={"jobs": 100, "per": "1 minute"}'; null restores a default. To see them needs the role
awa_reader, to change awa_operator.

  --search TEXT    those with this in their names
  --limit N        how many, at most (100; 1 to 10,000)
  --create         of pause and configure: also where there is no such queue
  --actor NAME     for whom: awa changes shows it beside the login
` + viewFlags + `
Exit status: 0 done, or a signal has ended --watch; 1 it failed, or there is no such queue; 2 the command
line is wrong.
`

type queue struct {
	Queue         string     `json:"queue"`
	PausedAt      *time.Time `json:"paused_at"`
	Workers       int64      `json:"workers"`
	Available     int64      `json:"available"`
	Scheduled     int64      `json:"scheduled"`
	Retryable     int64      `json:"retryable"`
	Running       int64      `json:"running"`
	Completed     int64      `json:"completed"`
	Failed        int64      `json:"failed"`
	Cancelled     int64      `json:"cancelled"`
	Dead          int64      `json:"dead"`
	OldestReadyAt *time.Time `json:"oldest_ready_at"`
	Limited       int64      `json:"limited"`
}

const queuesQuery = `
	select row_to_json(q)
	  from awa.list_queues() q
	 where ($1::text is null or position(lower($1) in lower(q.queue)) > 0) and ($2::text is null or q.queue = $2)
	 limit $3`

func runQueues(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("queues", 10*time.Second, "", stdout, stderr)
	var search string
	var creates bool
	limit := 100
	err := v.parse(args, 100, func(flags *flag.FlagSet) {
		flags.BoolVar(&creates, "create", false, "")
		flags.StringVar(&search, "search", "", "")
		flags.Func("limit", "", numberFlag(&limit, 1, 10000))
		v.actorFlag(flags)
	})
	if err != nil {
		return err
	}
	if len(v.operands) > 1 {
		return v.changeQueue(ctx, creates)
	}
	if err := v.only("a list", "search", "limit", "watch", "every"); err != nil {
		return err
	}
	if len(v.operands) == 1 {
		if err := v.only("one queue", "watch", "every"); err != nil {
			return err
		}
		return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
			return v.oneQueue(ctx, tx, v.operands[0])
		})
	}
	return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		at, err := now(ctx, tx)
		if err != nil {
			return shown{}, err
		}
		raw, queues, err := rowsOf[queue](ctx, tx, v.masker, queuesQuery, optional(search), nil, limit)
		s := shown{value: raw, lines: func(width int) []string { return queueTable(queues, at, width) }}
		return v.withMore(s, len(queues), limit), err
	})
}

// changeQueue pauses, resumes or configures a queue.
func (v *view) changeQueue(ctx context.Context, creates bool) error {
	action, name, rest := v.operands[0], v.operands[1], v.operands[2:]
	settings := map[string]any{}
	for i, operand := range rest {
		key, value, ok := strings.Cut(operand, "=")
		if !ok || key == "" {
			return v.refuse("argument %d should be SETTING=VALUE", 3+i)
		}
		settings[key] = value
		if json.Valid([]byte(value)) {
			settings[key] = json.RawMessage(value)
		}
	}
	switch {
	case action != "pause" && action != "resume" && action != "configure":
		return v.refuse("argument 1 should be pause, resume or configure")
	case action == "configure" && len(rest) == 0:
		return v.refuse("configure needs a SETTING=VALUE")
	case action != "configure" && len(rest) > 0:
		return v.refuse("%s takes fewer arguments; quote a name with spaces", action)
	}
	known := []string{"actor"}
	if action != "resume" {
		known = append(known, "create")
	}
	if err := v.only(action, known...); err != nil {
		return err
	}
	encoded, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	says := map[string]string{"pause": "It is paused.", "resume": "It is open.", "configure": "It is configured."}[action]
	return v.do(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if action != "resume" && !creates { // to look needs the role awa_reader
			var isThere bool
			err := tx.QueryRow(ctx, "select exists (select from awa.queue_counts($1))", name).Scan(&isThere)
			if err != nil {
				return err
			} else if !isThere {
				return fmt.Errorf("%w; --create makes one", errNoSuchQueue)
			}
		}
		switch action {
		case "pause":
			_, err = tx.Exec(ctx, "select awa.pause_queue($1)", name)
		case "resume":
			_, err = tx.Exec(ctx, "select awa.resume_queue($1)", name)
		default:
			_, err = tx.Exec(ctx, "select awa.configure_queue($1, $2::text::jsonb)", name, string(encoded))
		}
		return err
	}, "queue", name, says)
}

func queueTable(queues []queue, now time.Time, width int) []string {
	if len(queues) == 0 {
		return []string{"There are no such queues."}
	}
	rows := make([][]string, len(queues))
	for i, q := range queues {
		state := "open"
		if q.PausedAt != nil {
			state = "paused"
		}
		rows[i] = []string{q.Queue, state, number(q.Available), ago(q.OldestReadyAt, now), number(q.Limited),
			number(q.Running), number(q.Scheduled), number(q.Retryable), number(q.Failed), number(q.Dead),
			number(q.Workers)}
	}
	return table([]column{
		{"QUEUE", false, 32}, {"STATE", false, 0}, {"AVAILABLE", true, 0}, {"OLDEST", true, 0}, {"LIMITED", true, 0},
		{"RUNNING", true, 0}, {"SCHEDULED", true, 0}, {"RETRYABLE", true, 0}, {"FAILED", true, 0}, {"DEAD", true, 0},
		{"WORKERS", true, 0},
	}, rows, width)
}

// step is a step of queue_stats.
type step struct {
	At        time.Time `json:"at"`
	Enqueued  int64     `json:"enqueued"`
	Completed int64     `json:"completed"`
	Failed    int64     `json:"failed"`
	WaitP50   string    `json:"wait_p50"`
	WaitP95   string    `json:"wait_p95"`
	RunP50    string    `json:"run_p50"`
	RunP95    string    `json:"run_p95"`
}

func (v *view) oneQueue(ctx context.Context, tx pgx.Tx, name string) (shown, error) {
	raw, queues, err := rowsOf[queue](ctx, tx, v.masker, queuesQuery, nil, name, 1)
	if err != nil {
		return shown{}, err
	}
	if len(queues) == 0 {
		return shown{}, errNoSuchQueue
	}
	stats, steps, err := rowsOf[step](ctx, tx, v.masker,
		"select row_to_json(s) from awa.queue_stats(queue => $1, since => '1 hour', step => '10 minutes') s", name)
	if err != nil {
		return shown{}, err
	}
	return shown{
		value: struct {
			Queue json.RawMessage   `json:"queue"`
			Stats []json.RawMessage `json:"stats"`
		}{raw[0], stats},
		lines: func(width int) []string { return queueLines(raw[0], steps, width) },
	}, nil
}

var errNoSuchQueue = fmt.Errorf("there is no queue of this name\nawa queues lists all of them")

// queueLines has all fields of a queue, in the order in which the server names them, and its statistics.
func queueLines(raw json.RawMessage, steps []step, width int) []string {
	var rows [][]string
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	_, err := decoder.Token()
	for err == nil && decoder.More() {
		var name json.Token
		if name, err = decoder.Token(); err != nil {
			break
		}
		var value json.RawMessage
		err = decoder.Decode(&value)
		text := string(value)
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		if string(value) != "null" {
			rows = append(rows, []string{fmt.Sprint(name), text})
		}
	}
	lines := append(table([]column{{"SETTING OR COUNT", false, 0}, {"VALUE", false, 0}}, rows, width), "")
	rows = nil
	for _, s := range steps {
		rows = append(rows, []string{s.At.UTC().Format("15:04"), number(s.Enqueued), number(s.Completed),
			number(s.Failed), s.WaitP50, s.WaitP95, s.RunP50, s.RunP95})
	}
	return append(lines, table([]column{
		{"FROM (UTC)", false, 0}, {"ENQUEUED", true, 0}, {"COMPLETED", true, 0}, {"FAILED", true, 0},
		{"WAIT P50", true, 0}, {"WAIT P95", true, 0}, {"RUN P50", true, 0}, {"RUN P95", true, 0},
	}, rows, width)...)
}
