package cni_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/cni/store"
)

// checkWorks wants CHECK to find nothing, and, given the sandbox, its gateway to answer.
func (n *node) checkWorks(container string, sandbox ns.NetNS, prev *current.Result) {
	n.Helper()
	netns := prev.Interfaces[2].Sandbox
	_, err := n.run(call{verb: "CHECK", container: container, netns: netns, stdin: n.config(map[string]any{"prevResult": prev})})
	if err != nil {
		n.Errorf("CHECK: %v", err)
	}
	if sandbox == nil {
		return
	}
	if _, err := ping(sandbox, netip.MustParseAddr("10.32.5.1"), 5*time.Second); err != nil {
		n.Errorf("%s can't reach its gateway: %v", container, err)
	}
}

func hostEnd() (netlink.Link, error) {
	return netlink.LinkByName(store.ID{ContainerID: "c1", IfName: "eth0"}.HostInterface())
}

// onLink runs f on a link of the namespace that it is called in.
func onLink(name string, f func(netlink.Link) error) func() error {
	return func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return f(link)
	}
}

func write(key, value string) func() error {
	return func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }
}

func mustAddr(s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

func onHostEnd(f func(netlink.Link) error) func() error {
	return func() error {
		link, err := hostEnd()
		if err != nil {
			return err
		}
		return f(link)
	}
}

func TestCheckSaysWhatDiffers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		node    func() error // what happens on the node
		sandbox func() error // or in the sandbox
		want    string
	}{
		{name: "host's end gone", node: onHostEnd(netlink.LinkDel), want: "is missing"},
		{name: "host's end down", node: onHostEnd(netlink.LinkSetDown), want: "is down"},
		{name: "not a port", node: onHostEnd(netlink.LinkSetNoMaster), want: "isn't a port of the bridge weave"},
		{name: "not isolated", node: onHostEnd(func(l netlink.Link) error { return netlink.LinkSetIsolated(l, false) }), want: "isn't isolated"},
		{name: "MTU", node: onHostEnd(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) }), want: "the MTU 1300, not 1420"},
		{name: "bridge gone", node: onLink("weave", netlink.LinkDel), want: "the bridge weave is missing"},
		{name: "bridge down", node: onLink("weave", netlink.LinkSetDown), want: "the bridge weave is down"},
		{name: "bridge not ours", node: onLink("weave", func(l netlink.Link) error { return netlink.LinkSetAlias(l, "mine") }),
			want: `its alias is "mine"`},
		{name: "bridge's MAC", node: onLink("weave", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}), want: "02:00:00:00:00:01, not 0a:57:0a:20:05:01"},
		{name: "no gateway address", node: onLink("weave", func(l netlink.Link) error {
			return netlink.AddrDel(l, mustAddr("10.32.5.1/24"))
		}), want: "lacks the gateway address 10.32.5.1"},
		{name: "bridge-nf-call", node: write("net/bridge/bridge-nf-call-iptables", "1"), want: "bridge-nf-call-iptables of the node is 1, not 0"},
		{name: "send_redirects", node: write("net/ipv4/conf/weave/send_redirects", "1"), want: "weave/send_redirects of the node is 1"},
		{name: "forwarding", node: write("net/ipv4/ip_forward", "0"), want: "ip_forward of the node is 0, not 1"},
		{name: "interface gone", sandbox: onLink("eth0", netlink.LinkDel), want: "is missing"},
		{name: "interface renamed", sandbox: onLink("eth0", func(l netlink.Link) error {
			return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "x0"))
		}), want: "the sandbox lacks the interface eth0"},
		{name: "interface down", sandbox: onLink("eth0", netlink.LinkSetDown), want: "eth0 is down"},
		{name: "interface's MAC", sandbox: onLink("eth0", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}), want: "eth0 has the MAC 02:00:00:00:00:01"},
		{name: "IPv4 address", sandbox: onLink("eth0", func(l netlink.Link) error {
			return netlink.AddrDel(l, mustAddr("10.32.5.2/32"))
		}), want: "lacks the address 10.32.5.2/32"},
		{name: "IPv6 address", sandbox: onLink("eth0", func(l netlink.Link) error {
			return netlink.AddrDel(l, mustAddr("fd00:5::2/128"))
		}), want: "lacks the address fd00:5::2/128"},
		{name: "route", sandbox: onLink("eth0", func(l netlink.Link) error {
			_, all, err := net.ParseCIDR("::/0")
			return errors.Join(err, netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: all}))
		}), want: "lacks the default route by fd00:5::1"},
		{name: "accept_redirects", sandbox: write("net/ipv4/conf/eth0/accept_redirects", "1"), want: "eth0/accept_redirects in the sandbox is 1"},
		{name: "accept_ra", sandbox: write("net/ipv6/conf/eth0/accept_ra", "1"), want: "eth0/accept_ra in the sandbox is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, sandbox := newNode(t), newNS(t)
			r := n.add("c1", sandbox, map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}})
			n.checkWorks("c1", sandbox, r)
			if tt.node != nil {
				in(t, n.ns, tt.node)
			}
			if tt.sandbox != nil {
				in(t, sandbox, tt.sandbox)
			}
			n.fails(call{verb: "CHECK", container: "c1", netns: sandbox.Path(), stdin: n.config(map[string]any{"prevResult": r})},
				101, "CHECK: ", tt.want)
		})
	}
}

func TestCheckComparesWithPrevResult(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	check := func(r *current.Result, changes map[string]any) call {
		if r != nil {
			changes["prevResult"] = r
		}
		return call{verb: "CHECK", container: "c1", netns: sandbox.Path(), stdin: n.config(changes)}
	}
	r := n.add("c1", sandbox, nil)
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		converted, err := r.GetAsVersion(version)
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.run(call{verb: "CHECK", container: "c1", netns: sandbox.Path(),
			stdin: n.config(map[string]any{"cniVersion": version, "prevResult": converted})})
		if err != nil {
			t.Errorf("CHECK of version %s: %v", version, err)
		}
	}
	n.fails(check(r, map[string]any{"cniVersion": "0.3.1"}), 1, "cniVersion", "0.4.0")
	n.fails(check(nil, map[string]any{}), 7, "prevResult", "missing")
	n.fails(check(nil, map[string]any{"prevResult": map[string]any{"cniVersion": "9.9.9"}}), 6, "prevResult")

	other := *r
	other.IPs = []*current.IPConfig{{Address: net.IPNet{IP: net.IPv4(10, 32, 5, 99), Mask: net.CIDRMask(32, 32)}}}
	n.fails(check(&other, map[string]any{}), 101, "prevResult lacks the attachment's address 10.32.5.2")
	other = *r
	other.Interfaces = nil
	n.fails(check(&other, map[string]any{}), 101, "prevResult has no interface eth0")

	elsewhere := newNS(t)
	c := check(r, map[string]any{})
	c.netns = elsewhere.Path()
	n.fails(c, 101, "CNI_NETNS is another namespace", sandbox.Path(), "lacks the interface eth0")
	n.fails(call{verb: "CHECK", container: "c2", netns: sandbox.Path(), stdin: c.stdin}, 101, "c2", "isn't attached")
	damage(n)
	n.fails(check(r, map[string]any{}), 5, "attachment", fmt.Sprint(n.dataDir))
}
