package ui

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// show returns a text with everything escaped that can't be seen, or that reorders a line: names, errors and arguments
// are whatever a producer has made them.
func show(text string) string {
	var b strings.Builder
	for _, r := range text {
		isBreak := r == '\u2028' || r == '\u2029'
		if isBreak || r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// inputValue returns the value of an input, with what show escapes as references, so that it is sent as it is.
func inputValue(text string) template.HTMLAttr {
	var b strings.Builder
	for _, r := range text {
		if s := string(r); show(s) == s && r != '\n' && r != '\t' {
			b.WriteString(template.HTMLEscapeString(s))
		} else {
			fmt.Fprintf(&b, "&#%d;", r)
		}
	}
	return template.HTMLAttr(`value="` + b.String() + `"`)
}

// first returns the beginning of a text, as show does.
func first(length int, text string) string {
	runes := 0
	for i := range text {
		if runes++; runes > length {
			return show(text[:i]) + "…"
		}
	}
	return show(text)
}

const (
	exact = "2006-01-02 15:04:05.000000 UTC"
	brief = "2006-01-02 15:04:05"
)

// instant returns a time, and whether there is one.
func instant(value any) (time.Time, bool) {
	switch t := value.(type) {
	case time.Time:
		return t.UTC(), !t.IsZero()
	case *time.Time:
		if t != nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// at returns a time in UTC, with the exact one at hand.
func at(value any) template.HTML {
	t, ok := instant(value)
	if !ok {
		return "–"
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`,
		t.Format(time.RFC3339Nano), t.Format(exact), t.Format(brief)))
}

// Ago returns how long ago a time was by the clock of the database, or how far away it is, with the exact time at hand.
func (p *page) Ago(value any) template.HTML {
	t, ok := instant(value)
	if !ok {
		return "–"
	}
	since := p.clock().Sub(t).Seconds()
	words := seconds(math.Abs(since)) + " ago"
	if since < 0 {
		words = "in " + seconds(-since)
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`,
		t.Format(time.RFC3339Nano), t.Format(exact), words))
}

// clock returns the time of the database.
func (p *page) clock() time.Time {
	if p.now.IsZero() { // it could not be read
		return time.Now()
	}
	return p.now
}

// number returns a number with its thousands apart.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// seconds returns a duration in a few characters; nothing for none.
func seconds(value any) string {
	var s float64
	switch v := value.(type) {
	case float64:
		s = v
	case *float64:
		if v == nil {
			return "–"
		}
		s = *v
	}
	switch {
	case s < 0.0005:
		return "0 ms"
	case s < 1:
		return strconv.FormatFloat(s*1000, 'f', 0, 64) + " ms"
	case s < 10:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case s < 120:
		return strconv.FormatFloat(s, 'f', 0, 64) + " s"
	case s < 7200:
		return strconv.FormatFloat(s/60, 'f', 0, 64) + " min"
	case s < 172800:
		return strconv.FormatFloat(s/3600, 'f', 0, 64) + " h"
	}
	return strconv.FormatFloat(s/86400, 'f', 0, 64) + " days"
}

// size returns a number of bytes in a few characters.
func size(n int64) string {
	switch f := float64(n); {
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1<<20:
		return strconv.FormatFloat(f/(1<<10), 'f', 1, 64) + " KiB"
	case n < 1<<30:
		return strconv.FormatFloat(f/(1<<20), 'f', 1, 64) + " MiB"
	default:
		return strconv.FormatFloat(f/(1<<30), 'f', 1, 64) + " GiB"
	}
}
