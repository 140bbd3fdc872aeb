package plan

import (
	"cmp"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// minHostBits is what a pod CIDR leaves for addresses at least: its first and last aren't given, and one is the gateway.
const minHostBits = 2

// claim is one pod CIDR that one node says is its own.
type claim struct {
	node string
	cidr netip.Prefix
	age  int64 // 0: no Node object says, without Kubernetes
}

// settleCIDRs decides which node keeps which pod CIDR. Of two that overlap, the older node's stays, on a tie the
// smaller name's: every node decides alike. A CIDR that this host's own network stands on isn't used here.
func (p *planner) settleCIDRs() {
	kept := newClaims()
	for _, c := range p.claims() {
		if other, ok := kept.overlap(c); ok {
			p.refuseOverlap(c, other)
			continue
		}
		if c.node == p.View.Self.Name && c.cidr.Bits() > c.cidr.Addr().BitLen()-minHostBits {
			p.refuseCIDR(c, "give the node a pod CIDR with at least 4 addresses, such as a /24",
				fmt.Sprintf("pod CIDR %s has no room for a gateway and pods", c.cidr))
			continue
		}
		if clash := p.hostClash(c); clash != "" {
			p.refuseCIDR(c, "change the host's network or the cluster's pod CIDRs, so that they don't overlap", clash)
			continue
		}
		kept.add(c)
		p.cidrs[c.node] = append(p.cidrs[c.node], c.cidr)
	}
}

// claims finds overlaps in a time that doesn't grow with the number of claims.
type claims struct {
	exact  map[netip.Prefix]claim
	within map[netip.Prefix]claim // a prefix → some claim inside it
}

func newClaims() claims {
	return claims{exact: map[netip.Prefix]claim{}, within: map[netip.Prefix]claim{}}
}

// wider are all prefixes that contain p, itself first.
func wider(p netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for bits := p.Bits(); bits >= 0; bits-- {
			if prefix, err := p.Addr().Prefix(bits); err != nil || !yield(prefix) {
				return
			}
		}
	}
}

func (k claims) add(c claim) {
	k.exact[c.cidr.Masked()] = c
	for prefix := range wider(c.cidr) {
		k.within[prefix] = c
	}
}

// overlap finds a claim that has addresses in common with c.
func (k claims) overlap(c claim) (claim, bool) {
	if other, ok := k.within[c.cidr.Masked()]; ok {
		return other, true
	}
	for prefix := range wider(c.cidr) {
		if other, ok := k.exact[prefix]; ok {
			return other, true
		}
	}
	return claim{}, false
}

func (p *planner) claims() []claim {
	var claims []claim
	add := func(node string, age int64, cidrs []netip.Prefix) {
		for _, cidr := range cidrs {
			claims = append(claims, claim{node: node, cidr: cidr, age: age})
		}
	}
	add(p.View.Self.Name, p.View.Self.Age, p.View.Self.PodCIDRs)
	for _, n := range p.View.Peers {
		add(n.Name, n.Age, n.PodCIDRs)
	}
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.age, b.age), strings.Compare(a.node, b.node))
	})
	return claims
}

// refuseOverlap refuses a claim for the sake of another one.
func (p *planner) refuseOverlap(c, other claim) {
	if c.age == 0 && other.age == 0 {
		p.refuseCIDR(c, "give one of the two hosts another --pod-cidr, or none, and it claims one; if one is gone for good, `weaveguard forget` it",
			fmt.Sprintf("pod CIDR %s overlaps %s of node %s, which has the earlier name and keeps it", c.cidr, other.cidr, other.node))
		return
	}
	p.refuseCIDR(c, "remove one of the two Node objects, or give it another pod CIDR",
		fmt.Sprintf("pod CIDR %s overlaps %s of node %s, which is older and keeps it", c.cidr, other.cidr, other.node))
}

func (p *planner) refuseCIDR(c claim, remedy, why string) {
	p.problem("node "+c.node, remedy, "%s", why)
	if c.node != p.View.Self.Name {
		p.out.PeerProblems[c.node] = why
	}
}

// hostClash says why a pod CIDR can't be used on this host: an address of the host is in it, or a route that isn't
// ours leads to all or part of it. A wider route only gets a warning: the pod CIDR's
// own route is more specific, and takes precedence.
func (p *planner) hostClash(c claim) string {
	for _, a := range p.Host.Addresses {
		if !p.ours(a.Device) && c.cidr.Contains(a.Address.Addr()) {
			return fmt.Sprintf("pod CIDR %s contains this host's address %s on %s", c.cidr, a.Address.Addr(), a.Device)
		}
	}
	if r, ok := p.routeInto(c.cidr); ok {
		return fmt.Sprintf("pod CIDR %s overlaps the route %s of this host", c.cidr, r)
	}
	p.warnOfWider(c)
	return ""
}

// warnOfWider tells of a route around a pod CIDR, once for each route.
func (p *planner) warnOfWider(c claim) {
	for _, r := range p.Host.Routes {
		if p.ours(r.Device) || r.Destination.Bits() == 0 || !r.Destination.Overlaps(c.cidr) {
			continue
		}
		subject := "route " + r.Destination.String()
		if slices.ContainsFunc(p.out.Problems, func(other view.Problem) bool { return other.Subject == subject }) {
			continue
		}
		p.warning(subject, "make sure that nothing but pods has addresses in the pod CIDRs",
			"pod CIDRs such as %s of node %s are inside the route %s of this host, and take its place there", c.cidr, c.node, r)
	}
}

// ours reports whether a device of this name is made by us, when it is what its name says.
func (p *planner) ours(device string) bool {
	return device == p.View.Self.Bridge || strings.HasPrefix(device, contract.DevicePrefix) || device != "" && p.ownBridges[device]
}

// foreignBridge says whose the interface with our bridge's name is, when it isn't ours.
func (p *planner) foreignBridge(name string, mac net.HardwareAddr) error {
	for _, l := range p.Host.Links {
		if l.Name != name {
			continue
		}
		var addresses []netip.Prefix
		for _, a := range p.Host.Addresses {
			if a.Device == name {
				addresses = append(addresses, a.Address)
			}
		}
		return contract.ForeignBridge(l, addresses, mac)
	}
	return nil
}

// foreignTunnel says what the interface with a tunnel device's name is, when it can't be one.
func (p *planner) foreignTunnel(name string) string {
	for _, l := range p.Host.Links {
		if l.Name == name && l.Kind != "wireguard" && l.Kind != "tun" {
			return fmt.Sprintf("the interface %s is of kind %q, and not a WireGuard device", name, l.Kind)
		}
	}
	return ""
}
