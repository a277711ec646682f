package sql_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A change is one row, as logical decoding shows it: changes come transaction by transaction, in the order in which
// these committed, and without what was rolled back.
type change struct {
	table, op string
	segment   int // of a table that has segments
	row       map[string]string
}

// parseChange reads a line of test_decoding: "table awa.leases: INSERT: receipt[bigint]:1 queue[text]:'it”s'".
func parseChange(line string) (c change, ok bool) {
	name, rest, ok := strings.Cut(strings.TrimPrefix(line, "table awa."), ": ")
	if !ok || !strings.HasPrefix(line, "table awa.") {
		return c, false
	}
	c.op, rest, _ = strings.Cut(rest, ": ")
	c.table = name
	if table, segment, found := cutLast(name, "_"); found && len(segment) == 1 {
		c.table = table
		c.segment, _ = strconv.Atoi(segment)
	}
	if _, after, found := strings.Cut(rest, "new-tuple: "); found {
		rest = after
	}
	c.row = map[string]string{}
	for rest != "" {
		column, after, found := strings.Cut(rest, "[")
		_, after, typed := strings.Cut(after, "]:")
		if !found || !typed {
			break
		}
		value := after
		if strings.HasPrefix(after, "'") {
			end := 1
			for ; end < len(after); end++ {
				if after[end] != '\'' {
					continue
				}
				if end+1 == len(after) || after[end+1] != '\'' {
					break
				}
				end++
			}
			value, rest = strings.ReplaceAll(after[1:end], "''", "'"), strings.TrimPrefix(after[end+1:], " ")
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		c.row[column] = value
	}
	return c, true
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

func (c change) number(column string) int64 {
	n, _ := strconv.ParseInt(c.row[column], 10, 64)
	return n
}

// numbers reads an array.
func (c change) numbers(column string) (all []int64) {
	for _, text := range strings.FieldsFunc(c.row[column], func(r rune) bool { return r == '{' || r == '}' || r == ',' }) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// A place is an entry by its transaction; entries of one job that was enqueued, retried or given back have others.
type place struct {
	job int64
	xid string
}

// A traced job is in one place after each commit, until it was deleted.
type traced struct {
	entries  map[string]bool // by transaction: those that wait to be claimed
	waiting  int             // for their group
	open     map[int64]bool  // attempts by receipt; true: with a row in leases
	leases   int
	deferred int
	done     int
	ended    bool // completed, and nothing but its claim says so
}

func (j *traced) places() int {
	n := len(j.entries) + j.waiting + j.leases + j.deferred + j.done
	for _, materialized := range j.open {
		if !materialized {
			n++
		}
	}
	if j.ended {
		n++
	}
	return n
}

func (j *traced) isAlive() bool { return j.places() > 0 && !j.ended && j.done == 0 }

// A trace replays what was committed against the rules of the models: an attempt has one end, a job is claimed only
// where an entry of it waits, no job is in two places or in none, and a key has one holder.
type trace struct {
	jobs     map[int64]*traced
	claims   map[int64][]int64      // jobs by claim
	waiting  map[int64]int64        // jobs by waiting_id
	where    map[place]map[int]bool // segments of an entry
	claimIn  [4]map[int64]bool      // claims by segment
	holders  map[string]int64       // by key and round
	ends     map[string]int         // by outcome
	commits  int
	problems []string
}

func newTrace() *trace {
	tr := &trace{jobs: map[int64]*traced{}, claims: map[int64][]int64{}, waiting: map[int64]int64{},
		where: map[place]map[int]bool{}, holders: map[string]int64{}, ends: map[string]int{}}
	for i := range tr.claimIn {
		tr.claimIn[i] = map[int64]bool{}
	}
	return tr
}

func (tr *trace) problem(format string, args ...any) {
	tr.problems = append(tr.problems, fmt.Sprintf("commit %d: ", tr.commits)+fmt.Sprintf(format, args...))
}

func (tr *trace) job(id int64) *traced {
	if tr.jobs[id] == nil {
		tr.jobs[id] = &traced{entries: map[string]bool{}, open: map[int64]bool{}}
	}
	return tr.jobs[id]
}

// take takes the oldest entry of a job that waits to be claimed.
func (tr *trace) take(id int64) bool {
	j := tr.job(id)
	waiting := slices.SortedFunc(maps.Keys(j.entries), func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	if len(waiting) == 0 {
		return false
	}
	delete(j.entries, waiting[0])
	return true
}

// commit replays one transaction. Within it the order does not matter, but that what is taken was there before.
func (tr *trace) commit(changes []change) {
	tr.commits++
	touched := map[int64]bool{}
	var deleted []int64
	each := func(table, op string, f func(c change, id int64, j *traced)) {
		for _, c := range changes {
			if c.table == table && c.op == op {
				id := c.number("job_id")
				if id != 0 {
					touched[id] = true
				}
				f(c, id, tr.job(id))
			}
		}
	}
	each("ready_entries", "INSERT", func(c change, id int64, j *traced) {
		p := place{id, c.row["xid"]}
		if tr.where[p] == nil { // not one that is carried to another segment
			tr.where[p] = map[int]bool{}
			j.entries[p.xid] = true
		}
		tr.where[p][c.segment] = true
	})
	// A claim takes such a job out of its lane, and ends its attempt as limited.
	each("limited_jobs", "INSERT", func(c change, id int64, j *traced) {
		tr.waiting[c.number("waiting_id")] = id
		j.waiting++
	})
	each("limited_jobs", "DELETE", func(c change, _ int64, _ *traced) {
		id := tr.waiting[c.number("waiting_id")]
		touched[id] = true
		tr.job(id).waiting--
	})
	each("lease_claims", "INSERT", func(c change, _ int64, _ *traced) { tr.claim(c, touched) })
	each("ready_tombstones", "INSERT", func(c change, _ int64, j *traced) { delete(j.entries, c.row["xid"]) })
	each("leases", "INSERT", func(_ change, _ int64, j *traced) { j.leases++ })
	each("lease_claim_closures", "INSERT", func(c change, _ int64, _ *traced) { tr.end(c, touched) })
	each("leases", "DELETE", func(c change, _ int64, _ *traced) {
		receipt := c.number("receipt")
		id := tr.jobOf(receipt)
		touched[id] = true
		tr.job(id).leases--
		delete(tr.job(id).open, receipt)
	})
	each("deferred_jobs", "INSERT", func(_ change, _ int64, j *traced) { j.deferred++ })
	each("deferred_jobs", "DELETE", func(_ change, _ int64, j *traced) { j.deferred-- })
	each("done_entries", "INSERT", func(_ change, _ int64, j *traced) { j.done++; j.ended = false })
	each("done_entries", "DELETE", func(_ change, id int64, j *traced) { j.done--; deleted = append(deleted, id) })
	each("ready_entries", "DELETE", func(c change, id int64, _ *traced) { tr.leave(place{id, c.row["xid"]}, c.segment) })
	for _, c := range changes {
		if c.op == "TRUNCATE" {
			tr.truncate(c)
		}
	}
	for id := range touched {
		j := tr.jobs[id]
		if n := j.places(); n != 1 && !(n == 0 && slices.Contains(deleted, id)) {
			tr.problem("job %d is in %d places: %+v", id, n, *j)
		}
	}
	tr.keys(changes)
}

// claim begins attempts.
func (tr *trace) claim(c change, touched map[int64]bool) {
	id, jobs := c.number("claim_id"), c.numbers("job_ids")
	tr.claimIn[c.segment][id] = true
	if len(jobs) == 0 || tr.claims[id] != nil { // a cursor alone, or one that is carried
		return
	}
	tr.claims[id] = jobs
	for item, job := range jobs {
		touched[job] = true
		if !tr.take(job) { // a job that has waited for its group gets an entry with the claim
			tr.problem("job %d is claimed by %d, and had no entry", job, id)
		}
		tr.job(job).open[id<<12|int64(item)] = false
	}
}

func (tr *trace) jobOf(receipt int64) int64 {
	jobs := tr.claims[receipt>>12]
	if int(receipt&4095) >= len(jobs) {
		tr.problem("receipt %d is of no claim", receipt)
		return 0
	}
	return jobs[receipt&4095]
}

// end ends attempts, or goes on with them in leases.
func (tr *trace) end(c change, touched map[int64]bool) {
	items := c.numbers("items")
	if item := c.number("item"); item >= 0 {
		items = []int64{item}
	}
	for _, item := range items {
		receipt := c.number("claim_id")<<12 | item
		id := tr.jobOf(receipt)
		j := tr.job(id)
		touched[id] = true
		tr.ends[c.row["outcome"]]++
		if materialized, open := j.open[receipt]; !open || materialized {
			tr.problem("the attempt %d of job %d has another end: %s", receipt, id, c.row["outcome"])
			continue
		}
		switch c.row["outcome"] {
		case "materialized":
			j.open[receipt] = true
		case "completed":
			delete(j.open, receipt)
			j.ended = true
		default:
			delete(j.open, receipt)
		}
	}
}

// leave takes an entry out of a segment.
func (tr *trace) leave(p place, segment int) {
	delete(tr.where[p], segment)
	if len(tr.where[p]) > 0 {
		return
	}
	delete(tr.where, p)
	if tr.job(p.job).entries[p.xid] {
		tr.problem("the entry of job %d is gone, and it was not claimed", p.job)
	}
}

// truncate empties a table of a segment.
func (tr *trace) truncate(c change) {
	switch c.table {
	case "ready_entries":
		for p, segments := range tr.where {
			if segments[c.segment] {
				tr.leave(p, c.segment)
			}
		}
	case "lease_claims":
		for id := range tr.claimIn[c.segment] {
			for item, job := range tr.claims[id] {
				if materialized, open := tr.job(job).open[id<<12|int64(item)]; open && !materialized {
					tr.problem("the claim %d is gone, and its attempt of job %d is open", id, job)
				}
			}
		}
		clear(tr.claimIn[c.segment])
	}
}

// keys looks at who holds which key: jobs that live, one at a time.
func (tr *trace) keys(changes []change) {
	for _, c := range changes {
		if c.table != "unique_claims" {
			continue
		}
		key := c.row["key"] + " " + c.row["round"]
		job := c.number("job_id")
		if c.op == "DELETE" || job == 0 {
			delete(tr.holders, key)
			continue
		}
		if other := tr.holders[key]; other != 0 && other != job && tr.job(other).isAlive() {
			tr.problem("job %d gets a key that job %d holds", job, other)
		}
		tr.holders[key] = job
	}
}

// traces begins to record what is committed in a database. The function that it returns replays it.
func (s server) traces(d database) func() *trace {
	s.t.Helper()
	d.session().exec("select pg_create_logical_replication_slot('trace', 'test_decoding')")
	return func() *trace {
		s.t.Helper()
		tr := newTrace()
		var changes []change
		for {
			rows, err := d.session().db.Query(s.t.Context(), "select data from pg_logical_slot_get_changes('trace', null, "+
				"20000, 'include-xids', 'off', 'skip-empty-xacts', 'on')")
			require.NoError(s.t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(s.t, err)
			if len(lines) == 0 {
				return tr
			}
			for _, line := range lines {
				switch c, ok := parseChange(line); {
				case ok:
					changes = append(changes, c)
				case strings.HasPrefix(line, "COMMIT"):
					tr.commit(changes)
					changes = nil
				}
			}
		}
	}
}

// What the stress test commits, in the order of the commits, obeys the rules of the models after each of them.
func TestTraceOfStress(t *testing.T) {
	seed := *stressSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -stress.seed=%[1]d", seed)
	own := newLogicalServer(t)
	d := own.database("traced", true)
	replay := own.traces(d)
	stress(t, d.url, seed)
	tr := replay()
	alive := 0
	for _, j := range tr.jobs {
		if j.isAlive() {
			alive++
		}
	}
	t.Logf("%d commits, %d jobs, %d claims, ends %v", tr.commits, len(tr.jobs), len(tr.claims), tr.ends)
	require.Empty(t, tr.problems[:min(len(tr.problems), 20)], "of %d", len(tr.problems))
	require.Zero(t, alive, "jobs that have not ended")
	require.NotEmpty(t, tr.claims)
	require.Positive(t, tr.ends["materialized"])
}

// The replay sees what goes wrong behind the back of the functions.
func TestTraceSees(t *testing.T) {
	own := newLogicalServer(t)
	for i, c := range []struct{ what, do string }{
		{"", "select awa.cancel(job_id) from awa.deferred_jobs"},
		{"is in 0 places", "delete from awa.deferred_jobs"},
		{"is in 2 places", "insert into awa.deferred_jobs select r.* from awa.deferred_jobs d, " +
			"jsonb_populate_record(d, '{\"run_at\": \"infinity\"}') r"},
		{"has another end", "insert into awa.lease_claim_closures select k.* from awa.lease_claim_closures c, " +
			"jsonb_populate_record(c, '{\"item\": -99}') k"},
		{"and had no entry", "insert into awa.lease_claims select r.* from awa.lease_claims c, jsonb_populate_record(c, " +
			"jsonb_build_object('claim_id', c.claim_id + 100, 'lane_seq', c.lane_seq + 100)) r where c.job_ids <> '{}'"},
		{"and it was not claimed", "do $$ begin execute format('truncate awa.ready_entries_%s', (select current_segment " +
			"from awa.ring)); end $$"},
		{"is open", "do $$ begin execute format('truncate awa.lease_claims_%s', (select current_segment from awa.ring)); " +
			"end $$"},
		{"gets a key that job", "update awa.unique_claims set job_id = (select job_id from awa.deferred_jobs)"},
	} {
		d := own.database(fmt.Sprint("forged_", i), true)
		replay := own.traces(d)
		s := d.session()
		s.enqueueUnique("keyed", "key")
		s.exec("select awa.enqueue('q', 'k', run_at => now() + interval '1 hour')")
		s.completeMany(s.open("ended", shapes[2])[:2])
		s.exec(c.do)
		problems := strings.Join(replay().problems, "\n")
		if c.what == "" {
			require.Empty(t, problems)
		} else {
			require.Contains(t, problems, c.what, c.do)
		}
		s.exec("select pg_drop_replication_slot('trace')")
	}
}
