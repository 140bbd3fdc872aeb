package mesh

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// ownsCIDRs reports whether all that the record announces belongs to the Node.
func ownsCIDRs(n ClusterNode, r record.Record) bool {
	return subset(r.PodCIDRs(), n.PodCIDRs)
}

func subset(some, all []netip.Prefix) bool {
	return !slices.ContainsFunc(some, func(p netip.Prefix) bool { return !slices.Contains(all, p) })
}

// cidrOwner names, without Kubernetes, the node that had a pod CIDR of r for so long that nobody else gets it. What
// several nodes announce at once is the plan's to settle: all of them have to decide alike.
func (b *book) cidrOwner(node string, r record.Record, known entry) string {
	had := known.record.PodCIDRs()
	overlaps := func(cidrs []netip.Prefix) bool {
		return slices.ContainsFunc(r.PodCIDRs(), func(p netip.Prefix) bool {
			return !slices.Contains(had, p) && slices.ContainsFunc(cidrs, p.Overlaps)
		})
	}
	if b.now.Sub(b.ownSince) >= b.settle && overlaps(b.ownCIDRs) {
		return b.self
	}
	for _, other := range slices.Sorted(maps.Keys(b.entries)) {
		if e := b.entries[other]; other != node && b.now.Sub(e.since) >= b.settle && overlaps(e.record.PodCIDRs()) {
			return other
		}
	}
	return ""
}
