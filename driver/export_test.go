package driver

import (
	"testing"
	"time"
)

// AnswersOnTheirWay is how many answers a worker holds that can't be sent: a batch, and what waits behind it.
const AnswersOnTheirWay = 3 * flushSize

// SetTimeouts changes the timeouts of a worker's end until the test ends.
func SetTimeouts(t *testing.T, abandon, windUp, deregister time.Duration) {
	oldAbandon, oldWindUp, oldDeregister := abandonAfter, windUpTimeout, deregisterTimeout
	abandonAfter, windUpTimeout, deregisterTimeout = abandon, windUp, deregister
	t.Cleanup(func() { abandonAfter, windUpTimeout, deregisterTimeout = oldAbandon, oldWindUp, oldDeregister })
}

// SetMaintenance has the workers of a test do all maintenance so often.
func SetMaintenance(t *testing.T, every time.Duration) {
	oldLook, oldMaintain := lookEvery, maintainEvery
	lookEvery, maintainEvery = every, every
	t.Cleanup(func() { lookEvery, maintainEvery = oldLook, oldMaintain })
}

// SetCallTimeouts changes how long the worker waits for a server until the test ends.
func SetCallTimeouts(t *testing.T, call, connect time.Duration) {
	oldCall, oldConnect := callTimeout, connectTimeout
	callTimeout, connectTimeout = call, connect
	t.Cleanup(func() { callTimeout, connectTimeout = oldCall, oldConnect })
}

// SleepUntilNotified has the workers of a test look again for a moment only, not at growing distances, before they rely
// on notifications.
func SleepUntilNotified(t *testing.T) {
	old := longestDistance
	longestDistance = 40 * time.Millisecond
	t.Cleanup(func() { longestDistance = old })
}

// SetRefusalPatience changes for how long answers that are all refused are sent again until the test ends.
func SetRefusalPatience(t *testing.T, patience time.Duration) {
	old := refusalPatience
	refusalPatience = patience
	t.Cleanup(func() { refusalPatience = old })
}

// SetAhead has the workers of a test claim so many jobs ahead of each queue, and keep them for so long, until the test
// ends.
func SetAhead(t *testing.T, want func() int, most time.Duration) {
	oldWant, oldMost := wantAhead, aheadMost
	wantAhead, aheadMost = func(*queue) int { return want() }, most
	t.Cleanup(func() { wantAhead, aheadMost = oldWant, oldMost })
}

// SetHeldMost changes for how long a job is held back for handlers of its group until the test ends.
func SetHeldMost(t *testing.T, most time.Duration) {
	old := heldMost
	heldMost = most
	t.Cleanup(func() { heldMost = old })
}
