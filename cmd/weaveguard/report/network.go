package report

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxRoutes is how many routes are listed: a host may have all of the Internet's.
const maxRoutes = 5000

// Links are all network interfaces, as of `ip -details link`.
func Links() ([]byte, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing the links: %w", err)
	}
	var text bytes.Buffer
	for _, link := range links {
		a := link.Attrs()
		fmt.Fprintf(&text, "%d: %s: <%s> mtu %d state %s type %s address %s master %d parent %d netns %d alias %q", a.Index, a.Name, a.Flags,
			a.MTU, a.OperState, link.Type(), a.HardwareAddr, a.MasterIndex, a.ParentIndex, a.NetNsID, a.Alias)
		if s := a.Statistics; s != nil {
			fmt.Fprintf(&text, " rx %d bytes %d packets %d errors %d dropped tx %d bytes %d packets %d errors %d dropped", s.RxBytes,
				s.RxPackets, s.RxErrors, s.RxDropped, s.TxBytes, s.TxPackets, s.TxErrors, s.TxDropped)
		}
		text.WriteByte('\n')
	}
	return text.Bytes(), nil
}

// Addresses are all addresses, as of `ip address`.
func Addresses() ([]byte, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses: %w", err)
	}
	var text bytes.Buffer
	for _, a := range addresses {
		fmt.Fprintf(&text, "%s dev %s scope %s flags %#x", a.IPNet, names(a.LinkIndex), netlink.Scope(a.Scope), a.Flags)
		if a.Peer != nil && a.Peer.String() != a.IPNet.String() {
			fmt.Fprintf(&text, " peer %s", a.Peer)
		}
		text.WriteByte('\n')
	}
	return text.Bytes(), nil
}

// Routes are the routes of all tables, as of `ip route show table all`, IPv4's first.
func Routes() ([]byte, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("listing the routes: %w", err)
		}
		for i, r := range routes {
			if i == maxRoutes {
				fmt.Fprintf(&text, "and %d more\n", len(routes)-maxRoutes)
				break
			}
			text.WriteString(routeText(r, names) + "\n")
		}
	}
	return text.Bytes(), nil
}

// routeTypes are those that aren't unicast (rtnetlink(7)).
var routeTypes = map[int]string{unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast",
	unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit",
	unix.RTN_THROW: "throw"}

func routeText(r netlink.Route, names func(int) string) string {
	words := []string{routeTypes[r.Type], "default"}
	if r.Dst != nil {
		words[1] = r.Dst.String()
	}
	add := func(name string, value any, given bool) {
		if given {
			words = append(words, name, fmt.Sprint(value))
		}
	}
	add("via", r.Gw, r.Gw != nil)
	add("dev", names(r.LinkIndex), r.LinkIndex != 0)
	for _, hop := range r.MultiPath {
		add("nexthop", fmt.Sprintf("via %s dev %s", hop.Gw, names(hop.LinkIndex)), true)
	}
	add("table", r.Table, r.Table != unix.RT_TABLE_MAIN)
	add("proto", int(r.Protocol), true)
	add("scope", r.Scope, r.Scope != netlink.SCOPE_UNIVERSE)
	add("src", r.Src, r.Src != nil)
	add("metric", r.Priority, r.Priority != 0)
	add("mtu", r.MTU, r.MTU != 0)
	add("flags", fmt.Sprintf("%#x", r.Flags), r.Flags != 0)
	return strings.TrimSpace(strings.Join(words, " "))
}

// Rules are the rules by which the tables of routes are chosen, as of `ip rule`.
func Rules() ([]byte, error) {
	var text bytes.Buffer
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("listing the rules of routing: %w", err)
		}
		for _, r := range rules {
			fmt.Fprintf(&text, "%d: from %s to %s mark %#x iif %q oif %q table %d\n", r.Priority, orAll(r.Src), orAll(r.Dst), r.Mark, r.IifName,
				r.OifName, r.Table)
		}
	}
	return text.Bytes(), nil
}

func orAll(n *net.IPNet) string {
	if n == nil {
		return "all"
	}
	return n.String()
}

// linkNames gives links' names by their indices.
func linkNames() (func(index int) string, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing the links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return func(index int) string {
		if name := names[index]; name != "" {
			return name
		}
		return fmt.Sprintf("if%d", index)
	}, nil
}

// dump reads a list again when something changed while it was read.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 10
	for attempt := 1; ; attempt++ {
		values, err := list()
		interrupted := errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, unix.EINTR)
		if interrupted && attempt == attempts {
			return values, nil // what there is: others never rest
		}
		if !interrupted {
			return values, err
		}
	}
}
