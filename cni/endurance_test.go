package cni_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/test/full"
)

// A node that many pods came to and left has the links, routes and neighbours that it had before.
func TestNoGrowth(t *testing.T) {
	rounds := 60
	if full.Wanted() {
		rounds = 10_000
	}
	n, sandbox := newNode(t), newNS(t)
	both := map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}}
	round := func(i int) {
		container := fmt.Sprint("c", i)
		n.add(container, sandbox, both)
		n.del(container, sandbox.Path())
	}
	look := func() string {
		// DEL returns when the interface is in no namespace any more; its settings go with the rest of it, a moment later.
		await(t, "the settings of the last pod's interface are gone", func() bool {
			return !strings.Contains(n.tool("ls", "/proc/sys/net/ipv4/conf"), store.PortPrefix)
		})
		seen := n.tool("ls", "/proc/sys/net/ipv4/conf") + n.tool("ip", "route", "show", "table", "all") + n.tool("ip", "-6", "route", "show", "table", "all") +
			n.tool("ip", "neighbour") + n.tool("bridge", "fdb")
		var lines []string
		for line := range strings.Lines(seen) {
			// The bridge has its link-local address, and is down, a moment after the first pod came and the last one went.
			if !strings.Contains(line, "fe80:") {
				lines = append(lines, strings.ReplaceAll(line, " linkdown", ""))
			}
		}
		return strings.Join(lines, "")
	}
	round(0) // makes the bridge
	before := look()
	for i := range rounds {
		round(i)
	}
	if after := look(); after != before {
		t.Errorf("after %d pods the node had\n%s\nand has\n%s", rounds, before, after)
	}
	n.wantNoLeftovers()
}
