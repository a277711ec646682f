select 'critical' as level, '' as subject,
       format('PostgreSQL %s is too old', current_setting('server_version')) as message,
       'Awa needs PostgreSQL 15 or newer.' as hint
 where current_setting('server_version_num')::int < 150000
union all
select 'ok', '',
       format('PostgreSQL %s, database %s, as %s', current_setting('server_version'), current_database(), current_user),
       ''
