// Package mask hides the values of keys in JSON, such as those of passwords, before a person sees them.
package mask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Hidden stands for a value that is hidden, in JSON.
const Hidden = `"***"`

// Default are the patterns that always hold: see New.
var Default = []string{
	"*password*", "*passwd*", "*passphrase*", "*secret*", "*token*", "*authorization*", "*api_key*", "*access_key*",
	"*private_key*", "*credential*", "cookie", "set_cookie",
}

// longestKey bounds the names that are looked for in a text, and with it the work.
const longestKey = 1000

// Masker hides the values of the keys that match its patterns. Many goroutines may use it.
type Masker struct {
	patterns [][]string // each in pieces, between which anything may stand
}

// New returns a masker with the default patterns and more. A pattern is the name of a key, and * in it stands for any
// characters. Upper and lower case, and the characters _, -, . and space, make no difference: api_key is apiKey.
func New(more ...string) (*Masker, error) {
	var m Masker
	for _, pattern := range append(slices.Clone(Default), more...) {
		pieces := strings.Split(pattern, "*")
		for i, piece := range pieces {
			pieces[i] = plain(piece)
		}
		if strings.Join(pieces, "") == "" {
			return nil, errors.New("a pattern should be the name of a key, such as email, or a part of it, such as *phone*")
		}
		m.patterns = append(m.patterns, pieces)
	}
	return &m, nil
}

// plain is a name without what makes no difference.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("_-. ", r) {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// Hides says whether values of a key are hidden.
func (m *Masker) Hides(key string) bool {
	name := plain(key)
	return slices.ContainsFunc(m.patterns, func(pieces []string) bool { return matches(name, pieces) })
}

// matches says whether a name consists of pieces, with anything between two of them.
func matches(name string, pieces []string) bool {
	first, last := pieces[0], pieces[len(pieces)-1]
	if len(pieces) == 1 {
		return name == first
	}
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, piece := range pieces[1 : len(pieces)-1] {
		_, after, ok := strings.Cut(name, piece)
		if !ok {
			return false
		}
		name = after
	}
	return true
}

// JSON hides values in JSON, which may be cut off anywhere, and leaves all other bytes as they are. Strings in it may
// hold JSON, too: see Text.
func (m *Masker) JSON(text []byte) []byte { return m.below(text, 0) }

// Row is JSON for a row of a query, whose own keys are columns, and always shown.
func (m *Masker) Row(text []byte) []byte { return m.below(text, 1) }

// below hides values of keys of objects within more than so many others.
func (m *Masker) below(text []byte, most int) []byte {
	depth := 0
	var out []byte // nil while all is as it was
	from := 0      // up to here it is in out
	replace := func(start, end int, by string) {
		out = append(append(out, text[from:start]...), by...)
		from = end
	}
	for at := 0; at < len(text); {
		switch text[at] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if text[at] != '"' {
			at++
			continue
		}
		start := at
		at = endOfString(text, start)
		colon := skipSpace(text, at)
		if colon == len(text) || text[colon] != ':' {
			if masked, ok := m.within(text[start:at]); ok {
				replace(start, at, masked)
			}
			continue
		}
		value := skipSpace(text, colon+1)
		at = value
		if value < len(text) && depth > most && m.Hides(decode(text[start:colon])) {
			at = endOfValue(text, value)
			replace(value, at, Hidden)
		}
	}
	if out == nil {
		return text
	}
	return append(out, text[from:]...)
}

// within hides values in what a string, which may be cut off, holds, and says whether there are any.
func (m *Masker) within(quoted []byte) (masked string, ok bool) {
	if !bytes.Contains(quoted, []byte(`\`)) { // no quotation mark is in it
		return "", false
	}
	content := decode(quoted)
	hidden := m.Text(content)
	if hidden == content {
		return "", false
	}
	return encode(hidden), true
}

// Text hides values in a text with JSON in it, such as an error, also where it is quoted, or cut off.
func (m *Masker) Text(text string) string {
	var out strings.Builder
	from := 0
	for at := 0; at < len(text); at++ {
		if text[at] != '"' {
			continue
		}
		quote := text[at-backslashes(text, at) : at+1] // of a text that is quoted: with backslashes
		end := endOfQuoted(text, at+1, len(quote)-1, longestKey)
		if end < 0 || !strings.HasSuffix(text[:end], quote) {
			continue // the mark that ends it may begin another one
		}
		colon := skipSpace(text, end)
		if colon == len(text) || text[colon] != ':' || !m.Hides(unquoted(text[at+1:end-len(quote)], len(quote)-1)) {
			continue
		}
		value := skipSpace(text, colon+1)
		if value == len(text) {
			break
		}
		valueEnd := endOfValueIn(text, value, quote)
		out.WriteString(text[from:value])
		out.WriteString(quote + "***" + quote)
		from, at = valueEnd, valueEnd-1
	}
	if from == 0 {
		return text
	}
	out.WriteString(text[from:])
	return out.String()
}

// unquoted is a name as it was before its text was quoted.
func unquoted(name string, level int) string {
	if level == 0 {
		return decode([]byte(`"` + name + `"`))
	}
	return name
}

// backslashes counts those before a place.
func backslashes(text string, at int) int {
	return at - len(strings.TrimRight(text[:at], `\`))
}

// endOfQuoted returns where a quoted text ends: behind a quotation mark with as many backslashes as the one that
// begins it, or fewer, where the text around it ends. It is negative when that is not within some bytes.
//
// A backslash that the text holds is quoted, too: it is 2*(level+1) backslashes, and these may stand before the mark. A
// mark that the text holds has 2*level+1 beside them.
func endOfQuoted(text string, from, level, most int) int {
	for at := from; at < len(text) && at-from <= most; at++ {
		if text[at] == '"' && backslashes(text[from:], at-from)%(2*(level+1)) <= level {
			return at + 1
		}
	}
	return -1
}

// endOfValueIn returns where a value ends in a text that is quoted as its marks are: at the end of the text, where it
// is cut off.
func endOfValueIn(text string, value int, quote string) int {
	level := len(quote) - 1
	depth := 0
	for at := value; at < len(text); at++ {
		switch c := text[at]; {
		case strings.HasPrefix(text[at:], quote):
			end := endOfQuoted(text, at+len(quote), level, len(text))
			if end < 0 {
				return len(text)
			}
			if depth == 0 {
				return end
			}
			at = end - 1
		case c == '"': // the text around it ends
			return at - backslashes(text[value:], at-value)
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			if depth == 0 {
				return at
			}
			if depth--; depth == 0 {
				return at + 1
			}
		case depth == 0 && (c == ',' || isSpace(c)):
			return at
		}
	}
	return len(text)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func skipSpace[T string | []byte](text T, at int) int {
	for at < len(text) && isSpace(text[at]) {
		at++
	}
	return at
}

// endOfString returns where a string ends that begins at a place.
func endOfString(text []byte, start int) int {
	for at := start + 1; at < len(text); at++ {
		switch text[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return len(text)
}

// endOfValue returns where a value of JSON ends that begins at a place.
func endOfValue(text []byte, start int) int {
	depth := 0
	for at := start; at < len(text); {
		switch c := text[at]; c {
		case '"':
			if at = endOfString(text, at); depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return at
			}
			if depth--; depth == 0 {
				return at + 1
			}
		default:
			if depth == 0 && (c == ',' || isSpace(c)) {
				return at
			}
		}
		at++
	}
	return len(text)
}

// decode returns what a string of JSON holds. It may be cut off.
func decode(quoted []byte) string {
	quoted = bytes.TrimRight(quoted, " \t\r\n")
	var content string
	if json.Unmarshal(quoted, &content) == nil {
		return content
	}
	// It is cut off: within an escape, perhaps, which has six bytes at most.
	for cut := range 7 {
		if cut < len(quoted) && json.Unmarshal(append(bytes.Clone(quoted[:len(quoted)-cut]), '"'), &content) == nil {
			return content
		}
	}
	return string(quoted) // it is no JSON
}

// encode returns a text as a string of JSON.
func encode(content string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(content) // of a string, never fails
	return strings.TrimSuffix(out.String(), "\n")
}

// Cut shortens a text to some bytes, and never within a character.
func Cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

// Restore puts back what was hidden: where edited, which somebody has made of the masked form of original, has the mark
// at a key that is hidden, the value of original takes its place. A mark for which there is none is an error. Numbers
// come out as they went in.
func (m *Masker) Restore(edited, original []byte) ([]byte, error) {
	now, err := parse(edited)
	if err != nil {
		return nil, err
	}
	before, err := parse(original)
	if err != nil {
		return nil, err
	}
	restored, err := m.restore(now, before, true)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(restored); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

func parse(text []byte) (value any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("no JSON: there is more than one value")
	}
	return value, nil
}

// restore puts back what was hidden in a value. There may be no value of before.
func (m *Masker) restore(now, before any, isThere bool) (any, error) {
	switch now := now.(type) {
	case map[string]any:
		old, _ := before.(map[string]any)
		for key, value := range now {
			was, ok := old[key]
			if value == "***" && m.Hides(key) {
				if !ok {
					return nil, fmt.Errorf("the value of %q is hidden, and was never there: write it", key)
				}
				now[key] = was
				continue
			}
			restored, err := m.restore(value, was, ok)
			if err != nil {
				return nil, err
			}
			now[key] = restored
		}
	case []any:
		old, _ := before.([]any)
		for i, value := range now {
			var was any
			isOld := len(old) == len(now) // otherwise nobody knows which is which
			if isOld {
				was = old[i]
			}
			restored, err := m.restore(value, was, isOld)
			if err != nil {
				return nil, err
			}
			now[i] = restored
		}
	case string:
		if old, ok := before.(string); isThere && ok && now == m.Text(old) {
			return old, nil
		}
	}
	return now, nil
}
