package ui

// auditRow is a queue of audit.
type auditRow struct {
	Queue                                                        *string
	Enqueued, Available, Scheduled, Retryable, Running, External *int64
	Completed, Failed, Cancelled, Dead                           *int64
	IsBalanced                                                   bool
	Problem                                                      *string
	Rows, Problems                                               int64
}

// auditSQL returns the queues with problems first; there may be thousands of others.
const auditSQL = `
	select a.queue, a.enqueued, a.available, a.scheduled, a.retryable, a.running, a.waiting_external, a.completed,
	       a.failed, a.cancelled, a.dead, a.balanced, left(a.problem, 1000), count(*) over (),
	       count(*) filter (where not a.balanced or a.problem is not null) over ()
	  from awa.audit() a
	 order by a.balanced and a.problem is null, a.queue
	 limit 200`

type auditView struct {
	*page
	IsAsked bool
	Audit   panel[[]auditRow]
}

// auditPage counts all jobs where that was asked for: it reads all that are kept.
func auditPage(p *page) (string, any) {
	p.Title, p.Section = "Audit", "audit"
	v := auditView{page: p, IsAsked: p.isAsked}
	if !v.IsAsked {
		return "audit", v
	}
	p.patience = 12 // times as long as another panel may take
	hint := "It reads all jobs that are kept: call awa.audit() in psql."
	v.Audit = read(p, hint, func(q queryer) ([]auditRow, error) { return rowsOf[auditRow](q, auditSQL) })
	return "audit", v
}

// All is the first row, which knows how many there are. Nil where there is none.
func (v auditView) All() *auditRow {
	if len(v.Audit.Data) == 0 {
		return nil
	}
	return &v.Audit.Data[0]
}
