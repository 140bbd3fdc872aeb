package mesh

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// attachments are what is attached on a node, as its document says.
type attachments struct {
	roster  []record.Attachment
	omitted int
}

// rosters are those of all documents in force, and of this node's own.
func (a *Agent) rosters(ctx context.Context, own []view.Network) map[string]attachments {
	all := make(map[string]attachments, len(a.documents.held)+1)
	for node, h := range a.documents.held {
		all[node] = attachments{h.document.Roster, int(h.document.Omitted)}
	}
	all[a.Node] = attachments{roster: a.roster(ctx, own)}
	return all
}

// Topology is all nodes with their networks and what is attached to them. Safe to call at any time.
func (a *Agent) Topology(ctx context.Context) view.Topology {
	s := a.Status(ctx)
	t := view.Topology{Time: s.Time, Node: s.Node, Nodes: []view.TopologyNode{}}
	p := a.last.Load()
	if p == nil {
		return t
	}
	self := view.TopologyNode{Name: s.Node, Self: true, Up: s.Ready, Networks: p.rosters[s.Node].on(s.PodCIDRs, s.Networks)}
	if len(s.Endpoints) > 0 {
		self.Endpoint = s.Endpoints[0].String()
	}
	if i := slices.IndexFunc(s.Problems, func(p view.Problem) bool { return !p.Warning }); !self.Up && i >= 0 {
		self.Reason = s.Problems[i].Message
	}
	t.Nodes = append(t.Nodes, self)
	for _, peer := range s.Peers {
		roster := p.rosters[peer.Node]
		t.Nodes = append(t.Nodes, view.TopologyNode{
			Name: peer.Node, Up: peer.Up, Reason: peer.Reason, Endpoint: peer.Endpoint,
			Networks: roster.on(peer.PodCIDRs, peer.Networks), Stale: peer.Document, Omitted: roster.omitted,
		})
	}
	slices.SortFunc(t.Nodes, func(a, b view.TopologyNode) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// on sorts what is attached by network: the default one, with these pod CIDRs, those beside it that count, and any others.
func (r attachments) on(cidrs []netip.Prefix, networks []view.Network) []view.TopologyNetwork {
	all := []view.TopologyNetwork{{Name: view.DefaultNetwork, CIDRs: cidrs}}
	for _, n := range networks {
		all = append(all, view.TopologyNetwork{Name: n.Name, CIDRs: n.CIDRs})
	}
	counted := len(all)
	for _, at := range r.roster {
		name := at.Network
		if name == "" {
			name = view.DefaultNetwork
		}
		i := slices.IndexFunc(all, func(n view.TopologyNetwork) bool { return n.Name == name })
		if i < 0 {
			i = len(all)
			all = append(all, view.TopologyNetwork{Name: name})
		}
		all[i].Attachments = append(all[i].Attachments, view.TopologyAttachment{
			Namespace: at.Namespace, Pod: at.Name, Interface: at.Interface, Addresses: at.Addresses,
			Stray: slices.ContainsFunc(at.Addresses, func(address netip.Addr) bool { return !within(address, all[i].CIDRs) }),
		})
	}
	for i := range all { // JSON has lists, not null
		all[i].CIDRs = append([]netip.Prefix{}, all[i].CIDRs...)
		all[i].Attachments = append([]view.TopologyAttachment{}, all[i].Attachments...)
	}
	slices.SortFunc(all[counted:], func(a, b view.TopologyNetwork) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func within(address netip.Addr, cidrs []netip.Prefix) bool {
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(address) })
}
