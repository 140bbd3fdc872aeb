package cni_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

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

// An ADD or DEL that is killed at any point leaves nothing that DEL, or an ADD of another pod, can't deal with.
func TestKilled(t *testing.T) {
	rounds := 60
	if full.Wanted() {
		rounds = 1000
	}
	n := newNode(t)
	n.add("first", newNS(t), nil) // so that the time of an ADD is known with the bridge made
	start := time.Now()
	n.add("second", newNS(t), nil)
	took := map[string]time.Duration{"ADD": time.Since(start)}
	n.del("first", "")
	start = time.Now()
	n.del("second", "")
	took["DEL"] = time.Since(start)
	killed := map[string]int{}
	for i := range rounds {
		sandbox := newNS(t)
		container, verb := fmt.Sprint("c", i), "ADD"
		if i%2 == 1 {
			verb = "DEL"
			n.add(container, sandbox, nil)
		}
		cmd := n.command(call{verb: verb, container: container, netns: sandbox.Path(), stdin: n.config(nil)})
		if err := n.ns.Do(func(ns.NetNS) error { return cmd.Start() }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(took[verb] * time.Duration(10+rand.IntN(100)) / 100) // when to kill, not a wait for anything
		_ = cmd.Process.Kill()                                          // or it has ended already
		if err := cmd.Wait(); err != nil {
			killed[verb]++
		}
		r := n.add("next"+container, newNS(t), nil)
		n.checkWorks("next"+container, nil, r)
		n.del("next"+container, "")
		n.del(container, sandbox.Path())
		closeNS(sandbox)
	}
	if _, err := n.run(call{verb: "GC", stdin: n.config(nil)}); err != nil {
		t.Fatal(err)
	}
	n.wantNoLeftovers()
	t.Logf("of %d, %v were killed before they ended, by delays of 0.1 to 1.1 times %v", rounds, killed, took)
	if killed["ADD"] == 0 || killed["DEL"] == 0 {
		t.Error("none was killed in time: the test shows nothing")
	}
}
