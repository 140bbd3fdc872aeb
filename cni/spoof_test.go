package cni_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/packet"
)

// uncounted is for frames that kernels send too, and so are dropped without a word.
const uncounted = ""

// rogueFrames are what the rogue pod sends, and it has no right to; by the counter that tells of it.
func (s *street) rogueFrames() map[string][]struct {
	name  string
	frame []byte
} {
	type sent = struct {
		name  string
		frame []byte
	}
	r, v := s.rogue, s.victim
	frames := map[string][]sent{}
	extensions := map[byte]string{unix.IPPROTO_HOPOPTS: "hop-by-hop options", unix.IPPROTO_DSTOPTS: "destination options",
		unix.IPPROTO_FRAGMENT: "a fragment header"}
	add := func(counter, name string, frame []byte) {
		frames[counter] = append(frames[counter], sent{name, frame})
	}
	for _, to := range []netip.Addr{v.v4, gateway4, outside4} {
		for name, from := range map[string]netip.Addr{"a neighbour": v.v4, "another node's pod": remote4, "the gateway": gateway4,
			"outside": netip.MustParseAddr("198.51.100.9"), "nowhere": netip.IPv4Unspecified()} {
			add("spoofed-ipv4", fmt.Sprintf("%s as %s", to, name), ethernet(s.gateway, r.mac, unix.ETH_P_IP, datagram(from, to, "rogue")))
		}
		add("spoofed-ipv4", fmt.Sprintf("%s with a neighbour's MAC", to), ethernet(s.gateway, v.mac, unix.ETH_P_IP, datagram(r.v4, to, "rogue")))
		add("spoofed-ipv4", fmt.Sprintf("%s as a neighbour, with its MAC", to), ethernet(s.gateway, v.mac, unix.ETH_P_IP, datagram(v.v4, to, "rogue")))
	}
	for _, to := range []netip.Addr{v.v6, gateway6, outside6} {
		for name, from := range map[string]netip.Addr{"a neighbour": v.v6, "another node's pod": remote6, "the gateway": gateway6,
			"outside": netip.MustParseAddr("2001:db8:1::9")} {
			add("spoofed-ipv6", fmt.Sprintf("%s as %s", to, name), ethernet(s.gateway, r.mac, unix.ETH_P_IPV6, datagram(from, to, "rogue")))
		}
		add("spoofed-ipv6", fmt.Sprintf("%s with a neighbour's MAC", to), ethernet(s.gateway, v.mac, unix.ETH_P_IPV6, datagram(r.v6, to, "rogue")))
		add("spoofed-ipv6", fmt.Sprintf("%s as a neighbour, with its MAC", to), ethernet(s.gateway, v.mac, unix.ETH_P_IPV6, datagram(v.v6, to, "rogue")))
		for header, name := range extensions {
			add("spoofed-ipv6", fmt.Sprintf("%s as a neighbour, behind %s", to, name),
				ethernet(s.gateway, r.mac, unix.ETH_P_IPV6, behind(header, datagram(v.v6, to, "rogue"))))
		}
		for name, from := range map[string]netip.Addr{"nowhere": netip.IPv6Unspecified(), "a neighbour's link-local address": v.linkLocal()} {
			add(uncounted, fmt.Sprintf("%s as %s", to, name), ethernet(s.gateway, r.mac, unix.ETH_P_IPV6, datagram(from, to, "rogue")))
		}
	}
	add("spoofed-arp", "answer for a neighbour", ethernet(s.gateway, r.mac, unix.ETH_P_ARP, arp(2, r.mac, v.v4, s.gateway, gateway4)))
	add("spoofed-arp", "announce the gateway", ethernet(broadcast, r.mac, unix.ETH_P_ARP, arp(1, r.mac, gateway4, broadcast, gateway4)))
	add("spoofed-arp", "ask as a neighbour", ethernet(broadcast, r.mac, unix.ETH_P_ARP, arp(1, r.mac, v.v4, broadcast, gateway4)))
	add("spoofed-arp", "lie about the MAC", ethernet(s.gateway, r.mac, unix.ETH_P_ARP, arp(2, v.mac, r.v4, s.gateway, gateway4)))
	add("spoofed-arp", "another's frame", ethernet(s.gateway, v.mac, unix.ETH_P_ARP, arp(2, r.mac, r.v4, s.gateway, gateway4)))
	const override = 0x20
	nd := func(message []byte) []byte { return ethernet(s.gateway, r.mac, unix.ETH_P_IPV6, message) }
	add("spoofed-nd-advertisement", "answer for a neighbour", nd(discovery(r.v6, gateway6, 136, override, v.v6, 2, r.mac)))
	add("spoofed-nd-advertisement", "as a neighbour", nd(discovery(v.v6, gateway6, 136, override, v.v6, 2, r.mac)))
	add("spoofed-nd-advertisement", "announce the gateway", ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, r.mac, unix.ETH_P_IPV6,
		discovery(r.linkLocal(), allNodes, 136, override, gateway6, 2, r.mac)))
	add("spoofed-nd-advertisement", "lie about the MAC", nd(discovery(r.v6, gateway6, 136, override, r.v6, 2, v.mac)))
	add("spoofed-nd-advertisement", "another's link-local address", nd(discovery(v.linkLocal(), gateway6, 136, override, v.linkLocal(), 2, r.mac)))
	add("spoofed-nd-solicitation", "ask as a neighbour", nd(discovery(v.v6, gateway6, 135, 0, gateway6, 1, r.mac)))
	add("spoofed-nd-solicitation", "lie about the MAC", nd(discovery(r.v6, gateway6, 135, 0, gateway6, 1, v.mac)))
	add("router-advertisement", "to all", ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, r.mac, unix.ETH_P_IPV6,
		routerAdvertisement(r.linkLocal(), allNodes, r.mac)))
	for header, name := range extensions { // a guard that looks for ICMPv6 right after the IPv6 header sees none
		add("spoofed-nd-advertisement", "answer for a neighbour, behind "+name, nd(behind(header, discovery(r.v6, gateway6, 136, override, v.v6, 2, r.mac))))
		add("spoofed-nd-solicitation", "ask as a neighbour, behind "+name, nd(behind(header, discovery(v.v6, gateway6, 135, 0, gateway6, 1, r.mac))))
		add("router-advertisement", "to all, behind "+name, ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, r.mac, unix.ETH_P_IPV6,
			behind(header, routerAdvertisement(r.linkLocal(), allNodes, r.mac))))
	}
	redirect := append([]byte{137, 0, 0, 0, 0, 0, 0, 0}, r.v6.AsSlice()...)
	redirect = append(redirect, outside6.AsSlice()...)
	add("nd-redirect", "to the gateway", nd(packet.IP(r.linkLocal(), gateway6, unix.IPPROTO_ICMPV6, 2, redirect)))
	own := ethernet(s.gateway, r.mac, unix.ETH_P_IP, datagram(r.v4, gateway4, "rogue"))
	add("foreign-frame", "VLAN tag", tagged(own))
	add("foreign-frame", "two VLAN tags", tagged(tagged(own)))
	add("foreign-frame", "no IP", ethernet(s.gateway, r.mac, 0x88b5, []byte("rogue, and some more bytes to be long enough for a frame")))
	return frames
}

// What a pod sends as somebody else gets no further than its bridge port, and what others send passes all the time.
// Without the guard each of these frames gets to the node, which shows that nothing else stops them there; isolated
// ports keep all of them from the neighbours in both cases.
func TestPodsSpeakForThemselvesAlone(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%t", guarded), func(t *testing.T) {
			s := newStreet(t)
			if !guarded {
				s.tool("nft", "delete", "table", "bridge", "weaveguard")
			}
			stop := s.traffic()
			rogue := openWire(t, s.rogue.ns, "eth0")
			atNode, atVictim, atOutside := openWire(t, s.ns, "weave"), openWire(t, s.victim.ns, "eth0"), openWire(t, s.outside, "eth0")
			number := 0
			for counter, frames := range s.rogueFrames() {
				before := s.dropped()[counter]
				for _, f := range frames {
					number++
					rogue.send(f.frame)
					fence := fmt.Sprintf("fence %d", number)
					rogue.send(ethernet(s.gateway, s.rogue.mac, unix.ETH_P_IP, datagram(s.rogue.v4, outside4, fence)))
					arrived := until(t, atNode, fence, f.frame)
					if arrived == guarded {
						t.Errorf("%s, %s: arrived at the node: %t", counter, f.name, arrived)
					}
					if until(t, atOutside, fence, []byte("rogue")) && guarded {
						t.Errorf("%s, %s: arrived outside", counter, f.name)
					}
				}
				if got := s.dropped()[counter] - before; guarded && counter != uncounted && got != uint64(len(frames)) {
					t.Errorf("%s counted %d of %d", counter, got, len(frames))
				}
			}
			t.Logf("%d frames", number)
			rogue.send(ethernet(s.gateway, s.rogue.mac, unix.ETH_P_IP, datagram(s.rogue.v4, s.victim.v4, "the end")))
			lost := stop()
			if !guarded {
				return // by now others may take the rogue's word for where they are
			}
			if until(t, atVictim, "the end", []byte("rogue")) {
				t.Error("a frame arrived at the victim")
			}
			if lost > 0 {
				t.Errorf("%d right datagrams were lost", lost)
			}
		})
	}
}

// A pod that answers for its neighbour in ARP and neighbour discovery doesn't get its packets; without the guard it does.
func TestRogueAnswersHaveNoEffect(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%t", guarded), func(t *testing.T) {
			s := newStreet(t)
			if !guarded {
				s.tool("nft", "delete", "table", "bridge", "weaveguard")
			}
			r, v := s.rogue, s.victim
			rogue := openWire(t, r.ns, "eth0")
			for address, frame := range map[netip.Addr][]byte{
				v.v4: ethernet(s.gateway, r.mac, unix.ETH_P_ARP, arp(2, r.mac, v.v4, s.gateway, gateway4)),
				v.v6: ethernet(s.gateway, r.mac, unix.ETH_P_IPV6, discovery(r.v6, gateway6, 136, 0x20, v.v6, 2, r.mac)),
			} {
				taken := false
				for end := time.Now().Add(3 * time.Second); !taken && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					rogue.send(frame)
					taken = s.neighbour(address) == r.mac.String()
				}
				if taken == guarded {
					t.Errorf("the node takes %s to be the rogue: %t", address, taken)
				}
			}
		})
	}
}

// No frame moves a MAC to another port, not even one that the bridge itself takes, which the table doesn't see.
func TestNoFrameMovesAMAC(t *testing.T) {
	s := newStreet(t)
	s.tool("nft", "delete", "table", "bridge", "weaveguard") // which stops all others
	want := s.tool("bridge", "fdb", "show", "br", "weave")
	rogue := openWire(t, s.rogue.ns, "eth0")
	for _, to := range []net.HardwareAddr{{0x01, 0x80, 0xc2, 0, 0, 0x0e}, {0x01, 0x80, 0xc2, 0, 0, 0}, broadcast, s.gateway} {
		rogue.send(ethernet(to, s.victim.mac, 0x88cc, make([]byte, 60)))
	}
	if _, err := ping(s.rogue.ns, s.victim.v4, 5*time.Second); err != nil {
		t.Error(err)
	}
	if got := s.tool("bridge", "fdb", "show", "br", "weave"); got != want || !strings.Contains(got, s.victim.mac.String()+" dev "+s.victim.port) {
		t.Errorf("the bridge knew\n%s\nand knows\n%s", want, got)
	}
}

// Pods and node come to have no other addresses, routes or neighbours by what a pod advertises, not even a node that takes
// advertisements on the bridge; without the guard that one does, and the pods still don't.
func TestRogueAdvertisementsHaveNoEffect(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%t", guarded), func(t *testing.T) {
			s := newStreet(t)
			show := func(n ns.NetNS) string {
				var b strings.Builder
				in(t, n, func() error {
					for _, what := range []string{"address", "route"} {
						out, err := exec.Command("ip", "-6", what, "show").CombinedOutput()
						if err != nil {
							return err
						}
						b.Write(out)
					}
					return nil
				})
				return b.String()
			}
			await(t, "link-local addresses aren't checked for duplicates any more", func() bool {
				return !strings.Contains(show(s.ns)+show(s.victim.ns), "tentative")
			})
			atNode, atVictim := show(s.ns), show(s.victim.ns)
			s.sysctl("net/ipv6/conf/weave/accept_ra", "2") // the agent's value, 0, would be a second guard
			if !guarded {
				s.tool("nft", "delete", "table", "bridge", "weaveguard")
			}
			rogue := openWire(t, s.rogue.ns, "eth0")
			for _, f := range s.rogueFrames()["router-advertisement"] {
				rogue.send(f.frame)
			}
			if _, err := ping(s.rogue.ns, gateway6, 5*time.Second); err != nil { // it comes behind them
				t.Error(err)
			}
			if got := show(s.ns); (got == atNode) != guarded {
				t.Errorf("the node had\n%s\nand has\n%s", atNode, got)
			}
			if got := show(s.victim.ns); got != atVictim {
				t.Errorf("the neighbour had\n%s\nand has\n%s", atVictim, got)
			}
		})
	}
}

// The plugin keeps the sets, CHECK knows, and what the plugin can't know the agent makes good: after an upgrade from a
// release without the table, and when the table was lost.
func TestGuardFollowsAttachments(t *testing.T) {
	n := newNode(t)
	before, after := newNS(t), newNS(t)
	results := map[string]*current.Result{}
	check := func(container string, sandbox ns.NetNS, words ...string) {
		t.Helper()
		c := call{verb: "CHECK", container: container, netns: sandbox.Path(), stdin: n.config(map[string]any{"prevResult": results[container]})}
		if len(words) == 0 {
			if _, err := n.run(c); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			return
		}
		n.fails(c, 101, words...)
	}
	reaches := func(sandbox ns.NetNS) bool {
		_, err := ping(sandbox, gateway4, time.Second)
		return err == nil
	}
	results["before"] = n.add("before", before, nil)
	n.guardNode()
	results["after"] = n.add("after", after, nil)
	for container, sandbox := range map[string]ns.NetNS{"before": before, "after": after} {
		check(container, sandbox)
		if !reaches(sandbox) {
			t.Errorf("the pod that was attached %s the table doesn't reach its gateway", container)
		}
	}
	elements := func() int {
		return strings.Count(n.tool("nft", "list", "set", "bridge", "weaveguard", "pods4"), "10.32.5.")
	}
	if got := elements(); got != 2 {
		t.Errorf("%d elements", got)
	}
	n.tool("nft", "flush", "set", "bridge", "weaveguard", "pods4")
	check("before", before, "sets of senders")
	if reaches(before) {
		t.Error("a pod that isn't in the set reaches its gateway")
	}
	n.guardNode()
	check("before", before)
	n.tool("nft", "delete", "table", "bridge", "weaveguard")
	n.guardNode()
	if got := elements(); got != 2 || !reaches(after) {
		t.Errorf("made anew, the set has %d elements", got)
	}
	n.del("before", before.Path())
	if got := elements(); got != 1 {
		t.Errorf("after DEL there are %d elements", got)
	}
	n.tool("nft", "delete", "table", "bridge", "weaveguard")
	n.del("after", after.Path())
	n.wantNoLeftovers()
}

// What a pod's kernel says of itself to find its gateway, and when it asks again whether it is still there, passes:
// without packets to send it asks from its link-local address.
func TestNeighbourProbesPass(t *testing.T) {
	s := newStreet(t)
	v := s.victim
	inPod := func(args string) string {
		var out []byte
		in(t, v.ns, func() (err error) {
			if out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				err = fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
			return err
		})
		return string(out)
	}
	await(t, "the pod's link-local address isn't tentative any more", func() bool {
		return inPod("-6 address show dev eth0 scope link tentative") == ""
	})
	for _, gateway := range []netip.Addr{gateway4, gateway6} {
		inPod(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud probe", gateway, s.gateway))
		await(t, "the pod's kernel finds "+gateway.String(), func() bool {
			return strings.Contains(inPod("neigh show "+gateway.String()), "REACHABLE")
		})
	}
	for _, address := range []netip.Addr{v.v4, v.v6} {
		s.tool("ip", "neigh", "replace", address.String(), "lladdr", v.mac.String(), "dev", "weave", "nud", "probe")
		await(t, "the node finds "+address.String(), func() bool {
			return strings.Contains(s.tool("ip", "neigh", "show", address.String()), "REACHABLE")
		})
	}
	for _, to := range []netip.Addr{gateway4, gateway6, outside4, outside6} { // in fragments
		in(t, v.ns, func() error {
			if out, err := exec.Command("ping", "-c", "2", "-i", "0.1", "-W", "5", "-s", "4000", to.String()).CombinedOutput(); err != nil {
				return fmt.Errorf("large packets to %s: %w: %s", to, err, out)
			}
			return nil
		})
	}
	for name, count := range s.dropped() {
		if count > 0 {
			t.Errorf("%s counted %d, and nobody did wrong", name, count)
		}
	}
}
