package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// defaultSilent is how long a peer must not be heard to need the old key no more: WireGuard drops a session's keys
	// then, and keepalives come seven times as often.
	defaultSilent = establishedFor
	// stuckAfter is how long a peer may need the old key before that is reported.
	stuckAfter = 10 * time.Second
	// refusedFor is how long a request that couldn't be noted shows.
	refusedFor = 2 * time.Minute
)

// rotation is what the loop knows of this node's change of keys beside what is on disk.
type rotation struct {
	acks      acks
	began     time.Time // when the one under way was begun; zero: by an earlier process
	ending    bool      // the old key is off the disk, and not known to be out of the tunnels
	waiting   time.Time // since when peers are waited for; zero: none are
	since     time.Time // when it came to its phase
	phase     keys.Phase
	stuck     bool // it was told that peers hold it up
	failed    bool // it was told that it failed
	completed uint64
}

// refusedRequest is a request that couldn't be noted.
type refusedRequest struct {
	at     time.Time
	reason string
}

// Rotate asks for a new WireGuard key of this node, and returns when the request is on disk. With force it ends the
// rotation under way instead, without waiting for peers that still use the old key. An error says why it is refused;
// nothing has changed then. Safe to call at any time.
func (a *Agent) Rotate(force bool) (view.RotateAnswer, error) {
	r := a.Keys.Rotation()
	newest := r.Generations[len(r.Generations)-1]
	rotating := len(r.Generations) > 1
	if force {
		if !rotating || !r.Announced {
			return view.RotateAnswer{}, fmt.Errorf("no rotation is under way that waits for peers, so there is nothing to force")
		}
		a.force.Store(forcing(newest))
		a.Latch.Set()
		return view.RotateAnswer{State: view.RotateForced, Generation: newest}, nil
	}
	already, err := a.Keys.RequestRotation()
	a.Latch.Set()
	if err != nil {
		a.refused.Store(&refusedRequest{at: time.Now(), reason: oneLine(err)})
		return view.RotateAnswer{}, fmt.Errorf("the key isn't changed, and stays as it is: %w", err)
	}
	a.refused.Store(nil)
	answer := view.RotateAnswer{State: view.RotateStarted, Generation: newest + 1}
	switch {
	case rotating && already:
		answer.State = view.RotateAlreadyQueued
	case rotating:
		answer.State = view.RotateQueued
	}
	if answer.State == view.RotateQueued {
		a.event(RotationQueued, fmt.Sprintf("The WireGuard key is being changed to generation %d; generation %d follows, as asked for",
			newest, newest+1))
	}
	return answer, nil
}

// forcing is what force holds while the rotation to a generation is to end.
func forcing(generation uint32) uint64 { return uint64(generation) + 1 }

// rotate takes this node's change of keys a step further, by what the pass achieved.
func (a *Agent) rotate(p *pass) {
	now := time.Now()
	if p.blind || p.settling { // whether peers use the old key can't be told
		if last := a.last.Load(); last != nil {
			p.rotation = last.rotation
		}
		return
	}
	var before keys.Rotation
	var progress keys.Progress
	after, err := a.Keys.Advance(func(r keys.Rotation) keys.Rotation {
		before = r
		var next keys.Rotation
		next, progress = keys.Step(r, keys.Observation{
			Now: now, Prepared: a.prepared(p), Peers: a.reports(p), Pruned: p.pruned,
			Force: a.force.Load() == forcing(r.Generations[len(r.Generations)-1]),
			Due:   r.Due(now, a.RotateEvery, a.share(r)),
		})
		return next
	})
	if len(after.Generations) == 1 || err != nil {
		a.force.Store(0)
	}
	if len(after.Generations) == 1 && (len(before.Generations) > 1 || a.rotation.ending && !p.pruned) {
		progress.Phase = keys.Draining
	}
	p.rotation = a.progress(p, after, progress, now)
	if err != nil {
		p.fail("key store", err)
		p.rotation.Phase, p.rotation.Reason = string(keys.Failed), oneLine(err)
	}
	a.narrateRotation(p, before, after, now)
	if err == nil && (!slices.Equal(before.Generations, after.Generations) || before.Announced != after.Announced) {
		a.Latch.Set() // for the pass that acts on it
	}
	a.acknowledge(p, now)
}

// share is this node's part of the schedule's jitter, from 0 to 1: another one for each key.
func (a *Agent) share(r keys.Rotation) float64 {
	id := a.Keys.Identity().Public()
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(id[:], r.Generations[len(r.Generations)-1]))
	return float64(binary.BigEndian.Uint32(sum[:])) / math.MaxUint32
}

// prepared reports whether the tunnels stand for all keys of this node, with all peers in them.
func (a *Agent) prepared(p *pass) bool {
	if !p.standing || len(p.view.Self.Generations) < 2 {
		return false
	}
	newest := p.view.Self.Generations[1].Number
	planned := map[string]bool{}
	for _, l := range p.desired.Links {
		planned[l.Node] = planned[l.Node] || l.Own == newest
	}
	for _, has := range planned {
		if !has {
			return false
		}
	}
	return true
}

// reports are what the links of the pass, and the peers themselves, say of where the peers' traffic goes.
func (a *Agent) reports(p *pass) []keys.Report {
	gs := p.view.Self.Generations
	if len(gs) < 2 {
		return nil
	}
	newest := gs[len(gs)-1]
	var all []keys.Report
	for _, l := range p.desired.Links { // sorted by node
		if len(all) == 0 || all[len(all)-1].Node != l.Node {
			all = append(all, keys.Report{Node: l.Node, Followed: a.rotation.acks.of(l.Node, a.book) == newest})
		}
		r := &all[len(all)-1]
		if l.Own != newest.Number {
			r.Heard = r.Heard || !l.Silent
			continue
		}
		r.Up = r.Up || l.Confirmed
		r.Linked = r.Linked || l.Confirmed && l.Carries && p.routed
	}
	return all
}

// progress is the rotation as the status has it.
func (a *Agent) progress(p *pass, r keys.Rotation, progress keys.Progress, now time.Time) view.RotationStatus {
	if progress.Phase != a.rotation.phase {
		a.rotation.phase, a.rotation.since = progress.Phase, now
	}
	s := view.RotationStatus{Phase: string(progress.Phase), RotatedAt: r.MadeAt, Queued: r.Requested}
	for _, node := range progress.Waiting {
		s.Waiting = append(s.Waiting, a.waitingPeer(p, node))
	}
	switch {
	case len(s.Waiting) == 0:
		a.rotation.waiting = time.Time{}
	case a.rotation.waiting.IsZero():
		a.rotation.waiting = now
	}
	switch {
	case len(s.Waiting) > 0 && now.Sub(a.rotation.waiting) > stuckAfter:
		s.Reason = "waiting for " + briefly(progress.Waiting)
		a.reportStuck(p, s)
	case progress.Phase == keys.Preparing && (p.failed || now.Sub(a.rotation.since) > stuckAfter):
		if problem := firstProblem(p.problems); problem != nil {
			s.Reason = problem.Subject + ": " + problem.Message
		}
	}
	if refused := a.refused.Load(); refused != nil && now.Sub(refused.at) < refusedFor && progress.Phase == keys.Idle {
		s.Phase, s.Reason = string(keys.Failed), refused.reason
		p.problems = append(p.problems, view.Problem{
			Subject: "rotation", Message: "a request for a new key was refused: " + refused.reason,
			Remedy: "free or repair the disk with the state directory (" + contract.StateDir + "), and ask again; the key in use stays meanwhile",
		})
	}
	return s
}

// waitingPeer says what keeps a peer at the old key.
func (a *Agent) waitingPeer(p *pass, node string) view.RotationPeer {
	w := view.RotationPeer{Node: node}
	newest := p.view.Self.Generations[len(p.view.Self.Generations)-1].Number
	for _, l := range p.desired.Links { // the newest link is the last one
		if l.Node != node || l.Own != newest {
			continue
		}
		w.Port, w.OwnPort = l.Endpoint.Port(), l.ListenPort
		w.Reason = fmt.Sprintf("no handshake with the new key: does UDP port %d reach %s, and port %d this node?",
			w.Port, l.Endpoint.Addr(), w.OwnPort)
		if l.Confirmed {
			w.Reason = fmt.Sprintf("it has a session with the new key, and hasn't said that it sends by it: does gossip over UDP port %d "+
				"get through?", contract.GossipPort)
		}
	}
	if !a.alive[node] {
		w.Reason = fmt.Sprintf("its agent isn't seen by gossip: does it run, and does port %d (TCP and UDP) get through? Then: %s",
			contract.GossipPort, w.Reason)
	}
	return w
}

func (a *Agent) reportStuck(p *pass, s view.RotationStatus) {
	for _, w := range s.Waiting {
		p.problems = append(p.problems, view.Problem{
			Subject: "rotation", Warning: true,
			Message: fmt.Sprintf("node %s still needs the old key of this node, which stays so long: %s", w.Node, w.Reason),
			Remedy: fmt.Sprintf("see to that; or end it with `weaveguard rotate --force`, and lose what %s sends until it follows",
				w.Node),
		})
	}
}

// narrateRotation tells the log and Kubernetes of what began, ended or stands still.
func (a *Agent) narrateRotation(p *pass, before, after keys.Rotation, now time.Time) {
	r := &a.rotation
	if r.ending && p.pruned {
		r.ending = false
		a.narrateEnd(before.Generations[len(before.Generations)-1], now)
	}
	newest := after.Generations[len(after.Generations)-1]
	switch was, is := len(before.Generations), len(after.Generations); {
	case was < is:
		r.began, r.stuck = now, false
		a.Log.Info("rotation: a new key is made", "generation", newest)
		a.event(RotationStarted, fmt.Sprintf("The WireGuard key changes from generation %d to %d", newest-1, newest))
	case was > is:
		r.ending = true // it goes from the tunnels with the next pass
	case before.Announced != after.Announced:
		a.Log.Info("rotation: the new key is announced", "generation", newest)
	}
	if stuck := p.rotation.Reason != "" && p.rotation.Phase != string(keys.Failed); stuck && !r.stuck {
		r.stuck = true
		a.event(RotationWaiting, fmt.Sprintf("The change of the WireGuard key to generation %d is held up, and the old key stays: %s",
			newest, p.rotation))
	}
	failed := p.rotation.Phase == string(keys.Failed)
	if failed && !r.failed {
		a.event(RotationFailed, "The WireGuard key can't be changed, and stays: "+p.rotation.Reason)
	}
	r.failed = failed
}

// narrateEnd tells that the old key is gone, from the disk and from the tunnels.
func (a *Agent) narrateEnd(generation uint32, now time.Time) {
	a.rotation.completed++
	took := ""
	if !a.rotation.began.IsZero() {
		took = fmt.Sprintf(", after %s", now.Sub(a.rotation.began).Round(100*time.Millisecond))
		a.Timings.Rotated(now.Sub(a.rotation.began))
	}
	a.Log.Info("rotation: done"+took+"; the old key is erased", "generation", generation)
	a.event(RotationFinished, fmt.Sprintf("The WireGuard key is of generation %d now%s; key %d is erased", generation, took, generation-1))
}

func (a *Agent) event(kind EventKind, message string) {
	if a.Cluster != nil {
		a.Cluster.Event(Event{Kind: kind, Message: message})
	}
}

// hurries reports whether a rotation, of this node or a peer, is likely to get further very soon.
func (a *Agent) hurries(p *pass, now time.Time) bool {
	if phase := keys.Phase(p.rotation.Phase); phase != keys.Idle && phase != keys.Failed && now.Sub(a.rotation.since) < stuckAfter {
		return true
	}
	return a.rotation.acks.pending(now)
}

// heldUp reports whether all rotations that are under way, this node's and its peers', have been for long.
func (a *Agent) heldUp(now time.Time) bool {
	const long = time.Minute
	if now.Sub(a.rotation.since) < long {
		return false
	}
	for _, t := range a.rotation.acks.told {
		if now.Sub(t.since) < long {
			return false
		}
	}
	return true
}

// briefly lists some names.
func briefly(names []string) string {
	const most = 3
	names = slices.SortedFunc(slices.Values(names), cmp.Compare[string])
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
