package docs_test

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// reader is a new user who runs the SQL blocks of a page one after the other, with psql.
type reader struct {
	pool     *pgxpool.Pool
	url      string // of the same database, for psql
	home     string
	env      []string
	receipts map[string]string // the receipt that the page shows: the one that the reader got
}

var (
	shownReceipt = regexp.MustCompile(`(?m)^-- +(\d+) \| +(\d{4,})(?: \||$)`)
	number       = regexp.MustCompile(`\b\d+\b`)
	shownResult  = regexp.MustCompile(`(?m)(?:^-- .*\n)+`)
)

// psql runs a block, and checks that it prints the lines of the block that begin with "-- ", where "..." stands for any
// text. On a busy machine the receipts are not those of the page: a claim that searched for long leaves an empty claim.
func (r *reader) psql(t *testing.T, text string) {
	t.Helper()
	text = number.ReplaceAllStringFunc(text, func(shown string) string { return cmp.Or(r.receipts[shown], shown) })
	statements := shownResult.ReplaceAllString(text, "")
	printed, wrote := r.run(t, statements, true)
	if wrote {
		printed, _ = r.run(t, statements, false)
	}
	if strings.Contains(statements, "awa.claim(") {
		for _, shown := range shownReceipt.FindAllStringSubmatch(text, -1) {
			var receipt string
			row := r.pool.QueryRow(t.Context(), "select receipt::text from awa.job($1::bigint)", shown[1])
			require.NoError(t, row.Scan(&receipt))
			r.receipts[shown[2]] = receipt
			text = strings.ReplaceAll(text, fmt.Sprintf("%7s", shown[2]), fmt.Sprintf("%7s", receipt))
		}
	}
	var results []*regexp.Regexp
	for _, result := range shownResult.FindAllString(text, -1) {
		pattern := regexp.QuoteMeta(strings.TrimSpace(strings.ReplaceAll("\n"+result, "\n-- ", "\n")))
		results = append(results, regexp.MustCompile(strings.ReplaceAll(pattern, `\.\.\.`, ".*")))
	}
	asShown := func() bool {
		for _, result := range results {
			if !result.MatchString(printed) {
				return false
			}
		}
		return true
	}
	// A block that only reads is run again until it prints the shown result: a worker may be busy with the jobs.
	for deadline := time.Now().Add(patience); !wrote && !asShown() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
		printed, _ = r.run(t, statements, true)
	}
	require.Truef(t, asShown(), "the page shows\n%s\nand psql prints\n%s", text, printed)
}

// run runs statements, and returns the output. In a read-only session it tells whether they would have written.
func (r *reader) run(t *testing.T, statements string, readOnly bool) (printed string, writes bool) {
	t.Helper()
	env := append([]string{"PGOPTIONS=-c default_transaction_read_only=off"}, r.env...)
	if readOnly {
		env[0] = "PGOPTIONS=-c default_transaction_read_only=on"
	}
	write(t, r.home, "block.sql", statements)
	p := start(t, r.home, env, "psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file", "block.sql", r.url)
	p.waitForItsEnd(t)
	printed = regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(p.output.String(), "")
	writes = readOnly && strings.Contains(printed, "read-only transaction")
	if p.err != nil && !writes {
		t.Logf("psql printed:\n%s", printed)
	}
	return printed, writes
}
