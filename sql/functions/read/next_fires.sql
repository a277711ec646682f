-- The next n times at which a cron expression comes in a time zone, after a time.
-- Returns fewer when it does not come so often before the year 10000.
-- Raises 22023.
create or replace function awa.next_fires(
  cron     text,
  timezone text default 'UTC',
  after    timestamptz default now(),
  n        int default 5
) returns setof timestamptz
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  v_n constant int := coalesce(n, 5);
  v_cron awa.cron_row;
  v_zone text;
  v_next timestamptz := coalesce(after, now());
begin
  if v_n not between 1 and 1000 then
    perform awa._refuse('n must be between 1 and 1000', v_n::text, 'Call it again with after for later ones.');
  end if;
  v_cron := awa._parse_cron(cron);
  v_zone := awa._zone(coalesce(timezone, 'UTC'));
  for i in 1..v_n loop
    v_next := awa._next_cron(v_cron, v_zone, v_next);
    exit when v_next is null;
    return next v_next;
  end loop;
end
$$;
comment on function awa.next_fires is 'The next n times at which a cron expression comes in a time zone, after a time';
