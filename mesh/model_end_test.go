package mesh

import (
	"context"
	"fmt"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// modelBound is how long a mesh may take to come to rest when nothing bad happens any more.
const modelBound = 2 * time.Minute

// settle checks invariants 5 and 6: what is the case in the end.
func (w *modelWorld) settle() {
	w.heal()
	why := ""
	passes := -1
	w.run(w.now+modelBound, func() bool {
		if w.seen.passes == passes && w.checked != w.now {
			return false // nothing has happened since
		}
		passes = w.seen.passes
		why = w.unsettled()
		return why == ""
	})
	w.seen.settled = w.now - w.healed
	if w.failure != "" {
		return
	}
	if why != "" {
		w.fail(5, "%s after all was well, %s", modelBound, why)
		return
	}
	w.note("all is settled")
	w.checkRest()
}

// unsettled says what isn't yet as it should be in the end; "" if nothing.
func (w *modelWorld) unsettled() string {
	members := 0
	for _, n := range w.nodes {
		if n.joined {
			members++
		}
	}
	for _, n := range w.nodes {
		if !n.joined {
			continue
		}
		if why := n.unsettled(members); why != "" {
			return n.name + " " + why
		}
	}
	return ""
}

func (n *modelNode) unsettled(members int) string {
	w, r := n.w, n.disk.rotation
	switch {
	case n.next != nil:
		return "is in the middle of a pass"
	case len(r.Generations) != 1 || r.Requested || !r.Announced:
		return fmt.Sprintf("is in the middle of a rotation: %+v", r)
	case r.Generations[0] != n.disk.wanted:
		return fmt.Sprintf("has generation %d, and was asked for %d", r.Generations[0], n.disk.wanted)
	}
	peers := 0
	for _, d := range n.devices {
		if d != nil {
			peers += len(d.peers)
		}
		if d != nil && len(d.peers) == 0 && members > 1 {
			return fmt.Sprintf("has %s without peers", contract.DeviceName(d.number))
		}
	}
	if peers != members-1 {
		return fmt.Sprintf("has %d peers, want %d", peers, members-1)
	}
	for _, to := range w.nodes {
		if to == n || !to.joined {
			continue
		}
		p, why := w.carrier(n, to, n.routes[to.number])
		if p != nil {
			why = w.arrives(n, p)
		}
		switch {
		case why != "":
			return fmt.Sprintf("doesn't reach %s: %s", to.name, why)
		case w.owners[p.key] != modelOwner{to, to.disk.wanted}:
			return fmt.Sprintf("sends to %s by its key %s", to.name, w.keyName(p.key))
		case p.keepalive != 25*time.Second:
			return fmt.Sprintf("has the keepalive %s for %s", p.keepalive, to.name)
		}
	}
	return ""
}

// checkRest checks invariant 6: two more passes of each node change nothing, and say nothing.
func (w *modelWorld) checkRest() {
	for range 2 {
		for _, n := range w.nodes {
			if !n.joined || w.failure != "" {
				continue
			}
			spoken, sent, pruned, before := len(n.spoken), n.sent, n.pruned, n.disk.Rotation()
			w.clock()
			p := n.agent.run(context.Background())
			switch {
			case p.writes != 0 || n.pruned != pruned || p.failed:
				w.fail(6, "%s changes %d things (failed %t) when all is settled", n.name, p.writes+n.pruned-pruned, p.failed)
			case len(n.spoken) != spoken || n.sent != sent:
				w.fail(6, "%s has something to say when all is settled", n.name)
			case fmt.Sprint(before) != fmt.Sprint(n.disk.Rotation()):
				w.fail(6, "%s changes its key store when all is settled: %+v", n.name, n.disk.Rotation())
			}
		}
	}
}
