package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// browser is one of chromium, with an empty profile.
type browser struct{ ctx context.Context }

// newBrowser starts a browser, which stops when the test ends.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	// A sandbox needs rights that root, or a user of a container, has not; the pages are ours.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1280, 900),
		chromedp.CombinedOutput(io.Discard), chromedp.Flag("hide-scrollbars", false))
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx), "no browser starts: install chromium, as scripts/setup.sh test does")
	return &browser{ctx}
}

// tab is a tab of the browser that notes what goes wrong in it.
type tab struct {
	t     *testing.T
	ctx   context.Context
	below string // what each address begins with that the tab may ask for

	mutex    sync.Mutex
	problems []string
	expected []string // pieces of problems that are none
}

// newTab opens a tab for the pages below an address. When the test ends, nothing may have gone wrong in it.
func (b *browser) newTab(t *testing.T, below string) *tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(b.ctx)
	x := &tab{t: t, ctx: ctx, below: below}
	t.Cleanup(func() {
		assert.Empty(x.t, x.found())
		closeTab()
	})
	require.NoError(t, chromedp.Do(ctx))
	require.NoError(t, chromedp.Listen(ctx, x.note))
	call(x, audits.Enable, cdp.Empty{})
	return x
}

// run runs an action, which has to end in time.
func run[T any](x *tab, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// call sends a command to the tab.
func call[P, R any](x *tab, command cdp.Command[P, R], parameters P) R {
	x.t.Helper()
	result, err := run(x, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, command, parameters)
	})
	require.NoError(x.t, err)
	return result
}

// during has a part of the test look at the tab. What it returns ends that.
func (x *tab) during(t *testing.T) func() {
	whole := x.t
	x.t = t
	return func() {
		assert.Empty(x.t, x.found())
		x.t = whole
	}
}

// note notes an event that says that something is wrong: an error in the console, an exception, what the browser
// reports of a page, such as a violation of its policy, and a request that goes elsewhere, or fails.
func (x *tab) note(event any) {
	problem := ""
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert ||
			e.Type == runtime.ConsoleAPICalledTypeWarning {
			problem = "console: " + asJSON(e.Args)
		}
	case *runtime.EventExceptionThrown:
		problem = "exception: " + asJSON(e.ExceptionDetails)
	case *browserlog.EventEntryAdded:
		if e.Entry.Level == browserlog.EntryLevelError || e.Entry.Level == browserlog.EntryLevelWarning {
			problem = "log: " + asJSON(e.Entry)
		}
	case *audits.EventIssueAdded:
		problem = "issue: " + asJSON(e.Issue)
	case *network.EventRequestWillBeSent:
		if address := e.Request.URL; !strings.HasPrefix(address, x.below+"/") && !strings.HasPrefix(address, "data:") &&
			address != x.below {
			problem = "request: " + address
		}
	case *network.EventLoadingFailed:
		if !e.Canceled {
			problem = "request failed: " + e.ErrorText + string(e.BlockedReason)
		}
	}
	if problem == "" {
		return
	}
	x.mutex.Lock()
	defer x.mutex.Unlock()
	for _, piece := range x.expected {
		if strings.Contains(problem, piece) {
			return
		}
	}
	x.problems = append(x.problems, problem)
}

func asJSON(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}

// expect says that what goes wrong from now on is all right if it holds this text.
func (x *tab) expect(piece string) {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	x.expected = append(x.expected, piece)
}

// found returns what has gone wrong since the last call.
func (x *tab) found() (problems []string) {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	problems, x.problems = x.problems, nil
	return problems
}

// do runs actions.
func (x *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	x.t.Helper()
	_, err := run(x, chromedp.Steps(actions...))
	require.NoError(x.t, err)
}

// open opens a page, with all that it loads.
func (x *tab) open(path string) {
	x.t.Helper()
	x.do(chromedp.Navigate(x.below + path))
}

// eval returns the value of an expression in the page; of a promise, what it comes to.
func eval[T any](x *tab, expression string) T {
	x.t.Helper()
	value, err := run(x, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(x.t, err, expression)
	return value
}

// text returns what the main part of the page shows.
func (x *tab) text() string {
	x.t.Helper()
	return eval[string](x, `document.querySelector("main").innerText`)
}

// wait waits until an expression in the page is true.
func (x *tab) wait(expression string) {
	x.t.Helper()
	for end := time.Now().Add(patience); ; {
		if value, err := run(x, chromedp.Evaluate[bool](expression)); err == nil && value {
			return
		} else if time.Now().After(end) || x.ctx.Err() != nil {
			require.Fail(x.t, "it does not become true: "+expression, "%v; the page shows: %s", err, x.text())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// scheme has the browser prefer light or dark.
func (x *tab) scheme(name string) {
	x.t.Helper()
	call(x, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name},
		{Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

// size sets the size of the window.
func (x *tab) size(width, height int64) {
	x.t.Helper()
	x.do(chromedp.EmulateViewport(width, height))
}

// script turns the scripts of pages on or off.
func (x *tab) script(on bool) {
	x.t.Helper()
	call(x, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
}

// screenshot leaves a picture of the window, where AWA_SCREENSHOTS says.
func (x *tab) screenshot(name string) {
	x.t.Helper()
	dir := os.Getenv("AWA_SCREENSHOTS")
	if dir == "" {
		return
	}
	eval[bool](x, `{ const name = document.querySelector(".database"); if (name) name.textContent = "shop"; true }`)
	picture, err := run(x, chromedp.CaptureScreenshot())
	require.NoError(x.t, err)
	require.NoError(x.t, os.MkdirAll(dir, 0o755))
	require.NoError(x.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
}

// What axe-core is asked for: the rules of WCAG 2.2, levels A and AA, or those of them that look at colours.
const (
	wcag    = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]`
	colours = `{type: "rule", values: ["color-contrast", "link-in-text-block"]}`
)

// axe runs rules of axe-core on the page, and returns what they find.
func (x *tab) axe(rules string) (violations []string) {
	x.t.Helper()
	source, err := os.ReadFile(axePath(x.t))
	require.NoError(x.t, err, "install axe-core, as scripts/setup.sh test does")
	type violation struct {
		ID, Help string
		Nodes    []string
	}
	const show = `r.violations.map((v) =>
		({id: v.id, help: v.help, nodes: v.nodes.map((n) => n.html + " " + n.failureSummary)}))`
	expression := string(source) + `; axe.run({runOnly: ` + rules +
		`, resultTypes: ["violations"], preload: false}).then((r) => ` + show + `)`
	var found []violation
	for end := time.Now().Add(patience); ; { // again where another page came meanwhile
		found, err = run(x, chromedp.Evaluate[[]violation](expression, chromedp.EvalAwaitPromise))
		if err == nil || time.Now().After(end) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.NoError(x.t, err)
	for _, v := range found {
		violations = append(violations, fmt.Sprintf("%s: %s: %s", v.ID, v.Help, strings.Join(v.Nodes, "\n")))
	}
	return violations
}

// axePath is where scripts/setup.sh puts axe-core, unless AWA_AXE says another file.
func axePath(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("AWA_AXE"); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	return filepath.Join(cache, "awa", "axe-4.12.1", "axe.min.js")
}
