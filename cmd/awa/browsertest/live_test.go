package browsertest

import (
	"bufio"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readAt is when the first panel of a page was read.
const readAt = `document.querySelector("time[data-age]").dateTime`

// isNewer waits until a page shows what was read later than what it showed.
func (x *tab) isNewer(than string) {
	x.t.Helper()
	x.wait(readAt + ` > "` + than + `"`)
}

// Eight pages that are seen at once, over HTTP/1.1, do not keep each other waiting, though a browser has at most six
// connections to a host: each opens, and each is refreshed. Three have a stream. One gets it back when there is room.
func TestManyWindows(t *testing.T) {
	t.Parallel()
	s := newSite(t, "awa_reader", "--base-path", "/awa")
	b, front := newBrowser(t), proxy(t, s.address, false)
	paths := []string{"/queues", "/queue?name=emails", "/jobs", "/dead", "/schedules", "/workers", "/segments", "/changes"}
	tabs, times := make([]*tab, len(paths)), make([]string, len(paths))
	for n, path := range paths {
		tabs[n] = b.newTab(t, front.address)
		tabs[n].open(path)
		assert.True(t, eval[bool](tabs[n], `document.visibilityState === "visible"`))
		times[n] = eval[string](tabs[n], readAt)
	}
	for n := range tabs {
		tabs[n].isNewer(times[n])
	}
	have := func(streams int64) {
		t.Helper()
		require.Eventually(t, func() bool { return front.streams.Load() == streams }, patience, 50*time.Millisecond)
	}
	have(3)
	for _, x := range tabs[1:] {
		x.open("/audit") // which has none
		assert.Contains(t, x.text(), "Count now")
	}
	have(1)
}

// Where a proxy lets no stream pass, the page is read again and again.
func TestWithoutStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t, "awa_reader", "--base-path", "/awa")
	x := newBrowser(t).newTab(t, proxy(t, s.address, false, "/awa/live/queues").address)
	x.expect("status of 502")
	x.open("/queues")
	x.isNewer(eval[string](x, readAt))
}

// A stream says at once, and again and again, that it passes.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s := newSite(t, "awa_reader", "--base-path", "/awa")
	response, err := http.Get(proxy(t, s.address, true).address + "/live/queues")
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, "no", response.Header.Get("X-Accel-Buffering"))
	lines, beats, began := bufio.NewScanner(response.Body), 0, time.Now()
	for beats < 2 && lines.Scan() {
		if lines.Text() == "event: beat" {
			beats++
		}
	}
	require.NoError(t, lines.Err())
	t.Logf("two beats within %s", time.Since(began).Round(time.Millisecond))
}
