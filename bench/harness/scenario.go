package harness

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/awa-pg/awa/bench/systems"
)

// Scenario is a load, and the phases in which it is measured.
type Scenario struct {
	Name string
	What string // for the report

	Producers int
	Batch     int // jobs in an enqueue
	Workers   int // connections that claim; 0: nothing is worked on
	Claim     int // jobs in a claim
	Slots     int // handlers at once, of systems with a worker of their own

	Depth int64   // jobs on their way, where Rate is 0
	Rate  float64 // jobs per second that are offered, by a schedule that waits for no answer

	Queues     int           // 1 where it is 0
	Priorities bool          // 1 to 4 in turn
	Delay      time.Duration // of each job; latencies count from its end
	FailEvery  int           // each such job fails its first attempt
	LongTx     time.Duration // how long a producer's transaction stays open after the enqueue
	Backlog    int           // jobs that are enqueued before anything is worked on, in place of producers
	Processes  int           // worker processes, where more than one
	Network    time.Duration // delay of each packet between clients and server, each way
	Phases     []Phase
}

// Phase is a part of a run.
type Phase struct {
	Name    string
	Length  time.Duration
	Disturb Disturbance
	Factor  float64 // jobs offered, as a multiple of those completed in the phase "clean"; 0: as the scenario says
	Scratch bool    // not reported: a warm-up
}

// needs returns what a system must be able to do.
func (s Scenario) needs() systems.Features {
	return systems.Features{Consume: s.Workers > 0, Queues: s.Queues > 1, Priorities: s.Priorities, Delay: s.Delay > 0,
		Retry: s.FailEvery > 0, Tx: s.LongTx > 0}
}

// fits says why a system can't be measured in the scenario; "" if it can.
func (s Scenario) fits(f systems.Features) string {
	needs := s.needs()
	if f.Many && s.Workers < 16 {
		return "few consumers"
	}
	if f.Solo && s.Rate == 0 && s.Claim > 0 && s.Claim < 100 {
		return "one consumer, who reads by the batch"
	}
	var lacks []string
	for _, n := range []struct {
		needs, has bool
		what       string
	}{
		{needs.Consume, f.Consume, "workers"}, {needs.Queues, f.Queues, "several queues"},
		{needs.Priorities, f.Priorities, "priorities"}, {needs.Delay, f.Delay, "jobs for later"},
		{needs.Retry, f.Retry, "retries after a time"}, {needs.Tx, f.Tx, "enqueue in the caller's transaction here"},
		{s.Processes > 1, !f.Solo, "several consumers"},
		{s.Slots > 0 && s.Workers == 1 && s.Claim == 0, f.Library, "worker with handlers"},
	} {
		if n.needs && !n.has {
			lacks = append(lacks, n.what)
		}
	}
	if len(lacks) > 0 {
		return "no " + strings.Join(lacks, ", no ")
	}
	return ""
}

func plain(warm, length time.Duration) []Phase {
	return []Phase{{Name: "warm-up", Length: warm, Scratch: true}, {Name: "clean", Length: length}}
}

const depth = 4000

// Main returns the scenarios of "make bench": the shapes that docs/benchmarks.md leads with.
func Main(warm, length time.Duration) []Scenario {
	p := plain(warm, length)
	return []Scenario{
		{Name: "bulk", What: "2 producers of 500, 2 consumers of 500 (500 slots)",
			Producers: 2, Batch: 500, Workers: 2, Claim: 500, Slots: 500, Depth: depth, Phases: p},
		{Name: "tens", What: "2 producers of 100, 16 consumers of 10 (160 slots)",
			Producers: 2, Batch: 100, Workers: 16, Claim: 10, Slots: 160, Depth: depth, Phases: p},
		{Name: "single", What: "2 producers of 100, 16 consumers of 1, acknowledged one by one (16 slots)",
			Producers: 2, Batch: 100, Workers: 16, Claim: 1, Slots: 16, Depth: depth, Phases: p},
		{Name: "worker", What: "2 producers of 500, one worker with 100 slots: systems with a worker of their own",
			Producers: 2, Batch: 500, Workers: 1, Slots: 100, Depth: depth, Phases: p},
		{Name: "produce", What: "16 producers of 1, each in a transaction of its own; nothing is worked on",
			Producers: 16, Batch: 1, Depth: 1 << 40, Phases: p},
	}
}

// Full returns all scenarios: those of Main, and the others. Lengths are those of one measured phase.
func Full(warm, length time.Duration) []Scenario {
	p := plain(warm, length)
	all := Main(warm, length)
	for _, batch := range []int{1, 10, 100, 500} {
		for _, workers := range []int{1, 4, 16, 64} {
			all = append(all, Scenario{Name: fmt.Sprintf("matrix-%d-%d", batch, workers),
				What:      fmt.Sprintf("4 producers of %d, %d consumers of %d (at most 1,000 slots)", batch, workers, batch),
				Producers: 4, Batch: batch, Workers: workers, Claim: batch, Slots: min(workers*batch, 1000), Depth: depth,
				Phases: p})
		}
	}
	for _, rate := range []float64{10, 100, 1000, 4000} {
		all = append(all, Scenario{Name: fmt.Sprintf("rate-%.0f", rate),
			What:      fmt.Sprintf("%.0f jobs/s offered, one in a transaction, 4 consumers of 10 (100 slots)", rate),
			Producers: 16, Batch: 1, Workers: 4, Claim: 10, Slots: 100, Rate: rate, Phases: p})
	}
	general := Scenario{Producers: 4, Batch: 100, Workers: 4, Claim: 100, Slots: 100, Depth: depth, Phases: p}
	with := func(name, what string, change func(*Scenario)) {
		s := general
		s.Name, s.What = name, what+", 4 producers of 100, 4 consumers of 100 (100 slots)"
		change(&s)
		all = append(all, s)
	}
	with("produce-batches", "nothing is worked on", func(s *Scenario) { s.Workers, s.Depth = 0, 1<<40 })
	with("long-transactions", "producers' transactions stay open for 100 ms", func(s *Scenario) {
		s.LongTx, s.Producers = 100*time.Millisecond, 16
	})
	with("scheduled", "each job is for 2 s later", func(s *Scenario) { s.Delay, s.Depth = 2*time.Second, 40_000 })
	with("retries", "each fifth job fails once", func(s *Scenario) { s.FailEvery, s.Depth = 5, 40_000 })
	with("priorities", "priorities 1 to 4", func(s *Scenario) { s.Priorities = true })
	for _, n := range []int{1, 10, 100} {
		with(fmt.Sprintf("queues-%d", n), fmt.Sprintf("%d queues", n), func(s *Scenario) { s.Queues = n })
	}
	with("processes", "4 worker processes", func(s *Scenario) { s.Processes = 4 })
	with("network", "1 ms each way between client and server", func(s *Scenario) { s.Network = time.Millisecond })
	all = append(all, Scenario{Name: "backlog", What: "a backlog of 3,000,000, 2 consumers of 500 (500 slots)",
		Workers: 2, Claim: 500, Slots: 500, Backlog: 3_000_000, Phases: []Phase{{Name: "drain", Length: 10 * time.Minute}}})
	return append(all, disturbed(warm, length), cited())
}

// disturbed goes through all that happens to a queue.
func disturbed(warm, length time.Duration) Scenario {
	return Scenario{Name: "phases", What: "2 producers of 500, 2 consumers of 500 (500 slots), disturbed",
		Producers: 2, Batch: 500, Workers: 2, Claim: 500, Slots: 500, Depth: depth, Phases: []Phase{
			{Name: "warm-up", Length: warm, Scratch: true},
			{Name: "clean", Length: length},
			{Name: "idle transaction", Length: length, Disturb: IdleTransaction},
			{Name: "readers elsewhere", Length: length, Disturb: ReadersElsewhere},
			{Name: "readers", Length: length, Disturb: Readers},
			{Name: "overload", Length: length, Factor: 1.5},
			{Name: "recovery", Length: length, Factor: 0.5},
		}}
}

// cited is the public test that people cite.
func cited() Scenario {
	return Scenario{Name: "readers-800", What: "800 jobs/s beside three overlapping readers of 120 s",
		Producers: 8, Batch: 1, Workers: 4, Claim: 10, Slots: 100, Rate: 800, Phases: []Phase{
			{Name: "warm-up", Length: 5 * time.Second, Scratch: true},
			{Name: "clean", Length: 30 * time.Second},
			{Name: "readers of 120 s", Length: 4 * time.Minute, Disturb: LongReaders},
			{Name: "after them", Length: 30 * time.Second},
		}}
}

// Pick returns the scenarios that a list of names, separated by commas, asks for; a name may end in * for all that
// begin so.
func Pick(all []Scenario, names string) ([]Scenario, error) {
	var picked []Scenario
	for _, name := range strings.Split(names, ",") {
		prefix, some := strings.CutSuffix(name, "*")
		n := len(picked)
		for _, s := range all {
			if s.Name == name || some && strings.HasPrefix(s.Name, prefix) {
				picked = append(picked, s)
			}
		}
		if len(picked) == n {
			known := make([]string, len(all))
			for i, s := range all {
				known[i] = s.Name
			}
			slices.Sort(known)
			return nil, fmt.Errorf("no scenario is called %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return picked, nil
}
