package ui

import "strconv"

type deadView struct {
	*page
	Jobs  panel[jobsFound]
	Older string
	Many  many
}

// deadPage lists the dead letters, the last enqueued first.
func deadPage(p *page) (string, any) {
	p.Title, p.Section = "Dead letters", "dead"
	v := deadView{page: p}
	before, refused := idOf(p.Get("before"))
	if refused != "" {
		p.status = 400
		return "message", p.message(refused)
	}
	dead := "dead"
	f := filter{State: &dead, Queue: optional(clean(p.Get("queue"))), Kind: optional(clean(p.Get("kind")))}
	v.Jobs = read(p, "Narrow the filter: name a queue.", func(q queryer) (found jobsFound, err error) {
		if found, err = f.list(q, before); err == nil {
			found.May, err = p.rights(q)
		}
		return found, err
	})
	v.Many = p.newMany(v.Jobs.Data.May, f)
	v.Jobs.Data.mask(p.h.masker)
	if next := v.Jobs.Data.Next; next != nil {
		v.Older = p.Here("before", strconv.FormatInt(*next, 10))
	}
	return "dead", v
}
