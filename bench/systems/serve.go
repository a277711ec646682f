package systems

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Serve is a child that runs a system, until its input ends.
func Serve(ctx context.Context, info Info, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{system: info.New(), out: json.NewEncoder(out)}
	decoder := json.NewDecoder(bufio.NewReaderSize(in, 1<<20))
	var running sync.WaitGroup
	defer running.Wait()
	for {
		var r request
		err := decoder.Decode(&r)
		if err == io.EOF {
			s.stop()
			return nil
		}
		if err != nil {
			return err
		}
		running.Go(func() {
			answer, err := s.answer(ctx, r)
			answer.ID = r.ID
			if err != nil {
				answer.Error = err.Error()
			}
			s.send(answer)
		})
		if r.Op == "open" || r.Op == "install" {
			running.Wait()
		}
	}
}

type server struct {
	system System
	mu     sync.Mutex
	out    *json.Encoder

	stopWork context.CancelFunc
	ended    chan error
}

func (s *server) send(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Encode(r)
}

func (s *server) answer(ctx context.Context, r request) (answer reply, err error) {
	switch r.Op {
	case "install":
		return answer, s.system.Install(ctx, r.URL)
	case "open":
		return answer, s.system.Open(ctx, *r.Env)
	case "enqueue":
		jobs := make([]Job, len(r.Jobs))
		var queue int
		if _, err := fmt.Sscanf(r.Set.Queue, "q%d", &queue); err != nil {
			return answer, err
		}
		for i, j := range r.Jobs {
			jobs[i] = Job{N: j[0], At: j[1], Fails: j[2] == 1, Queue: queue, Priority: r.Set.Priority,
				Delay: time.Duration(r.Set.DelayMS) * time.Millisecond}
		}
		return answer, s.system.Enqueue(ctx, nil, jobs)
	case "work":
		working, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		s.mu.Lock()
		s.stopWork, s.ended = stop, ended
		s.mu.Unlock()
		go func() {
			ended <- s.system.Work(working, func(done []Done) {
				r := reply{Done: make([][4]int64, len(done))}
				for i, d := range done {
					r.Done[i] = [4]int64{d.N, d.At, d.Picked, d.Ended}
				}
				s.send(r)
			})
		}()
		return answer, nil
	case "stop":
		return answer, s.stop()
	case "books":
		answer.Left, answer.Ended, err = s.system.Books(ctx)
		return answer, err
	}
	return answer, fmt.Errorf("unknown request %q", r.Op)
}

// stop stops the workers, if they run, and waits for them.
func (s *server) stop() error {
	s.mu.Lock()
	stop, ended := s.stopWork, s.ended
	s.stopWork, s.ended = nil, nil
	s.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	return <-ended
}

// ChildCommand is the sub-command of this program that serves a system; it is followed by the system's name.
const ChildCommand = "child"

// processes is a system with several worker processes, which also enqueue.
type processes struct {
	children []*child
	mu       sync.Mutex
	next     int
}

// Processes is a system with so many worker processes. Each has a part of the workers and slots.
func Processes(info Info, n int) System {
	p := &processes{}
	for range n {
		p.children = append(p.children, &child{command: func() *exec.Cmd {
			return exec.Command(os.Args[0], append([]string{ChildCommand, info.Name}, ChildFlags...)...)
		}})
	}
	return p
}

// ChildFlags are those of the program that its children get, too.
var ChildFlags []string

func (p *processes) Install(ctx context.Context, url string) error {
	return p.children[0].Install(ctx, url)
}

func (p *processes) Open(ctx context.Context, env Env) error {
	n := len(p.children)
	env.Workers, env.Slots, env.Enqueue = max(1, env.Workers/n), max(1, env.Slots/n), max(1, env.Enqueue/n)
	for i, c := range p.children {
		if err := c.Open(ctx, env); err != nil {
			for _, opened := range p.children[:i] {
				opened.Close()
			}
			return err
		}
	}
	return nil
}

func (p *processes) Close() {
	for _, c := range p.children {
		c.Close()
	}
}

func (p *processes) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	p.mu.Lock()
	c := p.children[p.next%len(p.children)]
	p.next++
	p.mu.Unlock()
	return c.Enqueue(ctx, tx, jobs)
}

func (p *processes) Work(ctx context.Context, done Sink) error {
	return each(ctx, len(p.children), func(ctx context.Context, i int) error { return p.children[i].Work(ctx, done) })
}

// Books asks one of them: it knows all of the database.
func (p *processes) Books(ctx context.Context) (left, ended int64, err error) {
	return p.children[0].Books(ctx)
}
