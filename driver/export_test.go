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
