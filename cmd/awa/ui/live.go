package ui

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// What live pages cost at most, however many watch them.
const (
	liveEvery    = 10 * time.Second // between two readings of a page
	liveBeat     = 15 * time.Second // between two signs that the stream passes
	mostFeeds    = 32               // different pages that are read for watchers
	mostWatchers = 500

	mostFeedsOfUser    = 8 // of somebody who has said a name
	mostWatchersOfUser = 50
)

// feedKey is what makes two live pages the same: one reading serves all who watch it.
type feedKey struct {
	base, path, query, role string
	mayChange               bool
}

// feed reads a page again and again while somebody watches it.
type feed struct {
	user     string // whose page it was first
	watchers map[chan []byte]bool
	stop     context.CancelFunc
	done     chan struct{}
}

// hub has the feeds that are watched.
type hub struct {
	mutex    sync.Mutex
	feeds    map[feedKey]*feed
	watchers int
	users    map[string]int // watchers by their names
}

// isFull says whether a user can't watch any more, or no page that nobody watches.
func (b *hub) isFull(user string, isNew bool) bool {
	feeds := 0
	for _, f := range b.feeds {
		if f.user == user {
			feeds++
		}
	}
	return b.watchers >= mostWatchers || isNew && len(b.feeds) >= mostFeeds ||
		user != "" && (b.users[user] >= mostWatchersOfUser || isNew && feeds >= mostFeedsOfUser)
}

// Stream returns the address of the page's updates, or "" where it has none.
func (p *page) Stream() string {
	isStill := p.args != "" || p.path == "/audit" || p.path == "/new"
	if p.h.routes[p.path].view == nil || isStill || p.status != http.StatusOK {
		return ""
	}
	here := p.path
	if here == "/" {
		here = ""
	}
	return p.link("/live"+here, p.query)
}

// watch returns a channel of the page's updates, and how to end that; nil when there are too many already.
func (h *Handler) watch(key feedKey, query url.Values, user string) (updates chan []byte, leave func()) {
	h.hub.mutex.Lock()
	defer h.hub.mutex.Unlock()
	f := h.hub.feeds[key]
	if h.hub.isFull(user, f == nil) {
		return nil, nil
	}
	if f == nil {
		ctx, stop := context.WithCancel(context.Background())
		f = &feed{user: user, watchers: map[chan []byte]bool{}, stop: stop, done: make(chan struct{})}
		if h.hub.feeds == nil {
			h.hub.feeds, h.hub.users = map[feedKey]*feed{}, map[string]int{}
		}
		h.hub.feeds[key] = f
		go h.run(ctx, f, key, query)
	}
	updates = make(chan []byte, 1)
	f.watchers[updates] = true
	h.hub.watchers++
	h.hub.users[user]++
	return updates, func() {
		h.hub.mutex.Lock()
		h.hub.watchers--
		if h.hub.users[user]--; h.hub.users[user] == 0 {
			delete(h.hub.users, user)
		}
		delete(f.watchers, updates)
		isLast := len(f.watchers) == 0
		if isLast {
			f.stop()
			delete(h.hub.feeds, key)
		}
		h.hub.mutex.Unlock()
		if isLast {
			<-f.done
		}
	}
}

// run reads a page until nobody watches it.
func (h *Handler) run(ctx context.Context, f *feed, key feedKey, query url.Values) {
	defer close(f.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(h.every):
		}
		p := h.newPage(ctx, key.base, User{Role: key.role, MayChange: key.mayChange})
		p.path, p.query, p.isFeed = key.path, query, true
		name, data := h.routes[key.path].view(p)
		var body bytes.Buffer
		if err := templates[name].ExecuteTemplate(&body, "main", data); err != nil {
			h.options.Log.ErrorContext(ctx, "the page can't be rendered", "page", name, "error", err)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		h.hub.mutex.Lock()
		for updates := range f.watchers {
			select {
			case <-updates: // who has not yet taken the one before gets this one alone
			default:
			}
			updates <- body.Bytes()
		}
		h.hub.mutex.Unlock()
	}
}

// dataLines begins each line of a text as one of data. All three of these end a line of a stream.
var dataLines = strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")

// serveStream sends the updates of a page as server-sent events until the reader leaves.
func (h *Handler) serveStream(w http.ResponseWriter, r *http.Request, p *page) {
	if p.Stream() == "" {
		http.Error(w, "This page has no updates.", http.StatusNotFound)
		return
	}
	key := feedKey{p.base, p.path, p.query.Encode(), p.user.Role, p.user.MayChange}
	updates, leave := h.watch(key, p.query, p.user.Name)
	if updates == nil {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "Too many pages are watched.", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(liveBeat)) // a reader that takes nothing is left
		if _, err := fmt.Fprint(w, text); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	beat := time.NewTicker(h.beat)
	defer beat.Stop()
	for ok := send("event: beat\ndata:\n\n"); ok; {
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			ok = send("event: beat\ndata:\n\n")
		case body := <-updates:
			ok = send("event: page\ndata: " + dataLines.Replace(string(body)) + "\n\n")
		}
	}
}
