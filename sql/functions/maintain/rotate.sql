-- The row that rotate returns: whether it moved on, and the segment that is current now.
create or replace view awa.rotate_row as select r.only_row as rotated, r.current_segment from awa.ring r where false;
comment on view awa.rotate_row is
  'The row that rotate returns: whether it moved on, and the segment that is current now. The view itself is always '
  'empty';

-- Lets new rows go to the next segment, if the current one is old or large enough.
-- With force, whatever its age and size; only operators may force it. While the next segment is not empty, the current
-- one just grows.
-- Locks: the row of ring, if it can have it at once.
-- Raises JQ004, 42501, 55000.
create or replace function awa.rotate(force boolean default false) returns setof awa.rotate_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_ring awa.ring;
  v_next smallint;
  v_due boolean;
begin
  perform awa._check_force(force), awa._check_pass(null);
  select * into v_ring from awa.ring r for no key update skip locked;
  if not found then
    return query select false, r.current_segment from awa.ring r;
    return;
  end if;
  perform awa._renew_origin();
  -- by a clock that was ahead: segments would stay for as long
  if clock_timestamp() + interval '1 second' < any(v_ring.left_at) then
    update awa.ring r
       set left_at = array(
         select least(u.at, clock_timestamp()) from unnest(r.left_at) with ordinality u(at, n) order by u.n
       )
    returning r.* into v_ring;
  end if;
  v_next := (v_ring.current_segment + 1) % 4;
  select force is true
         or v_ring.left_at[v_ring.current_segment + 1] <= clock_timestamp() - s.segment_age
         or pg_relation_size(format('awa.ready_entries_%s', v_ring.current_segment)::regclass) >= s.segment_bytes
    into v_due
    from awa.settings s;
  if v_due and awa._is_empty(v_next) then
    perform awa._summarize();
    update awa.ring r
       set current_segment = v_next,
           left_at[v_ring.current_segment + 1] = clock_timestamp(),
           left_at[v_next + 1] = clock_timestamp();
    return query select true, v_next;
  else
    return query select false, v_ring.current_segment;
  end if;
  perform awa._note_success('rotate');
end
$$;
comment on function awa.rotate is 'Lets new rows go to the next segment, if the current one is old or large enough';
