package lines_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	longestFile     = 500
	longestFunction = 120
)

// A file has at most 500 lines, and a function of Go 120: pgtap/contract looks at the functions of SQL. A migration is
// one list of tables, and tests grow with what they test.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	functions := 0
	eachFile(t, func(name, text string) {
		isTest := strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "pgtap/")
		if n := strings.Count(text, "\n"); n > longestFile && !isTest && !strings.HasPrefix(name, "sql/migrations/") {
			t.Errorf("%s has %d lines", name, n)
		}
		if isTest || !strings.HasSuffix(name, ".go") {
			return
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, text, 0)
		require.NoError(t, err)
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok {
				functions++
				if n := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1; n > longestFunction {
					t.Errorf("%s: %s has %d lines", name, f.Name.Name, n)
				}
			}
		}
	})
	require.Greater(t, functions, 500, "functions are found")
}
