package sql_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/testdb"
	"github.com/awa-pg/awa/sql"
)

// An edit changes a file of the sources: path, old text, new text. A file that is not there yet is created.
type edit struct{ path, old, new string }

// version returns the sources of a version that does not exist: those of this one, with some changes.
func version(t *testing.T, number string, edits ...edit) *install.Sources {
	t.Helper()
	files := fstest.MapFS{}
	for _, tree := range []fs.FS{sql.Migrations, sql.Functions} {
		require.NoError(t, fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(tree, path)
			files[path] = &fstest.MapFile{Data: data}
			return err
		}))
	}
	for _, e := range append(edits, edit{"functions/read/version.sql", "'" + sql.Version + "'", "'" + number + "'"}) {
		if files[e.path] == nil {
			files[e.path] = &fstest.MapFile{}
		}
		text := string(files[e.path].Data)
		require.Contains(t, text, e.old, e.path)
		files[e.path].Data = []byte(strings.Replace(text, e.old, e.new, 1))
	}
	migrations, err := fs.Sub(files, "migrations")
	require.NoError(t, err)
	functions, err := fs.Sub(files, "functions")
	require.NoError(t, err)
	sources, err := install.Load(migrations, functions, describe(t, migrations, functions))
	require.NoError(t, err)
	return sources
}

// described holds the catalogs of edited sources by their edits.
var described sync.Map

// describe returns the catalog of sources, as a server has it.
func describe(t *testing.T, migrations, functions fs.FS) install.Catalog {
	t.Helper()
	hash := sha256.New()
	for _, tree := range []fs.FS{migrations, functions} {
		require.NoError(t, fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(tree, path)
			fmt.Fprintf(hash, "%s %d\n%s", path, len(data), data)
			return err
		}))
	}
	key := string(hash.Sum(nil))
	if catalog, ok := described.Load(key); ok {
		return catalog.(install.Catalog)
	}
	conn, err := pgx.Connect(t.Context(), testdb.EmptyURL(t))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	catalog, err := install.Describe(t.Context(), conn, migrations, functions)
	require.NoError(t, err)
	described.Store(key, catalog)
	return catalog
}

// The catalog that the program carries is that of its sources.
func TestCatalogIsOfTheSources(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), testdb.EmptyURL(t))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	want, embedded, err := install.DescribeEmbedded(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, string(want), string(embedded), "run go generate ./internal/install")
	this, err := install.Embedded()
	require.NoError(t, err)

	// What the program takes from the text, the server has, too.
	bodies := map[string]string{}
	rows, _ := conn.Query(t.Context(),
		"select p.proname, p.prosrc from pg_proc p where p.pronamespace = 'awa'::regnamespace and p.prosqlbody is null")
	var name, body string
	_, err = pgx.ForEachRow(rows, []any{&name, &body}, func() error {
		bodies[name] = body
		return nil
	})
	require.NoError(t, err)
	for _, f := range this.Functions {
		if f.Body != nil {
			require.Equal(t, bodies[f.Name], *f.Body, f.Name)
			delete(bodies, f.Name)
		}
	}
	require.Empty(t, bodies)
	var views []string
	for _, v := range this.Views {
		views = append(views, v.Name)
	}
	rows, _ = conn.Query(t.Context(), `select c.relname::text from pg_class c
		where c.relnamespace = 'awa'::regnamespace and c.relkind = 'v' order by c.relname collate "C"`)
	installed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, installed, views)
	require.NoError(t, conn.QueryRow(t.Context(), "select awa.version()").Scan(&name))
	require.Equal(t, name, this.Version)
}

// installs installs sources, as driver.Migrate does.
func (d database) installs(sources *install.Sources, o install.Options) (install.Result, error) {
	d.t.Helper()
	conn, err := pgx.Connect(context.Background(), d.url)
	require.NoError(d.t, err)
	defer conn.Close(context.Background())
	return sources.Install(context.Background(), conn, o)
}

var (
	// A migration that changes a hot table, and adds one.
	migration2 = edit{"migrations/002_made_up.sql", "",
		"alter table awa.ready_entries add constraint made_up check (attempt > 0);\nalter table awa.settings add column " +
			"made_up int not null default 7;\n" +
			"create table awa.made_up (n int primary key);\ncomment on table awa.made_up is 'Made up';\n"}
	newBody = edit{"functions/operate/resume_queue.sql", "begin\n", "begin\n  -- another body\n"}
)

// From any older version to this one: tables, functions of another signature, functions and views that are no more;
// sessions with prepared statements, and what users have on top, go on.
func TestUpgrade(t *testing.T) {
	d := newDatabase(t)
	s, old := d.session(), d.session()
	next := version(t, "0.2.0", migration2,
		edit{"functions/install.sql", `{{ template "operate/pause_queue.sql" . }}`, ""}, // no longer there
		edit{"functions/grants.sql", "          ('awa_operator', 'function awa.pause_queue'),\n", ""},
		edit{"functions/grants.sql", "          ('awa_operator', 'function awa.resume_queue'),\n",
			"          ('awa_operator', 'function awa.resume_queue'),\n          ('awa_operator', 'function awa.made_up'),\n"},
		edit{"functions/made_up.sql", "",
			"create or replace view awa.made_up_row as select 1 as n;\ncreate or replace function awa.made_up() returns setof " +
				"awa.made_up_row\nlanguage sql\nsecurity definer\nset search_path = pg_catalog, pg_temp\nas $$ select m.n from " +
				"awa.made_up m $$;\n"},
		edit{"functions/install.sql", `{{ template "read/version.sql" . }}`,
			`{{ template "read/version.sql" . }}{{ template "made_up.sql" . }}`},
		edit{"functions/worker/heartbeat.sql", "awa.heartbeat(worker_id bigint)",
			"awa.heartbeat(worker_id bigint, made_up int default null)"},
		edit{"functions/close/release.sql",
			"create or replace function awa.release(job_id bigint, receipt bigint) returns void",
			"create or replace function awa.release(job_id bigint, claim_receipt bigint) returns void"},
		edit{"functions/close/release.sql", "begin\n", "declare\n  receipt alias for claim_receipt;\nbegin\n"},
		edit{"functions/read/explain_job.sql", "function awa._span(span interval) returns text",
			"function awa._span(span interval) returns varchar"},
		// on which views and others depend
		edit{"functions/engine/queues.sql", "awa._queue_id(queue text)", "awa._queue_id(queue text, made_up int default 0)"},
	)
	jobs := s.enqueueMany("q", 20)
	s.exec("create view public.mine as select id, state from awa.jobs")
	worker := one[int64](s, "select awa.register_worker('w')")
	for name, statement := range map[string]string{
		"e": "(text) as select awa.enqueue($1, 'k')", "c": "(text, int) as select job_id, receipt from awa.claim($1, $2)",
		"d": "(bigint, bigint) as select awa.complete($1, $2)", "r": "(bigint, bigint) as select awa.release($1, $2)",
		"j": "(bigint) as select state from awa.jobs where id = $1", "h": "(bigint) as select * from awa.heartbeat($1)",
	} {
		old.exec("prepare " + name + statement)
	}
	uses := func() {
		t.Helper()
		for range 7 { // a generic plan comes with the sixth
			rows, err := old.db.Query(old.ctx, "execute c('q', 1)", pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[claimed])
			require.NoError(t, err)
			old.exec(fmt.Sprintf("execute d(%d, %d)", job.JobID, job.Receipt), pgx.QueryExecModeSimpleProtocol)
			old.exec(fmt.Sprintf("execute j(%d)", job.JobID), pgx.QueryExecModeSimpleProtocol)
			old.exec("execute e('q')", pgx.QueryExecModeSimpleProtocol)
			old.exec(fmt.Sprintf("execute h(%d)", worker), pgx.QueryExecModeSimpleProtocol)
		}
	}
	uses()

	result, err := d.installs(next, install.Options{})
	require.NoError(t, err)
	require.Equal(t, []any{int32(1), int32(2), "0.2.0", true},
		[]any{result.Before, result.After, result.Functions, result.Changed})
	uses()
	require.Equal(t, "0.2.0", one[string](s, "select awa.version()"))
	require.Equal(t, 7, one[int](s, "select made_up from awa.settings"))
	require.Empty(t,
		list[string](s,
			"select oid::regprocedure::text from pg_proc where pronamespace = 'awa'::regnamespace and (proname = 'pause_queue' "+
				"or proname = 'heartbeat' and pronargs = 1)"))
	require.Equal(t, "character varying",
		one[string](s, "select prorettype::regtype::text from pg_proc where oid = 'awa._span'::regproc"))
	require.Equal(t, []string{"job_id claim_receipt"},
		list[string](s, "select array_to_string(proargnames, ' ') from pg_proc where oid = 'awa.release'::regproc"))
	require.True(t,
		one[bool](s,
			"select has_function_privilege('awa_operator', 'awa.made_up()', 'execute') and not "+
				"has_function_privilege('public', 'awa.made_up()', 'execute') and (select count(*) from public.mine) = $1",
			len(jobs)+14))
	require.Empty(t, list[string](s, `select relname from pg_class where relnamespace = 'awa'::regnamespace
		and relkind <> 'i' and relkind <> 'I' and relowner <> 'awa_owner'::regrole
		union all select proname from pg_proc where pronamespace = 'awa'::regnamespace and proowner <> 'awa_owner'::regrole`))
	s.balanced()

	result, err = d.installs(next, install.Options{})
	require.NoError(t, err)
	require.False(t, result.Changed)

	// An older program finds newer functions. It leaves them, and says so; of what is newer than the next version it
	// knows nothing.
	older, err := driver.Migrate(s.ctx, d.url)
	require.NoError(t, err)
	require.True(t, older.Newer)
	require.Equal(t, []any{int32(2), "0.2.0", false}, []any{older.SchemaAfter, older.Functions, older.Changed})
	require.Len(t, older.Warnings, 1)
	require.Equal(t, "the database has Awa 0.2.0 (schema version 2), newer than this program's "+sql.Version+" (1)",
		older.Warnings[0].Message)
	require.Equal(t, "0.2.0", one[string](s, "select awa.version()"))
	// It does not remove it either, and blames nobody for what the newer one has made.
	embedded, err := install.Embedded()
	require.NoError(t, err)
	_, err = d.uninstalls(embedded, install.Options{})
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err,
		"the database has Awa 0.2.0 (schema version 2), newer than this program's "+sql.Version+" (1)")
	output, well := d.psql(uninstallFile(t))
	require.False(t, well)
	require.Contains(t, output, "newer than this program's")
	require.Contains(t, output, "Use the program of its version")
	for _, number := range []string{"0.3.0", "1.0.0"} {
		s.exec("update awa.schema_version set functions = $1", number)
		s.exec("comment on schema awa is null") // as after a restore without comments
		_, err = driver.Migrate(s.ctx, d.url)
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "the database has Awa "+number+" (schema version 2), too new for this program")
	}

	// What users have on what is to go is not dropped.
	s.exec("update awa.schema_version set functions = '0.2.0'; comment on schema awa is null")
	s.exec("create view public.theirs as select * from awa.made_up()")
	_, err = d.installs(version(t, "0.2.1", migration2), install.Options{})
	require.Equal(t, "2BP01", sqlState(err))
	require.ErrorContains(t, err, "objects of others depend on what this version changes or no longer has")
	require.Equal(t, "0.2.0", one[string](s, "select awa.version()"))
	s.exec("drop view public.theirs")
	_, err = d.installs(version(t, "0.2.1", migration2), install.Options{})
	require.NoError(t, err)
	require.Empty(t,
		list[string](s, "select relname from pg_class where relnamespace = 'awa'::regnamespace and relname = 'made_up_row'"))
	require.Empty(t,
		list[string](s,
			"select oid::regprocedure::text from pg_proc where pronamespace = 'awa'::regnamespace and proname = 'made_up'"))
	s.balanced()
}

// With nothing to do, nothing is locked and nothing written: it ends though others hold all there is, or change the
// schema. A login that works needs no more rights for that. Where something is to be done, who is in the way is named.
func TestNothingToDoNeedsNoLock(t *testing.T) {
	own := newServer(t)
	d := own.database("busy", true)
	s, dba := d.session(), d.session()
	s.exec("create role pod login; grant awa_worker to pod; create role nobody login")
	s.exec("begin")
	for _, lock := range list[string](s, `select case c.relkind when 'v'
		         then format('alter view %s owner to awa_owner', c.oid::regclass)
		         else format('lock table %s in access exclusive mode', c.oid::regclass)
		       end
		  from pg_class c where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'v')`) {
		s.exec(lock)
	}
	s.exec("select pg_advisory_xact_lock($1::bigint)", 0x6177616d696772)
	dba.exec("begin; grant usage on schema awa to pod; comment on schema awa is 'mine'")
	for _, user := range []string{"postgres", "pod"} {
		result, err := driver.MigrateWithConfig(s.ctx, withUser(t, d.url, user, "busy"),
			driver.MigrateConfig{Wait: time.Millisecond})
		require.NoError(t, err, user)
		require.False(t, result.Changed)
		require.Empty(t, result.Warnings)
	}
	s.exec("rollback")
	_, err := driver.Migrate(s.ctx, withUser(t, d.url, "nobody", "busy"))
	require.Equal(t, "42501", sqlState(err))

	// Something is to be done.
	dba.exec("rollback; begin; comment on schema awa is null; commit; begin; grant usage on schema awa to pod")
	_, err = driver.MigrateWithConfig(s.ctx, d.url, driver.MigrateConfig{Wait: 50 * time.Millisecond})
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, detail(err), fmt.Sprintf("It is changed by process %d of role postgres", dba.pid))
	dba.exec("rollback")
	_, err = driver.Migrate(s.ctx, withUser(t, d.url, "pod", "busy"))
	require.Equal(t, "42501", sqlState(err))
	result, err := driver.Migrate(s.ctx, d.url)
	require.NoError(t, err)
	require.True(t, result.Changed)
	written := `select concat_ws(' ', n.xmin, n.xmax, d.xmin, v.xmin)
		from pg_namespace n join pg_description d on d.objoid = n.oid, awa.schema_version v where n.nspname = 'awa'`
	before := one[string](s, written)
	result, err = driver.Migrate(s.ctx, d.url)
	require.NoError(t, err)
	require.False(t, result.Changed)
	require.Equal(t, before, one[string](s, written))
}

// An upgrade that changes what a reader reads waits for it, but answers and counts do not wait for the upgrade: it lets
// go, and tries again. It names who is in the way when it gives up. One that changes other things does not wait at all.
func TestUpgradeBesideAReader(t *testing.T) {
	d := newDatabase(t)
	s, reader := d.session(), d.session()
	s.enqueueMany("q", 10)
	reader.exec("set application_name = 'report'; begin; select count(*) from awa.jobs")

	_, err := d.installs(version(t, "0.1.1", newBody), install.Options{Wait: time.Millisecond})
	require.NoError(t, err, "functions alone")

	changed := version(t, "0.1.2", newBody,
		edit{"functions/engine/jobs.sql", "create or replace view awa._done as\n",
			"create or replace view awa._done as -- changed\n"})
	_, err = d.installs(changed, install.Options{Wait: 300 * time.Millisecond})
	require.Equal(t, "55P03", sqlState(err))
	require.ErrorContains(t, err, "others are in the way")
	require.Contains(t, detail(err),
		fmt.Sprintf("process %d of role %s (report) holds awa._done, in a transaction since ", reader.pid,
			one[string](s, "select current_user")))
	require.Equal(t, "0.1.1", one[string](s, "select awa.version()"), "nothing was changed")

	done := make(chan error, 1)
	go func() {
		_, err := d.installs(changed, install.Options{Wait: patience})
		done <- err
	}()
	for range 3 { // in pauses of the upgrade, which has waited for the reader in between
		require.Eventually(t, func() bool {
			return one[bool](s,
				"select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and "+
					"pid <> pg_backend_pid())")
		}, patience, time.Millisecond)
		job := s.claim("q", 1)[0]
		s.exec("select awa.fail($1, $2, 'no')", job.JobID, job.Receipt)
		s.state(job.JobID)
		require.True(t,
			one[bool](s, "select exists (select from pg_locks l where l.relation = 'awa._done'::regclass and l.pid = $1)",
				reader.pid))
	}
	select {
	case err := <-done:
		require.Fail(t, "it did not wait for the reader", "%v", err)
	default:
	}
	reader.exec("commit")
	require.NoError(t, <-done)
	require.Equal(t, "0.1.2", one[string](s, "select awa.version()"))
	s.balanced()
}

func detail(err error) string {
	var e *pgconn.PgError
	errors.As(err, &e)
	return e.Detail
}

func hint(err error) string {
	var e *pgconn.PgError
	errors.As(err, &e)
	return e.Hint
}

// The longest wait of an answer beside an upgrade that changes hot tables and views, under load, with readers of which
// some stay for a second. Shown for the documentation; the test is satisfied when one of a few upgrades kept to a
// second, since a machine that is busy otherwise has waits of its own.
func TestUpgradeUnderLoad(t *testing.T) {
	var best time.Duration
	for round := range 5 {
		longest, before := upgradeUnderLoad(t)
		t.Logf("round %d: longest answer %s beside the upgrade, %s before it", round, longest, before)
		if best == 0 || longest < best {
			best = longest
		}
		if best < time.Second {
			return
		}
	}
	require.Less(t, best, time.Second)
}

func upgradeUnderLoad(t *testing.T) (during, before time.Duration) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 1000)
	var worst atomic.Int64
	stop := make(chan struct{})
	var group sync.WaitGroup
	loop := func(f func(*session)) {
		s := d.session()
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f(s)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	timed := func(s *session, statement string, args ...any) {
		began := time.Now()
		err := s.try(statement, args...)
		if err != nil {
			t.Error(err)
		}
		for took := int64(time.Since(began)); ; {
			seen := worst.Load()
			if took <= seen || worst.CompareAndSwap(seen, took) {
				return
			}
		}
	}
	answers := func(s *session) {
		for i, job := range s.claim("q", 20) {
			switch i % 4 {
			case 0:
				timed(s, "select awa.fail($1, $2, 'no')", job.JobID, job.Receipt)
			case 1:
				timed(s, "select awa.snooze($1, $2, '1 hour')", job.JobID, job.Receipt)
			default:
				timed(s, "select awa.complete($1, $2)", job.JobID, job.Receipt)
			}
		}
		s.enqueueMany("q", 20)
		time.Sleep(20 * time.Millisecond)
	}
	for range 2 {
		loop(answers)
	}
	// As many jobs each time: readers of all would take longer and longer, until there is no gap between them.
	loop(func(s *session) {
		s.exec("select count(*) from awa.jobs where id < 200")
		time.Sleep(300 * time.Millisecond)
	})
	loop(func(s *session) {
		s.exec("begin; select count(*) from awa.jobs where id < 1000; select pg_sleep(1); commit")
		time.Sleep(500 * time.Millisecond)
	})
	loop(func(s *session) { s.exec("call awa.run_maintenance()"); time.Sleep(time.Second) })
	time.Sleep(2 * time.Second)
	before = time.Duration(worst.Swap(0))
	_, err := d.installs(version(t, "0.2.0", migration2, newBody,
		edit{"functions/engine/jobs.sql", "create or replace view awa._done as\n",
			"create or replace view awa._done as -- changed\n"}), install.Options{Wait: patience})
	require.NoError(t, err)
	time.Sleep(time.Second)
	during = time.Duration(worst.Load())
	close(stop)
	group.Wait()
	s.balanced()
	return during, before
}

// Until a version is released its tables change without a migration: an installation with others is refused, and told
// how to go on.
func TestTablesOfAnotherUnreleasedState(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueue("q")
	other := version(t, "0.1.0",
		edit{"migrations/001_engine.sql", "create sequence awa.job_ids;",
			"create sequence awa.job_ids;\ncreate sequence awa.made_up;\ncomment on sequence awa.made_up is 'Made up';"})
	_, err := d.installs(other, install.Options{})
	require.Equal(t, "55000", sqlState(err))
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, "awa uninstall")
	require.Len(t, s.claim("q", 1), 1, "nothing was changed")

	// comments and blanks make no other tables
	same := version(t, "0.1.0", edit{"migrations/001_engine.sql", "create sequence awa.job_ids;",
		"-- Another comment.\n\ncreate  sequence\n  awa.job_ids;\n  -- and one more"})
	_, err = d.installs(same, install.Options{})
	require.NoError(t, err)

	// a state from before it was there
	s.exec("alter table awa.schema_version drop column tables; comment on schema awa is null")
	this, err := install.Embedded()
	require.NoError(t, err)
	_, err = d.installs(this, install.Options{})
	require.Equal(t, "55000", sqlState(err))
	_, err = d.uninstalls(this, install.Options{Force: true})
	require.NoError(t, err)
	_, err = d.installs(other, install.Options{})
	require.NoError(t, err)
}
