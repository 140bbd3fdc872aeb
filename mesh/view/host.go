package view

import (
	"net"
	"net/netip"
)

// Host is what this node's kernel shows of links, addresses and routes, as far as plans depend on it.
type Host struct {
	Links     []HostLink
	Addresses []HostAddress
	Routes    []HostRoute
	// Closed are the destinations of our own unreachable routes: ranges of networks that this node has, or had, sorted.
	Closed []netip.Prefix
	// PathMTU is the MTU in bytes of the outgoing route to an endpoint, IP header included.
	PathMTU map[netip.Addr]int
	// Probed is what probes found that the way to an endpoint carries, in bytes with the IP header. What nobody answered
	// probes on has no entry.
	Probed map[netip.Addr]int
}

// HostLink is a network interface.
type HostLink struct {
	Name  string
	Kind  string // rtnetlink's IFLA_INFO_KIND: bridge, wireguard, tun, veth, …; "" for a physical one
	Alias string // IFLA_IFALIAS
	MAC   net.HardwareAddr
	MTU   int      // bytes
	Ports []string // of a bridge: the names of its ports
}

// HostAddress is an address of an interface, with the length of its subnet.
type HostAddress struct {
	Device  string
	Address netip.Prefix // not masked
}

// HostRoute is a route of the main table that isn't ours.
type HostRoute struct {
	Destination netip.Prefix
	Device      string
	Gateway     netip.Addr // zero: on link
	Protocol    int
}
