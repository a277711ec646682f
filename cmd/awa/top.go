package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/jackc/pgx/v5"
)

const topUsage = `usage: awa top [--every DURATION] [--timeout DURATION] [--mask PATTERN] [--actor NAME]
               [--database-url URL]

Shows queues with their rates, the jobs that have been running for longest, and what is wrong, on a terminal,
and reads again every 2 seconds. Keys pause and resume a queue, explain, cancel or discard a running job, each
after a question; the last line lists them. To look needs the role awa_reader, to change awa_operator. awa
help job says what the flags do.

Of the running jobs, it looks at the 1,000 that were enqueued last.

Exit status: 0 it was left, or stopped by a signal; 1 it failed; 2 the command line is wrong.
`

// topJobs is how many running jobs it shows.
const topJobs = 50

// topRunningQuery reads the jobs that have been running for longest, of so many that were enqueued last; how many these
// are; and how many run.
var topRunningQuery = strings.Replace(briefly(fmt.Sprintf(`(
	  select j.*, count(*) over () as looked, (select sum(c.running)::bigint from awa.queue_counts() c) as all_running
	    from awa.job_summaries(state => 'running', max_jobs => $1) j
	   order by j.attempted_at, j.id
	   limit %d) j`, topJobs), ", j.looked, j.all_running"), "order by j.id desc", "order by j.attempted_at, j.id", 1)

// topLooks is how many running jobs it looks at.
const topLooks = 1000

// topJob is a running job, and how many there are.
type topJob struct {
	listed
	Looked     int64 `json:"looked"`
	AllRunning int64 `json:"all_running"`
}

func runTop(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v := newView("top", 10*time.Second, "", stdout, stderr)
	if err := v.parse(args, 0, func(flags *flag.FlagSet) { v.actorFlag(flags) }); err != nil {
		return err
	}
	if v.given("json") || v.given("watch") {
		return v.refuse("--json and --watch have no meaning for top: see awa queues")
	}
	if v.terminal == nil {
		return errors.New("stdout is no terminal: awa queues --watch prints the same elsewhere")
	}
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	source := &topSource{view: v}
	first := source.read(ctx) // what is wrong with the URL, or the role, is said before the screen is cleared
	if err := first.errs[topQueues]; err != nil {
		return err
	}
	tty, err := tcell.NewStdIoTty()
	if err != nil {
		return err
	}
	screen, err := tcell.NewTerminfoScreenFromTty(tty)
	if err != nil {
		return fmt.Errorf("this terminal is not known, see TERM: %w", err)
	}
	if err := screen.Init(); err != nil {
		return err
	}
	defer screen.Fini()
	return topLoop(ctx, screen, &topModel{actions: source, every: v.every}, first)
}

// topLoop gives the model its messages, and shows it, until it quits.
func topLoop(ctx context.Context, screen tcell.Screen, m *topModel, first topReading) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	messages := make(chan any)
	start := func(do topCommand) {
		if do == nil {
			return
		}
		running.Go(func() {
			message := do(ctx)
			select {
			case messages <- message:
			case <-ctx.Done():
			}
		})
	}
	events := make(chan tcell.Event)
	quit := make(chan struct{})
	running.Go(func() { screen.ChannelEvents(events, quit) })
	defer close(quit)
	ticker := time.NewTicker(m.every)
	defer ticker.Stop()
	m.now = time.Now()
	m.width, m.height = screen.Size()
	m.update(first)
	for !m.quit {
		topDraw(screen, m.view())
		select {
		case <-ctx.Done():
			return nil
		case at := <-ticker.C:
			start(m.update(topTick(at)))
		case message := <-messages:
			start(m.update(message))
		case event, ok := <-events:
			if !ok {
				return nil
			}
			if message := topMessage(event); message != nil {
				start(m.update(message))
			}
			if _, ok := event.(*tcell.EventResize); ok {
				screen.Sync()
			}
		}
	}
	return nil
}

// topMessage returns what an event of the terminal means to the model, or nil.
func topMessage(event tcell.Event) any {
	switch event := event.(type) {
	case *tcell.EventResize:
		width, height := event.Size()
		return topSize{width, height}
	case *tcell.EventKey:
		switch event.Key() {
		case tcell.KeyRune:
			return topKey(string(event.Rune()))
		case tcell.KeyUp:
			return topKey("Up")
		case tcell.KeyDown:
			return topKey("Down")
		case tcell.KeyPgUp:
			return topKey("PgUp")
		case tcell.KeyPgDn:
			return topKey("PgDn")
		case tcell.KeyTab, tcell.KeyBacktab:
			return topKey("Tab")
		case tcell.KeyEnter:
			return topKey("Enter")
		case tcell.KeyEscape:
			return topKey("Esc")
		case tcell.KeyBackspace, tcell.KeyBackspace2:
			return topKey("Backspace")
		case tcell.KeyCtrlC:
			return topKey("Ctrl+C")
		}
	}
	return nil
}

var topStyles = map[topStyle]tcell.Style{
	topPlain:   tcell.StyleDefault,
	topBold:    tcell.StyleDefault.Bold(true),
	topCursor:  tcell.StyleDefault.Reverse(true),
	topTrouble: tcell.StyleDefault.Bold(true).Foreground(tcell.ColorRed),
}

// topDraw puts lines on the screen. Their text is printable already.
func topDraw(screen tcell.Screen, lines []topLine) {
	screen.Clear()
	for y, line := range lines {
		screen.PutStrStyled(0, y, line.text, topStyles[line.style])
	}
	screen.Show()
}

// topSource reads and changes the database for awa top.
type topSource struct {
	view     *view
	readings int
	looks    int // at so many running jobs; 0 for topLooks
}

// read reads each part by itself. Health costs most, and is read every fifth time.
func (s *topSource) read(ctx context.Context) topReading {
	r := topReading{errs: map[string]error{}}
	v := s.view
	part := func(name string, do func(context.Context, pgx.Tx) error) {
		if err := v.inWords(ctx, v.transaction(ctx, pgx.ReadOnly, do)); err != nil {
			r.errs[name] = s.masked(err)
		}
	}
	part(topQueues, func(ctx context.Context, tx pgx.Tx) (err error) {
		if r.at, err = now(ctx, tx); err == nil {
			_, r.queues, err = rowsOf[queue](ctx, tx, v.masker, queuesQuery, nil, nil, 10000)
		}
		return err
	})
	part(topRunning, func(ctx context.Context, tx pgx.Tx) (err error) {
		_, jobs, err := rowsOf[topJob](ctx, tx, v.masker, topRunningQuery, cmp.Or(s.looks, topLooks))
		for _, j := range jobs {
			r.running = append(r.running, j.listed)
			r.looked, r.allRunning = j.Looked, j.AllRunning
		}
		return err
	})
	if s.readings++; s.readings%5 == 1 {
		part(topHealth, func(ctx context.Context, tx pgx.Tx) (err error) {
			_, r.findings, err = rowsOf[healthFinding](ctx, tx, v.masker, healthQuery)
			return err
		})
	}
	return r
}

func (s *topSource) act(ctx context.Context, query string, args ...any) error {
	return s.masked(s.view.inWords(ctx, s.view.transaction(ctx, pgx.ReadWrite, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})))
}

// masked is an error as it is shown.
func (s *topSource) masked(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(s.view.masker.Text(err.Error()))
}

func (s *topSource) explain(ctx context.Context, id int64) (says string, err error) {
	err = s.view.transaction(ctx, pgx.ReadOnly, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "select awa.explain_job($1)", id).Scan(&says)
	})
	return s.view.masker.Text(says), s.masked(s.view.inWords(ctx, err)) // the last error of the job is in it
}
