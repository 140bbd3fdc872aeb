package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// network is a network that this node has, with what the node may use of it.
type network struct {
	name   string // view.DefaultNetwork for the default one
	bridge string
	ranges []netip.Prefix // all that belongs to it, on whichever node
	cidrs  []netip.Prefix // this node's part; at most one of each family
	// reaches are the names of networks that it isn't kept apart from, whichever of the two asks, sorted.
	reaches []string
}

func (n network) gateways() []netip.Addr {
	var all []netip.Addr
	for _, cidr := range n.cidrs {
		all = append(all, contract.Gateway(cidr))
	}
	return all
}

// leftBridge is a bridge of ours whose network this node doesn't have any more, and that pods still hold.
type leftBridge struct {
	name   string
	cidrs  []netip.Prefix
	ranges []netip.Prefix // of the network that it was of
}

// findBridges finds the bridges that are ours beside the default one: those of networks, and by their mark those that
// networks left behind. What the plugin made by a configuration that is none of a network's is none of these.
func (p *planner) findBridges() {
	p.ownBridges = map[string]bool{}
	for _, n := range p.View.Self.Networks {
		p.ownBridges[n.Bridge] = true
	}
	for _, l := range p.Host.Links {
		if l.Kind != "bridge" || l.Alias != contract.BridgeAlias || l.Name == p.View.Self.Bridge || p.ownBridges[l.Name] {
			continue
		}
		p.ownBridges[l.Name] = true
		left := leftBridge{name: l.Name}
		for _, a := range p.Host.Addresses {
			if r, ok := p.closed(a.Address); ok && a.Device == l.Name {
				left.cidrs = append(left.cidrs, a.Address.Masked())
				left.ranges = append(left.ranges, r)
			}
		}
		if len(l.Ports) > 0 && len(left.cidrs) > 0 {
			p.left = append(p.left, left)
		}
	}
	slices.SortFunc(p.left, func(a, b leftBridge) int { return strings.Compare(a.name, b.name) })
}

// closed finds the range of the network that a bridge's address was of: this node closed it, and goes on to do so, or
// another node still has the network.
func (p *planner) closed(address netip.Prefix) (netip.Prefix, bool) {
	ranges := slices.Clone(p.Host.Closed)
	for _, peer := range p.View.Peers {
		for _, n := range peer.Networks {
			ranges = append(ranges, n.Ranges...)
		}
	}
	for _, r := range ranges {
		if r.Bits() <= address.Bits() && r.Contains(address.Addr()) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// planNetworks decides which networks this node has, and what only tunnels and bridges may carry.
func (p *planner) planNetworks() {
	self := p.View.Self
	p.defaultRanges = p.podRanges()
	p.networks = []network{{name: view.DefaultNetwork, bridge: self.Bridge, ranges: p.defaultRanges, cidrs: p.ownCIDRs()}}
	for _, n := range self.Networks {
		if why, remedy := p.refuses(n); why != "" {
			p.problem("network "+n.Name, remedy, "it isn't used on this node: %s", why)
			continue
		}
		p.networks = append(p.networks, network{name: n.Name, bridge: n.Bridge, ranges: n.Ranges, cidrs: n.CIDRs})
	}
	for i := range p.networks {
		for _, other := range p.networks {
			if p.asks(p.networks[i].name, other.name) || p.asks(other.name, p.networks[i].name) {
				p.networks[i].reaches = append(p.networks[i].reaches, other.name)
			}
		}
		slices.Sort(p.networks[i].reaches)
	}
	var all []netip.Prefix
	for _, n := range p.networks {
		all = append(all, n.ranges...)
	}
	for _, left := range p.left {
		all = append(all, left.ranges...)
	}
	p.ranges = mergePrefixes(all)
}

// asks reports whether one network is configured to reach another.
func (p *planner) asks(name, other string) bool {
	return slices.ContainsFunc(p.View.Self.Networks, func(n view.Network) bool {
		return n.Name == name && slices.Contains(n.Reaches, other)
	})
}

// refuses says why a network can't be used on this host, and what to do. What other nodes and the other networks have to
// say is settled before.
func (p *planner) refuses(n view.Network) (why, remedy string) {
	remedy = "give the network ranges apart from the hosts' networks, on all nodes"
	for _, r := range n.Ranges {
		if slices.ContainsFunc(p.defaultRanges, r.Overlaps) {
			return fmt.Sprintf("its range %s overlaps the default network's", r), "give the network other ranges, on all nodes"
		}
		if why := p.underlayIn(r); why != "" {
			return fmt.Sprintf("its range %s contains %s", r, why), remedy
		}
		if route, ok := p.routeInto(r); ok {
			return fmt.Sprintf("its range %s overlaps the route %s of this host", r, route), remedy
		}
	}
	for _, left := range p.left {
		for _, r := range left.ranges {
			if slices.ContainsFunc(n.Ranges, r.Overlaps) {
				return fmt.Sprintf("pods of a network with the range %s are still attached to the bridge %s", r, left.name),
					"delete those pods, or give the network that bridge"
			}
		}
	}
	if err := p.foreignBridge(n.Bridge, contract.BridgeMAC(network{cidrs: n.CIDRs}.gateways()...)); err != nil {
		return err.Error(), "or remove the network's file"
	}
	return "", ""
}

// ownCIDRs are the pod CIDRs of the default network on this node that it may use.
func (p *planner) ownCIDRs() []netip.Prefix { return p.cidrs[p.View.Self.Name] }

// hasIPv6 reports whether pods of this node have IPv6 addresses, on whichever network.
func (p *planner) hasIPv6() bool {
	return slices.ContainsFunc(p.networks, func(n network) bool {
		return slices.ContainsFunc(n.cidrs, func(cidr netip.Prefix) bool { return cidr.Addr().Is6() })
	})
}

// partOf is a peer's part of a network that this node has.
func (p *planner) partOf(n network, peer view.Node) []netip.Prefix {
	if n.name == view.DefaultNetwork {
		return p.cidrs[peer.Name]
	}
	for _, other := range peer.Networks {
		if other.Name == n.name {
			return other.CIDRs
		}
	}
	return nil
}

// carried are the CIDRs that a link to a peer carries: its parts of all networks that this node has too.
func (p *planner) carried(peer view.Node) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range p.networks {
		all = append(all, p.partOf(n, peer)...)
	}
	return all
}

// planBridges plans the bridges of all networks, and whether pods can be attached to them.
func (p *planner) planBridges() {
	p.planDefaultBridge()
	for _, n := range p.networks[1:] {
		p.out.Bridges = append(p.out.Bridges, p.bridge(n))
		if p.out.Ready == nil {
			continue
		}
		p.out.Ready.Networks = append(p.out.Ready.Networks, view.ReadyNetwork{
			Name: n.name, Bridge: n.bridge, Subnets: n.cidrs, Gateways: n.gateways(), Ranges: n.ranges, Reached: p.reached(n), MTU: p.podMTU(),
		})
	}
}

// reached are the ranges of the networks that a network isn't kept apart from, without the default one's: pods have a
// way there of their own.
func (p *planner) reached(n network) []netip.Prefix {
	var all []netip.Prefix
	for _, other := range p.networks[1:] {
		if slices.Contains(n.reaches, other.name) {
			all = append(all, other.ranges...)
		}
	}
	slices.SortFunc(all, comparePrefixes)
	return all
}

// bridge is the bridge of a network.
func (p *planner) bridge(n network) view.Bridge {
	bridge := view.Bridge{Name: n.bridge, MAC: contract.BridgeMAC(n.gateways()...), MTU: p.bridgeMTU(n.bridge)}
	for _, cidr := range n.cidrs {
		bridge.Addresses = append(bridge.Addresses, netip.PrefixFrom(contract.Gateway(cidr), cidr.Bits()))
	}
	return bridge
}

// planDefaultBridge plans the bridge of the default network, without which no pod is attached to any.
func (p *planner) planDefaultBridge() {
	self := p.View.Self
	if self.Closed != nil {
		p.report(*self.Closed)
	} else if len(self.PodCIDRs) == 0 {
		p.report(view.Problem{
			Subject: "node " + self.Name,
			Message: "it has no pod CIDR, so no pod can be attached",
			Remedy: "in Kubernetes it gets one soon (kube-controller-manager with --allocate-node-cidrs), or claims one (--claim); " +
				"without, give it with --pod-cidr, or have it claim one (without --claim=never)",
			Early: true, // a Node gets it after it was made
		})
	}
	n := p.networks[0]
	if len(n.cidrs) == 0 {
		return // why is reported, a conflict where it was found
	}
	bridge := p.bridge(n)
	if err := p.foreignBridge(self.Bridge, bridge.MAC); err != nil {
		p.problem("bridge "+self.Bridge, "", "%v", err)
		return
	}
	p.out.Bridges = []view.Bridge{bridge}
	if self.Closed != nil {
		return
	}
	p.out.Ready = &view.Ready{Bridge: self.Bridge, Subnets: n.cidrs, Gateways: n.gateways(), MTU: p.podMTU()}
}

// planFirewall plans what the rules need to know. A bridge that a network left behind is one of ours until its pods are
// gone: the network's ranges stay closed, and it is kept apart from others.
func (p *planner) planFirewall() {
	f := view.Firewall{PodRanges: p.ranges, Gateways: p.networks[0].gateways(), Nodes: p.nodeAddresses()}
	for i := range contract.MaxDevices {
		f.Tunnels = append(f.Tunnels, contract.DeviceName(i))
	}
	for _, n := range p.networks {
		f.Bridges = append(f.Bridges, n.bridge)
		f.LocalPods = append(f.LocalPods, n.cidrs...)
		f.Networks = append(f.Networks, view.FirewallNetwork{Name: n.name, Ranges: n.ranges, Gateways: n.gateways(), Reaches: n.reaches})
	}
	for _, left := range p.left {
		f.Bridges = append(f.Bridges, left.name)
		f.LocalPods = append(f.LocalPods, left.cidrs...)
		apart := slices.DeleteFunc(slices.Clone(left.ranges), func(r netip.Prefix) bool {
			return slices.ContainsFunc(f.Networks, func(n view.FirewallNetwork) bool { return slices.ContainsFunc(n.Ranges, r.Overlaps) })
		})
		if len(apart) > 0 {
			f.Networks = append(f.Networks, view.FirewallNetwork{Name: "left on " + left.name, Ranges: apart})
		}
	}
	if len(f.Networks) == 1 {
		f.Networks = nil
	}
	f.GuardedTCP, f.GuardedUDP = p.guardedPorts()
	p.out.Firewall = f
}
