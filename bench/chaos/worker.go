//go:build unix

package chaos

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	awa "github.com/awa-pg/awa/driver"
)

// WorkerCommand is the sub-command of a worker process.
const WorkerCommand = "chaos-worker"

const workerLease = 5 * time.Second

type task struct {
	N int64 `json:"n"`
}

func (task) Kind() string { return "chaos" }

// WorkerMain is a Go worker. It writes what it does to its output, at once, line by line: the run of a job, and what it
// was told of its completion. It completes one half of its jobs in a transaction that has an effect.
func WorkerMain(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet(WorkerCommand, flag.ExitOnError)
	url := flags.String("database-url", "", "the database")
	flags.Parse(arguments)
	cfg, err := pgxpool.ParseConfig(*url)
	if err != nil {
		return err
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = loadName
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, stop := context.WithCancel(ctx)
	go func() { // it ends with the program that has started it
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	handlers := awa.NewHandlers()
	awa.Handle(handlers, func(ctx context.Context, job *awa.Job[task]) error {
		fmt.Fprintf(os.Stdout, "run %d %d %d %d\n", job.Args.N, job.ID, job.Receipt, job.Attempt)
		time.Sleep(time.Duration(job.ID%5) * time.Millisecond)
		if job.Args.N%2 == 0 {
			return nil
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into chaos.effects values ($1)", job.Args.N); err != nil {
				return err
			}
			return job.CompleteTx(ctx, tx)
		})
		if err == nil {
			fmt.Fprintf(os.Stdout, "end %d\n", job.Args.N)
		}
		return err
	})
	w, err := awa.NewWorker(pool, handlers, awa.WorkerConfig{
		Queues: []awa.QueueConfig{{Name: string(worker)}}, Slots: 4, Lease: workerLease, PollInterval: 100 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// process is a worker process.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{} // closed when all that it wrote is in the book

	mu   sync.Mutex
	open map[int64]claim // what it runs, as far as it said
}

// startWorker starts one more worker process.
func (r *rig) startWorker(context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := &process{cmd: exec.Command(self, WorkerCommand, "-database-url", r.clientURL()), ended: make(chan struct{}),
		open: map[int64]claim{}}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	lines, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return err
	}
	r.workers = append(r.workers, p)
	go p.listen(r.book, lines)
	return nil
}

func (p *process) listen(b *book, lines io.Reader) {
	defer close(p.ended)
	for scanner := bufio.NewScanner(lines); scanner.Scan(); {
		var c claim
		line := scanner.Text()
		p.mu.Lock()
		if n, _ := fmt.Sscanf(line, "run %d %d %d %d", &c.n, &c.id, &c.receipt, &c.attempt); n == 4 {
			p.open[c.n] = c
			b.run([]claim{c}, false)
			if c.n%2 == 0 { // nobody hears of its completion
				b.began(c.n)
				delete(p.open, c.n)
			}
		} else if n, _ := fmt.Sscanf(line, "end %d", &c.n); n == 1 {
			delete(p.open, c.n)
			b.end([]int64{c.n}, held, time.Time{})
		}
		p.mu.Unlock()
	}
}

// kill kills the process (kill -9), and returns the jobs that it may have left open.
func (p *process) kill() []claim {
	p.cmd.Process.Kill()
	p.stdin.Close()
	<-p.ended
	p.cmd.Wait()
	return p.running()
}

// stop ends the process as a deploy does.
func (p *process) stop() error {
	p.stdin.Close()
	<-p.ended
	return p.cmd.Wait()
}

func (p *process) running() (claims []claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		claims = append(claims, c)
	}
	slices.SortFunc(claims, func(a, b claim) int { return int(a.n - b.n) })
	return claims
}
