package browsertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// focus gives the focus to what can be seen and for which an expression of e is true.
func (x *tab) focus(selector, is string) {
	x.t.Helper()
	x.wait(fmt.Sprintf(`(() => {
		const found = [...document.querySelectorAll(%q)].find((e) => e.checkVisibility() && (%s));
		found?.focus();
		return found !== undefined && document.activeElement === found;
	})()`, selector, is))
}

// A step is something that a user does on a page, with the keyboard.
type step func(*tab)

// press presses the button or link with a text.
func press(text string) step {
	return func(x *tab) {
		x.focus("summary, button, a", fmt.Sprintf(`e.textContent.trim() === %q`, text))
		x.do(chromedp.KeyEvent(kb.Enter))
	}
}

// fill writes a text into a field, in place of what it holds.
func fill(name, text string) step {
	return func(x *tab) {
		x.focus("main input, main textarea", fmt.Sprintf(`e.name === %q`, name))
		x.do(chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)), chromedp.KeyEvent(text))
	}
}

// choose chooses one of a list, by what it begins with.
func choose(name, text string) step {
	return func(x *tab) {
		x.focus("main select", fmt.Sprintf(`e.name === %q`, name))
		x.do(chromedp.KeyEvent(text))
	}
}

// tick ticks the box of a job.
func tick(job string) step {
	return func(x *tab) {
		x.focus("input[type=checkbox]", fmt.Sprintf(`e.value === %q`, job))
		x.do(chromedp.KeyEvent(" "))
	}
}

// act is an action: where it begins, what the user does, what the last page shows, and what is true in the database
// then, of the job that the path, or the steps, name.
type act struct {
	name, path, job string
	steps           []step
	shows, holds    string
}

// jobs enqueues jobs, which are deferred, and returns the id of the first one.
func (s *site) jobs(queue string, count int) (first string) {
	s.t.Helper()
	return s.value(`select min(awa.enqueue($1, 'probe', run_at => now() + interval '1 day'))::text
		from generate_series(1, $2)`, queue, count)
}

// acts are all actions.
func (s *site) acts() []act {
	s.t.Helper()
	dead, deferred := s.one("dead"), make([]string, 8)
	for n := range deferred {
		deferred[n] = s.jobs("probes", 1)
	}
	all := s.jobs("many", 3)
	return []act{
		{
			"cancel", "/job/" + deferred[0], deferred[0],
			[]step{press("Cancel…"), fill("reason", "not wanted"), press("Cancel")},
			"not wanted", `select state = 'cancelled' from awa.job($1)`,
		},
		{
			"retry", "/job/" + dead, dead,
			[]step{press("Retry…"), fill("to_queue", "probes"), choose("priority", "1"), press("Retry")},
			"available", `select state = 'available' and queue = 'probes' and priority = 1 from awa.job($1)`,
		},
		{
			"discard", "/job/" + deferred[1], deferred[1],
			[]step{press("Make a dead letter…"), fill("reason", "no use"), press("Make a dead letter")},
			"no use", `select state = 'dead' from awa.job($1)`,
		},
		{
			"move", "/job/" + deferred[2], deferred[2], []step{press("Move…"), fill("to_queue", "images"), press("Move")},
			"images", `select queue = 'images' from awa.job($1)`,
		},
		{
			"priority", "/job/" + deferred[3], deferred[3],
			[]step{press("Set the priority…"), choose("priority", "4"), press("Set the priority")},
			"scheduled", `select priority = 4 from awa.job($1)`,
		},
		{
			"delete", "/job/" + deferred[0], deferred[0], []step{press("Delete…"), press("Delete")},
			"Action", `select count(*) = 0 from awa.job($1)`,
		},
		{
			"pause", "/queue?name=emails", "0", []step{press("Pause")},
			"Paused since", `select paused_at is not null and $1 <> 1 from awa.list_queues() where queue = 'emails'`,
		},
		{
			"resume", "/queue?name=emails", "0", []step{press("Resume")},
			"Pause", `select paused_at is null and $1 <> 1 from awa.list_queues() where queue = 'emails'`,
		},
		{
			"selected", "/jobs?queue=probes", deferred[4],
			[]step{
				tick(deferred[4]), tick(deferred[5]), choose("action", "Cancel"), press("The selected jobs…"),
				fill("reason", "both"), press("Cancel: 2 jobs"),
			},
			"2 of 2 jobs were changed", `select state = 'cancelled' from awa.job($1)`,
		},
		{
			"all", "/jobs?queue=many", all,
			[]step{choose("action", "Cancel"), press("All that match…"), fill("reason", "all"), press("Cancel: 3 jobs")},
			"running", `select count(*) = 1 and $1 <> 0 from awa.list_changes() where filter ->> 'queue' = 'many'`,
		},
		{
			"stop", "/changes", "0",
			[]step{press(s.value(`select (coalesce(max(change_id), 0) + 1)::text from awa.list_changes()`)), press("Stop")},
			"stopped", `select state = 'stopped' and $1 <> 1 from awa.list_changes() order by change_id desc limit 1`,
		},
		{
			"cause", "/failures?kind=print_invoice", "0", []step{press("Retry…"), press("Retry: 1 job")},
			"changed", `select count(*) = 1 and $1 <> 1 from awa.list_changes() where filter ? 'cause'`,
		},
		{
			"configure", "/queue?name=emails", "0",
			[]step{press("Change a setting…"), choose("setting", "max_dep"), fill("value", "70000"), press("Set")},
			"70000", `select count(*) = 1 and $1 <> 1 from awa.list_queues() where queue = 'emails' and max_depth = 70000`,
		},
		{
			"pause-group", "/groups?queue=images", "0",
			[]step{press("Pause a group…"), fill("group", "product/1"), fill("reason", "for now"), press("Pause")},
			"for now", `select count(*) = 1 and $1 <> 1 from awa.list_groups('images') where paused_at is not null`,
		},
		{
			"resume-group", "/groups?queue=images", "0", []step{press("Resume")},
			"Pause a group", `select count(*) = 0 and $1 <> 1 from awa.list_groups('images') where paused_at is not null`,
		},
		{
			"pause-schedule", "/schedule?name=sales+of+the+day", "0", []step{fill("reason", "holidays"), press("Pause")},
			"holidays", `select paused_at is not null and $1 <> 1 from awa.list_schedules() where name = 'sales of the day'`,
		},
		{
			"resume-schedule", "/schedule?name=sales+of+the+day", "0", []step{press("Resume")},
			"Pause", `select paused_at is null and $1 <> 1 from awa.list_schedules() where name = 'sales of the day'`,
		},
		{
			"trigger", "/schedule?name=stock", "0", []step{press("Enqueue its job now")},
			"stock", `select count(*) = 1 and $1 <> 1 from awa.list_jobs(queue => 'webhooks') where args @> '{"what": "stock"}'`,
		},
		{
			"edit", "/job/" + deferred[6], deferred[6],
			[]step{press("Edit the arguments"), fill("args", `{"n": 12345678901234567890}`), press("Change the arguments")},
			"12345678901234567890", `select args->>'n' = '12345678901234567890' from awa.job($1)`,
		},
		{
			"new", "/jobs", "0",
			[]step{
				press("New job"), fill("queue", "images"), fill("kind", "by hand"), fill("args", `{"a": [1, "b"]}`),
				press("Enqueue"),
			},
			"by hand", `select count(*) = 1 and $1 <> 1 from awa.list_jobs(kind => 'by hand')`,
		},
		{
			"copy", "/job/" + deferred[7], "0",
			[]step{press("New job like this one"), fill("kind", "a copy"), press("Enqueue")},
			"a copy", `select count(*) = 1 and $1 <> 1 from awa.list_jobs(kind => 'a copy')`,
		},
	}
}

// Each action is done from the keyboard, and does what it says. What it is shown on has no fault.
func TestActions(t *testing.T) {
	s := newSite(t, withOperator(t), "--allow-changes")
	x := newBrowser(t).newTab(t, s.address)
	for _, a := range s.acts() {
		t.Run(a.name, func(t *testing.T) {
			defer x.during(t)()
			x.size(1280, 900)
			x.open(a.path)
			for n, do := range a.steps {
				if n == len(a.steps)-1 { // the form
					assert.Empty(t, x.axe(wcag))
					x.size(320, 500)
					assert.Empty(t, x.wide())
					x.size(1280, 900)
					x.screenshot("action-" + a.name)
				}
				do(x)
			}
			x.wait(fmt.Sprintf(`document.querySelector("main").innerText.includes(%q)`, a.shows))
			assert.Eventually(t, func() bool { return s.value(`select coalesce((`+a.holds+`), false)::text`, a.job) == "true" },
				patience, 50*time.Millisecond, "%s", a.holds)
			assert.Empty(t, x.axe(wcag))
			assert.Empty(t, x.wide())
		})
	}
}

// A page that was open while the command was started again goes on, and its action is done.
func TestActionAfterARestart(t *testing.T) {
	s := newSite(t, withOperator(t), "--allow-changes")
	x := newBrowser(t).newTab(t, s.address)
	job := s.jobs("probes", 1)
	x.open("/job/" + job)
	x.expect("net::ERR_") // what it asked for while there was none
	s.restart("--allow-changes")
	for _, do := range []step{press("Cancel…"), press("Cancel")} {
		do(x)
	}
	x.wait(`document.querySelector("main").innerText.includes("cancelled")`)
}

// What another site has the browser send is refused; a link of another site's leads here.
func TestOtherSites(t *testing.T) {
	s := newSite(t, withOperator(t), "--allow-changes")
	job := s.jobs("probes", 1)
	attacker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><link rel="icon" href="data:,"><main><a href="%[1]s/jobs">jobs</a>
			<form method="post" action="%[1]s/act"><input name="action" value="cancel"><input name="job" value="%[2]s">
			<button>win</button></form></main>`, s.address, job)
	}))
	defer attacker.Close()
	x := newBrowser(t).newTab(t, "http:/") // any host
	x.expect("status of 403")
	other := strings.Replace(attacker.URL, "127.0.0.1", "localhost", 1)
	for _, from := range []string{attacker.URL, other} {
		x.do(chromedp.Navigate(from))
		press("win")(x)
		x.wait(`document.querySelector("main").innerText.includes("Another site has sent this")`)
		assert.Equal(t, "scheduled", s.value(`select state::text from awa.job($1)`, job))
	}
	x.do(chromedp.Navigate(other))
	press("jobs")(x)
	x.wait(`document.querySelector("h1").innerText === "Jobs"`)
}

// Whoever may only read is offered nothing: by the command, or by the rights of the database.
func TestReadersAreOfferedNothing(t *testing.T) {
	s := newSite(t, "awa_reader", "--allow-changes")
	job := s.jobs("probes", 1)
	b := newBrowser(t)
	looks := func() {
		x := b.newTab(t, s.address)
		for _, path := range []string{"/job/" + job, "/queue?name=emails", "/jobs?queue=probes", "/dead", "/changes"} {
			x.open(path)
			assert.Zero(t, eval[int](x, `document.querySelectorAll(".actions, #many, input[type=checkbox]").length`), path)
		}
	}
	looks()
	s.serve(withOperator(t))
	looks()
}

// Texts of producers and workers are shown as texts: none of them runs, or changes the page.
func TestTextsRunNowhere(t *testing.T) {
	s := newSite(t, "awa_reader")
	const text = `x"''><script>document.title = 1</script><img src=x onerror="document.title = 1"><base href="//x">`
	s.execute(
		`select awa.enqueue('`+text+`', '`+text+`', jsonb_build_object('`+text+`', '`+text+`'), tags => array['`+text+`'],
		          group_key => '`+text+`', metadata => jsonb_build_object('a', '`+text+`')) from generate_series(1, 3)`,
		`select awa.fail(job_id, receipt, '`+text+`', details => jsonb_build_object('a', '`+text+`'))
		   from awa.claim('`+text+`', 1, awa.register_worker('`+text+`', array['`+text+`']))`,
		`select awa.schedule('`+text+`', '`+text+`', '`+text+`', every => '5 minutes')`,
		`select set_config('awa.actor', '`+text+`', false)`,
		`select awa.pause_queue('`+text+`')`)
	x := newBrowser(t).newTab(t, s.address)
	visited := map[string]bool{}
	starts := []string{"/", "/queues", "/jobs", "/schedules", "/workers", "/changes", "/jobs?state=retryable"}
	for _, start := range starts {
		x.open(start)
		next := []string{start}
		next = append(next, eval[[]string](x, `(() => {
			const all = [...document.querySelectorAll("main a")].map((a) => a.getAttribute("href"));
			return [...all.filter((href) => /script/.test(href)), 
				...(location.pathname === "/jobs" ? all.filter((href) => /^.job.[0-9]/.test(href)).slice(0, 1) : [])];
		})()`)...)
		for _, path := range next {
			kind, _, _ := strings.Cut(path, "=")
			if visited[kind] {
				continue
			}
			visited[kind] = true
			x.open(path)
			assert.Contains(t, x.text(), "<script>document.title", path)
			assert.Contains(t, eval[string](x, `document.title`), "Awa", path)
		}
	}
	assert.Greater(t, len(visited), 6)
	require.Empty(t, x.found())
}
