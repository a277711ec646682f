package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// bodyTables are those that hold jobs with their bodies.
var bodyTables = []string{"ready_entries", "deferred_jobs", "leases", "done_entries"}

// notBody are their columns that do not belong to the body of a job: where it is, and what happens to it there. A
// column that does not stand here has to survive each way through the tables.
var notBody = []string{"lane", "xid", "job_id", "ready_at", "segment", "priority", "attempt", "receipt", "claimed_at",
	"lease", "lease_until", "deadline_at", "worker_id", "group_id", "holds_queue", "state", "run_at",
	"attempted_at", "reason", "counted_by_closure", "finalized_at", "output"}

// bodyOf returns the body of a job where it is now, and how the view of all jobs shows it, as far as it does.
const bodyOf = `
	with homes as (
	  select to_jsonb(d) as row from awa.deferred_jobs d where d.job_id = @job
	  union all select to_jsonb(l) from awa.leases l where l.job_id = @job
	  union all select to_jsonb(d) from awa.done_entries d where d.job_id = @job
	), entries as (
	  select to_jsonb(e) as row
	    from awa.ready_entries e
	   where e.job_id = @job
	     and not exists (select from homes)
	     and not exists (
	       select from awa.ready_tombstones t where (t.lane, t.xid, t.job_id) = (e.lane, e.xid, e.job_id)
	     )
	   order by e.xid desc
	   limit 1
	), body as (
	  select c.column, h.row -> c.column as value
	    from (select * from homes union all select * from entries) h
	   cross join unnest(@columns::text[]) c("column")
	)
	select coalesce((select string_agg(format('%s is %s', b.column, b.value), '; ')
	                   from body b
	                  where b.value is distinct from @body::jsonb -> b.column
	                    and (b.column, b.value -> 0) is distinct from ('errors', @body::jsonb -> 'errors' -> 0)), '')
	    || case (select count(*) from body) when cardinality(@columns::text[]) then '' else 'not in one home' end
	    || coalesce((select string_agg(format('awa.jobs shows %s in %s', v.value, v.key), '; ')
	                   from awa.job(@job) j
	                  cross join jsonb_each(to_jsonb(j)) v
	                  where v.key = any(@columns)
	                    and v.key <> 'unique_key'
	                    and v.value is distinct from @body::jsonb -> v.key
	                    and (v.key, v.value -> 0) is distinct from ('errors', @body::jsonb -> 'errors' -> 0)), '')`

// withSentinels puts a value that nothing else writes into each column of the body of a job's entry, and returns the
// body. Its key is a real one already.
func (s *session) withSentinels(job int64, columns []string) string {
	s.Helper()
	set := []string{}
	for _, column := range columns {
		kind := one[string](s, "select atttypid::regtype::text from pg_attribute where attrelid = "+
			"'awa.ready_entries'::regclass and attname = $1", column)
		value, ok := map[string]string{
			"text": "sentinel", "text[]": "{sentinel}", "jsonb": `{"sentinel": "` + column + `"}`, "smallint": "17",
			"integer": "12345", "bigint": "123456", "boolean": "true", "interval": "17 hours",
			"timestamp with time zone": "2101-02-03 04:05:06+00",
		}[kind]
		switch column {
		case "unique_key":
			continue
		case "errors":
			value = `[{"sentinel": "errors"}]`
		default:
			require.True(s, ok, "which value of type %s shows that %s survives?", kind, column)
		}
		set = append(set, fmt.Sprintf("%s = '%s'", column, value))
	}
	// an entry whose created_at is not its ready_at is not that of a new job
	s.exec("select awa._arrive(e.lane, 1) from awa.ready_entries e where e.job_id = $1", job)
	s.exec("update awa.ready_entries set "+strings.Join(set, ", ")+" where job_id = $1", job)
	return one[string](s, "select to_jsonb(e)::text from awa.ready_entries e where e.job_id = $1", job)
}

// Each column of a job's body survives each way through the tables: each writer and each list of columns has all of
// them. A column that is added later is covered, unless it is named above.
func TestBodySurvives(t *testing.T) {
	const (
		fails    = "select awa.fail(@job, @receipt, 'e', '0')"
		promotes = "select awa.promote_due()"
		extends  = "select awa.extend(@job, @receipt, '1 minute')"
		discards = "select awa.discard(@job, @receipt, 'e')"
		retries  = "select awa.retry(@job)"
		cancels  = "select awa.cancel(@job)"
		moves    = "select awa.move(@job, @queue || ' moved')"
		ranks    = "select awa.set_priority(@job, 4)"
		keepsDLQ = `select awa.configure_queue(@queue, '{"dead_letter": true}')`
		// entries and cursors are moved one by one
		carries = "update awa.ring set carried_segment = current_segment, carried_since = pg_current_snapshot()"
	)
	ways := [][]string{
		{"claim", fails, promotes, "claim"},
		{"claim", fails, ranks, moves, promotes},
		{"claim", fails, retries},
		{"claim", fails, "select awa.retry_where(queue => @queue, state => 'retryable')"},
		{"claim", "select awa.fail_many(array[@job::bigint], array[@receipt::bigint], '{e}', '{0}')", promotes},
		{"claim", "select awa.release(@job, @receipt)", "claim"},
		{"claim", "select awa.release_unknown(@worker, '{}', '{}')"},
		{"claim", "select awa.deregister_worker(@worker)"},
		{"claim", "select awa.snooze(@job, @receipt, '0')", promotes},
		{"claim", "select awa.put_off(@job, @receipt, 'e')", "select awa.retry(@job)"},
		{"claim", "select awa.set_progress(@job, @receipt, (@body::jsonb -> 'progress'))", fails, promotes},
		{"claim", extends, fails, promotes},
		{"claim", extends, "select awa.release(@job, @receipt)"},
		{"claim", "select awa.materialize('0')", fails},
		{"claim", "later", "select awa.rescue()", retries},
		{"claim", extends, "later", "select awa.rescue()", retries},
		{"claim", discards, retries, "claim"},
		{"claim", discards, "select awa.retry_where(queue => @queue)"},
		{keepsDLQ, "claim", discards, retries},
		{keepsDLQ, "claim", extends, discards, retries},
		{"claim", "select awa.cancel_attempt(@job, @receipt)", retries},
		{cancels, retries},
		{"select awa.cancel_where(queue => @queue)", retries},
		{"claim", cancels, retries},
		{"claim", extends, cancels, retries},
		{"claim", fails, cancels, retries},
		{ranks, "claim"},
		{moves, ranks, cancels, retries},
		{"claim", "select awa.release(@job, @receipt)", ranks, moves},
		{"claim", "without progress", "select awa.complete(@job, @receipt, '1')"},
		{"claim", extends, "without progress", "select awa.complete(@job, @receipt)"},
		{"rotate", "prune", "claim"},
		{"rotate", carries, "prune", "claim"},
		{"claim", "rotate", "prune", fails, "rotate", "prune"},
		{"rebase", "claim"},
		{"claim", "rebase", fails},
		{"claim", fails, "rebase"},
		{"claim", "complete", "without progress", "rebase"},
	}
	d := newDatabase(t)
	s := d.session()
	columns := list[string](s, `
		select a.attname::text
		  from pg_attribute a
		 where a.attrelid = any(array(select ('awa.' || t)::regclass from unnest($1::text[]) t))
		   and a.attnum > 0 and not a.attisdropped and a.attname <> all($2)
		 group by a.attname
		 order by a.attname`, bodyTables, notBody)
	require.Subset(t, columns, []string{"args", "created_at", "errors", "group_key", "kind", "max_attempts", "metadata",
		"progress", "tags", "unique_key", "body_bytes"})
	require.Empty(t, list[string](s, `
		select format('%s.%s', t, c) from unnest($1::text[]) t, unnest($2::text[]) c
		 where not exists (select from pg_attribute a where a.attrelid = ('awa.' || t)::regclass and a.attname = c)`,
		bodyTables, columns), "each table has all columns of the body")
	s.exec("update awa.settings set completed_retention = '0'")
	for i, way := range ways {
		queue := fmt.Sprint("q", i)
		job := one[int64](s, "select job_id from awa.enqueue_unique($1, 'k', unique_key => $1, group_key => "+
			"'g')", queue)
		args := pgx.NamedArgs{"job": job, "queue": queue, "receipt": int64(0), "columns": columns,
			"worker": one[int64](s, "select awa.register_worker($1)", queue), "body": s.withSentinels(job, columns)}
		for _, step := range way {
			switch step {
			case "claim":
				args["receipt"] = one[int64](s, `select c.receipt from awa.claim($1, 1, $2) c where c.job_id = $3`,
					one[string](s, "select queue from awa.job($1)", job), args["worker"], job)
			case "rotate":
				s.rotate()
			case "prune":
				s.prunes()
			case "complete": // the entry has its progress, and shows none
				require.NoError(t, s.try("select awa.complete(@job, @receipt)", args))
				continue
			case "rebase":
				// as in a database that was restored: other OIDs, another transaction that wrote the row
				s.exec("update awa.ring set tables = '{1,2}'")
				s.exec("update awa.origin set xid = '5'")
				s.exec("select available from awa.rebase_after_restore()")
			case "later":
				s.halfAnHourLater()
			case "without progress": // a completed job has none
				args["body"] = one[string](s, "select jsonb_set($1::jsonb, '{progress}', 'null')::text", args["body"])
				continue
			default:
				require.NoError(t, s.try(step, args), "%s: %s", way, step)
			}
			require.Empty(t, one[string](s, bodyOf, args), "%s: %s", way, step)
		}
	}
	s.audited()
}
