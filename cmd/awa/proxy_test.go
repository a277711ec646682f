//go:build unix

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// Behind a proxy that pools transactions a session is everybody's: no command leaves a setting in it. The proxy has one
// connection to the server, so that each of them gets the same.
func TestNoSettingIsLeft(t *testing.T) {
	direct := startServer(t, pgserver.Config{})
	databaseURL := testdb.StartBouncer(t, direct, 1).URL(direct, pgx.QueryExecModeExec) + "&application_name=test"
	conn := testdb.Connect(t, databaseURL)
	session := func() (settings string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), `
			select concat_ws(E'\n', pg_backend_pid(), string_agg(s.name || '=' || s.setting, E'\n' order by s.name),
			  nullif(current_setting('awa.installed', true), ''), nullif(current_setting('awa.uninstalled', true), ''))
			  from pg_settings s where s.context in ('user', 'superuser') and s.name not like '%.%'`).Scan(&settings))
		return settings
	}
	execute(t, conn, "set search_path = public")
	before := session()
	for _, command := range [][]string{{"doctor"}, {"migrate"}, {"doctor"}, {"migrate"}, {"uninstall"}, {"uninstall"}} {
		status, stdout, stderr := awa(t.Context(), append(command, "--database-url", databaseURL)...)
		require.Contains(t, []int{0, 2}, status, "%v %s %s", command, stdout, stderr)
		require.True(t, before == session(), "%v leaves %s", command, difference(before, session()))
	}
	forPsql := strings.Replace(databaseURL, "default_query_exec_mode=exec&", "", 1)
	for _, args := range [][]string{{"sql"}, {"sql"}, {"sql", "--uninstall"}} {
		status, text, stderr := awa(t.Context(), args...)
		require.Zero(t, status, stderr)
		cmd := exec.CommandContext(t.Context(), "psql", "-X", "-q", "-d", forPsql)
		cmd.Stdin = strings.NewReader(text + "select 'search_path=' || current_setting('search_path');\n")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		assert.Contains(t, string(out), "search_path=public", args)
		assert.Regexp(t, `Awa is (installed|up to date|removed)`, string(out), args)
		require.True(t, before == session(), "%v leaves %s", args, difference(before, session()))
	}
}

// difference returns the lines of a text that are not in another one.
func difference(of, in string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(in, "\n"),
		func(line string) bool { return slices.Contains(strings.Split(of, "\n"), line) }), ", ")
}
