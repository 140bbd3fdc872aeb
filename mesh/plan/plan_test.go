package plan_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/plan"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

var update = flag.Bool("update", false, "write the golden files anew")

// key is the WireGuard key that node n has in a generation, readable enough in golden files.
func key(n int, generation uint32) keys.PublicKey {
	var k keys.PublicKey
	copy(k[:], fmt.Sprintf("node %d generation %d", n, generation))
	return k
}

func identity(n int) keys.PublicIdentity {
	var id keys.PublicIdentity
	copy(id[:], fmt.Sprintf("identity of node %d", n))
	return id
}

func generations(n int, numbers ...uint32) []record.Generation {
	var gs []record.Generation
	for _, number := range numbers {
		gs = append(gs, record.Generation{Number: number, Key: key(n, number)})
	}
	return gs
}

func prefix4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
}

func prefix6(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", n))
}

func address4(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}) }

func address6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n)) }

func node(n int) view.Node {
	return view.Node{
		Name: fmt.Sprintf("node-%03d", n), Identity: identity(n), Sequence: 1, Generations: generations(n, 0),
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(address4(n), contract.BasePort)},
		PodCIDRs:  []netip.Prefix{prefix4(n)}, Age: int64(n), Alive: true,
	}
}

// mesh is the input of node 1 in a mesh of so many nodes.
func mesh(nodes int) plan.Input {
	in := plan.Input{
		View: view.View{
			Self: view.Self{
				Name: "node-001", Identity: identity(1), Generations: generations(1, 0),
				PodCIDRs: []netip.Prefix{prefix4(1)}, Addresses: []netip.Addr{address4(1)},
				Bridge: contract.BridgeName, BasePort: contract.BasePort, Age: 1, WireGuard: "kernel",
			},
			PodRanges:      []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			PodRangeSource: "--pod-range",
		},
		Host: view.Host{
			Links:     []contract.HostLink{{Name: "lo", MTU: 65536}, {Name: "eth0", MTU: 1500}},
			Addresses: []view.HostAddress{{Device: "eth0", Address: netip.PrefixFrom(address4(1), 24)}},
			Routes: []view.HostRoute{
				{Destination: netip.MustParsePrefix("0.0.0.0/0"), Device: "eth0", Gateway: address4(254)},
				{Destination: netip.MustParsePrefix("192.0.2.0/24"), Device: "eth0"},
			},
			PathMTU: map[netip.Addr]int{},
		},
	}
	for n := 2; n <= nodes; n++ {
		in.View.Peers = append(in.View.Peers, node(n))
	}
	return in
}

func dualStack(nodes int) plan.Input {
	in := mesh(nodes)
	in.View.Self.PodCIDRs = append(in.View.Self.PodCIDRs, prefix6(1))
	in.View.Self.Addresses = append(in.View.Self.Addresses, address6(1))
	in.View.PodRanges = append(in.View.PodRanges, netip.MustParsePrefix("fd00:244::/32"))
	for i := range in.View.Peers {
		n := i + 2
		peer := &in.View.Peers[i]
		peer.PodCIDRs = append(peer.PodCIDRs, prefix6(n))
		peer.Endpoints = append(peer.Endpoints, netip.AddrPortFrom(address6(n), contract.BasePort))
	}
	return in
}

// with changes an input, so that a case is one line.
func with(in plan.Input, change func(*plan.Input)) plan.Input {
	change(&in)
	return in
}

func TestGolden(t *testing.T) {
	t.Parallel()
	cases := map[string]plan.Input{
		"one-node":        mesh(1),
		"two-nodes":       mesh(2),
		"three-nodes":     mesh(3),
		"hundred-nodes":   mesh(100),
		"dual-stack":      dualStack(3),
		"underlay-of-six": with(dualStack(2), sixOnly),
		"no-pod-cidr":     with(mesh(2), func(in *plan.Input) { in.View.Self.PodCIDRs = nil }),
		"claim-not-settled": with(mesh(2), func(in *plan.Input) {
			in.View.Self.Closed = &view.Problem{Subject: "node node-001", Message: "it claims 10.244.1.0/24", Remedy: "wait some seconds"}
		}),
		"tiny-pod-cidr": with(mesh(2), func(in *plan.Input) {
			in.View.Self.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("255.255.255.255/32")}
		}),
		"peer-without-cidr": with(mesh(3), func(in *plan.Input) { in.View.Peers[0].PodCIDRs = nil }),
		"waiting": with(mesh(2), func(in *plan.Input) {
			in.View.Waiting = []view.Waiting{{Name: "node-009", Reason: "nothing was heard of it yet"}}
		}),
		"overlapping-nodes": with(mesh(3), func(in *plan.Input) { in.View.Peers[1].PodCIDRs = in.View.Peers[0].PodCIDRs }),
		"overlap-with-self": with(mesh(2), func(in *plan.Input) {
			in.View.Self.Age, in.View.Peers[0].PodCIDRs = 9, in.View.Self.PodCIDRs
		}),
		"overlap-of-hosts": with(mesh(2), func(in *plan.Input) { // without Kubernetes
			in.View.Self.Age, in.View.Peers[0].Age, in.View.Peers[0].PodCIDRs = 0, 0, in.View.Self.PodCIDRs
		}),
		"route-inside-own-cidr": with(mesh(2), func(in *plan.Input) {
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{
				Destination: netip.MustParsePrefix("10.244.1.128/25"), Device: "tun7", Gateway: address4(77)})
		}),
		"route-around-peer-cidr": with(mesh(2), func(in *plan.Input) {
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{
				Destination: netip.MustParsePrefix("10.0.0.0/8"), Device: "eth1"})
		}),
		"seen-cidr-is-a-host-route": with(mesh(2), func(in *plan.Input) {
			in.View.PodRanges = []netip.Prefix{prefix4(1), prefix4(2), netip.MustParsePrefix("203.0.113.0/24")}
			in.View.PodRangesSeen = true
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{
				Destination: netip.MustParsePrefix("203.0.113.0/24"), Device: "eth0", Gateway: address4(254)})
		}),
		"host-route-in-pod-range": with(mesh(2), func(in *plan.Input) {
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{
				Destination: netip.MustParsePrefix("10.244.200.0/24"), Device: "eth1"})
		}),
		"endpoint-override": with(mesh(2), func(in *plan.Input) { in.View.Self.Endpoint = netip.MustParseAddr("198.51.100.7") }),
		"underlay-in-pod-range": with(mesh(2), func(in *plan.Input) {
			in.View.PodRanges = []netip.Prefix{netip.MustParsePrefix("192.0.0.0/8"), netip.MustParsePrefix("10.244.0.0/16")}
		}),
		"endpoint-in-pod-cidr": with(mesh(3), func(in *plan.Input) {
			in.View.Peers[1].Endpoints = []netip.AddrPort{netip.MustParseAddrPort("10.244.2.9:51820")}
		}),
		"weave-net-bridge": with(mesh(2), func(in *plan.Input) {
			in.Host.Links = append(in.Host.Links, contract.HostLink{
				Name: "weave", Kind: "bridge", Ports: []string{"vethwepl1234567"}})
		}),
		"foreign-tunnel-device": with(mesh(2), func(in *plan.Input) {
			in.Host.Links = append(in.Host.Links, contract.HostLink{Name: "weave-wg0", Kind: "dummy"})
		}),
		"copied-key-store": with(mesh(3), func(in *plan.Input) { in.View.Peers[1].Generations = generations(2, 0) }),
		"no-common-family": with(mesh(2), func(in *plan.Input) { in.View.Self.Addresses = []netip.Addr{address6(1)} }),
		"narrow-paths": with(mesh(3), func(in *plan.Input) {
			in.Host.PathMTU = map[netip.Addr]int{address4(2): 1500, address4(3): 1400}
		}),
		// Routes follow what probes found, and so do new pods when no way is wider; the device stays as it is.
		"probed-paths": with(mesh(4), func(in *plan.Input) {
			in.Host.PathMTU = map[netip.Addr]int{address4(2): 1500, address4(3): 1400, address4(4): 9000}
			in.View.Peers[2].MTU = 1500
			in.Host.Probed = map[netip.Addr]int{address4(2): 1388, address4(3): 1388, address4(4): 1292}
		}),
		// Pods that are there keep their MTU, and the bridge takes the narrowest of them.
		"pods-of-other-mtus": with(mesh(2), func(in *plan.Input) {
			in.Host.Links = append(in.Host.Links, contract.HostLink{Name: "weave", Kind: "bridge", Alias: contract.BridgeAlias, MTU: 1440,
				Ports: []string{"wvold", "wvnarrow"}},
				contract.HostLink{Name: "wvold", Kind: "veth", MTU: 1440}, contract.HostLink{Name: "wvnarrow", Kind: "veth", MTU: 1328},
				contract.HostLink{Name: "veth-of-others", Kind: "veth", MTU: 1000})
		}),
		"path-too-narrow-for-six": with(dualStack(3), func(in *plan.Input) {
			in.Host.Probed = map[netip.Addr]int{address4(2): 1292}
			in.Host.PathMTU = map[netip.Addr]int{address4(3): 1330}
			in.Host.Links = append(in.Host.Links, contract.HostLink{Name: "weave", Kind: "bridge", Alias: contract.BridgeAlias,
				Ports: []string{"wvtiny"}}, contract.HostLink{Name: "wvtiny", Kind: "veth", MTU: 1000})
		}),
		"established": with(mesh(3), func(in *plan.Input) {
			in.View.Links = []view.LinkState{{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Confirmed: true, Established: true}}
		}),
		"no-answer": with(mesh(3), func(in *plan.Input) {
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Attempt: 1},
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(3, 0), Overdue: true, Attempt: 4},
			}
		}),
		"peers-lost-their-sessions": with(mesh(3), func(in *plan.Input) {
			in.View.Self.Name, in.View.Peers[0].Name = "node-002", "node-001" // the one starts handshakes with this node, and this one with the other
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Met: true, Disowned: time.Unix(1000, 0)},
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(3, 0), Met: true, Disowned: time.Unix(1000, 0), Attempt: 1},
			}
		}),
		"second-name-waits": with(mesh(1), func(in *plan.Input) {
			in.View.Self.Name, in.View.Peers = "node-007", []view.Node{node(2), node(3)}
			in.View.Links = []view.LinkState{{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(3, 0), Overdue: true, Attempt: 4}}
		}),
		"pods-may-reach-metrics": with(dualStack(2), func(in *plan.Input) {
			in.View.Self.AllowPodsTo = []string{contract.ServiceMetrics}
			in.View.Self.OwnPorts = []view.OwnPort{{Service: contract.ServiceMetrics, Port: 9100}, {Service: contract.ServiceHealth, Port: 9101}, {Service: contract.ServiceUI, Port: 8080}}
			in.View.Self.Endpoint = netip.MustParseAddr("203.0.113.7")
		}),
		// Two addresses of a known node and one of a node without a record; the others can't be a node's.
		"further-addresses": with(dualStack(2), func(in *plan.Input) {
			in.View.Waiting = []view.Waiting{{Name: "node-003", Reason: "nothing was heard of it yet"}}
			for _, a := range []string{"0.0.0.0", "10.244.2.1", "10.244.77.7", "127.0.0.1", "192.0.2.2", "192.0.2.3", "198.51.100.2", "203.0.113.2",
				"224.0.0.1", "::", "::1", "2001:db8::3", "fd00:244::5", "ff02::1"} {
				in.View.NodeAddresses = append(in.View.NodeAddresses, netip.MustParseAddr(a))
			}
			in.View.NodeAddresses = append(in.View.NodeAddresses, netip.Addr{})
		}),
		"mtu-override":                   with(mesh(2), func(in *plan.Input) { in.View.Self.MTU = 1380 }),
		"mtu-override-too-small-for-six": with(dualStack(2), func(in *plan.Input) { in.View.Self.MTU = 1200 }),
		// The next key is there, and nobody is to know of it: its peers are silent.
		"rotation-prepared": with(mesh(3), func(in *plan.Input) {
			in.View.Self.Generations, in.View.Self.Unannounced = generations(1, 0, 1), true
			in.View.Peers[0].Generations = generations(2, 0, 1)
			in.View.Links = append(in.View.Links, view.LinkState{Device: "weave-wg2", Own: key(1, 1), PublicKey: key(3, 0), Overdue: true, Ripe: true})
		}),
		// A peer announces its next key: this end sets the link up, whoever has the smaller name, and traffic stays.
		"rotation-of-a-peer": with(mesh(2), func(in *plan.Input) {
			in.View.Self.Name, in.View.Peers[0].Generations = "node-007", generations(2, 0, 1)
			in.View.Links = []view.LinkState{{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Confirmed: true, Established: true}}
		}),
		// Both ends rotate: the smaller name starts the newest link, when its own end has stood for a moment.
		"rotation-of-both": with(mesh(3), func(in *plan.Input) {
			in.View.Self.Generations = generations(1, 0, 1)
			in.View.Peers[0].Generations, in.View.Peers[1].Generations = generations(2, 0, 1), generations(3, 0, 1)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Confirmed: true, Established: true},
				{Device: "weave-wg3", Own: key(1, 1), PublicKey: key(2, 1)},
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(3, 0), Confirmed: true, Established: true},
				{Device: "weave-wg3", Own: key(1, 1), PublicKey: key(3, 1), Ripe: true},
			}
		}),
		// Of two links that are as new, traffic takes the one of the peer's next key: it has been told so.
		"rotation-tie": with(mesh(2), func(in *plan.Input) {
			in.View.Self.Generations, in.View.Peers[0].Generations = generations(1, 0, 1), generations(2, 0, 1)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg1", Own: key(1, 0), PublicKey: key(2, 1), Confirmed: true, Established: true},
				{Device: "weave-wg2", Own: key(1, 1), PublicKey: key(2, 0), Confirmed: true, Established: true},
			}
		}),
		// After an agent's start with a wrong clock all sessions look old: traffic stays where it can have been last.
		"rotation-by-a-wrong-clock": with(mesh(2), func(in *plan.Input) {
			in.View.Peers[0].Generations = generations(2, 0, 1)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Met: true},
				{Device: "weave-wg1", Own: key(1, 0), PublicKey: key(2, 1), Met: true},
			}
		}),
		// A session that a device has of another key is none of the link's.
		"session-of-another-key": with(mesh(2), func(in *plan.Input) {
			in.View.Peers[0].Generations = generations(2, 0, 1)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Confirmed: true, Established: true},
				{Device: "weave-wg1", Own: key(1, 9), PublicKey: key(2, 1), Confirmed: true, Established: true},
			}
		}),
		"two-generations": with(mesh(3), func(in *plan.Input) {
			in.View.Self.Generations = generations(1, 4, 5)
			in.View.Peers[0].Generations = generations(2, 7, 8)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg1", Own: key(1, 4), PublicKey: key(2, 7), Confirmed: true, Established: true},
				{Device: "weave-wg2", Own: key(1, 5), PublicKey: key(2, 8), Confirmed: true, Established: true},
			}
		}),
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, in.String()+"---\n"+plan.Make(in).String())
		})
	}
}

func sixOnly(in *plan.Input) {
	in.View.Self.Addresses = []netip.Addr{address6(1)}
	in.View.Peers[0].Endpoints = in.View.Peers[0].Endpoints[1:]
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with: go test ./mesh/plan -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the plan changed (-want +got):\n%s", diff)
	}
}

// The plan must not depend on the order of what it's given, and must leave its input alone.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	in := mesh(20)
	in.View.Peers[7].PodCIDRs = in.View.Peers[3].PodCIDRs
	before := in.String()
	want := plan.Make(in).String()
	if again := plan.Make(in).String(); again != want {
		t.Errorf("a second run gave another plan:\n%s", cmp.Diff(want, again))
	}
	if after := in.String(); after != before {
		t.Errorf("the input changed:\n%s", cmp.Diff(before, after))
	}
	slices.Reverse(in.Host.Routes)
	slices.Reverse(in.Host.Links)
	if got := plan.Make(in).String(); got != want {
		t.Errorf("the order of the host's routes matters:\n%s", cmp.Diff(want, got))
	}
}

// Both ends of every link must mean the same: A's port for B is where B sends, for any pair of generations.
func TestBothEndsAgree(t *testing.T) {
	t.Parallel()
	for a := range uint32(4) {
		for b := range uint32(4) {
			one, two := mesh(2), mesh(2)
			one.View.Self.Generations = generations(1, a)
			one.View.Peers[0].Generations = generations(2, b)
			two.View.Self = view.Self{
				Name: "node-002", Identity: identity(2), Generations: generations(2, b), PodCIDRs: []netip.Prefix{prefix4(2)},
				Addresses: []netip.Addr{address4(2)}, Bridge: contract.BridgeName, BasePort: contract.BasePort, Age: 2,
			}
			two.View.Peers = []view.Node{node(1)}
			two.View.Peers[0].Generations = generations(1, a)
			two.Host = view.Host{}
			planOne, planTwo := plan.Make(one), plan.Make(two)
			if len(planOne.Devices) != 1 || len(planTwo.Devices) != 1 {
				t.Fatalf("generations %d and %d: want one device each:\n%s%s", a, b, planOne, planTwo)
			}
			deviceOne, deviceTwo := planOne.Devices[0], planTwo.Devices[0]
			if got := deviceOne.Peers[0].Endpoint.Port(); got != deviceTwo.ListenPort {
				t.Errorf("generations %d and %d: node 1 sends to port %d, node 2 listens on %d", a, b, got, deviceTwo.ListenPort)
			}
			if got := deviceTwo.Peers[0].Endpoint.Port(); got != deviceOne.ListenPort {
				t.Errorf("generations %d and %d: node 2 sends to port %d, node 1 listens on %d", a, b, got, deviceOne.ListenPort)
			}
			if want := contract.DeviceName(int(2*(a%2) + b%2)); deviceOne.Name != want {
				t.Errorf("generations %d and %d: device %s, want %s", a, b, deviceOne.Name, want)
			}
		}
	}
}

// Whatever is wrong must be said by name, with what to do.
func TestProblemsHaveRemedies(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			said := strings.HasPrefix(line, "problem ") || strings.HasPrefix(line, "warning ")
			if said && !strings.Contains(line, "; ") {
				t.Errorf("%s: no remedy in: %s", file, line)
			}
		}
	}
}
