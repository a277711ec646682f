package ui

import "time"

// finding is a row of health.
type finding struct {
	Level, Topic, Subject, Message string
	Hint                           *string
}

const (
	findingColumns = `h.level, h.topic, left(h.subject, 200), left(h.message, 1000), left(h.hint, 1000)`
	findingsSQL    = `select ` + findingColumns + ` from awa.health() h where h.level <> 'ok' limit $1`
)

// mostFindings is how many findings a panel has.
const mostFindings = 50

// readFindings reads what health says, by a query whose argument is how many rows it may return.
func readFindings(p *page, sql string) panel[[]finding] {
	result := read(p, healthHint, func(q queryer) ([]finding, error) {
		findings, err := rowsOf[finding](q, sql, mostFindings+1)
		for i := range findings {
			findings[i].Message = p.h.masker.Text(findings[i].Message)
			maskText(p.h.masker, findings[i].Hint)
		}
		return findings, err
	})
	if len(result.Data) > mostFindings {
		result.Data, result.IsMore = result.Data[:mostFindings], true
	}
	return result
}

const healthHint = "health reads the whole installation: call awa.health() in psql."

// queueRow is a queue with its counts. The totals are those of all queues.
type queueRow struct {
	Queue                                           string
	Available, Scheduled, Retryable, Running        int64
	Completed, Failed, Cancelled, Dead, Limited     int64
	OldestReady                                     *time.Time
	PausedAt                                        *time.Time
	Workers                                         int64
	Queues                                          int64
	AllAvailable, AllScheduled, AllRetryable        int64
	AllRunning, AllFailed, AllDead, AllPausedQueues int64
	AllOldestReady                                  *time.Time
}

const (
	queueColumns = `
		q.queue, q.available, q.scheduled, q.retryable, q.running, q.completed, q.failed, q.cancelled, q.dead, q.limited,
		q.oldest_ready_at, q.paused_at, q.workers, count(*) over (),
		(sum(q.available) over ())::bigint, (sum(q.scheduled) over ())::bigint, (sum(q.retryable) over ())::bigint,
		(sum(q.running) over ())::bigint, (sum(q.failed) over ())::bigint, (sum(q.dead) over ())::bigint,
		count(q.paused_at) over (), min(q.oldest_ready_at) over ()`
	busiestSQL = `
		select ` + queueColumns + `
		  from awa.list_queues() q
		 order by q.available + q.running desc, q.queue
		 limit 20`
)

type overview struct {
	*page
	Health panel[[]finding]
	Queues panel[[]queueRow]
	Stats  panel[[]chart]
}

func overviewPage(p *page) (string, any) {
	p.Title, p.Section = "Overview", "overview"
	o := overview{page: p}
	o.Health = readFindings(p, findingsSQL)
	o.Queues = read(p, "Look at one queue: /queue?name=…", func(q queryer) ([]queueRow, error) {
		return rowsOf[queueRow](q, busiestSQL)
	})
	o.Stats = readStats(p, "")
	return "overview", o
}

// Totals are the counts of all queues: those of the first row have them. Nil where there is no queue.
func (o overview) Totals() *queueRow {
	if len(o.Queues.Data) == 0 {
		return nil
	}
	return &o.Queues.Data[0]
}
