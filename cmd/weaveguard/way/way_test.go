package way_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/way"
	"github.com/weaveguard/weaveguard/mesh/view"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// kernel is a fake one, of node-1.
type kernel struct {
	routes  map[string]way.Route // by destination
	holders map[string]string    // by address
}

func (k kernel) Route(from, to netip.Addr, in string) (way.Route, error) {
	r, known := k.routes[to.String()]
	if !known {
		return way.Route{}, fmt.Errorf("the kernel isn't asked for the route from %s to %s by %q", from, to, in)
	}
	return r, nil
}

func (k kernel) Holder(address netip.Addr) (string, error) { return k.holders[address.String()], nil }

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func attached(pod, ifname string, addresses ...string) view.TopologyAttachment {
	at := view.TopologyAttachment{Namespace: "shop", Pod: pod, Interface: ifname}
	for _, a := range addresses {
		at.Addresses = append(at.Addresses, netip.MustParseAddr(a))
	}
	return at
}

// mesh is what the agent of node-1 knows: node-2 is up, and node-3 isn't; the networks blue and red reach each other, green none.
func mesh() (view.Status, view.Topology) {
	own := []view.Network{
		{Name: "blue", Bridge: "weave-blue", Ranges: prefixes("10.50.0.0/16"), CIDRs: prefixes("10.50.1.0/24"), Reaches: []string{"red"}},
		{Name: "green", Bridge: "weave-green", Ranges: prefixes("10.70.0.0/16"), CIDRs: prefixes("10.70.1.0/24")},
		{Name: "red", Bridge: "weave-red", Ranges: prefixes("10.60.0.0/16"), CIDRs: prefixes("10.60.1.0/24")},
	}
	s := view.Status{
		Node: "node-1", Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("[2001:db8::1]:51820")},
		PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:1::/64"), PodRanges: prefixes("10.244.0.0/16", "fd00:244::/32"), Networks: own,
		Peers: []view.PeerStatus{
			{Node: "node-2", Up: true, Endpoint: "192.0.2.2:51820", PodCIDRs: prefixes("10.244.2.0/24", "fd00:244:2::/64"), Networks: []view.Network{
				{Name: "blue", Ranges: prefixes("10.50.0.0/16"), CIDRs: prefixes("10.50.2.0/24")},
			}},
			{Node: "node-3", Reason: "no handshake for 4m0s: is the node down?", Endpoint: "192.0.2.3:51820", PodCIDRs: prefixes("10.244.3.0/24")},
		},
	}
	t := view.Topology{Node: "node-1", Nodes: []view.TopologyNode{
		{Name: "node-1", Self: true, Up: true, Endpoint: "192.0.2.1:51820", Networks: []view.TopologyNetwork{
			{Name: "default", CIDRs: s.PodCIDRs, Attachments: []view.TopologyAttachment{
				attached("web-0", "eth0", "10.244.1.7", "fd00:244:1::7"), attached("web-1", "eth0", "10.244.1.8"), attached("old-0", "eth0", "10.244.9.9"),
			}},
			{Name: "blue", CIDRs: own[0].CIDRs, Attachments: []view.TopologyAttachment{attached("web-0", "net1", "10.50.1.7")}},
			{Name: "green", CIDRs: own[1].CIDRs}, {Name: "red", CIDRs: own[2].CIDRs, Attachments: []view.TopologyAttachment{attached("red-0", "net1", "10.60.1.7")}},
		}},
		{Name: "node-2", Up: true, Endpoint: "192.0.2.2:51820", Networks: []view.TopologyNetwork{
			{Name: "default", CIDRs: prefixes("10.244.2.0/24", "fd00:244:2::/64"), Attachments: []view.TopologyAttachment{attached("db-0", "eth0", "10.244.2.7", "fd00:244:2::7")}},
			{Name: "blue", CIDRs: prefixes("10.50.2.0/24"), Attachments: []view.TopologyAttachment{attached("db-0", "net1", "10.50.2.7")}},
		}},
		{Name: "node-3", Endpoint: "192.0.2.3:51820", Stale: "it isn't here yet", Networks: []view.TopologyNetwork{{Name: "default", CIDRs: prefixes("10.244.3.0/24")}}},
	}}
	return s, t
}

func node1() kernel {
	out := way.Route{Device: "eth0", Gateway: netip.MustParseAddr("192.0.2.254"), Source: netip.MustParseAddr("192.0.2.1"), MTU: 1500}
	tunnel := way.Route{Device: "weave-wg0", MTU: 1440}
	return kernel{
		holders: map[string]string{
			"10.244.1.1": "weave", "fd00:244:1::1": "weave", "10.50.1.1": "weave-blue", "10.60.1.1": "weave-red", "10.70.1.1": "weave-green",
		},
		routes: map[string]way.Route{
			"10.244.1.8": {Device: "weave", MTU: 1440}, "10.244.1.99": {Device: "weave", MTU: 1440}, "10.60.1.7": {Device: "weave-red", MTU: 1440},
			"10.244.2.7": tunnel, "fd00:244:2::7": tunnel, "10.50.2.7": tunnel, "10.244.2.99": tunnel, "10.244.2.1": tunnel, "10.244.3.7": tunnel,
			"10.244.77.7": {Refused: "it is closed by a route for it"}, "10.244.78.8": out, "203.0.113.9": out, "198.51.100.1": {Refused: "network is unreachable"},
			"192.0.2.1": {Device: "lo", Local: true}, "10.244.1.1": {Device: "lo", Local: true}, "192.0.2.11": {Device: "lo", Local: true}, "fd00:244:2::1": tunnel, "192.0.2.2": {Device: "eth0", MTU: 1500, Source: netip.MustParseAddr("192.0.2.1")},
		},
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	s, topology := mesh()
	for name, ends := range map[string][2]string{
		"a pod of this node":                         {"shop/web-0", "web-1"},
		"an address of this node that no pod has":    {"shop/web-0", "10.244.1.99"},
		"a pod of another node":                      {"web-0", "10.244.2.7"},
		"a pod of another node by IPv6":              {"web-0", "fd00:244:2::7"},
		"a pod of another node by another network":   {"10.50.1.7", "db-0"},
		"an address of another node that no pod has": {"web-0", "10.244.2.99"},
		"another node's gateway":                     {"web-0", "10.244.2.1"},
		"a node that is down":                        {"web-0", "10.244.3.7"},
		"a pod range without a node":                 {"web-0", "10.244.77.7"},
		"a pod range that somebody's route has":      {"web-0", "10.244.78.8"},
		"out of the cluster":                         {"web-0", "203.0.113.9"},
		"nowhere":                                    {"web-0", "198.51.100.1"},
		"the node itself":                            {"web-0", "node-1"},
		"another node":                               {"web-0", "node-2"},
		"a network that is reached":                  {"10.50.1.7", "red-0"},
		"a network that isn't reached":               {"10.244.1.7", "red-0"},
		"a stray":                                    {"old-0", "web-1"},
		"from the node to a pod":                     {"node-1", "db-0"},
		"from the node out":                          {"node-1", "203.0.113.9"},
		"from the node to itself":                    {"node-1", "10.244.1.1"},
		"from a pod to a node by IPv6":               {"fd00:244:1::7", "node-2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to, found := way.Pair(way.Find(s, topology, ends[0]), way.Find(s, topology, ends[1]))
			if !found {
				t.Fatalf("there is no pair of %v", ends)
			}
			w, err := way.Trace(s, topology, node1(), from, to)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", ""), text(w))
		})
	}
}

// text is a way for people to read in a golden file.
func text(w way.Way) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s\n", w.From, w.To)
	for _, step := range w.Steps {
		fmt.Fprintf(&b, "- %s [device %q peer %q endpoint %q mtu %d]\n", step.Text, step.Device, step.Peer, step.Endpoint, step.MTU)
	}
	if w.Dropped != "" {
		fmt.Fprintf(&b, "DROPPED: %s\nremedy: %s\n", w.Dropped, w.Remedy)
	}
	return b.String()
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the way is\n%s\nwant\n%s", got, want)
	}
}

// Without a bridge there is no way, and what the kernel can't be asked is an error.
func TestTraceWithoutABridge(t *testing.T) {
	t.Parallel()
	s, topology := mesh()
	k := node1()
	delete(k.holders, "10.244.1.1")
	from, to, _ := way.Pair(way.Find(s, topology, "10.244.1.7"), way.Find(s, topology, "10.244.2.7"))
	w, err := way.Trace(s, topology, k, from, to)
	if err != nil || !strings.Contains(w.Dropped, "the bridge is missing") || w.Remedy == "" {
		t.Errorf("the way is %+v, %v", w, err)
	}
	k.holders["10.244.1.1"] = "weave"
	delete(k.routes, "10.244.2.7")
	if _, err := way.Trace(s, topology, k, from, to); err == nil {
		t.Error("no error of a kernel that can't be asked")
	}
}

func TestFindAndPair(t *testing.T) {
	t.Parallel()
	s, topology := mesh()
	for name, want := range map[string]string{
		"web-0": "shop/web-0 (10.244.1.7), shop/web-0 (fd00:244:1::7), shop/web-0 (10.50.1.7)", "shop/db-0": "shop/db-0 (10.244.2.7), shop/db-0 (fd00:244:2::7), shop/db-0 (10.50.2.7)",
		"node-3": "node node-3 (192.0.2.3), node node-3 (10.244.3.1)", "10.244.2.1": "node node-2 (10.244.2.1)", "fd00:244:1::1": "node node-1 (fd00:244:1::1)",
		"2001:db8::1": "node node-1 (2001:db8::1)", "192.0.2.2": "node node-2 (192.0.2.2)", "203.0.113.9": "203.0.113.9", "::ffff:203.0.113.9": "203.0.113.9",
		"nobody": "", "fe80::1%eth0": "", "other/web-0": "",
	} {
		var got []string
		for _, p := range way.Find(s, topology, name) {
			got = append(got, p.String())
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%q is %q, want %q", name, text, want)
		}
	}
	if _, _, found := way.Pair(way.Find(s, topology, "web-1"), way.Find(s, topology, "fd00:244:2::7")); found {
		t.Error("an IPv4 pod is paired with an IPv6 address")
	}
}

// An address that only the kernel knows to be this node's is the node.
func TestAtHome(t *testing.T) {
	t.Parallel()
	s, topology := mesh()
	for address, want := range map[string]string{"192.0.2.11": "node node-1 (192.0.2.11)", "203.0.113.9": "203.0.113.9", "192.0.2.2": "node node-2 (192.0.2.2)"} {
		if got, err := way.AtHome(node1(), topology, way.Find(s, topology, address)[0]); err != nil || got.String() != want {
			t.Errorf("%s is %s (%v), want %s", address, got, err, want)
		}
	}
}
