package product_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/flow"
)

// blindPort is where nobody listens.
const blindPort = 7999

// readyFile is what the plugin needs to attach a pod.
const readyFile = contract.RunDir + "/cni.json"

// blind sends datagrams with a marker from a place without pause, whatever comes of it.
type blind struct {
	name  string
	tried atomic.Int64
}

// sendBlindly starts it, until the test ends.
func (w *world) sendBlindly(t *testing.T, from place, to netip.Addr) *blind {
	t.Helper()
	b := &blind{name: fmt.Sprintf("%v to %s", from, to)}
	ctx, cancel := context.WithCancel(context.Background())
	done := inNetns(w.netnsOf(t, from), func() error {
		return flow.Shout(ctx, netip.AddrPortFrom(to, blindPort), markers[0], func() { b.tried.Add(1) })
	})
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("send from %s: %v", b.name, err)
		}
	})
	return b
}

// hear counts the datagrams that come to a pod from who sends blindly, until the test ends.
func (w *world) hear(t *testing.T, pod string) *atomic.Int64 {
	t.Helper()
	var heard atomic.Int64
	listening := make(chan *net.UDPConn, 1)
	done := inNetns(w.netnsOf(t, place{pod, true}), func() error {
		defer close(listening)
		conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: blindPort})
		if err != nil {
			return err
		}
		listening <- conn
		for buf := make([]byte, 1500); ; heard.Add(1) {
			if _, err := conn.Read(buf); err != nil {
				return nil // the test is over
			}
		}
	})
	conn, ok := <-listening
	if !ok {
		t.Fatal(<-done)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &heard
}

// allTry returns when each has tried 50 times more.
func (w *world) allTry(t *testing.T, all []*blind) {
	t.Helper()
	for _, b := range all {
		w.awaitMore(t, b.name+" is tried", &b.tried)
	}
}

// awaitMore returns when 50 more were counted.
func (w *world) awaitMore(t *testing.T, what string, count *atomic.Int64) {
	t.Helper()
	before := count.Load()
	w.eventually(t, what, func(context.Context) error {
		if n := count.Load() - before; n < 50 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
}

// testLeaksOfDeleted shows that pods of a node whose Node is deleted, and those who send to them, send nothing in the
// clear, and that what holds it back are the guards of a node: the route behind the tunnels', and the table.
func (w *world) testLeaksOfDeleted(t *testing.T, node, pod string, del func()) {
	near := w.nodes[0] // where pod1 is
	there, here := w.podIP(t, pod), w.podIP(t, pod1)
	all := []*blind{
		w.sendBlindly(t, place{pod, true}, here),
		w.sendBlindly(t, place{name: node}, here),
		w.sendBlindly(t, place{pod1, true}, there),
		w.sendBlindly(t, place{name: near}, there),
	}
	under := w.watchUnderlay(t)
	w.allTry(t, all)
	del()
	w.allTry(t, all)
	under.stop(t, w).judge(t, nil, 1)

	under = w.watchUnderlay(t)
	w.unguarded(t, near, func() { w.allTry(t, all) })
	seen := under.stop(t, w)
	for _, from := range []netip.Addr{here, w.address[near]} {
		leaks := func(e ends) bool { return e.from.Addr() == from && e.to == netip.AddrPortFrom(there, blindPort) }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen.clear)), leaks) {
			t.Errorf("without the guards nothing is in the clear from %s either, only %v: this test can't tell", from, seen.clear)
		}
	}
	w.awaitPeers(t, near, len(w.nodes)-1)
}

// unguarded takes a node's guards away while something is done. Its agent is stopped meanwhile, and puts them back.
func (w *world) unguarded(t *testing.T, node string, do func()) {
	t.Helper()
	resume := w.pause(t, node, agentPID)
	const routes = "ip route show type unreachable"
	before := w.on(t, node, "sh", "-c", routes)
	w.on(t, node, "sh", "-c", "ip route flush type unreachable && nft delete table inet "+contract.FirewallTable)
	do()
	if err := resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the guards of "+node+" are back", func(ctx context.Context) error {
		now, err := w.OnNode(ctx, node, "sh", "-c", "nft list table inet "+contract.FirewallTable+" >/dev/null && "+routes)
		if err == nil && (now != before || before == "") {
			err = fmt.Errorf("the routes were %q and are %q", before, now)
		}
		return err
	})
}

// bootUnguarded shows what holds the pods of a node back when it boots: without an agent, but with what an agent makes once
// pods may start, what the beacon sends is in the clear.
func (w *world) bootUnguarded(t *testing.T, node, beacon string, to netip.Addr) {
	t.Helper()
	const away = contract.StateDir + ".away"
	ready := w.on(t, node, "cat", readyFile)
	// The sets of senders, which the plugin fills, without the rules, which nft can't read back.
	sets, _, _ := strings.Cut(w.on(t, node, "nft", "--stateless", "--terse", "list", "table", "bridge", contract.FirewallTable), "\tchain ")
	// No agent starts where its state can't be mounted.
	w.on(t, node, "sh", "-c", "mv "+contract.StateDir+" "+away+" && touch "+contract.StateDir)
	if err := errors.Join(w.StopNode(t.Context(), node), w.StartNode(t.Context(), node)); err != nil {
		t.Fatal(err)
	}
	under := w.watchUnderlay(t)
	w.on(t, node, "sh", "-c", `sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 \
		net.bridge.bridge-nf-call-arptables=0 && printf %s "$1" | nft -f - && mkdir -p `+contract.RunDir+` && printf %s "$2" >`+readyFile,
		"sh", sets+"}", ready)
	w.eventually(t, beacon+" runs on "+node, func(ctx context.Context) error {
		_, err := w.OnNode(ctx, node, "pgrep", "-f", "probe shout")
		return err
	})
	w.allTry(t, []*blind{w.sendBlindly(t, place{name: w.nodes[0]}, to)}) // so long it sends
	w.on(t, node, "sh", "-c", "rm "+contract.StateDir+" && mv "+away+" "+contract.StateDir)
	w.awaitMesh(t)
	seen := under.stop(t, w)
	leaks := func(e ends) bool {
		return w.pods[node].Contains(e.from.Addr()) && e.to == netip.AddrPortFrom(to, blindPort)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(seen.clear)), leaks) {
		t.Errorf("without an agent nothing is in the clear either, only %v: this test can't tell", seen.clear)
	}
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}
