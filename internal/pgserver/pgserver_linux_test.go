package pgserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServerDiesWithParent(t *testing.T) {
	// Orphans become children of this process, which can then wait for them.
	const prSetChildSubreaper = 36
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	require.Zero(t, errno)
	t.Cleanup(func() { syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 0, 0) })

	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var dir string
	var pid int
	_, err = fmt.Fscan(stdout, &dir, &pid)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })

	require.NoError(t, cmd.Process.Kill())
	assert.Error(t, cmd.Wait())
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	require.NoError(t, err)
	assert.True(t, status.Exited(), "status %v", status)

	// The next server removes what is left of it in memory.
	srv := start(t, Config{})
	if filepath.Dir(dir) == memoryDir {
		assert.NoDirExists(t, dir)
	}
	next := start(t, Config{})
	assert.DirExists(t, srv.Dir())
	assert.DirExists(t, next.Dir())
}

func TestServerInMemory(t *testing.T) {
	acct, err := serverAccount()
	require.NoError(t, err)
	if _, ok := memoryParent(acct); !ok {
		t.Skip("there is little memory")
	}
	assert.Equal(t, memoryDir, filepath.Dir(start(t, Config{}).Dir()))
	assert.NotEqual(t, memoryDir, filepath.Dir(start(t, Config{Durable: true}).Dir()))
	t.Setenv(MemoryEnv, "off")
	assert.NotEqual(t, memoryDir, filepath.Dir(start(t, Config{}).Dir()))
}

func TestAvailableMemory(t *testing.T) {
	assert.Greater(t, availableMemory(), uint64(1<<20))
	assert.Less(t, availableMemory(), uint64(1<<50))
}
