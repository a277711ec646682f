package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A job in line that a user's trigger refuses to let begin is put off, and its slot comes back: all others of the shard
// begin, also with it in one claim. Under strict it keeps its place. Where it can't be put off either, it has its turn
// later.
func TestRefusedTurn(t *testing.T) {
	for _, settings := range []string{`{"group_max_running": 1}`, `{"group_order": "strict"}`,
		`{"group_max_running": 1, "group_rate": {"jobs": 1000, "per": "1 second"}}`} {
		for _, room := range []int{1, 10} {
			for _, also := range []bool{false, true} {
				s := newDatabase(t).session()
				s.limits("q", settings)
				first := append(s.enqueueInGroup("q", "g", 1), s.enqueueInGroup("q", "h", 1)...)
				running := s.claim("q", 10)
				require.Equal(t, first, ids(running))
				bad := one[int64](s, "select awa.enqueue('q', 'bad', group_key => 'g')")
				next := s.enqueueInGroup("q", "g", 1)
				other := s.enqueueInGroup("q", "h", 2)
				require.Empty(t, s.claim("q", 10))
				s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
					"then raise check_violation; end if; return new; end $$")
				s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
				if also {
					s.exec("create trigger refuse before insert on awa.deferred_jobs for each row execute function public.refuse()")
				}
				s.completeMany(running)
				begun := s.claimsToTheEnd("q", room)
				if also {
					require.Equal(t, other[:1], ids(begun), settings)
					require.Equal(t, "available", s.state(bad))
					s.slots()
					s.exec("drop trigger refuse on awa.deferred_jobs")
					begun = append(begun, s.claimsToTheEnd("q", room)...)
				}
				if settings == `{"group_order": "strict"}` {
					require.Equal(t, other[:1], ids(begun))
					require.Equal(t, &bad, s.holder("q", "g"))
				} else {
					require.ElementsMatch(t, []int64{next[0], other[0]}, ids(begun), settings)
				}
				require.Equal(t, "scheduled", s.state(bad))
				require.Contains(t, one[string](s, "select errors::text from awa.jobs where id = $1", bad),
					"to begin it was refused")
				s.slots()
				s.completeMany(begun)
				require.Equal(t, other[1:], ids(s.claimsToTheEnd("q", room)))
				s.exec("drop trigger refuse on awa.ready_entries")
				s.promotesAll()
				last := s.claimsToTheEnd("q", room)
				require.Equal(t, bad, last[0].JobID)
				s.completeMany(last)
				if settings == `{"group_order": "strict"}` {
					require.Equal(t, next, ids(s.claimsToTheEnd("q", room)))
				}
				s.slots()
				s.balanced()
			}
		}
	}
}

// Where groups are served by turns, a job that can neither begin nor be put off is tried once or twice by each claim,
// and its group has no other turn meanwhile.
func TestRefusedTurnByTurns(t *testing.T) {
	for _, room := range []int{1, 10} {
		s := newDatabase(t).session()
		s.limits("q", `{"group_turns": true}`)
		s.exec("create sequence public.tries")
		s.exec("grant all on sequence public.tries to public")
		s.exec("create function public.refuse() returns trigger language plpgsql as $$ begin if new.kind = 'bad' " +
			"and nextval('public.tries') > 0 then raise check_violation; end if; return new; end $$")
		bad := one[int64](s, "select awa.enqueue('q', 'bad', group_key => 'g')")
		s.enqueueForGroups("q", 5, "g", "h")
		s.exec("create trigger refuse before insert on awa.ready_entries for each row execute function public.refuse()")
		s.exec("create trigger refuse before insert on awa.deferred_jobs for each row execute function public.refuse()")
		got := map[string]int{}
		for range 12 {
			before := one[int64](s, "select last_value from public.tries")
			for _, group := range s.serves("q", room) {
				got[group]++
			}
			// to begin it with the others, by itself, and to put it off; once, or twice
			require.LessOrEqual(t, one[int64](s, "select last_value from public.tries")-before, int64(6), "room %d", room)
			s.slots()
			require.Equal(t, 1, one[int](s, "select count(*)::int from awa.turns where group_id = awa._group_id('g')"))
		}
		require.Equal(t, map[string]int{"h": 5}, got)
		s.exec("drop trigger refuse on awa.ready_entries")
		require.Contains(t, ids(s.claimsToTheEnd("q", room)), bad)
		s.slots()
		s.balanced()
	}
}

// Where a job in line can't begin since the server lacks a resource, the claim fails, and puts off nothing.
func TestTurnThatTheServerCannotBegin(t *testing.T) {
	s := newDatabase(t).session()
	s.limits("q", `{"group_order": "strict"}`)
	s.enqueueInGroup("q", "g", 1)
	running := s.claim("q", 10)
	next := s.enqueueInGroup("q", "g", 1)
	require.Empty(t, s.claim("q", 10))
	s.exec("create function public.lack() returns trigger language plpgsql as $$ begin raise out_of_memory; end $$")
	s.exec("create trigger lack before insert on awa.ready_entries for each row execute function public.lack()")
	s.completeMany(running)
	require.Equal(t, "53200", sqlState(s.try("select awa.claim('q', 10)")))
	require.Equal(t, "available", s.state(next[0]))
	s.slots()
	s.exec("drop trigger lack on awa.ready_entries")
	require.Equal(t, next, ids(s.claim("q", 10)))
	s.slots()
}

// claimsToTheEnd claims until two claims in a row come back empty.
func (s *session) claimsToTheEnd(queue string, room int) (all []claimed) {
	s.Helper()
	for empty := 0; empty < 2; {
		jobs := s.claim(queue, room)
		all = append(all, jobs...)
		empty++
		if len(jobs) > 0 {
			empty = 0
		}
	}
	return all
}
