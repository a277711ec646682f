package ui

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// page is a request for a page, and what every page shows.
type page struct {
	h      *Handler
	ctx    context.Context // of the reader: a reader who leaves cancels what is being read
	base   string          // what each link begins with
	user   User
	path   string
	query  url.Values
	args   string // the filter by arguments, which is in no URL
	status int
	now    time.Time // of the database, when it was last read

	isFeed   bool // is read for those who watch it
	isAsked  bool // to do what takes long
	patience int  // how many times as long as usual a statement may take; 0 for 1

	Title    string
	Section  string // of the navigation
	Database string
	Home     string
}

// Link returns the address of a page: a path, and names and values of parameters. Empty values are left out. All
// addresses on the pages come from here.
func (p *page) Link(path string, pairs ...string) string {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return p.link(path, values)
}

func (p *page) link(path string, values url.Values) string {
	link := p.base + path
	if query := values.Encode(); query != "" {
		link += "?" + query
	}
	return link
}

// Here returns the address of this page with parameters set, or removed where the value is empty.
func (p *page) Here(pairs ...string) string {
	values := maps.Clone(p.query)
	if values == nil {
		values = url.Values{}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if values.Del(pairs[i]); pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return p.link(p.path, values)
}

// Asset returns the address of a file of the pages, which changes with its content.
func (p *page) Asset(name string) string { return p.Link("/assets/"+name, "v", assetVersion) }

// User is the name of who reads.
func (p *page) User() string { return p.user.Name }

// Get returns a parameter of the address.
func (p *page) Get(name string) string { return p.query.Get(name) }

// readArgs reads the filter by arguments, or says what is wrong with it.
func (p *page) readArgs(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, 128<<10)
	if err := r.ParseForm(); err != nil {
		p.send(w, http.StatusBadRequest, "message", p.message("These arguments can't be read, or are too long."))
		return false
	}
	p.args = r.PostForm.Get("args")
	return true
}

// messagePage says one thing.
type messagePage struct {
	*page
	Message string
}

func (p *page) message(text string) messagePage {
	p.Title = "Not here"
	return messagePage{p, text}
}

// send renders a page in memory, so that one that fails is not sent by half, and sends it.
func (p *page) send(w http.ResponseWriter, status int, template string, data any) {
	var body bytes.Buffer
	if err := templates[template].ExecuteTemplate(&body, "layout", data); err != nil {
		p.h.options.Log.ErrorContext(p.ctx, "the page can't be rendered", "page", template, "error", err)
		http.Error(w, "This page can't be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	p.write(w, body.Bytes())
}

// write sends an answer in pieces. A reader that takes none of them for some time, or takes them so slowly that all of
// it lasts for longer than its size allows, is left: what is sent is in memory until then.
func (p *page) write(w http.ResponseWriter, body []byte) {
	const piece = 64 << 10
	control := http.NewResponseController(w)
	last := time.Now().Add(4*p.h.patience + time.Duration(len(body)/piece)*time.Second)
	for len(body) > 0 {
		until := time.Now().Add(p.h.patience)
		if until.After(last) {
			until = last
		}
		_ = control.SetWriteDeadline(until) // a server that knows none has one of its own
		n := min(len(body), piece)
		if _, err := w.Write(body[:n]); err != nil {
			return // the reader has left
		}
		body = body[n:]
	}
}
