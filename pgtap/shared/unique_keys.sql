-- Without this, a job could keep a key that it should have let go of, or take one away from another.
\set name unique_keys
\ir ../prelude.psql

begin;
select plan(35);

-- States
select is((select array_agg(awa._state_bit(s) order by n) from unnest(array['scheduled', 'available', 'running', 'retryable', 'waiting_external', 'completed', 'failed', 'cancelled', 'dead']) with ordinality u(s, n)),
  '{1,2,4,8,16,32,64,128,256}', 'each state has a bit of its own');
select is(awa._state_bit(s), null, format('there is no state %s', coalesce(quote_literal(s), 'null'))) from unnest(array['', 'Running', 'done', null]) s;

-- A key is a hash and the bits of its states
create function pg_temp.key(name text, states text[]) returns bytea
language sql
return sha256(convert_to(name, 'UTF8')) || (select decode(lpad(to_hex(bit_or(awa._state_bit(s))), 4, '0'), 'hex') from unnest(states) s);
select is(octet_length(pg_temp.key('k', '{dead}')), 34, 'it takes 34 bytes');
select is((select array_agg(s order by s) from unnest(array['scheduled', 'available', 'running', 'retryable', 'waiting_external', 'completed', 'failed', 'cancelled', 'dead']) s where awa._holds(pg_temp.key('k', x.states), s)),
  (select array_agg(s order by s) from unnest(x.states) s), format('a key of %s is held in these states', x.states))
  from (values ('{dead}'::text[]), ('{scheduled,dead}'), ('{available}'), ('{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}')) x(states);
select is(awa._holds(null, 'running'), false, 'no key, nothing held');
select is(awa._holds(pg_temp.key('k', '{running}'), null), false, 'in no state a key is not held');
select is(awa._holds(pg_temp.key('k', '{running}'), 'done'), false, 'nor in one that there is not');

-- Which hash
select is(awa._unique_hash('q', 'k', '{"a": 1}', null, null, null), sha256('{"args": {"a": 1}, "kind": "k"}'), 'a hash is that of its parts as JSON, by default of kind and args');
select is(awa._unique_hash('q', 'k', '{"a": 1}', null, '{args,queue,kind}', null), sha256('{"args": {"a": 1}, "kind": "k", "queue": "q"}'), 'or of those that are named');
select is(awa._unique_hash('q', 'k', null, null, '{args}', null), sha256('{"args": {}}'), 'no args are empty ones');
select is(awa._unique_hash('q', 'k', '1', 'text', '{nonsense}', null), sha256('{"key": "text"}'), 'or of a text');
select isnt(awa._unique_hash('q', 'k', '1', '{"args": 1}', null, null), awa._unique_hash('q', 'k', '1', null, '{args}', null), 'which is not taken for parts');
select is(awa._unique_hash('q', 'k', '1', 'größe', null, null), sha256(convert_to('{"key": "größe"}', 'UTF8')), 'in UTF-8');
select is(awa._unique_hash('q', 'k', '1', 't', null, '10 years'), awa._unique_hash('q', 'k', '1', 't', null, '10 years'), 'with the number of its period');
select isnt(awa._unique_hash('q', 'k', '1', 't', null, '10 years'), awa._unique_hash('q', 'k', '1', 't', null, null), 'which is a part of it');

-- Moves
insert into awa.unique_claims (key, job_id) values (sha256('mine'), -1), (sha256('other''s'), -2), (sha256('kept'), -1);
create function pg_temp.holders() returns text
language sql
return (select string_agg(n.name || ' ' || u.job_id, ', ' order by n.name) from awa.unique_claims u join unnest(array['mine', 'other''s', 'kept', 'new']) n(name) on u.key = sha256(convert_to(n.name, 'UTF8')));
select awa._move_keys(null, null, 'running', 'completed') \g /dev/null
select awa._move_keys('{-1}', array[null]::bytea[], 'running', 'completed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, mine -1, other''s -2', 'no keys, nothing happens');
select awa._move_keys('{-1,-1}', array[pg_temp.key('mine', '{running}'), pg_temp.key('kept', '{running,failed}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, other''s -2', 'a key is let go of in a state that does not hold it, and kept in one that does');
select awa._move_keys('{-1}', array[pg_temp.key('other''s', '{running}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, other''s -2', 'another job''s is not let go of');
select awa._move_keys('{-1,-1}', array[pg_temp.key('new', '{failed}'), pg_temp.key('other''s', '{failed}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, new -1, other''s -2', 'a key is taken in a state that holds it, unless another job has it');
select awa._move_keys('{-1}', array[pg_temp.key('mine', '{running,failed}')], 'running', 'failed') \g /dev/null
select is(pg_temp.holders(), 'kept -1, new -1, other''s -2', 'what was lost while it could be held is not taken again');
select awa._move_keys('{-1,-1,-1}', array[pg_temp.key('new', '{failed}'), null, pg_temp.key('kept', '{running,failed}')], 'failed', null) \g /dev/null
select is(pg_temp.holders(), 'other''s -2', 'who goes for good lets go of all');

-- Refusals
select pg_temp.refused(format('select awa._unique_hash(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, $$'q', 'k', '{}', '', null, null$$, 'unique_key', 'an empty key'),
    (2, $$'q', 'k', '{}', repeat('ü', 10001), null, null$$, 'unique_key', 'a key of 10,001 characters'),
    (3, $$'q', 'k', '{}', null, '{}', null$$, 'unique_by', 'no parts'),
    (4, $$'q', 'k', '{}', null, '{Kind}', null$$, 'unique_by', 'a part in capitals'),
    (5, $$'q', 'k', '{}', null, array[null]::text[], null$$, 'unique_by', 'a part that is null'),
    (6, $$'q', 'k', '{}', null, '{kind,kind,kind,kind}', null$$, 'unique_by', 'four parts'),
    (7, $$'q', 'k', '{}', null, null, '0'$$, 'unique_period', 'a period of no time'),
    (8, $$'q', 'k', '{}', null, null, '10 years 1 day'$$, 'unique_period', 'a period of more than ten years')
  ) c(n, args, names, description)
 order by c.n;

select * from finish();
rollback;
