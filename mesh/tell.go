package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// announced is the record that others were told last.
type announced struct {
	record record.Record
	raw    []byte
	// again is how often it was told again since againSince, with nothing new in it.
	again      int
	againSince time.Time
}

const (
	// Two hosts with one key store hear each other's records as their own from later, and would answer each other
	// for ever. So in each period of repeatPeriod a record is told again that often at most.
	maxRepeats   = 3
	repeatPeriod = time.Minute
)

// mayRepeat reports whether a record with nothing new in it may be told again now, and counts it.
func (a *announced) mayRepeat(now time.Time) bool {
	if now.Sub(a.againSince) >= repeatPeriod {
		a.again, a.againSince = 0, now
	}
	a.again++
	return a.again <= maxRepeats
}

// tell says to gossip and to Kubernetes what the pass came to.
func (a *Agent) tell(p *pass) {
	a.Gossip.Share(a.book.raws())
	a.Gossip.Seek(a.seeds(p))
	if a.Cluster != nil {
		a.Cluster.Report(a.own(p))
	}
}

// announce signs and gossips what this node says about itself when that, or what others know of it, changed.
func (a *Agent) announce(r record.Record) error {
	r = a.document.in(r)
	r.Sequence = a.announced.record.Sequence
	if a.announced.raw != nil && r.Equal(a.announced.record) &&
		(a.book.ownSeen <= r.Sequence || !a.announced.mayRepeat(time.Now())) {
		return nil
	}
	sequence, err := a.Keys.NextSequence()
	if err != nil {
		return err
	}
	r.Sequence = sequence
	raw, err := record.Sign(a.Node, r, a.Keys.Identity())
	if err != nil {
		return err
	}
	if err := a.Gossip.Announce(raw); err != nil {
		return err
	}
	a.announced.record, a.announced.raw = r, raw
	return nil
}

// seeds are all addresses where a node's gossip may be found.
func (a *Agent) seeds(p *pass) []Seed {
	var seeds []Seed
	add := func(node string, address netip.Addr) {
		s := Seed{Node: node, Address: address}
		if node != a.Node && address.IsValid() && !slices.Contains(seeds, s) {
			seeds = append(seeds, s)
		}
	}
	for _, address := range a.Hosts.Addresses() {
		if !slices.Contains(p.view.Self.Addresses, address) {
			add("", address)
		}
	}
	for _, n := range p.view.Peers {
		for _, e := range n.Endpoints {
			add(n.Name, e.Addr())
		}
	}
	if p.cluster != nil {
		for _, n := range p.cluster.Nodes {
			for _, address := range n.Addresses {
				add(n.Name, address)
			}
		}
	}
	return seeds
}

func (a *Agent) own(p *pass) Own {
	own := Own{Identity: p.view.Self.Identity, Ready: p.carries, Rotation: p.rotation.String()}
	if gs := p.desired.Announce.Generations; len(gs) > 0 {
		newest := gs[len(gs)-1]
		own.PublicKey, own.Generation = newest.Key, newest.Number
	}
	if !p.view.Self.Unannounced {
		own.RotatedAt = p.rotation.RotatedAt
	}
	if !p.carries {
		own.Reason = "the agent is starting"
		if problem := firstProblem(p.problems); problem != nil {
			own.Reason = problem.String()
		}
	}
	return own
}

func firstProblem(problems []view.Problem) *view.Problem {
	for i := range problems {
		if !problems[i].Warning {
			return &problems[i]
		}
	}
	return nil
}
