package ui

import (
	"strconv"
	"time"
)

// changeRow is a change of jobs that somebody made.
type changeRow struct {
	ID                      int64
	Action                  string
	Filter, Options         *string
	StartedBy, Actor        *string
	StartedAt               time.Time
	State                   string
	Found, Changed, Skipped *int64
	LastError               *string
	EndedAt                 *time.Time
}

const changesSQL = `
	select c.change_id, c.action::text, left(c.filter::text, 500), left(c.options::text, 500), c.started_by::text,
	       left(c.actor, 200), c.started_at, c.state::text, c.found::bigint, c.changed::bigint, c.skipped::bigint,
	       left(c.last_error, 500), c.ended_at
	  from awa.list_changes(before_id => $1, max_changes => $2) c
	 order by c.change_id desc`

type changesView struct {
	*page
	Changes panel[[]changeRow]
	Older   string
}

// changesPage lists who changed which jobs, the last change first.
func changesPage(p *page) (string, any) {
	p.Title, p.Section = "Changes", "changes"
	v := changesView{page: p}
	before, refused := idOf(p.Get("before"))
	if refused != "" {
		p.status = 400
		return "message", p.message("The id of a change is a whole number.")
	}
	v.Changes = read(p, "Call awa.list_changes in psql.", func(q queryer) ([]changeRow, error) {
		rows, err := rowsOf[changeRow](q, changesSQL, before, pageLength+1)
		for i := range rows {
			for _, text := range []*string{rows[i].Filter, rows[i].Options, rows[i].LastError} {
				maskText(p.h.masker, text)
			}
		}
		return rows, err
	})
	if rows := v.Changes.Data; len(rows) > pageLength {
		v.Changes.Data = rows[:pageLength]
		v.Older = p.Here("before", strconv.FormatInt(rows[pageLength-1].ID, 10))
	}
	return "changes", v
}
