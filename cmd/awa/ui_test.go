package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// newTestSite returns the pages as the command serves them.
func newTestSite(t *testing.T, flags uiFlags) *uiSite {
	t.Helper()
	site, err := newUISite(t.Context(), flags, slog.New(slog.NewTextHandler(io.Discard, nil)))
	require.NoError(t, err)
	t.Cleanup(site.close)
	return site
}

// ask returns an answer to a request that names a host and comes from an address.
func ask(site http.Handler, host, from, address string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", address, nil)
	r.Host, r.RemoteAddr = host, from+":1"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	site.ServeHTTP(w, r)
	return w
}

// The command serves pages until it is stopped, and its log and output show no password.
func TestUICommand(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.URL(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, []string{"ui", "--listen", "127.0.0.1:0", "--base-path", "/awa/"}, in, &stderr)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	address, found := strings.CutPrefix(strings.TrimSpace(line), "serving the pages at ")
	require.True(t, found, line)
	require.True(t, strings.HasSuffix(address, "/awa/"), address)
	for path, want := range map[string]int{"": 200, "jobs": 200, "queues/": 200, "healthz": 200, "nonsense": 404} {
		code, _ := fetch(t, "GET", address+path)
		assert.Equal(t, want, code, path)
	}
	refused, _, message := awa(t.Context(), "ui", "--listen", strings.Split(address, "/")[2])
	assert.Equal(t, 1, refused)
	assert.Contains(t, message, "can't listen there")
	cancel()
	assert.Zero(t, <-status)
	assert.Empty(t, stderr.String())
}

// Without a login the pages are for this machine alone.
func TestUIListensAtLoopback(t *testing.T) {
	for _, listen := range []string{":8080", "0.0.0.0:8080", "[::]:8080",
		"10.0.0.1:8080", "example.com:8080", "127.1:8080"} {
		status, _, stderr := awa(t.Context(), "ui", "--database-url", "postgres:///x", "--listen", listen)
		assert.Equal(t, 1, status, listen)
		assert.Contains(t, stderr, "the pages ask for no login", listen)
	}
	for _, listen := range []string{"127.0.0.1:0", "127.9.9.9:0", "localhost:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		assert.True(t, isLoopback(listen), listen)
	}
	for _, args := range [][]string{
		{"--listen", "8080"}, {"--base-path", "awa"}, {"--base-path", "/a b"}, {"--trusted-proxy", "x"}, {"--host", "a/b"},
	} {
		status, _, _ := awa(t.Context(), append([]string{"ui"}, args...)...)
		assert.Equal(t, 2, status, args)
	}
	t.Setenv("DATABASE_URL", "")
	status, _, stderr := awa(t.Context(), "ui")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "which database?")
	status, stdout, stderr := awa(t.Context(), "ui", "--database-url", "postgres://u:hunter@2@/db",
		"--database-url", "postgres:///a")
	assert.Equal(t, 1, status)
	assert.NotContains(t, stdout+stderr, "hunter")
}

// A page of an attacker's, whose server's name leads to this machine, reads nothing; and a prefix is believed when a
// proxy says it that is named.
func TestUIBelievesNobody(t *testing.T) {
	site := newTestSite(t, uiFlags{
		databaseURLs: []string{testdb.URL(t)}, basePath: "/awa", hosts: []string{"queue.example.com"},
		proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
	})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "127.0.0.1:8080": 200, "[::1]:8080": 200, "queue.example.com": 200,
		"Queue.Example.com:443": 200, "evil.example.com": 421, "": 421, "127.0.0.1.evil.example.com": 421,
	} {
		assert.Equal(t, want, ask(site, host, "127.0.0.1", "/awa/queues").Code, host)
	}
	for from, want := range map[string]string{
		"10.1.2.3": "/public/jobs", "10.2.0.1": "/awa/jobs", "127.0.0.1": "/awa/jobs",
	} {
		page := ask(site, "localhost", from, "/", "X-Forwarded-Prefix", "/public/").Body.String()
		assert.Contains(t, page, `href="`+want+`"`, from)
	}
	for _, prefix := range []string{"//evil.example.com", "/a\"><script>", "/../x", "x"} {
		page := ask(site, "localhost", "10.1.2.3", "/", "X-Forwarded-Prefix", prefix).Body.String()
		assert.Contains(t, page, `href="/awa/jobs"`, prefix)
	}
}

// Several databases are listed, and the pages of each have their own addresses.
func TestUIOfSeveralDatabases(t *testing.T) {
	urls := []string{testdb.URL(t), testdb.URL(t)}
	execute(t, testdb.Connect(t, urls[1]), `select awa.enqueue('only here', 'k')`)
	site := newTestSite(t, uiFlags{databaseURLs: urls, basePath: "/awa"})
	for _, base := range []string{"", "/awa"} {
		list := ask(site, "localhost", "127.0.0.1", base+"/").Body.String()
		assert.Contains(t, list, `href="/awa/db/1/"`)
		assert.Contains(t, list, `href="/awa/db/2/"`)
		assert.NotContains(t, ask(site, "localhost", "127.0.0.1", base+"/db/1/queues").Body.String(), "only here")
		page := ask(site, "localhost", "127.0.0.1", base+"/db/2/queues").Body.String()
		assert.Contains(t, page, "only here")
		assert.Contains(t, page, `href="/awa/db/2/jobs"`)
		assert.Contains(t, page, `href="/awa/"`)
		assert.Equal(t, 404, ask(site, "localhost", "127.0.0.1", base+"/db/3/").Code)
		assert.Equal(t, 404, ask(site, "localhost", "127.0.0.1", base+"/jobs").Code)
	}
}
