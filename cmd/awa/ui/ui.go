// Package ui is the web page of the queue: an http.Handler that shows what is in a database with Awa.
//
// It opens no port and reads no flags, so that a program can put it beside its own pages:
//
//	pages, err := ui.New(pool, ui.Options{Prefix: "/admin/queue", User: user})
//	mux.Handle("/admin/queue/", pages)
//	mux.Handle("/admin/queue", pages)
//
// The pages need no script for reading, and ask no other host for anything. Each panel of a page is read in a
// transaction of its own that changes nothing and ends in time. What the pages show is read by the functions of the
// schema awa that members of awa_reader may call.
package ui

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
)

// Options say how a handler behaves. The zero value serves at the root of a host, to everyone.
type Options struct {
	// Prefix is the path below which the pages are, as a browser sees it: "/admin/queue". Default: the root. A request's
	// path may begin with it, or come without it, where a proxy or http.StripPrefix has removed it.
	Prefix string

	// PrefixOf returns the prefix of one request, for a proxy that tells it, or "" for Prefix. Default: always Prefix.
	// Call it only for requests of a proxy that you trust: see ValidPrefix.
	PrefixOf func(*http.Request) string

	// User returns who asks, and what they may do; false refuses the request with 403. Default: everyone reads, and
	// changes nothing.
	User func(*http.Request) (User, bool)

	// Name names the database on each page. Default: the name that PostgreSQL knows.
	Name string

	// Home is the path of a page that lists several databases, for a link on each page, without a prefix. Default: none.
	Home func(*http.Request) string

	// Mask are patterns of keys, such as email or *phone*, whose values in arguments, metadata, progress, outputs and
	// errors are not shown, beside those of passwords, tokens and the like.
	Mask []string

	// Timeout is how long a statement of a panel may take. Default: 5 s.
	Timeout time.Duration

	// Log gets the errors of panels. Default: slog.Default().
	Log *slog.Logger
}

// User is somebody who asks for a page.
type User struct {
	// Name is shown, and recorded as awa.actor beside the login. "" for nobody in particular.
	Name string

	// Role is the database role that reads and changes for this user, which the pool's login must be a member of.
	// Default: the login itself.
	Role string

	// MayChange offers the actions for which the database role has the rights. Otherwise the user reads only, whatever
	// rights the role has.
	MayChange bool
}

// Handler serves the pages. See New.
type Handler struct {
	pool    *pgxpool.Pool
	options Options
	masker  *mask.Masker
	routes  map[string]route
	origin  *http.CrossOriginProtection
	hub     hub
	deep    chan struct{} // holds what is read for long
	large   chan struct{} // holds the values that are downloaded

	every, beat time.Duration // of live pages
	patience    time.Duration // for a reader who takes nothing
}

// What few readers can do at a time, so that they leave connections and memory to the others.
const (
	mostDeep  = 2 // that read up to 100,000 entries, or all jobs
	mostLarge = 2 // that download a value, which is in memory until it is sent
)

// view makes what a page shows. It returns the name of the page's template, and its data.
type view func(*page) (template string, data any)

// route is a page, and the parameters of its address: others mean nothing.
type route struct {
	view       view
	parameters []string
}

// New returns a handler of the pages. It refuses a prefix that is no plain path, or that begins with the name of one of
// its pages, since such a path would have two meanings where a proxy removes the prefix.
func New(pool *pgxpool.Pool, options Options) (*Handler, error) {
	if pool == nil {
		return nil, errors.New("ui: no pool")
	}
	options.Prefix = strings.TrimRight(options.Prefix, "/")
	if options.Timeout <= 0 {
		options.Timeout = 5 * time.Second
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.User == nil {
		options.User = func(*http.Request) (User, bool) { return User{}, true }
	}
	if options.Name == "" {
		options.Name = pool.Config().ConnConfig.Database
	}
	masker, err := mask.New(options.Mask...)
	if err != nil {
		return nil, fmt.Errorf("ui: %w", err)
	}
	h := &Handler{
		pool: pool, options: options, masker: masker, origin: http.NewCrossOriginProtection(), every: liveEvery,
		beat: liveBeat, patience: 15 * time.Second, large: make(chan struct{}, mostLarge),
		deep: make(chan struct{}, max(1, min(mostDeep, int(pool.Config().MaxConns)/2))),
	}
	list := []string{"search", "after"}
	h.routes = map[string]route{
		"/": {overviewPage, nil}, "/queues": {queuesPage, list}, "/queue": {queuePage, []string{"name"}},
		"/groups": {groupsPage, []string{"queue", "after"}}, "/new": {newJobPage, []string{"like"}},
		"/jobs": {jobsPage, []string{"state", "queue", "kind", "tag", "group", "cause", "until", "before"}},
		"/job":  {nil, []string{"id"}}, "/dead": {deadPage, []string{"queue", "kind", "before"}},
		"/failures":  {failuresPage, []string{"queue", "kind", "since"}},
		"/schedules": {schedulesPage, list}, "/schedule": {schedulePage, []string{"name"}},
		"/workers": {workersPage, list}, "/worker": {workerPage, []string{"id"}}, "/segments": {segmentsPage, nil},
		"/changes": {changesPage, []string{"before"}}, "/change": {changePage, []string{"id"}}, "/audit": {auditPage, nil},
	}
	if options.Prefix != "" {
		if !ValidPrefix(options.Prefix) {
			return nil, errors.New("ui: the prefix should be a path such as /admin/queue")
		}
		first := "/" + strings.Split(options.Prefix, "/")[1]
		if _, isPage := h.routes[first]; isPage || slices.Contains([]string{"/assets", "/live", "/act", "/preview"}, first) {
			return nil, fmt.Errorf("ui: the prefix can't begin with %s, which is the path of a page", first)
		}
	}
	return h, nil
}

// ValidPrefix says whether a text is a plain path that can stand before the paths of the pages: it begins with a slash,
// ends without one, and holds letters, digits and - . _ ~ between slashes.
func ValidPrefix(prefix string) bool {
	if len(prefix) < 2 || len(prefix) > 200 || prefix[0] != '/' || path.Clean(prefix) != prefix {
		return false
	}
	return strings.IndexFunc(prefix, func(r rune) bool {
		isPlain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !isPlain && !strings.ContainsRune("/-._~", r)
	}) < 0
}

// policy lets a page load its own style and script, and nothing else: none of them stands inside of a page.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP serves a page, whatever kind of answer the request accepts, and with or without a slash at its end.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	user, ok := h.options.User(r)
	if !ok {
		http.Error(w, "You may not see this page.", http.StatusForbidden)
		return
	}
	p := h.newPage(r.Context(), h.base(r), user)
	p.path = h.pathOf(r, p.base)
	if h.options.Home != nil {
		p.Home = h.options.Home(r)
	}
	if strings.HasPrefix(p.path, "/assets/") {
		serveAsset(w, r, p.path)
		return
	}
	isSearch := r.Method == http.MethodPost && p.path == "/jobs" // by arguments, which stay out of the URL
	isAction := r.Method == http.MethodPost && (p.path == "/act" || p.path == "/preview")
	p.isAsked = r.Method == http.MethodPost && p.path == "/audit" // no link and no image of another site's starts it
	if err := h.origin.Check(r); err != nil || isOfAnotherSite(r) {
		p.send(w, http.StatusForbidden, "message", p.message("Another site has sent this: nothing was done."))
		return
	}
	if isAction && p.path == "/preview" {
		p.preview(w, r)
		return
	}
	if isAction {
		p.act(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !isSearch && !p.isAsked {
		header.Set("Allow", "GET, HEAD")
		p.send(w, http.StatusMethodNotAllowed, "message", p.message("There is nothing here that can be changed."))
		return
	}
	if isSearch && !p.readArgs(w, r) {
		return
	}
	// A server's time to read a request would end a long answer, too.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if watched, isStream := strings.CutPrefix(p.path, "/live"); isStream && (watched == "" || watched[0] == '/') {
		p.path = "/" + strings.TrimPrefix(watched, "/")
		p.query = h.known(p.path, r.URL.Query())
		h.serveStream(w, r, p)
		return
	}
	if job, isJob := strings.CutPrefix(p.path, "/job/"); isJob {
		h.serveJob(w, p, job)
		return
	}
	p.query = h.known(p.path, r.URL.Query())
	if id := strings.TrimSpace(p.Get("id")); p.path == "/job" && id != "" { // the form that asks for an id
		http.Redirect(w, r, p.Link("/job/"+url.PathEscape(id)), http.StatusSeeOther)
		return
	}
	show := h.routes[p.path].view
	if show == nil {
		p.send(w, http.StatusNotFound, "message", p.message("There is no such page."))
		return
	}
	name, data := show(p)
	p.send(w, p.status, name, data)
}

// isOfAnotherSite says whether a page of another site's has a browser send a request that shows nothing to the user: an
// image, a script, or a frame, by which any site could have the database read again and again. A link is no such thing.
func isOfAnotherSite(r *http.Request) bool {
	site, to := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Dest")
	isLink := r.Header.Get("Sec-Fetch-Mode") == "navigate" && (to == "" || to == "document")
	return (site == "cross-site" || site == "same-site") && !isLink
}

// known returns the parameters that a page has: the first value of each.
func (h *Handler) known(path string, query url.Values) url.Values {
	values := url.Values{}
	for _, name := range h.routes[path].parameters {
		if value := query.Get(name); value != "" {
			values.Set(name, value)
		}
	}
	return values
}

// base returns the prefix of the links of a request's page.
func (h *Handler) base(r *http.Request) string {
	if h.options.PrefixOf != nil {
		if prefix := h.options.PrefixOf(r); ValidPrefix(prefix) {
			return prefix
		}
	}
	return h.options.Prefix
}

// pathOf returns the path below the prefix, which it has or has not, without a slash at its end.
func (h *Handler) pathOf(r *http.Request, base string) string {
	below := r.URL.Path
	for _, prefix := range []string{base, h.options.Prefix} {
		if rest, has := strings.CutPrefix(below, prefix); has && prefix != "" && (rest == "" || rest[0] == '/') {
			below = rest
			break
		}
	}
	return path.Clean("/" + below)
}

func (h *Handler) newPage(ctx context.Context, base string, user User) *page {
	return &page{h: h, ctx: ctx, base: base, user: user, status: http.StatusOK, Database: h.options.Name}
}
