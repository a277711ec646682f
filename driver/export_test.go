package driver

import (
	"testing"
	"time"
)

// SetTimeouts changes the timeouts of a worker's end until the test ends.
func SetTimeouts(t *testing.T, abandon, windUp time.Duration) {
	oldAbandon, oldWindUp := abandonAfter, windUpTimeout
	abandonAfter, windUpTimeout = abandon, windUp
	t.Cleanup(func() { abandonAfter, windUpTimeout = oldAbandon, oldWindUp })
}

// SetMaintenance has the workers of a test do all maintenance so often.
func SetMaintenance(t *testing.T, every time.Duration) {
	oldPromote, oldRescue, oldExpire := promoteEvery, rescueEvery, expireEvery
	promoteEvery, rescueEvery, expireEvery = every, every, every
	t.Cleanup(func() { promoteEvery, rescueEvery, expireEvery = oldPromote, oldRescue, oldExpire })
}
