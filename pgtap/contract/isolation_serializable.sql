-- Without this, a call that decides by what others have just committed would decide by an older snapshot: claim twice,
-- close twice.
\set level 'serializable'
\set name isolation :level
\ir isolation.psql
