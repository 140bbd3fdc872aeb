package mesh

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// scarce is the part of a CIDR's addresses that is told of when no more are free, and manyAddresses how many a CIDR has
	// at least for that: of a few the first pod takes most.
	scarce        = 0.05
	manyAddresses = 32
)

// countAddresses reports CIDRs of this node that have no address left for pods, or soon won't.
func (p *pass) countAddresses() {
	self := p.view.Self
	for _, n := range p.rosters[self.Name].on(self.PodCIDRs, self.Networks) {
		for _, cidr := range n.CIDRs {
			var used []netip.Addr
			for _, at := range n.Attachments {
				for _, address := range at.Addresses {
					if cidr.Contains(address) {
						used = append(used, address)
					}
				}
			}
			slices.SortFunc(used, netip.Addr.Compare)
			if problem, scarce := addressProblem(n.Name, cidr, uint64(len(slices.Compact(used)))); scarce {
				p.problems = append(p.problems, problem)
			}
		}
	}
}

// addressProblem says that a CIDR is used up, or nearly.
func addressProblem(network string, cidr netip.Prefix, used uint64) (view.Problem, bool) {
	all := contract.PodAddresses(cidr)
	problem := view.Problem{
		Subject: "pod CIDR " + cidr.String(),
		Remedy:  "move pods to other nodes (with Kubernetes `kubectl cordon` keeps new ones away), or give this node a larger pod CIDR once it has none",
	}
	if network != view.DefaultNetwork {
		problem.Subject = fmt.Sprintf("network %s: CIDR %s", network, cidr)
		problem.Remedy = "detach pods here, or give the network larger subnets"
	}
	switch free := max(all, used) - used; {
	case free == 0:
		problem.Message = fmt.Sprintf("it is full: all %d addresses that pods can have here are in use, so no other pod gets one", all)
	case all >= manyAddresses && float64(free) < scarce*float64(all):
		problem.Warning = true
		problem.Message = fmt.Sprintf("it is nearly full: %d of %d addresses are free", free, all)
	default:
		return view.Problem{}, false
	}
	return problem, true
}
