package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/test/output"
)

var meshKey = []byte("0123456789abcdef0123456789abcdef")

// node is one member of a test's mesh.
type node struct {
	*gossip.Gossip
	name    string
	addr    netip.AddrPort
	log     *output.Buffer
	changes atomic.Int64
}

// start starts a member of this name at 127.0.0.HOST. The test stops it, if it didn't itself.
func start(t testing.TB, name string, host int, change ...func(*gossip.Config)) *node {
	t.Helper()
	n := &node{name: name, log: &output.Buffer{}}
	n.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(host)}), contract.GossipPort)
	config := gossip.Config{
		Node:      name,
		Advertise: n.addr.Addr(),
		Port:      n.addr.Port(),
		Keyring:   [][]byte{meshKey},
		Log:       slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", name),
		Changed:   func() { n.changes.Add(1) },
	}
	for _, c := range change {
		c(&config)
	}
	g, err := gossip.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	n.Gossip = g
	t.Cleanup(func() {
		n.stop(t)
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, n.log)
		}
	})
	return n
}

// stop leaves the mesh.
func (n *node) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if t.Context().Err() != nil { // in a cleanup: no goodbye
		ctx = t.Context()
	}
	if err := n.Stop(ctx); err != nil {
		t.Errorf("stopping %s: %v", n.name, err)
	}
}

// crash ends the member without a goodbye.
func (n *node) crash(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Stop(ctx); err != nil {
		t.Errorf("stopping %s: %v", n.name, err)
	}
}

func (n *node) announce(t testing.TB, raw []byte) {
	t.Helper()
	if err := n.Announce(raw); err != nil {
		t.Fatalf("%s: %v", n.name, err)
	}
}

// target is where others find n.
func (n *node) target() gossip.Target { return gossip.Target{Node: n.name, Addr: n.addr} }

// has reports whether n has heard raw about a node.
func (n *node) has(about string, raw []byte) bool {
	return slices.ContainsFunc(n.Heard(), func(h gossip.Heard) bool {
		return h.Node == about && bytes.Equal(h.Raw, raw)
	})
}

// sees reports whether n sees a node alive.
func (n *node) sees(other string) bool {
	return slices.ContainsFunc(n.Members(), func(m gossip.Member) bool { return m.Node == other })
}

// eventually fails the test when the condition doesn't come true in time.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// mesh starts members n1, n2, … that seek each other and announce their names, and waits until all hear all.
func mesh(t testing.TB, size int) []*node {
	t.Helper()
	return meshAt(t, 1, size)
}

// meshAt is mesh at 127.0.0.HOST and the next addresses, for tests that run beside each other.
func meshAt(t testing.TB, host, size int) []*node {
	t.Helper()
	var nodes []*node
	var targets []gossip.Target
	for i := range size {
		n := start(t, fmt.Sprintf("n%d", i+1), host+i)
		n.announce(t, []byte("record of "+n.name))
		nodes = append(nodes, n)
		targets = append(targets, n.target())
	}
	for _, n := range nodes {
		n.Seek(targets)
	}
	eventually(t, "every node hears every other", func() bool {
		return allHear(nodes, func(n *node) []byte { return []byte("record of " + n.name) })
	})
	return nodes
}

func allHear(nodes []*node, record func(*node) []byte) bool {
	for _, n := range nodes {
		for _, other := range nodes {
			if n != other && !n.has(other.name, record(other)) {
				return false
			}
		}
	}
	return true
}

// cut drops all packets between two sides, by routing rules in this process's own network namespace.
func cut(t *testing.T, left, right []*node) (heal func()) {
	t.Helper()
	// The rule for local addresses comes first of all: move it behind ours.
	local := netlink.NewRule()
	local.Priority, local.Table = 1000, 255
	if err := netlink.RuleAdd(local); err != nil {
		t.Fatalf("adding a routing rule: %v", err)
	}
	first := netlink.NewRule()
	first.Table = 255
	first.Priority = 0
	if err := netlink.RuleDel(first); err != nil {
		t.Fatalf("removing the first routing rule: %v", err)
	}
	const blackhole = 6 // FR_ACT_BLACKHOLE, linux/fib_rules.h
	var rules []*netlink.Rule
	for _, a := range left {
		for _, b := range right {
			for _, pair := range [][2]*node{{a, b}, {b, a}} {
				rule := netlink.NewRule()
				rule.Priority, rule.Type = 100, blackhole
				rule.Src = netlink.NewIPNet(pair[0].addr.Addr().AsSlice())
				rule.Dst = netlink.NewIPNet(pair[1].addr.Addr().AsSlice())
				if err := netlink.RuleAdd(rule); err != nil {
					t.Fatalf("adding %v: %v", rule, err)
				}
				rules = append(rules, rule)
			}
		}
	}
	restore := sync.OnceFunc(func() {
		for _, rule := range rules {
			if err := netlink.RuleDel(rule); err != nil {
				t.Errorf("removing %v: %v", rule, err)
			}
		}
		if err := netlink.RuleAdd(first); err != nil {
			t.Errorf("restoring the first routing rule: %v", err)
		}
		if err := netlink.RuleDel(local); err != nil {
			t.Errorf("removing %v: %v", local, err)
		}
	})
	t.Cleanup(restore)
	return restore
}
