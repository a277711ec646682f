-- Without this, a setting that makes no sense would be taken, and claims or maintenance fail from then on.
\set name settings
\ir ../prelude.psql

begin;
create temp table good as
select * from unnest(array[
  'claim_wait = ''1 millisecond''', 'claim_wait = ''1 hour''', 'claim_bytes = 1', 'claim_bytes = 1000000000',
  'segment_bytes = 1', 'segment_bytes = 9223372036854775807',
  'segment_age = ''1 microsecond''', 'segment_age = ''100 years''', 'completed_retention = ''0''',
  'completed_retention = ''100 years''', 'carry_max = 0', 'carry_max = 10000000',
  'prune_wait = ''1 millisecond''', 'prune_wait = ''500 milliseconds''',
  'warn_ready_age = ''1 millisecond''', 'warn_silence = ''100 years''', 'warn_transaction_age = ''1 day''',
  'warn_group_age = ''1 day''',
  'warn_failed_share = 0', 'warn_failed_share = 1']) with ordinality u(setting, n);
create temp table bad as
select * from unnest(array[
  'claim_wait = ''0''', 'claim_wait = ''-1 second''', 'claim_wait = ''1 hour 1 second''', 'claim_wait = ''100 years''',
  'claim_wait = ''-1 year 360 days 1 second''',
  'claim_bytes = 0', 'claim_bytes = 1000000001', 'segment_bytes = 0', 'segment_age = ''0''',
  'segment_age = ''-1 hour''', 'segment_age = ''101 years''',
  'completed_retention = ''-1 second''', 'completed_retention = ''101 years''',
  'completed_retention = ''-1 year 365 days''',
  'carry_max = -1', 'carry_max = 10000001', 'carry_max = 2147483647', 'prune_wait = ''0''',
  'prune_wait = ''501 milliseconds''', 'prune_wait = ''-1 year 360 days 20 milliseconds''',
  'warn_ready_age = ''0''', 'warn_silence = ''-1 second''', 'warn_transaction_age = ''101 years''',
  'warn_group_age = ''0''',
  'warn_failed_share = -0.1', 'warn_failed_share = 1.1', 'warn_failed_share = ''NaN''']) with ordinality u(setting, n);
insert into bad (setting, n)
select format('%s = %L', s, v), 100
  from unnest(
    '{claim_wait,segment_age,completed_retention,prune_wait,warn_ready_age,warn_silence,warn_transaction_age}'::text[]
  ) s,
    unnest('{infinity,-infinity}'::text[]) v
 where current_setting('server_version_num')::int >= 170000;
select plan((select count(*)::int from good) + 2 * (select count(*)::int from bad));
create function pg_temp.message(statement text) returns text
language plpgsql
as $$
begin
  execute statement;
  return null;
exception when check_violation then
  return sqlerrm;
end
$$;

select is(pg_temp.outcome('update awa.settings set ' || setting), 'ok', setting) from good order by n, setting;
select is(pg_temp.outcome('update awa.settings set ' || setting), '23514', setting) from bad order by n, setting;

select matches(pg_temp.message('update awa.settings set ' || setting),
  '"' || split_part(setting, ' ', 1) || ' must be (.* to .*|1 or more)"$',
  'the error says what may be set: ' || setting)
  from bad
 order by n, setting;

select * from finish();
rollback;
