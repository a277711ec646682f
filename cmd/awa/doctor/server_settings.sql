select s.level, format('%s = %s', s.name, current_setting(s.name)) as subject, s.message, s.hint
  from (values
    ('critical', 'fsync', 'off', 'a crash of the machine may destroy the database', 'Set it to on.'),
    ('critical', 'full_page_writes', 'off', 'a crash of the machine may destroy the database',
      'Set it to on, unless the file system writes pages whole.'),
    ('warning', 'synchronous_commit', 'off',
      'a crash may lose jobs whose enqueue was committed, and repeat jobs whose completion was',
      'Set it to on. Awa''s drivers turn it off where that is safe.'),
    ('critical', 'autovacuum', 'off', 'tables beside the hot path grow for ever', 'Set it to on.'),
    ('critical', 'track_counts', 'off', 'autovacuum does nothing without it', 'Set it to on.'),
    ('warning', 'default_transaction_isolation', 'repeatable read',
      'claim and others are refused (JQ004) in transactions that do not say otherwise', 'Set it to read committed.'),
    ('warning', 'default_transaction_isolation', 'serializable',
      'claim and others are refused (JQ004) in transactions that do not say otherwise', 'Set it to read committed.')
  ) s(level, name, bad, message, hint)
 where current_setting(s.name) = s.bad
union all
select 'warning', format('max_locks_per_transaction = %s', current_setting('max_locks_per_transaction')),
       'many sessions at once may find the lock table full: each locks segments and indexes by the dozen',
       'Set it to 64 or more.'
 where current_setting('max_locks_per_transaction')::int < 64
