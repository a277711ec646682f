package systems

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// A child is a process that runs a system for the harness: in another language, or one of several worker processes.
// The two speak JSON, a line at a time, on the child's standard input and output. Each request has an id, and gets one
// reply with it, in any order; "done" lines come whenever jobs have been acknowledged.
//
//	install  url                       makes the schema
//	open     env                       connects
//	enqueue  jobs                      replies when the enqueue is confirmed
//	work                               replies when the workers have started
//	stop                               replies when nothing runs any more
//	books                              replies with left and ended
type request struct {
	ID   int64      `json:"id"`
	Op   string     `json:"op"`
	URL  string     `json:"url,omitempty"`
	Env  *Env       `json:"env,omitempty"`
	Jobs []compact  `json:"jobs,omitempty"`
	Set  *compactOf `json:"set,omitempty"` // what the jobs have in common
}

// compact is a job in a request: its number, its time, and 1 if its first attempt is to fail.
type compact [3]int64

type compactOf struct {
	Queue    string `json:"queue"`
	Priority int    `json:"priority,omitempty"`
	DelayMS  int64  `json:"delay_ms,omitempty"`
}

type reply struct {
	ID    int64      `json:"id,omitempty"`
	Error string     `json:"error,omitempty"`
	Left  int64      `json:"left,omitempty"`
	Ended int64      `json:"ended,omitempty"`
	Done  [][4]int64 `json:"done,omitempty"` // number, time, picked, ended
}

// child is a system in another process.
type child struct {
	command func() *exec.Cmd

	cmd    *exec.Cmd
	in     io.WriteCloser
	ended  chan struct{} // when the process has closed its output
	write  sync.Mutex
	nextID atomic.Int64

	mu      sync.Mutex
	waiting map[int64]chan reply
	sink    Sink
}

// start starts the process.
func (c *child) start() error {
	c.cmd = c.command()
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.waiting, c.ended = map[int64]chan reply{}, make(chan struct{})
	go c.read(out)
	return nil
}

func (c *child) read(out io.Reader) {
	defer close(c.ended)
	decoder := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	for {
		var r reply
		if decoder.Decode(&r) != nil {
			return
		}
		c.mu.Lock()
		waits, sink := c.waiting[r.ID], c.sink
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if len(r.Done) > 0 && sink != nil {
			done := make([]Done, len(r.Done))
			for i, d := range r.Done {
				done[i] = Done{d[0], d[1], d[2], d[3]}
			}
			sink(done)
		}
		if waits != nil {
			waits <- r
		}
	}
}

// call sends a request and waits for the reply.
func (c *child) call(ctx context.Context, r request) (reply, error) {
	r.ID = c.nextID.Add(1)
	line, err := json.Marshal(r)
	if err != nil {
		return reply{}, err
	}
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.waiting[r.ID] = answer
	c.mu.Unlock()
	c.write.Lock()
	_, err = c.in.Write(append(line, '\n'))
	c.write.Unlock()
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", c.cmd.Args[0], err)
	}
	select {
	case answer := <-answer:
		if answer.Error != "" {
			return answer, fmt.Errorf("%s: %s", r.Op, answer.Error)
		}
		return answer, nil
	case <-c.ended:
		return reply{}, fmt.Errorf("%s has ended", c.cmd.Args[0])
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

func (c *child) Install(ctx context.Context, url string) error {
	if err := c.start(); err != nil {
		return err
	}
	defer c.Close()
	_, err := c.call(ctx, request{Op: "install", URL: url})
	return err
}

func (c *child) Open(ctx context.Context, env Env) error {
	if err := c.start(); err != nil {
		return err
	}
	_, err := c.call(ctx, request{Op: "open", Env: &env})
	if err != nil {
		c.Close()
	}
	return err
}

func (c *child) Enqueue(ctx context.Context, tx pgx.Tx, jobs []Job) error {
	if tx != nil {
		return errors.New("another process can't enqueue in this transaction")
	}
	r := request{Op: "enqueue", Jobs: make([]compact, len(jobs)), Set: &compactOf{Queue: QueueName(jobs[0].Queue),
		Priority: jobs[0].Priority, DelayMS: jobs[0].Delay.Milliseconds()}}
	for i, j := range jobs {
		r.Jobs[i] = compact{j.N, j.At}
		if j.Fails {
			r.Jobs[i][2] = 1
		}
	}
	_, err := c.call(ctx, r)
	return err
}

func (c *child) Work(ctx context.Context, done Sink) error {
	c.mu.Lock()
	c.sink = done
	c.mu.Unlock()
	if _, err := c.call(context.WithoutCancel(ctx), request{Op: "work"}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-c.ended:
		return fmt.Errorf("%s has ended", c.cmd.Args[0])
	}
	_, err := c.call(context.WithoutCancel(ctx), request{Op: "stop"})
	return err
}

func (c *child) Books(ctx context.Context) (left, ended int64, err error) {
	r, err := c.call(ctx, request{Op: "books"})
	return r.Left, r.Ended, err
}

// Close ends the process: it sees the end of its input.
func (c *child) Close() {
	c.in.Close()
	<-c.ended
	c.cmd.Wait()
}
