-- Errors that are about one row, which must not hold up the others.

-- Whether an error may be about one row alone.
-- It may be any error that a trigger may raise, but a cancel, a timeout, or the end of the server.
-- Raises 55000 where Awa itself has lost a row, or was restored from a dump.
create or replace function awa._is_about_a_row(sqlstate text) returns boolean
language sql stable
return left(sqlstate, 2) <> '57' and awa._current_segment() >= 0;
comment on function awa._is_about_a_row is 'Whether an error may be about one row alone';

-- Whether an error says that another session was in the way.
-- The row is then left for the next pass.
create or replace function awa._is_passing(sqlstate text) returns boolean
language sql immutable
return sqlstate = any('{40001,40P01,55P03}');
comment on function awa._is_passing is 'Whether an error says that another session was in the way';

-- An error that is, most likely, about a resource that the server lacks, for _fail_for; null for another error.
-- Such as disk, memory, or the permission to write.
create or replace function awa._lack(message text, sqlstate text) returns text[]
language sql immutable
return case when left(sqlstate, 2) = any('{25,53,58}') then array[sqlstate, message] end;
comment on function awa._lack is
  'An error that is, most likely, about a resource that the server lacks, for _fail_for; null for another error';

-- Raises the error of a resource that the server lacks, where a pass could do nothing at all for it.
create or replace function awa._fail_for(lack text[]) returns void
language plpgsql
as $$
begin
  if lack is not null then
    raise exception using errcode = lack[1], message = lack[2],
      detail = 'It kept maintenance from every single row of this pass.';
  end if;
end
$$;
comment on function awa._fail_for is
  'Raises the error of a resource that the server lacks, where a pass could do nothing at all for it';

-- An error in words, as errors of jobs and health show it.
create or replace function awa._refusal(message text, sqlstate text) returns text
language sql immutable
return format('%s (SQLSTATE %s)', left(message, 1000), sqlstate);
comment on function awa._refusal is 'An error in words, as errors of jobs and health show it';

-- An error in words, where one row is refused.
-- Null where another session was in the way, or the server lacks a resource.
create or replace function awa._refusal_of_one(message text, sqlstate text) returns text
language plpgsql stable
as $$
begin
  if awa._is_passing(sqlstate) or not awa._is_about_a_row(sqlstate) or awa._lack(message, sqlstate) is not null then
    return null;
  end if;
  return awa._refusal(message, sqlstate);
end
$$;
comment on function awa._refusal_of_one is
  'An error in words, where one row is refused';

-- Warns, in the log of the server, of jobs that the server refuses, or can't read: of all in one record.
-- Why: they come again in each pass, and there may be thousands.
create or replace function awa._warn_refused(job_ids bigint[], what text, error text) returns void
language plpgsql
as $$
begin
  if job_ids <> '{}' then
    raise warning '%', format('job %s %s', job_ids[1], what)
      || case when cardinality(job_ids) > 1 then format(', nor can %s others', cardinality(job_ids) - 1) else '' end
      using detail = error,
        hint = case
          when error like '%(SQLSTATE XX001)'
            then 'A page is damaged: see "Jobs that can''t be read" in the reference of Awa.'
          else 'Health names the queues with such jobs, and explain_job says why a job does not run.'
        end;
  end if;
end
$$;
comment on function awa._warn_refused is
  'Warns, in the log of the server, of jobs that the server refuses, or can''t read: of all in one record';

-- A number between 0 and 1 at random, half the time very near to 0.
-- Then it is of each order of magnitude as often, down to 10^-12.
-- Why: what lies just behind a million rows of one time is met as well as what lies a year behind them.
create or replace function awa._random_share() returns float
language sql volatile
return random() * 10 ^ (-12 * round(random()) * random());
comment on function awa._random_share is 'A number between 0 and 1 at random, half the time very near to 0';
