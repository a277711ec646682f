package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/awa-pg/awa/internal/testdb"
)

var metricName = regexp.MustCompile(`\bawa_[a-z_]+[a-z]\b`)

// board is what is looked at of a board of Grafana's.
type board struct {
	Title      string
	Templating struct{ List []struct{ Query string } }
	Panels     []struct {
		Title   string
		Targets []struct{ Expr, RawSQL string }
	}
}

func docFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	require.NoError(t, err)
	return text
}

func readBoard(t *testing.T, name string) (b board) {
	t.Helper()
	require.NoError(t, json.Unmarshal(docFile(t, filepath.Join("grafana", name)), &b))
	require.NotEmpty(t, b.Title)
	require.NotEmpty(t, b.Panels)
	return b
}

// existing returns the names and the labels of all metrics.
func existing(t *testing.T) (metrics map[string]bool) {
	t.Helper()
	databaseURL := testdb.URL(t)
	execute(t, testdb.Connect(t, databaseURL), `select awa.enqueue('q', 'k')`)
	metrics = map[string]bool{}
	for series := range newScraper(t, databaseURL).scrape() {
		name, _, _ := strings.Cut(series, " ")
		metrics[name] = true
	}
	require.Len(t, metrics, len(descriptions), "each metric has a series where there is a queue")
	return metrics
}

// The boards, the alert rules and the page name the metrics that there are, and each metric is on the page.
func TestMetricsThatAreNamed(t *testing.T) {
	metrics := existing(t)
	named := func(where, text string) {
		found := metricName.FindAllString(text, -1)
		assert.NotEmpty(t, found, where)
		for _, name := range found {
			assert.True(t, metrics[name], "%s: there is no metric %s", where, name)
		}
	}
	b := readBoard(t, "awa.json")
	for _, panel := range b.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			named(panel.Title, target.Expr)
		}
	}
	for _, variable := range b.Templating.List[1:] {
		named("variable", variable.Query)
	}

	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(docFile(t, "grafana/alerts.yaml"))))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&rules))
	require.NotEmpty(t, rules.Groups)
	for _, rule := range rules.Groups[0].Rules {
		require.NotEmpty(t, rule.Alert)
		named(rule.Alert, rule.Expr)
		assert.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"], rule.Alert)
		assert.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		assert.Equal(t, strings.Count(rule.Expr, "("), strings.Count(rule.Expr, ")"), rule.Alert)
	}

	page := string(docFile(t, "metrics.md"))
	rows := regexp.MustCompile("(?m)^\\| `(awa_[a-z_]+)[`{]").FindAllStringSubmatch(page, -1)
	documented := map[string]bool{}
	for _, row := range rows {
		documented[row[1]] = true
	}
	assert.Equal(t, metrics, documented, "the tables of docs/metrics.md")
}

// The queries of the board for those without Prometheus run, with the rights of awa_reader.
func TestBoardOnSQLAlone(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	execute(t, conn, `select awa.enqueue('q', 'k') from generate_series(1, 2)`,
		`select awa.configure_queue('q', '{"dead_letter": true}')`,
		`select awa.discard(job_id, receipt, 'broken') from awa.claim('q', 1)`,
		`select awa.register_worker('w')`, `select awa.schedule('s', 'q', 'k', every => '1 hour')`,
		`set role awa_reader`)
	for _, panel := range readBoard(t, "awa-sql.json").Panels {
		require.Len(t, panel.Targets, 1, panel.Title)
		rows, err := conn.Query(t.Context(), panel.Targets[0].RawSQL)
		require.NoError(t, err, panel.Title)
		found, err := pgx.CollectRows(rows, pgx.RowToMap)
		require.NoError(t, err, panel.Title)
		if panel.Title != "What health() says" {
			assert.NotEmpty(t, found, panel.Title)
		}
		if panel.Title == "Dead letters" {
			assert.Contains(t, found[0]["error"], "broken")
		}
	}
}
