package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// The pages' program serves metrics to those who may read the pages, and to nobody else; whether it can read the
// databases, to all, and no more than that.
func TestUIMetrics(t *testing.T) {
	urls := []string{testdb.URL(t), testdb.URL(t)}
	execute(t, testdb.Connect(t, urls[1]), `select awa.enqueue('only here', 'k')`)
	one := newTestSite(t, uiFlags{databaseURLs: urls[1:], basePath: "/awa"})
	for _, base := range []string{"", "/awa"} {
		metrics := ask(one, "localhost", "127.0.0.1", base+"/metrics")
		assert.Equal(t, 200, metrics.Code)
		assert.Contains(t, metrics.Body.String(), `awa_jobs{queue="only here",state="available"} 1`)
		ready := ask(one, "any.example.com", "10.0.0.1", base+"/readyz")
		assert.Equal(t, 200, ready.Code)
		assert.Equal(t, "ok\n", ready.Body.String())
	}
	assert.Equal(t, 421, ask(one, "evil.example.com", "127.0.0.1", "/metrics").Code)

	both := newTestSite(t, uiFlags{databaseURLs: urls})
	metrics := ask(both, "localhost", "127.0.0.1", "/metrics").Body.String()
	assert.Contains(t, metrics, `awa_jobs{database="`+both.databases[1].name+`",queue="only here",state="available"} 1`)
	assert.Contains(t, metrics, `awa_info{database="`+both.databases[0].name+`",version=`)
	assert.Equal(t, 404, ask(both, "localhost", "127.0.0.1", "/db/1/metrics").Code)

	team := newTestSite(t, uiFlags{
		databaseURLs: urls[1:], userHeader: "X-Remote-User",
		roles:   map[string]string{"ada": "awa_reader", "*": "awa_producer"},
		proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
	})
	for name, want := range map[string]int{"ada": 200, "eve": 403, "": 403} {
		answer := ask(team, "x", "10.1.0.1", "/metrics", "X-Remote-User", name)
		assert.Equal(t, want, answer.Code, name)
		assert.Equal(t, want == 200, strings.Contains(answer.Body.String(), "only here"))
	}
	assert.Equal(t, 403, ask(team, "x", "10.9.0.1", "/metrics", "X-Remote-User", "ada").Code)
	assert.Equal(t, 200, ask(team, "x", "10.9.0.1", "/readyz").Code)

	gone := newTestSite(t, uiFlags{databaseURLs: []string{urls[0], "postgres://u:hunter2@/db?host=/nowhere"}})
	ready := ask(gone, "x", "10.9.0.1", "/readyz")
	assert.Equal(t, 503, ready.Code)
	assert.Equal(t, "not ready\n", ready.Body.String())
	assert.Equal(t, 200, ask(gone, "x", "10.9.0.1", "/healthz").Code)
	assert.Equal(t, 200, ask(gone, "localhost", "127.0.0.1", "/metrics").Code)
}

// Metrics at an address of their own ask for no login, and the pages are not there.
func TestUIMetricsListen(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.URL(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		args := []string{"ui", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}
		status <- run(ctx, args, in, &stderr)
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	address, found := strings.CutPrefix(strings.TrimSpace(line), "serving metrics at ")
	require.True(t, found, line)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	pages := strings.TrimPrefix(strings.TrimSpace(line), "serving the pages at ")
	base := strings.TrimSuffix(address, "metrics")
	for path, want := range map[string]int{"metrics": 200, "healthz": 200, "readyz": 200, "": 404, "queues": 404} {
		code, _ := fetch(t, "GET", base+path)
		assert.Equal(t, want, code, path)
	}
	code, _ := fetch(t, "POST", address)
	assert.Equal(t, 405, code)
	code, _ = fetch(t, "GET", pages+"metrics")
	assert.Equal(t, 404, code)
	taken, _, message := awa(t.Context(), "ui", "--listen", "127.0.0.1:0", "--metrics-listen", strings.Split(base, "/")[2])
	assert.Equal(t, 1, taken)
	assert.Contains(t, message, "see --metrics-listen")
	cancel()
	assert.Zero(t, <-status)
	assert.Empty(t, stderr.String())
}

// The members of a group have its database role, where the proxy says who they are, and they have none by their names.
func TestUIGroups(t *testing.T) {
	databaseURL := testdb.URL(t)
	site := newTestSite(t, uiFlags{
		databaseURLs: []string{databaseURL}, userHeader: "X-User", groupHeader: "X-Groups", allowChanges: true,
		proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, roles: map[string]string{"eve": "none", "*": "all"},
		groupRoles: []groupRole{{"ops", "operator"}, {"staff", "viewer"}},
	})
	for _, c := range []struct{ name, groups, want string }{
		{"ada", "ops", "operator"}, {"ada", " staff , ops ", "operator"}, {"ada", "staff", "viewer"}, {"ada", "", "all"},
		{"ada", "x,opsx,xops", "all"}, {"eve", "ops", "none"}, {"Eve", "ops", ""}, {"ada", "OPS", ""},
		{"ada", "Staff,ops", "operator"}, {"ada", ",,", "all"},
	} {
		r := newRequestOf(c.groups)
		role, has := site.users.roleOf(c.name, site.users.groupsOf(r))
		assert.Equal(t, c.want, role, c)
		assert.Equal(t, c.want != "", has, c)
	}
	twice := newRequestOf("staff")
	twice.Header.Add("X-Groups", "ops")
	role, _ := site.users.roleOf("ada", site.users.groupsOf(twice))
	assert.Equal(t, "all", role)

	readers := newTestSite(t, uiFlags{
		databaseURLs: []string{databaseURL}, userHeader: "X-User", groupHeader: "X-Groups",
		proxies:    []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		groupRoles: []groupRole{{"staff", "awa_reader"}, {"makers", "awa_producer"}},
	})
	code := func(from, groups string) int {
		return ask(readers, "x", from, "/queues", "X-User", "ada", "X-Groups", groups).Code
	}
	assert.Equal(t, 200, code("10.1.0.1", "staff"))
	assert.Equal(t, 403, code("10.1.0.1", "strangers"))
	assert.Equal(t, 403, code("10.2.0.1", "staff"), "who is no proxy says nothing")
	page := ask(readers, "x", "10.1.0.1", "/queues", "X-User", "ada", "X-Groups", "makers").Body.String()
	assert.Contains(t, page, "may not read this")

	for _, args := range [][]string{
		{"--group-header", "X-Groups", "--group-role", "ops=x"},
		{"--user-header", "X-User", "--trusted-proxy", "10.0.0.1", "--group-header", "X-Groups"},
		{"--user-header", "X-User", "--trusted-proxy", "10.0.0.1", "--group-role", "ops=x"},
	} {
		status, _, stderr := awa(t.Context(), append([]string{"ui", "--database-url", databaseURL}, args...)...)
		assert.Equal(t, 1, status, args)
		assert.NotContains(t, stderr, "can't listen")
	}
	for _, role := range []string{"ops", "=x", "ops=", "ops=none", "a,b=x"} {
		status, _, _ := awa(t.Context(), "ui", "--group-role", role)
		assert.Equal(t, 2, status, role)
	}
}

// newRequestOf returns a request in which a proxy says groups.
func newRequestOf(groups string) *http.Request {
	r := &http.Request{Header: http.Header{}}
	r.Header.Set("X-Groups", groups)
	return r
}
