package pgserver

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// memoryDir is where Linux has a file system in memory.
	memoryDir = "/dev/shm"
	// memoryRoom is how much that file system must have free, in bytes, and memoryFree the machine's memory.
	memoryRoom = 3 << 30
	memoryFree = 6 << 30

	tmpfs = 0x01021994 // statfs(2)
	owner = "owner"    // a file that is locked as long as the program runs that made the directory
)

// memoryParent returns the directory for servers whose data is in memory; false where there is little of it. To create
// and to drop a database takes a tenth of the time there: it is a thousand files.
func memoryParent(acct *account) (dir string, ok bool) {
	var fs syscall.Statfs_t
	if os.Getenv(MemoryEnv) == "off" || syscall.Statfs(memoryDir, &fs) != nil || fs.Type != tmpfs {
		return "", false
	}
	if fs.Bavail*uint64(fs.Bsize) < memoryRoom || availableMemory() < memoryFree || !acct.reaches(memoryDir) {
		return "", false
	}
	return memoryDir, true
}

// availableMemory returns how much memory can be had, in bytes; 0 if it is not known.
func availableMemory() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for {
		var name, unit string
		var kilobytes uint64
		if _, err := fmt.Fscanf(f, "%s %d %s\n", &name, &kilobytes, &unit); err != nil {
			return 0
		}
		if name == "MemAvailable:" {
			return kilobytes << 10
		}
	}
}

// own notes, in a directory in memory, that this program uses it. The note ends with the program. The file has its name
// when it is locked, so that nobody takes the directory for one that was left.
func own(dir string) (note *os.File, err error) {
	if filepath.Dir(dir) != memoryDir {
		return nil, nil
	}
	unlocked := filepath.Join(dir, owner+".new")
	if note, err = os.Create(unlocked); err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(note.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		err = os.Rename(unlocked, filepath.Join(dir, owner))
	}
	if err != nil {
		note.Close()
		return nil, err
	}
	return note, nil
}

// removeLeft removes the directories in memory of programs that were killed: nothing else would before the machine
// starts again.
func removeLeft() {
	dirs, _ := filepath.Glob(filepath.Join(memoryDir, dirPrefix+"*"))
	for _, dir := range dirs {
		note, err := os.Open(filepath.Join(dir, owner))
		if err != nil {
			continue // somebody else's, or a new one
		}
		if syscall.Flock(int(note.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		note.Close()
	}
}
