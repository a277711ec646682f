-- Tables of the system catalog that views of Awa read: sqlc finds it only under the name of its schema.
create view pg_stat_activity as select * from pg_catalog.pg_stat_activity;
create view pg_locks as select * from pg_catalog.pg_locks;
create view pg_prepared_xacts as select * from pg_catalog.pg_prepared_xacts;
create view pg_database as select * from pg_catalog.pg_database;
-- The installer makes it, before the first migration.
create schema awa;
