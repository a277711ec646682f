package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// hostile is a name that would clear a terminal, retitle it, hide, and go on in another line, in every way that there
// is.
const hostile = "q\x1b[2J\x1b]0;title\x07\x7f\b\r\u009b31m\u0085\u202eevil\u2066"

// assertPrintable requires text that a terminal prints as it is.
func assertPrintable(t *testing.T, text string) {
	t.Helper()
	assert.True(t, utf8.ValidString(text))
	assert.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !isPrintable(r) }), "%q", text)
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"plain é → 日本 👩‍🚀\tx\n":        "plain é → 日本 👩‍🚀\tx\n",
		"\x1b[31mred\x1b[0m":           `\u001b[31mred\u001b[0m`,
		"a\rb\x00\x7f\u009bc":          `a\u000db\u0000\u007f\u009bc`,
		"a\xffb\xe2\x86":               `a\xffb\xe2\x86`,
		"\u202eevil\u2066\u2028\uFFFD": `\u202eevil\u2066\u2028` + "\uFFFD",
	} {
		var out bytes.Buffer
		n, err := fmt.Fprint(&printable{w: &out}, text)
		require.NoError(t, err)
		assert.Equal(t, len(text), n)
		assert.Equal(t, want, out.String())
		assertPrintable(t, out.String())
	}
}

// Names, errors and arguments that producers, workers and other sessions choose reach no terminal as they are,
// whichever command prints them.
func TestNothingMovesTheCursor(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	for _, sql := range []string{
		"select awa.enqueue($1, $1)",
		"select awa.pause_queue($1)",
		"select awa.configure_queue($1, '{\"lease\": \"1 second\"}')",
		"select awa.register_worker($1, array[$1])",
	} {
		_, err := admin.Exec(t.Context(), sql, hostile)
		require.NoError(t, err)
	}
	execute(t, admin, "update awa.ready_entries set ready_at = ready_at - interval '1 day'")
	printed := map[string]string{}
	check := func(what string, args ...string) {
		t.Helper()
		_, stdout, stderr := awa(t.Context(), args...)
		assertPrintable(t, stdout)
		assertPrintable(t, stderr)
		printed[what] = stdout + stderr
	}
	check("doctor", "doctor", "--verbose", "--database-url", databaseURL)
	check("doctor", "doctor", "--json", "--database-url", databaseURL)
	assert.Contains(t, printed["doctor"], `evil`, "the queue is named")
	assert.True(t, json.Valid([]byte(printed["doctor"])))
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(printed["doctor"]), &findings))
	assert.True(t, bytes.Contains(fmt.Append(nil, findings), []byte(hostile)), "to a program, it is what it is")

	noDatabase := with(t, databaseURL, "dbname", hostile)
	for _, command := range []string{"doctor", "migrate", "selftest", "work --exec true", "demo ."} {
		check(command, append(strings.Fields(command), "--database-url", noDatabase)...)
		assert.Contains(t, printed[command], `database "(not shown)" does not exist`, command)
	}
	check("usage", hostile)
	check("usage", "migrate", hostile)
	check("usage", "migrate", "--"+hostile)
	check("demo", "demo", "/"+hostile)
	assert.Contains(t, printed["demo"], "DIR: no such file")

	// What an earlier self-test has left.
	_, err := admin.Exec(t.Context(), "select awa.enqueue($1, 'k')", selftestPrefix+hostile)
	require.NoError(t, err)
	check("selftest", "selftest", "--phase", "300ms", "--database-url", databaseURL)
	assert.Contains(t, printed["selftest"], "Removed")
	assert.Contains(t, printed["selftest"], "evil")
}

// A name that is more than a word is shown once the server has let it in, so that a hint with it can be run.
func TestNamesAreShownOnceConnected(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{})
	execute(t, testdb.Connect(t, databaseURL), `create role "jane.doe" login`,
		`create database "jane's" owner "jane.doe"`)
	hers := with(t, with(t, databaseURL, "user", "jane.doe"), "dbname", "jane's")
	_, stdout, stderr := awa(t.Context(), "migrate", "--database-url", hers)
	assert.Contains(t, stdout+stderr, `for "jane.doe" alone`)
	_, stdout, stderr = awa(t.Context(), "doctor", "--verbose", "--database-url", hers)
	assert.Contains(t, stdout+stderr, "database jane's, as jane.doe")
	_, stdout, stderr = awa(t.Context(), "uninstall", "--database-url", with(t, hers, "dbname", "jane.s"))
	assert.Contains(t, stdout+stderr, `database "(not shown)" does not exist`, "it may be a password")
}
