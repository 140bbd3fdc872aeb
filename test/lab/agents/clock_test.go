//go:build ownclock

package agents_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/lab"
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
	o.reconnects(t)
	r.under(t, light(), func(t *testing.T) {
		for _, jump := range []time.Duration{26 * time.Hour, -50 * time.Hour} {
			setClock(t, jump)
			r.rotate(t, m.Nodes[0])
			r.WaitUp(t, time.Minute)
		}
	})
}

// reconnects takes a node's sessions away after its clock went back. Its peers still believe in theirs, and take its handshakes for
// replays (section 5.1 of WireGuard's paper) until the hour is over: they have to be told.
func (o *outages) reconnects(t *testing.T) {
	n, pod := o.Nodes[0], o.pods[0]
	device := strings.Fields(n.MustRun(t, "wg", "show", "interfaces"))[0]
	setClock(t, -time.Hour)
	began := time.Now() // and the time that passes is by the monotonic clock
	n.MustRun(t, "ip", "link", "delete", device)
	for _, to := range o.pods[1:] {
		lab.Eventually(t, time.Minute, fmt.Sprintf("%v reaches %v", pod, to), func() error {
			_, err := pod.Run(t.Context(), "ping", "-c", "1", "-W", "1", to.Addr.String())
			return err
		})
	}
	took := time.Since(began)
	if took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	o.WaitUp(t, time.Minute)
	faults.Record(t, faults.Measurement{
		Order: 17, Table: faults.Outages, Fault: "the clock steps by -1 h, and the tunnel device is deleted", Lane: laneOf(o.Mesh),
		Allowed: "reconnected within 10 s", Recovery: took,
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
