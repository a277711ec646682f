-- Without this, whoever may work could end, keep alive, or claim as, the workers of others; and a maintainer could
-- empty segments by force.
\set name callers
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[20])) \g /dev/null

begin;
select plan(28);

-- The outcome of a statement when this login runs it: ok, or its SQLSTATE with its detail.
create function pg_temp.outcome_of(login text, command text) returns text
language plpgsql
as $$
declare
  v_outcome text := 'ok';
  v_detail text;
begin
  begin
    execute format('set local session authorization %I', login);
    execute command;
  exception when others then
    get stacked diagnostics v_detail = pg_exception_detail;
    v_outcome := concat_ws(': ', sqlstate, nullif(v_detail, ''));
  end;
  reset session authorization;
  return v_outcome;
end
$$;
create role pgtap_a login in role awa_worker;
create role pgtap_b login in role awa_worker;
create role "pgtap Rota" in role awa_worker;
create role pgtap_c login in role "pgtap Rota";
create role pgtap_d login noinherit in role awa_worker, "pgtap Rota";
create role pgtap_maintainer login in role awa_maintainer, awa_worker;
create role pgtap_operator login in role awa_operator;
create role pgtap_late_operator login noinherit in role awa_operator;
create temp table w (name text primary key, worker_id bigint);
grant all on w to public;
insert into w select 'own', 0;
select pg_temp.outcome_of('pgtap_a',
  $$update w set worker_id = awa.register_worker('pgtap_a') where name = 'own'$$) \g /dev/null
insert into w select 'shared', 0;
select pg_temp.outcome_of('pgtap_c',
  $$update w set worker_id = awa.register_worker('pgtap_c', member_of => 'pgtap Rota')
   where name = 'shared'$$) \g /dev/null
select worker_id as own from w where name = 'own' \gset
select worker_id as shared from w where name = 'shared' \gset
select isnt(:own::bigint, 0::bigint, 'a login registers a worker');
select is((select row(registered_by, member_of)::text from awa.workers where worker_id = :shared),
  '(pgtap_c,"pgtap Rota")', 'also one for the members of a role');

create temp table uses as
select u.n, u.name, format(u.command, :own::bigint) as own, format(u.command, :shared::bigint) as shared
  from (values
    (1, 'heartbeat', 'select * from awa.heartbeat(%s)'),
    (2, 'claim', format('select * from awa.claim(%L, worker_id => %%s)', pg_temp.q())),
    (3, 'release_unknown', 'select awa.release_unknown(%s, ''{}'', ''{}'')')) u(n, name, command);
grant select on uses to public;
select is(pg_temp.outcome_of('pgtap_a', u.own), 'ok', u.name || ' for the login that registered the worker')
  from uses u
 order by u.n;
select is(pg_temp.outcome_of('pgtap_b', u.own),
  format('42501: Worker %s was registered by pgtap_a; this session is of pgtap_b.', :own),
  u.name || ' for no other login')
  from uses u
 order by u.n;
select is(pg_temp.outcome_of('pgtap_operator', u.own), '42501', u.name || ' not for an operator')
  from uses u
 where u.n = 1;
select is(pg_temp.outcome_of('pgtap_c', u.shared), 'ok',
  u.name || ' of a shared worker for the login that registered it')
  from uses u
 order by u.n;
select is(pg_temp.outcome_of('pgtap_d', 'set role awa_worker; ' || u.shared), 'ok',
  u.name || ' for a member of the role')
  from uses u
 order by u.n;
select is(pg_temp.outcome_of('pgtap_b', u.shared),
  format('42501: Worker %s was registered by pgtap_c for members of pgtap Rota; this session is of pgtap_b.', :shared),
  u.name || ' for nobody else')
  from uses u
 order by u.n;
drop role pgtap_d;
alter role "pgtap Rota" rename to pgtap_gone;
create role pgtap_e login in role awa_worker, pgtap_gone;
select is(left(pg_temp.outcome_of('pgtap_e', u.shared), 5), '42501', 'a role that is not there any more lets nobody in')
  from uses u
 where u.n = 1;

select is(left(pg_temp.outcome_of('pgtap_b', format('select awa.deregister_worker(%s)', :own)), 5), '42501',
  'nor may another login end it');
select is(pg_temp.outcome_of('pgtap_operator', format('select awa.deregister_worker(%s)', :own)), 'ok',
  'an operator may, for a process that died');
select is((select count(*) from awa.workers where worker_id = :own), 0::bigint, 'then it is gone');
select is(pg_temp.outcome_of('pgtap_c', format('select awa.deregister_worker(%s)', :shared)), 'ok',
  'and so may the login that registered it');

-- By force
select is(pg_temp.outcome_of('pgtap_maintainer', f.command), f.expected, f.description)
  from (values
    (1, 'select * from awa.rotate(false), awa.prune_oldest(null)', 'ok',
      'a maintainer rotates and prunes when it is time'),
    (2, 'select * from awa.rotate(force => true)', '42501: This session is of pgtap_maintainer.', 'not by force'),
    (3, 'select * from awa.prune_oldest(force => true)', '42501: This session is of pgtap_maintainer.',
      'nor prunes so')) f(n, command, expected, description)
 order by f.n;
select is(pg_temp.outcome_of('pgtap_operator',
  'select * from awa.rotate(force => true), awa.prune_oldest(force => true)'),
  'ok', 'an operator may');
select is(pg_temp.outcome_of('pgtap_late_operator', 'set role awa_operator; select * from awa.rotate(force => true)'),
  'ok', 'also one that has to set the role');

select * from finish();
rollback;
