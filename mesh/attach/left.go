package attach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// maxNamed is how many pods are named of those that were left behind; of more, their number is.
const maxNamed = 5

// behind are attached pods by what this node doesn't have any more.
type behind struct {
	networks map[string]leftNetwork // by name: networks that this node doesn't have
	subnets  map[string]leftSubnet  // by name: networks of which it has other subnets now; the default one is contract.DefaultCNINetwork
}

type leftNetwork struct {
	bridge string
	pods   []string
}

type leftSubnet struct {
	now  []netip.Prefix
	pods []string
}

// leftBehind finds pods that are attached to a network that this node doesn't have, such as one whose file was removed, or
// that have addresses which aren't in its subnets, such as those of a former pod CIDR. Attachments by configurations that the
// agent knows nothing of don't count.
func leftBehind(ready view.Ready, attached []store.Attachment) behind {
	type place struct{ network, bridge string }
	subnets := map[place][]netip.Prefix{{contract.DefaultCNINetwork, ready.Bridge}: ready.Subnets}
	for _, n := range ready.Networks {
		subnets[place{n.Name, n.Bridge}] = n.Subnets
	}
	b := behind{networks: map[string]leftNetwork{}, subnets: map[string]leftSubnet{}}
	for _, at := range attached {
		if len(at.Ranges) == 0 && (at.Network != contract.DefaultCNINetwork || at.Bridge != ready.Bridge) {
			continue
		}
		now, known := subnets[place{at.Network, at.Bridge}]
		switch {
		case !known:
			b.networks[at.Network] = leftNetwork{at.Bridge, append(b.networks[at.Network].pods, holder(at))}
		case slices.ContainsFunc(at.Addresses, func(a netip.Addr) bool { return !contain(now, a) }):
			b.subnets[at.Network] = leftSubnet{now, append(b.subnets[at.Network].pods, holder(at))}
		}
	}
	return b
}

func contain(subnets []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(address) })
}

// onDefault reports whether pods of the default network have other addresses than this node's.
func (b behind) onDefault() bool { return len(b.subnets[contract.DefaultCNINetwork].pods) > 0 }

// problems returns one for each network.
func (b behind) problems() []view.Problem {
	var problems []view.Problem
	for network, left := range b.networks {
		problems = append(problems, view.Problem{
			Subject: "network " + network,
			Message: fmt.Sprintf("this node doesn't have it, and pods are attached to it: %s; its bridge %s stays for them, and they reach "+
				"nobody on other nodes by it", some(left.pods), left.bridge),
			Remedy:  "delete those pods, or configure the network again",
			Warning: true,
		})
	}
	for network, left := range b.subnets {
		problem := view.Problem{
			Subject: "network " + network,
			Message: fmt.Sprintf("this node has %s of it now, and pods have other addresses: %s; nobody reaches those",
				view.JoinPrefixes(left.now), some(left.pods)),
			Remedy:  "delete those pods, or give the network its former subnets",
			Warning: true,
		}
		if network == contract.DefaultCNINetwork {
			problem.Subject, problem.Warning = "pods", false
			problem.Message = fmt.Sprintf("this node's pod CIDR is %s now, and pods have other addresses: %s; another node may have got those, "+
				"so no pod is attached here until they are gone", view.JoinPrefixes(left.now), some(left.pods))
			problem.Remedy = "delete those pods (with Kubernetes `kubectl drain` does), or detach what was attached by hand"
		}
		problems = append(problems, problem)
	}
	slices.SortFunc(problems, func(a, b view.Problem) int { return strings.Compare(a.Subject, b.Subject) })
	return problems
}

// some names pods, and of many the first.
func some(pods []string) string {
	slices.Sort(pods)
	named := strings.Join(pods[:min(len(pods), maxNamed)], ", ")
	if more := len(pods) - maxNamed; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return named
}

// holder names what an attachment belongs to.
func holder(at store.Attachment) string {
	if at.PodName == "" {
		return fmt.Sprintf("container %s (%s)", at.ContainerID, at.IfName)
	}
	return fmt.Sprintf("%s/%s (%s)", at.PodNamespace, at.PodName, at.IfName)
}
