package contract

import (
	"net"
	"net/netip"
)

// BridgeAlias is the mark of a bridge that is ours, as its interface alias (rtnetlink's IFLA_IFALIAS). The kernel
// sets an alias only after it has made the interface, so for a moment BridgeMAC is a new bridge's only mark.
const BridgeAlias = "weaveguard"

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
