package ui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// templates are the pages by their names, each with the layout.
var templates = func() map[string]*template.Template {
	functions := template.FuncMap{
		"at": at, "number": number, "seconds": seconds, "show": show, "first": first, "bytes": size, "value": inputValue,
		"nonzero": func(n int64) bool { return n != 0 },
		"len64":   func(rows []jobRow) int64 { return int64(len(rows)) },
	}
	shared := []string{"layout.html", "parts.html"}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		panic(err)
	}
	pages := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t := template.New(name).Funcs(functions)
		for _, part := range append(shared, path.Base(file)) {
			template.Must(t.ParseFS(templateFiles, "templates/"+part))
		}
		pages[name] = t
	}
	return pages
}()

// assetVersion changes when a file of the pages does.
var assetVersion = func() string {
	hash := sha256.New()
	files, _ := fs.ReadDir(assetFiles, "assets")
	for _, file := range files {
		text, err := assetFiles.ReadFile("assets/" + file.Name())
		if err != nil {
			panic(err)
		}
		hash.Write(text)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12]
}()

// serveAsset serves a file of the pages. A browser keeps it: its address changes with its content.
func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	text, err := assetFiles.ReadFile(strings.TrimPrefix(name, "/"))
	if err != nil {
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("v") == assetVersion {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, path.Base(name), time.Time{}, bytes.NewReader(text))
}
