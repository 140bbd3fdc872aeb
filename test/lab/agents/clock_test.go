//go:build ownclock

package agents_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// The system clock is set under traffic, far on and far back, with a rotation after each: no packet is lost, and no key
// is given up too soon. It is for machines whose clock is nobody else's, which the tag ownclock says.
func TestClockJumps(t *testing.T) {
	m := agents.Up(t, 3)
	r := &rotations{Mesh: m, pods: podsOn(t, m.Nodes, "pod")}
	o := &outages{Mesh: m, pods: r.pods}
	for i, jump := range []time.Duration{time.Hour, -time.Hour} {
		o.row(t, 15+i, fmt.Sprintf("the clock steps by %+.0f h", jump.Hours()), "0 lost while sessions last", func(t *testing.T) time.Duration {
			setClock(t, jump)
			o.WaitUp(t, time.Minute)
			return 0
		})
	}
	r.under(t, func(t *testing.T) {
		for _, jump := range []time.Duration{26 * time.Hour, -50 * time.Hour} {
			setClock(t, jump)
			r.rotate(t, m.Nodes[0])
			r.WaitUp(t, time.Minute)
		}
	})
}

// setClock sets the system clock on by this much.
func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	to := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	if err := unix.Settimeofday(&to); err != nil {
		t.Fatalf("setting the clock: %v", err)
	}
}
