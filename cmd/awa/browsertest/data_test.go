package browsertest

import "fmt"

// queues are those of a shop, with the jobs a minute of the last hour, and the milliseconds that a job takes.
var queues = []struct {
	name, kind     string
	perMinute, run int
}{
	{"emails", "order_confirmation", 900, 120},
	{"images", "make_thumbnails", 320, 850},
	{"invoices", "print_invoice", 140, 400},
	{"webhooks", "notify_partner", 210, 260},
	{"reports", "sales_of_the_day", 2, 21000},
}

// fill makes jobs in each state, workers, schedules, changes, and the statistics of an hour.
func (s *site) fill() {
	s.t.Helper()
	s.execute(
		`select awa.configure_queue(q, '{"dead_letter": true}') from unnest(array['invoices', 'webhooks']) q`,
		`select awa.configure_queue('reports', '{"max_running": 2}')`,
		`select awa.configure_queue('images', '{"group_max_running": 1}')`,
		`select awa.enqueue('emails', 'order_confirmation',
		          jsonb_build_object('order', 10250 + n, 'to', format('customer%s@example.com', n), 'token', 'secret'))
		   from generate_series(1, 18) n`,
		`select awa.complete(job_id, receipt, jsonb_build_object('message_id', format('<%s@mail.example.com>', job_id)))
		   from awa.claim('emails', 6)`,
		`select awa.enqueue('images', 'make_thumbnails', jsonb_build_object('product', n, 'sizes', array[120, 480]),
		          tags => array['shop', 'photo'], group_key => format('product/%s', n % 4))
		   from generate_series(1, 11) n`,
		`select awa.complete(job_id, receipt, '{"files": 2}') from awa.claim('images', 4)`,
		`select awa.enqueue('invoices', 'print_invoice', jsonb_build_object('order', 10250 + n), max_attempts => 3)
		   from generate_series(1, 10) n`,
		`select awa.complete(job_id, receipt) from awa.claim('invoices', 3)`,
		`select awa.discard(job_id, receipt, format('order %s has no address', job_id),
		          '{"service": "billing", "status": 422}') from awa.claim('invoices', 2)`,
		`select awa.fail(job_id, receipt, 'dial tcp 10.0.4.17:9100: connect: connection refused')
		   from awa.claim('invoices', 2)`,
		`select awa.enqueue('webhooks', 'notify_partner', '{"url": "https://partner.example.com/orders"}')
		   from generate_series(1, 6)`,
		`select awa.fail(job_id, receipt, 'the partner answered 503 after 30 s', retry_after => '10 minutes')
		   from awa.claim('webhooks', 3)`,
		`select awa.enqueue('webhooks', 'notify_partner', '{"url": "https://partner.example.com/stock"}',
		          run_at => now() + interval '2 hours')`,
		`select awa.cancel(awa.enqueue('reports', 'sales_of_the_day', '{"day": "2026-11-30"}',
		          run_at => now() + interval '1 hour'), 'the report was sent by hand')`,
		`select awa.enqueue('reports', 'sales_of_the_day', '{"day": "2026-12-01"}') from generate_series(1, 3)`,
		`select awa.register_worker(name, qs::text[], info::jsonb)
		   from (values ('mailer-1', '{emails}', '{"go": "1.26", "pid": 811}'),
		                ('studio-1', '{images}', null), ('office-1', '{invoices,reports,webhooks}', null)) w(name, qs, info)`,
		`select awa.set_progress(job_id, receipt, '{"done": 3, "of": 12, "step": "adding up"}')
		   from awa.claim('reports', 1, (select worker_id from awa.list_workers() where name = 'office-1'))`,
		`select from awa.claim('images', 3, (select worker_id from awa.list_workers() where name = 'studio-1'))`,
		`select from awa.claim('emails', 4, (select worker_id from awa.list_workers() where name = 'mailer-1'))`,
		`select awa.pause_queue('webhooks')`,
		`select awa.schedule('sales of the day', 'reports', 'sales_of_the_day', cron => '0 3 * * *',
		          timezone => 'Europe/Paris')`,
		`select awa.trigger_schedule('sales of the day')`,
		`select awa.schedule('stock', 'webhooks', 'notify_partner', every => '15 minutes', args => '{"what": "stock"}')`,
		`select awa.pause_schedule('stock', 'the partner moves house')`,
		`select set_config('awa.actor', 'ada', false)`,
		`select awa.set_priority(awa.enqueue('invoices', 'print_invoice', '{"order": 10301}'), 1)`,
		`select awa.start_change('cancel', '{"queue": "webhooks", "kind": "probe"}')`,
		`select awa.fold()`)
	for n, q := range queues {
		s.statistics(n, q.name, q.kind, q.perMinute, q.run)
	}
}

// statistics writes those of an hour: as much each minute as the shop has to do, by a wave that differs by queue.
func (s *site) statistics(n int, queue, kind string, perMinute, run int) {
	minutes := fmt.Sprintf(`
		select 60, m, %[2]d * (10 + 3 * sin(%[1]d + i / 7.0) + 2 * sin(i * (%[1]d + 3))) / 10 as jobs, i
		  from generate_series(1, 59) i,
		       lateral (select date_trunc('minute', now()) - i * interval '1 minute') t(m)`, n, perMinute)
	counted := fmt.Sprintf(`
		select 60 as seconds, m as at, '%s' as kind, jobs::bigint as enqueued,
		       (jobs * 0.985)::bigint as completed,
		       (jobs * case when i between 12 and 19 then 0.07 else 0.01 end)::bigint as failed,
		       array(select awa._duration_step(w * interval '1 millisecond') << 40 | (1 + jobs * share)::bigint
		               from (values (8, 0.6), (40, 0.33), (900 + 400 * sin(i), 0.06)) v(w, share)) as waits,
		       array(select awa._duration_step(w * interval '1 millisecond') << 40 | (1 + jobs * share)::bigint
		               from (values (%[2]d * 0.7, 0.6), (%[2]d * 1.2, 0.33), (%[2]d * 3.1, 0.06)) v(w, share)) as runs
		  from (%[3]s) x(seconds, m, jobs, i)`, kind, run, minutes)
	s.execute(
		`insert into awa.statistics (seconds, at, kind, enqueued, completed, failed, waits, runs) `+counted+`
		 on conflict do nothing`,
		`insert into awa.queue_statistics (queue_id, seconds, at, kind, enqueued, completed, failed, waits, runs)
		 select q.queue_id, c.* from awa.queues q, (`+counted+`) c where q.name = '`+queue+`' on conflict do nothing`)
}

// one returns the id of a job in a state.
func (s *site) one(state string) string {
	s.t.Helper()
	return s.value(`select id::text from awa.list_jobs(state => $1) order by id desc limit 1`, state)
}
