package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// unreachableMetric puts the routes that fail closed behind every other route of the same destination.
const unreachableMetric = 4096

// planRoutes plans the routes to the other nodes' pods of each network that this node has too, and behind them the ones
// that fail closed.
func (p *planner) planRoutes() {
	for _, n := range p.networks {
		sources := map[bool]netip.Addr{}
		for _, g := range n.gateways() {
			sources[g.Is4()] = g
		}
		for _, w := range p.ways {
			for _, cidr := range p.partOf(n, w.node) {
				source, ok := sources[cidr.Addr().Is4()]
				if !ok {
					continue // without an address of the family there is nobody here to send
				}
				p.out.Routes = append(p.out.Routes, view.Route{Destination: cidr, Device: w.device, Source: source, MTU: w.mtu})
			}
		}
	}
	for _, r := range p.ranges {
		p.out.Routes = append(p.out.Routes, view.Route{Destination: r, Metric: unreachableMetric})
	}
	slices.SortFunc(p.out.Routes, func(a, b view.Route) int {
		return cmp.Or(comparePrefixes(a.Destination, b.Destination), strings.Compare(a.Device, b.Device))
	})
}

// podRanges are the default network's ranges that only tunnels and bridges may carry: those that are known, and every pod
// CIDR in use. A range that this host itself has an address in can't be closed as a whole; only the pod CIDRs in it are.
// Where a route of the host leads into a range, one that was configured stays closed, and says so; one that was only
// seen, as the pod CIDR of some Node, isn't worth the host's own network.
func (p *planner) podRanges() []netip.Prefix {
	var ranges []netip.Prefix
	for _, r := range p.View.PodRanges {
		if why := p.underlayIn(r); why != "" {
			p.problem("pod range "+r.String(), "choose a pod range apart from the hosts' network (--pod-range)",
				"it contains %s, so only the nodes' own pod CIDRs in it fail closed", why)
			continue
		}
		if route, ok := p.routeInto(r); ok {
			if p.View.PodRangesSeen {
				p.warning("pod range "+r.String(), "start the agents with --pod-range and the cluster's whole pod range",
					"it was some Node's pod CIDR and doesn't fail closed, because of the route %s of this host", route)
				continue
			}
			p.problem("pod range "+r.String(), "choose a pod range apart from the hosts' network (--pod-range)",
				"this host's traffic by the route %s is dropped, because only pods may have addresses there", route)
		}
		ranges = append(ranges, r.Masked())
	}
	for _, cidrs := range p.cidrs {
		ranges = append(ranges, cidrs...)
	}
	return mergePrefixes(ranges)
}

// routeInto finds a route that isn't ours and leads to all or part of a range.
func (p *planner) routeInto(r netip.Prefix) (view.HostRoute, bool) {
	for _, route := range p.Host.Routes {
		if !p.ours(route.Device) && route.Destination.Bits() >= r.Bits() && route.Destination.Overlaps(r) {
			return route, true
		}
	}
	return view.HostRoute{}, false
}

// underlayIn names an address of this host in the range, if there is one.
func (p *planner) underlayIn(r netip.Prefix) string {
	for _, a := range p.Host.Addresses {
		if !p.ours(a.Device) && r.Contains(a.Address.Addr()) {
			return fmt.Sprintf("this host's address %s on %s", a.Address.Addr(), a.Device)
		}
	}
	for _, a := range p.View.Self.Addresses {
		if r.Contains(a) {
			return fmt.Sprintf("this host's address %s", a)
		}
	}
	return ""
}

// mergePrefixes sorts prefixes and leaves out those inside others.
func mergePrefixes(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, comparePrefixes)
	var merged []netip.Prefix
	for _, prefix := range prefixes {
		if len(merged) > 0 && merged[len(merged)-1].Overlaps(prefix) {
			continue
		}
		merged = append(merged, prefix)
	}
	return merged
}

// comparePrefixes orders by address, and of one address the wider first.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
