package route

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// Observe reads what plans depend on: all links and addresses, the routes of the main table that aren't ours
// (default routes and the kernel's own among them), and the MTU of the outgoing route to each endpoint. An
// endpoint without a route out of this node, or that is this node's own address, has no entry in PathMTU.
func (a *Applier) Observe(ctx context.Context, endpoints []netip.Addr) (view.Host, error) {
	var host view.Host
	links, err := readLinks()
	if err != nil {
		return host, err
	}
	for _, name := range links.names() {
		host.Links = append(host.Links, links.host(links.byName[name]))
	}
	if host.Addresses, err = hostAddresses(links); err != nil {
		return host, err
	}
	routes, err := listRoutes()
	if err != nil {
		return host, err
	}
	host.Closed = closedRanges(routes)
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Protocol == contract.RouteProtocol })
	host.Routes = hostRoutes(links, routes)
	host.PathMTU = make(map[netip.Addr]int, len(endpoints))
	for _, endpoint := range endpoints {
		if err := ctx.Err(); err != nil {
			return host, fmt.Errorf("reading the routes to endpoints: %w", err)
		}
		if mtu := pathMTU(links, routes, endpoint.Unmap()); mtu > 0 {
			host.PathMTU[endpoint] = mtu
		}
	}
	return host, nil
}

func hostAddresses(links links) ([]view.HostAddress, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var addresses []view.HostAddress
	for _, addr := range list {
		name := links.name(addr.LinkIndex)
		if prefix, ok := prefixOf(addr.IPNet); ok && name != "" {
			addresses = append(addresses, view.HostAddress{Device: name, Address: prefix})
		}
	}
	slices.SortFunc(addresses, func(a, b view.HostAddress) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Address.Compare(b.Address))
	})
	return addresses, nil
}

// closedRanges are the destinations of our unreachable routes.
func closedRanges(routes []netlink.Route) []netip.Prefix {
	var closed []netip.Prefix
	for _, r := range routes {
		if destination, ok := prefixOf(r.Dst); ok && r.Protocol == contract.RouteProtocol && r.Type == unix.RTN_UNREACHABLE {
			closed = append(closed, destination)
		}
	}
	slices.SortFunc(closed, netip.Prefix.Compare)
	return closed
}

// hostRoutes gives a route with several next hops as several routes.
func hostRoutes(links links, routes []netlink.Route) []view.HostRoute {
	var out []view.HostRoute
	for _, route := range routes {
		destination, _ := prefixOf(route.Dst)
		one := view.HostRoute{Destination: destination, Protocol: int(route.Protocol), Gateway: addrOf(route.Gw)}
		if route.Type == unix.RTN_UNICAST {
			one.Device = links.name(route.LinkIndex)
		}
		if len(route.MultiPath) == 0 {
			out = append(out, one)
		}
		for _, hop := range route.MultiPath {
			one.Device, one.Gateway = links.name(hop.LinkIndex), addrOf(hop.Gw)
			out = append(out, one)
		}
	}
	slices.SortStableFunc(out, func(a, b view.HostRoute) int {
		return cmp.Or(a.Destination.Compare(b.Destination), cmp.Compare(a.Device, b.Device), a.Gateway.Compare(b.Gateway))
	})
	return out
}

// pathMTU returns the MTU in bytes of the way to an endpoint: its route's own, else that of the outgoing link, and
// 0 without a way. The kernel is asked for the route itself (RTM_F_FIB_MATCH), not for what it learnt about the
// path: that expires. Where the way would lead into a tunnel of ours, it is the way that it would be without us.
func pathMTU(links links, foreign []netlink.Route, endpoint netip.Addr) int {
	var route netlink.Route
	found, err := netlink.RouteGetWithOptions(endpoint.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	// An unreachable route, which may be ours, is an error.
	if err == nil && len(found) > 0 {
		route = found[0]
	}
	link := links.byIndex[route.LinkIndex]
	if route.Type == unix.RTN_UNSPEC || route.Protocol == contract.RouteProtocol || link != nil && isTunnel(link) {
		route = longestMatch(links, foreign, endpoint)
	}
	if route.Type != unix.RTN_UNICAST {
		return 0
	}
	if route.MTU > 0 {
		return route.MTU
	}
	mtu := linkMTU(links, route.LinkIndex)
	for _, hop := range route.MultiPath {
		if m := linkMTU(links, hop.LinkIndex); m > 0 && (mtu == 0 || m < mtu) {
			mtu = m
		}
	}
	return mtu
}

// longestMatch looks an address up in the main table without our routes and devices. It returns the zero Route
// where nothing matches.
func longestMatch(links links, routes []netlink.Route, endpoint netip.Addr) netlink.Route {
	var best netlink.Route
	bestBits := -1
	for _, route := range routes {
		destination, _ := prefixOf(route.Dst)
		link := links.byIndex[route.LinkIndex]
		if !destination.Contains(endpoint) || link != nil && isTunnel(link) {
			continue
		}
		bits := destination.Bits()
		if bits > bestBits || bits == bestBits && route.Priority < best.Priority {
			best, bestBits = route, bits
		}
	}
	return best
}

func linkMTU(links links, index int) int {
	if link := links.byIndex[index]; link != nil {
		return link.Attrs().MTU
	}
	return 0
}
