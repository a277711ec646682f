-- Without this, one row that the server refuses, or can't read, would hold up all the others; or an error that concerns
-- all of them would be taken for that of one.
\set name rows
\ir ../prelude.psql
begin;
select plan(12);

select is((select array_agg(s order by n) from unnest('{P0001,22023,23505,55000,53100,58P01,25006,XX001,40001}'::text[])
  with ordinality u(s, n) where awa._is_about_a_row(s)),
  '{P0001,22023,23505,55000,53100,58P01,25006,XX001,40001}', 'a trigger may raise anything for one row');
select is((select array_agg(s order by s) from unnest('{57014,57P01,57P02,57P03}'::text[]) s
  where awa._is_about_a_row(s)), null, 'a cancel, a timeout and the end of the server concern all rows');
select is((select array_agg(s order by s) from unnest('{40001,40P01,55P03,55000,57014,P0001,40002}'::text[]) s
  where awa._is_passing(s)), '{40001,40P01,55P03}', 'an error of which the cause was another session passes');
select is((select array_agg(s order by s) from unnest('{25006,53100,53200,58030,58P01,22023,P0001,57014}'::text[]) s
  where awa._lack('m', s) is not null), '{25006,53100,53200,58030,58P01}',
    'what the server lacks: disk, memory, leave');
select is(awa._lack('no space', '53100'), '{53100,no space}', 'is kept with its message');
select throws_ok($$select awa._fail_for('{53100,no space}')$$, '53100', 'no space', 'so that a pass can raise it');
select lives_ok('select awa._fail_for(null)', 'or nothing');
select is(awa._refusal('not this one', '23514'), 'not this one (SQLSTATE 23514)', 'an error in words');
select is(length(awa._refusal(repeat('x', 100000), '23514')), 1000 + length(' (SQLSTATE 23514)'),
  'of a thousand characters, at most');
select is((select array_agg(distinct r.share between 0 and 1) from (select awa._random_share() as share
  from generate_series(1, 1000)) r), '{t}', 'a share at random');
set local client_min_messages = error;
select lives_ok($$select awa._warn_refused('{1,2}', 'can''t be released', awa._refusal('invalid page', 'XX001'))$$,
  'a job that can''t be read is no error');

-- A database that was restored
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select throws_ok($$select awa._is_about_a_row('22023')$$, '55000', null,
  'where nothing that is visible means anything, no error is about one row');

select * from finish();
rollback;
