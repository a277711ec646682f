{{- /* What the installation
  and its end have in common: the lock of the installation,
  and locks on what is changed. */ -}}
{{define "declare"}}  v_try int := 0;
  v_until timestamptz;
  v_command text;
  v_holders text;
  v_left oid; -- a schema that is dropped
{{end}}
{{define "alone"}}
    -- One at a time. Every login may take this lock, so the wait ends.
    while not pg_try_advisory_xact_lock({{.LockKey}}::bigint) loop
      if clock_timestamp() > v_began + v_wait then
        select string_agg(format('process %s of role %s', a.pid, a.usename), ', ') into v_holders
          from pg_locks l join pg_stat_activity a on a.pid = l.pid
         where l.locktype = 'advisory'
           and l.granted
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and (l.classid::bigint << 32 | l.objid::bigint) = {{.LockKey}}
           and l.objsubid = 1;
        raise exception using errcode = '55P03', message = 'another installation is under way',
          detail = format('Its lock is held by %s.', coalesce(v_holders, 'nobody any more')),
          hint = 'Try again when it has ended. If that is no installation: pg_terminate_backend.';
      end if;
      v_try := least(v_try + 1, 10);
      perform pg_sleep(0.01 * v_try);
    end loop;
{{end}}
{{define "lock"}}
  -- Others wait behind each lock that is waited for, and behind those that are held: so all of them come within a tenth
  -- of a second, or none is kept. The next try takes twice as long, no more; and so does the pause before it, in which
  -- others get on.
  v_try := 0;
  loop
    begin
      v_until := clock_timestamp() + least('100 milliseconds'::interval * 2 ^ least(v_try, 1),
        current_setting('deadlock_timeout')::interval / 2);
      foreach v_command in array v_locks loop
        perform set_config('lock_timeout',
          greatest(1, ceil(extract(epoch from v_until - clock_timestamp()) * 1000))::text, true);
        execute v_command;
      end loop;
      exit;
    exception when lock_not_available or deadlock_detected then
      null; -- and all that were had are free again
    end;
    select string_agg(h.holder, '; ') into v_holders
      from (
        select distinct format('process %s of role %s%s holds %s%s', a.pid, a.usename,
          ' (' || nullif(a.application_name, '') || ')', coalesce(l.relation::regclass::text, 'schema awa'),
          ', in a transaction since ' || date_trunc('second', a.xact_start)) as holder
          from pg_locks l join pg_stat_activity a on a.pid = l.pid
         where l.granted
           and l.pid <> pg_backend_pid()
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and (
             l.locktype = 'object' and l.classid = 'pg_namespace'::regclass and l.objid = v_left
               or l.relation = any (v_tables)
               or l.relation in (select i.inhrelid from pg_inherits i where i.inhparent = any (v_tables))
           )
         order by 1
         limit 5
      ) h;
    if clock_timestamp() > v_began + v_wait then
      raise exception using errcode = '55P03',
        message = format('others are in the way: %s has not become free within %s',
          case when v_command ~ '^drop schema' then 'schema awa' else v_command end, v_wait),
        detail = format('%s.', coalesce(v_holders, 'Nobody holds anything now')),
        hint = 'Nothing was changed. Try again when these have ended, or end them with pg_terminate_backend.';
    end if;
    perform pg_sleep(least(0.1 * 2 ^ v_try, 2, extract(epoch from v_began + v_wait - clock_timestamp()) + 0.001));
    v_try := v_try + 1;
  end loop;
  perform set_config('lock_timeout', '200', true);
{{end}}
