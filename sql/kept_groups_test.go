package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// The number of shards of a queue does not change while a job that failed for good keeps its group, under halt: in its
// new shard the group would not be closed. Whether a claim has read of it or not.
func TestShardsBesideKeptGroups(t *testing.T) {
	const change = `select awa.configure_queue('q', '{"shards": 7}')`
	for _, order := range []string{"halt", "strict"} {
		for _, read := range []bool{false, true} {
			for _, end := range []string{"select awa.delete_job($1)", "select awa.retry($1)"} {
				s := newDatabase(t).session()
				s.limits("q", `{"group_order": "`+order+`"}`)
				first := s.enqueueInGroup("q", "g", 1)
				attempt := s.claim("q", 9)
				s.exec("select awa.discard($1, $2, 'error')", attempt[0].JobID, attempt[0].Receipt)
				if read {
					require.Empty(t, s.claim("q", 9))
				}
				err := s.try(change)
				if order == "halt" {
					require.Equal(t, "55000", sqlState(err))
					require.ErrorContains(t, err, "keep their group")
					s.exec(end, first[0])
				} else {
					require.NoError(t, err)
					continue
				}
				err = s.try(change)
				if end == "select awa.retry($1)" {
					require.Equal(t, "55000", sqlState(err), "it waits")
					s.completeMany(s.claim("q", 9))
					err = s.try(change)
				}
				require.NoError(t, err)
				require.Equal(t, s.enqueueInGroup("q", "g", 1), ids(s.claim("q", 9)))
				s.slots()
			}
		}
	}
}

// A group is reserved for a job no longer that is retried in another queue, now or later.
func TestHolderThatIsRetriedElsewhere(t *testing.T) {
	s := newDatabase(t).session()
	for n, end := range []string{"select awa.discard($1, $2, 'never')", "select awa.fail($1, $2, 'error', '1 hour')"} {
		for m, when := range []string{"", ", run_at => now() + interval '1 hour'"} {
			queue := fmt.Sprint("q", n, m)
			s.limits(queue, `{"group_order": "halt", "dead_letter": true}`)
			jobs := s.enqueueInGroup(queue, "g", 2)
			s.exec(end, jobs[0], s.claim(queue, 9)[0].Receipt)
			require.Empty(t, s.claim(queue, 9))
			s.exec("select awa.retry($1, 'other'"+when+")", jobs[0])
			require.Equal(t, jobs[1:], ids(s.claim(queue, 9)), queue)
		}
	}
	s.audited()
}
