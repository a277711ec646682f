package pgserver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// Upgrade has pg_upgrade make a new server of this one, of the same version or of the binaries in another directory,
// and ends this one. Not each set of binaries has pg_upgrade; the new ones need it.
func (s *Server) Upgrade(ctx context.Context, binDir string) (*Server, error) {
	if binDir == "" {
		binDir = s.binaries.Dir
	}
	cfg := Config{BinDir: binDir}
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return nil, err
	}
	err = conn.QueryRow(ctx, "show data_checksums").Scan(&cfg.checksums)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, err
	}
	next, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.proc.terminate()
	next.proc.terminate()
	out, err := next.command(filepath.Join(next.binaries.Dir, "pg_upgrade"), "-U", superuser, "-b", s.binaries.Dir,
		"-B", next.binaries.Dir, "-d", s.dataDir(), "-D", next.dataDir()).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pg_upgrade: %w%s", err, indent(tail(out))), next.removeDir())
	}
	return next, next.run(ctx)
}
