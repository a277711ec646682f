package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// refusedHolder makes a queue in order, with a group that is reserved for a job that a user's trigger refused to let
// begin; returns that job, the next one of its group, and a function that takes the trigger away.
func refusedHolder(t *testing.T, order string) (s *session, bad int64, next []int64) {
	s = newDatabase(t).session()
	s.limits("q", `{"group_order": "`+order+`"}`)
	s.enqueueInGroup("q", "g", 1)
	running := s.claim("q", 10)
	bad = one[int64](s, "select awa.enqueue('q', 'bad', group_key => 'g', expires_at => now() + '1 day')")
	next = s.enqueueInGroup("q", "g", 1)
	require.Empty(t, s.claim("q", 10))
	s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then raise check_violation; end if; return new; end $$")
	s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
	s.completeMany(running)
	require.Empty(t, s.claimsToTheEnd("q", 10))
	require.Equal(t, "scheduled", s.state(bad))
	require.Equal(t, &bad, s.holder("q", "g"))
	return s, bad, next
}

// A job that was put off when it should begin keeps its group under an order, and has had no attempt: its group goes on
// when it is cancelled, by whatever call, when it expires, and when it gets a later time or another queue.
func TestRefusedHolderThatLeaves(t *testing.T) {
	for _, order := range []string{"strict", "halt"} {
		for _, way := range []string{
			"select awa.cancel($1)",
			"select awa.cancel_where(kind => (select j.kind from awa.jobs j where j.id = $1))",
			"select awa.reschedule($1, now() + interval '1 hour')",
			"select awa.move($1, 'other')",
			"expires",
		} {
			t.Run(order+" "+way, func(t *testing.T) {
				s, bad, next := refusedHolder(t, order)
				if way == "expires" {
					s.expire(bad)
					s.promotesAll()
					require.Equal(t, "cancelled", s.state(bad))
				} else {
					s.exec(way, bad)
				}
				require.Equal(t, next, ids(s.claimsToTheEnd("q", 10)))
				require.Nil(t, s.holder("q", "g"))
				s.slots()
				s.balanced()
			})
		}
	}
}

// Until then it keeps its place: it begins first, once it may.
func TestRefusedHolderThatStays(t *testing.T) {
	for _, order := range []string{"strict", "halt"} {
		s, bad, next := refusedHolder(t, order)
		s.exec("drop trigger refuse on awa.ready_entries")
		s.exec("select awa.reschedule($1, now())", bad)
		begun := s.claimsToTheEnd("q", 10)
		require.Equal(t, []int64{bad}, ids(begun))
		s.completeMany(begun)
		require.Equal(t, next, ids(s.claimsToTheEnd("q", 10)))
		s.slots()
	}
}
