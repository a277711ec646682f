package ui

import (
	"fmt"
	"strconv"
	"time"
)

// workerRow is a worker of a list.
type workerRow struct {
	ID                     int64
	Name                   string
	Queues                 []string // nil for all
	Info                   *string
	StartedAt, HeartbeatAt time.Time
	IsOverdue              bool
	OpenAttempts           int64
	RegisteredBy           *string
}

const (
	workerColumns = `
		w.worker_id, w.name, w.queues[1:21],
		case when pg_column_size(w.info) <= 4000 then left(w.info::text, 500) end,
		w.started_at, w.heartbeat_at, w.overdue, w.open_attempts, w.registered_by::text`
	workersSQL = `
		select ` + workerColumns + `
		  from awa.list_workers() w
		 where ($1 = '' or position(lower($1) in lower(w.name)) > 0)
		   and w.worker_id > $2
		 order by w.worker_id
		 limit $3`
	workerSQL  = `select ` + workerColumns + ` from awa.list_workers() w where w.worker_id = $1`
	runningSQL = `
		select ` + jobColumns + `
		  from awa.job_summaries(worker_id => $1, max_jobs => 100) j
		 order by j.attempted_at`
	mostRunning = 100
)

type workersView struct {
	*page
	Workers panel[[]workerRow]
	Next    string
}

func workersPage(p *page) (string, any) {
	p.Title, p.Section = "Workers", "workers"
	v := workersView{page: p}
	after, refused := idOf(p.Get("after"))
	if refused != "" {
		p.status = 400
		return "message", p.message("The id of a worker is a whole number.")
	}
	if after == nil {
		after = new(int64)
	}
	v.Workers = read(p, "Search for a part of the name.", func(q queryer) ([]workerRow, error) {
		rows, err := rowsOf[workerRow](q, workersSQL, clean(p.Get("search")), after, pageLength+1)
		for i := range rows {
			maskText(p.h.masker, rows[i].Info)
		}
		return rows, err
	})
	if rows := v.Workers.Data; len(rows) > pageLength {
		v.Workers.Data = rows[:pageLength]
		v.Next = p.Here("after", strconv.FormatInt(rows[pageLength-1].ID, 10))
	}
	return "workers", v
}

type workerView struct {
	*page
	Worker panel[*workerRow]
	Jobs   panel[[]jobRow]
}

// Hidden says how many of the jobs that the worker runs are not shown, or nothing.
func (v workerView) Hidden() string {
	shown := len(v.Jobs.Data)
	if shown < mostRunning || v.Worker.Data == nil || v.Worker.Data.OpenAttempts <= mostRunning {
		return ""
	}
	return fmt.Sprintf("… These are the newest %d of %s.", shown, number(v.Worker.Data.OpenAttempts))
}

func workerPage(p *page) (string, any) {
	p.Title, p.Section = "Worker", "workers"
	v := workerView{page: p}
	id, refused := idOf(p.Get("id"))
	if id == nil || refused != "" {
		p.status = 404
		return "message", p.message("There is no such worker.")
	}
	p.Title = "Worker " + strconv.FormatInt(*id, 10)
	v.Worker = read(p, "Call awa.list_workers in psql.", func(q queryer) (*workerRow, error) {
		worker, err := rowOf[workerRow](q, workerSQL, *id)
		if worker != nil {
			maskText(p.h.masker, worker.Info)
		}
		return worker, err
	})
	if v.Worker.Failed == "" && v.Worker.Data == nil {
		p.status = 404
		return "message", p.message("There is no such worker any more.")
	}
	v.Jobs = read(p, "Look at the running jobs of a queue.", func(q queryer) ([]jobRow, error) {
		rows, err := rowsOf[jobRow](q, runningSQL, *id)
		for i := range rows {
			maskText(p.h.masker, rows[i].Args)
			maskText(p.h.masker, rows[i].Error)
		}
		return rows, err
	})
	return "worker", v
}
