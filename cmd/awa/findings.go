package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// printFindings prints what is wrong, a line for each thing, and one line for a topic where nothing is: all that was
// found when verbose.
// A finding about several subjects is printed once.
func printFindings(w io.Writer, findings []finding, verbose bool) {
	for len(findings) > 0 {
		topic := findings[0].Topic
		var wrong, fine []finding
		findings = slices.DeleteFunc(slices.Clone(findings), func(f finding) bool {
			switch {
			case f.Topic != topic:
				return false
			case f.Level == levelOK:
				fine = append(fine, f)
			default:
				wrong = append(wrong, f)
			}
			return true
		})
		switch {
		case verbose:
			for _, f := range append(wrong, fine...) {
				printFinding(w, f)
			}
		case len(wrong) > 0:
			for _, f := range merge(wrong) {
				printFinding(w, f)
			}
		case len(fine) > 2:
			printFinding(w,
				finding{Level: levelOK, Topic: topic,
					Message: fmt.Sprintf("%d looked at, all well; --verbose shows them", len(fine))})
		default:
			var texts []string
			for _, f := range fine {
				texts = append(texts, f.text())
			}
			printFinding(w, finding{Level: levelOK, Topic: topic, Message: strings.Join(texts, "; ")})
		}
	}
}

func printFinding(w io.Writer, f finding) {
	text := f.text()
	if f.Hint != "" && f.Level != levelOK {
		text = strings.TrimSuffix(text, ".") + ". " + f.Hint
	}
	fmt.Fprintf(w, "%-8s  %-11s  %s\n", f.Level, f.Topic, oneLine(text))
}

func (f finding) text() string {
	if f.Subject == "" {
		return f.Message
	}
	return f.Subject + ": " + f.Message
}

// merge makes one finding of those that differ in the subject alone, and names some of the subjects.
func merge(findings []finding) (merged []finding) {
	for len(findings) > 0 {
		first := findings[0]
		var subjects []string
		findings = slices.DeleteFunc(slices.Clone(findings), func(f finding) bool {
			same := f.Level == first.Level && f.Message == first.Message && f.Hint == first.Hint
			if same {
				subjects = append(subjects, f.Subject)
			}
			return same
		})
		if n := len(subjects) - 5; n > 0 {
			subjects = append(subjects[:5], fmt.Sprintf("%d more", n))
		}
		first.Subject = strings.Join(subjects, ", ")
		merged = append(merged, first)
	}
	return merged
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
