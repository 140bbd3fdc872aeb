package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// unguarded is the firewall without its fail-closed rules: what each guard test must then see is the leak.
func guards(t *testing.T, test func(t *testing.T, w *world, e ends, guarded bool, family string)) {
	for family, e := range families() {
		for _, guarded := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s guarded=%t", family, guarded), func(t *testing.T) {
				w := newWorld(t)
				f := testFirewall()
				if !guarded {
					f.PodRanges = nil
				}
				_, err := newApplier().Apply(t.Context(), f)
				must(t, err)
				test(t, w, e, guarded, family)
			})
		}
	}
}

// A tunnel device is deleted under traffic, and no unreachable route is there to help.
func TestNothingLeavesInTheClear(t *testing.T) {
	guards(t, func(t *testing.T, w *world, e ends, guarded bool, family string) {
		tap := w.tap(t)
		target := netip.AddrPortFrom(e.remotePod, 7)
		host, pod := w.listen(t, w.node, netip.Addr{}), w.listen(t, w.pod, e.pod)
		send(t, host, target, "host, before")
		fromTunnel(t, w.tunnels[0], text("host, before"))
		send(t, pod, target, "pod, before")
		fromTunnel(t, w.tunnels[0], text("pod, before"))

		stopHost, stopPod := traffic(t, host, target), traffic(t, pod, target)
		must(t, netlink.LinkDel(link(t, "weave-wg0")))
		stopHost()
		stopPod()
		send(t, w.listen(t, w.node, netip.Addr{}), netip.AddrPortFrom(e.outside, 7), "the end")
		leaked := 0
		for _, p := range tap.until(t, "the end") {
			if p.destination.Addr() == e.remotePod {
				leaked++
			}
		}
		counters, err := newApplier().Counters(t.Context())
		must(t, err)
		dropped := counters["to-pods-"+family]
		if guarded && (leaked > 0 || dropped < 2) {
			t.Errorf("%d packets for a pod leaked, %d were dropped", leaked, dropped)
		}
		if !guarded && leaked == 0 {
			t.Error("without the rule nothing leaks: this test shows nothing")
		}
		t.Logf("leaked %d, dropped %d", leaked, dropped)
	})
}

// traffic sends all the time, until it has sent 200 packets more after it was told to stop.
func traffic(t *testing.T, from *net.UDPConn, to netip.AddrPort) (stop func()) {
	var (
		stopping atomic.Bool
		sender   sync.WaitGroup
		sent     atomic.Int64
	)
	sender.Go(func() {
		for left := 200; left > 0; {
			if stopping.Load() {
				left--
			}
			// A drop in this node's own output is an error of the socket.
			_, _ = from.WriteToUDPAddrPort([]byte("traffic"), to)
			sent.Add(1)
			time.Sleep(100 * time.Microsecond)
		}
	})
	for sent.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	return func() {
		stopping.Store(true)
		sender.Wait()
	}
}

// The far host of the underlay sends with the address of a pod of another node.
func TestSpoofedSourceIsDropped(t *testing.T) {
	guards(t, func(t *testing.T, w *world, e ends, guarded bool, family string) {
		spoofer, honest := w.listen(t, w.outside, e.remotePod), w.listen(t, w.outside, e.outside)
		for _, at := range []*net.UDPConn{w.listen(t, w.node, e.host), w.listen(t, w.pod, e.pod)} {
			to := at.LocalAddr().(*net.UDPAddr).AddrPort()
			send(t, spoofer, to, "spoofed")
			send(t, honest, to, "honest")
			if got, from := receive(t, at); got == "spoofed" == guarded {
				t.Errorf("%v received %q from %v first", to, got, from)
			}
		}
		counters, err := newApplier().Counters(t.Context())
		must(t, err)
		if guarded && counters["from-pods-"+family] != 2 {
			t.Errorf("the counters are %v", counters)
		}
	})
}

// What comes by a tunnel or from the bridge does pass.
func TestPodsReachEachOther(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			_, err := newApplier().Apply(t.Context(), testFirewall())
			must(t, err)
			pod := w.listen(t, w.pod, e.pod)
			here, there := pod.LocalAddr().(*net.UDPAddr).AddrPort(), netip.AddrPortFrom(e.remotePod, 4000)
			for _, tunnel := range w.tunnels {
				_, err = tunnel.Write(udp(there, here, "in"))
				must(t, err)
				if got, from := receive(t, pod); got != "in" || from != there {
					t.Errorf("the pod received %q from %v", got, from)
				}
			}
			there = netip.AddrPortFrom(e.remotePod, 4001) // a new connection
			send(t, pod, there, "out")
			if p := fromTunnel(t, w.tunnels[0], text("out")); p.source != here || p.destination != there {
				t.Errorf("from pod to pod %v became %v, and %v became %v", here, p.source, there, p.destination)
			}
			// To the node itself, and the node to itself at its gateway address, by lo.
			host := w.listen(t, w.node, e.gateway)
			send(t, pod, host.LocalAddr().(*net.UDPAddr).AddrPort(), "to the node")
			if got, from := receive(t, host); got != "to the node" || from != here {
				t.Errorf("the node received %q from %v", got, from)
			}
			send(t, host, host.LocalAddr().(*net.UDPAddr).AddrPort(), "to itself")
			if got, _ := receive(t, host); got != "to itself" {
				t.Errorf("the node received %q", got)
			}
			send(t, host, here, "to the pod")
			if got, _ := receive(t, pod); got != "to the pod" {
				t.Errorf("the pod received %q", got)
			}
		})
	}
}

// All that a plan can change changes, under traffic that the table has to drop: there is no moment without rules.
func TestChangeLeavesNoGap(t *testing.T) {
	w := newWorld(t)
	a, one, two := newApplier(), testFirewall(), testFirewall()
	two.LocalPods = append(two.LocalPods, netip.MustParsePrefix("10.33.0.0/24"))
	two.PodRanges = append(two.PodRanges, netip.MustParsePrefix("10.48.0.0/16"), netip.MustParsePrefix("10.31.0.0/16"))
	two.Bridges = append(two.Bridges, "second")
	two.Gateways = two.Gateways[1:]
	_, err := a.Apply(t.Context(), one)
	must(t, err)
	tap := w.tap(t)
	must(t, netlink.LinkDel(link(t, "weave-wg0")))
	e := families()["ipv4"]
	stop := traffic(t, w.listen(t, w.pod, e.pod), netip.AddrPortFrom(e.remotePod, 7))
	for range 100 {
		for _, f := range []func() (int, error){
			func() (int, error) { return a.Apply(t.Context(), two) },
			func() (int, error) { return a.Apply(t.Context(), one) },
		} {
			if writes, err := f(); err != nil || writes != 1 {
				t.Fatalf("%d writes: %v", writes, err)
			}
		}
	}
	stop()
	send(t, w.listen(t, w.node, netip.Addr{}), netip.AddrPortFrom(e.outside, 7), "the end")
	for _, p := range tap.until(t, "the end") {
		if p.destination.Addr() == e.remotePod {
			t.Fatal("a packet for a pod leaked")
		}
	}
	counters, err := a.Counters(t.Context())
	must(t, err)
	if counters["to-pods-ipv4"] < 250 {
		t.Errorf("the counters didn't live on: %v", counters)
	}
	t.Logf("200 changes, %d packets dropped", counters["to-pods-ipv4"])
}
