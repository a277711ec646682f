package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// Header is the first line of a file of results.
type Header struct {
	Kind     string            `json:"kind"` // "header"
	Began    time.Time         `json:"began"`
	Machine  string            `json:"machine"`
	Server   string            `json:"server"`
	Settings map[string]string `json:"settings"`
	Rounds   int               `json:"rounds"`
	Systems  []SystemRecord    `json:"systems"`
	LeftOut  []SystemRecord    `json:"left_out,omitempty"` // with the reason
	Unfit    []SystemRecord    `json:"unfit,omitempty"`    // not in one scenario, with the reason
}

// SystemRecord is what the report says about a system.
type SystemRecord struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	Contract string `json:"contract,omitempty"`
	Scenario string `json:"scenario,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Sample is what was measured in one phase of one run of a system: a line of the file.
type Sample struct {
	Kind     string  `json:"kind"` // "sample"
	Round    int     `json:"round"`
	Scenario string  `json:"scenario"`
	System   string  `json:"system"`
	Phase    string  `json:"phase"`
	Seconds  float64 `json:"seconds"`

	Enqueued  float64 `json:"enqueued_per_s"`
	Completed float64 `json:"completed_per_s"`
	// Rate is the figure that the scenario is about: Completed, or Enqueued where nothing is completed.
	Rate     float64    `json:"rate"`
	EndToEnd *Quantiles `json:"end_to_end_ms,omitempty"`
	PickUp   *Quantiles `json:"pick_up_ms,omitempty"`
	Depth    int64      `json:"depth"` // at the end of the phase

	WAL       float64            `json:"wal_bytes_per_job"`
	Commits   float64            `json:"commits_per_job"`
	ServerCPU float64            `json:"server_cpu_us_per_job"` // -1 where the server is on another machine
	ClientCPU float64            `json:"client_cpu_us_per_job"`
	Dead      map[string]int64   `json:"dead_tuples,omitempty"`
	Size      int64              `json:"bytes"` // of the system's tables and indexes
	Waits     map[string]float64 `json:"waits"` // share of looks at active sessions, by wait event
	Load      float64            `json:"load"`  // average of the last minute, of the machine, before the run

	Lost    int64  `json:"lost"`
	Doubled int64  `json:"doubled"`
	Error   string `json:"error,omitempty"` // the run counts for nothing
}

// Results is a file of results.
type Results struct {
	Header  Header
	Samples []Sample
}

// Writer writes results, line by line.
type Writer struct{ w io.Writer }

// Write writes a header or a sample.
func (w Writer) Write(line any) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = w.w.Write(append(text, '\n'))
	return err
}

// ReadFile reads a file of results.
func ReadFile(name string) (*Results, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// Read reads results. A last line that was cut off, because the run was, is left out.
func Read(r io.Reader) (*Results, error) {
	var results Results
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			if results.Header.Kind == "" {
				return nil, fmt.Errorf("no header")
			}
			return &results, nil
		}
		if err != nil {
			return nil, err
		}
		var kind struct{ Kind string }
		if err := json.Unmarshal(line, &kind); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch kind.Kind {
		case "header":
			err = json.Unmarshal(line, &results.Header)
		case "sample":
			results.Samples = append(results.Samples, Sample{})
			err = json.Unmarshal(line, &results.Samples[len(results.Samples)-1])
		default:
			err = fmt.Errorf("unknown kind %q", kind.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
}
