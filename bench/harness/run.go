package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/awa-pg/awa/bench/systems"
)

const (
	payload      = 200             // bytes
	drainTimeout = 5 * time.Second // for what is on its way at the end; the rest has to be in the system's tables
)

// stallTimeout ends a drain in which no job ends.
var stallTimeout = 5 * time.Second

// Options say what to run.
type Options struct {
	Server    *Server
	Systems   []systems.Info
	Scenarios []Scenario
	Rounds    int
	Within    time.Duration // no round begins that would not end within this time; 0: each does
	Out       io.Writer     // the JSON lines
	Log       io.Writer     // what a human wants to see meanwhile
}

// Run runs each system in each scenario, in rounds, and returns the results, which it also writes.
func Run(ctx context.Context, o Options) (*Results, error) {
	header := Header{Kind: "header", Began: time.Now().UTC().Truncate(time.Second), Machine: Machine(),
		Server: "PostgreSQL " + o.Server.Version + ", " + runtime.Version(), Settings: Settings, Rounds: o.Rounds}
	var installed []systems.Info
	for _, s := range o.Systems {
		reason := s.Missing
		if reason == "" {
			if err := install(ctx, o.Server, &s); err != nil {
				reason = err.Error()
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		record := SystemRecord{Name: s.Name, Version: s.Version, Contract: s.Contract, Reason: reason}
		if reason != "" {
			fmt.Fprintf(o.Log, "%s is left out: %s\n", s.Name, reason)
			header.LeftOut = append(header.LeftOut, record)
			continue
		}
		header.Systems = append(header.Systems, record)
		installed = append(installed, s)
	}
	for _, scenario := range o.Scenarios {
		for _, s := range installed {
			if reason := scenario.fits(s.Features); reason != "" {
				header.Unfit = append(header.Unfit, SystemRecord{Name: s.Name, Scenario: scenario.Name, Reason: reason})
			}
		}
	}
	defer func() {
		for _, s := range installed {
			o.Server.Exec(context.WithoutCancel(ctx), fmt.Sprintf("drop database %q with (force)", template(s)))
		}
	}()
	results := &Results{Header: header}
	out := Writer{o.Out}
	if err := out.Write(header); err != nil {
		return nil, err
	}
	began := time.Now()
	for round := 1; round <= o.Rounds; round++ {
		took := time.Since(began)
		if o.Within > 0 && took*time.Duration(round)/time.Duration(max(round-1, 1)) > o.Within {
			fmt.Fprintf(o.Log, "no round %d: %d took %s\n", round, round-1, took.Round(time.Second))
			break
		}
		for _, scenario := range o.Scenarios {
			for i := range installed {
				// a system is not always measured after the same one
				info := installed[(i+round-1)%len(installed)]
				if scenario.fits(info.Features) != "" {
					continue
				}
				samples := runOne(ctx, o.Server, info, scenario)
				if ctx.Err() != nil {
					return results, context.Cause(ctx)
				}
				for _, s := range samples {
					s.Kind, s.Round, s.Scenario, s.System = "sample", round, scenario.Name, info.Name
					results.Samples = append(results.Samples, s)
					if err := out.Write(s); err != nil {
						return results, err
					}
					say(o.Log, s)
				}
			}
		}
	}
	return results, nil
}

func say(w io.Writer, s Sample) {
	if s.Error != "" {
		fmt.Fprintf(w, "%d %s %s: %s\n", s.Round, s.Scenario, s.System, s.Error)
		return
	}
	fmt.Fprintf(w, "%d %s %s %s: %.0f/s\n", s.Round, s.Scenario, s.System, s.Phase, s.Rate)
}

func template(s systems.Info) string { return "bench_template_" + s.Name }

const database = "bench"

// install makes the database that is copied for each run.
func install(ctx context.Context, server *Server, s *systems.Info) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := server.Exec(ctx, fmt.Sprintf("create database %q", template(*s))); err != nil {
		return err
	}
	url, err := server.URL(template(*s))
	if err != nil {
		return err
	}
	if err := s.New().Install(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if s.Ask != "" {
		if err := conn.QueryRow(ctx, s.Ask).Scan(&s.Version); err != nil {
			return err
		}
	}
	return makeUnrelated(ctx, conn)
}

// run is one run of a system.
type run struct {
	server  *Server
	info    systems.Info
	system  systems.System
	load    Scenario
	url     string
	pool    *pgxpool.Pool // of producers with transactions of their own
	tracker *Tracker
	pacer   *pacer
	probe   *Probe
	waits   *Waits
	clean   float64 // jobs per second in the phase of that name
}

// runOne makes a fresh database and runs all phases. If something goes wrong, there is one sample, with the error.
func runOne(ctx context.Context, server *Server, info systems.Info, scenario Scenario) []Sample {
	samples, err := func() ([]Sample, error) {
		load := loadAverage()
		drop := fmt.Sprintf("drop database if exists %q with (force)", database)
		err := server.Exec(ctx, drop, fmt.Sprintf("create database %q template %q strategy file_copy", database,
			template(info)), "checkpoint")
		if err != nil {
			return nil, err
		}
		defer server.Exec(context.WithoutCancel(ctx), drop)
		r := &run{server: server, info: info, load: scenario, tracker: NewTracker(), waits: &Waits{}}
		samples, err := r.run(ctx)
		for i := range samples {
			samples[i].Load = load
		}
		return samples, err
	}()
	if err != nil {
		return []Sample{{Phase: "run", Error: err.Error()}}
	}
	return samples
}

func (r *run) run(ctx context.Context) (samples []Sample, err error) {
	if r.url, err = r.server.URL(database); err != nil {
		return nil, err
	}
	clientURL := r.url
	if r.load.Network > 0 {
		proxy, err := StartProxy(r.url, r.load.Network)
		if err != nil {
			return nil, err
		}
		defer proxy.Close()
		clientURL = proxy.URL
	}
	r.system = r.info.New()
	if r.load.Processes > 1 {
		r.system = systems.Processes(r.info, r.load.Processes)
	}
	if r.probe, err = OpenProbe(ctx, r.server.url, database, r.server.postmaster); err != nil {
		return nil, err
	}
	defer r.probe.Close()
	queues := max(r.load.Queues, 1)
	err = r.system.Open(ctx, systems.Env{URL: clientURL, Workers: max(r.load.Workers, 1), Batch: max(r.load.Claim, 1),
		Slots: max(r.load.Slots, 1), Queues: queues, Enqueue: max(r.load.Producers, 2), Payload: payload})
	if err != nil {
		return nil, err
	}
	defer r.system.Close()
	if r.load.LongTx > 0 {
		if r.pool, err = pgxpool.New(ctx, clientURL+"&pool_max_conns=64"); err != nil {
			return nil, err
		}
		defer r.pool.Close()
	}
	r.pacer = &pacer{tracker: r.tracker, depth: r.load.Depth}
	r.pacer.setRate(r.load.Rate)
	if err := r.enqueueBacklog(ctx); err != nil {
		return nil, err
	}
	samples, err = r.phases(ctx)
	if err != nil {
		return nil, err
	}
	return samples, r.check(ctx, samples)
}

// phases starts everything, goes through the phases, and stops everything.
func (r *run) phases(ctx context.Context) (samples []Sample, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var all sync.WaitGroup
	start := func(ctx context.Context, what string, f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	producing, stopProducing := context.WithCancel(ctx)
	working, stopWorking := context.WithCancel(ctx)
	start(working, "the look at waits", func(ctx context.Context) error { return r.waits.Watch(ctx, r.url, database) })
	if r.load.Workers > 0 {
		start(working, "work", func(ctx context.Context) error { return r.system.Work(ctx, r.tracker.Done) })
	}
	var producers sync.WaitGroup
	if r.load.Backlog == 0 {
		for range r.load.Producers {
			producers.Add(1)
			start(producing, "enqueue", func(ctx context.Context) error { defer producers.Done(); return r.produce(ctx) })
		}
	}
	for _, p := range r.load.Phases {
		s, err := r.phase(ctx, p)
		if err != nil {
			fail(err)
			break
		}
		if !p.Scratch {
			samples = append(samples, s)
		}
	}
	stopProducing()
	producers.Wait()
	if r.load.Workers > 0 {
		r.drain(ctx)
	}
	stopWorking()
	all.Wait()
	return samples, context.Cause(ctx)
}

// produce enqueues until the context ends.
func (r *run) produce(ctx context.Context) error {
	calm := context.WithoutCancel(ctx)
	for {
		due, ok := r.pacer.next(ctx, r.load.Batch)
		if !ok {
			return nil
		}
		jobs := r.jobs(r.load.Batch, due)
		err := r.enqueue(calm, jobs)
		r.tracker.Enqueued(len(jobs), err)
		if err != nil {
			return err
		}
	}
}

// jobs makes new ones.
func (r *run) jobs(n int, due func(i int) time.Time) []systems.Job {
	jobs := make([]systems.Job, n)
	first := r.tracker.Take(n)
	call := first / int64(n)
	for i := range jobs {
		j := &jobs[i]
		j.N = first + int64(i)
		j.At = due(i).Add(r.load.Delay).UnixMicro()
		j.Queue = int(call) % max(r.load.Queues, 1)
		j.Delay = r.load.Delay
		if r.load.Priorities {
			j.Priority = int(call)%4 + 1
		}
		j.Fails = r.load.FailEvery > 0 && j.N%int64(r.load.FailEvery) == 0
	}
	return jobs
}

func (r *run) enqueue(ctx context.Context, jobs []systems.Job) error {
	if r.load.LongTx == 0 {
		return r.system.Enqueue(ctx, nil, jobs)
	}
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		if err := r.system.Enqueue(ctx, tx, jobs); err != nil {
			return err
		}
		sleep(ctx, r.load.LongTx)
		return nil
	})
}

const backlogBatch = 500

func (r *run) enqueueBacklog(ctx context.Context) error {
	for range r.load.Backlog / backlogBatch {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now := time.Now()
		err := r.enqueue(ctx, r.jobs(backlogBatch, func(int) time.Time { return now }))
		r.tracker.Enqueued(backlogBatch, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// phase measures one phase.
func (r *run) phase(ctx context.Context, p Phase) (s Sample, err error) {
	rate := r.load.Rate
	if p.Factor > 0 {
		rate = p.Factor * r.clean
	}
	if p.Factor > 0 || r.load.Rate == 0 {
		r.pacer.setRate(rate)
	}
	stop, err := disturb(ctx, p.Disturb, r.url, r.info.Scan)
	if err != nil {
		return s, err
	}
	before, err := r.probe.Read(ctx)
	if err != nil {
		return s, errors.Join(err, stop())
	}
	r.tracker.Latencies()
	r.waits.Take()
	t0 := r.tracker.Tally()
	r.wait(ctx, p.Length)
	t1 := r.tracker.Tally()
	after, err := r.probe.Read(ctx)
	if err = errors.Join(err, stop()); err != nil || ctx.Err() != nil {
		return s, errors.Join(err, context.Cause(ctx))
	}
	s = r.sample(p, t0, t1, before, after)
	if p.Name == "clean" {
		r.clean = s.Completed
	}
	s.Dead, s.Size, err = tables(ctx, r.url, r.info.Schema)
	return s, err
}

// wait waits for the length of a phase, or, where there is a backlog, until that is gone.
func (r *run) wait(ctx context.Context, length time.Duration) {
	for end := time.Now().Add(length); ctx.Err() == nil && time.Now().Before(end); {
		if r.load.Backlog == 0 {
			sleep(ctx, time.Until(end))
			return
		}
		if r.tracker.Depth() <= 0 {
			return
		}
		sleep(ctx, time.Millisecond)
	}
}

func (r *run) sample(p Phase, t0, t1 Tally, before, after Reading) Sample {
	seconds := after.At.Sub(before.At).Seconds()
	s := Sample{Phase: p.Name, Seconds: seconds, Depth: t1.Depth(),
		Enqueued: float64(t1.Enqueued-t0.Enqueued) / seconds, Completed: float64(t1.Completed-t0.Completed) / seconds,
		Waits: r.waits.Take()}
	endToEnd, pickUp := r.tracker.Latencies()
	s.EndToEnd, s.PickUp = endToEnd.Quantiles(), pickUp.Quantiles()
	s.Rate = s.Completed
	if r.load.Workers == 0 {
		s.Rate = s.Enqueued
	}
	perJob := func(x float64) float64 {
		if s.Rate == 0 {
			return 0
		}
		return x / (s.Rate * seconds)
	}
	s.WAL = math.Round(perJob(float64(after.WAL - before.WAL)))
	s.Commits = perJob(float64(after.Commits - before.Commits))
	s.ClientCPU = perJob(float64((after.ClientCPU - before.ClientCPU).Microseconds()))
	s.ServerCPU = perJob(float64((after.ServerCPU - before.ServerCPU).Microseconds()))
	if r.server.postmaster == 0 {
		s.ServerCPU = -1
	}
	return s
}

// drain waits until nothing is on its way, or nothing moves.
func (r *run) drain(ctx context.Context) {
	last, since := r.tracker.Tally().Completed, time.Now()
	for end := since.Add(drainTimeout); time.Now().Before(end) && r.tracker.Depth() > 0 && ctx.Err() == nil; {
		sleep(ctx, time.Millisecond)
		if n := r.tracker.Tally().Completed; n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > max(stallTimeout, 3*r.load.Delay) {
			return
		}
	}
}

// check compares what the harness has counted with what the system says.
func (r *run) check(ctx context.Context, samples []Sample) error {
	left, ended, err := r.system.Books(ctx)
	if err != nil {
		return err
	}
	t := r.tracker.Tally()
	lost := t.Depth() - left // neither acknowledged nor there
	for i := range samples {
		samples[i].Lost, samples[i].Doubled = lost, t.Doubled
	}
	switch {
	case lost > t.Unsure || lost < -t.Unsure:
		return fmt.Errorf("%d jobs were enqueued and %d acknowledged, but %d are left in its tables", t.Enqueued,
			t.Completed, left)
	case ended >= 0 && ended != t.Completed:
		return fmt.Errorf("%d jobs were acknowledged, but its tables have %d that have ended", t.Completed, ended)
	case r.load.Workers > 0 && t.Completed == 0:
		return errors.New("no job was acknowledged")
	}
	return nil
}
