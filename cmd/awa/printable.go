package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/awa-pg/awa/internal/dburl"
)

// printable passes text on with everything escaped that a terminal may take for a command, or that reorders a line:
// names, errors and arguments are whatever a producer has made them. The escapes are those of JSON, and \xff for what
// is no UTF-8.
type printable struct {
	w      io.Writer
	hidden *strings.Replacer // nil for none
}

// hide has texts replaced from now on, also where they are quoted: names of a URL that may be pieces of a password.
func (p *printable) hide(texts []string) {
	var pairs []string
	for _, text := range texts {
		quoted := strconv.Quote(text)
		inJSON, _ := json.Marshal(text)
		for _, form := range []string{
			text, quoted[1 : len(quoted)-1], string(inJSON[1 : len(inJSON)-1]), strings.ReplaceAll(text, `"`, `""`),
			oneLine(text),
		} {
			pairs = append(pairs, form, "(not shown)")
		}
	}
	p.hidden = strings.NewReplacer(pairs...)
}

// showNames has the user and the database of a URL printed from now on, once the server has let this program in: so
// they are names, and no pieces of a password, and hints that name them can be run.
func showNames(databaseURL string, writers ...io.Writer) {
	for _, w := range writers {
		if p, ok := w.(*printable); ok {
			p.hide(dburl.NotPlainSettings(databaseURL))
		}
	}
}

func (p *printable) Write(b []byte) (int, error) {
	text := b
	if p.hidden != nil {
		text = []byte(p.hidden.Replace(string(b)))
	}
	if _, err := p.w.Write(escaped(text)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func escaped(text []byte) []byte {
	var out []byte // nil when there is nothing to escape so far
	from := 0
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRune(text[at:])
		at += size
		isInvalid := r == utf8.RuneError && size == 1
		if !isInvalid && isPrintable(r) {
			continue
		}
		out = append(out, text[from:at-size]...)
		from = at
		if isInvalid {
			out = fmt.Appendf(out, `\x%02x`, text[at-1])
		} else {
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	if out == nil {
		return text
	}
	return append(out, text[from:]...)
}

func isPrintable(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return true
	case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
		return false
	}
	return r != '\u2028' && r != '\u2029' // separators of lines and paragraphs
}
