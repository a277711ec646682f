package browsertest

import (
	"fmt"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// page is a page of the site, and texts that it shows.
type page struct {
	name, path string
	shows      []string
	isLive     bool
	status     int // 0 for 200
}

// pages are all of them.
func (s *site) pages() []page {
	s.t.Helper()
	worker := s.value(`select worker_id::text from awa.list_workers() where name = 'studio-1'`)
	return []page{
		{"overview", "/", []string{"Health", "emails", "The last hour", "oldest ready"}, true, 0},
		{"queues", "/queues", []string{"emails", "webhooks", "paused"}, true, 0},
		{"queues-found", "/queues?search=mail", []string{"emails"}, true, 0},
		{"queue", "/queue?name=webhooks", []string{"Paused since", "dead_letter", "The last hour"}, true, 0},
		{"groups", "/groups?queue=images", []string{"product/1", "running"}, true, 0},
		{"jobs", "/jobs", []string{"order_confirmation", "running", "available"}, true, 0},
		{"jobs-filtered", "/jobs?queue=images&state=available&tag=photo", []string{"make_thumbnails", "product/"}, true, 0},
		{"jobs-none", "/jobs?kind=nothing", []string{"No job matches"}, true, 0},
		{"jobs-refused", "/jobs?before=x", []string{"whole number"}, false, 400},
		{"job-running", "/job/" + s.one("running"), []string{"attempt", "running"}, false, 0},
		{"job-dead", "/job/" + s.one("dead"), []string{"has no address", "422", "Errors"}, false, 0},
		{"job-retryable", "/job/" + s.one("retryable"), []string{"503"}, false, 0},
		{"job-completed", "/job/" + s.one("completed"), []string{"message_id", `"***"`, "customer"}, false, 0},
		{"dead", "/dead", []string{"print_invoice", "has no address"}, true, 0},
		{"failures", "/failures", []string{"has no address", "print_invoice", "connection refused"}, true, 0},
		{"schedules", "/schedules", []string{"sales of the day", "paused"}, true, 0},
		{"schedule", "/schedule?name=sales+of+the+day", []string{"Next times", "Europe/Paris", "Last times"}, true, 0},
		{"workers", "/workers", []string{"mailer-1", "studio-1"}, true, 0},
		{"worker", "/worker?id=" + worker, []string{"Running now", "make_thumbnails"}, true, 0},
		{"segments", "/segments", []string{"current", "What holds it up"}, true, 0},
		{"changes", "/changes", []string{"ada", "cancel"}, true, 0},
		{"change", "/change?id=" + s.value(`select max(change_id)::text from awa.list_changes()`),
			[]string{"probe", "changed"}, true, 0},
		{"audit", "/audit", []string{"Count now"}, false, 0},
		{"missing", "/nonsense", []string{"There is no such page"}, false, 404},
		{"missing-job", "/job/999999", []string{"no such job"}, false, 404},
	}
}

// shown fails unless a page shows what it should, whole.
func (x *tab) shown(p page) {
	x.t.Helper()
	text := x.text()
	for _, want := range p.shows {
		assert.Contains(x.t, text, want, p.path)
	}
	const failed = `document.querySelectorAll("[data-panel] > .failed").length`
	assert.Zero(x.t, eval[int](x, failed), "%s: a panel failed", p.path)
}

// visit opens a page, and fails unless it shows what it should.
func (x *tab) visit(p page) {
	x.t.Helper()
	if p.status != 0 {
		x.expect(fmt.Sprintf("status of %d", p.status))
	}
	x.open(p.path)
	x.shown(p)
}

// Each page shows what it should, in light and dark, in a wide window and a narrow one, with nothing wrong in the
// console; axe finds nothing; and the keyboard reaches all that can be pressed.
func TestPages(t *testing.T) {
	s := newSite(t, "awa_reader")
	x := newBrowser(t).newTab(t, s.address)
	for _, p := range s.pages() {
		t.Run(p.name, func(t *testing.T) {
			defer x.during(t)()
			x.size(1280, 900)
			x.scheme("light")
			x.visit(p)
			x.screenshot(p.name + "-light")
			assert.Equal(t, p.isLive, eval[bool](x, `document.querySelector("main[data-stream]") !== null`))
			if p.isLive { // what is new would take the place of what is looked at
				eval[bool](x, `document.querySelector("button.pause").click(), true`)
			}
			const background = `getComputedStyle(document.body).backgroundColor`
			light := eval[string](x, background)
			assert.Empty(t, x.axe(wcag), "light")
			x.scheme("dark")
			assert.NotEqual(t, light, eval[string](x, background))
			assert.Empty(t, x.axe(colours), "dark")
			x.screenshot(p.name + "-dark")
			assert.Empty(t, x.unreachable())
			x.size(360, 700)
			assert.Empty(t, x.wide())
			x.screenshot(p.name + "-narrow")
			x.size(320, 500) // WCAG 1.4.10
			assert.Empty(t, x.wide())
		})
	}
	assert.Empty(t, s.log.String())
}

// wide returns what is wider than the window, though it is in nothing that scrolls by itself.
func (x *tab) wide() []string {
	x.t.Helper()
	return eval[[]string](x, `(() => {
		const width = document.documentElement.clientWidth;
		if (document.documentElement.scrollWidth <= width) return [];
		const all = [...document.querySelectorAll("body *")].filter((e) =>
			e.getBoundingClientRect().right > width + 1 && !e.parentElement.closest(".scroll"));
		return ["the page", ...all.map((e) => e.outerHTML.slice(0, 120))];
	})()`)
}

// unreachable presses Tab until the focus has been everywhere, and returns what is wrong with that: what can be pressed
// and did not have it, where it could not be seen, where it went back, and a first one that is not the way to the
// content.
func (x *tab) unreachable() []string {
	x.t.Helper()
	count := eval[int](x, `(() => {
		const pressed = "a[href], button, input:not([type=hidden]), select, textarea, summary";
		window.all = [...document.querySelectorAll(pressed)].filter((e) =>
			e.checkVisibility({visibilityProperty: true}));
		window.reached = [];
		window.wrong = new Set();
		document.addEventListener("focusin", () => {
			const e = document.activeElement, style = getComputedStyle(e), text = e.outerHTML.slice(0, 120);
			const last = reached.at(-1);
			if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 1) wrong.add("can't be seen: " + text);
			if (!last && !e.matches(".skip")) wrong.add("is the first: " + text);
			if (last && !reached.includes(e) && last.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_PRECEDING)
				wrong.add("is behind what follows: " + text);
			reached.push(e);
		});
		document.activeElement.blur();
		return all.length;
	})()`)
	for done := 0; done < 2*count+20; done += 20 { // regions that scroll have the focus, too
		x.do(chromedp.KeyEvent(strings.Repeat(kb.Tab, 20)))
		if eval[bool](x, `all.every((e) => reached.includes(e))`) {
			break
		}
	}
	return eval[[]string](x, `[...wrong,
		...all.filter((e) => !reached.includes(e)).map((e) => "is not reached: " + e.outerHTML.slice(0, 120))]`)
}

// front is a proxy that shows the pages below /awa.
type front struct {
	address string
	streams atomic.Int64 // that are open
}

// proxy starts a proxy that removes the path from what it asks the command for, or not. It has no answer for some
// paths.
func proxy(t *testing.T, to string, strips bool, refused ...string) *front {
	t.Helper()
	target, err := url.Parse(to)
	require.NoError(t, err)
	reverse := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
		r.Out.Host = r.In.Host
	}}
	var handler http.Handler = reverse
	if strips {
		handler = http.StripPrefix("/awa", reverse)
	}
	f := &front{}
	mux := http.NewServeMux()
	mux.Handle("/awa/", handler) // and nothing else
	mux.HandleFunc("/awa/live/", func(w http.ResponseWriter, r *http.Request) {
		f.streams.Add(1)
		defer f.streams.Add(-1)
		handler.ServeHTTP(w, r)
	})
	for _, path := range refused {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // first
	f.address = server.URL + "/awa"
	return f
}

// Below a path, behind a proxy that removes it or not, each page is as it is without, with script and without, and asks
// for nothing that is not below the path.
func TestBehindProxies(t *testing.T) {
	s := newSite(t, "awa_reader", "--base-path", "/awa")
	b, pages := newBrowser(t), s.pages()
	for name, strips := range map[string]bool{"strips": true, "passes": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := b.newTab(t, proxy(t, s.address, strips).address)
			x.script(strips) // one with, the other without
			for _, p := range pages {
				x.visit(p)
			}
		})
	}
}

// The tests see what is wrong with a page.
func TestWhatIsWrongIsSeen(t *testing.T) {
	bodies := map[string]string{
		"/issue":     `<main><p style="color: red">a style of its own</p></main>`,
		"/console":   `<main></main><script src="console.js"></script>`,
		"/thrown":    `<main></main><script src="thrown.js"></script>`,
		"/elsewhere": `<main><img src="http://192.0.2.1/x.png" alt=""></main>`,
		"/missing":   `<main><img src="missing.png" alt=""></main>`,
		"/wide":      `<main><svg width="2000" height="10"></svg></main>`,
		"/keys":      `<link rel=stylesheet href=keys.css><main><a href="#a">a</a><button tabindex="-1">b</button></main>`,
		"/axe":       `<link rel="stylesheet" href="keys.css"><main><p>pale</p><input></main>`,
	}
	files := map[string]string{
		"/console.js": `console.error("no")`, "/thrown.js": `throw new Error("no")`,
		"/keys.css": `a:focus { outline: none } p { color: #ccc; background: #fff }`, "/favicon.ico": "",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		if body, isPage := bodies[r.URL.Path]; isPage {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<!doctype html><html lang="en"><title>x</title><body>%s</body></html>`, body)
			return
		}
		file, isFile := files[r.URL.Path]
		if !isFile {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(r.URL.Path)))
		fmt.Fprint(w, file)
	}))
	defer server.Close()
	x := newBrowser(t).newTab(t, server.URL)
	for at, want := range map[string]string{
		"/issue": "issue: ", "/console": "console: ", "/thrown": "exception: ", "/elsewhere": "request: http://192.0.2.1",
		"/missing": "status of 404",
	} {
		x.open(at)
		for end := time.Now().Add(patience); !strings.Contains(strings.Join(x.found(), "\n"), want); {
			require.True(t, time.Now().Before(end), "%s is not seen", at)
		}
	}
	x.open("/wide")
	assert.Len(t, x.wide(), 2)
	x.open("/keys")
	wrong := strings.Join(x.unreachable(), "\n")
	for _, want := range []string{"can't be seen: <a", "is the first: <a", "is not reached: <button"} {
		assert.Contains(t, wrong, want)
	}
	x.open("/axe")
	found := strings.Join(append(x.axe(colours), x.axe(wcag)...), "\n")
	assert.Contains(t, found, "color-contrast")
	assert.Contains(t, found, "label")
	x.found() // what was wrong is no failure
}
