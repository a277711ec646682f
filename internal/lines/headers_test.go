package lines_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	function  = regexp.MustCompile(`^create or replace (?:function|procedure) awa\.(\w+)`)
	comment   = regexp.MustCompile(`(?m)^comment on (?:function|procedure) awa\.(\w+)[^']*? is\s+'((?:[^']|'')*)';$`)
	label     = regexp.MustCompile(`^-- (Returns|Locks|Raises|Why)\b`)
	notAtHead = regexp.MustCompile(`[.;:] (Returns |Locks:|Raises [0-9J]|Why:)`)
	bodyNote  = regexp.MustCompile(`--[^\n]*`)
	locks     = regexp.MustCompile(`\bfor (no key |key )?(update|share)\b|pg_(try_)?advisory_xact_lock|\block table\b|` +
		`awa\._(lock_|join_claim|try_join_claim|try_take_claim|join_free|take_key|keep_shards)`)
	saysLocks = regexp.MustCompile(
		`^-- (Locks|Takes the lock|Takes advisory locks|Waits for (an advisory|the) lock|.*, and locks)`)
	raises    = regexp.MustCompile(`raise exception|raise lock_not_available|awa\._refuse|awa\._moved_on`)
	saysRaise = regexp.MustCompile(`^-- (Raises|Refuses)`)
)

// The header of a function of the database begins with one line, which its comment there repeats. Then come, where they
// apply, what it returns, locks and raises, and why it is so: each begins a line, in this order. A function whose body
// locks, or raises, says so.
func TestHeadersOfFunctions(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "sql", "functions", "*", "*.sql"))
	require.NoError(t, err)
	found := 0
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		comments := map[string]string{}
		for _, m := range comment.FindAllStringSubmatch(string(text), -1) {
			comments[m[1]] = strings.ReplaceAll(m[2], "''", "'")
		}
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			m := function.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			found++
			first := i
			for first > 0 && strings.HasPrefix(lines[first-1], "--") {
				first--
			}
			header, name := lines[first:i], filepath.Base(path)+": "+m[1]
			if assert.NotEmpty(t, header, name) {
				assert.Equal(t, "-- "+comments[m[1]]+".", header[0], name)
			}
			var labels []string
			for _, h := range header {
				if m := label.FindStringSubmatch(h); m != nil {
					labels = append(labels, m[1])
				}
				assert.NotRegexp(t, notAtHead, h, name)
			}
			if len(header) > 0 && label.MatchString(header[0]) {
				labels = labels[1:] // what the function does is to raise, or to lock
			}
			body := bodyNote.ReplaceAllString(strings.Join(lines[i:], "\n"), "")
			if end := strings.Index(body, "\ncomment on "); end >= 0 {
				body = body[:end]
			}
			if locks.MatchString(body) {
				assert.True(t, slices.ContainsFunc(header, saysLocks.MatchString), "%s: which locks?", name)
			}
			if raises.MatchString(body) {
				assert.True(t, slices.ContainsFunc(header, saysRaise.MatchString), "%s: raises what?", name)
			}
			order := []string{"Returns", "Locks", "Raises", "Why"}
			assert.True(t, slices.IsSortedFunc(labels, func(a, b string) int {
				return slices.Index(order, a) - slices.Index(order, b)
			}), "%s: %v", name, labels)
		}
	}
	require.Greater(t, found, 300, "functions are found")
}
