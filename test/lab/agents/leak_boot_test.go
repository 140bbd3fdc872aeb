package agents_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// eachFamily runs a test with IPv4 alone, and with pods of both families over an underlay of IPv6; in full with all others too.
func eachFamily(t *testing.T, test func(t *testing.T, o agents.Options)) {
	t.Helper()
	cells := []agents.Options{{Pods: agents.IPv4, Underlay: agents.IPv4}}
	if !shortened() {
		cells = append(cells, agents.Options{Pods: agents.Dual, Underlay: agents.IPv6})
	}
	if full.Wanted() {
		cells = append(cells, agents.Options{Pods: agents.IPv6, Underlay: agents.IPv4}, agents.Options{Pods: agents.IPv6, Underlay: agents.IPv6},
			agents.Options{Pods: agents.IPv4, Underlay: agents.IPv6}, agents.Options{Pods: agents.Dual, Underlay: agents.IPv4})
	}
	for _, o := range cells {
		t.Run(fmt.Sprintf("%s pods, %s underlay", o.Pods, o.Underlay), func(t *testing.T) { test(t, o) })
	}
}

// sendAll sends a marker to each of the addresses.
func (l *leaks) sendAll(t *testing.T, on *agents.Node, from starter, to []netip.Addr) {
	t.Helper()
	for _, address := range to {
		l.send(t, on, from, address)
	}
}

// At first boot, and with a peer that has no key yet, nothing leaves in the clear: no pod is attached before the guards
// stand.
func TestNothingLeaksAtFirstBoot(t *testing.T) { eachFamily(t, firstBoot) }

func firstBoot(t *testing.T, o agents.Options) {
	m := agents.NewOf(t, 2, o)
	l := newLeaks(t, m)
	a, b := m.Nodes[0], m.Nodes[1]
	pod := a.NewPod(t, "early")
	var first []netip.Addr // of the first pod there
	for _, cidr := range b.CIDRs {
		first = append(first, cidr.Addr().Next().Next())
	}
	l.none(t, "first boot", func() {
		if pod.Attach(t.Context()) == nil {
			t.Error("a pod was attached before the agent ever ran")
		}
		a.Start(t)
		lab.Eventually(t, time.Minute, "the pod is attached", func() error { return pod.Attach(t.Context()) })
		l.sendAll(t, a, pod, first)
	})
	l.without(t, a, "a peer that has a key", func() {})
	l.none(t, "the peer comes", func() {
		b.Start(t)
		m.WaitUp(t, time.Minute)
		if got := b.AddPod(t, "first").Addrs; !slices.Equal(got, first) {
			t.Errorf("the first pod has %s, want %s", got, first)
		}
	})
	for _, to := range first {
		pod.MustRun(t, "ping", "-c", "1", "-W", "5", to.String())
	}
}

// After a reboot pods can be started before the agent: none is attached until the guards stand. With a configuration that
// doesn't wait for them, one is, and what it sends leaves.
func TestNothingLeaksAfterReboot(t *testing.T) { eachFamily(t, afterReboot) }

func afterReboot(t *testing.T, o agents.Options) {
	m := agents.UpOf(t, 2, o)
	l := newLeaks(t, m)
	a, b := m.Nodes[0], m.Nodes[1]
	far := b.AddPod(t, "far").Addrs
	if err := a.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	if a.Userspace != nil {
		if err := a.Userspace.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	// What a reboot takes: devices, routes, rules, /run.
	for _, device := range strings.Fields(a.MustRun(t, "wg", "show", "interfaces")) {
		a.MustRun(t, "ip", "link", "del", device)
	}
	a.MustRun(t, "ip", "link", "del", contract.BridgeName)
	l.backstop(t, a, "del")
	a.MustRun(t, "nft", "flush", "ruleset")
	a.MustRun(t, "sh", "-c", "rm -rf "+contract.RunDir+"/*")

	pod := a.NewPod(t, "early")
	l.none(t, "no pod before the agent", func() {
		if pod.Attach(t.Context()) == nil {
			t.Error("a pod was attached before the agent ran")
		}
	})
	unguarded := a.NewPod(t, "unguarded")
	subnets, err := json.Marshal(a.CIDRs)
	if err != nil {
		t.Fatal(err)
	}
	unguarded.Config = fmt.Sprintf(`{"cniVersion":"1.0.0","name":"weaveguard","type":"weaveguard","subnets":%s}`, subnets)
	if err := unguarded.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.sendAll(t, a, unguarded, far)
	l.leaves(t, a)
	a.Userspace = nil
	a.Start(t)
	m.WaitUp(t, time.Minute)
	l.none(t, "the agent is back", func() {
		if err := pod.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.sendAll(t, a, pod, far)
	})
}
