package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// defaultMetric6 is what the kernel makes of metric 0 in IPv6 (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

// routeKey is what makes two routes of a table the same one to the kernel: a replacement with an equal key takes
// the other's place in one step, without a packet lost.
type routeKey struct {
	destination netip.Prefix
	metric      int
	tos         int
}

func (k routeKey) String() string {
	return fmt.Sprintf("%s metric %d", k.destination, k.metric)
}

// routeTable is the main table at one moment.
type routeTable struct {
	ours    map[routeKey]netlink.Route
	surplus []netlink.Route // ours, beside another of ours with an equal key
	foreign map[routeKey]netlink.Route
}

// ApplyRoutes makes our routes of the main table the wanted ones: unreachable ones first, then those to devices,
// and then it removes what is left over. A change of a route is one replacement in place. A route that can't be
// set, because its device is missing or not ours or somebody else's route has its place, is an error, and the
// rest is applied.
func (a *Applier) ApplyRoutes(ctx context.Context, routes []view.Route) (int, error) {
	c := a.begin(ctx)
	links, err := readLinks()
	if err != nil {
		return 0, err
	}
	table, err := readRoutes()
	if err != nil {
		return 0, err
	}
	wanted := make(map[routeKey]bool)
	ordered := slices.Clone(routes)
	slices.SortStableFunc(ordered, func(a, b view.Route) int { return rank(a) - rank(b) })
	for _, route := range ordered {
		key := keyOf(route)
		wanted[key] = true
		want, err := kernelRoute(links, route)
		if err != nil {
			c.fail(err)
			continue
		}
		c.route(links, table, key, want)
	}
	surplus := table.surplus
	for key, have := range table.ours {
		if !wanted[key] {
			surplus = append(surplus, have)
		}
	}
	c.removeRoutes(surplus)
	return c.result()
}

func rank(route view.Route) int {
	if route.Device == "" {
		return 0
	}
	return 1
}

func keyOf(route view.Route) routeKey {
	metric := route.Metric
	if metric == 0 && route.Destination.Addr().Is6() {
		metric = defaultMetric6
	}
	return routeKey{destination: route.Destination.Masked(), metric: metric}
}

// kernelRoute is a wanted route as the kernel takes and shows it.
func kernelRoute(links links, route view.Route) (*netlink.Route, error) {
	key := keyOf(route)
	want := &netlink.Route{
		Dst:      ipNet(key.destination),
		Priority: key.metric,
		Table:    unix.RT_TABLE_MAIN,
		Protocol: contract.RouteProtocol,
		Type:     unix.RTN_UNREACHABLE,
		MTU:      route.MTU,
	}
	if route.Source.IsValid() {
		want.Src = route.Source.AsSlice()
	}
	if route.Device == "" {
		return want, nil
	}
	link := links.byName[route.Device]
	if link == nil {
		return nil, fmt.Errorf("the route to %s needs the device %s, which doesn't exist", route.Destination,
			route.Device)
	}
	if !isTunnel(link) && !isOurBridge(link) {
		return nil, fmt.Errorf("the route to %s needs the device %s, which isn't Weaveguard's but %s: pods' packets "+
			"would leave in the clear", route.Destination, route.Device, describe(links.host(link)))
	}
	want.Type, want.LinkIndex = unix.RTN_UNICAST, link.Attrs().Index
	if route.Destination.Addr().Is4() {
		want.Scope = netlink.SCOPE_LINK // IPv6 has no scopes
	}
	return want, nil
}

// route sets one route, unless the kernel has it.
func (c *changes) route(links links, table routeTable, key routeKey, want *netlink.Route) {
	what := fmt.Sprintf("the route to %s dev %s", key, links.name(want.LinkIndex))
	if want.Type == unix.RTN_UNREACHABLE {
		what = fmt.Sprintf("the route unreachable %s", key)
	}
	have, exists := table.ours[key]
	if exists && sameRoute(have, want) {
		return
	}
	if other, ok := table.foreign[key]; ok {
		c.fail(fmt.Errorf("setting %s: another route has its place, to %s dev %s, protocol %d: remove it "+
			"(`ip route delete %s metric %d proto %d`)", what, key, links.name(other.LinkIndex), other.Protocol,
			key.destination, key.metric, other.Protocol))
		return
	}
	if exists {
		c.write("replacing "+what, func() error { return netlink.RouteReplace(want) })
		return
	}
	c.write("adding "+what, func() error {
		err := netlink.RouteAdd(want)
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: another route has its place (`ip route show %s`)", err, key.destination)
		}
		return err
	})
}

func sameRoute(have netlink.Route, want *netlink.Route) bool {
	if have.Type != want.Type || have.MTU != want.MTU || have.MTULock || have.Gw != nil || len(have.MultiPath) > 0 {
		return false
	}
	// The kernel shows an unreachable route of IPv6 with the device lo.
	if have.Type == unix.RTN_UNICAST && have.LinkIndex != want.LinkIndex {
		return false
	}
	return addrOf(have.Src) == addrOf(want.Src) && have.Scope == want.Scope
}

// removeRoutes removes routes of ours; one that went by itself is no error.
func (c *changes) removeRoutes(routes []netlink.Route) {
	slices.SortFunc(routes, func(a, b netlink.Route) int {
		// Unreachable ones last, so that what they guard has no gap.
		if (a.Type == unix.RTN_UNREACHABLE) != (b.Type == unix.RTN_UNREACHABLE) {
			if a.Type == unix.RTN_UNREACHABLE {
				return 1
			}
			return -1
		}
		p, _ := prefixOf(a.Dst)
		q, _ := prefixOf(b.Dst)
		return p.Compare(q)
	})
	for _, route := range routes {
		prefix, _ := prefixOf(route.Dst)
		key := &netlink.Route{Dst: route.Dst, Priority: route.Priority, Tos: route.Tos, Table: unix.RT_TABLE_MAIN,
			Protocol: contract.RouteProtocol, Type: route.Type, Scope: route.Scope}
		if route.Type == unix.RTN_UNICAST {
			key.LinkIndex = route.LinkIndex
		}
		c.write(fmt.Sprintf("removing the route to %s", prefix), func() error {
			err := netlink.RouteDel(key)
			if gone(err) {
				return errNoChange
			}
			return err
		})
	}
}

// readRoutes reads the main table, both families.
func readRoutes() (routeTable, error) {
	table := routeTable{ours: make(map[routeKey]netlink.Route), foreign: make(map[routeKey]netlink.Route)}
	list, err := listRoutes()
	if err != nil {
		return table, err
	}
	for _, route := range list {
		destination, _ := prefixOf(route.Dst)
		key := routeKey{destination: destination, metric: route.Priority, tos: route.Tos}
		if route.Protocol != contract.RouteProtocol {
			table.foreign[key] = route
			continue
		}
		if _, twice := table.ours[key]; twice {
			table.surplus = append(table.surplus, route)
			continue
		}
		table.ours[key] = route
	}
	return table, nil
}

// listRoutes returns the routes of the main table, each with a destination: default routes with a zero one.
func listRoutes() ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump("routes", func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return nil, err
		}
		for _, route := range list {
			if _, ok := prefixOf(route.Dst); !ok {
				route.Dst = ipNet(netip.PrefixFrom(unspecified(family), 0))
			}
			all = append(all, route)
		}
	}
	return all, nil
}

func unspecified(family int) netip.Addr {
	if family == netlink.FAMILY_V4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
