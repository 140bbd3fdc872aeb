package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/plan"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// colour is a network as node n has it: 10.X.n.0/24 and fd50:X:0:n::/64.
func colour(name string, x, n int, reaches ...string) view.Network {
	return view.Network{
		Name: name, Bridge: "weave-" + name, Reaches: reaches,
		Ranges: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", x)), netip.MustParsePrefix(fmt.Sprintf("fd50:%d::/48", x))},
		CIDRs:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", x, n)), netip.MustParsePrefix(fmt.Sprintf("fd50:%d:0:%d::/64", x, n))},
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// coloured is a mesh of three nodes: all have the network blue, the first two have red, and the last has green.
func coloured() plan.Input {
	in := mesh(3)
	in.View.Self.Networks = []view.Network{colour("blue", 50, 1), colour("red", 60, 1)}
	in.View.Peers[0].Networks = []view.Network{colour("blue", 50, 2), colour("red", 60, 2)}
	in.View.Peers[1].Networks = []view.Network{colour("blue", 50, 3), colour("green", 70, 3)}
	return in
}

func TestGoldenOfNetworks(t *testing.T) {
	t.Parallel()
	bridge := func(name string, ports ...string) contract.HostLink {
		return contract.HostLink{Name: name, Kind: "bridge", Alias: contract.BridgeAlias, MTU: 1440, Ports: ports}
	}
	cases := map[string]plan.Input{
		"networks": coloured(),
		"networks-that-reach": with(coloured(), func(in *plan.Input) {
			in.View.Self.Networks = []view.Network{colour("blue", 50, 1), colour("green", 70, 1, "default"), colour("red", 60, 1, "blue", "pink")}
		}),
		"networks-in-rotation": with(coloured(), func(in *plan.Input) {
			in.View.Self.Generations = generations(1, 0, 1)
			in.View.Links = []view.LinkState{
				{Device: "weave-wg0", Own: key(1, 0), PublicKey: key(2, 0), Confirmed: true, Established: true},
				{Device: "weave-wg2", Own: key(1, 1), PublicKey: key(2, 0), Confirmed: true, Established: true},
			}
		}),
		"networks-of-other-mtus": with(coloured(), func(in *plan.Input) {
			in.Host.PathMTU = map[netip.Addr]int{address4(2): 1500, address4(3): 1400}
			in.Host.Links = append(in.Host.Links, bridge("weave-red", "wvnarrow"), contract.HostLink{Name: "wvnarrow", Kind: "veth", MTU: 1328})
		}),
		// Of the bridges of ours that no network has, weave-red is held by pods of a network that was closed here, weave-pink by those of
		// one that another node still has, and weave-old by those of the default network before it had another bridge; weave-own is
		// of no network.
		"networks-left-behind": with(coloured(), func(in *plan.Input) {
			in.View.Self.Networks = in.View.Self.Networks[:1]
			in.Host.Links = append(in.Host.Links, bridge("weave-red", "wv1", "wv2"), bridge("weave-empty"), bridge("weave-old", "wv3"),
				bridge("weave-pink", "wv4"), bridge("weave-own", "wv5"))
			in.View.Peers[1].Networks = append(in.View.Peers[1].Networks, colour("pink", 90, 3))
			in.Host.Closed = prefixes("10.50.0.0/16", "10.60.0.0/16", "10.80.0.0/16", "10.244.0.0/16", "fd50:50::/48")
			for device, address := range map[string]string{"weave-red": "10.60.1.1/24", "weave-empty": "10.80.1.1/24", "weave-old": "10.244.9.1/24",
				"weave-pink": "10.90.1.1/24", "weave-own": "192.168.1.1/24"} {
				in.Host.Addresses = append(in.Host.Addresses, view.HostAddress{Device: device, Address: netip.MustParsePrefix(address)})
			}
			slices.SortFunc(in.Host.Addresses, func(a, b view.HostAddress) int { return a.Address.Compare(b.Address) })
			in.Host.Addresses = append(in.Host.Addresses, view.HostAddress{Device: "weave-red", Address: netip.MustParsePrefix("fe80::1/64")})
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{Destination: netip.MustParsePrefix("10.60.1.0/24"), Device: "weave-red"})
		}),
		"networks-without-pod-cidr": with(coloured(), func(in *plan.Input) { in.View.Self.PodCIDRs = nil }),
		"network-clashes": with(coloured(), func(in *plan.Input) {
			in.View.Self.Networks = append(in.View.Self.Networks, colour("teal", 244, 7), colour("white", 80, 1), colour("yellow", 90, 1))
			in.Host.Links = append(in.Host.Links, contract.HostLink{Name: "weave-blue", Kind: "bridge", Ports: []string{"eth1"}}, bridge("weave-gone", "wv1"))
			in.Host.Addresses = append(in.Host.Addresses, view.HostAddress{Device: "eth2", Address: netip.MustParsePrefix("10.60.200.1/24")},
				view.HostAddress{Device: "weave-gone", Address: netip.MustParsePrefix("10.90.4.1/24")})
			in.Host.Closed = prefixes("10.90.0.0/18")
			in.Host.Routes = append(in.Host.Routes, view.HostRoute{Destination: netip.MustParsePrefix("10.80.128.0/24"), Device: "eth1"})
		}),
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, in.String()+"---\n"+plan.Make(in).String())
		})
	}
}
