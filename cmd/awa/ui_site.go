package main

import (
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/cmd/awa/ui"
)

// uiSite serves the pages of one database, or of several, each below a path of its own, with a list of them.
type uiSite struct {
	flags     uiFlags
	users     *uiUsers
	databases []uiDatabase
	metrics   *uiMetrics
}

// uiDatabase is a database that is shown.
type uiDatabase struct {
	name  string // shown: each has its own
	path  string // below the base path; "" for the only one
	pool  *pgxpool.Pool
	pages http.Handler
}

func newUISite(ctx context.Context, flags uiFlags, log *slog.Logger) (*uiSite, error) {
	users, err := newUIUsers(flags, log)
	if err != nil {
		return nil, err
	}
	site := &uiSite{flags: flags, users: users}
	for _, databaseURL := range flags.databaseURLs {
		pool, err := uiPool(ctx, databaseURL)
		if err != nil {
			site.close()
			return nil, err
		}
		site.databases = append(site.databases, uiDatabase{pool: pool})
	}
	nameDatabases(site.databases)
	for n := range site.databases {
		database := &site.databases[n]
		options := ui.Options{
			Prefix: flags.basePath, PrefixOf: site.forwarded, Log: log, Name: database.name, Mask: flags.masks,
			User: userOf,
		}
		if len(flags.databaseURLs) > 1 {
			database.path = "/db/" + strconv.Itoa(n+1)
			options.Prefix += database.path
			options.PrefixOf = func(r *http.Request) string {
				if prefix := site.forwarded(r); prefix != "" {
					return prefix + database.path
				}
				return ""
			}
			options.Home = func(r *http.Request) string { return site.base(r) + "/" }
		}
		database.pages, err = ui.New(database.pool, options)
		if err != nil {
			site.close()
			return nil, err
		}
	}
	site.metrics = newUIMetrics(ctx, site.databases, log)
	return site, nil
}

// nameDatabases gives databases names that differ: of those of one name, each has its server's, too, and a number where
// that is the same.
func nameDatabases(databases []uiDatabase) {
	names, servers := map[string]int{}, map[string]int{}
	server := func(config *pgx.ConnConfig) string {
		return config.Database + " at " + net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	}
	for _, database := range databases {
		config := database.pool.Config().ConnConfig
		names[config.Database]++
		servers[server(config)]++
	}
	for n := range databases {
		config := databases[n].pool.Config().ConnConfig
		databases[n].name = config.Database
		if names[config.Database] > 1 {
			databases[n].name = server(config)
		}
		if servers[server(config)] > 1 {
			databases[n].name += " (" + strconv.Itoa(n+1) + ")"
		}
	}
}

func (s *uiSite) close() {
	for _, database := range s.databases {
		database.pool.Close()
	}
}

// isProxy says whether a request comes from a proxy whose headers are believed.
func (s *uiSite) isProxy(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && slices.ContainsFunc(s.flags.proxies, func(network netip.Prefix) bool {
		return network.Contains(from.Addr().Unmap())
	})
}

// forwarded returns the prefix that a proxy says it has removed, or "".
func (s *uiSite) forwarded(r *http.Request) string {
	prefix := strings.TrimRight(r.Header.Get("X-Forwarded-Prefix"), "/")
	if !s.isProxy(r) || !ui.ValidPrefix(prefix) {
		return ""
	}
	return prefix
}

// base returns what all addresses on the pages of a request begin with.
func (s *uiSite) base(r *http.Request) string {
	if prefix := s.forwarded(r); prefix != "" {
		return prefix
	}
	return s.flags.basePath
}

// isKnownHost says whether a browser asked for a name of this site: another one would be that of an attacker's, whose
// server's name leads to this machine for the second time that it is looked up.
func (s *uiSite) isKnownHost(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.Unmap().IsLoopback() || slices.Contains(s.flags.hosts, host)
}

// below returns the path of a request below a prefix, if it has the prefix, and otherwise as it is.
func below(r *http.Request, prefixes ...string) string {
	for _, prefix := range prefixes {
		rest, has := strings.CutPrefix(r.URL.Path, prefix)
		if has && prefix != "" && (rest == "" || rest[0] == '/') {
			return path.Clean("/" + rest)
		}
	}
	return path.Clean("/" + r.URL.Path)
}

func (s *uiSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := below(r, s.forwarded(r), s.flags.basePath)
	if at == "/healthz" || at == "/readyz" { // of which nothing can be learned
		s.metrics.serve(w, r, at)
		return
	}
	if (!s.users.areAsked() || len(s.flags.hosts) > 0) && !s.isKnownHost(r) {
		http.Error(w, "The pages are not known under this name: see --host.", http.StatusMisdirectedRequest)
		return
	}
	r, ok := s.users.enter(w, r, s.isProxy(r))
	if !ok {
		return
	}
	if at == "/metrics" && s.flags.metricsListen == "" {
		if user, _ := userOf(r); !s.metrics.mayRead(r.Context(), user.Role) {
			http.Error(w, "Your database role may not read this.", http.StatusForbidden)
			return
		}
		s.metrics.serve(w, r, at)
		return
	}
	if len(s.databases) == 1 {
		s.databases[0].pages.ServeHTTP(w, r)
		return
	}
	for _, database := range s.databases {
		if rest, has := strings.CutPrefix(at, database.path); has && (rest == "" || rest[0] == '/') {
			inside := r.Clone(r.Context())
			inside.URL.Path, inside.URL.RawPath = "/"+strings.TrimPrefix(rest, "/"), ""
			database.pages.ServeHTTP(w, inside)
			return
		}
	}
	s.list(w, r, at)
}

// list serves the list of databases.
func (s *uiSite) list(w http.ResponseWriter, r *http.Request, at string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if at != "/" {
		w.WriteHeader(http.StatusNotFound)
	}
	io.WriteString(w, `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Databases · Awa</title>`+
		`<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">`+
		`</head><body><main><h1>Databases</h1><ul>`)
	for _, database := range s.databases {
		link := html.EscapeString(s.base(r) + database.path + "/")
		fmt.Fprintf(w, `<li><a href="%s">%s</a></li>`, link, html.EscapeString(database.name))
	}
	io.WriteString(w, "</ul></main></body></html>\n")
}
