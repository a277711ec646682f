// Package lines_test holds lints of the text of all files.
package lines_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const longest = 120

// Files that have longer lines. Take a file out once it has none.
var exceptions = []string{
	"bench/driver/main.go",
	"cmd/awa/checks.go",
	"cmd/awa/definitions.go",
	"cmd/awa/doctor.go",
	"cmd/awa/doctor/definitions.sql",
	"cmd/awa/doctor/types.sql",
	"cmd/awa/doctor_rights_test.go",
	"driver/ahead_internal_test.go",
	"driver/ahead_test.go",
	"driver/claimer.go",
	"driver/queues_internal_test.go",
	"driver/registration.go",
	"driver/worker.go",
	"pgtap/contract/grants.sql",
	"pgtap/contract/lints.sql",
	"pgtap/contract/signatures.sql",
	"pgtap/plans/hot_path.sql",
	"pgtap/plans/segments.sql",
	"sql/claim_test.go",
	"sql/functions/claim/claim.sql",
	"sql/functions/close/complete_many.sql",
	"sql/functions/engine/changes.sql",
	"sql/functions/engine/closing.sql",
	"sql/functions/engine/lanes.sql",
	"sql/functions/engine/queues.sql",
	"sql/functions/enqueue/cancel_by_unique_key.sql",
	"sql/functions/enqueue/enqueue.sql",
	"sql/functions/enqueue/enqueue_batch.sql",
	"sql/functions/enqueue/enqueue_unique.sql",
	"sql/functions/grants.sql",
	"sql/functions/maintain/prune_oldest.sql",
	"sql/fuzz_test.go",
	"sql/life_test.go",
	"sql/migrations/001_engine.sql",
	"sql/ring_test.go",
}

// Code and comments have at most 120 characters a line. What sqlc generates is as it is, and a paragraph of a document
// is one line.
func TestLinesAreShort(t *testing.T) {
	root := filepath.Join("..", "..")
	read := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".git") || name == "gen"):
			return fs.SkipDir
		case !slices.Contains([]string{".sql", ".psql", ".go", ".py", ".sh"}, filepath.Ext(name)) || entry.IsDir():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read++
		long := 0
		for i, line := range strings.Split(string(text), "\n") {
			if n := utf8.RuneCountInString(line); n > longest {
				long++
				if !slices.Contains(exceptions, name) {
					t.Errorf("%s:%d has %d characters", name, i+1, n)
				}
			}
		}
		if long == 0 && slices.Contains(exceptions, name) {
			t.Errorf("%s has no longer line: it is no exception any more", name)
		}
		return nil
	}))
	require.Greater(t, read, 200, "files are found")
}
