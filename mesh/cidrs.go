package mesh

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// claimSource is the PodRangeSource of ranges that nodes claim their pod CIDRs from.
const claimSource = "the Lease weaveguard/range"

// rememberRanges takes over what nodes claim from, as Kubernetes says it, into the cache, and returns whether that changed
// it. Where ranges are configured, those are there.
func (a *Agent) rememberRanges(cluster *ClusterState) bool {
	r := &a.remembered
	switch {
	case len(a.PodRanges) > 0:
		return false
	case len(cluster.PodRanges) > 0:
		changed := r.PodRangeSource != claimSource || !slices.Equal(r.PodRanges, cluster.PodRanges)
		r.PodRanges, r.PodRangeSource = cluster.PodRanges, claimSource
		return changed
	case r.PodRangeSource == claimSource:
		r.PodRanges, r.PodRangeSource = nil, ""
		return true
	}
	return false
}

// claimRanges are what nodes claim from, now or as Kubernetes said last, with the pod CIDRs seen that lie elsewhere.
func (a *Agent) claimRanges() []netip.Prefix {
	r := &a.remembered
	if a.Cluster == nil || r.PodRangeSource != claimSource {
		return nil
	}
	ranges := slices.Clone(r.PodRanges)
	for _, cidr := range r.PodCIDRs {
		if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Bits() <= cidr.Bits() && p.Overlaps(cidr) }) {
			ranges = append(ranges, cidr)
		}
	}
	return ranges
}

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
