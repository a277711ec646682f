package main

import (
	"context"
	"fmt"
	"maps"
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
	at                 time.Time // of the server
	queues             []queue
	running            []listed // those that have been running for longest
	looked, allRunning int64    // among so many, of all that run
	findings           []healthFinding
	errs               map[string]error // by part
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
	looked        int64 // jobs that were looked at to find these
	allRunning    int64
	errs          map[string]error
	inJobs        bool   // the cursor is among the jobs
	queueName     string // the queue that the cursor is on; "" before there are any
	jobID         int64  // the job that it is on; 0 before there are any
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
	health := m.errs[topHealth] // not each reading reads that
	m.errs = map[string]error{}
	maps.Copy(m.errs, r.errs)
	if health != nil && r.findings == nil && r.errs[topHealth] == nil {
		m.errs[topHealth] = health
	}
	if r.errs[topRunning] == nil {
		m.running, m.looked, m.allRunning = r.running, r.looked, r.allRunning
	}
	defer m.choose(false)
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

// cursor returns where the cursor is among queues and jobs: negative where that is gone on which it was.
func (m *topModel) cursor(queues []topQueue) (queue, job int) {
	queue = slices.IndexFunc(queues, func(q topQueue) bool { return q.Queue == m.queueName })
	job = slices.IndexFunc(m.running, func(j listed) bool { return j.ID == m.jobID })
	return queue, job
}

// choose puts the cursor on the first queue and the first job, where it is on none yet; anew, where it is on none that
// is shown. A reading alone moves it from nothing: a key would change what nobody has chosen.
func (m *topModel) choose(anew bool) {
	queues := m.shownQueues()
	q, j := m.cursor(queues)
	if len(queues) > 0 && (m.queueName == "" || anew && q < 0) {
		m.queueName = queues[0].Queue
	}
	if len(m.running) > 0 && (m.jobID == 0 || anew && j < 0) {
		m.jobID = m.running[0].ID
	}
}

// move moves the cursor by so many rows; to the first one, where that is gone on which it was.
func (m *topModel) move(by int) {
	queues := m.shownQueues()
	q, j := m.cursor(queues)
	if m.inJobs && len(m.running) > 0 {
		m.jobID = m.running[moved(j, by, len(m.running))].ID
	} else if !m.inJobs && len(queues) > 0 {
		m.queueName = queues[moved(q, by, len(queues))].Queue
	}
}

func moved(at, by, rows int) int {
	if at < 0 {
		return 0
	}
	return min(max(at+by, 0), rows-1)
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
		m.choose(true)
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
		m.choose(true)
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
	if at < 0 {
		m.message = fmt.Sprintf("Queue %s is not there any more: choose another one.", m.queueName)
		return
	}
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
	id, ok := m.chosenJob()
	if !ok {
		return
	}
	m.question = fmt.Sprintf("%s job %d, which runs? y/n", verb, id)
	m.onYes = func(ctx context.Context) any {
		err := m.actions.act(ctx, "select "+call, id)
		return topDone{fmt.Sprintf("%s: job %d", verb, id), err}
	}
}

// chosenJob returns the job that the cursor is on, or says that it is gone.
func (m *topModel) chosenJob() (id int64, ok bool) {
	if !m.inJobs || m.jobID == 0 {
		return 0, false
	}
	if _, at := m.cursor(nil); at < 0 {
		m.message = fmt.Sprintf("Job %d is not among these any more: choose another one.", m.jobID)
		return 0, false
	}
	return m.jobID, true
}

// explainJob says what there is to say of the job at the cursor.
func (m *topModel) explainJob() topCommand {
	id, ok := m.chosenJob()
	if !ok {
		return nil
	}
	return func(ctx context.Context) any {
		says, err := m.actions.explain(ctx, id)
		return topDone{fmt.Sprintf("Job %d: %s", id, says), err}
	}
}
