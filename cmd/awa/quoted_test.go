package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// Where the server writes every name in quotation marks, the doctor sees no difference in that.
func TestDoctorWithQuotedIdentifiers(t *testing.T) {
	databaseURL := testdb.URL(t)
	_, err := testdb.Connect(t, databaseURL).Exec(t.Context(), `do $$ begin
		execute format('alter database %I set quote_all_identifiers = on', current_database()); end $$`)
	require.NoError(t, err)
	_, stdout, stderr := awa(t.Context(), "doctor", "--database-url", databaseURL)
	assert.Empty(t, stderr)
	assert.NotContains(t, stdout, "warning")
	assert.Contains(t, stdout, "views")
}
