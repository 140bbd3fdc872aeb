package mesh

import (
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// told is what the log was told, so that it is told once.
type told struct {
	problems map[string]bool // that were logged and still stand
	room     *rate.Limiter   // for more of them
	crowded  bool            // it was said that there are more than there is room for
	up       map[string]bool // peers that were logged as up
	late     map[string]bool // peers that were logged as waiting for their session
	repairs  *rate.Limiter   // for lines of repairs
	unsaid   int             // passes that repaired since such a line
}

func newTold() told {
	return told{
		problems: map[string]bool{}, room: rate.NewLimiter(problemRate, problemBurst), up: map[string]bool{},
		repairs: rate.NewLimiter(repairRate, repairBurst),
	}
}

// earlyFor is how long after the start the log is silent about problems that a healthy start has as well.
const earlyFor = 30 * time.Second

// What others send makes problems too, so the log takes problemBurst lines of problems at once and problemRate a second
// for long. What it doesn't take yet is in the status, and is logged when there is room if it still stands.
const (
	problemRate  = rate.Limit(1)
	problemBurst = 200
)

// narrate logs what changed since the pass before, once: problems that came and went, peers, readiness.
func (a *Agent) narrate(p *pass) {
	standing := map[string]bool{}
	waiting := 0
	for _, problem := range p.problems {
		text := problem.String()
		switch {
		case a.told.problems[text]:
			standing[text] = true
			continue
		case problem.Early && time.Since(a.started) < earlyFor:
			p.untold = true
			continue
		case !a.told.room.Allow():
			waiting++
			continue
		}
		standing[text] = true
		if problem.Warning {
			a.Log.Warn(problem.Message, "subject", problem.Subject, "remedy", problem.Remedy)
		} else {
			a.Log.Error(problem.Message, "subject", problem.Subject, "remedy", problem.Remedy)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(a.told.problems)) {
		if !standing[text] {
			a.Log.Info("no longer: " + text)
		}
	}
	a.told.problems = standing
	if waiting > 0 {
		p.untold = true
		if !a.told.crowded {
			a.Log.Warn("there are more problems than the log takes: see weaveguard status", "waiting", waiting)
		}
	}
	a.told.crowded = waiting > 0 || a.told.crowded && a.told.room.Tokens() < problemBurst/2
	a.narrateRepairs(p)
	a.narratePeers(p)
	before := a.last.Load()
	switch {
	case p.open && (before == nil || !before.open):
		r := p.desired.Ready
		a.Log.Info("ready: pods can be attached", "bridge", r.Bridge, "subnets", r.Subnets, "mtu", r.MTU)
	case before == nil:
	case before.open && !p.open:
		a.Log.Warn("not ready: no more pods are attached")
	case before.ready && !p.ready:
		a.Log.Warn("not ready: what carries pods' packets hasn't been as it should for " + unsoundFor.String())
	}
}

func (a *Agent) narratePeers(p *pass) {
	up, late, met := map[string]bool{}, map[string]bool{}, map[string]bool{}
	type end struct {
		device string
		key    keys.PublicKey
	}
	states := map[end]view.LinkState{}
	for _, s := range a.links.states {
		states[end{s.Device, s.PublicKey}] = s
	}
	for _, d := range p.desired.Devices {
		for _, peer := range d.Peers {
			state := states[end{d.Name, peer.PublicKey}]
			up[peer.Node] = up[peer.Node] || state.Established
			late[peer.Node] = state.Overdue
			met[peer.Node] = met[peer.Node] || state.Met
			switch {
			case up[peer.Node] && !a.told.up[peer.Node]:
				a.Log.Info("peer is up", "node", peer.Node, "endpoint", peer.Endpoint, "device", d.Name,
					"podCIDRs", peer.AllowedIPs)
			case late[peer.Node] && !a.told.late[peer.Node] && !a.told.up[peer.Node]:
				a.Log.Warn("peer isn't up: no handshake for "+overdueAfter.String(), "node", peer.Node,
					"endpoint", peer.Endpoint, "device", d.Name)
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(a.told.up)) {
		now, planned := up[node]
		switch {
		case !planned:
			a.Log.Info("peer is gone", "node", node, "reason", p.desired.PeerProblems[node])
		case a.told.up[node] && !now && !met[node]:
			a.Log.Warn("peer is down: its session was lost, and a handshake is under way", "node", node)
		case a.told.up[node] && !now:
			a.Log.Warn("peer is down: no handshake for "+establishedFor.String(), "node", node)
		}
	}
	a.told.up, a.told.late = up, late
}
