package mesh

import (
	"bytes"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// modelGossip is what the gossip of one agent knows. It goes with the agent.
type modelGossip struct {
	known    [maxModelNodes][]modelRecord // of each node the latest few, in the order of their making
	seen     map[modelRecordID]bool
	alive    [maxModelNodes]bool
	messages [][]byte
}

// modelRecord is a signed record on its way through the mesh.
type modelRecord struct {
	id   modelRecordID
	raw  []byte
	from int
}

type modelRecordID struct{ node, version int }

// modelCandidates is how many records of a node gossip keeps, in case that the latest isn't the one to take.
const modelCandidates = 3

// talk reports whether two nodes' agents run, and can talk.
func (w *modelWorld) talk(a, b *modelNode) bool {
	return a != b && a.agent != nil && b.agent != nil && !w.cut[a.number][b.number]
}

// exchange is a full exchange of what two nodes know, when they meet.
func (w *modelWorld) exchange(a, b *modelNode) {
	if !w.talk(a, b) {
		return
	}
	w.after(w.soon(100*time.Millisecond, 3*time.Second), func() {
		a.pass(b)
		b.pass(a)
	})
}

// pass sends all that a node knows to another one.
func (n *modelNode) pass(to *modelNode) {
	for i := range n.gossip.known {
		for _, r := range n.gossip.known[i] {
			n.tell(r, to)
		}
	}
}

// tell sends one record to another node. It may be overtaken by later ones.
func (n *modelNode) tell(r modelRecord, to *modelNode) {
	w := n.w
	if !w.talk(n, to) || to.gossip.seen[r.id] {
		return
	}
	w.after(w.soon(150*time.Millisecond, 2*time.Second), func() {
		if to.agent != nil && !w.cut[n.number][to.number] {
			r.from = n.number
			to.learn(r)
		}
	})
}

// learn takes in a record, and passes on what is new.
func (n *modelNode) learn(r modelRecord) {
	g := &n.gossip
	if g.seen[r.id] {
		return
	}
	if g.seen == nil {
		g.seen = map[modelRecordID]bool{}
	}
	g.seen[r.id] = true
	all := append(slices.Clone(g.known[r.id.node]), r)
	slices.SortFunc(all, func(a, b modelRecord) int { return a.id.version - b.id.version })
	g.known[r.id.node] = all[max(0, len(all)-modelCandidates):]
	n.w.note("%s: hears the record %d of %s from %s", n.name, r.id.version, n.w.nodes[r.id.node].name, n.w.nodes[r.from].name)
	for _, other := range n.w.nodes {
		if other.number != r.from && other.number != r.id.node {
			n.tell(r, other)
		}
	}
	n.wake()
}

func (n *modelNode) Announce(raw []byte) error {
	n.point("announcing")
	n.checkAnnouncement(raw)
	n.spoken = append(n.spoken, raw)
	n.learn(modelRecord{modelRecordID{n.number, len(n.spoken)}, raw, n.number})
	return nil
}

func (n *modelNode) Heard() []Heard {
	n.point("looking at gossip")
	var all []Heard
	for i, records := range n.gossip.known {
		if i == n.number && len(records) > 0 && records[len(records)-1].id.version == len(n.spoken) {
			continue // others know nothing of it that this agent doesn't
		}
		for _, r := range records {
			all = append(all, Heard{Node: n.w.nodes[i].name, Raw: r.raw, From: n.w.nodes[r.from].address, Alive: n.gossip.alive[i]})
		}
	}
	return all
}

// Share passes on what the agent remembers and gossip hasn't heard.
func (n *modelNode) Share(records map[string][]byte) {
	for i, other := range n.w.nodes {
		raw := records[other.name]
		if raw == nil || len(n.gossip.known[i]) > 0 {
			continue
		}
		if version := slices.IndexFunc(other.spoken, func(r []byte) bool { return bytes.Equal(r, raw) }); version >= 0 {
			n.learn(modelRecord{modelRecordID{i, version + 1}, raw, n.number})
		}
	}
}

func (n *modelNode) Seek([]Seed)                {}
func (n *modelNode) Status() view.GossipStatus  { return view.GossipStatus{} }
func (n *modelNode) Refused() map[string]uint64 { return nil }

func (n *modelNode) Pulses() map[string]view.Pulse { return nil }
func (n *modelNode) Problems() []view.Problem      { return nil }

// Send sends an acknowledgement, which may get lost, come late, or come twice.
func (n *modelNode) Send(node string, message []byte) error {
	n.point("acknowledging to %s", node)
	w := n.w
	n.sent++
	to := w.nodes[node[0]-'a']
	copies := 1
	switch {
	case !w.talk(n, to) || w.chance(w.loss):
		return nil
	case w.chance(0.1):
		copies = 2
	}
	for range copies {
		w.after(w.soon(50*time.Millisecond, 4*time.Second), func() {
			if w.talk(n, to) {
				w.note("%s: gets an acknowledgement of %s", to.name, n.name)
				to.gossip.messages = append(to.gossip.messages, message)
				to.wake()
			}
		})
	}
	return nil
}

func (n *modelNode) Deliver(node string, message []byte) error { return n.Send(node, message) }

func (n *modelNode) Messages() [][]byte {
	messages := n.gossip.messages
	n.gossip.messages = nil
	return messages
}

// feel lets all nodes find out, some time later, who is there: by others too, if need be.
func (w *modelWorld) feel() {
	for _, n := range w.nodes {
		if n.agent == nil {
			continue
		}
		life := n.life
		w.after(w.soon(500*time.Millisecond, 10*time.Second), func() {
			if n.life != life {
				return
			}
			reached := w.reach(n)
			if reached != n.gossip.alive {
				n.gossip.alive = reached
				n.wake()
			}
		})
	}
}

// reach is whom a node can talk to, over others too.
func (w *modelWorld) reach(n *modelNode) [maxModelNodes]bool {
	var reached [maxModelNodes]bool
	reached[n.number] = true
	for next := []*modelNode{n}; len(next) > 0; next = next[1:] {
		for _, other := range w.nodes {
			if !reached[other.number] && w.talk(next[0], other) {
				reached[other.number] = true
				next = append(next, other)
			}
		}
	}
	return reached
}
