package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// refuseInLines has the server refuse to put bad jobs in line, by a constraint or by a user's trigger.
func (s *session) refuseInLines(byTrigger bool) {
	s.Helper()
	if !byTrigger {
		s.exec("alter table awa.limited_jobs add constraint no_bad check (kind <> 'bad')")
		return
	}
	s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
		"then raise exception 'not this one'; end if; return new; end $$")
	s.exec("create trigger refuse before insert on awa.limited_jobs for each row execute function public.refuse()")
}

// A job that can't be put in line, since the server refuses its row, is put off, and all others begin, in their order:
// the ones before it in its group, those behind it, and other groups. It begins once it may.
func TestRefusedInLine(t *testing.T) {
	for _, settings := range []string{`{"group_max_running": 1}`, `{"group_order": "strict"}`,
		`{"group_turns": true, "group_max_running": 1}`, `{"group_turns": true, "group_order": "halt"}`} {
		for _, byTrigger := range []bool{false, true} {
			for _, room := range []int{1, 10} {
				t.Run(fmt.Sprintf("%s, trigger %v, room %d", settings, byTrigger, room), func(t *testing.T) {
					s := newDatabase(t).session()
					s.limits("q", settings)
					s.refuseInLines(byTrigger)
					first := s.enqueueInGroup("q", "a", 2)
					bad := one[int64](s, "select job_id from awa.enqueue_unique('q', 'bad', group_key => 'a', "+
						"unique_key => 'one')")
					next := s.enqueueInGroup("q", "a", 2)
					other := s.enqueueInGroup("q", "b", 1)

					begun := s.claimsToTheEnd("q", room)
					require.ElementsMatch(t, []int64{first[0], other[0]}, ids(begun))
					require.Equal(t, "scheduled", s.state(bad))
					require.Contains(t, one[string](s, "select errors::text from awa.jobs where id = $1", bad),
						"to put it in line it was refused")
					s.slots()
					s.balanced()
					inGroup := []int64{}
					for len(begun) > 0 {
						s.completeMany(begun)
						begun = s.claimsToTheEnd("q", room)
						inGroup = append(inGroup, ids(begun)...)
					}
					require.Equal(t, append(first[1:], next...), inGroup)

					s.exec("alter table awa.limited_jobs drop constraint if exists no_bad")
					s.exec("drop trigger if exists refuse on awa.limited_jobs")
					s.promotesAll()
					require.Equal(t, []int64{bad}, ids(s.claimsToTheEnd("q", room)))
					s.slots()
					s.balanced()
				})
			}
		}
	}
}

// Nor does it matter how many are refused, or whether they can be put off: others begin.
func TestManyRefusedInLine(t *testing.T) {
	for _, settings := range []string{`{"group_max_running": 1}`, `{"group_turns": true}`} {
		for _, also := range []bool{false, true} {
			s := newDatabase(t).session()
			s.limits("q", settings)
			s.refuseInLines(true)
			if also {
				s.exec("create trigger refuse before insert on awa.deferred_jobs for each row " +
					"execute function public.refuse()")
			}
			first := s.enqueueInGroup("q", "a", 1)
			s.exec("select awa.enqueue('q', 'bad', group_key => 'a') from generate_series(1, 100)")
			other := s.enqueueInGroup("q", "b", 1)
			require.ElementsMatch(t, append(first, other...), ids(s.claimsToTheEnd("q", 10)))
			want := "scheduled"
			if also {
				want = "running" // of nobody, until rescue ends them
			}
			require.Equal(t, 100,
				one[int](s, "select count(*)::int from awa.jobs where kind = 'bad' and state = $1", want))
			s.slots()
			s.balanced()
		}
	}
}

// A job of a paused group that can't be put in line keeps its place under an order: no other is before it.
// Where it leaves, the group goes on.
func TestRefusedInLineKeepsItsPlace(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		s := newDatabase(t).session()
		s.limits("q", `{"group_order": "strict"}`)
		s.refuseInLines(false)
		s.exec("select awa.pause_group('q', 'a')")
		bad := one[int64](s, "select awa.enqueue('q', 'bad', group_key => 'a')")
		next := s.enqueueInGroup("q", "a", 1)
		other := s.enqueueInGroup("q", "b", 1)
		require.Equal(t, other, ids(s.claimsToTheEnd("q", 10)))
		require.Equal(t, "scheduled", s.state(bad))
		require.Equal(t, &bad, s.holder("q", "a"))
		s.exec("select awa.resume_group('q', 'a')")
		require.Empty(t, s.claimsToTheEnd("q", 10))
		s.slots()
		if leaves {
			s.exec("select awa.cancel($1)", bad)
		} else {
			s.promotesAll()
			begun := s.claimsToTheEnd("q", 10)
			require.Equal(t, []int64{bad}, ids(begun))
			s.completeMany(begun)
		}
		require.Equal(t, next, ids(s.claimsToTheEnd("q", 10)))
		s.slots()
		s.balanced()
	}
}

// Also where a queue has no limits, and one of its groups is paused.
func TestRefusedInLineOfAPausedGroup(t *testing.T) {
	s := newDatabase(t).session()
	s.refuseInLines(false)
	s.exec("select awa.pause_group('q', 'a')")
	bad := one[int64](s, "select awa.enqueue('q', 'bad', group_key => 'a')")
	other := s.enqueueInGroup("q", "b", 1)
	require.Equal(t, other, ids(s.claimsToTheEnd("q", 1)))
	require.Equal(t, "scheduled", s.state(bad))
	s.slots()
	s.balanced()
}

// What claims put aside they copy: so a claim stops after so many bytes of large jobs, and the next goes on. A small
// job of another group, behind them, begins after a few claims.
func TestPuttingAsideIsBounded(t *testing.T) {
	for _, room := range []int{1, 10} {
		s := newDatabase(t).session()
		s.limits("q", `{"group_max_running": 1}`)
		s.enqueueInGroup("q", "a", 1)
		s.exec("select awa.enqueue('q', 'k', to_jsonb(repeat('x', 1000000)), group_key => 'a') " +
			"from generate_series(1, 60)")
		other := s.enqueueInGroup("q", "b", 1)
		require.Len(t, s.claim("q", 1), 1)
		aside := 0
		for claims := 0; ; claims++ {
			require.Less(t, claims, 10)
			begun := s.claim("q", room)
			now := one[int](s, "select count(*)::int from awa.limited_jobs")
			require.LessOrEqual(t, now-aside, 22, "about 16 MB, and what is read at once")
			require.True(t, now > aside || len(begun) > 0, "each claim comes further")
			aside = now
			if len(begun) > 0 {
				require.Equal(t, other, ids(begun))
				require.GreaterOrEqual(t, claims, 2)
				break
			}
		}
		require.Equal(t, 60, aside)
		s.slots()
	}
}
