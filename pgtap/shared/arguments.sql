-- Without this, bad input would be refused in a different way by each function, or not at all.
\set name arguments
\ir ../prelude.psql

begin;
select plan(20);

select throws_ok($$select awa._refuse('it must be so', 'x', 'Do this.')$$, '22023', 'it must be so', '_refuse raises its constant message');
select pg_temp.refused($$select awa._refuse('it must be so', 'x', 'Do this.')$$, '22023', 'it must be so', 'with a detail and a hint');
select pg_temp.refused($$select awa._refuse('it must be so', null, 'Do this.')$$, '22023', 'it must be so', 'also when there is no value');
select pg_temp.refused($$select awa._refuse('it must be so', repeat('x', 1000000), 'Do this.')$$, '22023', 'it must be so', 'also when there is very much');

select is(pg_temp.outcome(format('select awa._check_name(%L, %L)', 'queue', n)), 'ok', format('a name of %s characters, %s bytes', char_length(n), octet_length(n)))
  from unnest(array['x', ' ', repeat('x', 200), repeat('😀', 200)]) with ordinality u(n, place)
 order by place;
select pg_temp.refused(format('select awa._check_name(%L, %L)', 'kind', n), '22023', 'kind', format('a name of %s characters, %s bytes', char_length(n), octet_length(n)))
  from unnest(array[null, '', repeat('x', 201), repeat('😀', 201)]) with ordinality u(n, place)
 order by place;

select is(pg_temp.outcome(format('select awa._check_count(%L, %s)', 'args', n)), 'ok', format('%s elements', n)) from unnest(array[0, 1, 10000]) n order by n;
select pg_temp.refused(format('select awa._check_count(%L, %L::int)', 'args', n), '22023', 'args', format('%s elements', coalesce(n::text, 'no'))) from unnest(array[10001, 2147483647, null]) n order by n;

select is(pg_temp.outcome('select awa._check_isolation()'), 'ok', 'READ COMMITTED is fine');
select is((select p.provolatile from pg_proc p where p.oid = 'awa._refuse'::regproc), 'v', 'a refusal is not something that a planner may leave out');

select * from finish();
rollback;
