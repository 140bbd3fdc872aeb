package kube

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// ClaimMode says when a node claims its pod CIDRs by itself.
type ClaimMode int

// The modes.
const (
	// ClaimNever: Kubernetes gives them, and Leases are neither read nor written.
	ClaimNever ClaimMode = iota
	// ClaimAuto: when Kubernetes doesn't give them: this node has been without for a while, no Node has one, and neither
	// kubeadm's podSubnet nor a cloud provider that is still at it says that one will come.
	ClaimAuto
	// ClaimAlways: at once when this node has none.
	ClaimAlways
)

// DefaultRange is what blocks are claimed from when nobody says: the one that Weave Net's users know.
const DefaultRange = "10.32.0.0/12"

// Claims says how the node claims pod CIDRs.
type Claims struct {
	Mode ClaimMode
	// Ranges are what the operator wants blocks to be cut from, at most one of each family; none: kubeadm's podSubnet, or
	// DefaultRange.
	Ranges []netip.Prefix
	// Bits4 and Bits6 are the lengths of the blocks.
	Bits4, Bits6 int
	// Explicit: the operator chose any of these; they have to be the cluster's then. Else the cluster's are taken.
	Explicit bool
	// Last are the pod CIDRs that the node had before, to take again.
	Last []netip.Prefix
}

// Cut are the ranges with the lengths of their blocks: of each family the first.
func (c Claims) Cut(prefixes []netip.Prefix) []claim.Range {
	var ranges []claim.Range
	for _, prefix := range prefixes {
		r := claim.Range{Prefix: prefix, Bits: c.Bits6}
		if prefix.Addr().Is4() {
			r.Bits = c.Bits4
		}
		if !slices.ContainsFunc(ranges, func(o claim.Range) bool { return sameFamily(o.Prefix.Addr(), prefix.Addr()) }) {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// situation is what a claimer decides by.
type situation struct {
	Claims
	self          Node
	uninitialized bool   // a cloud provider hasn't finished the own Node yet
	nodes         []Node // as Kubernetes has them: PodCIDRs are what it gave
	claims        claims
	ranges        []claim.Range // the cluster's, as they are or were last; none: not fixed yet
	podSubnet     []netip.Prefix
	patient       bool                      // the own Node has been without pod CIDRs for long enough
	reassigned    map[string][]netip.Prefix // by node: what counts of the claims
	rested        func(lease) bool          // the block has been free for long enough
}

// moveKind is what a claimer does next.
type moveKind int

const (
	moveNone   moveKind = iota
	moveWait            // nothing yet: time has to pass
	moveRange           // make the RangeLease
	moveCreate          // make a claim
	moveAdopt           // make a claim that was this node's before its own again
	moveFree            // remove a claim whose Node is gone and whose block has rested
)

// move is one write to the API server.
type move struct {
	kind   moveKind
	ranges []claim.Range
	block  netip.Prefix
	lease  lease
}

// wanted are the ranges that this node would fix for the cluster.
func (s situation) wanted() []claim.Range {
	switch {
	case len(s.Ranges) > 0:
		return s.Cut(s.Ranges)
	case len(s.podSubnet) > 0:
		return s.Cut(s.podSubnet)
	}
	return s.Cut([]netip.Prefix{netip.MustParsePrefix(DefaultRange)})
}

// decide says what to write next, one thing at a time, and what an operator should know.
func decide(s situation) (move, []view.Problem) {
	m, problems := s.claim()
	if p := s.hoarded(); p != nil {
		problems = append(problems, *p)
	}
	if m.kind == moveNone || m.kind == moveWait {
		if free := s.free(); free.kind != moveNone {
			return free, problems
		}
	}
	return m, problems
}

// claim is what has to be written for this node to have its claims.
func (s situation) claim() (move, []view.Problem) {
	held := s.claims.held(s.self.Name)
	if len(s.self.PodCIDRs) > 0 {
		if len(held) == 0 {
			return move{}, nil
		}
		return move{}, []view.Problem{claimsProblem(fmt.Sprintf("Kubernetes gives this node the pod CIDRs %v, so its claim of %s doesn't "+
			"count any more", s.self.PodCIDRs, held[0].cidr), fmt.Sprintf("pods with addresses of %s have to be made again: drain the "+
			"node; then remove the Lease %s/%s", held[0].cidr, ClaimNamespace, claim.Name(held[0].cidr)), true)}
	}
	has := s.reassigned[s.self.Name]
	missing := s.missing(has)
	if len(has) > 0 && len(missing) == 0 {
		return s.keep(held, has)
	}
	if !s.due(held) {
		return move{kind: moveWait}, nil
	}
	if p := cmp.Or(s.unwanted(), s.broken()); p != nil {
		return move{kind: moveWait}, []view.Problem{*p}
	}
	if s.claims.rangeUID == "" {
		return move{kind: moveRange, ranges: s.fixed()}, nil
	}
	for _, r := range missing {
		if m, p := s.claimOf(r, held); p != nil || m.kind != moveNone {
			return m, p
		}
	}
	return move{}, nil
}

// fixed are the ranges that are the cluster's, or would be.
func (s situation) fixed() []claim.Range {
	if len(s.ranges) > 0 {
		return s.ranges
	}
	return s.wanted()
}

// missing are the ranges that the node has no block of.
func (s situation) missing(has []netip.Prefix) []claim.Range {
	return slices.DeleteFunc(slices.Clone(s.fixed()), func(r claim.Range) bool { return slices.ContainsFunc(has, r.Has) })
}

// keep sees that what the node has stays its own: the RangeLease exists and owns its claims, so that they rest when the
// Node is gone.
func (s situation) keep(held []lease, has []netip.Prefix) (move, []view.Problem) {
	var problems []view.Problem
	for _, p := range []*view.Problem{s.mismatch(), s.intruded()} {
		if p != nil {
			p.Warning = true
			problems = append(problems, *p)
		}
	}
	if s.claims.rangeUID == "" {
		return move{kind: moveRange, ranges: s.ranges}, problems
	}
	for _, l := range held {
		if slices.Contains(has, l.cidr) && l.ranged != s.claims.rangeUID {
			return move{kind: moveAdopt, lease: l, block: l.cidr}, problems
		}
	}
	return move{}, problems
}

// broken says why nothing can be claimed from the ranges, if so.
func (s situation) broken() *view.Problem {
	if s.claims.rangeUID != "" && len(s.claims.ranges) == 0 {
		return refusal(fmt.Sprintf("this node has none, and claims none: the Lease %s/%s can't be used", ClaimNamespace, RangeLease),
			"see there")
	}
	if p := s.mismatch(); p != nil {
		return p
	}
	for _, r := range s.fixed() {
		if err := r.Check(); err != nil {
			return refusal(fmt.Sprintf("nothing can be claimed: %v", err),
				"correct --pod-range, --node-cidr-mask-size and --node-cidr-mask-size-ipv6")
		}
	}
	return s.intruded()
}

// intruded says that a node has an address in the ranges, if so.
func (s situation) intruded() *view.Problem {
	node, address, r := inside(s.nodes, s.fixed())
	if node == "" {
		return nil
	}
	return refusal(fmt.Sprintf("nothing is claimed from %s: it holds the address %s of node %s", r.Prefix, address, node),
		"choose a range for pods that no node has an address in, with --pod-range on all agents; if the Lease "+
			ClaimNamespace+"/"+RangeLease+" has this one already, see docs/install.md for how to move to another")
}

// mismatch says that the operator gave this agent other ranges than the cluster's, if so.
func (s situation) mismatch() *view.Problem {
	if !s.Explicit || len(s.ranges) == 0 || claim.Equal(s.ranges, s.wanted()) {
		return nil
	}
	return refusal(fmt.Sprintf("this agent is to claim from %s, and the claims of this cluster are from %s, which the Lease %s/%s says",
		list(s.wanted()), list(s.ranges), ClaimNamespace, RangeLease),
		"give all agents the same --pod-range, --node-cidr-mask-size and --node-cidr-mask-size-ipv6 as the Lease has, or none")
}

// refusal is why this node claims nothing.
func refusal(message, remedy string) *view.Problem {
	p := claimsProblem(message, remedy, false)
	return &p
}

func list(ranges []claim.Range) string {
	var texts []string
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, " and ")
}

// due reports whether the time to claim has come. Where claims are in use already, or were, nobody has to wait for
// Kubernetes.
func (s situation) due(held []lease) bool {
	if s.Mode == ClaimAlways || s.patient {
		return true
	}
	return !s.uninitialized && len(given(s.nodes)) == 0 && (len(held) > 0 || len(s.reassigned) > 0)
}

// unwanted says why this node claims nothing although it could: Kubernetes seems to give pod CIDRs.
func (s situation) unwanted() *view.Problem {
	if s.Mode == ClaimAlways {
		return nil
	}
	const remedy = "see why kube-controller-manager gives this Node none (its log; is its --cluster-cidr used up?); or, if it " +
		"isn't to give any, start the agents with --claim=always"
	for _, n := range s.nodes {
		if len(n.PodCIDRs) > 0 {
			return refusal(fmt.Sprintf("Kubernetes gives this node no pod CIDR, and gave node %s %v: so nothing is claimed", n.Name,
				n.PodCIDRs), remedy)
		}
	}
	if len(s.podSubnet) > 0 {
		return refusal(fmt.Sprintf("Kubernetes gives this node no pod CIDR, and is to do so by kubeadm's podSubnet %v: so nothing "+
			"is claimed", s.podSubnet), remedy)
	}
	return nil
}

// claimOf claims a block of a range: one that was this node's, or a free one.
func (s situation) claimOf(r claim.Range, held []lease) (move, []view.Problem) {
	kubernetes := given(s.nodes)
	for _, l := range held {
		if r.Has(l.cidr) && !l.belongs(s.self) && !overlapsAny(l.cidr, kubernetes) {
			return move{kind: moveAdopt, lease: l, block: l.cidr}, nil
		}
	}
	block, ok := claim.Next(r, s.self.Name, s.Last, func(p netip.Prefix) bool {
		return s.claims.blocks[p] || overlapsAny(p, kubernetes)
	})
	if ok {
		return move{kind: moveCreate, block: block}, nil
	}
	return move{kind: moveWait}, []view.Problem{s.full(r)}
}

// hoarded says which node has the most claims, if one has more than it can use.
func (s situation) hoarded() *view.Problem {
	type hoard struct {
		node string
		of   netip.Prefix
	}
	count := map[hoard]int{}
	var most hoard
	for _, l := range s.claims.leases {
		at := slices.IndexFunc(s.ranges, func(r claim.Range) bool { return r.Has(l.cidr) })
		if at < 0 || l.foreign != "" || l.node == nil {
			continue
		}
		h := hoard{l.holder, s.ranges[at].Prefix}
		count[h]++
		if d := count[h] - count[most]; d > 0 || d == 0 && h.node < most.node {
			most = h
		}
	}
	if count[most] < 2 {
		return nil
	}
	p := claimsProblem(fmt.Sprintf("node %s holds %d blocks of %s, and can have one: nobody is given the others", most.node, count[most], most.of),
		"remove the Leases of the others, in the namespace "+ClaimNamespace+"; if they come back, or are many, somebody else may have "+
			"the token of its agent: see docs/security.md", true)
	return &p
}

// full says of a range how full it is.
func (s situation) full(r claim.Range) view.Problem {
	resting, foreign := 0, 0
	for _, l := range s.claims.leases {
		switch {
		case !r.Has(l.cidr):
		case l.foreign != "":
			foreign++
		case l.resting():
			resting++
		}
	}
	return claimsProblem(fmt.Sprintf("the range %s is used up: all of its %d blocks of /%d are taken (%d rest after their Node was deleted, "+
		"%d are held by Leases that aren't claims)", r.Prefix, r.Count(), r.Bits, resting, foreign),
		"delete the Nodes that are gone for good, whose blocks are free some minutes later; or widen the range, see docs/install.md", false)
}

// free finds a claim whose Node is gone and whose block has rested.
func (s situation) free() move {
	for _, name := range slices.Sorted(maps.Keys(s.claims.leases)) {
		if l := s.claims.leases[name]; l.resting() && s.rested(l) {
			return move{kind: moveFree, lease: l, block: l.cidr}
		}
	}
	return move{}
}

// resting reports whether the Node that had the claim is gone: the API server's garbage collector has taken it out of the
// owners, and left the claim to the RangeLease.
func (l lease) resting() bool { return l.foreign == "" && l.node == nil && l.ranged != "" }
