package docs_test

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// A new user follows docs/tutorial.md: runs each block as it stands, on a fresh database, and sees the output that the
// page shows.
func TestTutorial(t *testing.T) {
	admin := testdb.Connect(t, testdb.EmptyURL(t))
	dropRoles := func() {
		_, err := admin.Exec(context.Background(), "drop role if exists shop_web, shop_worker")
		assert.NoError(t, err)
	}
	dropRoles()
	t.Cleanup(dropRoles)
	pool, env := localhost(t)
	home := t.TempDir()
	env = append(append(published(t), env...), "GOPATH="+home, "GOBIN=", "DATABASE_URL="+databaseURL)

	user := reader{pool: pool, url: databaseURL, home: home, env: env, receipts: map[string]string{}}
	var worker *program
	for _, b := range blocks(t, "docs/tutorial.md") {
		switch {
		case b.language == "sql":
			user.psql(t, b.text)
		case b.language == "go":
			line, _, _ := strings.Cut(b.text, "\n")
			name, found := strings.CutPrefix(line, "// ")
			require.Truef(t, found, "the first line of a program is a comment with its name, not %q", line)
			write(t, filepath.Join(home, filepath.Dir(name)), filepath.Base(name), b.text)
		case strings.HasPrefix(b.text, "go run ./worker"):
			run(t, home, env, "go", "build", "-o", "shop-worker", "./worker") // "go run" passes no signal on
			worker = start(t, home, env, "./shop-worker")
		case b.language == "sh":
			printed := run(t, home, env, "sh", "-ec", b.text)
			env = exported(env, home, b.text)
			for line := range strings.Lines(b.text) {
				if _, result, found := strings.Cut(line, "  # "); found {
					assert.Contains(t, printed, strings.TrimSpace(result))
				}
			}
		default:
			assert.Failf(t, "a block that nothing runs", "%s\n%s", b.language, b.text)
		}
	}
	require.NotNil(t, worker)
	require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
	assert.Contains(t, worker.wait(t), "making the report of 2031-05-03")
}

// The rows that docs/concepts.md shows are those of a fresh installation.
func TestConcepts(t *testing.T) {
	url := testdb.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	user := reader{pool: pool, url: url, home: t.TempDir(), receipts: map[string]string{}}
	for _, b := range blocks(t, "docs/concepts.md") {
		if b.language == "sql" {
			user.psql(t, b.text)
		}
	}
}
