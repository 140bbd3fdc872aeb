package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// reachedMetric puts routes to other networks behind those of a port that is on such a network itself.
	reachedMetric = 4096
	// sourceTables is the number of the first routing table for what is sent from one port's addresses; the port's index is
	// added. No sandbox has others there: distributions name those below 256, and people choose small ones.
	sourceTables = 0x57470000
	// sourcePriority puts the rules that lead there behind the kernel's table of local addresses, at 0, and before its main
	// one, at 32766.
	sourcePriority = 20000
)

// Destinations are what the port leads to by the gateway of one of its addresses.
func (p Port) Destinations(a Address) []netip.Prefix {
	if p.Ranges == nil {
		return []netip.Prefix{anywhere(a.Gateway)}
	}
	return slices.DeleteFunc(slices.Concat(p.Ranges, p.Reached), func(r netip.Prefix) bool { return r.Addr().Is4() != a.Address.Is4() })
}

// addRoutes adds the port's routes in the sandbox. They are onlink: the gateway isn't in the subnet of an address that is
// alone in its own.
func addRoutes(inside *netlink.Handle, index int, p Port) error {
	for _, a := range p.Addresses {
		for _, destination := range p.Destinations(a) {
			route := routeBy(index, a.Gateway, destination)
			other := !slices.Contains(p.Ranges, destination) && p.Ranges != nil
			if other {
				route.Priority = reachedMetric
			}
			err := inside.RouteAdd(route)
			if other && errors.Is(err, unix.EEXIST) {
				continue // by another port
			}
			if err != nil {
				return fmt.Errorf("adding the %s by %s in the sandbox: %w", routeName(destination), a.Gateway, err)
			}
		}
		if p.Ranges == nil {
			continue
		}
		if err := addSourceRoute(inside, index, a); err != nil {
			return fmt.Errorf("adding the route for what is sent from %s in the sandbox: %w", a.Address, err)
		}
	}
	return nil
}

func routeBy(index int, gateway netip.Addr, destination netip.Prefix) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: ipNet(destination), Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
}

// addSourceRoute sends what has an address of the port by the port: an answer to somebody whose network another port leads
// to would leave by that one, where nobody takes it. The rule outlives the port, and then leads to an empty table.
func addSourceRoute(inside *netlink.Handle, index int, a Address) error {
	route := routeBy(index, a.Gateway, anywhere(a.Gateway))
	route.Table = sourceTables + index
	if err := inside.RouteAdd(route); err != nil {
		return err
	}
	if err := inside.RuleAdd(sourceRule(index, a.Address)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func sourceRule(index int, address netip.Addr) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Src, rule.Table, rule.Priority = family(address), ipNet(single(address)), sourceTables+index, sourcePriority
	return rule
}

func anywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// checkRoutes looks for the port's routes in the namespace that h was opened in, but for those to other networks, which
// another port may have.
func (h *Host) checkRoutes(link netlink.Link, p Port) ([]string, error) {
	p.Reached = nil
	var differs []string
	for _, a := range p.Addresses {
		routes, err := retry(func() ([]netlink.Route, error) { return h.nl.RouteList(link, family(a.Gateway)) })
		if err != nil {
			return nil, fmt.Errorf("listing routes in the sandbox: %w", err)
		}
		for _, destination := range p.Destinations(a) {
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return leads(r, destination, a.Gateway) }) {
				differs = append(differs, fmt.Sprintf("the sandbox lacks the %s by %s on %s", routeName(destination), a.Gateway, p.IfName))
			}
		}
		if p.Ranges == nil {
			continue
		}
		found, err := h.hasSourceRoute(link.Attrs().Index, a)
		if err != nil {
			return nil, err
		}
		if !found {
			differs = append(differs, fmt.Sprintf("the sandbox lacks the rule or the route for what is sent from %s", a.Address))
		}
	}
	return differs, nil
}

func routeName(destination netip.Prefix) string {
	if destination.Bits() == 0 {
		return "default route"
	}
	return "route to " + destination.String()
}

func leads(r netlink.Route, destination netip.Prefix, gateway netip.Addr) bool {
	dst, ok := prefixOf(r.Dst)
	if r.Dst == nil {
		dst, ok = anywhere(gateway), true
	}
	return ok && dst == destination && r.Gw.Equal(gateway.AsSlice())
}

func (h *Host) hasSourceRoute(index int, a Address) (bool, error) {
	rules, err := retry(func() ([]netlink.Rule, error) { return h.nl.RuleList(family(a.Address)) })
	if err != nil {
		return false, fmt.Errorf("listing routing rules in the sandbox: %w", err)
	}
	want := sourceRule(index, a.Address)
	filter := &netlink.Route{Table: want.Table, LinkIndex: index}
	routes, err := retry(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(family(a.Address), filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return false, fmt.Errorf("listing routes in the sandbox: %w", err)
	}
	ruled := slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		src, ok := prefixOf(r.Src)
		return ok && src == single(a.Address) && r.Table == want.Table
	})
	return ruled && slices.ContainsFunc(routes, func(r netlink.Route) bool { return leads(r, anywhere(a.Gateway), a.Gateway) }), nil
}
