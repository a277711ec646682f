package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	barWidth   = 40
	redrawTTY  = 100 * time.Millisecond
	redrawFile = 2 * time.Second
)

// progress shows how far something is: on a terminal in one line that is redrawn, elsewhere in a line now and then.
type progress struct {
	w        io.Writer
	what     string
	total    int
	terminal bool
	began    time.Time
	drawn    time.Time
	width    int // of the line on the terminal
}

func newProgress(w io.Writer, what string, total int) *progress {
	if p, ok := w.(*printable); ok {
		w = p.w // it prints numbers, and moves the cursor
	}
	p := &progress{w: w, what: what, total: total, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		fi, err := f.Stat()
		p.terminal = err == nil && fi.Mode()&os.ModeCharDevice != 0
	}
	p.drawn = p.began
	return p
}

// show says that so many of the total are done.
func (p *progress) show(done int) {
	every := redrawFile
	if p.terminal {
		every = redrawTTY
	}
	if time.Since(p.drawn) >= every {
		p.draw(done)
	}
}

// end leaves the last state on the screen.
func (p *progress) end(done int) {
	if p.terminal {
		p.draw(done)
		fmt.Fprintln(p.w)
	}
}

func (p *progress) draw(done int) {
	p.drawn = time.Now()
	text := fmt.Sprintf("%s of %s %s", group(done), group(p.total), p.what)
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	filled := barWidth * done / max(p.total, 1)
	line := fmt.Sprintf("[%s%s] %s", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), text)
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

// group writes a number with commas: 12,345.
func group(n int) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
