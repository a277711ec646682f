//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// shell runs a script with a server. The script's $1 is a new, empty directory.
func shell(t *testing.T, script string) (status int, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	status, err = run(pgserver.Config{}, []string{"sh", "-c", script, "sh", dir})
	return status, dir, err
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PGHOSTADDR", "127.0.0.1")
	status, dir, err := shell(t, `
		test -S "$PGHOST/.s.PGSQL.$PGPORT" || exit 3
		test -z "$PGHOSTADDR" || exit 4
		echo "$DATABASE_URL" >"$1/url"
		echo "$PGUSER $PGDATABASE" >"$1/names"
		echo "$PGHOST" >"$1/host"`)
	require.NoError(t, err)
	assert.Zero(t, status)
	assert.Equal(t, "postgres postgres", read(t, dir, "names"))
	assert.NoDirExists(t, read(t, dir, "host"), "the server is gone")
	cfg, err := pgx.ParseConfig(read(t, dir, "url"))
	require.NoError(t, err)
	assert.Equal(t, read(t, dir, "host"), cfg.Host)
	assert.Equal(t, "postgres", cfg.User)
	assert.Equal(t, "postgres", cfg.Database)
}

func TestStatus(t *testing.T) {
	status, _, err := shell(t, "exit 7")
	assert.NoError(t, err)
	assert.Equal(t, 7, status)

	status, _, err = shell(t, "kill -9 $$")
	assert.ErrorContains(t, err, "killed")
	assert.Equal(t, 128+9, status)

	status, err = run(pgserver.Config{}, []string{"/no/such/command"})
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.Equal(t, 127, status)

	status, err = run(pgserver.Config{Settings: map[string]string{"no_such": "1"}}, []string{"true"})
	assert.ErrorContains(t, err, "no_such")
	assert.Equal(t, 1, status)
}

func TestSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		fifo := filepath.Join(t.TempDir(), "fifo")
		require.NoError(t, syscall.Mkfifo(fifo, 0o600))
		sent := make(chan error, 1)
		go func() {
			_, err := os.ReadFile(fifo) // returns when the inner shell has written it
			if err == nil {
				err = syscall.Kill(os.Getpid(), sig)
			}
			sent <- err
		}()
		// The signal has to reach both shells: the outer one waits for the inner.
		status, err := run(pgserver.Config{}, []string{"sh", "-c", `
			trap 'echo "$PGHOST" >"$0.host"; exit 5' INT TERM
			sh -c 'echo ready >"$0"; exec sleep 3600' "$0"
			exit 6`, fifo})
		require.NoError(t, <-sent)
		assert.NoError(t, err)
		assert.Equal(t, 5, status)
		assert.NoDirExists(t, read(t, fifo+".host"))
	}
}
