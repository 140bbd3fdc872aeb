package view

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// BridgeAlias is the mark of a bridge that is ours, as its interface alias (rtnetlink's IFLA_IFALIAS). The kernel
// sets an alias only after it has made the interface, so for a moment BridgeMAC is a new bridge's only mark.
const BridgeAlias = "weaveguard"

// Gateway returns the first usable address of a subnet (10.32.5.1 of 10.32.5.0/24, fd00::1 of fd00::/64): the
// address of its bridge, and every pod's gateway.
func Gateway(subnet netip.Prefix) netip.Addr {
	return subnet.Masked().Addr().Next()
}

// BridgeMAC returns the fixed MAC of the bridge with these gateway addresses, one at least. Without a fixed one the
// kernel gives a bridge the lowest MAC of its ports, which changes under the pods' neighbour caches when a pod comes
// or goes. It follows from the IPv4 gateway if there is one, in whatever order they come.
func BridgeMAC(gateways ...netip.Addr) net.HardwareAddr {
	for _, g := range gateways {
		if g.Unmap().Is4() {
			return addressMAC(g)
		}
	}
	return addressMAC(gateways[0])
}

// PodMAC returns the MAC of the pod interface with this first address. It follows from the address, so that
// neighbour caches stay right when an address is used again, and is unique on a bridge as addresses are.
func PodMAC(address netip.Addr) net.HardwareAddr { return addressMAC(address) }

// DerivedMAC reports whether a MAC is one that follows from an address, of whichever node.
func DerivedMAC(mac net.HardwareAddr) bool { return bytes.HasPrefix(mac, []byte(derivedMAC)) }

// derivedMAC begins them: locally administered, unicast.
const derivedMAC = "\x0a\x57"

// addressMAC is derivedMAC and the last four bytes of the address, which tell apart
// the addresses of any one subnet that a node can fill.
func addressMAC(address netip.Addr) net.HardwareAddr {
	b := address.Unmap().AsSlice()
	return append(net.HardwareAddr(derivedMAC), b[len(b)-4:]...)
}

// BridgeSysctls returns the kernel settings that a bridge of ours needs, beside forwarding: no frames through
// the IP firewall (with it the isolated ports drop what a Service redirects), no redirects out of it (the kernel
// takes the maximum of all and the bridge's), nothing learnt from what pods send to it, and no detection of duplicates of
// its link-local address: until that ends, for two seconds after its first port, no pod is asked for its MAC for what is
// forwarded to it (RFC 4862, section 5.4).
func BridgeSysctls(bridge string) []Sysctl {
	v4 := "net/ipv4/conf/" + bridge + "/"
	v6 := "net/ipv6/conf/" + bridge + "/"
	return []Sysctl{
		{Key: "net/bridge/bridge-nf-call-iptables", Value: "0", Optional: true},
		{Key: "net/bridge/bridge-nf-call-ip6tables", Value: "0", Optional: true},
		{Key: "net/bridge/bridge-nf-call-arptables", Value: "0", Optional: true},
		{Key: "net/ipv4/conf/all/send_redirects", Value: "0"},
		{Key: v4 + "send_redirects", Value: "0"},
		{Key: v4 + "accept_redirects", Value: "0"},
		{Key: v6 + "accept_redirects", Value: "0", Optional: true},
		{Key: v6 + "accept_ra", Value: "0", Optional: true},
		{Key: v6 + "accept_dad", Value: "0", Optional: true},
	}
}

// ForeignBridge reports whose an interface with the name of our bridge is when it isn't ours: an error that says
// what it looks like and what to do. It returns nil for a bridge of ours, which has BridgeAlias, or mac and no
// alias (one that was being made). Addresses are those of the interface.
func ForeignBridge(link HostLink, addresses []netip.Prefix, mac net.HardwareAddr) error {
	if link.Kind == "bridge" {
		if link.Alias == BridgeAlias || link.Alias == "" && bytes.Equal(link.MAC, mac) {
			return nil
		}
	}
	looks := looksLike(link, addresses)
	remedy := fmt.Sprintf("remove it (`ip link delete %s`) if nothing uses it, or give Weaveguard another bridge name",
		link.Name)
	if strings.HasPrefix(looks, "Weave Net") {
		remedy = "move this node as docs/weave-net.md says: drain it, end Weave Net on it (with Kubernetes " + EndWeaveNet("NODE") +
			", without it `weave stop`), then run `weaveguard-agent cleanup --weave-net` there; removing the bridge alone isn't enough, " +
			"as rules of Weave Net would go on dropping what pods are sent"
	}
	return fmt.Errorf("the interface %s isn't Weaveguard's (a bridge of its own has the alias %q): it looks like "+
		"%s; %s", link.Name, BridgeAlias, looks, remedy)
}

// looksLike names the likely owner of an interface, with what gives it away.
func looksLike(link HostLink, addresses []netip.Prefix) string {
	for _, port := range link.Ports {
		if strings.HasPrefix(port, "vethwe") {
			return fmt.Sprintf("Weave Net's bridge (its port %s)", port)
		}
	}
	has := ""
	if len(addresses) > 0 {
		has = fmt.Sprintf(" with the address %v", addresses[0])
	}
	switch {
	case link.Kind == "openvswitch":
		return "Weave Net's fast datapath (an Open vSwitch datapath)"
	case link.Kind == "bridge" && link.Alias != "":
		return fmt.Sprintf("a bridge that somebody named %q%s", link.Alias, has)
	case link.Kind == "bridge" && link.Name == BridgeName && len(addresses) > 0:
		return "Weave Net's bridge, by its name," + has
	case link.Kind == "bridge":
		return fmt.Sprintf("another program's bridge with %d ports%s", len(link.Ports), has)
	case link.Kind == "":
		return "a physical interface" + has
	}
	return fmt.Sprintf("a %s interface%s", link.Kind, has)
}
