package cni_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// asks is a configuration with what a runtime asks for by capabilities.
func asks(ips []string, mac string) map[string]any {
	return map[string]any{
		"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}, "runtimeConfig": map[string]any{"ips": ips, "mac": mac},
	}
}

func TestRequestedAddressAndMAC(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	const mac = "02:42:00:00:00:07"
	r := n.add("c1", sandbox, asks([]string{"fd00:5::77", "10.32.5.77/24"}, mac))
	if len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.32.5.77/32" || r.IPs[1].Address.String() != "fd00:5::77/128" || r.Interfaces[2].Mac != mac {
		t.Errorf("the result is %v", r)
	}
	in(t, sandbox, onLink("eth0", func(l netlink.Link) error {
		if got := l.Attrs().HardwareAddr.String(); got != mac {
			t.Errorf("the interface has the MAC %s", got)
		}
		return nil
	}))
	n.checkWorks("c1", sandbox, r)
	if _, err := ping(n.ns, netip.MustParseAddr("10.32.5.77"), 5*time.Second); err != nil {
		t.Errorf("the pod isn't reached: %v", err)
	}
	// What wasn't asked for goes on as if nothing had been.
	other := n.add("c2", newNS(t), asks(nil, ""))
	if other.IPs[0].Address.String() != "10.32.5.2/32" || other.Interfaces[2].Mac != "0a:57:0a:20:05:02" {
		t.Errorf("the next pod has %v", other)
	}
	n.del("c1", "")
	again := n.add("c1", newNS(t), asks([]string{"10.32.5.77"}, mac))
	if again.IPs[0].Address.String() != "10.32.5.77/32" {
		t.Errorf("an address that is free again isn't given: %v", again)
	}
}

func TestRequestsThatCantBe(t *testing.T) {
	n := newNode(t)
	n.add("c1", newNS(t), asks([]string{"10.32.5.9"}, "02:42:00:00:00:01"))
	before := len(n.leftovers())
	sandbox := newNS(t)
	for _, tt := range []struct {
		name  string
		ips   []string
		mac   string
		code  uint
		words []string
	}{
		{"taken", []string{"10.32.5.9"}, "", 105, []string{"runtimeConfig.ips", "10.32.5.9", "in use"}},
		{"taken, beside a free one", []string{"fd00:5::9", "10.32.5.9"}, "", 105, []string{"10.32.5.9"}},
		{"outside", []string{"10.32.6.9"}, "", 7, []string{"runtimeConfig.ips", "10.32.6.9", "10.32.5.0/24", "fd00:5::/64"}},
		{"gateway", []string{"10.32.5.1"}, "", 7, []string{"10.32.5.1", "gateway"}},
		{"network", []string{"10.32.5.0"}, "", 7, []string{"10.32.5.0"}},
		{"broadcast", []string{"10.32.5.255/24"}, "", 7, []string{"10.32.5.255"}},
		{"two of one family", []string{"10.32.5.10", "10.32.5.11"}, "", 7, []string{"10.32.5.10", "10.32.5.11"}},
		{"no address", []string{"pod"}, "", 7, []string{"runtimeConfig.ips", "pod"}},
		{"no MAC", nil, "02:42", 7, []string{"runtimeConfig.mac", "02:42"}},
		{"group MAC", nil, "03:00:00:00:00:01", 7, []string{"runtimeConfig.mac", "group"}},
		{"MAC of another address", nil, "0a:57:0a:20:05:02", 7, []string{"runtimeConfig.mac", "0a:57:0a:20:05:02"}},
		{"MAC of the bridge's end", nil, "0e:57:0a:20:05:02", 7, []string{"runtimeConfig.mac"}},
		{"MAC in use", nil, "02:42:00:00:00:01", 7, []string{"runtimeConfig.mac", "c1"}},
		{"MAC in use at the other end", nil, "06:42:00:00:00:01", 7, []string{"runtimeConfig.mac", "c1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{TB: t, ns: n.ns, dataDir: n.dataDir}
			n.fails(call{verb: "ADD", container: "c2", netns: sandbox.Path(), stdin: n.config(asks(tt.ips, tt.mac))}, tt.code, tt.words...)
			if after := n.leftovers(); len(after) != before {
				t.Errorf("left behind: %v", after)
			}
		})
	}
	n.fails(call{verb: "ADD", container: "c2", netns: sandbox.Path(), stdin: n.config(map[string]any{"runtimeConfig": map[string]any{"ips": "10.32.5.9"}})},
		6, "runtimeConfig.ips", "list")
}

// The MAC of an interface follows from four bytes of its first address. An address of IPv6 that only differs in the others would
// make it the bridge's, or another pod's.
func TestRequestedAddressKeepsMACsApart(t *testing.T) {
	n := newNode(t)
	asks := func(ip, mac string) []byte {
		return n.config(map[string]any{"subnets": []string{"fd00:5::/64"}, "runtimeConfig": map[string]any{"ips": []string{ip}, "mac": mac}})
	}
	for _, ip := range []string{"fd00:5::1:0:1", "fd00:5::1:0:2", "fd00:5::7:0:0:9"} {
		n.fails(call{verb: "ADD", container: "c1", netns: newNS(t).Path(), stdin: asks(ip, "")}, 7, "runtimeConfig.ips", ip, "fd00:5::/96")
	}
	for container, tt := range map[string][2]string{"c2": {"fd00:5::ffff:9", ""}, "c3": {"fd00:5::7:0:0:9", "02:42:00:00:00:01"}} {
		if _, err := n.run(call{verb: "ADD", container: container, netns: newNS(t).Path(), stdin: asks(tt[0], tt[1])}); err != nil {
			t.Errorf("%s with the MAC %q: %v", tt[0], tt[1], err)
		}
	}
}
