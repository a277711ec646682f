package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// BinDirEnv names the environment variable that says which PostgreSQL to use
// when Config.BinDir is empty.
const BinDirEnv = "AWA_PG_BINDIR"

// minMajor is the oldest major version of PostgreSQL that is good enough.
const minMajor = 15

// packageDirs are the patterns of the directories that packages use.
var packageDirs = []string{
	"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                   // PGDG's RPMs
	"/opt/homebrew/opt/postgresql@*/bin", // Homebrew
	"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
}

// ErrNoBinaries is the error of Start and FindBinaries when the machine has no
// suitable PostgreSQL.
var ErrNoBinaries = errors.New("no PostgreSQL server binaries")

// Binaries is an installed PostgreSQL server.
type Binaries struct {
	Dir     string // holds initdb, pg_ctl and postgres
	Version string // for example "15.18"
	major   int
}

// FindBinaries returns the binaries in binDir. When that is empty it looks in
// the directory that the environment variable AWA_PG_BINDIR names or, when that
// is empty too, where PostgreSQL is usually installed: the directory that
// pg_config reports, those of the packages (newest version first), and PATH.
func FindBinaries(ctx context.Context, binDir string) (Binaries, error) {
	source := binDir
	if binDir == "" {
		binDir = os.Getenv(BinDirEnv)
		source = BinDirEnv + "=" + binDir
	}
	if binDir != "" {
		b, err := inspect(ctx, binDir)
		if ctx.Err() != nil {
			return Binaries{}, context.Cause(ctx)
		}
		if err != nil {
			return Binaries{}, fmt.Errorf("%w of version %d or newer in %s: %w", ErrNoBinaries, minMajor, source, err)
		}
		return b, nil
	}

	if dir := pgConfigBinDir(ctx); dir != "" {
		if b, err := inspect(ctx, dir); err == nil {
			return b, nil
		}
	}
	var best Binaries
	for _, pattern := range packageDirs {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			if b, err := inspect(ctx, dir); err == nil && b.major > best.major {
				best = b
			}
		}
	}
	if best.Dir != "" {
		return best, nil
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if b, err := inspect(ctx, dir); err == nil && filepath.IsAbs(dir) {
			return b, nil
		}
	}
	if ctx.Err() != nil {
		return Binaries{}, context.Cause(ctx)
	}
	return Binaries{}, fmt.Errorf("%w of version %d or newer found: install them, for example with"+
		" \"apt-get install postgresql-%d\" or \"brew install postgresql@%d\", or set %s",
		ErrNoBinaries, minMajor, minMajor, minMajor, BinDirEnv)
}

func pgConfigBinDir(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

var versionRE = regexp.MustCompile(`\) ((\d+)\S*)`)

// inspect says whether dir holds a suitable PostgreSQL.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	// The programs run in another working directory.
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return Binaries{}, err
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, err
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", also "18beta1".
	m := versionRE.FindStringSubmatch(string(out))
	if m == nil {
		return Binaries{}, fmt.Errorf("unknown version %q", out)
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Binaries{}, err
	}
	if major < minMajor {
		return Binaries{}, fmt.Errorf("version %s is too old", m[1])
	}
	return Binaries{Dir: dir, Version: m[1], major: major}, nil
}
