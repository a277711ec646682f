package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/cmd/awa/internal/mask"
	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/dburl"
)

// viewFlags is how to use what all commands that show something have in common.
const viewFlags = `  --json           print JSON, as it does where stdout is no terminal; --json=false prints a table
  --watch          read again and again, until a signal ends it; as JSON, a line for each reading
  --every DURATION how long it waits in between (2s)
  --timeout DURATION
                   how long a statement may take (10s)
  --mask PATTERN   hide the values of these keys in args, metadata, progress, outputs and errors, beside those
                   such as password, token and api_key; * stands for any characters. May be repeated
  --database-url URL
`

// view is a call of a command that shows what a database has: in tables on a terminal, as JSON elsewhere.
type view struct {
	command        string
	stdout, stderr io.Writer
	terminal       *os.File // nil when stdout is none
	isTable        bool     // it prints a table where no flag says otherwise, whatever stdout is
	asJSON, watch  bool
	every, timeout time.Duration
	masks          []string
	actor          string
	operands       []string
	flags          *flag.FlagSet
	narrow         string // which flags make a reading cheaper
	databaseURL    string

	masker *mask.Masker
	pool   *pgxpool.Pool
}

func newView(command string, timeout time.Duration, narrow string, stdout, stderr io.Writer) *view {
	return &view{command: command, stdout: stdout, stderr: stderr, terminal: terminalOf(stdout), every: 2 * time.Second,
		timeout: timeout, narrow: narrow}
}

// terminalOf returns the terminal that a writer writes to, or nil.
func terminalOf(w io.Writer) *os.File {
	if p, ok := w.(*printable); ok {
		w = p.w
	}
	if file, ok := w.(*os.File); ok {
		if _, _, ok := terminalSize(file); ok {
			return file
		}
	}
	return nil
}

// durationFlag reads a duration that is longer than 0.
func durationFlag(d *time.Duration) func(string) error {
	return func(value string) (err error) {
		if *d, err = time.ParseDuration(value); err != nil || *d <= 0 {
			return errors.New("should be a positive duration, as 10s or 5m")
		}
		return nil
	}
}

// numberFlag reads a number within a range.
func numberFlag[T int | int64](n *T, least, most T) func(string) error {
	return func(value string) error {
		i, err := strconv.ParseInt(value, 10, 64)
		if err != nil || i < int64(least) || i > int64(most) {
			return fmt.Errorf("should be a number from %d to %d", least, most)
		}
		*n = T(i)
		return nil
	}
}

// parse reads the command line. Flags of its own are defined by more.
func (v *view) parse(args []string, max int, more func(*flag.FlagSet)) (err error) {
	v.operands, v.databaseURL, err = parse(v.command, args, max, v.stdout, v.stderr, func(flags *flag.FlagSet) {
		v.flags = flags
		flags.BoolVar(&v.asJSON, "json", v.terminal == nil && !v.isTable, "")
		flags.BoolVar(&v.watch, "watch", false, "")
		flags.Func("every", "", durationFlag(&v.every))
		flags.Func("timeout", "", durationFlag(&v.timeout))
		flags.Func("mask", "", func(pattern string) error {
			_, err := mask.New(pattern)
			v.masks = append(v.masks, pattern)
			return err
		})
		if more != nil {
			more(flags)
		}
	})
	if err != nil {
		return err
	}
	if v.masker, err = mask.New(v.masks...); err != nil {
		return err
	}
	if v.command != "schedules" && slices.ContainsFunc(v.operands, isDatabaseURL) {
		return v.refuse("an argument is the URL of a database: pass that by --database-url")
	}
	if v.given("every") {
		v.watch = true
	}
	return nil
}

// actorFlag defines the flag that says for whom jobs are changed.
func (v *view) actorFlag(flags *flag.FlagSet) { flags.StringVar(&v.actor, "actor", "", "") }

// refuse tells what is wrong with the command line. It shows nothing of the arguments but names of flags.
func (v *view) refuse(format string, args ...any) error {
	fmt.Fprintf(v.stderr, "awa %s: %s\n%s", v.command, fmt.Sprintf(format, args...), usages[v.command])
	return errUsage
}

// given says whether a flag is in the command line.
func (v *view) given(name string) (is bool) {
	v.flags.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

// only refuses flags that have no meaning for an action.
func (v *view) only(action string, known ...string) error {
	known = append(slices.Clone(known), "json", "timeout", "mask", "database-url")
	var wrong []string
	v.flags.Visit(func(f *flag.Flag) {
		if !slices.Contains(known, f.Name) {
			wrong = append(wrong, "--"+f.Name)
		}
	})
	if len(wrong) > 0 {
		return v.refuse("%s has no meaning for %s", strings.Join(wrong, ", "), action)
	}
	return nil
}

// open makes the pool: of few connections, which are made anew when they are lost.
func (v *view) open(ctx context.Context) error {
	if v.databaseURL == "" {
		return fmt.Errorf("which database? Pass --database-url, or set DATABASE_URL, as in\n"+
			"\tawa %s --database-url postgres://user:password@localhost:5432/mydb", v.command)
	}
	cfg, err := dburl.ParsePool(v.databaseURL)
	if err != nil {
		return explain(err)
	}
	cfg.MinConns, cfg.MaxConns = 0, 2 // of the second one only awa schedules has need
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "awa " + v.command
	}
	if v.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return explain(err)
	}
	return nil
}

func (v *view) close() {
	if v.pool != nil {
		v.pool.Close()
	}
}

// transaction runs statements that may take so long each, with PostgreSQL's own names alone where no schema is named.
// All settings end with it, so that it works behind a proxy.
func (v *view) transaction(ctx context.Context, mode pgx.TxAccessMode, do func(context.Context, pgx.Tx) error) error {
	return v.within(ctx, v.timeout, mode, do)
}

func (v *view) within(
	ctx context.Context, timeout time.Duration, mode pgx.TxAccessMode, do func(context.Context, pgx.Tx) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, 4*timeout+5*time.Second) // where the server doesn't answer at all
	defer cancel()
	opts := pgx.TxOptions{AccessMode: mode, IsoLevel: pgx.ReadCommitted}
	return pgx.BeginTxFunc(ctx, v.pool, opts, func(tx pgx.Tx) error {
		const settings = `
			select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
			       pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('TimeZone', 'UTC', true),
			       pg_catalog.set_config('DateStyle', 'ISO', true), pg_catalog.set_config('IntervalStyle', 'postgres', true),
			       pg_catalog.set_config('awa.actor', $2, true)`
		milliseconds := max(timeout.Milliseconds(), 1)
		if _, err := tx.Exec(ctx, settings, strconv.FormatInt(milliseconds, 10), v.actor); err != nil {
			return err
		}
		return do(ctx, tx)
	})
}

// inWords says what has gone wrong, and what to do.
func (v *view) inWords(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.As(err, &pg) && pg.Code == "57014": // query_canceled
		narrow := "allow it more by --timeout"
		if v.narrow != "" {
			narrow = "narrow it by " + v.narrow + ", or " + narrow
		}
		return fmt.Errorf("it took longer than %s: %s", v.timeout, narrow)
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("the server does not answer")
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fmt.Errorf("the role of this login may not do that: %s\nReading needs the role awa_reader, changes "+
			"awa_operator, or those with the prefix that Awa was installed with", pg.Message)
	case errors.As(err, &pg) && (pg.Code == "3F000" || pg.Code == "42883" || pg.Code == "42P01" || pg.Code == "42703"):
		return fmt.Errorf("Awa is not installed in this database, or in another version: %s\nSee awa doctor, and "+
			"awa migrate", pg.Message)
	}
	return explain(driver.MapError(err))
}

// shown is what a command has read: as JSON, and in lines of so many characters at most, where that is not 0.
type shown struct {
	value any
	lines func(width int) []string

	more    string // what to say where there may be more, or ""
	isAsked bool   // as many were asked for
}

// printed are the lines, the last of which says that there may be more.
func (s shown) printed(width int) []string {
	lines := s.lines(width)
	if s.more != "" {
		lines = append(lines, s.more)
	}
	return lines
}

// reader reads what is shown.
type reader func(context.Context, pgx.Tx) (shown, error)

// show reads and prints, once or again and again.
func (v *view) show(ctx context.Context, read reader) error {
	if err := v.open(ctx); err != nil {
		return err
	}
	defer v.close()
	return v.again(ctx, read)
}

// again reads and prints, once or again and again, when the pool is there.
func (v *view) again(ctx context.Context, read reader) error {
	if v.watch {
		return v.watching(ctx, read)
	}
	s, err := v.read(ctx, read)
	if err != nil {
		return err
	}
	return v.print(s)
}

func (v *view) read(ctx context.Context, read reader) (s shown, err error) {
	err = v.transaction(ctx, pgx.ReadOnly, func(ctx context.Context, tx pgx.Tx) (err error) {
		s, err = read(ctx, tx)
		return err
	})
	return s, v.inWords(ctx, err)
}

func (v *view) print(s shown) error {
	if v.asJSON {
		if err := v.printJSON(s.value, "  "); err != nil {
			return err
		}
		if s.more != "" && !s.isAsked {
			fmt.Fprintln(v.stderr, "awa:", s.more)
		}
		return nil
	}
	width, _ := v.size()
	_, err := io.WriteString(v.stdout, joined(s.printed(width)))
	return err
}

func (v *view) printJSON(value any, indent string) error {
	encoder := json.NewEncoder(v.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(value)
}

// size returns how many characters and lines the terminal has; 0 for any number.
func (v *view) size() (width, height int) {
	if v.terminal == nil {
		return 0, 0
	}
	width, height, _ = terminalSize(v.terminal)
	return width, height
}

func joined(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// watching shows what is read until the context ends. Of what could not be read again it says since when it is.
func (v *view) watching(ctx context.Context, read reader) error {
	var last shown
	var at time.Time // of the last reading that succeeded
	for {
		s, err := v.read(ctx, read)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && at.IsZero():
			return err
		case err == nil:
			last, at = s, time.Now()
		}
		if err := v.frame(last, at, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(v.every):
		}
	}
}

// frame prints one reading of many.
func (v *view) frame(s shown, at time.Time, failed error) error {
	if v.asJSON {
		if failed != nil {
			fmt.Fprintln(v.stderr, "awa:", oneLine(failed.Error()))
			return nil
		}
		return v.printJSON(s.value, "")
	}
	width, height := v.size()
	head := fmt.Sprintf("awa %s, every %s: read at %s UTC", v.command, v.every, at.UTC().Format(time.TimeOnly))
	trouble := ""
	if failed != nil {
		trouble = fmt.Sprintf("NOT READ FOR %s: %s", age(time.Since(at)), oneLine(failed.Error()))
	}
	lines := append([]string{head, trouble}, s.printed(width)...)
	if v.terminal == nil {
		_, err := io.WriteString(v.stdout, joined(append(lines, "")))
		return err
	}
	if height > 2 && len(lines) >= height {
		lines = append(lines[:height-2], fmt.Sprintf("(%d lines more)", len(lines)-height+2))
	}
	// Only these sequences reach the terminal as they are: to the top, clear the rest of each line, and of the screen.
	var b strings.Builder
	b.WriteString("\x1b[H")
	for _, line := range lines {
		text := string(escaped([]byte(line)))
		if p, ok := v.stdout.(*printable); ok && p.hidden != nil {
			text = string(escaped([]byte(p.hidden.Replace(line))))
		}
		b.WriteString(cut(text, width) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, err := v.terminal.WriteString(b.String())
	return err
}

// rowsOf returns the rows of a query of one column with JSON: as it is, but for what is masked, and decoded.
func rowsOf[T any](
	ctx context.Context, tx pgx.Tx, masker *mask.Masker, query string, args ...any,
) (raw []json.RawMessage, rows []T, err error) {
	found, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, nil, err
	}
	raw, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (json.RawMessage, error) {
		var text string
		err := row.Scan(&text)
		return masker.Row([]byte(text)), err
	})
	if err != nil {
		return nil, nil, err
	}
	rows = make([]T, len(raw))
	for i, row := range raw {
		if err := json.Unmarshal(row, &rows[i]); err != nil {
			return nil, nil, fmt.Errorf("a row can't be read: %w", err)
		}
	}
	return raw, rows, nil
}

// now returns the server's time: this machine's clock may be another one.
func now(ctx context.Context, tx pgx.Tx) (at time.Time, err error) {
	return at, tx.QueryRow(ctx, "select clock_timestamp()").Scan(&at)
}
