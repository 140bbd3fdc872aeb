package mesh

import (
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// unsoundFor is for how long what carries the pods' packets may fail to be as it should before the node says so: one failure is
// tried again within seconds.
const unsoundFor = 30 * time.Second

// judgeReadiness says whether this node carries pod traffic: pods can be attached, and all that carries their packets was as it
// should within the last half minute. An agent that has just started hasn't seen that yet, so it isn't ready, and a rollout waits for
// it; but Kubernetes keeps what the agent before has said of the node for as long, for the network of its pods stands.
func (a *Agent) judgeReadiness(p *pass, now time.Time) {
	if p.sound {
		a.soundAt = now
	}
	sound := !a.soundAt.IsZero() && now.Sub(a.soundAt) <= unsoundFor
	starting := a.soundAt.IsZero() && now.Sub(a.started) <= unsoundFor
	p.ready, p.carries = p.open && sound, p.open && (sound || starting)
}

// Ready reports whether this node carries pod traffic, and what is wrong with it. It asks nobody: it is what the last pass of the loop
// found.
func (a *Agent) Ready() (bool, []view.Problem) {
	p := a.last.Load()
	if p == nil {
		return false, []view.Problem{starting()}
	}
	return p.ready, p.problems
}

// starting is what is wrong with an agent whose loop hasn't run.
func starting() view.Problem {
	return view.Problem{Subject: "agent", Message: "it is starting", Remedy: "wait a few seconds"}
}
