package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
	"github.com/awa-pg/awa/cmd/awa/ui"
	"github.com/awa-pg/awa/internal/dburl"
)

const uiUsage = `usage: awa ui [--listen ADDRESS] [--database-url URL]... [--base-path PATH]
              [--trusted-proxy NETWORK]... [--host NAME]...
              [--mask PATTERN]... [--password-file FILE | --user-header NAME] [--role USER=ROLE]...
              [--group-header NAME --group-role GROUP=ROLE...] [--metrics-listen ADDRESS]
              [--allow-changes]

Serves pages that show the queue: its health, counts, statistics, jobs, and why a job does not run. It reads
as a member of awa_reader, and changes nothing without --allow-changes. Also /healthz, which answers 200
while this program runs, and /readyz, which answers 200 while it can read the databases, and 503
otherwise: neither asks for a login. And /metrics for Prometheus, for those who may read the pages.

  --listen ADDRESS         where to listen: host:port (127.0.0.1:8080). Without a password file or a header
                           of a proxy, only addresses of this machine
  --database-url URL       of a database; once for each of several
  --base-path PATH         the path below which a proxy shows the pages: /awa
  --trusted-proxy NETWORK  an address, or a network as 10.0.0.0/8, whose X-Forwarded-Prefix and user's name
                           are believed
  --host NAME              a name under which browsers know the pages, beside those of this machine; needed
                           where a proxy at this machine names the user
  --mask PATTERN           a key, as email or *phone*, whose values are not shown, beside those of passwords,
                           tokens and the like
  --password-file FILE     names and passwords of users, as htpasswd -B writes them
  --user-header NAME       the header in which a trusted proxy names the user, as X-Remote-User
  --role USER=ROLE         the database role of a user, behind the last =; * stands for all others. Without
                           any, all have the rights of the login
  --group-header NAME      the header in which the proxy that names the user says the user's groups, with
                           commas between them
  --group-role GROUP=ROLE  the database role of the members of a group who have none by their names: the
                           first of these flags that fits
  --metrics-listen ADDRESS where to serve /metrics, /healthz and /readyz to all who ask, and /metrics there
                           alone: host:port
  --allow-changes          offer changes of jobs and queues, where the database role may make them

Exit status: 0 it was stopped by a signal; 1 it can't listen there, or a URL is wrong; 2 the command line
is wrong.
`

// uiFlags are what the command line says about the pages.
type uiFlags struct {
	listen       string
	databaseURLs []string
	basePath     string
	proxies      []netip.Prefix
	hosts        []string
	masks        []string
	passwordFile string
	userHeader   string
	roles        map[string]string
	allowChanges bool

	groupHeader   string
	groupRoles    []groupRole
	metricsListen string
}

// groupRole is a group of a proxy's, and the database role of its members.
type groupRole struct{ group, role string }

// urlList is a flag that may be given several times; each value is added to what the flag had at first, if that was set
// by the command line.
type urlList struct{ to *[]string }

func (u urlList) String() string         { return "" }
func (u urlList) Set(value string) error { *u.to = append(*u.to, value); return nil }

func (f *uiFlags) define(flags *flag.FlagSet) {
	flags.Lookup("database-url").Value = urlList{&f.databaseURLs}
	flags.Func("listen", "", func(value string) error {
		if _, _, err := net.SplitHostPort(value); err != nil {
			return errors.New("should be host:port, as 127.0.0.1:8080")
		}
		f.listen = value
		return nil
	})
	flags.Func("base-path", "", func(value string) error {
		if value = strings.TrimRight(value, "/"); value != "" && !ui.ValidPrefix(value) {
			return errors.New("should be a path, as /awa")
		}
		f.basePath = value
		return nil
	})
	flags.Func("trusted-proxy", "", func(value string) error {
		network, err := netip.ParsePrefix(value)
		if err != nil {
			address, err := netip.ParseAddr(value)
			if err != nil {
				return errors.New("should be an address, as 10.0.0.7, or a network, as 10.0.0.0/8")
			}
			network = netip.PrefixFrom(address, address.BitLen())
		}
		f.proxies = append(f.proxies, network.Masked())
		return nil
	})
	flags.StringVar(&f.passwordFile, "password-file", "", "")
	flags.StringVar(&f.userHeader, "user-header", "", "")
	flags.BoolVar(&f.allowChanges, "allow-changes", false, "")
	flags.Func("role", "", func(value string) error {
		at := max(strings.LastIndex(value, "="), 0) // the name may be one of LDAP, as cn=ada,ou=people
		user, role := value[:at], strings.TrimPrefix(value[at:], "=")
		if user == "" || role == "" || role == "none" {
			return errors.New("should be a user and a database role, as ada=operator, or *=viewer for all others")
		}
		if f.roles == nil {
			f.roles = map[string]string{}
		}
		f.roles[user] = role
		return nil
	})
	flags.StringVar(&f.groupHeader, "group-header", "", "")
	flags.Func("group-role", "", func(value string) error {
		at := max(strings.LastIndex(value, "="), 0)
		group, role := strings.TrimSpace(value[:at]), strings.TrimPrefix(value[at:], "=")
		if group == "" || role == "" || role == "none" || strings.Contains(group, ",") {
			return errors.New("should be a group, whose name has no comma, and a database role, as ops=operator")
		}
		f.groupRoles = append(f.groupRoles, groupRole{group, role})
		return nil
	})
	flags.Func("metrics-listen", "", func(value string) error {
		if _, _, err := net.SplitHostPort(value); err != nil {
			return errors.New("should be host:port, as 127.0.0.1:9187")
		}
		f.metricsListen = value
		return nil
	})
	flags.Func("mask", "", func(value string) error {
		_, err := mask.New(value)
		f.masks = append(f.masks, value)
		return err
	})
	flags.Func("host", "", func(value string) error {
		if value == "" || strings.ContainsAny(value, "/ ") {
			return errors.New("should be the name of a host, as queue.example.com")
		}
		f.hosts = append(f.hosts, strings.ToLower(value))
		return nil
	})
}

// check says what is wrong with the flags together.
func (f *uiFlags) check() error {
	switch {
	case f.passwordFile != "" && f.userHeader != "":
		return errors.New("either --password-file or --user-header says who asks, not both")
	case f.userHeader != "" && len(f.proxies) == 0:
		return errors.New("which proxy names the user? Pass --trusted-proxy")
	case f.userHeader != "" && len(f.hosts) == 0 && slices.ContainsFunc(f.proxies, holdsLoopback):
		return errors.New("the proxy at this machine names the user, and so could any page in a browser here: say with " +
			"--host under which names browsers know the pages")
	case f.groupHeader != "" && f.userHeader == "":
		return errors.New("who is in these groups? Pass --user-header")
	case (f.groupHeader == "") != (len(f.groupRoles) == 0):
		return errors.New("--group-header and --group-role belong together")
	case f.passwordFile == "" && f.userHeader == "" && !isLoopback(f.listen):
		return errors.New("without --password-file or --user-header the pages ask for no login, so they can be served " +
			"to this machine alone: listen at 127.0.0.1")
	}
	return nil
}

// holdsLoopback says whether a network has addresses of this machine alone.
func holdsLoopback(network netip.Prefix) bool {
	return network.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) || network.Contains(netip.IPv6Loopback())
}

// isLoopback says whether an address to listen at is reached from this machine alone.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.Unmap().IsLoopback()
}

func runUI(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := uiFlags{listen: "127.0.0.1:8080"}
	_, databaseURL, err := parse("ui", args, 0, stdout, stderr, f.define)
	if err != nil {
		return err
	}
	if len(f.databaseURLs) == 0 && databaseURL != "" {
		f.databaseURLs = []string{databaseURL}
	}
	if len(f.databaseURLs) == 0 {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa ui --database-url postgres://user:password@localhost:5432/mydb")
	}
	hideAll(f.databaseURLs, stdout, stderr)
	if err := f.check(); err != nil {
		return err
	}
	errorLog := &sharedWriter{w: stderr}
	site, err := newUISite(ctx, f, slog.New(slog.NewTextHandler(errorLog, nil)))
	if err != nil {
		return err
	}
	defer site.close()
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return errors.New("can't listen there: see --listen") // the error shows the argument
	}
	server := &http.Server{ // streams end by themselves: none of it has a time to write
		Handler: site, ErrorLog: log.New(errorLog, "awa ui: ", log.LstdFlags), ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // a signal ends what is being read
	}
	stopMetrics, err := f.serveMetrics(ctx, site.metrics, server.ErrorLog, stdout)
	if err != nil {
		listener.Close()
		return err
	}
	defer stopMetrics()
	fmt.Fprintf(stdout, "serving the pages at http://%s%s/\n", listener.Addr(), f.basePath)
	return serveUntilStopped(ctx, server, listener)
}

// serveMetrics serves metrics at an address of their own, if they have one, until stop is called or the context ends.
func (f *uiFlags) serveMetrics(
	ctx context.Context, metrics http.Handler, errorLog *log.Logger, stdout io.Writer,
) (stop func(), err error) {
	if f.metricsListen == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", f.metricsListen)
	if err != nil {
		return nil, errors.New("can't listen there: see --metrics-listen") // the error shows the argument
	}
	server := &http.Server{
		Handler: metrics, ErrorLog: errorLog, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	fmt.Fprintf(stdout, "serving metrics at http://%s/metrics\n", listener.Addr())
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := serveUntilStopped(ctx, server, listener); err != nil {
			errorLog.Print("no metrics are served any more: ", err)
		}
	}()
	return func() { cancel(); <-stopped }, nil
}

// serveUntilStopped serves until the context ends, and then gives requests two seconds to finish.
func serveUntilStopped(ctx context.Context, server *http.Server, listener net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		finish, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(finish) != nil {
			server.Close()
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
		return nil
	}
	return err
}

// hideAll has nothing of the URLs printed that may be a piece of a password.
func hideAll(databaseURLs []string, writers ...io.Writer) {
	var texts []string
	for _, databaseURL := range databaseURLs {
		texts = append(texts, dburl.NotPlain(databaseURL)...)
	}
	for _, w := range writers {
		if p, ok := w.(*printable); ok {
			p.hide(texts)
		}
	}
}

// uiPool returns the connections of the pages to a database: few, and made when they are needed.
func uiPool(ctx context.Context, databaseURL string) (*pgxpool.Pool, error) {
	cfg, err := dburl.ParsePool(databaseURL)
	if err != nil {
		return nil, explain(err)
	}
	cfg.MinConns, cfg.MaxConns = 0, 4
	cfg.ConnConfig.RuntimeParams["application_name"] = "awa ui"
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, explain(err)
	}
	return pool, nil
}
