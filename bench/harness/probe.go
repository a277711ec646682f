package harness

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Probe looks at the server, and at /proc, from a session of its own.
type Probe struct {
	conn       *pgx.Conn // of another database than that of the system, for what is of the whole server
	database   string
	postmaster int // 0 where the server is on another machine
}

// Reading is what has been used up to a moment.
type Reading struct {
	At                   time.Time
	WAL, Commits         int64
	ServerCPU, ClientCPU time.Duration
}

// OpenProbe connects to the database "postgres" of the server.
func OpenProbe(ctx context.Context, url, database string, postmaster int) (*Probe, error) {
	conn, err := pgx.Connect(ctx, url)
	return &Probe{conn, database, postmaster}, err
}

// Close ends the probe's session.
func (p *Probe) Close() { p.conn.Close(context.Background()) }

// Read takes a reading.
func (p *Probe) Read(ctx context.Context) (r Reading, err error) {
	r.At = time.Now()
	err = p.conn.QueryRow(ctx, `
		select pg_current_wal_insert_lsn() - '0/0', xact_commit from pg_stat_database where datname = $1`,
		p.database).Scan(&r.WAL, &r.Commits)
	if err != nil {
		return r, err
	}
	processes := processes()
	own := os.Getpid()
	for pid, s := range processes {
		switch {
		case p.postmaster > 0 && (pid == p.postmaster || s.parent == p.postmaster):
			r.ServerCPU += s.own
			if pid == p.postmaster {
				r.ServerCPU += s.children // backends that have ended
			}
		case descends(processes, pid, own, p.postmaster):
			r.ClientCPU += s.own + s.children
		}
	}
	return r, nil
}

// process is a line of /proc.
type process struct {
	parent        int
	own, children time.Duration // processor time; children: those that have ended and were waited for
}

// processes reads /proc; none where there is no /proc.
func processes() map[int]process {
	found := map[int]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if s, ok := parseStat(string(text)); ok && err == nil {
			found[pid] = s
		}
	}
	var self syscall.Rusage // more exact than the ticks of /proc
	if s, ok := found[os.Getpid()]; ok && syscall.Getrusage(syscall.RUSAGE_SELF, &self) == nil {
		s.own = time.Duration(self.Utime.Nano() + self.Stime.Nano())
		found[os.Getpid()] = s
	}
	return found
}

// tick is the unit of times in /proc.
const tick = 10 * time.Millisecond

// parseStat reads /proc/PID/stat. The name of the program, in parentheses, may contain anything.
func parseStat(text string) (p process, ok bool) {
	end := strings.LastIndex(text, ")")
	if end < 0 {
		return p, false
	}
	fields := strings.Fields(text[end+1:]) // from the third on
	if len(fields) < 15 {
		return p, false
	}
	number := func(i int) int {
		n, err := strconv.Atoi(fields[i-3])
		ok = ok && err == nil
		return n
	}
	ok = true
	p.parent = number(4)
	p.own = time.Duration(number(14)+number(15)) * tick
	p.children = time.Duration(number(16)+number(17)) * tick
	return p, ok
}

// descends says whether a process is the ancestor, or was started by it, not by way of another one.
func descends(all map[int]process, pid, ancestor, except int) bool {
	for range 10 {
		switch pid {
		case ancestor:
			return true
		case except, 0, 1:
			return false
		}
		pid = all[pid].parent
	}
	return false
}

// Waits samples what the active sessions of a database wait for, until its context ends.
type Waits struct {
	mu    sync.Mutex
	looks map[string]int
	total int
}

const lookEvery = 50 * time.Millisecond

// Watch takes samples until the context ends.
func (w *Waits) Watch(ctx context.Context, url, database string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		rows, err := conn.Query(context.WithoutCancel(ctx), `
			select case when wait_event is null then 'CPU' else wait_event_type || ':' || wait_event end
			  from pg_stat_activity
			 where datname = $1 and state = 'active'`, database)
		if err != nil {
			return err
		}
		events, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		w.add(events)
	}
}

func (w *Waits) add(events []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks == nil {
		w.looks = map[string]int{}
	}
	for _, e := range events {
		w.looks[e]++
		w.total++
	}
}

// Take returns the shares since the last call.
func (w *Waits) Take() map[string]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	shares := map[string]float64{}
	for event, n := range w.looks {
		shares[event] = float64(n) / float64(w.total)
	}
	w.looks, w.total = nil, 0
	return shares
}

// tables returns the dead tuples of each table of a schema, and the size of all.
func tables(ctx context.Context, url, schema string) (dead map[string]int64, size int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `
		select relname::text, n_dead_tup, pg_total_relation_size(relid)
		  from pg_stat_user_tables where schemaname = $1`, schema)
	if err != nil {
		return nil, 0, err
	}
	dead = map[string]int64{}
	var name string
	var n, bytes int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n, &bytes}, func() error {
		if n > 0 {
			dead[name] = n
		}
		size += bytes
		return nil
	})
	return dead, size, err
}

// loadAverage returns that of the last minute.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	field, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(field, 64)
	return load
}
