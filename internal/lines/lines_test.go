// Package lines_test holds lints of the text of all files.
package lines_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const longest = 120

// eachFile calls what is given with each file of code.
func eachFile(t *testing.T, what func(name, text string)) {
	root := filepath.Join("..", "..")
	read := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".git") || entry.Name() == "node_modules" ||
			slices.Contains([]string{"gen", "dist"}, name)):
			return fs.SkipDir
		case !slices.Contains([]string{".sql", ".psql", ".go", ".py", ".sh"}, filepath.Ext(name)) || entry.IsDir():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read++
		what(name, string(text))
		return nil
	}))
	require.Greater(t, read, 200, "files are found")
}

// Code and comments have at most 120 characters a line. What sqlc generates is as it is, and a paragraph of a document
// is one line.
func TestLinesAreShort(t *testing.T) {
	eachFile(t, func(name, text string) {
		for i, line := range strings.Split(text, "\n") {
			if n := utf8.RuneCountInString(line); n > longest {
				t.Errorf("%s:%d has %d characters", name, i+1, n)
			}
		}
	})
}

// Inside an aggregate, "order by 1" orders by the constant, so by nothing.
func TestAggregatesAreOrderedByColumns(t *testing.T) {
	constant := regexp.MustCompile(`_agg\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\border by [0-9]`)
	require.Regexp(t, constant, "array_agg(f(a, g(1)) || ' ' order by 1)")
	require.NotRegexp(t, constant, "array_agg(a order by a) from t group by 1 order by 1")
	eachFile(t, func(name, text string) {
		for _, found := range constant.FindAllString(text, -1) {
			if name != "internal/lines/lines_test.go" {
				t.Errorf("%s: %s", name, found)
			}
		}
	})
}
