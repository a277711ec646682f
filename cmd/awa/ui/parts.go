package ui

import "strconv"

// tab is a link of the navigation.
type tab struct {
	Href, Text string
	IsHere     bool
}

// Tab returns a link of the navigation.
func (p *page) Tab(section, path, text string) tab {
	return tab{p.Link(path), text, section == p.Section}
}

// JobLink returns the address of a job.
func (p *page) JobLink(id int64) string { return p.Link("/job/" + strconv.FormatInt(id, 10)) }

// WorkerLink returns the address of a worker.
func (p *page) WorkerLink(id int64) string { return p.Link("/worker", "id", strconv.FormatInt(id, 10)) }

// queueTable is what the table of queues is made of.
type queueTable struct {
	Page *page
	Rows []queueRow
}

// QueueTable returns the table of the busiest queues.
func (o overview) QueueTable() queueTable { return queueTable{o.page, o.Queues.Data} }

// QueueTable returns the table of a page of queues.
func (v queuesView) QueueTable() queueTable { return queueTable{v.page, v.Queues.Data} }

// QueueTable returns the table of one queue.
func (v queueView) QueueTable() queueTable {
	return queueTable{v.page, []queueRow{v.Queue.Data.queueRow}}
}

// argsPage is a button to another page of the jobs that are looked for by their arguments, which stay out of the URL.
type argsPage struct{ Action, Args, Text string }

// ArgsPage returns such a button.
func (v jobsView) ArgsPage(action, text string) argsPage { return argsPage{action, v.Args, text} }
