package browsertest

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// The forms of what can be changed have no fault: axe finds nothing, in light and dark, the keyboard reaches all, and a
// narrow window shows all.
func TestForms(t *testing.T) {
	role := withOperator(t)
	s := newSite(t, role, "--allow-changes")
	s.execute(`grant awa_producer to `+role, `select awa.pause_group('images', 'product/1', 'late')`)
	change := s.value(`select max(change_id)::text from awa.list_changes(state => 'running')`)
	x := newBrowser(t).newTab(t, s.address)
	for _, p := range []page{
		{"failures", "/failures", []string{"order ? has no address", "Retry…"}, true, 0},
		{"groups", "/groups?queue=images", []string{"product/1", "late", "Resume", "Pause a group"}, true, 0},
		{"change", "/change?id=" + change, []string{"webhooks", "ada", "Stop"}, true, 0},
		{"new", "/new", []string{"Enqueue"}, false, 0},
		{"new-like", "/new?like=" + s.one("dead"), []string{"Enqueue"}, false, 0},
		{"edit", "/job/" + s.one("dead") + "/edit", []string{"Run again with these arguments"}, false, 0},
		{"job-forms", "/job/" + s.one("dead"), []string{"Retry…", "Edit the arguments", "New job like this one"}, false, 0},
		{"schedule-forms", "/schedule?name=stock", []string{"Resume", "Enqueue its job now"}, true, 0},
		{"queue-forms", "/queue?name=emails", []string{"Pause", "Change a setting"}, true, 0},
		{"jobs-forms", "/jobs?queue=images", []string{"All that match"}, true, 0},
		{"dead-forms", "/dead", []string{"The selected jobs"}, true, 0},
	} {
		t.Run(p.name, func(t *testing.T) {
			defer x.during(t)()
			x.size(1280, 900)
			x.scheme("light")
			x.visit(p)
			if p.isLive {
				eval[bool](x, `document.querySelector("button.pause").click(), true`)
			}
			eval[bool](x, `document.querySelectorAll("details").forEach((d) => { d.open = true; }), true`)
			assert.Empty(t, x.axe(wcag), "light")
			x.screenshot("form-" + p.name + "-light")
			x.scheme("dark")
			assert.Empty(t, x.axe(colours), "dark")
			x.screenshot("form-" + p.name + "-dark")
			assert.Empty(t, x.unreachable())
			x.size(320, 500)
			assert.Empty(t, x.wide())
			x.screenshot("form-" + p.name + "-narrow")
		})
	}
	assert.Empty(t, s.log.String())
}
