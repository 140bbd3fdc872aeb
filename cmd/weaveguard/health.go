package main

import (
	"cmp"
	"fmt"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// verdict is a status in one sentence.
type verdict struct {
	healthy  bool
	flawed   bool // healthy, and there are problems all the same
	headline string
	remedy   string // "": nothing to do, or the headline says it
}

// verdict adds the headline, whose first words are coloured: healthy, or not healthy.
func (p *page) verdict(v verdict) {
	c, lead := red, 2
	if v.healthy {
		c, lead = green, 1
	}
	if v.flawed {
		c = yellow
	}
	items := words(v.headline)
	for i := range items[:lead] {
		items[i] = p.paint(c, items[i])
	}
	p.flow("", indentStep, items)
}

// judge finds the most important thing about a node. A node is healthy when it can carry pod traffic and all its
// peers are up; problems beside that are told, but don't make it unhealthy.
func judge(s view.Status) verdict {
	down := downPeers(s.Peers)
	problems, _ := sortProblems(s.Problems)
	switch {
	case !s.Ready && len(problems) > 0:
		return verdict{headline: "not healthy: this node can't carry pod traffic: " + said(problems[0]), remedy: problems[0].Remedy}
	case !s.Ready:
		return verdict{
			headline: "not healthy: this node can't carry pod traffic yet",
			remedy:   "wait a few seconds; if it stays so, see the agent's log: " + view.LogCommand(s.Kubernetes),
		}
	case len(down) > 0 && len(problems) > 0:
		return verdict{
			headline: fmt.Sprintf("not healthy: %s down, and this node says: %s", ofPeers(len(down), len(s.Peers)), said(problems[0])),
			remedy:   problems[0].Remedy,
		}
	case len(down) > 0:
		return verdict{
			headline: fmt.Sprintf("not healthy: %s down: %s: %s", ofPeers(len(down), len(s.Peers)), down[0].Node, reason(down[0])),
			remedy:   reach(down[0]),
		}
	}
	v := verdict{healthy: true, headline: "healthy"}
	if len(problems) > 0 {
		v.flawed = true
		v.headline += ", with " + count(len(problems), "problem") + ": " + said(problems[0])
		v.remedy = problems[0].Remedy
		return v
	}
	if len(s.Peers) == 0 {
		v.headline += ": there is no other node yet"
		return v
	}
	v.headline += ": " + ofPeers(len(s.Peers), len(s.Peers)) + " up"
	return v
}

// reach is what to do about a peer that is down.
func reach(peer view.PeerStatus) string {
	if peer.Gossip && peer.Endpoint != "" && peer.Device != "" {
		return "let UDP ports 51820 to 51823 through between the nodes, in both directions; `weaveguard doctor` looks further"
	}
	return "`weaveguard doctor` looks further, here and on " + peer.Node
}

// sortProblems tells what is wrong from what only might become so.
func sortProblems(all []view.Problem) (problems, warnings []view.Problem) {
	for _, problem := range all {
		if problem.Warning {
			warnings = append(warnings, problem)
		} else {
			problems = append(problems, problem)
		}
	}
	return problems, warnings
}

func said(problem view.Problem) string { return problem.Subject + ": " + problem.Message }

// ofPeers begins a sentence about some of all peers: 1 of 2 peers is, 2 of 2 peers are.
func ofPeers(some, all int) string {
	verb := "are"
	if some == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d of %s %s", some, count(all, "peer"), verb)
}

func downPeers(peers []view.PeerStatus) []view.PeerStatus {
	var down []view.PeerStatus
	for _, peer := range peers {
		if !peer.Up {
			down = append(down, peer)
		}
	}
	return down
}

const noReason = "the agent gives no reason"

// reason is why a peer isn't up.
func reason(peer view.PeerStatus) string { return cmp.Or(peer.Reason, noReason) }
