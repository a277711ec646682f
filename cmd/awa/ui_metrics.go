package main

import (
	"context"
	"log/slog"
	"net/http"
	"path"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// uiMetrics serves what awa metrics serves, for the databases of the pages, which it reads by their few connections.
type uiMetrics struct {
	databases []uiDatabase
	exporters []*exporter
	handler   http.Handler
}

// newUIMetrics returns the metrics of databases. Those of several have a label with the name of each.
func newUIMetrics(ctx context.Context, databases []uiDatabase, log *slog.Logger) *uiMetrics {
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	registry := prometheus.NewRegistry()
	m := &uiMetrics{databases: databases}
	for _, database := range databases {
		e := newExporter(ctx, database.pool, errorLog)
		m.exporters = append(m.exporters, e)
		var to prometheus.Registerer = registry
		if len(databases) > 1 {
			to = prometheus.WrapRegistererWith(prometheus.Labels{"database": label(database.name)}, registry)
		}
		to.MustRegister(e)
	}
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: errorLog})
	return m
}

// ServeHTTP serves them at an address of their own, where nobody is asked for a login.
func (m *uiMetrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.serve(w, r, path.Clean("/"+r.URL.Path))
}

// serve serves one of three paths.
func (m *uiMetrics) serve(w http.ResponseWriter, r *http.Request, at string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "not allowed")
		return
	}
	switch at {
	case "/healthz":
		serveHealth(w, r)
	case "/readyz":
		serveReady(w, m.exporters...)
	case "/metrics":
		m.handler.ServeHTTP(w, r)
	default:
		answer(w, http.StatusNotFound, "not here")
	}
}

// mayRead says whether a role may read what the metrics say, which the login has read. "" is the login's own.
func (m *uiMetrics) mayRead(ctx context.Context, role string) bool {
	for _, database := range m.databases {
		if role == "" {
			break
		}
		ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
		defer cancel()
		var may bool
		const sql = `select pg_catalog.has_function_privilege($1::pg_catalog.name, 'awa.health()', 'execute')`
		if database.pool.QueryRow(ctx, sql, role).Scan(&may) != nil || !may {
			return false
		}
	}
	return true
}
