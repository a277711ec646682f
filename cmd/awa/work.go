package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/dburl"
)

// Exit statuses of CMD that say more than that it failed, as sysexits.h has them.
const (
	exitDataErr  = 65 // the job can't be done, ever
	exitTempFail = 75 // not now
)

const (
	snoozeFor     = time.Minute
	maxOutput     = 1 << 20  // bytes of CMD's standard output
	maxStderr     = 8 << 10  // bytes of its standard error that are kept in a job's errors
	maxStderrLine = 64 << 10 // bytes that are waited for to be a line
)

// killDelay is how long CMD may take to end after SIGTERM, and its children to close its output after it has ended. It
// has to be shorter than the 5 s for which the driver waits for handlers whose contexts have ended: who is still there
// when awa ends is not killed by anybody. A variable for the sake of tests.
var killDelay = 3 * time.Second

func runWork(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var command string
	var middleware []driver.Middleware
	cfg := driver.WorkerConfig{Slots: runtime.GOMAXPROCS(0)}
	_, databaseURL, err := parse("work", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.Func("exec", "", func(value string) error {
			if command != "" {
				return errors.New("there is one already")
			}
			command = value
			return nil
		})
		flags.Func("queue", "", func(value string) error {
			queue, err := parseQueue(value)
			if err == nil && slices.ContainsFunc(cfg.Queues, func(q driver.QueueConfig) bool { return q.Name == queue.Name }) {
				err = errors.New("this queue is there already")
			}
			cfg.Queues = append(cfg.Queues, queue)
			return err
		})
		flags.Func("slots", "", func(value string) (err error) {
			if cfg.Slots, err = strconv.Atoi(value); err != nil || cfg.Slots < 1 || cfg.Slots > 10_000 {
				return errors.New("should be a number from 1 to 10,000")
			}
			return nil
		})
		flags.Func("timeout", "", func(value string) error {
			timeout, err := time.ParseDuration(value)
			if err != nil || timeout <= 0 {
				return errors.New("should be a positive duration, as in 90s, 10m or 1h30m")
			}
			middleware = []driver.Middleware{driver.Timeout(timeout)}
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case strings.TrimSpace(command) == "":
		fmt.Fprintln(stderr,
			"awa work: which command is to do the jobs? Pass --exec, as in\n\tawa work --exec ./handle-job.sh")
		return errUsage
	case databaseURL == "":
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa work --exec CMD --database-url postgres://user:password@localhost:5432/mydb")
	}
	if _, err := exec.LookPath("sh"); err != nil { // better than to find out for each job
		return fmt.Errorf("CMD is run by a shell: %w", err)
	}
	poolConfig, err := dburl.ParsePool(databaseURL)
	if err != nil {
		return explain(err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return explain(err)
	}
	defer pool.Close()

	log := &sharedWriter{w: stderr}
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: shortenError}))
	handlers := driver.NewHandlers()
	driver.HandleOthers(handlers, (&program{command: command, stderr: log}).run, middleware...)
	cfg = cfg.WithDefaults()
	worker, err := driver.NewWorker(pool, handlers, cfg)
	if err != nil {
		return err
	}

	// The reader of the log may go: that is no reason to die, and to leave CMDs behind. The signal is not ignored, because
	// CMD would inherit that.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	stops := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if !signal.Ignored(s) { // by nohup, or by a shell that runs this in the background
			stops = append(stops, s)
		}
	}
	var names []string
	for _, q := range cfg.Queues {
		names = append(names, q.Name)
	}
	cfg.Logger.InfoContext(ctx, "starting", "queues", names, "slots", cfg.Slots)
	err = worker.RunUntilSignal(ctx, stops...)
	var pg *pgconn.PgError
	// insufficient_privilege: the driver's hint is for workers, ours for migrate
	if errors.As(err, &pg) && pg.Code == "42501" {
		return err
	}
	return explain(err)
}

// parseQueue reads NAME[=WEIGHT].
func parseQueue(value string) (driver.QueueConfig, error) {
	queue := driver.QueueConfig{Name: value}
	if i := strings.LastIndexByte(value, '='); i >= 0 {
		var err error
		queue.Name = value[:i]
		if queue.Weight, err = strconv.Atoi(value[i+1:]); err != nil || queue.Weight < 1 || queue.Weight > 1000 {
			return queue, errors.New("the weight should be a number from 1 to 1,000")
		}
	}
	if isDatabaseURL(queue.Name) {
		return queue, errors.New("the name is the URL of a database: pass that by --database-url")
	}
	if length := utf8.RuneCountInString(queue.Name); length < 1 || length > 200 {
		return queue, errors.New("the name should be 1 to 200 characters long")
	}
	return queue, nil
}

// program is a command that does jobs.
type program struct {
	command string
	stderr  io.Writer // safe for concurrent use
}

// run runs the command for one job.
func (p *program) run(ctx context.Context, job *driver.RawJob) error {
	input, err := encodeJob(job)
	if err != nil {
		return err
	}
	var stdout limitedWriter
	var stderr tailWriter
	lines := lineWriter{w: p.stderr, prefix: fmt.Sprintf("job %d: ", job.ID)}
	cmd := exec.CommandContext(ctx, "sh", "-c", p.command)
	cmd.Env = append(os.Environ(),
		"AWA_JOB_ID="+strconv.FormatInt(job.ID, 10),
		"AWA_RECEIPT="+strconv.FormatInt(job.Receipt, 10),
		"AWA_QUEUE="+job.Queue,
		"AWA_KIND="+job.Kind,
		"AWA_ATTEMPT="+strconv.Itoa(job.Attempt),
		"AWA_MAX_ATTEMPTS="+strconv.Itoa(job.MaxAttempts),
	)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, io.MultiWriter(&stderr, &lines)
	isolate(cmd)
	stopped := false
	cmd.Cancel = func() error {
		stopped = true
		return terminate(cmd)
	}
	cmd.WaitDelay = killDelay
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return err // it did not start
	}
	kill(cmd) // what it has left in the background
	lines.flush()

	// The other errors of Run, about its pipes, do not matter: the exit status decides.
	failure := func(how error) error { return &exitError{how: how, stderr: stderr.String()} }
	switch status := cmd.ProcessState; {
	case stopped:
		// Whatever the status: many a program that is told to end does so with 0, although its work is not done.
		return failure(fmt.Errorf("%w (%v)", context.Cause(ctx), status))
	case stdout.full:
		return failure(fmt.Errorf("standard output is more than %d bytes (%v)", maxOutput, status))
	case status.Success():
		job.SetOutput(outputOf(stdout.written.Bytes()))
		return nil
	case status.ExitCode() == exitTempFail:
		return driver.Snooze(snoozeFor)
	case status.ExitCode() == exitDataErr:
		return driver.Discard(failure(errors.New(status.String())))
	default:
		return failure(errors.New(status.String()))
	}
}

// encodeJob returns what CMD reads: the columns of awa.claim, as an object on one line.
func encodeJob(job *driver.RawJob) ([]byte, error) {
	var line bytes.Buffer
	var groupKey *string
	if job.GroupKey != "" {
		groupKey = &job.GroupKey
	}
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(struct {
		JobID       int64           `json:"job_id"`
		Receipt     int64           `json:"receipt"`
		Queue       string          `json:"queue"`
		Kind        string          `json:"kind"`
		Args        json.RawMessage `json:"args"`
		Priority    int             `json:"priority"`
		Attempt     int             `json:"attempt"`
		MaxAttempts int             `json:"max_attempts"`
		CreatedAt   time.Time       `json:"created_at"`
		ReadyAt     time.Time       `json:"ready_at"`
		DeadlineAt  *time.Time      `json:"deadline_at"`
		Tags        []string        `json:"tags"`
		Metadata    json.RawMessage `json:"metadata"`
		Progress    json.RawMessage `json:"progress"`
		GroupKey    *string         `json:"group_key"`
		ExpiresAt   *time.Time      `json:"expires_at"`
	}{
		job.ID, job.Receipt, job.Queue, job.Kind, job.Args, job.Priority, job.Attempt, job.MaxAttempts,
		job.CreatedAt, job.ReadyAt, job.DeadlineAt, job.Tags, job.Metadata, job.Progress, groupKey,
		job.ExpiresAt,
	})
	return line.Bytes(), err
}

// outputOf returns the output of a job whose CMD has written this: JSON as it is, other text as a string, and nil for
// nothing.
func outputOf(written []byte) any {
	written = bytes.TrimRight(written, "\n")
	switch {
	case len(written) == 0:
		return nil
	case isJSONB(written):
		return json.RawMessage(written)
	default: // as it becomes of errors, too; the encoder replaces what is no UTF-8
		return strings.ReplaceAll(string(written), "\x00", "\uFFFD")
	}
}

var (
	// escapes finds the escapes in JSON, the two of a surrogate pair as one.
	escapes = regexp.MustCompile(`\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)`)
	// hugeNumber finds numbers that numeric may not hold, and some that it would; those are not meant.
	hugeNumber = regexp.MustCompile(`[eE][+-]?\d{4}|.{1000}`)
)

// isJSONB says whether jsonb takes the text. It is stricter than JSON: no NUL, no half of a surrogate pair, and numbers
// have to be numeric.
func isJSONB(text []byte) bool {
	if !json.Valid(text) || !utf8.Valid(text) {
		return false
	}
	for _, e := range escapes.FindAll(text, -1) {
		if len(e) == len(`\u0000`) && (string(e) == `\u0000` || (e[2] == 'd' || e[2] == 'D') && e[3] >= '8') {
			return false
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return err == io.EOF
		}
		if number, ok := token.(json.Number); ok && hugeNumber.MatchString(number.String()) {
			return false
		}
	}
}

// exitError is the failure of CMD: how it ended, on the first line, and the end of what it has written to its standard
// error.
type exitError struct {
	how    error
	stderr string
}

func (e *exitError) Error() string {
	return strings.TrimRight(e.how.Error()+"\n"+e.stderr, "\n")
}

func (e *exitError) Unwrap() error { return e.how }

// shortenError leaves out of log records what CMD has written, which is in the log already.
func shortenError(_ []string, attr slog.Attr) slog.Attr {
	if err, ok := attr.Value.Any().(error); ok {
		if _, ok := errors.AsType[*exitError](err); ok {
			how, _, _ := strings.Cut(err.Error(), "\n")
			attr.Value = slog.StringValue(how)
		}
	}
	return attr
}

// limitedWriter keeps what is written to it, and refuses what is more than maxOutput. Then exec.Cmd reads no more, and
// CMD gets SIGPIPE when it writes on.
type limitedWriter struct {
	written bytes.Buffer
	full    bool
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if w.written.Len()+len(b) > maxOutput {
		w.full = true
		return 0, io.ErrShortWrite
	}
	return w.written.Write(b)
}

// tailWriter keeps the last maxStderr bytes of what is written to it.
type tailWriter struct {
	tail []byte
	cut  bool
}

func (w *tailWriter) Write(b []byte) (int, error) {
	w.tail = append(w.tail, b...)
	if more := len(w.tail) - maxStderr; more > 0 {
		w.tail, w.cut = append(w.tail[:0], w.tail[more:]...), true
	}
	return len(b), nil
}

func (w *tailWriter) String() string {
	if w.cut {
		return "..." + string(w.tail)
	}
	return string(w.tail)
}

// lineWriter passes lines on, each with a prefix and in one piece.
type lineWriter struct {
	w      io.Writer
	prefix string
	line   []byte // that has not ended
}

func (w *lineWriter) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		w.line = append(w.line, line...)
		if line[len(line)-1] == '\n' || len(w.line) >= maxStderrLine {
			w.flush()
		}
	}
	return len(b), nil
}

// flush passes on what has not ended.
func (w *lineWriter) flush() {
	if len(w.line) > 0 {
		fmt.Fprintf(w.w, "%s%s\n", w.prefix, bytes.TrimSuffix(w.line, []byte("\n")))
		w.line = w.line[:0]
	}
}

// sharedWriter is a writer for many goroutines. It goes on when it is not read any more.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *sharedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.w.Write(b)
	return len(b), nil
}
