package gossip_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// Members tell each other what their clocks say, and a clock that is wrong is a problem: of the node that has it where that
// can be told.
func TestClocks(t *testing.T) {
	t.Parallel()
	const wrong = time.Hour
	nodes := []*node{start(t, "a", 161), start(t, "b", 162), start(t, "c", 163, func(c *gossip.Config) { c.ClockOffset = wrong })}
	for _, n := range nodes {
		n.announce(t, []byte(n.name))
		n.Seek([]gossip.Target{nodes[0].target(), nodes[1].target(), nodes[2].target()})
	}
	eventually(t, "all know the others' clocks", func() bool {
		for _, n := range nodes {
			pulses := n.Pulses()
			for _, other := range nodes {
				if p := pulses[other.name]; n != other && (!p.ClockKnown || p.RTT <= 0) {
					return false
				}
			}
		}
		return true
	})
	for _, n := range nodes {
		pulses := n.Pulses()
		if _, own := pulses[n.name]; own || len(pulses) != 2 {
			t.Errorf("%s knows %v, want the others", n.name, pulses)
		}
		for _, other := range nodes {
			want := time.Duration(0)
			if other.name == "c" {
				want += wrong
			}
			if n.name == "c" {
				want -= wrong
			}
			if p := pulses[other.name]; n != other && (p.ClockOffset-want).Abs() > 5*time.Second {
				t.Errorf("%s finds the clock of %s %v ahead, want %v", n.name, other.name, p.ClockOffset, want)
			}
		}
		said := fmt.Sprint(n.Problems())
		want := "node c: its clock is 1 h ahead of this node's"
		if n.name == "c" {
			want = "clock: this node's clock is 1 h ahead of those of 2 of 2 other nodes"
		}
		if !strings.Contains(said, want) || strings.Count(said, "clock is") != 1 {
			t.Errorf("%s says %s, want %q alone", n.name, said, want)
		}
	}
	nodes[2].stop(t)
	eventually(t, "a node that left has no clock", func() bool {
		_, known := nodes[0].Pulses()["c"]
		return !known && !strings.Contains(fmt.Sprint(nodes[0].Problems()), "clock")
	})
}
