package mesh

import (
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// ackInterval is how often this node's word to a rotating peer is repeated, at first and after so many times.
	ackInterval = time.Second
	ackOften    = 30
	ackSlowly   = 10 * time.Second
	// ackStride is how far the peer that is told first moves on. An agent takes about as many messages from an address in
	// a second: where names are made up for one address, its own still has its turn.
	ackStride = 16
	// ackRefused counts messages that aren't a peer's word to this node.
	ackRefused = "ack"
)

// acks are what peers said about which key of this node their traffic takes, and what this node told rotating peers.
// The loop owns it.
type acks struct {
	heard map[string]heardAck // node → its latest word
	told  map[string]toldAck  // node → what it was told
	first int                 // which of the peers is told first
}

type heardAck struct {
	identity keys.PublicIdentity // of who said it
	ack      record.Ack
}

type toldAck struct {
	identity   keys.PublicIdentity // of who was told
	generation record.Generation   // its key that traffic takes
	since      time.Time           // when the peer was seen to rotate
	again      time.Time           // when it is to be told again
	times      int
	settled    bool // traffic takes the peer's newest key
}

// hear opens acknowledgements that came.
func (a *Agent) hear(messages [][]byte) []heardAck {
	var all []heardAck
	for _, raw := range messages {
		ack, err := record.OpenAck(raw, a.Node, a.Keys.Identity().Public(), a.identityOf)
		if err != nil {
			a.book.refused[ackRefused]++
			a.Log.Debug("a message isn't taken", "error", err)
			continue
		}
		identity, _ := a.identityOf(ack.From)
		all = append(all, heardAck{identity, ack})
	}
	return all
}

// take keeps the latest word of each node.
func (k *acks) take(heard []heardAck) {
	if k.heard == nil {
		k.heard = map[string]heardAck{}
	}
	for _, h := range heard {
		old, has := k.heard[h.ack.From]
		if !has || old.identity != h.identity || h.ack.Sequence > old.ack.Sequence {
			k.heard[h.ack.From] = h
		}
	}
}

// of is the key of this node that a node's traffic takes, by its own word; zero if it hasn't said any.
func (k *acks) of(node string, b *book) record.Generation {
	h, has := k.heard[node]
	if !has || h.identity != b.entries[node].record.Identity {
		return record.Generation{}
	}
	return h.ack.Generation
}

// acknowledge tells the peers that rotate which of their keys this node's traffic takes, again and again until they
// have given up the old one.
func (a *Agent) acknowledge(p *pass, now time.Time) {
	told := map[string]toldAck{}
	spoke := false
	for _, n := range a.rotation.acks.inTurn(p.view.Peers) {
		t := a.rotation.acks.told[n.Name]
		if t.identity != n.Identity || t.since.IsZero() {
			t = toldAck{identity: n.Identity, since: now}
		}
		l := carrying(p, n.Name)
		sends := l != nil && l.Confirmed && p.routed
		t.settled = sends && l.Peer == n.Generations[len(n.Generations)-1]
		if sends && t.due(l.Peer, now) {
			if l.Peer != t.generation {
				t.generation, t.times = l.Peer, 0
			}
			t.times++
			t.again = now.Add(a.ackPause(t.times))
			spoke = true
			a.sendAck(n, l.Peer)
		}
		told[n.Name] = t
	}
	a.rotation.acks.told = told
	if spoke {
		a.rotation.acks.first += ackStride
	}
	for node := range a.rotation.acks.heard {
		if _, known := a.book.entries[node]; !known {
			delete(a.rotation.acks.heard, node)
		}
	}
}

// inTurn are the peers that rotate, from the one that is told first now.
func (k *acks) inTurn(peers []view.Node) []view.Node {
	var rotating []view.Node
	for _, n := range peers {
		if len(n.Generations) > 1 {
			rotating = append(rotating, n)
		}
	}
	if len(rotating) == 0 {
		return nil
	}
	k.first %= len(rotating)
	return slices.Concat(rotating[k.first:], rotating[:k.first])
}

// due reports whether it is time to tell a peer that traffic takes its key g.
func (t toldAck) due(g record.Generation, now time.Time) bool {
	return t.generation != g || !now.Before(t.again)
}

// ackPause is the time after which a peer is told again, at random up to the interval: others tell it too. The loop comes by once
// in ackInterval.
func (a *Agent) ackPause(times int) time.Duration {
	interval := ackInterval
	if times >= ackOften {
		interval = ackSlowly
	}
	return interval - a.Jitter(interval/4)
}

// sendAck drops errors of sending: it is sent again, and a peer without an agent needs no word.
func (a *Agent) sendAck(to view.Node, g record.Generation) {
	sequence, err := a.Keys.NextSequence()
	if err == nil {
		var raw []byte
		raw, err = record.SignAck(record.Ack{From: a.Node, Sequence: sequence, Generation: g}, to.Name, to.Identity, a.Keys.Identity())
		if err == nil {
			err = a.Gossip.Send(to.Name, raw)
		}
	}
	if err != nil {
		a.Log.Debug("a peer isn't told which of its keys is in use here", "node", to.Name, "error", err)
	}
}

// carrying is the link that traffic to a node takes.
func carrying(p *pass, node string) *view.Link {
	for i, l := range p.desired.Links {
		if l.Node == node && l.Carries {
			return &p.desired.Links[i]
		}
	}
	return nil
}

// pending reports whether a peer has just begun to rotate, and traffic doesn't take its new key yet.
func (k *acks) pending(now time.Time) bool {
	for _, t := range k.told {
		if !t.settled && now.Sub(t.since) < stuckAfter {
			return true
		}
	}
	return false
}

// rotating reports whether peers rotate.
func (k *acks) rotating() bool { return len(k.told) > 0 }
