package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// rival is whom another node's record that is refused makes a claim for.
type rival struct {
	identity keys.PublicIdentity
	sequence uint64
	cidrs    []netip.Prefix
}

// takenBlocks are those that others announce, whether or not their records count, and those that this host's network, or
// another node, stands on; and what is wider than a block of that. What is refused takes blocks only if it is one: else a
// single host that says that it has all would keep the others from having any.
func (a *Agent) takenBlocks() (taken func(netip.Prefix) bool, wide []netip.Prefix) {
	exact := map[netip.Prefix]bool{}
	add := func(p netip.Prefix) {
		for _, r := range a.claiming.ranges {
			if !r.Prefix.Overlaps(p) {
				continue
			}
			if block, err := p.Addr().Prefix(r.Bits); p.Bits() >= r.Bits && err == nil {
				exact[block] = true
			} else {
				wide = append(wide, p)
			}
		}
	}
	single := func(address netip.Addr) { add(netip.PrefixFrom(address, address.BitLen())) }
	for _, e := range a.book.entries {
		for _, cidr := range e.record.PodCIDRs() {
			add(cidr)
		}
		for _, endpoint := range e.record.Endpoints() {
			single(endpoint.Addr())
		}
	}
	for _, r := range a.book.rivals {
		for _, cidr := range r.cidrs {
			if a.claiming.fits(cidr) {
				add(cidr)
			}
		}
	}
	ours := func(device string) bool {
		return device == a.Bridge || strings.HasPrefix(device, contract.DevicePrefix)
	}
	if host := a.claiming.host; host != nil {
		for _, address := range host.Addresses {
			if !ours(address.Device) {
				single(address.Address.Addr())
			}
		}
		for _, r := range host.Routes {
			// A wider route gives way to that of a block.
			inside := slices.ContainsFunc(a.claiming.ranges, func(c claim.Range) bool {
				return r.Destination.Bits() >= c.Bits && c.Prefix.Overlaps(r.Destination)
			})
			if !ours(r.Device) && inside {
				add(r.Destination)
			}
		}
	}
	return func(block netip.Prefix) bool { return exact[block] }, wide
}

// fits reports whether a pod CIDR is a block of what this node claims from.
func (c *claiming) fits(cidr netip.Prefix) bool {
	return slices.ContainsFunc(c.ranges, func(r claim.Range) bool { return r.Has(cidr) })
}

// rivalsFor are the nodes that announce (part of) these pod CIDRs, sorted. What is refused counts only if it fits: this is
// for what the operators of both have to settle, and not for anybody to take.
func (b *book) rivalsFor(cidrs []netip.Prefix, fits func(netip.Prefix) bool) []string {
	var rivals []string
	add := func(node string, others []netip.Prefix) {
		if slices.ContainsFunc(others, func(p netip.Prefix) bool { return slices.ContainsFunc(cidrs, p.Overlaps) }) {
			rivals = append(rivals, node)
		}
	}
	for node, e := range b.entries {
		add(node, e.record.PodCIDRs())
	}
	for node, r := range b.rivals {
		add(node, slices.DeleteFunc(slices.Clone(r.cidrs), func(p netip.Prefix) bool { return !fits(p) }))
	}
	slices.Sort(rivals)
	return slices.Compact(rivals)
}

// dropWith drops the records that have (part of) these pod CIDRs, and returns their nodes, sorted.
func (b *book) dropWith(cidrs []netip.Prefix) []string {
	var nodes []string
	for _, node := range slices.Sorted(maps.Keys(b.entries)) {
		overlaps := func(p netip.Prefix) bool { return slices.ContainsFunc(cidrs, p.Overlaps) }
		if slices.ContainsFunc(b.entries[node].record.PodCIDRs(), overlaps) {
			delete(b.entries, node)
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// misfits are the nodes whose pod CIDRs aren't blocks of what this one claims from.
func (a *Agent) misfits() []view.Problem {
	var misfits []string
	add := func(node string, cidrs []netip.Prefix) {
		for _, cidr := range cidrs {
			if !a.claiming.fits(cidr) {
				misfits = append(misfits, fmt.Sprintf("%s of node %s", cidr, node))
			}
		}
	}
	for node, e := range a.book.entries {
		add(node, e.record.PodCIDRs())
	}
	for node, r := range a.book.rivals {
		add(node, r.cidrs)
	}
	if len(misfits) == 0 {
		return nil
	}
	slices.Sort(misfits)
	text := briefly(slices.Compact(misfits))
	var ranges []string
	for _, r := range a.claiming.ranges {
		ranges = append(ranges, r.String())
	}
	return []view.Problem{{
		Subject: "pod ranges", Warning: true,
		Message: fmt.Sprintf("this node claims from %s, and other nodes' pod CIDRs don't fit: %s", strings.Join(ranges, " and "), text),
		Remedy:  "give all hosts the same --pod-range, --node-cidr-mask-size and --node-cidr-mask-size-ipv6",
	}}
}
