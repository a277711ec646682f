select 'critical' as level, '' as subject,
       case when pg_is_in_recovery() then 'this is a standby' else 'transactions are read-only here' end as message,
       'Nothing is enqueued or claimed here: check the URL, and default_transaction_read_only.' as hint
 where current_setting('transaction_read_only')::boolean
