package cni_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// guardNode makes the agent's tables on the node, from the plugin's store.
func (n *node) guardNode() {
	n.Helper()
	n.netlink(func() error {
		a := firewall.New(firewall.Config{StoreDir: n.dataDir, Log: slog.New(slog.DiscardHandler)})
		_, err := a.Apply(n.Context(), view.Firewall{Bridges: []string{"weave"}})
		return err
	})
}

// dropped are the counts of the agent's rules.
func (n *node) dropped() map[string]uint64 {
	n.Helper()
	var counters map[string]uint64
	n.netlink(func() (err error) {
		counters, err = firewall.New(firewall.Config{Log: slog.New(slog.DiscardHandler)}).Counters(n.Context())
		return err
	})
	return counters
}

// tool runs a program on the node.
func (n *node) tool(name string, args ...string) string {
	n.Helper()
	var out []byte
	n.netlink(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return err
	})
	return string(out)
}

// pod is an attached sandbox with an address of each family.
type pod struct {
	ns     ns.NetNS
	port   string
	mac    net.HardwareAddr
	v4, v6 netip.Addr
}

// street is a node with two pods, and a host outside that it forwards to.
type street struct {
	*node
	rogue, victim pod
	outside       ns.NetNS
	gateway       net.HardwareAddr // the bridge's MAC
}

var (
	gateway4, gateway6 = netip.MustParseAddr("10.32.5.1"), netip.MustParseAddr("fd00:5::1")
	outside4, outside6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	remote4, remote6   = netip.MustParseAddr("10.32.6.9"), netip.MustParseAddr("fd00:6::9")
	allNodes           = netip.MustParseAddr("ff02::1")
	broadcast          = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func newStreet(t *testing.T) *street {
	t.Helper()
	s := &street{node: newNode(t), outside: newNS(t)}
	for _, conf := range []string{"all", "default"} {
		s.sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0") // which would help, were it strict
	}
	s.guardNode()
	s.rogue, s.victim = s.newPod("rogue"), s.newPod("victim")
	s.netlink(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "uplink"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(s.outside.Fd()))})
	})
	s.tool("ip", "link", "set", "uplink", "up")
	s.tool("ip", "address", "add", "192.0.2.1/24", "dev", "uplink")
	s.tool("ip", "address", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
	in(t, s.outside, func() error {
		for _, args := range []string{"link set eth0 up", "address add 192.0.2.2/24 dev eth0", "address add 2001:db8::2/64 dev eth0 nodad",
			"route add default via 192.0.2.1", "route add default via 2001:db8::1"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
		}
		return nil
	})
	s.netlink(func() error {
		bridge, err := net.InterfaceByName("weave")
		if err == nil {
			s.gateway = bridge.HardwareAddr
		}
		return err
	})
	for _, to := range []netip.Addr{s.victim.v4, s.victim.v6, outside4, outside6} {
		if _, err := ping(s.rogue.ns, to, 10*time.Second); err != nil {
			t.Fatalf("pinging %s: %v", to, err)
		}
	}
	return s
}

func (s *street) newPod(name string) pod {
	s.Helper()
	p := pod{ns: newNS(s.TB)}
	r := s.add(name, p.ns, map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}})
	p.port = store.ID{ContainerID: name, IfName: "eth0"}.HostInterface()
	for _, ip := range r.IPs {
		if address, _ := netip.AddrFromSlice(ip.Address.IP); address.Unmap().Is4() {
			p.v4 = address.Unmap()
		} else {
			p.v6 = address
		}
	}
	p.mac = contract.PodMAC(p.v4)
	return p
}

// linkLocal is the pod's link-local address.
func (p pod) linkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: p.mac[0] ^ 2, 9: p.mac[1], 10: p.mac[2], 11: 0xff, 12: 0xfe, 13: p.mac[3],
		14: p.mac[4], 15: p.mac[5]})
}

// await waits for a condition.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

// until reads frames up to one with this text, and reports whether one with these bytes came before. A frame's VLAN tag
// isn't in the bytes that a socket gives, so the header is compared without what follows the addresses.
func until(t testing.TB, w wire, last string, want []byte) bool {
	t.Helper()
	found := false
	for {
		frame := w.receive(10 * time.Second)
		switch {
		case frame == nil:
			t.Fatalf("nothing arrived any more before %q", last)
		case bytes.Contains(frame, []byte(last)):
			return found
		case bytes.Contains(frame, want), len(want) > 40 && bytes.HasPrefix(frame, want[:12]) && bytes.HasSuffix(frame, want[len(want)-20:]):
			found = true
		}
	}
}

// traffic sends numbered datagrams from pod to pod, of both families and both ways, until the returned function is
// called, which says how many were lost.
func (s *street) traffic() (stop func() int) {
	s.Helper()
	var flows sync.WaitGroup
	done := make(chan struct{})
	var mu sync.Mutex
	lost := 0
	for _, ends := range [][2]struct {
		ns      ns.NetNS
		address netip.Addr
	}{
		{{s.rogue.ns, s.rogue.v4}, {s.victim.ns, s.victim.v4}}, {{s.victim.ns, s.victim.v4}, {s.outside, outside4}},
		{{s.rogue.ns, s.rogue.v6}, {s.victim.ns, s.victim.v6}}, {{s.victim.ns, s.victim.v6}, {s.outside, outside6}},
	} {
		var conns [2]*net.UDPConn
		for i, end := range ends {
			in(s.TB, end.ns, func() (err error) {
				conns[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(end.address, 0)))
				return err
			})
			s.Cleanup(func() { _ = conns[i].Close() })
		}
		to := conns[1].LocalAddr().(*net.UDPAddr).AddrPort()
		flows.Go(func() {
			sent, received, buffer := 0, 0, make([]byte, 100)
			for running := true; running; sent++ {
				select {
				case <-done:
					running = false
				case <-time.After(5 * time.Millisecond):
				}
				if _, err := conns[0].WriteToUDPAddrPort([]byte("right"), to); err != nil {
					s.Errorf("sending what is right: %v", err)
					return
				}
				_ = conns[1].SetReadDeadline(time.Now().Add(3 * time.Second))
				if _, _, err := conns[1].ReadFromUDPAddrPort(buffer); err == nil {
					received++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			lost += sent - received
		})
	}
	return func() int {
		close(done)
		flows.Wait()
		return lost
	}
}

// neighbour is the MAC that the node has for a pod's address.
func (s *street) neighbour(address netip.Addr) string {
	s.Helper()
	for _, line := range strings.Split(s.tool("ip", "neigh", "show", "dev", "weave"), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == address.String() && fields[1] == "lladdr" {
			return fields[2]
		}
	}
	return ""
}
