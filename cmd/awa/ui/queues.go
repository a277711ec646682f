package ui

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// pageLength is how many rows a list has.
const pageLength = 50

type queuesView struct {
	*page
	Queues panel[[]queueRow]
	Next   string // the address of the next page, or ""
}

const queuesSQL = `
	select ` + queueColumns + `
	  from awa.list_queues() q
	 where ($1 = '' or position(lower($1) in lower(q.queue)) > 0)
	   and ($2 = '' or q.queue > $2)
	 order by q.queue
	 limit $3`

func queuesPage(p *page) (string, any) {
	p.Title, p.Section = "Queues", "queues"
	v := queuesView{page: p}
	v.Queues = read(p, "Search for a part of the name.", func(q queryer) ([]queueRow, error) {
		return rowsOf[queueRow](q, queuesSQL, clean(p.Get("search")), clean(p.Get("after")), pageLength+1)
	})
	if rows := v.Queues.Data; len(rows) > pageLength {
		v.Queues.Data = rows[:pageLength]
		v.Next = p.Here("after", rows[pageLength-1].Queue)
	}
	return "queues", v
}

// clean returns a text that PostgreSQL takes: in UTF-8, and without zero bytes, which no name has.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// setting is a setting of a queue, in words.
type setting struct{ Name, Value string }

// oneQueue is a queue with its settings.
type oneQueue struct {
	queueRow
	ChangedAt *time.Time
	ChangedBy *string
	Settings  []setting
	Actions   []action
}

// Names are those of the settings.
func (q oneQueue) Names() []string { return shownSettings }

type queueView struct {
	*page
	Name  string
	Queue panel[*oneQueue]
	Stats panel[[]chart]
}

// FormName is the queue's name for a form, in which a browser would make CR LF of the end of a line.
func (v queueView) FormName() string { return url.QueryEscape(v.Name) }

// Seen is what the reader of the page knows of the queue.
func (v queueView) Seen() string { return pauseState(v.Queue.Data.PausedAt != nil) }

// pauseState says in a word whether a queue is paused.
func pauseState(isPaused bool) string {
	if isPaused {
		return "paused"
	}
	return "open"
}

// shownSettings are the settings of a queue, in the order in which they are shown.
var shownSettings = []string{
	"default_priority", "default_max_attempts", "lease", "deadline", "backoff_base", "backoff_max", "dead_letter",
	"aging_interval", "shards", "max_depth", "max_running", "rate", "group_max_running", "group_rate", "group_order",
	"group_turns", "completed_retention", "failed_retention", "dlq_retention",
}

const (
	queueSQL    = `select ` + queueColumns + ` from awa.list_queues() q where q.queue = $1`
	settingsSQL = `select to_jsonb(q), q.changed_at, q.changed_by from awa.list_queues() q where q.queue = $1`
)

func queuePage(p *page) (string, any) {
	p.Title, p.Section = "Queue", "queues"
	v := queueView{page: p, Name: clean(p.Get("name"))}
	v.Queue = read(p, "Call awa.queue_counts with the queue's name in psql.", func(q queryer) (*oneQueue, error) {
		row, err := rowOf[queueRow](q, queueSQL, v.Name)
		if err != nil || row == nil {
			return nil, err
		}
		queue := &oneQueue{queueRow: *row}
		may, err := p.rights(q)
		if err != nil {
			return nil, err
		}
		queue.Actions = offered(may, ofQueue, pauseState(queue.PausedAt != nil))
		var settings map[string]json.RawMessage
		if err := q.QueryRow(q, settingsSQL, v.Name).Scan(&settings, &queue.ChangedAt, &queue.ChangedBy); err != nil {
			return nil, err
		}
		for _, name := range shownSettings {
			value := strings.Trim(string(settings[name]), `"`)
			if value == "null" || value == "" {
				value = "–"
			}
			queue.Settings = append(queue.Settings, setting{name, value})
		}
		return queue, nil
	})
	if v.Queue.Failed == "" && v.Queue.Data == nil {
		p.status = 404
		return "message", p.message("There is no queue of this name.")
	}
	v.Stats = readStats(p, v.Name)
	return "queue", v
}
