package cni_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestBadInput(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) []byte { return n.config(map[string]any{key: value}) }
	good := n.config(nil)
	for _, tt := range []struct {
		name  string
		call  call // verb ADD, container c1 and the sandbox unless it says otherwise
		code  uint
		words []string
	}{
		{"stdin isn't JSON", call{stdin: []byte("cniVersion: 1.0.0")}, 6, []string{"stdin", "JSON"}},
		{"stdin is empty", call{stdin: nil}, 6, []string{"stdin", "JSON"}},
		{"stdin is a list", call{stdin: []byte("[]")}, 6, []string{"stdin", "JSON"}},
		{"no name", call{stdin: with("name", nil)}, 7, []string{"key name"}},
		{"bad name", call{stdin: with("name", "a/b")}, 7, []string{"key name", "a/b"}},
		{"no cniVersion", call{stdin: with("cniVersion", nil)}, 1, []string{"cniVersion", "0.1.0", "1.1.0"}},
		{"unsupported cniVersion", call{stdin: with("cniVersion", "2.0.0")}, 1, []string{"cniVersion", "2.0.0", "1.1.0"}},
		{"mtu is text", call{stdin: with("mtu", "1420")}, 6, []string{"key mtu", "string", "a number"}},
		{"subnets is text", call{stdin: with("subnets", "10.32.5.0/24")}, 6, []string{"key subnets", "a list"}},
		{"mtu too small", call{stdin: with("mtu", 10)}, 7, []string{"key mtu", "10", "68"}},
		{"mtu too small for IPv6", call{stdin: n.config(map[string]any{"mtu": 1279, "subnets": []string{"fd00:5::/64"}})}, 7, []string{"key mtu", "1280"}},
		{"mtu too large", call{stdin: with("mtu", 65536)}, 7, []string{"key mtu", "65535"}},
		{"subnets is empty", call{stdin: with("subnets", []string{})}, 7, []string{"key subnets", "empty"}},
		{"not a subnet", call{stdin: with("subnets", []string{"10.32.5/24"})}, 7, []string{"key subnets", "10.32.5/24"}},
		{"host bits", call{stdin: with("subnets", []string{"10.32.5.7/24"})}, 7, []string{"key subnets", "10.32.5.0/24"}},
		{"too small", call{stdin: with("subnets", []string{"10.32.5.0/31"})}, 7, []string{"key subnets", "too small"}},
		{"two IPv4 subnets", call{stdin: with("subnets", []string{"10.32.5.0/24", "10.32.6.0/24"})}, 7, []string{"key subnets", "10.32.6.0/24", "one IPv4"}},
		{"bridge name too long", call{stdin: with("bridge", "weave-has-a-long-name")}, 7, []string{"key bridge", "weave-has-a-long-name", "15"}},
		{"bridge name invalid", call{stdin: with("bridge", "we/ave")}, 7, []string{"key bridge", "we/ave"}},
		{"relative dataDir", call{stdin: with("dataDir", "run/cni")}, 7, []string{"key dataDir", "run/cni"}},
		{"relative readyFile", call{stdin: with("readyFile", "cni.json")}, 7, []string{"key readyFile", "cni.json"}},
		{"dataDir is a file", call{stdin: with("dataDir", file)}, 5, []string{"key dataDir", file}},
		{"another IPAM", call{stdin: with("ipam", map[string]any{"type": "host-local"})}, 2, []string{"key ipam", "host-local"}},
		{"no CNI_CONTAINERID", call{stdin: good, env: []string{"CNI_CONTAINERID="}}, 4, []string{"CNI_CONTAINERID"}},
		{"bad CNI_CONTAINERID", call{stdin: good, container: "../c1"}, 4, []string{"CNI_CONTAINERID", "../c1"}},
		{"no CNI_IFNAME", call{stdin: good, env: []string{"CNI_IFNAME="}}, 4, []string{"CNI_IFNAME"}},
		{"long CNI_IFNAME", call{stdin: good, ifName: "eth0123456789012"}, 4, []string{"CNI_IFNAME", "15"}},
		{"CNI_IFNAME with a slash", call{stdin: good, ifName: "eth/0"}, 4, []string{"CNI_IFNAME"}},
		{"bad CNI_ARGS", call{stdin: good, args: "K8S_POD_NAME"}, 4, []string{"CNI_ARGS", "K8S_POD_NAME"}},
		{"unknown key in CNI_ARGS", call{stdin: good, args: "FOO=bar"}, 4, []string{"CNI_ARGS", "FOO", "IgnoreUnknown"}},
		{"no CNI_NETNS", call{stdin: good, env: []string{"CNI_NETNS="}}, 4, []string{"CNI_NETNS"}},
		{"CNI_NETNS doesn't exist", call{stdin: good, netns: "/run/netns/none"}, 8, []string{"CNI_NETNS", "/run/netns/none", "doesn't exist"}},
		{"CNI_NETNS is a file", call{stdin: good, netns: file}, 8, []string{"CNI_NETNS", file, "isn't a network namespace"}},
		{"CNI_NETNS is another kind", call{stdin: good, netns: "/proc/self/ns/mnt"}, 8, []string{"CNI_NETNS", "isn't a network namespace"}},
		{"CNI_NETNS is the node's", call{stdin: good, netns: n.ns.Path()}, 8, []string{"CNI_NETNS", "node's own"}},
		{"unknown verb", call{stdin: good, verb: "UPDATE"}, 4, []string{"CNI_COMMAND", "UPDATE"}},
		{"STATUS before 1.1.0", call{stdin: with("cniVersion", "1.0.0"), verb: "STATUS"}, 1, []string{"cniVersion", "1.1.0"}},
		{"STATUS of a bad configuration", call{stdin: with("mtu", 10), verb: "STATUS"}, 7, []string{"key mtu"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{TB: t, ns: n.ns, dataDir: n.dataDir}
			if tt.call.verb == "" {
				tt.call.verb = "ADD"
			}
			if tt.call.container == "" {
				tt.call.container = "c1"
			}
			if tt.call.netns == "" {
				tt.call.netns = sandbox.Path()
			}
			n.fails(tt.call, tt.code, tt.words...)
			n.wantNoLeftovers()
		})
	}
}

func TestForwardingOffIsNotReady(t *testing.T) {
	n := newNode(t)
	n.sysctl("net/ipv4/ip_forward", "0")
	n.fails(call{verb: "ADD", container: "c1", netns: newNS(t).Path(), stdin: n.config(nil)}, 11, "net/ipv4/ip_forward", "agent")
	n.wantNoLeftovers()
}

func TestForeignBridge(t *testing.T) {
	veth := func(name string) *netlink.Veth {
		return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: name + "p"}
	}
	for _, tt := range []struct {
		name  string
		make  func() (netlink.Link, error)
		words []string
	}{
		{"Weave Net's", func() (netlink.Link, error) {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weave", TxQLen: -1}}
			port := veth("vethwe-bridge")
			err := errors.Join(netlink.LinkAdd(br), netlink.LinkAdd(port))
			return br, errors.Join(err, netlink.LinkSetMaster(port, br), netlink.AddrAdd(br, mustAddr("10.32.0.1/12")))
		}, []string{"Weave Net", "vethwe-bridge", "cleanup --weave-net"}},
		{"somebody's", func() (netlink.Link, error) {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weave", TxQLen: -1}}
			return br, errors.Join(netlink.LinkAdd(br), netlink.LinkSetAlias(br, "lab"))
		}, []string{`named "lab"`, "another bridge name"}},
		{"not a bridge", func() (netlink.Link, error) {
			v := veth("weave")
			return v, netlink.LinkAdd(v)
		}, []string{"a veth interface", "ip link delete weave"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			var before netlink.Link
			n.netlink(func() (err error) {
				if _, err = tt.make(); err != nil {
					return err
				}
				before, err = netlink.LinkByName("weave")
				return err
			})
			n.fails(call{verb: "ADD", container: "c1", netns: newNS(t).Path(), stdin: n.config(nil)}, 100,
				append(tt.words, "key bridge", "isn't Weaveguard's")...)
			n.wantNoLeftovers()
			n.netlink(func() error {
				after, err := netlink.LinkByName("weave")
				if err != nil {
					return err
				}
				a, b := before.Attrs(), after.Attrs()
				if a.HardwareAddr.String() != b.HardwareAddr.String() || a.Alias != b.Alias || a.Flags != b.Flags {
					t.Errorf("the interface was changed: %+v, now %+v", a, b)
				}
				return nil
			})
		})
	}
}

// What a plugin that was killed while it made the bridge leaves is completed, not refused.
func TestHalfMadeBridgeIsCompleted(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	n.netlink(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weave", TxQLen: -1,
			HardwareAddr: net.HardwareAddr{0x0a, 0x57, 10, 32, 5, 1}}})
	})
	n.checkWorks("c1", sandbox, n.add("c1", sandbox, nil))
}
