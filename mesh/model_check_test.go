package mesh

import (
	"slices"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// What the model checks. The first word of a failure is the number here.
//
//  1. A route moves from a link with a session to one that has a session too, at both ends, and whose far end takes the
//     sender's addresses there. A key is announced only when its links stand. Traffic doesn't stay where nothing gets
//     through, when another link would do.
//  2. No packet is lost: see modelFlow. A key is dropped only when what was sent by it has arrived.
//  3. No device needs two keys: one that gets another key carries no traffic.
//  4. Generations of a node go up by one, are made on request, and are two at most. What is announced is on disk.
//  5. All histories end well: a while after the last trouble every node has one key, all rotations that were asked for
//     are done, and each pair of nodes has one link, of the newest keys, and sends by it.
//  6. Then another pass, and one more, change nothing and say nothing.

// checkMove checks invariant 1 where a node is about to route to another one by another device.
func (n *modelNode) checkMove(to *modelNode, device int) {
	w := n.w
	before, _ := w.carrier(n, to, n.routes[to.number])
	if before == nil {
		return
	}
	w.seen.moves++
	lost := w.arrives(n, before) != "" || !w.open(n, before.device.port, to, int(before.endpoint.Port()))
	if lost || !w.owes(n, to) {
		return // there is nothing to lose
	}
	before.current.other(before).carried = w.now
	p, why := w.carrier(n, to, device)
	if p != nil {
		why = w.arrives(n, p)
	}
	if why != "" {
		w.fail(1, "%s moves its route to %s from %s, which has a session, to %s: %s", n.name, to.name,
			contract.DeviceName(n.routes[to.number]), contract.DeviceName(device), why)
	}
}

// checkKey checks invariant 3 where a device is about to get another key.
func (n *modelNode) checkKey(d *modelDevice, key keys.PublicKey) {
	if d.public.IsZero() || d.public == key {
		return
	}
	w := n.w
	for _, p := range d.peers {
		if !p.current.live(w.now) {
			continue
		}
		q := p.current.other(p)
		far := q.device.n
		if !w.owes(n, far) || !w.owes(far, n) || !q.holds(p.current, w.now) {
			continue
		}
		if n.routes[far.number] == d.number || !q.gone && far.routes[n.number] == q.device.number {
			w.fail(3, "%s changes the key of %s to %s, and traffic with %s takes it", n.name, contract.DeviceName(d.number),
				w.keyName(key), far.name)
		}
	}
}

// owes reports whether packets from one node to another must arrive.
func (w *modelWorld) owes(from, to *modelNode) bool {
	f := &w.flows[from.number][to.number]
	return f.owed && !f.excused(w.now)
}

// checkDrain checks that what was sent by an old key has had time to arrive when that key is dropped.
func (n *modelNode) checkDrain(generation uint32) {
	w := n.w
	for _, d := range n.devices {
		for _, p := range d.all() {
			far, known := w.owners[p.key]
			if !known || w.owners[d.public] != (modelOwner{n, generation}) || w.now-p.carried >= modelDrain {
				continue
			}
			if w.owes(n, far.node) && w.owes(far.node, n) {
				w.fail(2, "%s drops its key %d %s after traffic with %s moved away from it", n.name, generation,
					w.now-p.carried, far.node.name)
			}
		}
	}
}

// checkPlan checks invariant 3 on paper: all links of a device are of one key.
func (n *modelNode) checkPlan(p *pass) {
	for _, l := range p.desired.Links {
		for _, d := range p.desired.Devices {
			if d.Name == l.Device && d.Generation != l.Own {
				n.w.fail(3, "%s plans %s with the key %d, and a link to %s there with the key %d", n.name, d.Name, d.Generation,
					l.Node, l.Own)
			}
		}
	}
}

// checkPrepared checks that a key stands in the tunnels, towards all peers that the agent knew of, before others
// hear of it: they may use it at once, in both directions.
func (n *modelNode) checkPrepared(r record.Record) {
	last := n.agent.last.Load()
	if len(r.Generations) < 2 || last == nil || len(last.view.Self.Generations) < 2 || !last.view.Self.Unannounced {
		return
	}
	newest := r.Generations[1]
	for _, peer := range last.view.Peers {
		if _, planned := last.desired.PeerProblems[peer.Name]; planned {
			continue
		}
		far := n.w.nodes[peer.Name[0]-'a']
		found := false
		for _, d := range n.devices {
			if d == nil || d.public != newest.Key {
				continue
			}
			p := d.owners[far.number]
			found = found || p != nil && slices.ContainsFunc(n.agent.book.entries[peer.Name].record.Generations,
				func(g record.Generation) bool { return g.Key == p.key })
		}
		if !found {
			n.w.fail(1, "%s announces its key %d before a link of it to %s stands", n.name, newest.Number, peer.Name)
		}
	}
}

// checkAnnouncement checks invariant 4 at what a node says, and that what it says stands.
func (n *modelNode) checkAnnouncement(raw []byte) {
	r, err := record.Open(n.name, raw)
	if err != nil {
		n.w.fail(4, "%s announces what can't be read: %v", n.name, err)
		return
	}
	for i, g := range r.Generations {
		index := int(g.Number) - int(n.disk.first)
		switch {
		case i > 0 && g.Number != r.Generations[i-1].Number+1:
			n.w.fail(4, "%s announces the generations %v", n.name, r.Generations)
		case index < 0 || index >= len(n.disk.made) || n.disk.made[index] != g.Key:
			n.w.fail(4, "%s announces generation %d with a key that isn't its", n.name, g.Number)
		case !slices.Contains(n.disk.rotation.Generations, g.Number):
			n.w.fail(4, "%s announces generation %d, which is erased", n.name, g.Number)
		case i > 0 && !n.disk.rotation.Announced:
			n.w.fail(4, "%s announces generation %d, and the key store doesn't know of that", n.name, g.Number)
		}
	}
	n.checkPrepared(r)
}
