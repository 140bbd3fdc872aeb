package attach_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// withNetworks is a node that is ready for the networks of these names too.
func withNetworks(names ...string) *view.Ready {
	r := ready()
	for _, name := range names {
		r.Networks = append(r.Networks, view.ReadyNetwork{
			Name: name, Bridge: "weave-" + name, Subnets: []netip.Prefix{netip.MustParsePrefix("10.50.5.0/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.50.5.1")}, Ranges: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}, MTU: 1400,
		})
	}
	return r
}

// hold stores an attachment of a pod to a network; to the default one and such as only the plugin knows, without ranges.
func hold(t *testing.T, dir, pod, network, bridge string) {
	t.Helper()
	id := store.ID{ContainerID: "c-" + pod + network, IfName: "net1"}
	a := store.Attachment{ID: id, Network: network, Bridge: bridge, PodNamespace: "shop", PodName: pod}
	if network == "blue" || network == "red" {
		a.Ranges = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}
	}
	keep(t, dir, a)
}

func TestReadyFileHasTheNetworks(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, withNetworks("blue", "red"), 4)
	apply(t, a, withNetworks("blue", "red"), 0)
	got, err := store.ReadReady(cfg.ReadyFile)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := got.Network("red"); !ok || n.Bridge != "weave-red" || len(got.Networks) != 2 {
		t.Errorf("the ready file has %+v", got)
	}
	other := withNetworks("blue", "red")
	other.Networks[1].Reached = []netip.Prefix{netip.MustParsePrefix("10.60.0.0/16")}
	apply(t, a, other, 1)
	apply(t, a, withNetworks("blue"), 1)
	apply(t, a, ready(), 1)
}

// The pods that hold a network which this node doesn't have any more are named, until they are gone.
func TestPodsOnNetworksThatAreGone(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	hold(t, cfg.StoreDir, "till", "blue", "weave-blue")
	hold(t, cfg.StoreDir, "cart", "red", "weave-red")
	hold(t, cfg.StoreDir, "till", "red", "weave-red")
	hold(t, cfg.StoreDir, "till", "weaveguard", "weave")
	hold(t, cfg.StoreDir, "till", "own", "own-bridge")
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("before it is known what this node has there are %v", problems)
	}
	apply(t, a, withNetworks("blue", "red"), 4)
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("with both networks there are %v", problems)
	}
	apply(t, a, withNetworks("blue"), 1)
	problems := a.Problems()
	if len(problems) != 1 || problems[0].Subject != "network red" || !problems[0].Warning || problems[0].Remedy == "" ||
		!strings.Contains(problems[0].Message, "shop/cart (net1), shop/till (net1); its bridge weave-red stays") {
		t.Errorf("without red there are %v", problems)
	}
	for _, pod := range []string{"a", "b", "c", "d", "e", "f"} {
		hold(t, cfg.StoreDir, pod, "red", "weave-red")
	}
	apply(t, a, withNetworks("blue"), 0)
	if problems := a.Problems(); len(problems) != 1 || !strings.Contains(problems[0].Message, "shop/cart (net1), shop/d (net1) and 3 more") {
		t.Errorf("with eight pods there are %v", problems)
	}
}

// A bridge that another network has now is none of theirs.
func TestPodsWhoseBridgeAnotherNetworkHas(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	hold(t, cfg.StoreDir, "till", "red", "weave-blue")
	apply(t, a, withNetworks("blue"), 4)
	problems := a.Problems()
	if len(problems) != 1 || problems[0].Subject != "network red" || !strings.Contains(problems[0].Message, "this node doesn't have it") {
		t.Errorf("there are %v", problems)
	}
}

// The pods that a node was given another pod CIDR under, as when its Node is made again, are named, and no pod is attached
// beside them: the others, when they get an address of theirs, would be the same as these.
func TestPodsOfAFormerPodCIDR(t *testing.T) {
	cfg := host(t)
	present := []net.Interface{{Name: "lo"}}
	cfg.Interfaces = func() ([]net.Interface, error) { return present, nil }
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	old := store.Attachment{
		ID: store.ID{ContainerID: "c1", IfName: "eth0"}, Network: contract.DefaultCNINetwork, Bridge: "weave", HostIfName: "lo",
		PodNamespace: "shop", PodName: "till", Addresses: []netip.Addr{netip.MustParseAddr("10.32.5.7")},
	}
	other := old // by a configuration of somebody's own
	other.ID.ContainerID, other.Network, other.Addresses = "c2", "own", []netip.Addr{netip.MustParseAddr("192.168.7.7")}
	keep(t, cfg.StoreDir, old)
	keep(t, cfg.StoreDir, other)
	apply(t, a, ready(), 0)
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("at first there are %v", problems)
	}
	moved := ready()
	moved.Subnets, moved.Gateways = []netip.Prefix{netip.MustParsePrefix("10.32.6.0/24")}, []netip.Addr{netip.MustParseAddr("10.32.6.1")}
	apply(t, a, moved, 1)
	if a.Open() != nil {
		t.Error("pods can be attached beside those with addresses of the former pod CIDR")
	}
	problems := a.Problems()
	if len(problems) != 1 || problems[0].Subject != "pods" || problems[0].Warning || !strings.Contains(problems[0].Message, "10.32.6.0/24 now") ||
		!strings.Contains(problems[0].Message, "shop/till (eth0);") {
		t.Errorf("with another pod CIDR there are %v", problems)
	}
	apply(t, a, moved, 0)
	present = nil // as the plugin has it
	drop(t, cfg.StoreDir, old.ID)
	apply(t, a, moved, 1)
	if open := a.Open(); open == nil || len(a.Problems()) > 0 {
		t.Errorf("without the old pod %v can be attached to, problems %v", open, a.Problems())
	}
}

// A network's subnet that was changed under its pods is said, with the pods; others are attached.
func TestPodsOfAFormerSubnet(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	keep(t, cfg.StoreDir, store.Attachment{
		ID: store.ID{ContainerID: "c1", IfName: "net1"}, Network: "blue", Bridge: "weave-blue", HostIfName: "lo",
		Addresses: []netip.Addr{netip.MustParseAddr("10.50.9.7")}, Ranges: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")},
	})
	apply(t, a, withNetworks("blue"), 4)
	problems := a.Problems()
	if len(problems) != 1 || problems[0].Subject != "network blue" || !problems[0].Warning ||
		!strings.Contains(problems[0].Message, "10.50.5.0/24 of it now, and pods have other addresses: container c1 (net1);") {
		t.Errorf("there are %v", problems)
	}
}
