package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	testName   = regexp.MustCompile(`^(Test\w+)`)
	testFunc   = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	lineNote   = regexp.MustCompile(`(?m)(--|//).*$`)
	identifier = regexp.MustCompile(`[A-Za-z_]\w+`)
)

// Each row of testing.md names a test that there is, and a cure by names that the code has.
func TestTestingNamesWhatIsThere(t *testing.T) {
	tests, names := map[string]bool{}, map[string]bool{}
	root := os.DirFS("..")
	require.NoError(t, fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".go", ".sql"}, filepath.Ext(path)) {
			return err
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			for _, match := range testFunc.FindAllStringSubmatch(string(text), -1) {
				tests[match[1]] = true
			}
		} else if !strings.HasPrefix(path, "pgtap/") {
			for _, name := range identifier.FindAllString(lineNote.ReplaceAllString(string(text), ""), -1) {
				names[name] = true
			}
		}
		return nil
	}))

	text, err := os.ReadFile("testing.md")
	require.NoError(t, err)
	rows := 0
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| defect ") || strings.HasPrefix(line, "| --- ") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		require.Len(t, cells, 3, line)
		named := 0
		for _, span := range codeSpan.FindAllStringSubmatch(cells[2], -1) {
			if name := testName.FindString(span[1]); name != "" {
				require.True(t, tests[name], "%s: there is no such test", name)
				named++
			} else if strings.Contains(span[1], "/") {
				_, err := os.Stat(filepath.Join("..", span[1]))
				require.NoError(t, err)
				named++
			}
		}
		require.NotZero(t, named+strings.Count(cells[2], "`balanced`"), "no test is named: %s", line)
		for _, span := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
			for _, name := range identifier.FindAllString(span[1], -1) {
				require.True(t, names[name], "%s: the code has no such name", name)
			}
		}
	}
	require.Greater(t, rows, 200)
}
