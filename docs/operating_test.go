package docs_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

var inlineQuery = regexp.MustCompile("`(select [^`]*)`")

// What docs/operating.md tells a DBA to run, the server takes: the blocks, and the queries within the text.
func TestOperating(t *testing.T) {
	conn := testdb.Connect(t, testdb.URL(t))
	_, err := conn.Exec(t.Context(), "select awa.enqueue('email', 'k') from generate_series(1, 42)")
	require.NoError(t, err)
	text, err := os.ReadFile("operating.md")
	require.NoError(t, err)
	var queries []string
	for _, b := range blocks(t, "docs/operating.md") {
		if b.language == "sql" && !strings.Contains(b.text, "pg_cron") { // an extension that PostgreSQL does not come with
			queries = append(queries, b.text)
		}
	}
	for _, match := range inlineQuery.FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(match[1], "rebase_after_restore") { // TestRestore
			queries = append(queries, match[1])
		}
	}
	assert.Greater(t, len(queries), 10)
	for _, query := range queries {
		_, err := conn.Exec(t.Context(), query)
		assert.NoError(t, err, query)
	}
}
