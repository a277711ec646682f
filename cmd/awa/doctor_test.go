package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// examined returns what awa doctor finds, and checks that its exit status is that of the worst.
func examined(t *testing.T, databaseURL string) []finding {
	t.Helper()
	status, stdout, stderr := awa(t.Context(), "doctor", "--json", "--database-url", databaseURL)
	assert.Empty(t, stderr)
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(stdout), &findings))
	worst := 0
	for _, f := range findings {
		require.Contains(t, exitStatus, f.Level)
		assert.NotEmpty(t, f.Topic)
		assert.NotEmpty(t, f.Message)
		worst = max(worst, exitStatus[f.Level])
	}
	assert.Equal(t, worst, status)
	return findings
}

// find returns the finding that says so, or nil.
func find(findings []finding, level, topic, subject, message string) *finding {
	i := slices.IndexFunc(findings, func(f finding) bool {
		return f.Level == level && f.Topic == topic && f.Subject == subject && strings.Contains(f.Message, message)
	})
	if i < 0 {
		return nil
	}
	return &findings[i]
}

// withParameters adds parameters to the URL of a database.
func withParameters(t *testing.T, databaseURL string, parameters ...string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// durableServer starts a server whose settings are fit for production, and whose roles are nobody else's.
func durableServer(t *testing.T, settings map[string]string) string {
	t.Helper()
	server, err := pgserver.Start(t.Context(), pgserver.Config{Durable: true, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Stop()) })
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", server.URL())
	require.Zero(t, status, stderr)
	return server.URL()
}

// sqlHint finds the statement that a hint says to run.
var sqlHint = regexp.MustCompile(`(?:alter|grant|revoke|reindex) .*;$`)

// provoke makes something wrong, sees that it is found, does what the hint says, and sees it no more.
func provoke(t *testing.T, databaseURL, statement, level, topic, subject, message string) {
	t.Helper()
	require.Nil(t, find(examined(t, databaseURL), level, topic, subject, message), "before it is provoked")
	conn := testdb.Connect(t, databaseURL)
	exec(t, conn, statement)
	findings := examined(t, databaseURL)
	f := find(findings, level, topic, subject, message)
	require.NotNil(t, f, "%+v", findings)
	switch cure := sqlHint.FindString(f.Hint); {
	case cure != "":
		exec(t, conn, cure)
	case strings.HasPrefix(f.Hint, "Run awa migrate"):
		status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
		require.Zero(t, status, stderr)
	default:
		require.NotEmpty(t, f.Hint)
		return
	}
	require.Nil(t, find(examined(t, databaseURL), level, topic, subject, message), "after what the hint says")
}

func TestDoctorUsage(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for _, args := range [][]string{{}, {"operand"}, {"--nonsense"}} {
		status, stdout, stderr := awa(t.Context(), append([]string{"doctor"}, args...)...)
		assert.Equal(t, 2, status)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, "awa doctor: ")
	}
	status, stdout, _ := awa(t.Context(), "doctor", "-h")
	assert.Zero(t, status)
	assert.Contains(t, stdout, "awa doctor [--database-url URL]")
}

func TestDoctorWithoutADatabase(t *testing.T) {
	for databaseURL, hint := range map[string]string{
		"postgres://%":                  "The URL should look like",
		"postgres:///db?host=/nowhere":  "Is the server running",
		withNoDatabase(t, "awa_test_no"): "Create the database first",
	} {
		findings := examined(t, databaseURL)
		require.Len(t, findings, 1)
		assert.Equal(t, levelCritical, findings[0].Level)
		assert.Equal(t, "server", findings[0].Topic)
		assert.Contains(t, findings[0].Hint, hint)
	}
}
