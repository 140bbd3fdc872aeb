package mesh

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// goesBack says what is wrong with the WireGuard keys of a later record of the same identity, if anything: a node never
// goes back to a generation that it gave up, and never has two keys for one. Each may leave out what others missed.
func goesBack(known entry, r record.Record) string {
	if known.record.Identity != r.Identity {
		return ""
	}
	oldest := known.record.Generations[0].Number
	newest := known.record.Generations[len(known.record.Generations)-1].Number
	for _, g := range r.Generations {
		if g.Number < oldest {
			return fmt.Sprintf("it announces key generation %d, and had given up all below %d", g.Number, oldest)
		}
		for _, had := range known.record.Generations {
			if g.Number == had.Number && g.Key != had.Key {
				return fmt.Sprintf("it announces two different keys for generation %d", g.Number)
			}
		}
	}
	if last := r.Generations[len(r.Generations)-1].Number; last < newest {
		return fmt.Sprintf("it announces key generation %d as its newest, and had announced %d before", last, newest)
	}
	return ""
}

// keyOwner names the node that a WireGuard key of r belongs to, if that is another one: a key that two nodes announce
// would take the owner's place in the tunnels.
func (b *book) keyOwner(node string, r record.Record) string {
	for _, other := range slices.Sorted(maps.Keys(b.entries)) {
		if other == node {
			continue
		}
		for _, g := range b.entries[other].record.Generations {
			if hasKey(r, g.Key) {
				return other
			}
		}
	}
	return b.annotatedOwner(node, r)
}

// annotatedOwner names the one other node whose Node has a key of r as its own, so that who speaks before the owner
// gains nothing by it. Keys that the node has already stay with it, whatever is written on other Nodes: only what
// Kubernetes says of a node itself takes its record away. A key that several Nodes have belongs to the first that
// announces it: any of them may be the copy.
func (b *book) annotatedOwner(node string, r record.Record) string {
	if b.cluster == nil || !b.cluster.Synced {
		return "" // there may be more Nodes
	}
	known := b.entries[node].record
	for _, g := range r.Generations {
		if hasKey(known, g.Key) {
			continue
		}
		if owners := b.cluster.havingKey(g.Key); len(owners) == 1 && owners[0] != node {
			return owners[0]
		}
	}
	return ""
}

// havingKey are the nodes whose Node says that a WireGuard key is theirs.
func (c *ClusterState) havingKey(key keys.PublicKey) []string {
	var names []string
	for i := range c.Nodes {
		if c.Nodes[i].PublicKey == key {
			names = append(names, c.Nodes[i].Name)
		}
	}
	return names
}

func hasKey(r record.Record, key keys.PublicKey) bool {
	return slices.ContainsFunc(r.Generations, func(g record.Generation) bool { return g.Key == key })
}
