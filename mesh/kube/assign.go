package kube

import (
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/claim"
)

// assign gives the Nodes that Kubernetes gave no pod CIDRs those that they have claimed: of each range the block that a
// node has had for longest. What Kubernetes gave to any Node is nobody's claim.
func assign(nodes []Node, c claims, ranges []claim.Range) {
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
		n.sortPodCIDRs()
	}
}

// owner is a Node as it is now.
type owner struct{ name, uid string }

// carry gives Nodes what they had claimed, by counted, and what no Lease says any more: somebody removed it. It goes on to
// count until the node has claimed anew, so that an administrator's slip, or the end of the namespace, costs no traffic;
// but not when the block is anybody's by then. It returns what counts now. The nodes are as assign left them, and gave
// is what Kubernetes gave.
func carry(nodes []Node, c claims, ranges []claim.Range, gave []netip.Prefix, counted map[netip.Prefix]owner) map[netip.Prefix]owner {
	now := map[netip.Prefix]owner{}
	place := make(map[owner]int, len(nodes))
	for i, n := range nodes {
		place[owner{n.Name, n.UID}] = i
		for _, cidr := range n.PodCIDRs {
			if c.blocks[cidr] {
				now[cidr] = owner{n.Name, n.UID}
			}
		}
	}
	for cidr, had := range counted {
		i, there := place[had]
		inRange := slices.ContainsFunc(ranges, func(r claim.Range) bool { return r.Has(cidr) })
		if !there || !inRange || c.blocks[cidr] || overlapsAny(cidr, gave) {
			continue
		}
		n := &nodes[i]
		if slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return sameFamily(p.Addr(), cidr.Addr()) }) {
			continue
		}
		n.PodCIDRs = append(n.PodCIDRs, cidr)
		n.sortPodCIDRs()
		now[cidr] = had
	}
	return now
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
