-- Without this, each failure would have a cause of its own, as its error names a job, a time or an address.
\set name causes
\ir ../prelude.psql

begin;
create temp table errors (n serial, error text, cause text);
insert into errors (error, cause) values
  ('Post "https://api.example.com/v1/users/12345": dial tcp 10.0.0.1:443: connect: connection refused',
    'Post ?: dial tcp ?: connect: connection refused'),
  ('no rows in result set', 'no rows in result set'),
  ('user 8f14e45f-ceea-467f-ab5e-1f2b3c4d5e6f not found', 'user ? not found'),
  ('user ABCDEF1F-ceea-467f-abcd-1f2b3c4d5e6f not found', 'user ? not found'),
  ('order 42 of customer_7 is closed', 'order ? of ? is closed'),
  ('status: 502, after 3.5s (try 2/3)', 'status: ?, after ? (try ?)'),
  ('at 0x7ffd3, commit 9f86d081884c7d65, /tmp/a/b7.txt', 'at ?, commit ?, /tmp/a/?'),
  ('2026-01-01T10:00:00.123Z: late', '?: late'),
  ('errno=5', 'errno=?'),
  ('can''t open ''a.txt'', it isn''t there', 'can''t open ?, it isn''t there'),
  ('relation `jobs` is missing', 'relation ? is missing'),
  ('a "lone mark', 'a "lone mark'),
  ('Kündigung für Müller 12 fehlgeschlagen', 'Kündigung für Müller ? fehlgeschlagen'),
  (E'\n  panic: index out of range [5]\ngoroutine 1 [running]:\nmain.main()', 'panic: index out of range [?]'),
  (E'first line\r\nsecond line', 'first line'),
  (E'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    g()\nValueError: not a number: ''x''\n',
    'ValueError: not a number: ?'),
  (E'Traceback (most recent call last):', 'Traceback (most recent call last):'),
  (repeat('long ', 5000), left(repeat('long ', 100), 199)),
  (repeat(' ', 10000) || 'x', ''),
  ('', ''),
  (null, null);
select plan(2 * count(*)::int + 6) from errors;

select is(awa._cause(e.error), e.cause, format('the cause of error %s', e.n)) from errors e order by e.n;
select is(awa._cause(e.cause), e.cause, format('the cause of that cause is itself: %s', e.n))
  from errors e
 order by e.n;
select is(awa._cause_of('[{"error": "first 1"}, {"error": "last 2"}]'), 'last ?',
  'of a job it is that of its last error');
select is(awa._cause_of(e), null, 'none: ' || coalesce(e::text, 'null'))
  from unnest(array[null, '[]', '[{"omitted": 1}]']::jsonb[]) e;
select pg_temp.refused($$select awa._check_cause(E' \n')$$, '22023', 'cause', 'an error without a word');
select lives_ok('select awa._check_cause(null), awa._check_cause(''x'')', 'any other, or none, passes');

select * from finish();
rollback;
