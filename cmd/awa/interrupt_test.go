//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// What is interrupted while it waits for a reader is not done when the reader has gone.
func TestInterruptedNothingIsDone(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, c := range []struct {
		name, before, done string
		args               []string
	}{
		{"uninstall", "", "select to_regnamespace('awa') is null", []string{"uninstall", "--force"}},
		{"migrate", "create view awa.jobs_of_mine as select * from awa.ring",
			"select to_regclass('awa.jobs_of_mine') is null", []string{"migrate"}},
	} {
		for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(c.name+" "+s.String(), func(t *testing.T) {
				databaseURL := testdb.URL(t)
				reader, look := testdb.Connect(t, databaseURL), testdb.Connect(t, databaseURL)
				_, err := look.Exec(t.Context(), c.before)
				require.NoError(t, err)
				_, err = reader.Exec(t.Context(), "begin; lock table awa.jobs, awa.ring in access share mode")
				require.NoError(t, err)
				if c.name == "migrate" {
					_, err = reader.Exec(t.Context(), "lock table awa.jobs_of_mine in access share mode")
					require.NoError(t, err)
				}
				process := exec.CommandContext(context.WithoutCancel(t.Context()), self,
					append(c.args, "--database-url", databaseURL)...)
				process.Env = append(os.Environ(), asCommand+"=1")
				process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				var stderr bytes.Buffer
				process.Stderr = &stderr
				require.NoError(t, process.Start())
				eventually(t, func() bool {
					var waits bool
					require.NoError(t, look.QueryRow(t.Context(), `select exists (select from pg_stat_activity a
						where a.datname = current_database() and a.wait_event in ('PgSleep', 'relation'))`).Scan(&waits))
					return waits
				}, "it waits for the reader")
				require.NoError(t, process.Process.Signal(s))
				assert.Error(t, process.Wait())
				assert.Contains(t, stderr.String(), "awa: interrupted")
				_, err = reader.Exec(t.Context(), "rollback")
				require.NoError(t, err)
				eventually(t, func() bool {
					var others int
					require.NoError(t, look.QueryRow(t.Context(), `select count(*) from pg_stat_activity a
						where a.datname = current_database() and a.backend_type = 'client backend'
						  and a.pid not in (pg_backend_pid(), $1)`, reader.PgConn().PID()).Scan(&others))
					return others == 0
				}, "its session has not ended")
				var done bool
				require.NoError(t, look.QueryRow(t.Context(), c.done).Scan(&done))
				assert.False(t, done, "it was done all the same")
			})
		}
	}
}
