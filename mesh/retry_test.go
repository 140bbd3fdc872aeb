package mesh_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// What fails for long is tried ever less often, and at once when something happens; after a success it begins anew.
func TestFailedPassesBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.set(w.self.node())
		a := w.start(t)
		defer a.stop()
		passes := func(during time.Duration) uint64 {
			before := a.Status(t.Context()).Counters.Reconciles
			time.Sleep(during)
			return a.Status(t.Context()).Counters.Reconciles - before
		}
		for range 2 {
			time.Sleep(time.Minute) // what goes well
			setFault(w.kernel, "routes", errBroken)
			a.pass()
			if n := passes(8 * time.Second); n < 2 || n > 4 {
				t.Errorf("%d passes in the first 8 s, want 3: after 1, 3 and 7 s", n)
			}
			if n := passes(5 * time.Minute); n < 8 || n > 15 {
				t.Errorf("%d passes in the next 5 minutes, want about one in 30 s", n)
			}
			w.config.Latch.Set()
			if n := passes(4 * time.Second); n < 3 {
				t.Errorf("%d passes in the 4 s after something happened", n)
			}
			setFault(w.kernel, "routes", nil)
			a.pass()
		}
	})
}
