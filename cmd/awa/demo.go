package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/dburl"
	"github.com/awa-pg/awa/internal/pgserver"
)

const (
	enqueueBatch = 500                    // jobs in one transaction
	failEvery    = 200                    // of so many files one fails on its first attempt
	maxAttempts  = 3                      // a file that has gone meanwhile is given up soon
	backoffBase  = "250 milliseconds"     // the first retry waits twice that
	pings        = 200                    // of the idle queue
	pingEvery    = 10 * time.Millisecond  // one after the other
	lookEvery    = 100 * time.Millisecond // for the end
)

// hashFile is the job: hash a file, and leave the hash as the output.
type hashFile struct {
	Number int    `json:"number"`
	Path   string `json:"path"`
}

func (hashFile) Kind() string { return "hash_file" }

// fails says whether the first attempt is to fail.
func (h hashFile) fails() bool { return h.Number%failEvery == 0 }

type hashOutput struct {
	SHA256 string `json:"sha256"`
}

// ping is a job that does nothing.
type ping struct{}

func (ping) Kind() string { return "ping" }

// file is one file and what the demo knows about it.
type file struct {
	path   string
	sha256 string // as the demo took it itself
	tries  int    // attempts of its job, as the handler saw them
	hashed int    // how many of them ended well
}

type demo struct {
	out   io.Writer
	log   *slog.Logger
	pool  *pgxpool.Pool
	queue string
	files []file
	jobs  map[int64]int // the number of the file, by job id

	mu           sync.Mutex // guards what follows, and tries and hashed of files
	firstWaits   []time.Duration
	pingWaits    []time.Duration
	failures     int
	firstTryDone time.Time     // when the first attempt of all files had ended
	pinged       chan struct{} // closed after the last ping
}

func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	operands, databaseURL, err := parse("demo", args, 1, stdout, stderr)
	if err != nil {
		return err
	}
	var dir string
	if len(operands) > 0 {
		dir = operands[0]
		var problem *fs.PathError
		if _, err := os.Stat(dir); errors.As(err, &problem) {
			return fmt.Errorf("DIR: %w", problem.Err) // its name is not shown: it may be a URL
		}
	} else if dir, err = goSource(ctx); err != nil {
		return err
	}
	d := &demo{
		out:    stdout,
		log:    slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		queue:  "demo-" + time.Now().UTC().Format("20060102-150405.000"),
		pinged: make(chan struct{}),
	}
	if err := d.findFiles(ctx, dir); err != nil {
		return err
	}
	if databaseURL == "" {
		server, err := pgserver.Start(ctx, pgserver.Config{Durable: true})
		if errors.Is(err, pgserver.ErrNoBinaries) {
			return fmt.Errorf("%w\nOr use a server that runs already: pass --database-url", err)
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop()) }()
		fmt.Fprintf(d.out, "Started PostgreSQL %s, for this demo only.\n", server.ServerVersion())
		databaseURL = server.URL()
	}
	migration, err := driver.Migrate(ctx, databaseURL)
	if err != nil {
		return explain(err)
	}
	printMigration(d.out, migration)
	poolConfig, err := dburl.ParsePool(databaseURL)
	if err != nil {
		return explain(err)
	}
	pinSearchPath(poolConfig.ConnConfig)
	if d.pool, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		return err
	}
	defer d.pool.Close()
	return d.run(ctx)
}

// goSource returns the source tree of the Go installation.
func goSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if root := string(bytes.TrimSpace(out)); err == nil && root != "" {
		return filepath.Join(root, "src"), nil
	}
	return "", errors.New("no Go installation was found to take files from: name a directory, as in\n\tawa demo DIR")
}

// findFiles reads the files in dir, and takes their hashes to compare with later.
func (d *demo) findFiles(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	unreadable := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && path == dir:
			return err
		case err != nil: // a directory that can't be listed
			unreadable++
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		sum, err := hash(path)
		if err != nil || !utf8.ValidString(path) { // JSON could not carry the name
			unreadable++
			return nil
		}
		d.files = append(d.files, file{path: path, sha256: sum})
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Found %s files in %s", group(len(d.files)), dir)
	if unreadable > 0 {
		fmt.Fprintf(d.out, ", and left out %s that can't be read", group(unreadable))
	}
	fmt.Fprintln(d.out, ".")
	if len(d.files) == 0 {
		return errors.New("there is nothing to do: name a directory with files in it")
	}
	return nil
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (d *demo) run(ctx context.Context) error {
	client := driver.NewClient(d.pool)
	enqueueTime, err := d.enqueue(ctx, client)
	if err != nil {
		return err
	}

	handlers := driver.NewHandlers()
	driver.Handle(handlers, d.hashFile)
	driver.Handle(handlers, d.ping)
	worker, err := driver.NewWorker(d.pool, handlers,
		driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: d.queue}}, Logger: d.log})
	if err != nil {
		return err
	}
	working, stop := context.WithCancelCause(ctx)
	began := time.Now()
	stopped := make(chan error, 1)
	go func() {
		err := worker.Run(working)
		stop(err) // also ends what waits for its work
		stopped <- err
	}()
	workTime, err := d.watch(working, client, began)
	if err == nil {
		err = d.pingIdle(working, client)
	}
	stop(nil)
	if workErr := <-stopped; workErr != nil {
		err = workErr
	}
	if err != nil {
		return err
	}
	if err := d.report(ctx, client, enqueueTime, workTime, d.firstTryDone.Sub(began)); err != nil {
		return err
	}
	return d.check(ctx)
}

// enqueue enqueues a job for each file, some hundreds in one transaction.
func (d *demo) enqueue(ctx context.Context, client *driver.Client) (time.Duration, error) {
	began := time.Now()
	d.jobs = make(map[int64]int, len(d.files))
	bar := newProgress(d.out, "jobs enqueued", len(d.files))
	for from := 0; from < len(d.files); from += enqueueBatch {
		var args []driver.Args
		for i := from; i < min(from+enqueueBatch, len(d.files)); i++ {
			args = append(args, hashFile{Number: i, Path: d.files[i].path})
		}
		err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
			ids, err := client.EnqueueManyTx(ctx, tx, args, driver.EnqueueOptions{Queue: d.queue, MaxAttempts: maxAttempts})
			if err != nil {
				return err
			}
			for i, id := range ids {
				d.jobs[id] = from + i
			}
			if from > 0 {
				return nil
			}
			// A queue exists from its first job.
			settings, err := json.Marshal(map[string]string{"backoff_base": backoffBase})
			if err != nil {
				return err
			}
			return gen.New().ConfigureQueue(ctx, tx, gen.ConfigureQueueParams{Queue: d.queue, Settings: settings})
		})
		if err != nil {
			return 0, err
		}
		bar.show(from + len(args))
	}
	bar.end(len(d.files))
	return time.Since(began), nil
}

// hashFile is the handler of the files' jobs.
func (d *demo) hashFile(_ context.Context, job *driver.Job[hashFile]) error {
	waited := time.Since(job.ReadyAt)
	if job.Args.Number < 0 || job.Args.Number >= len(d.files) {
		return fmt.Errorf("there is no file %d", job.Args.Number)
	}
	sum, err := hash(job.Args.Path)
	if job.Attempt == 1 && job.Args.fails() {
		err = errors.New("the demo lets this file fail once")
	}
	if err == nil {
		job.SetOutput(hashOutput{SHA256: sum})
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	f := &d.files[job.Args.Number]
	f.tries++
	if err != nil {
		d.failures++
	} else {
		f.hashed++
	}
	if job.Attempt == 1 {
		d.firstWaits = append(d.firstWaits, waited)
		if len(d.firstWaits) == len(d.files) {
			d.firstTryDone = time.Now()
		}
	}
	return err
}

// ping is the handler of the jobs that do nothing.
func (d *demo) ping(_ context.Context, job *driver.Job[ping]) error {
	waited := time.Since(job.ReadyAt)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pingWaits = append(d.pingWaits, waited)
	if len(d.pingWaits) == pings {
		close(d.pinged)
	}
	return nil
}

// watch shows the progress until all jobs have ended.
func (d *demo) watch(ctx context.Context, client *driver.Client, began time.Time) (time.Duration, error) {
	bar := newProgress(d.out, "jobs ended", len(d.files))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-look.C:
		}
		counts, err := client.QueueCounts(ctx, d.queue)
		if err != nil {
			return 0, err
		}
		ended := int(counts.Completed + counts.Failed + counts.Cancelled + counts.Dead)
		if ended == len(d.files) {
			bar.end(ended)
			return time.Since(began), nil
		}
		bar.show(ended)
	}
}

// pingIdle enqueues one job at a time to a queue that has nothing else to do.
func (d *demo) pingIdle(ctx context.Context, client *driver.Client) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for range pings {
		if _, err := client.Enqueue(ctx, ping{}, driver.EnqueueOptions{Queue: d.queue}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-d.pinged:
		return nil
	}
}

func (d *demo) report(
	ctx context.Context, client *driver.Client, enqueueTime, workTime, firstTryTime time.Duration,
) error {
	counts, err := client.QueueCounts(ctx, d.queue)
	if err != nil {
		return err
	}
	n := len(d.files)
	fmt.Fprintf(d.out, "\nqueue %s\n", d.queue)
	fmt.Fprintf(d.out, "  enqueued       %s jobs in %s: %s jobs/s\n", group(n), seconds(enqueueTime), rate(n, enqueueTime))
	fmt.Fprintf(d.out, "  worked off     %s files, first attempts alone, in %s: %s jobs/s\n", group(n),
		seconds(firstTryTime), rate(n, firstTryTime))
	fmt.Fprintf(d.out, "  failed once    %s of them, and tried again; all jobs had ended after %s\n", group(d.failures),
		seconds(workTime))
	fmt.Fprintf(d.out, "  pick-up        p50 %s, p99 %s from ready to start, everything enqueued at once\n",
		percentile(d.firstWaits, 50), percentile(d.firstWaits, 99))
	fmt.Fprintf(d.out, "  pick-up, idle  p50 %s, p99 %s from ready to start, %d more jobs, one every %s\n",
		percentile(d.pingWaits, 50), percentile(d.pingWaits, 99), len(d.pingWaits), pingEvery)
	fmt.Fprintf(d.out,
		"  states         %s completed, %s failed, %s cancelled, %s dead, %s available, %s running, %s scheduled, %s "+
			"retryable\n",
		group(int(counts.Completed)), group(int(counts.Failed)), group(int(counts.Cancelled)), group(int(counts.Dead)),
		group(int(counts.Available)), group(int(counts.Running)), group(int(counts.Scheduled)), group(int(counts.Retryable)))
	return nil
}

// check compares what awa.jobs says with what the demo knows.
func (d *demo) check(ctx context.Context) error {
	var problems []string
	problem := func(i int, format string, v ...any) {
		problems = append(problems, d.files[i].path+": "+fmt.Sprintf(format, v...))
	}
	seen := make(map[int]bool, len(d.files))
	var before *int64
	for {
		const page = 1000
		rows, _ := d.pool.Query(ctx, `
			select id, state, attempt, output ->> 'sha256' as sha256
			  from awa.list_jobs(queue => $1, kind => $2, before_id => $3, max_jobs => $4)`, d.queue, hashFile{}.Kind(), before,
			page)
		type row struct {
			ID      int64
			State   string
			Attempt int
			SHA256  *string
		}
		jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		if err != nil {
			return err
		}
		for _, job := range jobs {
			before = &job.ID
			i, ok := d.jobs[job.ID]
			if !ok || seen[i] {
				problems = append(problems, fmt.Sprintf("job %d is in awa.jobs, but should not be, or not twice", job.ID))
				continue
			}
			seen[i] = true
			f := d.files[i]
			attempts := 1
			if (hashFile{Number: i}).fails() {
				attempts = 2
			}
			switch {
			case job.State != "completed":
				problem(i, "the job is %s, not completed", job.State)
			case job.SHA256 == nil || *job.SHA256 != f.sha256:
				problem(i, "the job's output is not the file's hash (was the file changed meanwhile?)")
			case f.hashed != 1:
				problem(i, "hashed %d times", f.hashed)
			case job.Attempt != attempts || f.tries != attempts:
				problem(i, "%d attempts in awa.jobs, %d handler calls; there should have been %d", job.Attempt, f.tries, attempts)
			}
		}
		if len(jobs) < page {
			break
		}
	}
	for i := range d.files {
		if !seen[i] {
			problem(i, "its job is not in awa.jobs")
		}
	}
	if len(d.pingWaits) != pings {
		problems = append(problems, fmt.Sprintf("%d of %d idle jobs were run", len(d.pingWaits), pings))
	}
	if len(problems) > 0 {
		for _, p := range problems[:min(len(problems), 10)] {
			fmt.Fprintln(d.out, "  WRONG         ", p)
		}
		return fmt.Errorf("the check failed: %s problems", group(len(problems)))
	}
	fmt.Fprintf(d.out,
		"  check          ok: every file was hashed exactly once, and its hash is its job's output in awa.jobs\n")
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func rate(n int, d time.Duration) string { return group(int(float64(n) / max(d.Seconds(), 1e-6))) }

// percentile returns the smallest value that is not less than p percent of them, rounded for a reader.
func percentile(values []time.Duration, p int) string {
	if len(values) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(values))
	v := sorted[max((len(sorted)*p+99)/100-1, 0)]
	return fmt.Sprintf("%.1f ms", float64(v)/float64(time.Millisecond))
}
