package ui

import (
	"strconv"
	"time"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
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

const changesHint = "Call awa.list_changes in psql."

// mask hides what is not to be seen.
func (c *changeRow) mask(masker *mask.Masker) {
	for _, text := range []*string{c.Filter, c.Options, c.LastError} {
		maskText(masker, text)
	}
}

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
	v.Changes = read(p, changesHint, func(q queryer) ([]changeRow, error) {
		rows, err := rowsOf[changeRow](q, changesSQL, before, pageLength+1)
		for i := range rows {
			rows[i].mask(p.h.masker)
		}
		return rows, err
	})
	if rows := v.Changes.Data; len(rows) > pageLength {
		v.Changes.Data = rows[:pageLength]
		v.Older = p.Here("before", strconv.FormatInt(rows[pageLength-1].ID, 10))
	}
	return "changes", v
}

// oneChange is a change, and what can be done to it.
type oneChange struct {
	changeRow
	Actions []action
}

type changeView struct {
	*page
	ID     int64
	Change panel[*oneChange]
}

// changePage shows how far a change has come.
func changePage(p *page) (string, any) {
	p.Title, p.Section = "Change "+p.Get("id"), "changes"
	id, refused := idOf(p.Get("id"))
	if id == nil || refused != "" {
		p.status = 404
		return "message", p.message("There is no such change: its id is a whole number.")
	}
	v := changeView{page: p, ID: *id}
	v.Change = read(p, changesHint, func(q queryer) (*oneChange, error) {
		row, err := rowOf[changeRow](q, changesSQL, *id+1, 1)
		if err != nil || row == nil || row.ID != *id {
			return nil, err
		}
		row.mask(p.h.masker)
		may, err := p.rights(q)
		return &oneChange{*row, offered(may, ofChange, row.State)}, err
	})
	if v.Change.Failed == "" && v.Change.Data == nil {
		p.status = 404
		return "message", p.message("There is no such change, or it ended more than 90 days ago.")
	}
	return "change", v
}
