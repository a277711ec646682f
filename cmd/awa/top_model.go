package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// topQueue is a queue as awa top shows it.
type topQueue struct {
	queue
	rates                    bool // whether there are two readings to tell rates by
	enqueued, ended, failing float64
}

// topReading is what awa top reads. Each part may fail by itself.
type topReading struct {
	at       time.Time // of the server
	queues   []queue
	running  []listed // those that have been running for longest
	findings []healthFinding
	errs     map[string]error // by part
}

// The parts of a reading.
const (
	topQueues  = "queues"
	topRunning = "running jobs"
	topHealth  = "health"
)

// Messages to the model, beside topReading.
type (
	topKey  string // a character, or the name of a key
	topSize struct{ width, height int }
	topTick time.Time // of this machine
	topDone struct {  // an action has ended
		says string
		err  error
	}
)

// topCommand does something beside the model, which gets what it returns.
type topCommand func(context.Context) any

// topActions is what the model has done by others.
type topActions interface {
	read(context.Context) topReading
	act(ctx context.Context, query string, args ...any) error
	explain(ctx context.Context, id int64) (string, error)
}

// topModel is the state of awa top. It is changed by messages alone.
type topModel struct {
	actions       topActions
	width, height int
	every         time.Duration
	now           time.Time // of this machine
	readAt        time.Time // of this machine, when queues were last read
	isReading     bool
	last          topReading
	queues        []topQueue
	findings      []healthFinding
	running       []listed
	errs          map[string]error
	inJobs        bool   // the cursor is among the jobs
	queueName     string // where the cursor is among the queues
	jobID         int64  // where it is among the jobs
	search        string
	isSearching   bool
	order         int // one of topOrders
	question      string
	onYes         topCommand
	message       string
	quit          bool
}

// topOrders are the orders of queues.
var topOrders = []struct {
	name string
	less func(a, b topQueue) int
}{
	{"available", func(a, b topQueue) int { return int(min(max(b.Available-a.Available, -1), 1)) }},
	{"running", func(a, b topQueue) int { return int(min(max(b.Running-a.Running, -1), 1)) }},
	{"rate", func(a, b topQueue) int {
		switch {
		case a.ended > b.ended:
			return -1
		case a.ended < b.ended:
			return 1
		}
		return 0
	}},
	{"name", func(a, b topQueue) int { return 0 }},
}

// update changes the model by a message, and returns what is to be done.
func (m *topModel) update(message any) topCommand {
	switch message := message.(type) {
	case topSize:
		m.width, m.height = message.width, message.height
	case topTick:
		m.now = time.Time(message)
		return m.reading()
	case topReading:
		m.isReading = false
		m.take(message)
	case topDone:
		m.message = message.says
		if message.err != nil {
			m.message = "FAILED: " + message.err.Error()
		}
		return m.reading()
	case topKey:
		return m.press(string(message))
	}
	return nil
}

// reading reads anew, unless it reads already.
func (m *topModel) reading() topCommand {
	if m.isReading {
		return nil
	}
	m.isReading = true
	return func(ctx context.Context) any { return m.actions.read(ctx) }
}

// take takes what was read. Parts that failed stay as they were, with the error beside them.
func (m *topModel) take(r topReading) {
	m.errs = r.errs
	if r.errs[topRunning] == nil {
		m.running = r.running
	}
	if r.errs[topHealth] == nil && r.findings != nil {
		m.findings = r.findings
	}
	if r.errs[topQueues] != nil {
		return
	}
	before := map[string]queue{}
	for _, q := range m.last.queues {
		before[q.Queue] = q
	}
	seconds := r.at.Sub(m.last.at).Seconds()
	m.queues = nil
	for _, q := range r.queues {
		t := topQueue{queue: q}
		if old, ok := before[q.Queue]; ok && seconds > 0 {
			t.rates = true
			rate := func(now, then int64) float64 { return max(float64(now-then)/seconds, 0) }
			t.enqueued = rate(q.all(), old.all())
			t.ended = rate(q.Completed+q.Failed+q.Dead+q.Cancelled, old.Completed+old.Failed+old.Dead+old.Cancelled)
			t.failing = rate(q.Failed+q.Dead, old.Failed+old.Dead)
		}
		m.queues = append(m.queues, t)
	}
	m.last, m.readAt = r, m.now
}

// all is how many jobs a queue has had.
func (q queue) all() int64 {
	return q.Available + q.Scheduled + q.Retryable + q.Running + q.Completed + q.Failed + q.Cancelled + q.Dead
}

// shownQueues are those that match the search, in their order.
func (m *topModel) shownQueues() []topQueue {
	var shown []topQueue
	for _, q := range m.queues {
		if strings.Contains(strings.ToLower(q.Queue), strings.ToLower(m.search)) {
			shown = append(shown, q)
		}
	}
	slices.SortStableFunc(shown, topOrders[m.order].less)
	return shown
}

// cursor returns where the cursor is among queues and jobs.
func (m *topModel) cursor(queues []topQueue) (queue, job int) {
	queue = max(slices.IndexFunc(queues, func(q topQueue) bool { return q.Queue == m.queueName }), 0)
	job = max(slices.IndexFunc(m.running, func(j listed) bool { return j.ID == m.jobID }), 0)
	return queue, job
}

// move moves the cursor by so many rows.
func (m *topModel) move(by int) {
	queues := m.shownQueues()
	q, j := m.cursor(queues)
	if m.inJobs && len(m.running) > 0 {
		m.jobID = m.running[min(max(j+by, 0), len(m.running)-1)].ID
	} else if !m.inJobs && len(queues) > 0 {
		m.queueName = queues[min(max(q+by, 0), len(queues)-1)].Queue
	}
}

// press takes a key.
func (m *topModel) press(key string) topCommand {
	switch {
	case key == "Ctrl+C":
		m.quit = true
	case m.question != "":
		do := m.onYes
		m.question, m.onYes, m.message = "", nil, "Nothing was changed."
		if key == "y" || key == "Y" {
			m.message = ""
			return do
		}
	case m.isSearching:
		switch {
		case key == "Enter":
			m.isSearching = false
		case key == "Esc":
			m.isSearching, m.search = false, ""
		case key == "Backspace":
			if runes := []rune(m.search); len(runes) > 0 {
				m.search = string(runes[:len(runes)-1])
			}
		case len([]rune(key)) == 1:
			m.search += key
		}
	default:
		return m.command(key)
	}
	return nil
}

// command takes a key that stands for a command.
func (m *topModel) command(key string) topCommand {
	m.message = ""
	switch key {
	case "q", "Esc":
		m.quit = true
	case "j", "Down":
		m.move(1)
	case "k", "Up":
		m.move(-1)
	case "PgDn":
		m.move(10)
	case "PgUp":
		m.move(-10)
	case "Tab":
		m.inJobs = !m.inJobs
	case "s":
		m.order = (m.order + 1) % len(topOrders)
	case "/":
		m.isSearching, m.inJobs = true, false
	case "r":
		return m.reading()
	case "p":
		m.askQueue()
	case "c":
		m.askJob("cancel", "awa.cancel($1)")
	case "d":
		m.askJob("discard", "awa.discard_job($1)")
	case "e", "Enter":
		return m.explainJob()
	}
	return nil
}

// askQueue asks whether to pause, or resume, the queue at the cursor.
func (m *topModel) askQueue() {
	queues := m.shownQueues()
	if m.inJobs || len(queues) == 0 {
		return
	}
	at, _ := m.cursor(queues)
	q := queues[at]
	verb, query := "Pause", "awa.pause_queue($1)"
	if q.PausedAt != nil {
		verb, query = "Resume", "awa.resume_queue($1)"
	}
	m.question = fmt.Sprintf("%s queue %s? y/n", verb, q.Queue)
	m.onYes = func(ctx context.Context) any {
		err := m.actions.act(ctx, "select "+query, q.Queue)
		return topDone{fmt.Sprintf("%sd: %s", verb, q.Queue), err}
	}
}

// askJob asks whether to change the job at the cursor.
func (m *topModel) askJob(verb, call string) {
	if !m.inJobs || len(m.running) == 0 {
		return
	}
	_, at := m.cursor(nil)
	id := m.running[at].ID
	m.question = fmt.Sprintf("%s job %d, which runs? y/n", verb, id)
	m.onYes = func(ctx context.Context) any {
		err := m.actions.act(ctx, "select "+call, id)
		return topDone{fmt.Sprintf("%s: job %d", verb, id), err}
	}
}

// explainJob says what there is to say of the job at the cursor.
func (m *topModel) explainJob() topCommand {
	if !m.inJobs || len(m.running) == 0 {
		return nil
	}
	_, at := m.cursor(nil)
	id := m.running[at].ID
	return func(ctx context.Context) any {
		says, err := m.actions.explain(ctx, id)
		return topDone{fmt.Sprintf("Job %d: %s", id, says), err}
	}
}

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
	jobs := min(len(m.running)+1, max(room/3, 3))
	rows(topQueueTable(queues, m.last.at, m.width), q, max(room-jobs, 2), !m.inJobs)
	add(topPlain, "")
	trouble(topRunning)
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
