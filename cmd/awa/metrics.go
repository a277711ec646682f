package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/awa-pg/awa/internal/dburl"
)

const metricsUsage = `usage: awa metrics [--listen ADDRESS] [--database-url URL]

Serves metrics for Prometheus at /metrics. Also /healthz, which answers 200 while this program runs, and
/readyz, which answers 200 while it can read the database, and 503 otherwise. None of them asks for a
login. It reads as a member of awa_reader, and changes nothing. However many ask, it reads once in 5
seconds at most.

  --listen ADDRESS  where to listen: host:port (127.0.0.1:9187)

Exit status: 0 it was stopped by a signal; 1 it can't listen there, or the URL is wrong; 2 the command line
is wrong.
`

// What reading costs at most, however many ask.
const (
	metricsEvery   = 5 * time.Second  // a reading serves all that ask within this time
	metricsTimeout = 10 * time.Second // of a reading, and of each of its statements
)

func runMetrics(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	listen := "127.0.0.1:9187"
	_, databaseURL, err := parse("metrics", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.Func("listen", "", func(value string) error {
			if _, _, err := net.SplitHostPort(value); err != nil {
				return errors.New("should be host:port, as 127.0.0.1:9187, or :9187 for all addresses")
			}
			listen = value
			return nil
		})
	})
	if err != nil {
		return err
	}
	if databaseURL == "" {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa metrics --database-url postgres://user:password@localhost:5432/mydb")
	}
	cfg, err := dburl.ParsePool(databaseURL)
	if err != nil {
		return explain(err)
	}
	cfg.MinConns, cfg.MaxConns = 0, 1
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return explain(err)
	}
	defer pool.Close()

	errorLog := log.New(&sharedWriter{w: stderr}, "awa metrics: ", log.LstdFlags)
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.New("can't listen there: see --listen") // the error shows the argument
	}
	exporter := newExporter(ctx, pool, errorLog)
	server := &http.Server{
		Handler: exporter.handler(), ErrorLog: errorLog, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	fmt.Fprintf(stdout, "serving metrics at http://%s/metrics\n", listener.Addr())
	return serveUntilStopped(ctx, server, listener)
}

// handler serves the three pages. The two that are for machines which need not know more say no more than yes or no.
func (e *exporter) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(e)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: e.log}))
	mux.HandleFunc("GET /healthz", serveHealth)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { serveReady(w, e) })
	return mux
}

// serveHealth answers that the program runs.
func serveHealth(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") }

// serveReady answers whether the databases of some exporters can be read.
func serveReady(w http.ResponseWriter, exporters ...*exporter) {
	for _, e := range exporters {
		if s, _ := e.sample(); s == nil {
			answer(w, http.StatusServiceUnavailable, "not ready")
			return
		}
	}
	answer(w, http.StatusOK, "ok")
}

// answer answers in a few words, which nothing keeps.
func answer(w http.ResponseWriter, status int, words string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	io.WriteString(w, words+"\n")
}
