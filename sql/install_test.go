package sql_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// Whoever may create objects in public must not get the installer to run them, nor the functions.
func TestInstallIgnoresThePublicSchema(t *testing.T) {
	url := testdb.EmptyURL(t)
	s := database{t, url}.session()
	s.exec(`
		create function public.format(text, text) returns text language plpgsql as $$ begin raise exception 'hijacked'; end $$;
		create function public.format(text, int) returns text language plpgsql as $$ begin raise exception 'hijacked'; end $$;
		create function public.array_position(bigint[], bigint) returns int language plpgsql as $$ begin raise exception 'hijacked'; end $$;`)
	_, err := driver.Migrate(s.ctx, url)
	require.NoError(t, err)
	s.enqueue("q")
	s.claim("q", 1)
	require.Equal(t, []string{"running"}, list[string](s, "select state from awa.jobs_compat()"))
}

// What users granted, and what depends on Awa's views, survives the next installation.
func TestInstallAgain(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	s.exec("create view mine as select id, state from awa.jobs")
	s.exec("grant execute on function awa.enqueue to pg_monitor")
	for range 2 {
		_, err := driver.Migrate(s.ctx, d.url)
		require.NoError(t, err)
	}
	require.True(t, one[bool](s, "select has_function_privilege('pg_monitor', oid, 'execute') from pg_proc where oid = 'awa.enqueue'::regproc"))
	require.Equal(t, "available", one[string](s, "select state from mine where id = $1", job))
}

// A role that may create roles installs for all of them; one that may not installs for itself, and says so.
func TestInstallWithoutASuperuser(t *testing.T) {
	for _, c := range []struct {
		attributes string
		owner      string
		warns      bool
	}{
		{"createrole", "awa_owner", false},
		{"nocreaterole", "installer", true},
	} {
		t.Run(c.attributes, func(t *testing.T) {
			server, err := pgserver.Start(t.Context(), pgserver.Config{}) // roles belong to a server
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Stop()) })
			admin := database{t, server.URL()}.session()
			admin.exec("create role installer login " + c.attributes)
			admin.exec("create database app owner installer")
			url := "user=installer dbname=app host=" + one[string](admin, "show unix_socket_directories") + " port=" + one[string](admin, "show port")
			s := database{t, url}.session()
			for range 2 {
				result, err := driver.Migrate(s.ctx, url)
				require.NoError(t, err)
				require.Equal(t, c.warns, len(result.Warnings) > 0, "%v", result.Warnings)
			}
			require.Equal(t, []string{c.owner}, list[string](s, "select distinct proowner::regrole::text from pg_proc where pronamespace = 'awa'::regnamespace"))
			require.Equal(t, []string{c.owner}, list[string](s, "select distinct relowner::regrole::text from pg_class where relnamespace = 'awa'::regnamespace and relkind in ('r', 'p', 'v', 'S')"))
			job := s.enqueue("q")
			require.Equal(t, []int64{job}, ids(s.claim("q", 1)))
			require.Equal(t, "running", s.state(job))

			if !c.warns { // the second database of the server, by a role that did not make the roles
				admin.exec("create role other login createrole")
				admin.exec("create database second owner other")
				result, err := driver.Migrate(s.ctx, "user=other dbname=second host="+server.Dir()+" port="+one[string](admin, "show port"))
				require.NoError(t, err)
				if one[int](admin, "select current_setting('server_version_num')::int") >= 160000 {
					require.NotEmpty(t, result.Warnings)
				}
			}
		})
	}
}

// A database need not be in UTF-8: the installer warns, and all works with the characters that there are. What the encoding lacks is refused before it reaches any
// function, and an attempt that cannot be answered so is rescued, counted.
func TestDatabaseInAnotherEncoding(t *testing.T) {
	server := newServer(t)
	admin := database{t, server.URL()}.session()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "UTF8"} {
		t.Run(encoding, func(t *testing.T) {
			name := strings.ToLower(encoding)
			admin.exec(fmt.Sprintf("create database %s encoding '%s' locale 'C' template template0", name, encoding))
			u, err := url.Parse(server.URL())
			require.NoError(t, err)
			u.Path = "/" + name
			query := u.Query()
			query.Set("client_encoding", "UTF8") // by default it is the server's, whatever a Go program writes
			u.RawQuery = query.Encode()
			for range 2 { // each time
				result, err := driver.Migrate(t.Context(), u.String())
				require.NoError(t, err)
				if encoding == "UTF8" {
					require.Empty(t, result.Warnings)
					return
				}
				require.Len(t, result.Warnings, 1)
				require.Equal(t, "the database is encoded in "+encoding, result.Warnings[0].Message)
				require.NotEmpty(t, result.Warnings[0].Hint)
			}

			s := database{t, u.String()}.session()
			require.Equal(t, encoding, one[string](s, "show server_encoding"))
			id := one[int64](s, `select awa.enqueue('café', 'brûlée', '{"for": "Zoë"}', max_attempts => 2, tags => '{é}', metadata => '"ü"')`)
			sum := sha256.Sum256([]byte("café"))
			require.Equal(t, hex.EncodeToString(sum[:])[:15], one[string](s, "select to_hex(awa._queue_id('café'))"), "as every client computes it")
			require.Equal(t, int64(1), one[int64](s, "select job_id from awa.enqueue_unique('café', 'k', unique_key => 'é')")-id)
			require.Equal(t, "Zoë", one[string](s, "select args ->> 'for' from awa.job($1)", id))
			job := s.claim("café", 1)[0]
			require.Equal(t, id, job.JobID)
			fail := "select awa.fail($1, $2, $3, '0')"
			if encoding == "LATIN1" {
				require.Equal(t, "22P05", sqlState(s.try(fail, job.JobID, job.Receipt, "über → all")))
			}
			s.exec(fail, job.JobID, job.Receipt, "über all")
			require.Equal(t, "über all", one[string](s, "select errors -> 0 ->> 'error' from awa.job($1)", id))
			s.exec("select awa.promote_due()")
			s.exec("select awa.claim('café', 2)")
			s.exec("update awa.lease_claims set lease_until = now() - interval '1 second'")
			s.exec("select awa.rescue()")
			require.Equal(t, "failed 2 lease expired", one[string](s, "select concat_ws(' ', state, attempt, errors -> -1 ->> 'error') from awa.job($1)", id))
			require.NotEmpty(t, one[string](s, "select awa.explain_job($1)", id))
			require.True(t, one[bool](s, "select bool_and(balanced) from awa.audit()"))
		})
	}
}
