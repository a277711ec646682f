-- Without this, a worker would have to call each pass again and again, or be late with what is due.
\set name pass_due_at
\ir ../prelude.psql

begin;
-- Whatever else is due in this database stays out of this.
delete from awa.deferred_jobs;
update awa.schedules set next_at = null;
select plan(8);

select is(awa.pass_due_at('promote_due'), null, 'nothing is deferred');
select is(awa.pass_due_at('fire_due'), null, 'there is no schedule');
select awa.enqueue(:'queue', 'k', run_at => '2130-01-02 00:00+00'),
       awa.schedule(pg_temp.q(), pg_temp.q(), 'k', '@daily', starts_at => '2129-01-02 00:00+00') \g /dev/null
select is(awa.pass_due_at(pass => 'promote_due'), '2130-01-02 00:00+00', 'the next job');
select is(awa.pass_due_at('fire_due'), '2129-01-02 00:00+00', 'the next tick');
select pg_temp.refused(format('select awa.pass_due_at(%L)', p.pass), '22023', 'pass',
  coalesce(p.pass, 'none') || ' waits for no time')
  from unnest('{rotate,vacuum,NULL}'::text[]) p(pass);
select is((select provolatile from pg_proc where oid = 'awa.pass_due_at'::regproc), 's', 'it changes nothing');

select * from finish();
rollback;
