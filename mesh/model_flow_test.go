package mesh

import (
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// modelFlow is what pods of one node send to those of another one, as a question that is asked again and again: would
// a packet arrive?
//
// Once one has arrived, all must, whatever the agents do or suffer. What excuses a loss is the network, when it was
// closed for what the flow took, for so long, in the last minute or so, that WireGuard may have missed to renew its
// session; a reboot of an end; and a rotation that is cut short by force. The next packet that arrives ends the excuse.
type modelFlow struct {
	owed   bool
	pardon time.Duration // until when a loss is excused, whatever the reason
	closed bool          // the network is closed for what it takes
	since  time.Duration
	gaps   []modelGap
}

// modelGap is a time when the network was closed for a flow.
type modelGap struct{ from, to time.Duration }

const (
	// WireGuard renews a session at 120 to 145 s (a keepalive is sent each 25 s) and tries again each 5 s, so it has 35 s
	// until the session ends at 180 s.
	modelRenewal = 65 * time.Second
	modelSlack   = 28 * time.Second
	// modelNotice is how long a busy host's agent may not notice what goes on.
	modelNotice = 30 * time.Second
	// modelDrain is how long what is sent may be under way.
	modelDrain = 100 * time.Millisecond
	// modelPardon is longer than a mesh needs to follow a rotation that was cut short.
	modelPardon = time.Minute
)

// excused reports whether the network was closed for too long lately.
func (f *modelFlow) excused(now time.Duration) bool {
	var missed time.Duration
	for _, gap := range f.gaps {
		if gap.to > now-modelRenewal {
			missed += gap.to - gap.from + modelRekeyTimeout + modelRekeyJitter
		}
	}
	return missed > modelSlack
}

// close notes whether the network is closed for a flow.
func (f *modelFlow) close(closed bool, now time.Duration) {
	if closed == f.closed {
		return
	}
	if f.closed {
		f.gaps = append(f.gaps, modelGap{f.since, now})
		f.gaps = slices.DeleteFunc(f.gaps, func(g modelGap) bool { return g.to < now-modelRenewal })
	}
	f.closed, f.since = closed, now
}

// carrier is the peer that a packet from one node to another goes to, and "", or why there is none.
func (w *modelWorld) carrier(from, to *modelNode, device int) (*modelPeer, string) {
	if device == noModelRoute {
		return nil, "there is no route"
	}
	d := from.devices[device]
	if d == nil {
		return nil, "the device of its route is gone"
	}
	p := d.owners[to.number]
	if p == nil {
		return nil, "no peer has the allowed IPs"
	}
	return p, ""
}

// arrives reports "" if a packet that is sent to a peer is taken at the far end, and else why not. The network is
// taken for open.
func (w *modelWorld) arrives(from *modelNode, p *modelPeer) string {
	s := p.current
	if !s.live(w.now) {
		return "it has no session"
	}
	q := s.other(p)
	switch {
	case !q.holds(s, w.now):
		return "the far end has given up the session"
	case p.endpoint.Port() != uint16(q.device.port):
		return "it is sent to another port"
	case q.device.owners[from.number] != q:
		return "the far end doesn't take the sender's addresses from this peer"
	}
	return ""
}

// checkWay checks that traffic doesn't stay for ever where nothing gets through, when it could take another link.
func (w *modelWorld) checkWay(from, to *modelNode) {
	since := max(w.flows[from.number][to.number].since, from.started)
	if from.agent == nil || w.now-since < modelRejectAfter+modelPardon {
		return
	}
	for _, d := range from.devices {
		if d == nil || d.owners[to.number] == nil {
			continue
		}
		p := d.owners[to.number]
		if p.current == nil {
			continue
		}
		age := w.now - p.current.at // old enough to be known of, and young enough to be relied on
		if age > modelNotice && age < modelRekeyAfter && p.counterpart() != nil && w.arrives(from, p) == "" {
			w.fail(1, "%s sends to %s where nothing has got through for %s, and %s would do", from.name, to.name, w.now-since,
				contract.DeviceName(d.number))
		}
	}
}

// counts reports whether the node of a peer is bound to keep its session: its store still has the key for it.
func (p *modelPeer) counts() bool {
	owner := p.world().owners[p.device.public]
	return owner.node == p.device.n && slices.Contains(owner.node.disk.rotation.Generations, owner.generation)
}

// check looks at what must always hold.
func (w *modelWorld) check() {
	if !w.changed && w.checked == w.now || w.failure != "" {
		return
	}
	if !w.changed && w.now-w.checked < time.Second {
		return
	}
	w.changed, w.checked = false, w.now
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			if from != to && from.joined && to.joined {
				w.checkFlow(from, to)
			}
		}
	}
}

// checkFlow checks invariant 2.
func (w *modelWorld) checkFlow(from, to *modelNode) {
	f := &w.flows[from.number][to.number]
	if !f.owed && from.routes[to.number] == noModelRoute {
		return
	}
	w.seen.probes++
	p, why := w.carrier(from, to, from.routes[to.number])
	closed := w.cut[from.number][to.number]
	if p != nil {
		closed = !w.open(from, p.device.port, to, int(p.endpoint.Port()))
	}
	f.close(closed, w.now)
	if closed {
		w.checkWay(from, to)
		return
	}
	if p != nil {
		why = w.arrives(from, p)
	}
	switch {
	case why == "":
		f.owed = f.owed || w.now >= f.pardon && p.counts() && p.current.other(p).counts()
		w.seen.owed++
	case !f.owed:
	case f.excused(w.now):
		f.owed = false
		w.seen.excused++
		w.note("%s to %s: packets are lost, and may be: %s", from.name, to.name, why)
	default:
		w.fail(2, "a packet from %s to %s is lost: %s", from.name, to.name, why)
	}
}

// excuse lets packets of and to a node be lost for some time.
func (w *modelWorld) excuse(n *modelNode) {
	for _, other := range w.nodes {
		w.excuseFlow(n, other)
	}
}

// excuseFlow lets packets between two nodes be lost for some time.
func (w *modelWorld) excuseFlow(a, b *modelNode) {
	w.note("packets between %s and %s may be lost", a.name, b.name)
	for _, f := range []*modelFlow{&w.flows[a.number][b.number], &w.flows[b.number][a.number]} {
		f.owed, f.pardon = false, w.now+modelPardon
	}
}

// checkRemoval looks at a peer that is about to be removed. Two such are lost for good reason: one that came to life
// since the agent looked, which nobody can rule out, and one that an agent without a view cache has waited for in vain.
func (n *modelNode) checkRemoval(p *modelPeer) {
	owner, known := n.w.owners[p.key]
	if !known {
		return
	}
	_, spoken := n.agent.book.entries[owner.node.name]
	if p.done >= n.looked || !spoken && n.w.now-n.started > defaultSettle {
		n.w.excuseFlow(n, owner.node)
	}
}
