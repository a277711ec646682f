package docs_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// What docs/schedules.md tells to run, works: each SQL block after the one that makes the schedules, the commands, and
// the Go program compiles.
func TestSchedules(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	var schedules string
	ran := map[string]int{}
	for _, b := range blocks(t, "docs/schedules.md") {
		ran[b.language]++
		switch b.language {
		case "sql":
			if strings.Contains(b.text, "awa.schedule('weekly report'") {
				schedules = b.text
			}
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			for _, text := range []string{schedules, b.text} {
				_, err = tx.Exec(t.Context(), text)
				require.NoError(t, err, text)
			}
			require.NoError(t, tx.Rollback(t.Context()))
		case "sh":
			_, err := conn.Exec(t.Context(), schedules)
			require.NoError(t, err)
			home := t.TempDir()
			run(t, "..", nil, "go", "build", "-o", home, "./cmd/awa")
			env := []string{"DATABASE_URL=" + databaseURL, "PATH=" + home + string(os.PathListSeparator) + os.Getenv("PATH")}
			printed := run(t, home, env, "sh", "-ec", b.text)
			assert.Contains(t, printed, "at 09:30, on Monday")
			assert.Regexp(t, `Job \d+ is enqueued\.`, printed)
		case "go":
			compile(t, b.text)
		default:
			assert.Failf(t, "a block that nothing runs", "%s\n%s", b.language, b.text)
		}
	}
	assert.Equal(t, map[string]int{"sql": 5, "sh": 1, "go": 1}, ran)
}

// compile compiles a piece of a program that has the variables, the types and the functions that the page leaves to the
// reader.
func compile(t *testing.T, text string) {
	t.Helper()
	home := t.TempDir()
	write(t, home, "main.go", `package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
)

type Invoice struct { Draft bool }

func (Invoice) Kind() string { return "invoice" }

func invoice(context.Context, time.Time, bool) error { return nil }

var pool *pgxpool.Pool

const build = 42

func main() {
`+text+`
_, _ = worker, err
}
`)
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "cmd", "reader", "main.go"): filepath.Join(home, "main.go")}})
	require.NoError(t, err)
	write(t, home, "overlay.json", string(overlay))
	run(t, "..", nil, "go", "build", "-overlay", filepath.Join(home, "overlay.json"), "-o", filepath.Join(home, "reader"),
		"./cmd/reader")
}
