package kube

import (
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/claim"
)

// assign gives the Nodes that Kubernetes gave no pod CIDRs those that they have claimed: of each range the block that a
// node has had for longest. What Kubernetes gave to any Node is nobody's claim. It reports whether a claim counts.
func assign(nodes []Node, c claims, ranges []claim.Range) bool {
	given := given(nodes)
	place := make(map[string]int, len(nodes))
	for i, n := range nodes {
		if len(n.PodCIDRs) == 0 {
			place[n.Name] = i
		}
	}
	best := map[string][]lease{} // by node, a place for each range
	for _, l := range c.leases {
		i, without := place[l.holder]
		at := slices.IndexFunc(ranges, func(r claim.Range) bool { return r.Has(l.cidr) })
		if !without || at < 0 || !l.belongs(nodes[i]) || overlapsAny(l.cidr, given) {
			continue
		}
		if best[l.holder] == nil {
			best[l.holder] = make([]lease, len(ranges))
		}
		if has := best[l.holder][at]; !has.cidr.IsValid() || l.before(has) {
			best[l.holder][at] = l
		}
	}
	for name, leases := range best {
		n := &nodes[place[name]]
		for _, l := range leases {
			if l.cidr.IsValid() {
				n.PodCIDRs = append(n.PodCIDRs, l.cidr)
			}
		}
		slices.SortFunc(n.PodCIDRs, func(a, b netip.Prefix) int { return familyOrder(a.Addr(), b.Addr()) })
	}
	return len(best) > 0
}

// given are the pod CIDRs that Kubernetes gave.
func given(nodes []Node) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nodes {
		all = append(all, n.PodCIDRs...)
	}
	return all
}

func overlapsAny(p netip.Prefix, all []netip.Prefix) bool {
	return slices.ContainsFunc(all, p.Overlaps)
}

// inside names a Node with an address in one of the ranges, if there is one.
func inside(nodes []Node, ranges []claim.Range) (string, netip.Addr, claim.Range) {
	for _, n := range nodes {
		for _, address := range n.Addresses {
			for _, r := range ranges {
				if r.Prefix.Contains(address) {
					return n.Name, address, r
				}
			}
		}
	}
	return "", netip.Addr{}, claim.Range{}
}
