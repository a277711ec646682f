package docs_test

import (
	"context"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

var inlineQuery = regexp.MustCompile("`(select [^`]*)`")

// What docs/operating.md tells a DBA to run, the server takes: the blocks, and the queries within the text.
func TestOperating(t *testing.T) {
	conn := testdb.Connect(t, testdb.URL(t))
	_, err := conn.Exec(t.Context(), "select awa.enqueue('email', 'k') from generate_series(1, 42)")
	require.NoError(t, err)
	text, err := os.ReadFile("operating.md")
	require.NoError(t, err)
	var queries []string
	for _, b := range blocks(t, "docs/operating.md") {
		if b.language == "sql" && !strings.Contains(b.text, "pg_cron") { // an extension that PostgreSQL does not come with
			queries = append(queries, b.text)
		}
	}
	for _, match := range inlineQuery.FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(match[1], "rebase_after_restore") { // TestRestore
			queries = append(queries, match[1])
		}
	}
	assert.Greater(t, len(queries), 10)
	for _, query := range queries {
		_, err := conn.Exec(t.Context(), query)
		assert.NoError(t, err, query)
	}
}

// login makes a login with some roles, and returns the URL of a database for it.
func login(t *testing.T, admin *pgx.Conn, roles string) (databaseURL string) {
	t.Helper()
	name := "dba_" + admin.Config().Database
	_, err := admin.Exec(t.Context(), "create role "+name+" login; grant "+roles+" to "+name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "drop role "+name)
		assert.NoError(t, err)
	})
	u, err := url.Parse(admin.Config().ConnString())
	require.NoError(t, err)
	query := u.Query()
	query.Set("user", name)
	u.RawQuery = query.Encode()
	return u.String()
}

// The shell loop, as a login that has awa_maintainer alone, has scheduled jobs start.
func TestShellLoop(t *testing.T) {
	conn := testdb.Connect(t, testdb.URL(t))
	maintainer := login(t, conn, "awa_maintainer")
	_, err := conn.Exec(t.Context(), "select awa.enqueue('email', 'k', run_at => now() + interval '1 second')")
	require.NoError(t, err)
	var loop string
	for _, b := range blocks(t, "docs/operating.md") {
		if b.language == "sh" && strings.Contains(b.text, "run_maintenance") {
			loop = b.text
		}
	}
	p := start(t, t.TempDir(), []string{"DATABASE_URL=" + maintainer}, "sh", "-c", loop)
	eventually(t, "the job starts", func(ctx context.Context) (starts bool) {
		require.NoError(t, conn.QueryRow(ctx, "select available = 1 from awa.queue_counts('email')").Scan(&starts))
		return starts
	})
	require.NoError(t, p.cmd.Process.Kill())
	<-p.done
	assert.Empty(t, p.output.String())
	eventually(t, "its last call ends", func(ctx context.Context) (ended bool) {
		require.NoError(t, conn.QueryRow(ctx, `select not exists (select from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid())`).Scan(&ended))
		return ended
	})
}

// The alert of calls that wait for a lock needs pg_read_all_stats, as the page says: it has a row with it, and none
// without it.
func TestAlertOfWaitingCalls(t *testing.T) {
	conn := testdb.Connect(t, testdb.URL(t))
	holder, waiting := testdb.Connect(t, conn.Config().ConnString()), testdb.Connect(t, conn.Config().ConnString())
	monitor := testdb.Connect(t, login(t, conn, "awa_reader"))
	text, err := os.ReadFile("operating.md")
	require.NoError(t, err)
	var query string
	for _, match := range inlineQuery.FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(match[1], "wait_event_type") {
			query = "select count(*) from (" + match[1] + ") q where pid = $1"
		}
	}
	_, err = holder.Exec(t.Context(), "begin; lock table awa.settings in access exclusive mode")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := waiting.Exec(context.Background(), "select awa.pause_queue('q')")
		ended <- err
	}()
	rows := func(c *pgx.Conn) (rows int) {
		require.NoError(t, c.QueryRow(t.Context(), query, waiting.PgConn().PID()).Scan(&rows))
		return rows
	}
	eventually(t, "the call waits", func(context.Context) bool { return rows(conn) == 1 })
	assert.Zero(t, rows(monitor), "without the right there is none")
	_, err = conn.Exec(t.Context(), "grant pg_read_all_stats to "+monitor.Config().User)
	require.NoError(t, err)
	assert.Equal(t, 1, rows(monitor))
	_, err = holder.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	<-ended
}
