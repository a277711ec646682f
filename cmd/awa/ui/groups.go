package ui

import (
	"net/url"
	"time"
)

// groupRow is a group of a queue.
type groupRow struct {
	Key                   string
	Running, Waiting      *int64
	Oldest, Next          *time.Time
	PausedAt, PausedUntil *time.Time
	Reason                *string
}

const groupsSQL = `
	select g.group_key, g.running::bigint, g.waiting::bigint, g.oldest_waiting_at, g.next_at, g.paused_at,
	       g.paused_until, left(g.reason, 500)
	  from awa.list_groups(queue => $1, after_key => $2, max_groups => $3) g`

type groupsView struct {
	*page
	Queue  string
	Groups panel[[]groupRow]
	May    []string
	Next   string
}

// groupsPage lists the groups of a queue that has limits for them.
func groupsPage(p *page) (string, any) {
	p.Title, p.Section = "Groups", "queues"
	v := groupsView{page: p, Queue: clean(p.Get("queue"))}
	if v.Queue == "" {
		p.status = 404
		return "message", p.message("There is no queue of this name.")
	}
	v.Groups = read(p, "Call awa.list_groups in psql.", func(q queryer) (rows []groupRow, err error) {
		rows, err = rowsOf[groupRow](q, groupsSQL, v.Queue, optional(clean(p.Get("after"))), pageLength+1)
		if err == nil {
			v.May, err = p.rights(q)
		}
		for i := range rows {
			maskText(p.h.masker, rows[i].Reason)
		}
		return rows, err
	})
	if rows := v.Groups.Data; len(rows) > pageLength {
		v.Groups.Data = rows[:pageLength]
		v.Next = p.Here("after", rows[pageLength-1].Key)
	}
	return "groups", v
}

// FormName is a name for a form: see that of a queue.
func (v groupsView) FormName(name string) string { return url.QueryEscape(name) }

// Resume are the actions of a group that is paused.
func (v groupsView) Resume() []action { return offered(v.May, ofGroup, "paused") }

// Pause are the actions of a group that is not paused.
func (v groupsView) Pause() []action { return offered(v.May, ofGroup, "open") }
