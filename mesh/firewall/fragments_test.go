package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A host sends a pod more than the pod's MTU by an address of the node, and may not fragment it. The pod gets it all
// the same, and the host doesn't learn a smaller MTU of its way to the node: its tunnel goes the same way.
func TestLargeDatagramsToPodsLeaveThePathAlone(t *testing.T) {
	const mtu, size = 1400, 1500 - 28 // bytes
	for name, target := range map[string]func(e ends) netip.Addr{
		"pod of this node":  func(e ends) netip.Addr { return e.pod },
		"pod of a far node": func(e ends) netip.Addr { return e.remotePod },
	} {
		for _, ruled := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, with the rule %t", name, ruled), func(t *testing.T) {
				w, e := newWorld(t), families()["ipv4"]
				run(t, "ip", "link", "set", "weave", "mtu", fmt.Sprint(mtu))
				_, err := newApplier().Apply(t.Context(), testFirewall())
				must(t, err)
				if !ruled {
					run(t, "nft", "flush chain inet weaveguard fragments")
				}
				pod := w.listen(t, w.pod, e.pod)
				w.nodePort(t, 30000, netip.AddrPortFrom(target(e), portOf(pod)))
				sender := w.listen(t, w.outside, e.outside)
				forbidFragments(t, sender)
				send(t, sender, netip.AddrPortFrom(e.host, 30000), strings.Repeat("x", size))
				if !ruled {
					if !w.learnsMTU(t, e.host) {
						t.Error("without the rule the host learns no MTU: the test shows nothing")
					}
					return
				}
				if target(e) == e.pod {
					if got, _ := receive(t, pod); len(got) != size {
						t.Errorf("the pod got %d bytes, want %d", len(got), size)
					}
				} else {
					// Fragments, each of which fits the route.
					fromTunnel(t, w.tunnels[0], func(p packet) bool { return p.destination.Addr() == e.remotePod })
				}
				if w.knowsMTU(t, e.host) { // what came was sent on after any ICMP message
					t.Error("the host has learnt an MTU of its way to the node")
				}
			})
		}
	}
}

// nodePort sends datagrams to a port of the node on to a pod, as kube-proxy does.
func (w *world) nodePort(t *testing.T, port int, pod netip.AddrPort) {
	t.Helper()
	run(t, "nft", "add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority dstnat; }; "+
		fmt.Sprintf("add rule ip proxy pre udp dport %d dnat to %s", port, pod))
}

func forbidFragments(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	var errSet error
	must(t, raw.Control(func(fd uintptr) {
		errSet = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}))
	must(t, errSet)
}

// learnsMTU waits until the host outside has learnt an MTU of its way to the node, and gives up after a while.
func (w *world) learnsMTU(t *testing.T, node netip.Addr) bool {
	t.Helper()
	for start := time.Now(); time.Since(start) < patience; time.Sleep(time.Millisecond) {
		if w.knowsMTU(t, node) {
			return true
		}
	}
	return false
}

func (w *world) knowsMTU(t *testing.T, node netip.Addr) bool {
	t.Helper()
	var route string
	w.in(t, w.outside, func() { route = run(t, "ip", "route", "get", node.String()) })
	return strings.Contains(route, " mtu ")
}
