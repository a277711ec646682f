package driver

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxParcel bounds what is sent at once, in bytes of outputs and failures.
	maxParcel = 4 << 20
	minParcel = 64 << 10
)

// sizer says how many answers to send at once: fewer after a parcel that took too long, or too much memory.
type sizer struct {
	most  int // how many answers, and
	bytes int // how many bytes; 0 for as many as there may be
}

func (s *sizer) of(answers []answer) int {
	most, bytes := flushSize, maxParcel
	if s.most > 0 {
		most = s.most
	}
	if s.bytes > 0 {
		bytes = s.bytes
	}
	n := 0
	for n < len(answers) && n < most {
		bytes -= answers[n].size()
		if bytes < 0 && n > 0 {
			break
		}
		n++
	}
	return n
}

func (s *sizer) grow() {
	if s.most > 0 {
		if s.most += s.most/8 + 1; s.most >= flushSize {
			s.most = 0
		}
	}
	if s.bytes > 0 {
		if s.bytes += s.bytes / 8; s.bytes >= maxParcel {
			s.bytes = 0
		}
	}
}

func (s *sizer) shrink(refused []answer, err error) {
	var pg *pgconn.PgError
	isPg := errors.As(err, &pg)
	if isPg && pg.Code != queryCanceled && !strings.HasPrefix(pg.Code, "53") {
		return
	}
	bytes := 0
	for _, a := range refused {
		bytes += a.size()
	}
	s.most, s.bytes = max(len(refused)/partsOf(err), 1), max(bytes/2, minParcel)
}

// partsOf returns the number of parts in which a parcel that failed with err is sent again.
func partsOf(err error) int {
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
		return 8 // each try takes a new connection, or 20 s
	}
	return 2
}
