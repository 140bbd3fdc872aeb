package cni_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/store"
)

func TestResult(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	out, err := n.run(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(map[string]any{
		"dns": map[string]any{"nameservers": []string{"10.96.0.10"}}, "mtu": 1400, "subnets": []string{"fd00:5::/64", "10.32.5.0/24"},
	})})
	if err != nil {
		t.Fatal(err)
	}
	host := store.ID{ContainerID: "c1", IfName: "eth0"}.HostInterface()
	want := fmt.Sprintf(`{
		"cniVersion": "1.1.0",
		"interfaces": [
			{"name": "weave", "mac": "0a:57:0a:20:05:01"},
			{"name": %q, "mac": "0e:57:0a:20:05:02", "mtu": 1400},
			{"name": "eth0", "mac": "0a:57:0a:20:05:02", "mtu": 1400, "sandbox": %q}
		],
		"ips": [
			{"interface": 2, "address": "10.32.5.2/32", "gateway": "10.32.5.1"},
			{"interface": 2, "address": "fd00:5::2/128", "gateway": "fd00:5::1"}
		],
		"routes": [
			{"dst": "0.0.0.0/0", "gw": "10.32.5.1"},
			{"dst": "::/0", "gw": "fd00:5::1"}
		],
		"dns": {"nameservers": ["10.96.0.10"]}
	}`, host, sandbox.Path())
	var gotJSON, wantJSON any
	if err := errors.Join(json.Unmarshal(out, &gotJSON), json.Unmarshal([]byte(want), &wantJSON)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("the result differs (-want +got):\n%s", diff)
	}
}

// The store is what the agent reads: all of the attachment must be in it.
func TestStoredAttachment(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	_, err := n.run(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(nil),
		args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1;FOO=bar"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(n.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Get(store.ID{ContainerID: "c1", IfName: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	if a.PodNamespace != "shop" || a.PodName != "web-0" || a.PodUID != "u-1" || a.Netns != sandbox.Path() || a.NetnsInode == 0 ||
		a.Network != "weaveguard" || a.Bridge != "weave" || a.MTU != 1420 || a.MAC != "0a:57:0a:20:05:02" ||
		fmt.Sprint(a.Addresses) != "[10.32.5.2]" || a.HostIfName != a.HostInterface() || time.Since(a.Created) > time.Minute {
		t.Errorf("stored %+v", a)
	}
}

func TestEverySpecVersion(t *testing.T) {
	n := newNode(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			sandbox := newNS(t)
			c := call{container: "c" + version, netns: sandbox.Path(), stdin: n.config(map[string]any{"cniVersion": version})}
			c.verb = "ADD"
			out, err := n.run(c)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ CNIVersion string }
			if err := json.Unmarshal(out, &got); err != nil || got.CNIVersion != version {
				t.Errorf("the result is of version %q, %v; want %s", got.CNIVersion, err, version)
			}
			if len(n.parse(out).IPs) != 1 {
				t.Errorf("the result %s has no address", out)
			}
			c.verb = "DEL"
			if _, err := n.run(c); err != nil {
				t.Fatal(err)
			}
		})
	}
	n.wantNoLeftovers()
	out, err := n.run(call{verb: "VERSION"})
	if err != nil || !strings.Contains(string(out), `"supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION answered %s, %v", out, err)
	}
}

func TestTraffic(t *testing.T) {
	n, a, b := newNode(t), newNS(t), newNS(t)
	both := map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}}
	n.add("a", a, both)
	n.add("b", b, both)
	for _, tt := range []struct {
		what string
		from ns.NetNS
		to   string
		ttl  int
	}{
		{"pod to gateway", a, "10.32.5.1", 64},
		{"pod to gateway, IPv6", a, "fd00:5::1", 64},
		{"node to pod", n.ns, "10.32.5.3", 64},
		{"node to pod, IPv6", n.ns, "fd00:5::3", 64},
		{"pod to pod, routed", a, "10.32.5.3", 63},
		{"pod to pod, routed, IPv6", a, "fd00:5::3", 63},
		{"and back", b, "10.32.5.2", 63},
		{"pod to itself", a, "10.32.5.2", 64},
	} {
		ttl, err := ping(tt.from, netip.MustParseAddr(tt.to), 5*time.Second)
		if err != nil || ttl != tt.ttl {
			t.Errorf("%s (%s): TTL %d, %v; want %d", tt.what, tt.to, ttl, err, tt.ttl)
		}
	}
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		if v := n.readSysctl("net/bridge/bridge-nf-call-" + name); v != "0" {
			t.Errorf("bridge-nf-call-%s is %s", name, v)
		}
	}
	// Nothing gets past the node's routing: neighbours can't be reached at layer 2.
	in(t, a, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: net.IPv4(10, 32, 5, 3), Mask: net.CIDRMask(32, 32)}})
	})
	if _, err := ping(a, netip.MustParseAddr("10.32.5.3"), time.Second); err == nil {
		t.Error("a pod reached another pod at layer 2")
	}
}

func TestSandboxIsConfigured(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	in(t, sandbox, func() error { // the worst that a sandbox can bring along
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/accept_redirects", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/default/accept_redirects", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_ra", []byte("2"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("3"), 0))
	})
	n.add("c1", sandbox, map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/64"}})
	in(t, sandbox, func() error {
		for key, want := range map[string]string{
			"ipv4/conf/all/accept_redirects": "0", "ipv4/conf/eth0/accept_redirects": "0",
			"ipv6/conf/eth0/accept_redirects": "0", "ipv6/conf/eth0/accept_ra": "0", "ipv6/conf/eth0/addr_gen_mode": "0",
		} {
			b, err := os.ReadFile("/proc/sys/net/" + key)
			if got := strings.TrimSpace(string(b)); err != nil || got != want {
				t.Errorf("%s is %s, %v; want %s", key, got, err, want)
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("lo is down, %v", err)
		}
		return nil
	})
}

// As long as its link-local address is tentative, a bridge asks for no pod's MAC on behalf of other hosts.
func TestBridgeIsNotTentative(t *testing.T) {
	n := newNode(t)
	in(t, n.ns, func() error { // were there a detection of duplicates, it would take longer than anybody waits here
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/dad_transmits", []byte("200"), 0)
	})
	n.add("c1", newNS(t), map[string]any{"subnets": []string{"fd00:5::/64"}})
	await(t, "the bridge has a link-local address, and it isn't tentative", func() bool {
		var own []netlink.Addr
		n.netlink(func() error {
			link, err := netlink.LinkByName("weave")
			if err != nil {
				return err
			}
			own, err = netlink.AddrList(link, netlink.FAMILY_V6)
			return err
		})
		return slices.ContainsFunc(own, func(a netlink.Addr) bool {
			return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
		})
	})
}

func TestBridgeKeepsItsMAC(t *testing.T) {
	n := newNode(t)
	for i := range 3 {
		n.add(fmt.Sprint("c", i), newNS(t), nil)
		n.netlink(func() error {
			br, err := netlink.LinkByName("weave")
			if err == nil && (br.Attrs().HardwareAddr.String() != "0a:57:0a:20:05:01" || br.Attrs().Alias != "weaveguard") {
				t.Errorf("after %d pods: %s %q", i+1, br.Attrs().HardwareAddr, br.Attrs().Alias)
			}
			return err
		})
	}
}

func TestConcurrentAdds(t *testing.T) {
	n := newNode(t)
	const pods = 100
	addresses := make([]string, pods)
	sandboxes := make([]ns.NetNS, pods)
	for i := range pods {
		sandboxes[i] = newNS(t)
	}
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			out, err := n.run(call{verb: "ADD", container: fmt.Sprint("c", i), netns: sandboxes[i].Path(), stdin: n.config(nil)})
			if err != nil {
				t.Errorf("ADD %d: %v", i, err)
				return
			}
			addresses[i] = n.parse(out).IPs[0].Address.IP.String()
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	seen := make(map[string]bool)
	for i, address := range addresses {
		if seen[address] {
			t.Errorf("%s was given twice", address)
		}
		seen[address] = true
		if _, err := ping(sandboxes[i], netip.MustParseAddr("10.32.5.1"), 5*time.Second); err != nil {
			t.Errorf("pod %d can't reach its gateway: %v", i, err)
		}
	}
	for i := range pods {
		wg.Go(func() {
			if _, err := n.run(call{verb: "DEL", container: fmt.Sprint("c", i), netns: sandboxes[i].Path(), stdin: n.config(nil)}); err != nil {
				t.Errorf("DEL %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	n.wantNoLeftovers()
}

func TestReadyFile(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	ready := filepath.Join(t.TempDir(), "cni.json")
	stdin := n.config(map[string]any{"subnets": nil, "readyFile": ready})
	add := call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: stdin}
	status := call{verb: "STATUS", stdin: stdin}

	n.fails(add, 11, "isn't ready on this node yet", ready, "kubectl logs", "-c weave")
	n.fails(status, 50, "isn't ready on this node yet", "kubectl logs")
	n.wantNoLeftovers()

	if err := os.WriteFile(ready, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fails(add, 6, ready)
	n.fails(status, 50, ready)

	err := store.WriteReady(ready, store.Ready{Bridge: "wgtest", MTU: 1380,
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.33.0.0/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.33.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	n.fails(add, 11, "bridge weaveguard", "is missing", "kubectl logs")
	n.fails(status, 50, "bridge weaveguard", "is missing")
	n.wantNoLeftovers()
	n.guardNode()
	if _, err := n.run(status); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	out, err := n.run(add)
	if err != nil {
		t.Fatal(err)
	}
	r := n.parse(out)
	if got := fmt.Sprint(r.Interfaces[0].Name, r.IPs[0].Address.String(), r.IPs[0].Gateway, r.Interfaces[2].Mtu); got != "wgtest10.33.0.3/3210.33.0.1 1380" {
		t.Errorf("ADD by the ready file gave %s", got)
	}
	n.fails(call{verb: "ADD", container: "c2", netns: newNS(t).Path(), stdin: n.config(map[string]any{
		"subnets": nil, "readyFile": ready, "bridge": "other"})}, 7, "subnets", "wgtest", "other")
	if err := os.Remove(ready); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run(call{verb: "DEL", container: "c1", stdin: stdin}); err != nil {
		t.Errorf("DEL without the ready file: %v", err)
	}
	n.wantNoLeftovers()
}
