package mesh

import (
	"fmt"
	"testing"
	"time"
)

// The status tells of repairs of late, and of so many: the latest.
func TestRepairsAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	a, now := &Agent{}, time.Now()
	a.keepRepairs([]string{"long ago"}, now.Add(-2*repairsKept))
	for i := range 3 * maxRepairs {
		a.keepRepairs([]string{fmt.Sprint("repair ", i), "always"}, now.Add(time.Duration(i-3*maxRepairs)*time.Second))
	}
	all := a.recentRepairs(now)
	if len(all) != maxRepairs || all[0].What != "always" || all[0].Times != 3*maxRepairs || all[1].What != fmt.Sprint("repair ", 3*maxRepairs-1) {
		t.Errorf("it tells of %+v, want the latest %d, one of them %d times", all, maxRepairs, 3*maxRepairs)
	}
	if left := a.recentRepairs(now.Add(2 * repairsKept)); len(left) > 0 {
		t.Errorf("later it tells of %+v still", left)
	}
}
