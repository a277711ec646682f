package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

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

// Only who says a right password enters, and reads with the role that is theirs.
func TestUIPasswords(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "passwords")
	text := fmt.Sprintf("# team\nada:%[1]s\nbob:%[1]s\n*:%[1]s\n", hash)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	site := newTestSite(t, uiFlags{
		databaseURLs: []string{testdb.URL(t)}, passwordFile: file, roles: map[string]string{"ada": "awa_reader"},
	})
	site.users.failing = 0
	for credentials, want := range map[string]int{
		"": 401, "ada:right": 200, "ada:wrong": 401, "ada:": 401, ":right": 401, "eve:right": 401, "ADA:right": 401,
		"bob:right": 403, "*:right": 403, "eve:nobody's": 401,
	} {
		for range 2 {
			r := httptest.NewRequest("GET", "/queues", nil)
			r.Host = "queue.example.com"
			if name, password, ok := strings.Cut(credentials, ":"); ok {
				r.SetBasicAuth(name, password)
			}
			w := httptest.NewRecorder()
			site.ServeHTTP(w, r)
			assert.Equal(t, want, w.Code, credentials)
			assert.Equal(t, want == 401, w.Header().Get("WWW-Authenticate") != "")
			assert.Equal(t, want == 200, strings.Contains(w.Body.String(), "There is no such queue."), credentials)
		}
	}
	assert.Equal(t, 401, ask(site, "localhost", "127.0.0.1", "/live/queues").Code)
	assert.Equal(t, 401, ask(site, "localhost", "127.0.0.1", "/assets/awa.js").Code)
	assert.Equal(t, 200, ask(site, "localhost", "127.0.0.1", "/healthz").Code)
	for _, text := range []string{"", "ada", "ada:right", ":" + string(hash), "ada:$2y$31$" + string(hash)[7:]} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := newUIUsers(uiFlags{passwordFile: file}, slog.Default())
		assert.Error(t, err, text)
	}
}

// The name of a user is believed from named proxies alone, and becomes the role that is mapped to it.
func TestUIBehindAProxy(t *testing.T) {
	databaseURL := testdb.URL(t)
	site := newTestSite(t, uiFlags{
		databaseURLs: []string{databaseURL}, userHeader: "X-Remote-User", allowChanges: true,
		proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		roles:   map[string]string{"*": "awa_reader", "nobody": "awa_producer"},
	})
	for _, from := range []string{"127.0.0.1", "10.2.0.1"} {
		assert.Equal(t, 403, ask(site, "localhost", from, "/", "X-Remote-User", "ada").Code, from)
	}
	assert.Equal(t, 403, ask(site, "localhost", "10.1.0.1", "/").Code)
	page := ask(site, "queue.example.com", "10.1.0.1", "/", "X-Remote-User", "<ada>").Body.String()
	assert.Contains(t, page, "&lt;ada&gt;")
	assert.NotContains(t, page, `class="failed"`)
	assert.Contains(t, ask(site, "x", "10.1.0.1", "/queues", "X-Remote-User", "nobody").Body.String(), "may not read this")

	for _, args := range [][]string{
		{"--user-header", "X-User"}, {"--listen", ":0", "--trusted-proxy", "10.0.0.1"},
		{"--user-header", "X-User", "--trusted-proxy", "10.0.0.1", "--password-file", "x"}, {"--password-file", "/nowhere"},
	} {
		status, _, _ := awa(t.Context(), append([]string{"ui", "--database-url", databaseURL}, args...)...)
		assert.Equal(t, 1, status, args)
	}
	for _, role := range []string{"ada", "=x", "ada=", "ada=none"} {
		status, _, _ := awa(t.Context(), "ui", "--role", role)
		assert.Equal(t, 2, status, role)
	}
}

// Databases of one name can be told apart, on the list and on their pages.
func TestUIOfDatabasesOfOneName(t *testing.T) {
	site := newTestSite(t, uiFlags{databaseURLs: []string{
		"postgres://u:hunter2@prod.invalid/app", "postgres://u@staging.invalid:6432/app", "postgres://u@prod.invalid/other",
		"postgres://u@[::1]/twice", "postgres://v@[::1]/twice",
	}})
	list := ask(site, "localhost", "127.0.0.1", "/").Body.String()
	for n, name := range []string{
		"app at prod.invalid:5432", "app at staging.invalid:6432", "other", "twice at [::1]:5432 (4)",
		"twice at [::1]:5432 (5)",
	} {
		assert.Contains(t, list, fmt.Sprintf(`<a href="/db/%d/">%s</a>`, n+1, name))
		page := ask(site, "localhost", "127.0.0.1", fmt.Sprintf("/db/%d/nonsense", n+1)).Body.String()
		assert.Contains(t, page, "· "+name+" ·")
	}
	assert.NotContains(t, list, "hunter2")
}

// Where a proxy at this machine names the user, no page of an attacker's does, by a name that leads here.
func TestUIBehindAProxyHere(t *testing.T) {
	flags := uiFlags{
		databaseURLs: []string{testdb.URL(t)}, listen: "127.0.0.1:0", userHeader: "X-Remote-User",
	}
	for _, network := range []string{"0.0.0.0/0", "::/0", "127.1.0.0/16", "::1/128", "127.0.0.1/32"} {
		flags.proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix(network)}
		assert.ErrorContains(t, flags.check(), "--host", network)
	}
	flags.hosts = []string{"queue.example.com"}
	require.NoError(t, flags.check())
	site := newTestSite(t, flags)
	assert.Equal(t, 421, ask(site, "evil.example", "127.0.0.1", "/", "X-Remote-User", "ada").Code)
	assert.Equal(t, 200, ask(site, "queue.example.com", "127.0.0.1", "/", "X-Remote-User", "ada").Code)
}

// A wrong password takes as long for a name that there is not as for one that there is, and is logged without what may
// be a secret; who guesses much is told to come again, and who has entered stays.
func TestUIGuessing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwords")
	cheap, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	require.NoError(t, err)
	dear, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost+2)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "ada:%s\nbob:%s\n", cheap, dear), 0o600))
	synctest.Test(t, func(t *testing.T) { // where the clock stands still while something is computed
		var log bytes.Buffer
		u, err := newUIUsers(uiFlags{passwordFile: file}, slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		cost, err := bcrypt.Cost(u.comparable)
		require.NoError(t, err)
		assert.Equal(t, bcrypt.MinCost+2, cost)
		enter := func(name, password string) int {
			r := httptest.NewRequest("GET", "/", nil)
			r.SetBasicAuth(name, password)
			w := httptest.NewRecorder()
			if _, ok := u.enter(w, r, false); ok {
				return 200
			}
			return w.Code
		}
		for name, password := range map[string]string{"ada": "wrong", "bob": "wrong", "hunter2": "right"} {
			began := time.Now()
			assert.Equal(t, 401, enter(name, password), name)
			assert.Equal(t, u.failing, time.Since(began), name)
		}
		assert.GreaterOrEqual(t, u.failing, time.Second)
		began := time.Now()
		assert.Equal(t, 200, enter("ada", "right"))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, 2, strings.Count(log.String(), "user=ada")+strings.Count(log.String(), "user=bob"))
		assert.Equal(t, 1, strings.Count(log.String(), "user=unknown"))
		assert.NotContains(t, log.String(), "hunter2")

		var guesses sync.WaitGroup
		for range mostWaiting {
			guesses.Go(func() { assert.Equal(t, 401, enter("ada", "guess")) })
		}
		synctest.Wait()
		assert.Equal(t, 503, enter("bob", "guess"))
		assert.Equal(t, 200, enter("ada", "right"))
		guesses.Wait()
		assert.Equal(t, 200, enter("bob", "right"))
	})
}

// A user whose name differs in upper and lower case alone is not one of all others; names of LDAP have roles.
func TestUIRoles(t *testing.T) {
	flags := uiFlags{}
	set := flag.NewFlagSet("ui", flag.ContinueOnError)
	set.String("database-url", "", "")
	flags.define(set)
	require.NoError(t, set.Parse([]string{"--role=ada=viewer", "--role=cn=bob,dc=example=editor", "--role=*=all"}))
	u, err := newUIUsers(flags, slog.Default())
	require.NoError(t, err)
	for name, want := range map[string]string{
		"ada": "viewer", "Ada": "", "ADA": "", "adam": "all", "cn=bob,dc=example": "editor", "CN=bob,dc=example": "",
		"*": "all",
	} {
		role, has := u.roleOf(name, nil)
		assert.Equal(t, want, role, name)
		assert.Equal(t, want != "", has, name)
	}
}
