-- Rates: how often jobs begin, of a queue or of a group. One time says how many have begun (GCRA).

-- The seconds between two jobs that begin under a rate.
create or replace function awa._rate_step(rate jsonb) returns float8
language sql immutable
return extract(epoch from (rate ->> 'per')::interval)::float8 / (rate ->> 'jobs')::float8;
comment on function awa._rate_step is 'The seconds between two jobs that begin under a rate';

-- When the next job may begin under a rate if there was no burst, once so many have begun.
-- A time that lies further ahead than the burst, as a slower rate or a clock that was ahead has written it, ends with
-- the burst: also where none has begun, so that the wait for it begins with the first claim that meets it.
create or replace function awa._rate_after(
  rate jsonb,
  next_at timestamptz,
  at timestamptz,
  jobs int
) returns timestamptz
language sql immutable
return case
    when rate is null or jobs = 0 and next_at is null then next_at
    else greatest(case when jobs > 0 then at end, least(coalesce(next_at, at),
        at + make_interval(secs => (rate ->> 'burst')::float8 * awa._rate_step(rate))))
      + make_interval(secs => jobs * awa._rate_step(rate))
  end;
comment on function awa._rate_after is
  'When the next job may begin under a rate if there was no burst, once so many have begun';

-- When the next job of a queue may begin under its rate; a time that has passed where one may begin now.
create or replace function awa._rate_opens_at(rate jsonb, next_at timestamptz) returns timestamptz
language sql immutable
return next_at - make_interval(secs => ((rate ->> 'burst')::float8 - 1) * awa._rate_step(rate));
comment on function awa._rate_opens_at is
  'When the next job of a queue may begin under its rate; a time that has passed where one may begin now';

-- How many jobs may begin under a rate; null without one.
-- next_at: when the next one may begin if there was no burst. A time that a clock which was ahead has written counts as
-- the latest one that there can be.
create or replace function awa._rate_allows(rate jsonb, next_at timestamptz, at timestamptz) returns int
language sql immutable
return case when rate is not null then
    greatest(0, floor(
      (rate ->> 'burst')::float8
        - greatest(0, least(coalesce(extract(epoch from next_at - at)::float8 / awa._rate_step(rate), 0),
            (rate ->> 'burst')::float8))
        + 1e-6))::int
  end;
comment on function awa._rate_allows is 'How many jobs may begin under a rate; null without one';

-- When a claim is to look at the line of a group again, at the latest; null where no time lets the next one begin.
-- next_at, turns: as in its state, where turns of it wait to be served, which count as begun.
create or replace function awa._opens_at(
  is_paused boolean,
  paused_until timestamptz,
  rate jsonb,
  next_at timestamptz,
  turns int,
  at timestamptz
) returns timestamptz
language sql immutable
return case
    when is_paused then paused_until
    when rate is not null and awa._rate_allows(rate, next_at, at) <= turns
      then awa._rate_opens_at(rate, awa._rate_after(rate, next_at, at, turns))
  end;
comment on function awa._opens_at is
  'When a claim is to look at the line of a group again, at the latest; null where no time lets the next one begin';
