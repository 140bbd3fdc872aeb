package contract

import (
	"bytes"
	"math"
	"net"
	"net/netip"
)

// BridgeAlias is the mark of a bridge that is ours, as its interface alias (rtnetlink's IFLA_IFALIAS). The kernel
// sets an alias only after it has made the interface, so for a moment BridgeMAC is a new bridge's only mark.
const BridgeAlias = "weaveguard"

// Gateway returns the first usable address of a subnet (10.32.5.1 of 10.32.5.0/24, fd00::1 of fd00::/64): the
// address of its bridge, and every pod's gateway.
func Gateway(subnet netip.Prefix) netip.Addr {
	return subnet.Masked().Addr().Next()
}

// PodAddresses is how many addresses of a node's subnet pods can have: not the network's own, not the gateway's, and of IPv4
// not the broadcast address. At most 2^63-1: larger is said as that.
func PodAddresses(subnet netip.Prefix) uint64 {
	bits, taken := subnet.Addr().BitLen()-subnet.Bits(), uint64(2)
	if subnet.Addr().Is4() {
		taken++
	}
	switch {
	case bits < 2: // the plugin takes none that small
		return 0
	case bits >= 63:
		return math.MaxInt64
	}
	return 1<<bits - taken
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

// Sysctl is a kernel setting, its key with slashes as under /proc/sys.
type Sysctl struct {
	Key   string
	Value string
	// Optional settings exist only with some modules: one that is absent is left alone.
	Optional bool
	// From, when set, is the only value that is replaced: with any other the setting is left alone.
	From string
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
