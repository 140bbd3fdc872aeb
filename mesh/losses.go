package mesh

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// lossRefused counts messages that aren't a peer's word to this node that it has lost a session.
const lossRefused = "loss"

var errForeignKey = errors.New("it is about a WireGuard key that its sender hasn't")

// losses are what peers were told of sessions that this node hasn't, and what they told. A peer that believes in a session
// starts none for up to three minutes, and takes this node's handshakes for replays if this node's clock went back (section
// 5.1 of WireGuard's paper). The loop owns it.
type losses struct {
	told  map[linkID]int // at which attempt to get a session the peer was told last
	heard lastWords
}

// lastWords is the last word of each node, so that a replay is known.
type lastWords map[string]spoken

type spoken struct {
	identity keys.PublicIdentity // within which sequence numbers grow
	sequence uint64
}

// newer reports whether a word is a node's newest, and notes it if so.
func (s lastWords) newer(node string, identity keys.PublicIdentity, sequence uint64) bool {
	last, spoke := s[node]
	if spoke && last.identity == identity && sequence <= last.sequence {
		return false
	}
	s[node] = spoken{identity, sequence}
	return true
}

// prune forgets nodes that are gone.
func (s lastWords) prune(entries map[string]entry) {
	maps.DeleteFunc(s, func(node string, _ spoken) bool {
		_, known := entries[node]
		return !known
	})
}

// complain tells peers that gossip sees of links without a session: once at each attempt to get one.
func (a *Agent) complain(p *pass, now time.Time) {
	told := map[linkID]int{}
	for _, l := range p.desired.Links {
		id := linkID{device: l.Device, own: generationKey(p.view.Self, l.Own), key: l.Peer.Key}
		attempt := p.tracks[id].attempt(id, now)
		if attempt == 0 {
			continue
		}
		if told[id] = attempt; attempt <= a.losses.told[id] {
			continue
		}
		i := slices.IndexFunc(p.view.Peers, func(n view.Node) bool { return n.Name == l.Node })
		if i < 0 || !p.view.Peers[i].Alive {
			continue
		}
		if _, err := a.sendLoss(l.Node, record.Loss{Own: id.own, Peer: id.key}); err != nil {
			a.Log.Debug("a peer isn't told that there is no session with it", "node", l.Node, "error", err)
		}
	}
	a.losses.told = told
}

// generationKey is a node's key of a generation; zero: it hasn't that one.
func generationKey(n view.Self, number uint32) keys.PublicKey {
	for _, g := range n.Generations {
		if g.Number == number {
			return g.Key
		}
	}
	return keys.PublicKey{}
}

// sendLoss signs a word to a node, and sends it. It returns its sequence number.
func (a *Agent) sendLoss(to string, l record.Loss) (uint64, error) {
	identity, _ := a.identityOf(to)
	var err error
	if l.Sequence, err = a.Keys.NextSequence(); err != nil {
		return 0, err
	}
	l.From = a.Node
	raw, err := record.SignLoss(l, to, identity, a.Keys.Identity())
	if err != nil {
		return 0, err
	}
	return l.Sequence, a.Gossip.Send(to, raw)
}

// hearLoss takes a peer's word that it has lost a session, or answers its question whether this node has.
//
// A word may have been on its way for long, and speak of the time before a session. So the peer is asked whether it is still
// so, and its answer counts if there was no handshake since: then it has lost that session.
func (a *Agent) hearLoss(raw []byte, now time.Time) error {
	l, err := record.OpenLoss(raw, a.Node, a.Keys.Identity().Public(), a.identityOf)
	if err != nil {
		return a.refuse(lossRefused, err)
	}
	e := a.book.entries[l.From]
	if !slices.ContainsFunc(e.record.Generations, func(g record.Generation) bool { return g.Key == l.Own }) {
		return fmt.Errorf("node %q: %w", l.From, errForeignKey) // a key that it gave up, or somebody else's
	}
	if !a.losses.heard.newer(l.From, e.record.Identity, l.Sequence) {
		return errReplay
	}
	id, t, known := a.links.between(l.Peer, l.Own)
	switch {
	case !known:
		return nil
	case l.Asks:
		if t.attempt(id, now) > 0 {
			_, err = a.sendLoss(l.From, record.Loss{Own: id.own, Peer: id.key, Answers: l.Sequence})
		}
		return err
	case l.Answers != 0 && l.Answers == t.asked:
		t.disown(now)
		a.Log.Info("a peer has lost its session with this node: starting afresh", "node", l.From)
		a.Latch.Set()
	case t.doubtful(now):
		t.asked, err = a.sendLoss(l.From, record.Loss{Own: id.own, Peer: id.key, Asks: true})
		t.askedAt = now
	}
	a.links.tracks[id] = t
	return err
}
