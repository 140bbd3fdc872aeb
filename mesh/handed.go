package mesh

import (
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

const (
	// handedFor is for how long each forgery that nobody announces, but that was handed on, is reported.
	handedFor = 2 * time.Minute
	// formerFor is for how long it is known who a node was that has no Node any more: it may get one again.
	formerFor = 24 * time.Hour
)

// handedOn reports whether a candidate that nobody announces was handed on lately, and no honest agent can have done so.
func (b *book) handedOn(h Heard, v *verdict, word string) bool {
	if h.From.IsValid() || !b.dishonest(h.Node, *v, word) {
		return false // whoever announced it is gone, or an agent that missed what came later hands it on
	}
	if v.handed.IsZero() {
		v.handed = b.now
	}
	return b.now.Sub(v.handed) <= handedFor
}

// dishonest reports whether a candidate can be nothing that counts for an honest agent, of which some have missed what
// happened lately: they still hand on what a node said under a former identity, with former pod CIDRs, or before it said
// something else.
func (b *book) dishonest(node string, v verdict, word string) bool {
	switch word {
	case pinWord, disputedWord:
		who := claimant{node, v.record.Identity}
		if _, had := b.former[who]; had {
			return false
		}
		if b.stranger(who.identity) {
			return true
		}
		if b.now.Sub(b.started) < lingering && len(b.former) < maxNames {
			b.former[who] = b.started // it may have been the node's, before this agent was there
			return false
		}
		return true
	case nameWord:
		return b.stranger(v.record.Identity) // else it may be this node's, before its disk was wiped
	case cidrWord, keyWord:
		known, counts := b.entries[node]
		return counts && known.record.Identity == v.record.Identity && v.record.Sequence >= known.record.Sequence
	}
	return forged(word)
}

// retire notes that a node has lost an identity. Of too many, the one that was lost first is forgotten: a node may take
// any number of them, one after the other.
func (b *book) retire(c claimant) {
	if _, known := b.former[c]; !known && len(b.former) >= maxNames {
		var first claimant
		for other, left := range b.former {
			if at, found := b.former[first]; !found || left.Before(at) {
				first = other
			}
		}
		delete(b.former, first)
	}
	b.former[c] = b.now
}

// stranger reports whether an identity is that of a node. It is asked only about those that aren't the node's whose name they
// use: then it is another node's.
func (b *book) stranger(identity keys.PublicIdentity) bool {
	if b.strangers == nil {
		b.strangers = map[keys.PublicIdentity]bool{b.identity: true}
		for _, e := range b.entries {
			b.strangers[e.record.Identity] = true
		}
		if b.cluster != nil {
			for _, n := range b.cluster.Nodes {
				b.strangers[n.Identity] = true
			}
		}
	}
	return b.strangers[identity]
}
