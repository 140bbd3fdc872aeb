package mesh

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// maxRefusedNetworks is how many networks of other nodes that aren't used are named, each by a problem of its own; of more,
// their number is.
const maxRefusedNetworks = 10

// networkClaim is a network as one node says that it has it.
type networkClaim struct {
	node    string
	age     int64
	network view.Network
}

// networkRefusal is a network of a node that isn't used, and why.
type networkRefusal struct {
	networkClaim
	reason string
}

// taken is a prefix, and what it belongs to, in words.
type taken struct {
	prefix netip.Prefix
	by     string
}

// prefixes are some of which no two overlap, sorted.
type prefixes []taken

// overlap finds one that has addresses in common with p.
func (s prefixes) overlap(p netip.Prefix) (taken, bool) {
	at, _ := s.search(p)
	for _, i := range []int{at - 1, at} {
		if i >= 0 && i < len(s) && s[i].prefix.Overlaps(p) {
			return s[i], true
		}
	}
	return taken{}, false
}

// with is s and one more, unless that overlaps.
func (s prefixes) with(t taken) prefixes {
	if _, overlaps := s.overlap(t.prefix); overlaps {
		return s
	}
	at, _ := s.search(t.prefix)
	return slices.Insert(s, at, t)
}

func (s prefixes) search(p netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(s, p.Masked().Addr(), func(t taken, a netip.Addr) int { return t.prefix.Masked().Addr().Compare(a) })
}

// networkRules are what networks are settled by: what no network may overlap, and what of networks is settled already.
type networkRules struct {
	pods   prefixes     // of the default network
	hosts  []netip.Addr // of nodes, sorted
	ranges prefixes     // of all networks
	known  map[string]*knownNetwork
}

// knownNetwork is a network that counts.
type knownNetwork struct {
	first networkClaim // whose ranges all others must have
	cidrs prefixes
}

// settleNetworks decides which networks of which nodes count. The older node's does, on a tie the smaller name's, so that
// every node decides alike: a network's ranges overlap nothing else, and are the same on all nodes that have it, and no two
// nodes have the same part of it. Pods are the default network's ranges, hosts the addresses of nodes.
func settleNetworks(claims []networkClaim, pods []netip.Prefix, hosts []netip.Addr) (map[string][]view.Network, []networkRefusal) {
	if len(claims) == 0 {
		return nil, nil
	}
	rules := networkRules{hosts: slices.Clone(hosts), known: map[string]*knownNetwork{}}
	slices.SortFunc(rules.hosts, netip.Addr.Compare)
	wide := slices.Clone(pods)
	slices.SortStableFunc(wide, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	for _, p := range wide {
		rules.pods = rules.pods.with(taken{p, "the default network's pod range " + p.String()})
	}
	claims = slices.Clone(claims)
	slices.SortStableFunc(claims, func(a, b networkClaim) int {
		return cmp.Or(cmp.Compare(a.age, b.age), strings.Compare(a.node, b.node), strings.Compare(a.network.Name, b.network.Name))
	})
	counted := map[string][]view.Network{}
	var refused []networkRefusal
	for _, c := range claims {
		if why := rules.settle(c); why != "" {
			refused = append(refused, networkRefusal{c, why})
			continue
		}
		counted[c.node] = append(counted[c.node], c.network)
	}
	return counted, refused
}

// settle takes in a claim, or says why it doesn't count.
func (r *networkRules) settle(c networkClaim) string {
	known := r.known[c.network.Name]
	if known == nil {
		if why := r.clash(c); why != "" {
			return why
		}
		known = &knownNetwork{first: c}
	}
	if first := known.first; !slices.Equal(first.network.Ranges, c.network.Ranges) {
		return fmt.Sprintf("its ranges are %s, and node %s, which is older and keeps its own, has it with %s",
			view.JoinPrefixes(c.network.Ranges), first.node, view.JoinPrefixes(first.network.Ranges))
	}
	for _, cidr := range c.network.CIDRs {
		if t, overlaps := known.cidrs.overlap(cidr); overlaps {
			return fmt.Sprintf("its subnet %s overlaps %s", cidr, t.by)
		}
	}
	if r.known[c.network.Name] == nil {
		r.known[c.network.Name] = known
		for _, p := range c.network.Ranges {
			r.ranges = r.ranges.with(taken{p, fmt.Sprintf("%s of network %s on node %s, which is older and keeps it", p, c.network.Name, c.node)})
		}
	}
	for _, cidr := range c.network.CIDRs {
		known.cidrs = known.cidrs.with(taken{cidr, fmt.Sprintf("%s of node %s, which is older and keeps it", cidr, c.node)})
	}
	return ""
}

// clash says what the ranges of a network that isn't known yet overlap.
func (r *networkRules) clash(c networkClaim) string {
	for _, p := range c.network.Ranges {
		for _, others := range []prefixes{r.pods, r.ranges} {
			if t, overlaps := others.overlap(p); overlaps {
				return fmt.Sprintf("its range %s overlaps %s", p, t.by)
			}
		}
		at, _ := slices.BinarySearchFunc(r.hosts, p.Masked().Addr(), netip.Addr.Compare)
		if at < len(r.hosts) && p.Contains(r.hosts[at]) {
			return fmt.Sprintf("its range %s has %s in it, which is the address of a node", p, r.hosts[at])
		}
	}
	return ""
}

// lookAtNetworks brings the networks of all nodes that count into the view, says which don't, and makes this node's document.
// It returns what changes by that.
func (a *Agent) lookAtNetworks(ctx context.Context, p *pass) change {
	var own []view.Network
	if a.Networks != nil {
		var problems []view.Problem
		own, problems = a.Networks.Configured()
		p.problems = append(p.problems, problems...)
	}
	p.rosters = a.rosters(ctx, own)
	changed, err := a.say(own, p.rosters[a.Node].roster, p.began)
	if err != nil {
		p.fail("networks", err)
	}
	v := &p.view
	claims := claimsOf(v.Self.Name, v.Self.Age, own)
	pods, hosts := slices.Concat(v.PodRanges, v.Self.PodCIDRs), slices.Concat(v.Self.Addresses, v.NodeAddresses)
	for _, n := range v.Peers {
		claims = append(claims, claimsOf(n.Name, n.Age, a.documents.networks(n.Name))...)
		pods = append(pods, n.PodCIDRs...)
		for _, e := range n.Endpoints {
			hosts = append(hosts, e.Addr())
		}
	}
	counted, refused := settleNetworks(claims, pods, hosts)
	v.Self.Networks = counted[v.Self.Name]
	for i := range v.Peers {
		v.Peers[i].Networks = counted[v.Peers[i].Name]
	}
	p.documents = a.documents.allWaiting()
	p.problems = append(p.problems, a.documents.problems()...)
	p.problems = append(p.problems, refusedNetworks(v.Self.Name, refused)...)
	return changed
}

func claimsOf(node string, age int64, networks []view.Network) []networkClaim {
	claims := make([]networkClaim, len(networks))
	for i, n := range networks {
		claims[i] = networkClaim{node, age, n}
	}
	return claims
}

// networks are those of a node's document in force.
func (d *documents) networks(node string) []view.Network {
	var networks []view.Network
	for _, n := range d.held[node].document.Networks {
		networks = append(networks, view.Network{Name: n.Name, Ranges: n.Ranges, CIDRs: n.CIDRs})
	}
	return networks
}

// refusedNetworks says which networks don't count: this node's own first.
func refusedNetworks(self string, refused []networkRefusal) []view.Problem {
	const remedy = "give them ranges and subnets that overlap nothing else, the same ranges for one name on all nodes"
	var own, others []view.Problem
	for _, r := range refused {
		if r.node == self {
			own = append(own, view.Problem{Subject: "network " + r.network.Name, Message: "it isn't used: " + r.reason, Remedy: remedy})
			continue
		}
		others = append(others, view.Problem{
			Subject: "network " + r.network.Name + " of node " + r.node, Message: "it isn't used: " + r.reason, Remedy: remedy, Warning: true,
		})
	}
	if more := len(others) - maxRefusedNetworks; more > 0 {
		others = append(others[:maxRefusedNetworks], view.Problem{
			Subject: "networks", Message: fmt.Sprintf("%d more of other nodes aren't used", more), Remedy: "see to those named first", Warning: true,
		})
	}
	return append(own, others...)
}
