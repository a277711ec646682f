package main

import (
	"fmt"
	"strings"
	"time"
)

// topStyle is how a line looks.
type topStyle int

const (
	topPlain topStyle = iota
	topBold
	topCursor
	topTrouble
)

type topLine struct {
	text  string
	style topStyle
}

// view returns the lines of the screen.
func (m *topModel) view() []topLine {
	var lines []topLine
	add := func(style topStyle, text string) {
		lines = append(lines, topLine{cut(string(escaped([]byte(oneLine(text)))), m.width), style})
	}
	trouble := func(part string) {
		if err := m.errs[part]; err != nil {
			add(topTrouble, fmt.Sprintf("NO NEW %s: %s", strings.ToUpper(part), err))
		}
	}
	rows := func(table []string, cursor, most int, hasCursor bool) {
		for i, line := range window(table, cursor+1, most) {
			style := topPlain
			if i == 0 {
				style = topBold
			} else if hasCursor && line.at == cursor+1 {
				style = topCursor
			}
			lines = append(lines, topLine{cut(line.text, m.width), style})
		}
	}
	var running, available int64
	var enqueued, ended, failing float64
	for _, q := range m.queues {
		running, available = running+q.Running, available+q.Available
		enqueued, ended, failing = enqueued+q.enqueued, ended+q.ended, failing+q.failing
	}
	head := "awa top: reading"
	if !m.readAt.IsZero() {
		head = fmt.Sprintf("awa top: read at %s UTC, %s ago: %s, %d available, %d running; per second %.1f new, %.1f "+
			"ended, %.1f failed", m.last.at.UTC().Format(time.TimeOnly), age(m.now.Sub(m.readAt)),
			count(int64(len(m.queues)), "queue", "queues"), available, running, enqueued, ended, failing)
	}
	add(topBold, head)
	trouble(topQueues)
	m.addHealth(add)
	trouble(topHealth)
	add(topPlain, "")
	queues := m.shownQueues()
	q, j := m.cursor(queues)
	room := max(m.height-len(lines)-4, 4)
	if m.allRunning > m.looked {
		room--
	}
	jobs := min(len(m.running)+1, max(room/3, 3))
	rows(topQueueTable(queues, m.last.at, m.width), q, max(room-jobs, 2), !m.inJobs)
	add(topPlain, "")
	trouble(topRunning)
	if m.allRunning > m.looked {
		add(topPlain, fmt.Sprintf("Of %d running jobs, it looked at the %d that were enqueued last.", m.allRunning, m.looked))
	}
	rows(topJobTable(m.running, m.last.at, m.width), j, jobs, m.inJobs)
	for len(lines) < m.height-1 {
		lines = append(lines, topLine{})
	}
	lines = lines[:max(min(len(lines), m.height-1), 0)]
	m.addFoot(add)
	return lines
}

func (m *topModel) addHealth(add func(topStyle, string)) {
	wrong := 0
	for _, f := range m.findings {
		if f.Level == levelOK {
			continue
		}
		if wrong++; wrong > 3 {
			continue
		}
		add(topTrouble, fmt.Sprintf("%s: %s %s: %s", f.Level, f.Topic, f.Subject, f.Message))
	}
	if wrong > 3 {
		add(topTrouble, fmt.Sprintf("and %d more: awa health shows them", wrong-3))
	} else if wrong == 0 && m.findings != nil {
		add(topPlain, "Health: all is well.")
	}
}

// addFoot adds the last line: a question, what has happened, or the keys.
func (m *topModel) addFoot(add func(topStyle, string)) {
	switch {
	case m.question != "":
		add(topTrouble, m.question)
	case m.isSearching:
		add(topBold, "Search: "+m.search+"_")
	case m.message != "":
		add(topBold, m.message)
	case m.inJobs:
		add(topPlain, "up/down, Tab: queues, e: explain, c: cancel, d: discard, r: read, q: quit")
	default:
		add(topPlain, fmt.Sprintf("up/down, Tab: jobs, p: pause or resume, s: order (%s), /: search %s, r: read, q: quit",
			topOrders[m.order].name, m.search))
	}
}

// topRow is a line of a table, and which one.
type topRow struct {
	text string
	at   int
}

// window returns the first line of a table, and so many others around one, at most.
func window(table []string, around, most int) (rows []topRow) {
	from := 1
	if around >= most {
		from = around - most + 2
	}
	rows = append(rows, topRow{table[0], 0})
	for at := from; at < len(table) && len(rows) < most; at++ {
		rows = append(rows, topRow{table[at], at})
	}
	return rows
}

func topQueueTable(queues []topQueue, now time.Time, width int) []string {
	var rows [][]string
	for _, q := range queues {
		state := "open"
		if q.PausedAt != nil {
			state = "paused"
		}
		rate := func(r float64) string {
			if !q.rates {
				return "-"
			}
			return fmt.Sprintf("%.1f", r)
		}
		rows = append(rows, []string{q.Queue, state, number(q.Available), ago(q.OldestReadyAt, now), number(q.Running),
			rate(q.enqueued), rate(q.ended), rate(q.failing), number(q.Scheduled + q.Retryable), number(q.Dead),
			number(q.Workers)})
	}
	return table([]column{
		{"QUEUE", false, 24}, {"STATE", false, 0}, {"AVAILABLE", true, 0}, {"OLDEST", true, 0}, {"RUNNING", true, 0},
		{"NEW/S", true, 0}, {"ENDED/S", true, 0}, {"FAILED/S", true, 0}, {"LATER", true, 0}, {"DEAD", true, 0},
		{"WORKERS", true, 0},
	}, rows, width)
}

func topJobTable(jobs []listed, now time.Time, width int) []string {
	var rows [][]string
	for _, j := range jobs {
		rows = append(rows, []string{ago(j.AttemptedAt, now), number(j.ID), j.Queue, j.Kind,
			fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts), j.about()})
	}
	return table([]column{
		{"RUNNING FOR", true, 0}, {"ID", true, 0}, {"QUEUE", false, 24}, {"KIND", false, 24}, {"ATTEMPT", true, 0},
		{"LAST ERROR, OR ARGS", false, 0},
	}, rows, width)
}
