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
	oldPromote, oldMaintain := promoteEvery, maintainEvery
	promoteEvery, maintainEvery = every, every
	t.Cleanup(func() { promoteEvery, maintainEvery = oldPromote, oldMaintain })
}
