//go:build !unix

// Package chaos shows what holds when things go wrong. It works on Unix only.
package chaos

import (
	"context"
	"errors"
)

// WorkerCommand is the sub-command of a worker process.
const WorkerCommand = "chaos-worker"

// Main runs the sub-command "chaos".
func Main(context.Context, []string) error { return errors.ErrUnsupported }

// WorkerMain is a worker process.
func WorkerMain(context.Context, []string) error { return errors.ErrUnsupported }
