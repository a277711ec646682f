package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/awa-pg/awa/internal/dburl"
	"github.com/awa-pg/awa/internal/load"
)

const (
	selftestPrefix  = "awa_selftest_"
	selftestLock    = int64(0x61776173656c66) // "awaself", the key of the advisory lock of the one self-test in a database
	selftestPhase   = 12 * time.Second
	shortestPhase   = 300 * time.Millisecond
	selftestRounds  = 3    // a machine's speed changes, so the phases are run in turn
	selftestDepth   = 4000 // jobs on their way at full speed
	selftestReaders = 4    // sessions
	readFor         = 2 * time.Second
	maintainEvery   = 2 * time.Second
)

// The limits of the self-test. Variables for the sake of tests.
var (
	leastRatio = 0.97 // of the throughput without the disturbance
	mostDead   = 500  // tuples
)

// selftest runs jobs through a queue of its own while other sessions do what makes other queues slow.
type selftest struct {
	out     io.Writer
	config  *pgx.ConnConfig
	name    string    // of the queue, and of the schema of the readers' other table
	db      *pgx.Conn // for what is done between the phases
	upkeep  *pgx.Conn // for maintenance
	pinner  *pgx.Conn
	readers []*pgx.Conn
	load    *load.Load

	nextMaintenance time.Time
	dead            map[string]int64 // dead tuples by table, when last looked at
}

// phase is a condition under which the load is run, and what was measured, in each round.
type phase struct {
	name      string
	disturb   func(context.Context) (stop func() error, err error)
	rates     []float64
	latencies []time.Duration
	dead      map[string]int64 // dead tuples that were added, by table
}

func runSelftest(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	length, saturated := selftestPhase, false
	_, databaseURL, err := parse("selftest", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.DurationVar(&length, "phase", length, "")
		flags.BoolVar(&saturated, "saturated", saturated, "")
	})
	if err != nil {
		return err
	}
	if length < shortestPhase {
		fmt.Fprintf(stderr, "awa selftest: --phase must be at least %s\n%s", shortestPhase, usage)
		return errUsage
	}
	if databaseURL == "" {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa selftest --database-url postgres://user:password@localhost:5432/mydb")
	}
	t := &selftest{out: stdout, name: selftestPrefix + strings.ToLower(rand.Text()[:12])}
	defer t.close()
	if err := t.connect(ctx, databaseURL); err != nil {
		return explain(err)
	}
	err = t.inDatabase(ctx, length, saturated)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" { // insufficient_privilege
		err = fmt.Errorf("%w\nThe role has to be a member of all of Awa's roles but the owner:\n\tgrant %s to ROLE", err,
			sharedRoles(ctx, t.db))
	}
	return err
}

// inDatabase runs the self-test, and leaves nothing.
func (t *selftest) inDatabase(ctx context.Context, length time.Duration, saturated bool) (err error) {
	if err := t.check(ctx); err != nil {
		return err
	}
	left, err := t.sweep(ctx)
	if err != nil {
		return fmt.Errorf("could not remove what an earlier self-test has left: %w", err)
	}
	if len(left) > 0 {
		fmt.Fprintf(t.out, "Removed what an earlier self-test left when it was killed: %s.\n", strings.Join(left, ", "))
	}
	defer func() {
		// Also when the context has ended: the queue must not stay.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if _, sweepErr := t.sweep(ctx); sweepErr != nil {
			err = errors.Join(err,
				fmt.Errorf("could not remove queue %s and schema %s, the next self-test will: %w", t.name, t.name, sweepErr))
		}
		// Not with the connection: the server may take a while to notice that it is closed.
		_ = script(ctx, t.db, fmt.Sprintf("select pg_catalog.pg_advisory_unlock(%d::pg_catalog.int8)", selftestLock))
	}()
	return t.run(ctx, length, saturated)
}

func (t *selftest) connect(ctx context.Context, databaseURL string) error {
	pool, err := dburl.ParsePool(databaseURL) // which knows the pool's parameters, too
	if err != nil {
		return err
	}
	t.config = pool.ConnConfig
	// A scan that is interrupted leaves its connection as it was.
	t.config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 10 * time.Second}
	}
	pinSearchPath(t.config)
	t.readers = make([]*pgx.Conn, selftestReaders)
	conns := []**pgx.Conn{&t.db, &t.upkeep, &t.pinner}
	for i := range t.readers {
		conns = append(conns, &t.readers[i])
	}
	for _, conn := range conns {
		if *conn, err = pgx.ConnectConfig(ctx, t.config); err != nil {
			return err
		}
	}
	t.load, err = load.Open(ctx, load.Config{Conn: t.config, Queue: t.name})
	return err
}

// pinSearchPath keeps the sessions of connections from looking anything up where others may create. The setting stays
// in the session, so this is for connections to the server itself.
func pinSearchPath(cfg *pgx.ConnConfig) {
	cfg.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		return conn.Exec(ctx, "set search_path = pg_catalog, pg_temp").Close()
	}
}

func (t *selftest) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, conn := range append([]*pgx.Conn{t.db, t.upkeep, t.pinner}, t.readers...) {
		if conn != nil {
			conn.Close(ctx)
		}
	}
	if t.load != nil {
		t.load.Close()
	}
}

// check looks whether there is what the self-test needs, and takes the lock.
func (t *selftest) check(ctx context.Context) error {
	var installed, mayCreate, locked bool
	var database, role string
	err := t.db.QueryRow(ctx, `
		select to_regprocedure('awa.run_maintenance()') is not null,
		       has_database_privilege(current_database(), 'create'), pg_try_advisory_lock($1::bigint),
		       current_database(), current_user`, selftestLock).
		Scan(&installed, &mayCreate, &locked, &database, &role)
	switch {
	case err != nil:
		return explain(err)
	case !installed:
		return fmt.Errorf("Awa is not installed in database %s, or by an older program. Install it first:\n\tawa migrate",
			database)
	case !mayCreate:
		return fmt.Errorf("role %s may not create schemas in database %s, and the self-test needs one for a table to "+
			"compare with. Let the\n"+
			"database's owner run this, or grant it:\n\tgrant create on database %[2]s to %[1]s", role, database)
	case !locked:
		return fmt.Errorf("another self-test is running in database %s, and they would disturb each other", database)
	}
	return nil
}

// sweep removes what self-tests have left, and returns their names. There is no other one: it would hold the lock.
func (t *selftest) sweep(ctx context.Context) ([]string, error) {
	rows, _ := t.db.Query(ctx, `
		select 'queue ' || c.queue, format('select awa.drop_queue(%L, true)', c.queue)
		  from awa.queue_counts() c
		 where starts_with(c.queue, $1::text)
		union all
		select 'schema ' || n.nspname, format('drop schema %I cascade', n.nspname)
		  from pg_namespace n
		 where starts_with(n.nspname::text, $1::text) and pg_has_role(n.nspowner, 'usage')`, selftestPrefix)
	var left, drops []string
	var what, drop string
	_, err := pgx.ForEachRow(rows, []any{&what, &drop}, func() error {
		left, drops = append(left, what), append(drops, drop)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, drop := range drops {
		if err := script(ctx, t.db, drop); err != nil {
			return nil, err
		}
	}
	return left, nil
}

func (t *selftest) run(ctx context.Context, length time.Duration, saturated bool) error {
	var version string
	if err := t.db.QueryRow(ctx, "select current_setting('server_version')").Scan(&version); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "PostgreSQL %s; queue %s, jobs of %d bytes in batches of up to %d.\n", version, t.name,
		len(load.Payload), load.Batch)
	var err error
	if t.dead, err = t.deadTuples(ctx); err != nil {
		return err
	}

	full := &phase{name: "full speed"}
	offer := load.Offer{For: length / 12, Depth: selftestDepth} // the first time to warm up
	if err := t.measure(ctx, full, offer); err != nil {
		return err
	}
	full.rates, full.latencies, offer.For = nil, nil, length/4
	if err := t.measure(ctx, full, offer); err != nil {
		return err
	}
	offer.For = length / selftestRounds
	from := "at full speed"
	if !saturated {
		offer.Rate = full.rates[0] / 3
		from = group(int(offer.Rate)) + " jobs/s are enqueued"
	}
	fmt.Fprintf(t.out, "Full speed: %s jobs/s. From here on %s: 4 phases in turn, %d times, %s each.\n",
		group(int(full.rates[0])), from, selftestRounds, offer.For.Round(time.Millisecond))

	if err := t.createOther(ctx); err != nil {
		return err
	}
	clean := &phase{name: "clean"}
	held := &phase{name: "a transaction held open", disturb: t.hold}
	readers := &phase{name: "readers of awa.jobs",
		disturb: t.reading("select count(*) from awa.jobs where queue = '" + t.name + "'")}
	control := &phase{name: "readers of another table", disturb: t.reading("select count(*) from " + t.name + ".other")}
	phases := []*phase{clean, held, readers, control}
	for round := range selftestRounds {
		fmt.Fprintf(t.out, "Round %d (clean, held open, readers, readers elsewhere):", round+1)
		for _, p := range phases {
			if err := t.measure(ctx, p, offer); err != nil {
				fmt.Fprintln(t.out)
				return fmt.Errorf("%s: %w", p.name, err)
			}
			fmt.Fprintf(t.out, " %s", group(int(p.rates[round])))
		}
		fmt.Fprintln(t.out, " jobs/s")
	}

	fmt.Fprintf(t.out, "\n%-26s%10s%12s%12s   %s\n", "", "jobs/s", "p50", "p99", "dead tuples added")
	for _, p := range append([]*phase{full}, phases...) {
		fmt.Fprintf(t.out, "%-26s%10s%12s%12s   %s\n",
			p.name, group(int(middle(p.rates))), percentile(p.latencies, 50), percentile(p.latencies, 99), deadByTable(p.dead))
	}
	fmt.Fprintln(t.out, "\njobs/s are medians of the rounds; p50 and p99 are from a job's commit to its completion.")
	var failed []string
	for _, c := range judge(full, clean, held, readers, control) {
		if saturated {
			fmt.Fprintf(t.out, "  %-48s%10s\n", c.what, c.got)
			continue
		}
		verdict := "ok"
		if !c.ok {
			verdict = "FAILED"
			failed = append(failed, c.what+" "+c.got+", not "+c.want+".\n"+c.hint)
		}
		fmt.Fprintf(t.out, "  %-48s%10s   (%s)  %s\n", c.what, c.got, c.want, verdict)
	}
	switch {
	case saturated:
		fmt.Fprintln(t.out, "At full speed there is no verdict.")
	case len(failed) > 0:
		return fmt.Errorf("the self-test failed: %s", strings.Join(failed, "\n"))
	case middle(clean.rates) < leastRatio*offer.Rate:
		fmt.Fprintln(t.out,
			"Passed; but the rate was not kept in the clean phase either: something else is using this machine.")
	default:
		fmt.Fprintln(t.out, "Passed.")
	}
	return nil
}

// criterion is one of those that the self-test has to meet.
type criterion struct {
	what, got, want string
	ok              bool
	hint            string
}

func judge(full, clean, held, readers, control *phase) []criterion {
	ratio := func(what string, p, to *phase, hint string) criterion {
		r := middle(p.rates) / middle(to.rates)
		return criterion{what, fmt.Sprintf("%.1f %%", 100*r), fmt.Sprintf("at least %.0f %%", 100*leastRatio),
			r >= leastRatio,
			hint + " If other work disturbed the machine,\nrun it again when it is quiet, or with a longer --phase."}
	}
	dead := map[string]int64{}
	for _, p := range []*phase{full, clean, held, readers, control} {
		for table, n := range p.dead {
			dead[table] += n
		}
	}
	total := 0
	for _, n := range dead {
		total += int(n)
	}
	return []criterion{
		ratio("throughput held open, of clean", held, clean,
			"A transaction that is open elsewhere should not slow the queue."),
		ratio("throughput under readers, of readers elsewhere", readers, control,
			"Readers of the queue should cost no more than readers of any other table."),
		{"dead tuples added in all", group(total), fmt.Sprintf("at most %d", mostDead), total <= mostDead,
			"Jobs should leave none, and upkeep few. These are: " + deadByTable(dead) + ".\n" +
				"If other workers use Awa in this database, some are theirs."},
	}
}

// measure runs the load once, with what the phase does meanwhile.
func (t *selftest) measure(ctx context.Context, p *phase, offer load.Offer) (err error) {
	stop := func() error { return nil }
	if p.disturb != nil {
		if stop, err = p.disturb(ctx); err != nil {
			return err
		}
	}
	running, cancel := context.WithCancel(ctx)
	maintained := make(chan error, 1)
	go func() { maintained <- t.maintain(running) }()
	figures, err := t.load.Run(ctx, offer)
	cancel()
	err = errors.Join(err, <-maintained, stop())
	if err != nil {
		return err
	}
	p.rates = append(p.rates, figures.Rate())
	p.latencies = append(p.latencies, figures.Latencies...)

	now, err := t.deadTuples(ctx)
	if err != nil {
		return err
	}
	if p.dead == nil {
		p.dead = map[string]int64{}
	}
	for table, n := range now {
		if added := n - t.dead[table]; added > 0 { // or a vacuum has been there
			p.dead[table] += added
		}
	}
	t.dead = now
	return nil
}

// maintain does what a worker does beside its jobs, until the context ends.
func (t *selftest) maintain(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(t.nextMaintenance)):
		}
		t.nextMaintenance = time.Now().Add(maintainEvery)
		if _, err := t.upkeep.Exec(context.WithoutCancel(ctx), "call awa.run_maintenance()"); err != nil {
			return fmt.Errorf("run_maintenance: %w", err)
		}
	}
}

// hold opens a transaction that has an id and a snapshot: no vacuum can remove what dies after it.
func (t *selftest) hold(ctx context.Context) (func() error, error) {
	err := script(ctx, t.pinner, `
		begin isolation level repeatable read;
		set local idle_in_transaction_session_timeout = 0;
		select pg_current_xact_id()`)
	return func() error { return script(context.WithoutCancel(ctx), t.pinner, "rollback") }, err
}

// reading starts the readers: transactions of some seconds, each with one snapshot, that run a query again and again.
func (t *selftest) reading(query string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		ctx, cancel := context.WithCancel(ctx)
		errs := make([]error, len(t.readers))
		var reading sync.WaitGroup
		for i, conn := range t.readers {
			reading.Go(func() { errs[i] = read(ctx, conn, query) })
		}
		return func() error {
			cancel()
			reading.Wait()
			return errors.Join(errs...)
		}, nil
	}
}

func read(ctx context.Context, conn *pgx.Conn, query string) error {
	for ctx.Err() == nil {
		// One process each: with parallel ones a plain scan would take more of the machine than the queue's.
		err := script(ctx, conn, `
			begin isolation level repeatable read;
			set local statement_timeout = 0;
			set local max_parallel_workers_per_gather = 0;
			set local jit = off`)
		for began := time.Now(); err == nil && time.Since(began) < readFor; {
			err = script(ctx, conn, query)
		}
		if rollbackErr := script(context.WithoutCancel(ctx), conn, "rollback"); rollbackErr != nil {
			return rollbackErr
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// createOther creates the table that has nothing to do with the queue, about as large as the queue is now.
func (t *selftest) createOther(ctx context.Context) error {
	return script(ctx, t.db, fmt.Sprintf(`
		create schema %[1]s;
		create unlogged table %[1]s.other with (autovacuum_enabled = off) as
		select n, repeat('x', 300) as data
          from awa.queue_counts('%[1]s') c, generate_series(1, least(c.completed, 1000000)) n`, t.name))
}

// deadTuples returns the dead tuples of every table of Awa that has any.
func (t *selftest) deadTuples(ctx context.Context) (map[string]int64, error) {
	// The load's own counts are at the server once it is flushed, as are those of maintenance; the readers change nothing.
	if err := t.load.Flush(ctx); err != nil {
		return nil, err
	}
	for _, conn := range []*pgx.Conn{t.upkeep, t.db} {
		if err := script(ctx, conn, "select pg_stat_force_next_flush()"); err != nil {
			return nil, err
		}
	}
	dead := map[string]int64{}
	rows, _ := t.db.Query(ctx,
		"select relname, n_dead_tup from pg_stat_user_tables where schemaname = 'awa' and n_dead_tup > 0")
	var table string
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&table, &n}, func() error {
		dead[table] = n
		return nil
	})
	return dead, err
}

func deadByTable(dead map[string]int64) string {
	var tables []string
	for _, table := range slices.Sorted(maps.Keys(dead)) {
		tables = append(tables, fmt.Sprintf("%s %s", table, group(int(dead[table]))))
	}
	if len(tables) == 0 {
		return "none"
	}
	return strings.Join(tables, ", ")
}

// script runs statements without arguments.
func script(ctx context.Context, conn *pgx.Conn, statements string) error {
	_, err := conn.PgConn().Exec(ctx, statements).ReadAll()
	return err
}

// middle returns the median.
func middle(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
