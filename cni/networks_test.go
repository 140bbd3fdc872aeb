package cni_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/cni/store"
)

// networked is a node whose agent has the default network, and the networks blue, which is to reach red, and red, which has both
// families.
type networked struct {
	*node
	ready string
}

func newNetworked(t *testing.T) networked {
	t.Helper()
	n := networked{newNode(t), filepath.Join(t.TempDir(), "cni.json")}
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	err := store.WriteReady(n.ready, store.Ready{
		Bridge: "weave", MTU: 1400, Subnets: []netip.Prefix{p("10.32.5.0/24")}, Gateways: []netip.Addr{a("10.32.5.1")},
		Networks: []store.ReadyNetwork{
			{Name: "blue", Bridge: "weave-blue", MTU: 1400, Subnets: []netip.Prefix{p("10.50.5.0/24")}, Gateways: []netip.Addr{a("10.50.5.1")},
				Ranges: []netip.Prefix{p("10.50.0.0/16")}, Reached: []netip.Prefix{p("10.60.0.0/16"), p("fd60::/48")}},
			{Name: "red", Bridge: "weave-red", MTU: 1380, Subnets: []netip.Prefix{p("10.60.5.0/24"), p("fd60:0:0:5::/64")},
				Gateways: []netip.Addr{a("10.60.5.1"), a("fd60:0:0:5::1")}, Ranges: []netip.Prefix{p("10.60.0.0/16"), p("fd60::/48")}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.guardNode()
	return n
}

// network is the configuration by which a network is asked for: its name, and nothing else but where things are.
func (n networked) network(name string, changes map[string]any) []byte {
	n.Helper()
	all := map[string]any{"name": name, "subnets": nil, "readyFile": n.ready}
	for key, value := range changes {
		all[key] = value
	}
	return n.config(all)
}

// delegate calls a verb as a meta plugin does for one of a pod's networks.
func (n networked) delegate(verb, network, ifName string, sandbox ns.NetNS, changes map[string]any) ([]byte, error) {
	n.Helper()
	return n.run(call{verb: verb, container: "pod", netns: sandbox.Path(), ifName: ifName, stdin: n.network(network, changes)})
}

// attach attaches a sandbox to all three networks, and returns the results.
func (n networked) attach(sandbox ns.NetNS) map[string][]byte {
	n.Helper()
	results := map[string][]byte{}
	for _, to := range [][2]string{{"weaveguard", "eth0"}, {"blue", "net1"}, {"red", "net2"}} {
		out, err := n.delegate("ADD", to[0], to[1], sandbox, nil)
		if err != nil {
			n.Fatalf("ADD to %s: %v", to[0], err)
		}
		results[to[0]] = out
	}
	return results
}

// check calls CHECK with the result of ADD.
func (n networked) check(network, ifName string, sandbox ns.NetNS, result []byte) error {
	n.Helper()
	_, err := n.delegate("CHECK", network, ifName, sandbox, map[string]any{"prevResult": json.RawMessage(result)})
	return err
}

// routesOf are the routes of a sandbox's main table that have a gateway, as DESTINATION DEVICE METRIC.
func routesOf(t *testing.T, sandbox ns.NetNS) []string {
	t.Helper()
	var all []string
	in(t, sandbox, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			if r.Gw == nil {
				continue
			}
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return err
			}
			destination := "default"
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				destination = r.Dst.String()
			}
			all = append(all, fmt.Sprint(destination, " ", link.Attrs().Name, " ", r.Priority))
		}
		return err
	})
	slices.Sort(all)
	return all
}

// A pod gets one interface for each network, each by a call of its own: the default network has the default route, and each
// other one leads to its ranges, and behind those that are on a network themselves, to networks that it reaches.
func TestPodOnSeveralNetworks(t *testing.T) {
	n, sandbox := newNetworked(t), newNS(t)
	results := n.attach(sandbox)
	want := []string{"10.50.0.0/16 net1 0", "10.60.0.0/16 net1 4096", "10.60.0.0/16 net2 0", "default eth0 0", "fd60::/48 net2 1024"}
	if got := routesOf(t, sandbox); !slices.Equal(got, want) {
		t.Errorf("the pod's routes are %q, want %q", got, want)
	}
	blue := n.parse(results["blue"])
	var described []string
	for _, i := range blue.Interfaces {
		described = append(described, i.Name)
	}
	for _, ip := range blue.IPs {
		described = append(described, ip.Address.String(), ip.Gateway.String())
	}
	for _, r := range blue.Routes {
		described = append(described, r.Dst.String()+" by "+r.GW.String())
	}
	host := store.ID{ContainerID: "pod", IfName: "net1"}.HostInterface()
	if got, want := strings.Join(described, ", "), "weave-blue, "+host+", net1, 10.50.5.2/32, 10.50.5.1, 10.50.0.0/16 by 10.50.5.1, "+
		"10.60.0.0/16 by 10.50.5.1"; got != want {
		t.Errorf("the result has %s, want %s", got, want)
	}
	for network, ifName := range map[string]string{"weaveguard": "eth0", "blue": "net1", "red": "net2"} {
		if err := n.check(network, ifName, sandbox, results[network]); err != nil {
			t.Errorf("CHECK of %s: %v", network, err)
		}
	}
	for _, gateway := range []string{"10.32.5.1", "10.50.5.1", "10.60.5.1", "fd60:0:0:5::1"} {
		if _, err := ping(sandbox, netip.MustParseAddr(gateway), 5*time.Second); err != nil {
			t.Errorf("the gateway %s: %v", gateway, err)
		}
	}
	s, err := store.Open(n.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := s.Get(store.ID{ContainerID: "pod", IfName: "net2"}); err != nil || a.Network != "red" || a.Bridge != "weave-red" {
		t.Errorf("stored is %+v, %v", a, err)
	}
}

// What is sent from an address of a network leaves by it, also to somebody whom another interface leads to.
func TestAnswersLeaveByTheirNetwork(t *testing.T) {
	n, sandbox := newNetworked(t), newNS(t)
	n.attach(sandbox)
	in(t, sandbox, func() error {
		for source, want := range map[string]string{"10.50.5.2": "net1", "10.60.5.2": "net2", "fd60:0:0:5::2": "net2", "10.32.5.2": "eth0"} {
			to := map[bool]string{true: "2001:db8::1", false: "192.0.2.1"}[strings.Contains(source, ":")]
			routes, err := netlink.RouteGetWithOptions(netip.MustParseAddr(to).AsSlice(), &netlink.RouteGetOptions{SrcAddr: netip.MustParseAddr(source).AsSlice()})
			if err != nil {
				return err
			}
			if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err != nil || link.Attrs().Name != want {
				t.Errorf("from %s to %s it leaves by %v, %v; want %s", source, to, link, err, want)
			}
		}
		return nil
	})
}

func TestCheckOfNetworks(t *testing.T) {
	n, sandbox := newNetworked(t), newNS(t)
	results := n.attach(sandbox)
	for what, spoil := range map[string]func() error{
		"route to 10.60.0.0/16": func() error {
			return deleteRoutes(func(r netlink.Route) bool { return r.Dst.String() == "10.60.0.0/16" })
		},
		"sent from fd60:0:0:5::2": func() error { return deleteRules(netlink.FAMILY_V6, "fd60:0:0:5::2/128") },
		"sent from 10.60.5.2":     func() error { return deleteRules(netlink.FAMILY_V4, "10.60.5.2/32") },
	} {
		in(t, sandbox, spoil)
		if err := n.check("red", "net2", sandbox, results["red"]); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("CHECK without the %s: %v", what, err)
		}
	}
	for network, ifName := range map[string]string{"weaveguard": "eth0", "blue": "net1"} {
		if err := n.check(network, ifName, sandbox, results[network]); err != nil {
			t.Errorf("CHECK of %s: %v", network, err)
		}
	}
}

func deleteRoutes(which func(netlink.Route) bool) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if err == nil && r.Dst != nil && which(r) {
			err = netlink.RouteDel(&r)
		}
	}
	return err
}

func deleteRules(family int, source string) error {
	rules, err := netlink.RuleList(family)
	for _, r := range rules {
		if err == nil && r.Src != nil && r.Src.String() == source {
			r.Family = family
			err = netlink.RuleDel(&r)
		}
	}
	return err
}

// DEL and GC of one network leave the others'.
func TestDetachFromOneNetwork(t *testing.T) {
	n, sandbox := newNetworked(t), newNS(t)
	results := n.attach(sandbox)
	if _, err := n.delegate("DEL", "blue", "net1", sandbox, nil); err != nil {
		t.Fatal(err)
	}
	red := func() error { return n.check("red", "net2", sandbox, results["red"]) }
	if err := red(); err != nil {
		t.Errorf("CHECK of red after DEL of blue: %v", err)
	}
	result, err := n.delegate("ADD", "blue", "net1", sandbox, nil) // the sandbox still has the former one's rule
	if err != nil {
		t.Fatal(err)
	}
	if err := n.check("blue", "net1", sandbox, result); err != nil {
		t.Errorf("CHECK of blue that was attached again: %v", err)
	}
	if _, err := n.run(call{verb: "GC", stdin: n.network("blue", map[string]any{"cni.dev/valid-attachments": []any{}})}); err != nil {
		t.Fatal(err)
	}
	if err := red(); err != nil {
		t.Errorf("CHECK of red after GC of blue: %v", err)
	}
	if err := n.check("weaveguard", "eth0", sandbox, results["weaveguard"]); err != nil {
		t.Errorf("CHECK of the default network after GC of blue: %v", err)
	}
	if err := n.check("blue", "net1", sandbox, result); err == nil {
		t.Error("GC left blue's attachment")
	}
	for _, to := range [][2]string{{"red", "net2"}, {"weaveguard", "eth0"}} {
		if _, err := n.delegate("DEL", to[0], to[1], sandbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	n.wantNoLeftovers()
}

// Whoever asks for a network gets that one or none.
func TestWhichNetwork(t *testing.T) {
	n := newNetworked(t)
	file := map[string]any{"bridge": "weave-blue", "subnets": []string{"10.50.5.0/24"}, "ranges": []string{"10.50.0.0/16"}, "reaches": []string{"red"}}
	with := func(key string, value any) map[string]any {
		changed := map[string]any{}
		for k, v := range file {
			changed[k] = v
		}
		changed[key] = value
		return changed
	}
	for i, tt := range []struct {
		what    string
		name    string
		changes map[string]any
		bridge  string // "": an error
		code    uint
		words   []string
	}{
		{"by its name", "blue", nil, "weave-blue", 0, nil},
		{"as in its file", "blue", file, "weave-blue", 0, nil},
		{"the default by its name", "weaveguard", nil, "weave", 0, nil},
		{"the default by its bridge", "mynet", map[string]any{"bridge": "weave"}, "weave", 0, nil},
		{"one that isn't here", "green", nil, "", 11, []string{"network green isn't ready on this node", "weaveguard status", `"weave"`}},
		{"a file of one that isn't here", "green", file, "", 11, []string{"network green isn't ready"}},
		{"another bridge", "blue", with("bridge", "weave-red"), "", 7, []string{"key bridge", "weave-red", "weave-blue", "network blue"}},
		{"the default's bridge", "blue", map[string]any{"bridge": "weave"}, "", 7, []string{"key bridge", "weave-blue"}},
		{"another subnet", "blue", with("subnets", []string{"10.50.6.0/24"}), "", 7, []string{"key subnets", "10.50.6.0/24", "10.50.5.0/24"}},
		{"another range", "blue", with("ranges", []string{"10.0.0.0/8"}), "", 7, []string{"key ranges", "10.0.0.0/8", "10.50.0.0/16"}},
		{"its subnets alone", "blue", map[string]any{"subnets": []string{"10.50.5.0/24"}}, "weave-blue", 0, nil},
		{"another subnet alone", "blue", map[string]any{"subnets": []string{"10.50.6.0/24"}}, "", 7, []string{"key subnets", "10.50.6.0/24"}},
		{"no range", "blue", with("ranges", []string{"blue"}), "", 7, []string{"key ranges"}},
		{"another network's bridge", "mynet", map[string]any{"bridge": "weave-red"}, "", 7, []string{"subnets", "weave-red"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			c := call{verb: "ADD", container: fmt.Sprint("c", i), netns: newNS(t).Path(), ifName: "net1", stdin: n.network(tt.name, tt.changes)}
			status := call{verb: "STATUS", stdin: c.stdin}
			if tt.bridge == "" {
				n.fails(c, tt.code, tt.words...)
				n.fails(status, map[bool]uint{true: 50, false: tt.code}[tt.code == 11], tt.words...)
				return
			}
			if _, err := n.run(status); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			out, err := n.run(c)
			if err != nil {
				t.Fatal(err)
			}
			if got := n.parse(out).Interfaces[0].Name; got != tt.bridge {
				t.Errorf("the bridge is %s, want %s", got, tt.bridge)
			}
		})
	}
}

// The same through libcni, in each version: a configuration of a network that says nothing but its name.
func TestNetworksByLibcni(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n, sandbox := newNetworked(t), newNS(t)
			cni := libcni.NewCNIConfigWithCacheDir([]string{binDir}, t.TempDir(), nil)
			var detach []func() error
			for i, name := range []string{"blue", "red"} {
				conf, err := libcni.NetworkPluginConfFromBytes(n.network(name, map[string]any{"cniVersion": version}))
				if err != nil {
					t.Fatal(err)
				}
				rc := &libcni.RuntimeConf{ContainerID: "pod", NetNS: sandbox.Path(), IfName: fmt.Sprint("net", i)}
				var result types.Result
				in(t, n.ns, func() error { result, err = cni.AddNetwork(t.Context(), conf, rc); return err })
				if result.Version() != version {
					t.Errorf("the result is of version %s", result.Version())
				}
				if version != "0.3.1" {
					in(t, n.ns, func() error { return cni.CheckNetwork(t.Context(), conf, rc) })
				}
				detach = append(detach, func() error { return cni.DelNetwork(t.Context(), conf, rc) })
			}
			for _, del := range detach {
				in(t, n.ns, del)
			}
			n.wantNoLeftovers()
		})
	}
}
