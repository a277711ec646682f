package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const changesUsage = `usage: awa changes [--state STATE] [--limit N] [--before-id ID]
       awa changes stop ID

Lists changes of many jobs of the last 90 days, the newest first: which jobs, how many so far, and by whom;
and what was done to single jobs, queues and settings by a session that has said for whom it acts. Or stops
one: what it has changed stays so. To list needs the role awa_reader or awa_operator, to stop awa_operator.

  --state STATE    running, stopped or finished
  --limit N        how many, at most (20; 1 to 1,000)
  --before-id ID   changes with lower ids: the next page
` + viewFlags + `
Exit status: 0 done, or a signal has ended --watch; 1 it failed, or there is no such change; 2 the command
line is wrong.
`

func runChanges(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("changes", 10*time.Second, "--limit", stdout, stderr)
	var state string
	var beforeID int64
	limit := 20
	err := v.parse(args, 2, func(flags *flag.FlagSet) {
		flags.Func("state", "", func(value string) error {
			if state = value; value != "running" && value != "stopped" && value != "finished" {
				return errors.New("should be running, stopped or finished")
			}
			return nil
		})
		flags.Func("limit", "", numberFlag(&limit, 1, 1000))
		flags.Func("before-id", "", numberFlag(&beforeID, 1, 1<<62))
	})
	if err != nil {
		return err
	}
	if len(v.operands) > 0 {
		var id int64
		switch {
		case v.operands[0] != "stop":
			return v.refuse("argument 1 should be stop")
		case len(v.operands) < 2:
			return v.refuse("stop needs the id of a change")
		case numberFlag(&id, 1, 1<<62)(v.operands[1]) != nil:
			return v.refuse("argument 2 should be the id of a change")
		}
		if err := v.only("stop"); err != nil {
			return err
		}
		return v.stopChange(ctx, id)
	}
	return v.show(ctx, func(ctx context.Context, tx pgx.Tx) (shown, error) {
		at, err := now(ctx, tx)
		if err != nil {
			return shown{}, err
		}
		var before *int64
		if beforeID != 0 {
			before = &beforeID
		}
		raw, changes, err := rowsOf[change](ctx, tx, v.masker, changesQuery, optional(state), before, limit)
		s := shown{value: raw, lines: func(width int) []string { return changeTable(changes, at, width) }}
		if len(changes) == limit {
			s.more = fmt.Sprintf("There may be more: --before-id %d", changes[len(changes)-1].ChangeID)
			s.isAsked = v.given("limit")
		}
		return s, err
	})
}

func (v *view) stopChange(ctx context.Context, id int64) error {
	return v.do(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select awa.stop_change($1)", id)
		return err
	}, "change_id", id, "It is stopped: no more jobs are changed.")
}

// do makes one change, and says so.
func (v *view) do(
	ctx context.Context, change func(context.Context, pgx.Tx) error, key string, of any, says string,
) error {
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	if err := v.transaction(ctx, pgx.ReadWrite, change); err != nil {
		return v.inWords(ctx, err)
	}
	if v.asJSON {
		return v.printJSON(map[string]any{key: of, "done": true}, "  ")
	}
	fmt.Fprintln(v.stdout, says)
	return nil
}

func changeTable(changes []change, now time.Time, width int) []string {
	if len(changes) == 0 {
		return []string{"There are no such changes."}
	}
	rows := make([][]string, len(changes))
	for i, c := range changes {
		by := c.StartedBy
		if c.Actor != "" {
			by = fmt.Sprintf("%s (%s)", c.Actor, c.StartedBy)
		}
		about := string(c.Filter)
		if strings.HasPrefix(c.Action, "configure") {
			about += " " + string(c.Options)
		}
		if c.LastError != "" {
			about += " LAST ERROR: " + c.LastError
		}
		rows[i] = []string{number(c.ChangeID), c.Action, c.State, ago(&c.StartedAt, now), number(c.Changed),
			number(c.Skipped), by, about}
	}
	return table([]column{
		{"ID", true, 0}, {"ACTION", false, 0}, {"STATE", false, 0}, {"STARTED", true, 0}, {"CHANGED", true, 0},
		{"SKIPPED", true, 0}, {"BY", false, 24}, {"OF", false, 0},
	}, rows, width)
}
