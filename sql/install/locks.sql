{{- /* What the installation
  and its end have in common: the lock of the installation,
  and locks on what is changed. */ -}}
{{- /* Locks, with who holds them: sessions (a), and prepared transactions (x), which have none. */ -}}
{{define "held"}}pg_locks l
            left join pg_stat_activity a on a.pid = l.pid
            left join (pg_locks t join pg_prepared_xacts x on x.transaction = t.transactionid)
              on t.locktype = 'transactionid' and l.pid is null and t.pid is null
             and t.virtualtransaction = l.virtualtransaction{{end}}
{{define "holder"}}case
                 when l.pid is null then format('prepared transaction %s of role %s', x.gid, x.owner)
                 else format('process %s of role %s%s', l.pid, a.usename, ' (' || nullif(a.application_name, '') || ')')
               end{{end}}
{{define "since"}}coalesce(', in a transaction since ' || date_trunc('second', coalesce(a.xact_start, x.prepared)),
                 ''){{end}}
{{define "end_them"}}'end them: pg_terminate_backend, for prepared transactions rollback prepared.'{{end}}
{{define "declare"}}  v_try int := 0;
  v_target oid;
  v_until timestamptz;
  v_command text;
  v_holders text;
  v_left oid; -- a schema that is dropped
{{end}}
{{define "alone"}}
    -- One at a time. Every login may take this lock, so the wait ends.
    while not pg_try_advisory_xact_lock({{.LockKey}}::bigint) loop
      if clock_timestamp() > v_began + v_wait then
        select string_agg({{template "holder"}}, ', ') into v_holders
          from {{template "held"}}
         where l.locktype = 'advisory'
           and l.granted
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and (l.classid::bigint << 32 | l.objid::bigint) = {{.LockKey}}
           and l.objsubid = 1;
        raise exception using errcode = '55P03', message = 'another installation is under way',
          detail = format('Its lock is held by %s.', coalesce(v_holders, 'nobody any more')),
          hint = 'Try again when it has ended. If that is no installation, ' || {{template "end_them"}};
      end if;
      v_try := least(v_try + 1, 10);
      perform pg_sleep(0.01 * v_try);
    end loop;
{{end}}
{{- /* Transactions that may have put something into the schema of an installation, and have not ended. */ -}}
{{define "pending"}}
  -- Nobody sees what they have created, and it would come to light after this installation. Whoever creates an object
  -- has locked the role that owns it until the transaction ends; whoever replaces a function or a view has written to
  -- its row in the catalog. Roles that may create in the schema now could do so at any time: they are not waited for.
  -- Neither are superusers, or transactions that come later.
  v_try := 0;
  loop
    select array_agg(t.key), string_agg(t.holder, '; ' order by t.holder), bool_or(t.stops)
      into v_found, v_holders, v_stops
      from (
        select concat(l.pid, ' ', l.virtualtransaction) as key,
               {{template "holder"}} || {{template "since"}} as holder,
               bool_or(l.locktype = 'transactionid' or l.objid = v_owner) as stops
          from {{template "held"}}
         where l.granted
           and l.pid is distinct from pg_backend_pid()
           and current_database() in (a.datname, x.database)
           and case l.locktype
                 when 'object' then l.classid = 'pg_authid'::regclass and (
                   l.objid = v_owner
                     or (
                       select not r.rolsuper and not has_schema_privilege(r.oid, v_namespace, 'create')
                         from pg_roles r
                        where r.oid = l.objid
                     ))
                 when 'transactionid' then l.transactionid in (
                   select p.xmax from pg_proc p where p.pronamespace = v_namespace
                   union all
                   select w.xmax
                     from pg_rewrite w
                     join pg_class c on c.oid = w.ev_class
                    where c.relnamespace = v_namespace
                 )
                 else false
               end
         group by 1, 2
      ) t
     where v_pending is null or t.key = any (v_pending);
    v_pending := coalesce(v_pending, v_found);
    exit when v_holders is null;
    if v_stops and clock_timestamp() > v_began + v_wait then
      raise exception using errcode = '55P03',
        message = format('others are in the way: what is in schema awa has not become free within %s', v_wait),
        detail = format('It is changed by %s.', v_holders),
        hint = 'Nothing was changed. Try again when these have ended, or ' || {{template "end_them"}};
    elsif not v_stops and clock_timestamp() > v_began + v_wait / 2 then
      raise warning 'there are transactions that have created something, perhaps in schema awa, and have not ended'
        using detail = format('They are: %s.', v_holders),
          hint = 'What a role creates there by a right that it has no longer is dropped by the next installation: run '
            'awa doctor when they have ended.';
      exit;
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
    -- Sessions that hold the object that was waited for, each once, the oldest transaction first.
    v_target := to_regclass((regexp_match(v_command, '^(?:lock table|alter view) (.+) (?:in access|owner to)'))[1]);
    select string_agg(h.holder, '; ' order by h.began, h.holder) into v_holders
      from (
        select s.began, min(s.holder) as holder
          from (
            select coalesce(l.pid::text, x.gid) as key, coalesce(a.xact_start, x.prepared) as began,
                   format('%s holds %s%s', {{template "holder"}},
                     coalesce(l.relation::regclass::text, 'schema awa'), {{template "since"}}) as holder
              from {{template "held"}}
             where l.granted
               and l.pid is distinct from pg_backend_pid()
               and l.database = (select d.oid from pg_database d where d.datname = current_database())
               and case
                     when v_target is null
                       then l.locktype = 'object' and l.classid = 'pg_namespace'::regclass and l.objid = v_left
                     else l.relation = v_target
                       or l.relation in (select i.inhrelid from pg_inherits i where i.inhparent = v_target)
                   end
          ) s
         group by s.key, s.began
         order by 1, 2
         limit 5
      ) h;
    if clock_timestamp() > v_began + v_wait then
      raise exception using errcode = '55P03',
        message = format('others are in the way: %s has not become free within %s',
          coalesce(v_target::regclass::text, 'schema awa'), v_wait),
        detail = format('%s.', coalesce(v_holders, 'Nobody holds it now')),
        hint = 'Nothing was changed. Try again when these have ended, or ' || {{template "end_them"}};
    end if;
    perform pg_sleep(least(0.1 * 2 ^ v_try, 2, extract(epoch from v_began + v_wait - clock_timestamp()) + 0.001));
    v_try := v_try + 1;
  end loop;
  perform set_config('lock_timeout', '200', true);
{{end}}
