-- Without this, bad input would be refused in a different way by each function, or not at all.
\set name arguments
\ir ../prelude.psql

begin;
select plan(22);

select throws_ok($$select awa._refuse('it must be so', 'x', 'Do this.')$$, '22023', 'it must be so',
  '_refuse raises its constant message');
select pg_temp.refused($$select awa._refuse('it must be so', 'x', 'Do this.')$$, '22023', 'it must be so',
  'with a detail and a hint');
select pg_temp.refused($$select awa._refuse('it must be so', null, 'Do this.')$$, '22023', 'it must be so',
  'also when there is no value');
select pg_temp.refused($$select awa._refuse('it must be so', repeat('x', 1000000), 'Do this.')$$, '22023',
  'it must be so', 'also when there is very much');

select is(pg_temp.outcome(format('select awa._check_name(%L, %L)', 'queue', n)), 'ok',
  format('a name of %s characters, %s bytes', char_length(n), octet_length(n)))
  from unnest(array['x', ' ', repeat('x', 200), repeat('😀', 200)]) with ordinality u(n, place)
 order by place;
select pg_temp.refused(format('select awa._check_name(%L, %L)', 'kind', n), '22023', 'kind',
  format('a name of %s characters, %s bytes', char_length(n), octet_length(n)))
  from unnest(array[null, '', repeat('x', 201), repeat('😀', 201)]) with ordinality u(n, place)
 order by place;

select is(pg_temp.outcome(format('select awa._check_array(%L, %s, 10000)', 'args', a)), 'ok',
  format('an array such as %s', a))
  from unnest(
    array['null::int[]', 'array[]::int[]', 'array[1]', 'array_fill(1, array[10000])']
  ) with ordinality u(a, place)
 order by place;
select pg_temp.refused(format('select awa._check_array(%L, %s, 10000)', 'args', a), '22023', 'args',
  format('an array such as %s', a))
  from unnest(
    array['array_fill(1, array[10001])', 'array[array[1], array[2]]', 'array[1, null]']
  ) with ordinality u(a, place)
 order by place;
select is(pg_temp.outcome('select awa._check_array(''outputs'', array[1, null], 10000, true)'), 'ok',
  'nulls where they may be');

select is(pg_temp.outcome('select awa._check_isolation()'), 'ok', 'READ COMMITTED is fine');
select is((select p.provolatile from pg_proc p where p.oid = 'awa._refuse'::regproc), 'v',
  'a refusal is not something that a planner may leave out');

select * from finish();
rollback;
