package harness

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/internal/pgserver"
)

// Settings of the server, the same for all systems; all others are PostgreSQL's defaults. The server is durable.
var Settings = map[string]string{
	"max_connections": "300", "shared_buffers": "1GB", "max_wal_size": "8GB",
}

// Server is a PostgreSQL server for the benchmark alone.
type Server struct {
	private    *pgserver.Server // nil: somebody else's
	url        string           // of the database postgres, as a superuser
	postmaster int
	Version    string
}

// StartServer starts a private server, or, if a URL is given, uses that one.
func StartServer(ctx context.Context, given string) (*Server, error) {
	s := &Server{url: given}
	if given == "" {
		private, err := pgserver.Start(ctx, pgserver.Config{Durable: true, Settings: Settings})
		if err != nil {
			return nil, err
		}
		s.private, s.url = private, private.URL()
	}
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		s.Stop()
		return nil, err
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, "select current_setting('server_version')").Scan(&s.Version); err != nil {
		s.Stop()
		return nil, err
	}
	if s.private != nil {
		text, err := os.ReadFile(s.private.Dir() + "/data/postmaster.pid")
		if err != nil {
			s.Stop()
			return nil, err
		}
		line, _, _ := strings.Cut(string(text), "\n")
		s.postmaster, _ = strconv.Atoi(line)
	}
	return s, nil
}

// Stop stops the server, if it is private.
func (s *Server) Stop() error {
	if s.private == nil {
		return nil
	}
	return s.private.Stop()
}

// URL returns that of a database.
func (s *Server) URL(database string) (string, error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return "", err
	}
	u.Path = "/" + database
	return u.String(), nil
}

// Exec runs statements in the database postgres, one by one.
func (s *Server) Exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// Machine describes this one.
func Machine() string {
	model := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	memory := ""
	text, _ = os.ReadFile("/proc/meminfo")
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		kB, _ := strconv.Atoi(fields[1])
		memory = fmt.Sprintf(", %d GiB of memory", kB>>20)
	}
	return fmt.Sprintf("%d cores (%s)%s, %s; client and server share them", runtime.NumCPU(), model, memory, runtime.GOOS)
}
