package driver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Variables for the sake of tests.
var (
	// callTimeout bounds each call of the worker, so that a server that has gone silent is noticed. The longest regular
	// one is a claim that waits for another one.
	callTimeout = 20 * time.Second
	// connectTimeout bounds what one of the addresses in the URL may take, so that another one is tried in time.
	connectTimeout = 5 * time.Second
)

// connect returns a connection of the worker's own, whose traffic is metered. It is made as the pool makes its
// connections, but is none of them: the pool may be exhausted.
func connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, *meter, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	cfg := pool.Config()
	each := min(connectTimeout, callTimeout/time.Duration(1+len(cfg.ConnConfig.Fallbacks)))
	if timeout := cfg.ConnConfig.ConnectTimeout; timeout == 0 || timeout > each {
		cfg.ConnConfig.ConnectTimeout = each
	}
	if cfg.BeforeConnect != nil {
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return nil, nil, err
		}
	}
	cfg.ConnConfig.DefaultQueryExecMode = unprepared(cfg.ConnConfig)
	received := new(meter)
	cfg.ConnConfig.DialFunc = received.dialer(cfg.ConnConfig.DialFunc)
	cfg.ConnConfig.OnNotification = nil // so that the worker gets its notifications
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return nil, nil, err
	}
	received.connected.Store(true)
	if cfg.AfterConnect != nil {
		if err := cfg.AfterConnect(ctx, conn); err != nil {
			closeConn(ctx, conn)
			return nil, nil, err
		}
	}
	return conn, received, nil
}

// unprepared returns the mode to use in place of the pool's: one without prepared statements, and without a second
// round trip that belongs to the first, since a proxy that pools transactions may send them to different servers.
func unprepared(cfg *pgx.ConnConfig) pgx.QueryExecMode {
	switch {
	case cfg.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol:
		return pgx.QueryExecModeSimpleProtocol
	case cfg.DefaultQueryExecMode == pgx.QueryExecModeExec || cfg.DescriptionCacheCapacity == 0:
		return pgx.QueryExecModeExec
	}
	return pgx.QueryExecModeCacheDescribe
}

// unpreparedDB is a pool, or one of its connections, on which queries are run without prepared statements.
type unpreparedDB struct {
	DBTX
	mode pgx.QueryExecMode
}

// handlersDB is the pool, as handlers use it.
type handlersDB struct {
	pool *pgxpool.Pool
	mode pgx.QueryExecMode
}

// call calls a function of the server, as a statement alone, or, where the database's default isolation level makes
// that fail because of what others do, once more in a transaction at READ COMMITTED.
func (h handlersDB) call(ctx context.Context, f func(DBTX) error) error {
	err := f(unpreparedDB{utf8DB{h.pool}, h.mode})
	if hasCode(err, serializationFailure) {
		err = pgx.BeginTxFunc(ctx, h.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted},
			func(tx pgx.Tx) error { return f(unpreparedDB{utf8DB{tx}, h.mode}) })
	}
	return mapError(err)
}

func (u unpreparedDB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return u.DBTX.Exec(ctx, sql, u.with(args)...)
}

func (u unpreparedDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return u.DBTX.Query(ctx, sql, u.with(args)...)
}

func (u unpreparedDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return u.DBTX.QueryRow(ctx, sql, u.with(args)...)
}

func (u unpreparedDB) with(args []any) []any { return append([]any{u.mode}, args...) }

// utf8DB is the DBTX of the caller. It refuses connections whose client encoding is not UTF-8, in which Go writes.
type utf8DB struct{ DBTX }

func (u utf8DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if pool, ok := u.DBTX.(*pgxpool.Pool); ok {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		defer conn.Release()
		return utf8DB{conn}.Exec(ctx, sql, args...)
	}
	if err := u.check(); err != nil {
		return pgconn.CommandTag{}, err
	}
	return u.DBTX.Exec(ctx, sql, args...)
}

func (u utf8DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if pool, ok := u.DBTX.(*pgxpool.Pool); ok {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		rows, err := utf8DB{conn}.Query(ctx, sql, args...)
		if err != nil {
			conn.Release()
			return nil, err
		}
		return &ownTxRows{Rows: rows, ctx: ctx, conn: conn}, nil
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	return u.DBTX.Query(ctx, sql, args...)
}

func (u utf8DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := u.Query(ctx, sql, args...)
	return pipelineRow{rows: rows, err: err}
}

func (u utf8DB) check() error {
	switch db := u.DBTX.(type) {
	case *pgx.Conn:
		return checkEncoding(db)
	case interface{ Conn() *pgx.Conn }: // a transaction, or a connection of a pool
		return checkEncoding(db.Conn())
	}
	return nil
}

// checkEncoding refuses a connection whose texts are not UTF-8. It takes no round trip, since the server says so by
// itself.
func checkEncoding(conn *pgx.Conn) error {
	if conn == nil {
		return nil
	}
	client, server := conn.PgConn().ParameterStatus("client_encoding"), conn.PgConn().ParameterStatus("server_encoding")
	switch {
	case client == "UTF8" || client == "": // a proxy may not say
		return nil
	case client == "SQL_ASCII" && (server == "UTF8" || server == "SQL_ASCII"): // bytes pass as they are
		return nil
	}
	return fmt.Errorf("client_encoding is %s, and Go writes UTF-8: connect with client_encoding=UTF8", client)
}

// errSilent is the cause of contexts that end when the server takes too long.
var errSilent = errors.New("the server does not answer")

// dedicated is a connection of the worker's own. It is made when it is needed, and again when it was lost.
type dedicated struct {
	pool     *pgxpool.Pool
	conn     *pgx.Conn
	received *meter
}

func (d *dedicated) isOpen() bool { return d.conn != nil && !d.conn.IsClosed() }

// open makes the connection, if there is none.
func (d *dedicated) open(ctx context.Context) error {
	if d.isOpen() {
		return nil
	}
	conn, received, err := connect(ctx, d.pool)
	if err == nil {
		d.conn, d.received = conn, received
	}
	return err
}

// closeLost closes the connection if it was lost while it was not used, so that the next call makes another one, and
// does not leave open whether it has had an effect.
func (d *dedicated) closeLost(ctx context.Context) {
	if !d.isOpen() {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	if err := d.conn.Ping(ctx); err != nil {
		d.close(ctx)
	}
}

// call runs f on the connection, to its end, whatever becomes of the context. When it returns an error it also says
// whether it is unknown if f has had an effect.
func (d *dedicated) call(ctx context.Context, f func(context.Context, *pgx.Conn) error) (unknown bool, err error) {
	if err := d.open(ctx); err != nil {
		return false, err
	}
	return d.callUntil(context.WithoutCancel(ctx), f)
}

// callUntil is call, but for the end of the context, which closes the connection.
func (d *dedicated) callUntil(ctx context.Context, f func(context.Context, *pgx.Conn) error) (unknown bool, err error) {
	if err := d.open(ctx); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	d.received.reset()
	err = f(ctx, d.conn)
	switch {
	case d.conn.IsClosed():
		d.received.hangUp()
		// The connection was open before. When it is lost while a batch waits for its answer, pgx says that it is
		// closed, and so that nothing was sent.
		return !pgconn.SafeToRetry(err) || errors.Is(err, pgconn.ErrConnClosed), err
	case d.conn.PgConn().TxStatus() != 'I': // nothing was committed, whatever f made of that
		if _, rollbackErr := d.conn.Exec(ctx, "rollback"); rollbackErr != nil || hasCode(err, readOnly) && d.isReadOnly(ctx) {
			d.close(ctx)
		}
		return false, err
	case hasCode(err, readOnly) && d.isReadOnly(ctx):
		d.close(ctx)
		return false, err
	}
	var pg *pgconn.PgError
	return err != nil && !errors.As(err, &pg), err
}

// isReadOnly asks whether the server itself is read-only, so that another address may be the primary by now. A trigger
// may raise the same code for a single row.
func (d *dedicated) isReadOnly(ctx context.Context) (readOnly bool) {
	err := d.conn.QueryRow(ctx,
		"select pg_catalog.pg_is_in_recovery() "+
			"or pg_catalog.current_setting('transaction_read_only'::pg_catalog.text)::pg_catalog.bool").Scan(&readOnly)
	return readOnly || err != nil
}

// cutOff returns how many bytes of an answer had come when the connection was lost in the middle of it, although they
// had come for long: a quarter of the time that the whole call may take, at least. 0 when that is not what has
// happened.
func (d *dedicated) cutOff() int64 {
	if d.conn == nil || d.isOpen() {
		return 0
	}
	bytes, rowsFor := d.received.read()
	if bytes < smallAnswer || rowsFor < callTimeout/4 {
		return 0
	}
	return bytes
}

// carried returns how many bytes have come in the last call.
func (d *dedicated) carried() int64 {
	bytes, _ := d.received.read()
	return bytes
}

func (d *dedicated) close(ctx context.Context) {
	if d.conn != nil {
		closeConn(ctx, d.conn)
	}
}

const (
	// headOfAnswer is more than the server says before it sends rows.
	headOfAnswer = 8 << 10
	// smallAnswer is so little that it tells nothing about the connection.
	smallAnswer = 4 * headOfAnswer
)

// meter measures what comes from the server on one connection, since the last call began. It is safe for concurrent
// use.
type meter struct {
	connected atomic.Bool // what is dialed from then on is another connection, for a request to cancel

	mu    sync.Mutex
	conn  net.Conn
	bytes int64
	since time.Time // when there were more than headOfAnswer
	ended time.Time // when the connection was lost
}

func (m *meter) dialer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || m.connected.Load() {
			return conn, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.conn = conn
		return meteredConn{conn, m}, nil
	}
}

// hangUp ends a connection that was lost in the middle of an answer. pgx goes on to read it for a while, and until then
// the server, which can't be interrupted while it writes, keeps its locks.
func (m *meter) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended = time.Now(); !m.since.IsZero() {
		m.conn.Close()
	}
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes, m.since = 0, time.Time{}
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended.IsZero() {
		m.bytes += int64(n)
	}
	if m.bytes > headOfAnswer && m.since.IsZero() {
		m.since = time.Now()
	}
}

// read returns how much had come when the connection was lost, and for how long there had been rows.
func (m *meter) read() (bytes int64, rowsFor time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		return m.bytes, 0
	}
	return m.bytes, m.ended.Sub(m.since)
}

// meteredConn is a connection whose meter runs.
type meteredConn struct {
	net.Conn
	received *meter
}

func (c meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.add(n)
	return n, err
}

// readOnly is the SQLSTATE of a stand-by that will be promoted, or of a server that was demoted.
const readOnly = "25006"

// isTemporary says whether it makes sense to repeat the same call: the server was not reached, or did not refuse what
// it was asked but could not do it just now.
func isTemporary(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return !errors.Is(err, ErrDatabaseTooOld)
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "08", // connection
		"40", // serialization, deadlock
		"53", // resources
		"55", // lock not available, and the like
		"57", // shutdown, cancelled
		"58": // system
		return true
	}
	return pg.Code == readOnly
}

// isAboutOthers says whether the server has refused something because of what others do at the same time.
func isAboutOthers(code string) bool {
	return strings.HasPrefix(code, "40") || strings.HasPrefix(code, "55") // serialization, deadlock; lock not available
}

// isWait says whether a wait for a lock was ended, since another session holds it: by the server itself, or by Awa's
// functions, which name the holder. A trigger that raises the same code does so in another of the server's routines,
// whose names are the same in each language, and in a function of another schema.
func isWait(pg *pgconn.PgError) bool {
	raisedIn, _, _ := strings.Cut(pg.Where, "\n")
	return pg.Code == lockNotAvailable && (pg.Routine == "ProcessInterrupts" || strings.Contains(raisedIn, " awa._"))
}

// backoff gives the pauses between attempts to reach the server: each about twice as long as the one before.
type backoff struct {
	next time.Duration
}

const (
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) pause() time.Duration {
	b.next = min(max(2*b.next, firstPause), maxPause)
	return b.next/2 + rand.N(b.next/2)
}

// sleep waits, unless the context ends before; then it returns false.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
