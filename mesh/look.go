package mesh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/aside"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// maxUnknown is how many unknown speakers are named, each by a problem of its own; of more, one is.
const maxUnknown = 5

// seenSource is the PodRangeSource of ranges that nobody configured.
const seenSource = "pod CIDRs seen so far"

// look takes a fresh view of the mesh.
func (a *Agent) look(ctx context.Context, p *pass) {
	changed := nothing
	if a.Cluster != nil {
		state := a.Cluster.State()
		p.cluster = &state
		p.problems = append(p.problems, state.Problems...)
		changed = changeOf(a.rememberCluster(p.cluster)) // before this node is looked at, which is as it is remembered
	}
	a.resumeClaims(ctx)
	heard := a.Gossip.Heard()
	a.book.ownAddresses, a.book.ownSequence = a.self().Addresses, a.announced.record.Sequence
	if a.GossipAddress.IsValid() {
		a.book.ownAddresses = append(slices.Clone(a.book.ownAddresses), a.GossipAddress)
	}
	changed = max(changed, a.book.take(heard, p.cluster, p.began), changeOf(a.heed(p, heard)))
	if changed == everything && len(a.book.rivals) > 0 {
		a.Latch.Set() // what is refused for its pod CIDRs may be taken now that another one has others
	}
	a.rememberForgotten()
	a.changes.heard(a.book.taken)
	changed = max(changed, a.documents.follow(a.book.entries, p.began), a.listen(p.began))
	alive := map[string]bool{}
	for _, h := range heard {
		alive[h.Node] = alive[h.Node] || h.Alive
	}
	a.welcome(alive)
	a.ask(alive, p.began)
	a.notice(p)
	a.claims(ctx, p)
	p.view = view.View{
		Self: a.self(), Peers: a.book.nodes(alive), Waiting: a.book.waitingNodes(alive), Links: a.links.states,
	}
	p.view.Self.Closed = p.closed
	p.view.PodRanges, p.view.PodRangeSource = a.podRanges(p)
	p.view.PodRangesSeen = p.view.PodRangeSource == seenSource
	if a.Cluster != nil {
		p.view.NodeAddresses = a.remembered.NodeAddresses
	}
	changed = max(changed, a.lookAtNetworks(ctx, p), changeOf(a.rememberRecords()))
	p.countAddresses()
	p.changed = changed
	if changed == everything || a.unsaved || a.last.Load() == nil || a.saveRosters(changed, p.began) {
		a.remember(p)
	}
	a.keepFiles(p)
}

// saveRosters reports whether it is time to write the cache for the sake of what changed of rosters.
func (a *Agent) saveRosters(changed change, now time.Time) bool {
	if changed == rosters && a.saveDue.IsZero() {
		a.saveDue = now.Add(rostersSaved)
	}
	return !a.saveDue.IsZero() && !a.saveDue.After(now)
}

// remember writes what is known to disk, and reports whether it could.
func (a *Agent) remember(p *pass) bool {
	err := a.remembered.save(a.CachePath)
	a.saveDue = time.Time{}
	if a.unsaved = err != nil; a.unsaved {
		p.problems = append(p.problems, view.Problem{
			Subject: "view cache", Message: err.Error(),
			Remedy: "free or repair the disk; until then a restart without the others starts from an older view",
		})
	}
	return !a.unsaved
}

// welcome starts handshakes afresh with nodes that gossip sees again.
func (a *Agent) welcome(alive map[string]bool) {
	for node, e := range a.book.entries {
		if !alive[node] || a.alive[node] {
			continue
		}
		for _, g := range e.record.Generations {
			a.links.returned(g.Key, time.Now())
		}
		delete(a.rotation.acks.told, node) // an agent that was started again has to be told anew
	}
	a.alive = alive
}

// notice reports what others say in this node's name, and what gossip found.
func (a *Agent) notice(p *pass) {
	if err := a.Keys.RaiseSequence(a.book.ownSeen); err != nil {
		p.fail("key store", err)
	}
	if held := a.Keys.Rotation().Generations; a.book.ownGeneration > held[len(held)-1] {
		p.problems = append(p.problems, view.Problem{
			Subject: "key store", Message: fmt.Sprintf("it has key generation %d of this node, and the others have seen %d already, so "+
				"they don't take this node's record", held[len(held)-1], a.book.ownGeneration),
			Remedy: "if it was restored from a backup: move " + keys.FileName + " in the state directory away, and restart the agent within half a minute; " +
				"if not, another host has a copy of it",
		})
	}
	if a.book.impostor != "" {
		p.problems = append(p.problems, view.Problem{
			Subject: "node " + a.Node, Message: a.book.impostor,
			Remedy: "give each host a name of its own, or end the agent on the host that shouldn't have it; if there is no such " +
				"host, somebody has the gossip key: change it",
		})
	}
	for _, node := range slices.Sorted(maps.Keys(a.book.disputed)) {
		no := a.book.disputed[node]
		remedy := "if its disk was wiped: `weaveguard forget " + node + "` here, and on each other host that says so; if not, somebody " +
			"else speaks for it"
		if no.word == backwardsWord {
			remedy = "was its key store restored from a backup, or is a copy of it in use? Move " + contract.StateDir + "/" + keys.FileName +
				" away there, and restart its agent within half a minute"
		}
		p.problems = append(p.problems, view.Problem{
			Subject: "node " + node, Message: "its record isn't taken: " + no.reason, Remedy: remedy,
		})
	}
	for _, node := range slices.Sorted(maps.Keys(a.book.unknown)) {
		p.problems = append(p.problems, view.Problem{
			Subject: "gossip", Warning: true,
			Message: fmt.Sprintf("%s speaks as node %q, and Kubernetes has no such Node", a.book.unknown[node], node),
			Remedy:  "if the Node was deleted, end the agent there; if not, change the gossip key: somebody else has it",
		})
		if len(a.book.unknown) > maxUnknown {
			break // the count of refused records says how many
		}
	}
	a.noticeForgotten(p)
	a.accuse(p)
	p.problems = append(p.problems, a.Gossip.Problems()...)
	p.problems = append(p.problems, a.Hosts.problems()...)
	p.problems = append(p.problems, a.Attach.Problems()...)
	p.problems = append(p.problems, aside.Problems(a.CachePath, lostCache)...)
}

// rememberRecords takes over into the cache which records count now. It returns whether that has pod CIDRs that were never
// seen; that records changed is known.
func (a *Agent) rememberRecords() bool {
	changed := false
	nodes := make(map[string]RememberedRecord, len(a.book.entries))
	room := maxCachedDocuments
	for _, name := range slices.Sorted(maps.Keys(a.book.entries)) {
		e := a.book.entries[name]
		r := RememberedRecord{Raw: e.raw, Age: e.age, From: e.from}
		if document := a.documents.held[name].raw; len(document) <= room {
			r.Document, room = document, room-len(document)
		}
		nodes[name] = r
		changed = a.rememberCIDRs(e.record.PodCIDRs()) || changed
	}
	a.remembered.Nodes, a.remembered.Document = nodes, a.document.raw
	return changed
}

// rememberCluster takes over what Kubernetes says of this node, the pod CIDRs and addresses of all, and what they are
// claimed from, into the cache, and returns whether that changed it.
func (a *Agent) rememberCluster(cluster *ClusterState) bool {
	if !cluster.Synced {
		return false
	}
	changed := a.rememberRanges(cluster)
	for _, n := range cluster.Nodes {
		changed = a.rememberCIDRs(n.PodCIDRs) || changed
	}
	if all := cluster.addresses(); !slices.Equal(a.remembered.NodeAddresses, all) {
		a.remembered.NodeAddresses, changed = all, true
	}
	n := cluster.node(a.Node)
	if n == nil {
		return changed
	}
	self := RememberedSelf{
		Node: a.Node, PodCIDRs: n.PodCIDRs, Addresses: n.Addresses, Endpoint: n.Endpoint, Age: n.Created.Unix(),
	}
	old := a.remembered.Self
	if old.Node != self.Node || old.Age != self.Age || old.Endpoint != self.Endpoint || !slices.Equal(old.PodCIDRs, self.PodCIDRs) ||
		!slices.Equal(old.Addresses, self.Addresses) {
		a.remembered.Self = self
		changed = true
	}
	return changed
}

// addresses are those of all Nodes, of any kind, sorted.
func (c *ClusterState) addresses() []netip.Addr {
	var all []netip.Addr
	for _, n := range c.Nodes {
		all = append(append(all, n.Addresses...), n.AllAddresses...)
		if n.Endpoint.IsValid() {
			all = append(all, n.Endpoint)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// rememberCIDRs adds pod CIDRs to those that were ever seen, sorted.
func (a *Agent) rememberCIDRs(cidrs []netip.Prefix) bool {
	changed := false
	for _, cidr := range cidrs {
		if len(a.remembered.PodCIDRs) < maxCachedCIDRs && !slices.Contains(a.remembered.PodCIDRs, cidr) {
			a.remembered.PodCIDRs = append(a.remembered.PodCIDRs, cidr)
			changed = true
		}
	}
	if changed {
		slices.SortFunc(a.remembered.PodCIDRs, func(x, y netip.Prefix) int {
			return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
		})
	}
	return changed
}

// self is this node as flags and Kubernetes, now or when it answered last, describe it.
func (a *Agent) self() view.Self {
	s := view.Self{
		Name: a.Node, Identity: a.Keys.Identity().Public(), PodCIDRs: a.PodCIDRs, Addresses: a.Addresses,
		Bridge: a.Bridge, BasePort: a.BasePort, MTU: a.MTU, WireGuard: a.WireGuard,
		AllowPodsTo: a.AllowPodsTo, OwnPorts: a.OwnPorts,
	}
	for _, g := range a.Keys.Generations() {
		s.Generations = append(s.Generations, record.Generation{Number: g.Number, Key: g.Private.Public()})
	}
	s.Unannounced = !a.Keys.Rotation().Announced
	if known := a.remembered.Self; a.Cluster != nil && known.Node == a.Node {
		s.PodCIDRs, s.Age, s.Endpoint = known.PodCIDRs, known.Age, known.Endpoint
		if len(s.Addresses) == 0 {
			s.Addresses = known.Addresses
		}
	}
	return s
}

// podRanges are the configured ones, or those that nodes claim from, or all pod CIDRs that were ever seen.
func (a *Agent) podRanges(p *pass) ([]netip.Prefix, string) {
	if len(a.PodRanges) > 0 {
		return a.PodRanges, a.PodRangeSource
	}
	if ranges := a.claimRanges(); len(ranges) > 0 {
		return ranges, claimSource
	}
	ranges := slices.Clone(a.remembered.PodCIDRs)
	for _, cidr := range a.PodCIDRs {
		if !slices.Contains(ranges, cidr) {
			ranges = append(ranges, cidr)
		}
	}
	if len(a.remembered.PodCIDRs) >= maxCachedCIDRs {
		p.problems = append(p.problems, view.Problem{
			Subject: "pod CIDRs", Message: fmt.Sprintf("%d were seen, and no more are remembered, so later ones don't fail closed", maxCachedCIDRs),
			Remedy: "set --pod-range; and if so many nodes never were, change the gossip key: somebody else has it",
		})
	}
	p.problems = append(p.problems, view.Problem{
		Subject: "pod ranges", Warning: true,
		Message: "not configured, so only the pod CIDRs seen so far fail closed",
		Remedy:  "start the agents with --pod-range and the cluster's whole pod range",
	})
	return ranges, seenSource
}
