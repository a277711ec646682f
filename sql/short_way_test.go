package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A group is opened, or loses its own limit, when a claim of its queue has taken its snapshot, and has not looked at
// groups yet: those that wait in its line begin before one that no claim has read.
func TestShortWayBesideAGroupThatOpens(t *testing.T) {
	for closes, opens := range map[string]string{
		"select awa.pause_group('q', 'g')": "select awa.resume_group('q', 'g')",
		`select awa.configure_group('q', 'g', '{"group_max_running": 1}')`: `select awa.configure_group('q', 'g',
			'{"group_max_running": null}')`,
	} {
		t.Run(opens, func(t *testing.T) {
			d := newDatabase(t)
			s, a, b := d.session(), d.session(), d.session()
			s.limits("q", `{"max_running": 5}`)
			first := s.enqueueInGroup("q", "g", 1)
			require.Equal(t, first, ids(s.claim("q", 1)))
			s.exec(closes)
			if opens != "select awa.resume_group('q', 'g')" {
				s.enqueueInGroup("q", "g", 1)
				require.Len(t, s.claim("q", 1), 1)
			}
			jobs := s.enqueueInGroup("q", "g", 1)
			require.Empty(t, s.claim("q", 1))
			jobs = append(jobs, s.enqueueInGroup("q", "g", 1)...)
			b.exec("begin")
			b.exec("lock table awa.group_settings")
			b.exec(opens)
			claims := a.background("create table public.begun as select * from awa.claim('q', 1)")
			b.waitUntilBlocked(a)
			b.exec("commit")
			require.NoError(t, claims())
			begun := list[int64](s, "select job_id from public.begun")
			require.Equal(t, jobs, append(begun, ids(s.claimsToTheEnd("q", 1))...))
			s.slots()
			s.balanced()
		})
	}
}

// A queue is resumed when a claim has read that it is paused, and has not looked at its limits yet: what was given back
// meanwhile still goes first.
func TestClaimBesideResumeQueue(t *testing.T) {
	d := newDatabase(t)
	s, a, b := d.session(), d.session(), d.session()
	s.limits("q", `{"max_running": 5}`)
	s.exec(`select awa.configure_group('q', 'g', '{"group_max_running": 1}')`)
	jobs := s.enqueueInGroup("q", "g", 2)
	running := s.claim("q", 1)
	require.Equal(t, jobs[:1], ids(running))
	require.Empty(t, s.claim("q", 1))
	s.exec("select awa.pause_queue('q')")
	s.exec("select awa.release($1, $2)", running[0].JobID, running[0].Receipt)
	b.exec("begin")
	b.exec("lock table awa.group_settings")
	b.exec("select awa.resume_queue('q')")
	claims := a.background("create table public.begun as select * from awa.claim('q', 1)")
	b.waitUntilBlocked(a)
	b.exec("commit")
	require.NoError(t, claims())
	begun := s.claim("q", 1)
	require.Equal(t, jobs[:1], append(list[int64](s, "select job_id from public.begun"), ids(begun)...))
	s.completeMany(begun)
	require.Equal(t, jobs[1:], ids(s.claimsToTheEnd("q", 1)))
	s.slots()
	s.balanced()
}
