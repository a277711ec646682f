-- Rows of completed jobs, beside Awa: what both variants have in common. A row is as narrow as it can be: the entry
-- with the job's body stays in the log, and the receipt leads to the claim. It has the index that entries have, and
-- leaves with their segment.
create schema history;
create table history.done_entries (
  job_id       bigint not null,
  receipt      bigint not null,
  finalized_at timestamptz not null,
  segment      smallint not null
) partition by list (segment);

create function history.truncated() returns trigger language plpgsql security definer as $$
begin
  execute format('truncate history.done_entries_%s', right(tg_table_name, 1));
  return null;
end
$$;

do $$
begin
  for s in 0..3 loop
    execute format('create table history.done_entries_%1$s partition of history.done_entries for values in (%1$s)
      with (autovacuum_enabled = off)', s);
    execute format('create index on history.done_entries_%1$s using brin (job_id)', s);
    execute format('create trigger history after truncate on awa.lease_claims_%s
      execute function history.truncated()', s);
  end loop;
end
$$;
