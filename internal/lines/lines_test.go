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
		for i, line := range strings.Split(string(text), "\n") {
			if n := utf8.RuneCountInString(line); n > longest {
				t.Errorf("%s:%d has %d characters", name, i+1, n)
			}
		}
		return nil
	}))
	require.Greater(t, read, 200, "files are found")
}
