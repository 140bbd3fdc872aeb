package view

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// String is the plan as text: a line for each thing, equal plans alike.
func (d Desired) String() string {
	var b strings.Builder
	printAnnounce(&b, d.Announce)
	for _, device := range d.Devices {
		fmt.Fprintf(&b, "device %s generation %d port %d mtu %d address %s\n", device.Name, device.Generation,
			device.ListenPort, device.MTU, list(device.Addresses))
		for _, p := range device.Peers {
			fmt.Fprintf(&b, "  peer %s key %s endpoint %s allowed %s keepalive %s%s%s\n", p.Node, p.PublicKey,
				p.Endpoint, list(p.AllowedIPs), p.Keepalive, when(p.Attempt > 0, fmt.Sprintf(" attempt %d", p.Attempt)),
				when(!p.Disowned.IsZero(), " disowned"))
		}
	}
	for _, bridge := range d.Bridges {
		fmt.Fprintf(&b, "bridge %s mac %s mtu %d address %s\n", bridge.Name, bridge.MAC, bridge.MTU,
			list(bridge.Addresses))
	}
	for _, r := range d.Routes {
		printRoute(&b, r)
	}
	for _, path := range d.Paths {
		fmt.Fprintf(&b, "probe %s up to %d%s\n", path.Address, path.Limit, when(path.Found != 0, fmt.Sprintf(" found %d", path.Found)))
	}
	for _, s := range d.Sysctls {
		fmt.Fprintf(&b, "sysctl %s = %s%s%s\n", s.Key, s.Value, when(s.From != "", " (from "+s.From+")"),
			when(s.Optional, " (if there is one)"))
	}
	f := d.Firewall
	fmt.Fprintf(&b, "firewall tunnels %s bridges %s ranges %s local %s gateways %s\n", list(f.Tunnels),
		list(f.Bridges), list(f.PodRanges), list(f.LocalPods), list(f.Gateways))
	for _, n := range f.Networks {
		fmt.Fprintf(&b, "firewall network %s ranges %s gateways %s%s\n", n.Name, list(n.Ranges), list(n.Gateways),
			when(len(n.Reaches) > 0, " reaches "+list(n.Reaches)))
	}
	fmt.Fprintf(&b, "firewall nodes %s not for pods: tcp %s udp %s\n", list(f.Nodes), list(f.GuardedTCP),
		list(f.GuardedUDP))
	if r := d.Ready; r != nil {
		fmt.Fprintf(&b, "ready bridge %s subnets %s gateways %s mtu %d\n", r.Bridge, list(r.Subnets),
			list(r.Gateways), r.MTU)
		for _, n := range r.Networks {
			fmt.Fprintf(&b, "ready network %s bridge %s subnets %s gateways %s ranges %s%s mtu %d\n", n.Name, n.Bridge, list(n.Subnets),
				list(n.Gateways), list(n.Ranges), when(len(n.Reached) > 0, " reached "+list(n.Reached)), n.MTU)
		}
	} else {
		b.WriteString("not ready\n")
	}
	for _, p := range d.Problems {
		fmt.Fprintf(&b, "%s %s\n", severity(p), p)
	}
	for _, node := range sortedKeys(d.PeerProblems) {
		fmt.Fprintf(&b, "peer %s isn't up: %s\n", node, d.PeerProblems[node])
	}
	return b.String()
}

func severity(p Problem) string {
	if p.Warning {
		return "warning"
	}
	return "problem"
}

func printAnnounce(w io.Writer, r record.Record) {
	fmt.Fprintf(w, "announce identity %s generations %s endpoints %s pods %s mtu %d\n", r.Identity,
		generations(r.Generations), list(r.Endpoints()), list(r.PodCIDRs()), r.MTU)
}

func printRoute(w io.Writer, r Route) {
	how := "unreachable"
	if r.Device != "" {
		how = "dev " + r.Device
	}
	fmt.Fprintf(w, "route %s %s", r.Destination, how)
	if r.Source.IsValid() {
		fmt.Fprintf(w, " src %s", r.Source)
	}
	if r.MTU != 0 {
		fmt.Fprintf(w, " mtu %d", r.MTU)
	}
	fmt.Fprintf(w, "%s\n", when(r.Metric != 0, fmt.Sprintf(" metric %d", r.Metric)))
}

// String is the view as text.
func (v View) String() string {
	var b strings.Builder
	s := v.Self
	fmt.Fprintf(&b, "self %s identity %s generations %s pods %s addresses %s bridge %s port %d wireguard %s age %d%s%s\n",
		s.Name, s.Identity, generations(s.Generations), list(s.PodCIDRs), list(s.Addresses), s.Bridge, s.BasePort,
		s.WireGuard, s.Age, when(s.MTU != 0, fmt.Sprintf(" mtu %d", s.MTU)),
		when(s.Endpoint.IsValid(), " endpoint "+s.Endpoint.String())+when(s.Unannounced, " newest unannounced")+
			when(len(s.AllowPodsTo) > 0, " pods may reach "+list(s.AllowPodsTo))+
			when(len(s.OwnPorts) > 0, fmt.Sprintf(" own ports %s", list(s.OwnPorts)))+
			when(s.Closed != nil, fmt.Sprintf(" closed: %v", s.Closed)))
	printNetworks(&b, s.Networks)
	for _, n := range v.Peers {
		fmt.Fprintf(&b, "node %s identity %s sequence %d generations %s endpoints %s pods %s mtu %d age %d%s\n", n.Name,
			n.Identity, n.Sequence, generations(n.Generations), list(n.Endpoints), list(n.PodCIDRs), n.MTU, n.Age,
			when(n.Alive, " alive"))
		printNetworks(&b, n.Networks)
	}
	for _, w := range v.Waiting {
		fmt.Fprintf(&b, "waiting %s: %s%s\n", w.Name, w.Reason, when(w.Alive, " (alive)"))
	}
	fmt.Fprintf(&b, "ranges %s from %s%s\n", list(v.PodRanges), v.PodRangeSource,
		when(v.PodRangesSeen, " (seen only)"))
	if len(v.NodeAddresses) > 0 {
		fmt.Fprintf(&b, "nodes have addresses %s\n", list(v.NodeAddresses))
	}
	for _, l := range v.Links {
		fmt.Fprintf(&b, "link %s key %s%s%s%s%s%s%s%s attempt %d\n", l.Device, l.PublicKey, when(l.Confirmed, " confirmed"),
			when(l.Established, " established"), when(l.Met && !l.Established, " met before"), when(l.Silent, " silent"), when(l.Ripe, " ripe"), when(l.Overdue, " overdue"),
			when(!l.Disowned.IsZero(), " disowned"), l.Attempt)
	}
	return b.String()
}

func printNetworks(w io.Writer, networks []Network) {
	for _, n := range networks {
		fmt.Fprintf(w, "  network %s\n", n)
	}
}

// String is what the kernel shows as text.
func (h Host) String() string {
	var b strings.Builder
	for _, l := range h.Links {
		fmt.Fprintf(&b, "interface %s kind %q alias %q mtu %d ports %s\n", l.Name, l.Kind, l.Alias, l.MTU, list(l.Ports))
	}
	for _, a := range h.Addresses {
		fmt.Fprintf(&b, "address %s dev %s\n", a.Address, a.Device)
	}
	for _, r := range h.Routes {
		fmt.Fprintf(&b, "route %s\n", r)
	}
	for _, r := range h.Closed {
		fmt.Fprintf(&b, "closed %s\n", r)
	}
	for _, address := range slices.SortedFunc(maps.Keys(h.Probed), netip.Addr.Compare) {
		fmt.Fprintf(&b, "path to %s carries %d\n", address, h.Probed[address])
	}
	return b.String()
}

// String is the route as ip-route(8) prints it.
func (r HostRoute) String() string {
	s := r.Destination.String()
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	return s + when(r.Device != "", " dev "+r.Device)
}

func generations(gs []record.Generation) string {
	var parts []string
	for _, g := range gs {
		parts = append(parts, fmt.Sprintf("%d=%s", g.Number, g.Key))
	}
	return list(parts)
}

func list[T any](items []T) string {
	if len(items) == 0 {
		return "-"
	}
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = fmt.Sprint(item)
	}
	return strings.Join(parts, ",")
}

func when(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
