package mesh

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
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
	made     *rate.Limiter   // for lines of what was changed as planned
}

func newTold() told {
	return told{
		problems: map[string]bool{}, room: rate.NewLimiter(problemRate, problemBurst), up: map[string]bool{},
		repairs: rate.NewLimiter(repairRate, repairBurst), made: rate.NewLimiter(repairRate, repairBurst),
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
	a.narrateMade(p)
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
	var news peerNews
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
				news.add(slog.LevelInfo, "peer is up", peer.Node, "endpoint", peer.Endpoint, "device", d.Name,
					"podCIDRs", peer.AllowedIPs)
			case late[peer.Node] && !a.told.late[peer.Node] && !a.told.up[peer.Node]:
				news.add(slog.LevelWarn, "peer isn't up: no handshake for "+overdueAfter.String(), peer.Node,
					"endpoint", peer.Endpoint, "device", d.Name)
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(a.told.up)) {
		now, planned := up[node]
		switch {
		case !planned:
			news.add(slog.LevelInfo, "peer is gone", node, "reason", p.desired.PeerProblems[node])
		case a.told.up[node] && !now && !met[node]:
			news.add(slog.LevelWarn, "peer is down: its session was lost, and a handshake is under way", node)
		case a.told.up[node] && !now:
			news.add(slog.LevelWarn, "peer is down: no handshake for "+establishedFor.String(), node)
		}
	}
	news.tell(a.Log)
	a.told.up, a.told.late = up, late
}

// peerNews is what became of peers in one pass, in the order in which it is told.
type peerNews []peerEvent

// peerEvent is what became of several peers.
type peerEvent struct {
	level   slog.Level
	message string
	nodes   []string
	details [][]any // of each of the first nodes
}

func (n *peerNews) add(level slog.Level, message, node string, details ...any) {
	i := slices.IndexFunc(*n, func(e peerEvent) bool { return e.message == message })
	if i < 0 {
		i = len(*n)
		*n = append(*n, peerEvent{level: level, message: message})
	}
	e := &(*n)[i]
	if e.nodes = append(e.nodes, node); len(e.nodes) <= maxTold {
		e.details = append(e.details, append([]any{"node", node}, details...))
	}
}

// tell logs a line for each peer, or one for many: else a flap of the network costs a line for each node of a large mesh.
func (n peerNews) tell(log *slog.Logger) {
	for _, e := range n {
		if len(e.nodes) > maxTold {
			slices.Sort(e.nodes)
			log.Log(context.Background(), e.level, strings.Replace(e.message, "peer is", "peers are", 1), "nodes", few(e.nodes, ", "), "number", len(e.nodes))
			continue
		}
		for _, details := range e.details {
			log.Log(context.Background(), e.level, e.message, details...)
		}
	}
}
