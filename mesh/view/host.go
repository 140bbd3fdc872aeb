package view

import (
	"net/netip"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Host is what this node's kernel shows of links, addresses and routes, as far as plans depend on it.
type Host struct {
	Links     []contract.HostLink
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
